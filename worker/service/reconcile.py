"""A look at a project: whatever happened there that nobody told, or that a webhook hinted at, is caught up with.

Its labels may have changed, or the version that is served; tasks may be new or gone, a prediction may have arrived
twice. It must not know how a task is predicted.
"""

from __future__ import annotations

import logging

from plugin_config.errors import (
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    VersionsUnavailable,
)
from plugin_config.queue.jobs import RefreshProject, TaskRef
from plugin_config.queue.pending import Priority
from worker.service.context import Resident
from worker.service.plan import Order, make_remarks, read_order, replace_older, show
from worker.service.webhook_secret import install_webhook_secret

log = logging.getLogger(__name__)

_TASKS_AT_ONCE = 200
_MOST_LOOKED_AT = 5000


def refresh(resident: Resident, job: RefreshProject) -> None:
    """Look at a project. What Label Studio does not answer now is looked at the next time."""
    project = job.project
    resident.hints.begin_refresh(project)
    try:
        order = read_order(resident, project, afresh=True)
        install_webhook_secret(resident, project)
        make_remarks(resident, order)
        _catch_up_with_version(resident, order)
        _look_at_hinted(resident, order)
        if resident.settings.prelabel:
            _catch_up_with_tasks(resident, order)
        _delete_left(resident, order)
        settle_doubts(resident, project)
    except (LabelStudioUnreachable, LabelStudioFailing, VersionsUnavailable) as error:
        log.warning("project %d: %s", project, error)
    except (LabelingConfigError, LabelStudioError) as error:
        if isinstance(error, LabelStudioError) and error.status == 404:
            resident.pending.forget(project)
        log.warning("project %d is left alone: %s", project, error)


def settle_doubts(resident: Resident, project: int) -> int:
    """Where a prediction may have arrived twice, leave one: the one annotations came from, else the first. Returns how
    many were deleted.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses.
    """
    deleted, waiting = 0, set(resident.pending.open_refs(project)) if resident.ledger.doubts(project) else set()
    for ref, last_look in resident.ledger.doubts(project).items():
        if ref in waiting:
            continue
        rows = [row for row in resident.label_studio.predictions(ref.task) if row.version == ref.version]
        if len(rows) > 1:
            used = resident.label_studio.parent_predictions(ref.task)
            first, *others = sorted(rows, key=lambda row: (row.id not in used, row.id))
            spare = [row for row in others if row.id not in used]
            for row in spare:
                resident.label_studio.delete_prediction(row.id)
            deleted += len(spare)
            log.info("task %d: its prediction had arrived %d times, %d is left", ref.task, len(rows), first.id)
        if last_look:
            resident.ledger.clear_doubt(project, ref)
    return deleted


def _catch_up_with_version(resident: Resident, order: Order) -> None:
    """Move what is pending to the present version, and ask again for what failed at another and for the unannotated
    tasks that carry an older one of ours, those first of which the model was least sure.
    """
    pending, project = resident.pending, order.project.id
    if resident.ledger.served(project) == order.version and not resident.ledger.is_catching_up(project, order.version):
        return
    # First, so that a drain which began before ends by asking again for what it stores. Whatever ends this look before
    # `caught_up`, be it Label Studio, RQ's time for a job or a death: the next one does it all.
    resident.ledger.serve(project, order.version)
    older = resident.ledger.known_versions(project) - {order.version}
    stale = []
    for task in resident.label_studio.all_tasks(project) if older else ():  # a large project takes minutes
        if not task.versions & older or task.annotations:
            continue
        if order.version in task.versions:  # a version that came back before all of it was replaced
            replace_older(resident, order, task)
        else:
            stale.append(task)
    stale.sort(key=lambda task: 0.5 if task.score is None else task.score)
    moved = pending.move_to_version(project, order.version)
    failed = [ref for ref in pending.failures(project) if ref.version != order.version]
    again = dict.fromkeys([task.id for task in stale] + [ref.task for ref in failed])
    pending.add(project, [TaskRef(order.version, task) for task in again], priority=Priority.LATER)
    pending.forget_failures(project, failed)
    pending.forget_done(project, but=order.version)
    pending.ensure_drains(project)
    if not again and order.version in resident.ledger.known_versions(project):
        show(resident, order)  # nothing is predicted that would bring it about
    resident.ledger.caught_up(project, order.version)
    log.info("project %d: now version %s, %d tasks to predict again, %d moved", project, order.version,
             len(again), moved)  # fmt: skip


def _delete_left(resident: Resident, order: Order) -> None:
    """Older predictions that Label Studio did not delete when it was told to."""
    project, left = order.project.id, resident.ledger.left(order.project.id)
    for start in range(0, len(left), _TASKS_AT_ONCE):
        part = left[start : start + _TASKS_AT_ONCE]
        found = {task.id: task for task in resident.label_studio.tasks(project, part)}
        for number in part:
            if number in found and order.version in found[number].versions:
                replace_older(resident, order, found[number])
            resident.ledger.clear_left(project, number)


def _look_at_hinted(resident: Resident, order: Order) -> None:
    """Tasks that a webhook said are new or gone: what is gone is forgotten, what is new is asked for if that is set."""
    project = order.project.id
    hinted = resident.hints.hinted_tasks(project, most=_MOST_LOOKED_AT)
    for start in range(0, len(hinted), _TASKS_AT_ONCE):
        part = hinted[start : start + _TASKS_AT_ONCE]
        found = resident.label_studio.tasks(project, part)
        gone = set(part) - {task.id for task in found}
        forgotten = resident.pending.forget_tasks(project, gone)
        if gone:
            log.info("project %d: %d tasks are gone, %d of them were known here", project, len(gone), forgotten)
        if resident.settings.prelabel:
            # Where this agrees with what Label Studio counts, nothing was missed and not all tasks need be read.
            resident.ledger.count(project, resident.ledger.counted(project) + len(found) - len(gone))
            wanted = [task.id for task in found if order.version not in task.versions and not task.annotations]
            resident.pending.add(project, [TaskRef(order.version, task) for task in wanted], priority=Priority.LATER)
        resident.hints.looked_at(project, part)
    if hinted:
        resident.pending.ensure_drains(project)
    if len(hinted) == _MOST_LOOKED_AT:
        resident.hints.request_refresh(project)


def _catch_up_with_tasks(resident: Resident, order: Order) -> None:
    """Ask for every unannotated task without a prediction when their number is not what it was: a webhook was lost."""
    project, number = order.project.id, order.project.tasks
    if resident.ledger.counted(project) == number:
        return
    failed = {ref.task for ref in resident.pending.failures(project)}
    missing = [
        TaskRef(order.version, task.id)
        for task in resident.label_studio.all_tasks(project)
        if order.version not in task.versions and not task.annotations and task.id not in failed
    ]
    added = resident.pending.add(project, missing, priority=Priority.LATER)
    resident.ledger.count(project, number)
    resident.pending.ensure_drains(project)
    log.info("project %d: %d tasks asked for by themselves", project, added)
