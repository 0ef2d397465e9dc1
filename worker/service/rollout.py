"""Rolls a version out: all tasks of the project are read, and those whose prediction is of an older one are asked for.

They are read in parts: see `worker.service.walking`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from plugin_config.control_arm import in_control_arm
from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.version_counts import version_counts
from plugin_config.model_version import ModelVersion
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Priority
from plugin_config.queue.walks import Held, TaskWalks, Walk
from worker.service.context import WorkerContext
from worker.service.failures import is_about_one_task
from worker.service.plan import Plan
from worker.service.posting import delete_older_predictions, show_version
from worker.service.walking import PAUSE_S, Progress, progress_of, read_part

log = logging.getLogger(__name__)


def catch_up_with_version(context: WorkerContext, plan: Plan) -> Progress:
    """Move pending tasks to the present version. Ask again for tasks that failed at another version, and for
    unannotated tasks whose prediction is of an older version, the least confident first.

    Raises:
        LabelStudioError: Label Studio cannot answer, or refuses; what is read until then stays read.
        QueueUnavailable: Redis does not answer.
    """
    project, ledger, walks = plan.project.id, context.ledger, TaskWalks(context.redis, "version")
    is_target = ledger.target_version(project) == plan.version
    if is_target and not ledger.is_rolling_out(project, plan.version):
        return Progress.DONE
    if not ledger.target_version(project) or not ledger.versions(project):
        _recall_versions(context, project)
    walk = walks.begin(project, plan.version, anew=not is_target)
    if isinstance(walk, Held):
        return progress_of(walk)
    pause_s = 0.0
    try:
        # Before any task is read: a drain that began before this then asks again for each task that it stores. If
        # anything ends this function before `finish_rollout` (Label Studio, RQ's time limit of a job, a death), the
        # next reconcile goes on with the same walk.
        if not is_target:
            ledger.start_rollout(project, plan.version)
        stale = walks.found(project, walk) if _walk_on(context, plan, walks, walk) else None
        if stale is None:
            pause_s = PAUSE_S
            return Progress.LATER
        _ask_again(context, plan, stale)
        ledger.finish_rollout(project, plan.version)
        walks.end(project, walk)
        return Progress.DONE
    finally:
        walks.leave(project, walk, pause_s=pause_s)


def _ask_again(context: WorkerContext, plan: Plan, stale: Collection[int]) -> None:
    """Ask for these tasks and for those that failed, at the present version; those that wait move to it."""
    project, pending = plan.project.id, context.pending
    moved = pending.move_to_version(project, plan.version)
    failed = [ref for ref in pending.failures(project) if ref.version != plan.version]
    again = dict.fromkeys([*stale, *(ref.task for ref in failed)])
    refs = [TaskRef(plan.version, task) for task in again]
    pending.add(project, refs, priority=Priority.LATER, follows=True)
    pending.forget_failures(project, failed)
    pending.forget_done(project, but=plan.version)
    pending.ensure_drains(project)
    if not again and plan.version in context.ledger.versions(project):
        show_version(context, plan)  # no prediction follows that would do it
    log.info("project %d: now version %s, %d tasks to predict again, %d moved", project, plan.version,
             len(again), moved)  # fmt: skip


def _walk_on(context: WorkerContext, plan: Plan, walks: TaskWalks, walk: Walk) -> bool:
    """Read a part of the tasks. Returns whether all are read."""
    project = plan.project.id
    older = context.ledger.versions(project) - {plan.version}
    if not older:
        return True
    scores: dict[int, float] = {}

    def visit(task: Task) -> None:
        if _is_stale(context, plan, task, older):
            scores[task.id] = _confidence(task)

    def note(last: int) -> bool:
        goes_on = walks.save(project, walk, after=last, scores=scores)
        scores.clear()
        return goes_on

    return read_part(context, project, walk, visit=visit, note=note)


def lacks_version(context: WorkerContext, plan: Plan, task: Task) -> bool:
    """Whether a task is to have a prediction of the version, and has none."""
    return plan.version not in task.versions and not in_control_arm(task.id, context.settings.control_share)


def _is_stale(context: WorkerContext, plan: Plan, task: Task, older: frozenset[str]) -> bool:
    """Whether a task is to be predicted again. Of one that has its prediction, or shall have none, the older ones are
    deleted.
    """
    if not task.versions & older or task.annotations:
        return False
    if not lacks_version(context, plan, task):
        try:
            delete_older_predictions(context, plan, task)  # the version came back before all of it was replaced
        except LabelStudioError as error:
            if not is_about_one_task(error):
                raise
            context.ledger.add_leftover(plan.project.id, task.id)
            log.warning("task %d: its older predictions stay for now. %s", task.id, error)
        return False
    return True


def _confidence(task: Task) -> float:
    return 0.5 if task.score is None or math.isnan(task.score) else task.score


def _recall_versions(context: WorkerContext, project: int) -> None:
    """Learn from Label Studio which versions of ours are stored, where Redis knows nothing of the project: it may have
    been lost, and their predictions would stay beside the newer ones for ever. Those of other models are left alone.
    """
    for version in version_counts(context.label_studio, project):
        if ModelVersion.parse(version) is not None:
            context.ledger.add_version(project, version)
