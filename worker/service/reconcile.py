"""Reconcile a project: compare what is stored here with Label Studio and disk, and catch up with every change.

Its labels may have changed, or the served version; tasks may be new or deleted; a prediction may have arrived twice.
Webhooks may have said so, and may have been lost.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from plugin_config.errors import LabelStudioError, ZeromaskError
from plugin_config.queue.jobs import RefreshProject, TaskRef
from plugin_config.queue.pending import Priority
from worker.service.context import WorkerContext
from worker.service.failures import Action, Sign, Stage, is_about_one_task, note_sign, treatment_of
from worker.service.model_card import tell_on_card
from worker.service.ordering import keep_order
from worker.service.plan import Plan, read_plan, report_remarks
from worker.service.posting import delete_older_predictions
from worker.service.prelabel import catch_up_with_tasks, is_wanted
from worker.service.rollout import catch_up_with_version, lacks_version
from worker.service.walking import PAUSE_S, Progress
from worker.service.webhook_secret import install_webhook_secret

log = logging.getLogger(__name__)

_TASKS_AT_ONCE = 200
_MOST_HINTED = 5000


def reconcile(context: WorkerContext, job: RefreshProject) -> None:
    """Reconcile a project. What Label Studio cannot answer now waits for the next time. One that was disconnected since
    the look was asked for stays so.
    """
    project = job.project
    context.hints.begin_refresh(project)
    if not context.pending.is_asked_for(project):
        return
    try:
        plan = read_plan(context, project, from_disk=True)
        note_sign(context, Sign.PLAN)  # where other workers do all the tasks, nothing else would show it
        install_webhook_secret(context, project)
        if not plan.is_left:  # which labels were learned, the others know
            report_remarks(context, plan)
        reading = catch_up_with_version(context, plan)
        try:
            _catch_up_with_hints(context, plan)
            # While a version is rolled out, nearly all tasks lack a prediction of it: those have an order of their own.
            if context.settings.prelabel and reading is Progress.DONE:
                reading = catch_up_with_tasks(context, plan)
            _delete_left(context, plan)
            settle_doubts(context, project)
            keep_order(context, plan)
            if not plan.is_left:
                tell_on_card(context, plan)  # last: Label Studio asks all models before it answers, and may give up
        finally:  # after all of it: jobs that predict are to run in the pause
            if reading is Progress.LATER:
                context.hints.refresh_later(project, after_s=PAUSE_S)
    except ZeromaskError as error:
        treatment = treatment_of(Stage.RECONCILE, error)
        if treatment is None:
            raise
        if treatment.action is Action.FORGET_PROJECT:
            context.pending.forget_project(project)
        log.warning("project %d: %s", project, error)


def settle_doubts(context: WorkerContext, project: int) -> int:
    """Delete the surplus where a prediction has arrived more than once: the one that annotations came from stays, else
    the first. Returns how many were deleted.

    Raises:
        LabelStudioError: Label Studio cannot answer, or refuses all.
    """
    doubts = context.ledger.unconfirmed(project)
    deleted, waiting = 0, set(context.pending.open_refs(project)) if doubts else set()
    there = _existing(context, project, {ref.task for ref in doubts})
    for ref, last_look in doubts.items():
        if ref.task not in there:  # Label Studio refuses to list the predictions of a task that is gone
            context.ledger.clear_unconfirmed(project, ref)
            continue
        if ref in waiting:
            continue
        with _passed_over(ref.task):
            deleted += _delete_surplus(context, ref)
            if last_look:
                context.ledger.clear_unconfirmed(project, ref)
    return deleted


def _delete_surplus(context: WorkerContext, ref: TaskRef) -> int:
    """Leave one prediction of a version, and those that annotations came from; returns how many were deleted."""
    rows = [row for row in context.label_studio.predictions(ref.task) if row.version == ref.version]
    if len(rows) < 2:
        return 0
    used = context.label_studio.parent_predictions(ref.task)
    first, *others = sorted(rows, key=lambda row: (row.id not in used, row.id))
    spare = [row for row in others if row.id not in used]
    for row in spare:
        context.label_studio.delete_prediction(row.id)
    log.info("task %d: its prediction had arrived %d times, %d is left", ref.task, len(rows), first.id)
    return len(spare)


@contextmanager
def _passed_over(task: int) -> Iterator[None]:
    """What Label Studio refuses of one task keeps no other waiting: it is tried again at the next look."""
    try:
        yield
    except LabelStudioError as error:
        if not is_about_one_task(error):
            raise
        log.warning("task %d: passed over in this look. %s", task, error)


def _existing(context: WorkerContext, project: int, tasks: Collection[int]) -> set[int]:
    """Those of some tasks that (still) exist."""
    ids, found = sorted(tasks), set[int]()
    for start in range(0, len(ids), _TASKS_AT_ONCE):
        part = ids[start : start + _TASKS_AT_ONCE]
        found.update(task.id for task in context.label_studio.tasks(project, part, data=False))
    return found


def _delete_left(context: WorkerContext, plan: Plan) -> None:
    """Delete older predictions that Label Studio did not delete when a newer one was stored."""
    project, left = plan.project.id, context.ledger.leftovers(plan.project.id)
    for start in range(0, len(left), _TASKS_AT_ONCE):
        part = left[start : start + _TASKS_AT_ONCE]
        found = {task.id: task for task in context.label_studio.tasks(project, part)}
        for number in part:
            with _passed_over(number):
                if number in found and not lacks_version(context, plan, found[number]):
                    delete_older_predictions(context, plan, found[number])
                context.ledger.clear_leftover(project, number)


def _catch_up_with_hints(context: WorkerContext, plan: Plan) -> None:
    """Forget tasks that a webhook said are deleted; with ZEROMASK_PRELABEL, ask for those it said are new."""
    project = plan.project.id
    hinted = context.hints.hinted_tasks(project, most=_MOST_HINTED)
    for start in range(0, len(hinted), _TASKS_AT_ONCE):
        part = hinted[start : start + _TASKS_AT_ONCE]
        found = context.label_studio.tasks(project, part)
        gone = set(part) - {task.id for task in found}
        forgotten = context.pending.forget_tasks(project, gone)
        context.order.forget(project, gone)
        if gone:
            log.info("project %d: %d tasks are gone, %d of them were known here", project, len(gone), forgotten)
        if context.settings.prelabel:
            # While this equals the number in Label Studio, no webhook was lost and not all tasks need be read.
            context.ledger.set_task_count(project, context.ledger.task_count(project) + len(found) - len(gone))
            wanted = [TaskRef(plan.version, task.id) for task in found if is_wanted(context, plan, task)]
            context.pending.add(project, wanted, priority=Priority.LATER, follows=True)
        context.hints.clear_hinted_tasks(project, part)
    if hinted:
        context.pending.ensure_drains(project)
    if len(hinted) == _MOST_HINTED:
        context.hints.request_refresh(project)
