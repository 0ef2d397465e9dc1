"""ZEROMASK_PRELABEL: unannotated tasks without a prediction are asked for by themselves, also where no webhook came.

All tasks are read for that, in parts: see `worker.service.walking`.
"""

from __future__ import annotations

import logging

from plugin_config.label_studio.client import Task
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Priority
from plugin_config.queue.walks import Held, TaskWalks, Walk
from worker.service.context import WorkerContext
from worker.service.plan import Plan
from worker.service.rollout import lacks_version
from worker.service.walking import PAUSE_S, Progress, progress_of, read_part

log = logging.getLogger(__name__)


def is_wanted(context: WorkerContext, plan: Plan, task: Task) -> bool:
    """Whether a task lacks a prediction that it shall have."""
    return not task.annotations and lacks_version(context, plan, task)


def catch_up_with_tasks(context: WorkerContext, plan: Plan) -> Progress:
    """Ask for every unannotated task without a prediction if the number of tasks changed and no webhook said so.

    Raises:
        LabelStudioError: Label Studio cannot answer, or refuses; what is read until then stays read.
        QueueUnavailable: Redis does not answer.
    """
    project, number, walks = plan.project.id, plan.project.tasks, TaskWalks(context.redis, "missing")
    if context.ledger.task_count(project) == number:
        walks.end(project, None)  # begun, and then webhooks told the rest: the next one begins at the beginning
        return Progress.DONE
    walk = walks.begin(project, plan.version)
    if isinstance(walk, Held):
        return progress_of(walk)
    pause_s = 0.0
    try:
        if not _walk_on(context, plan, walks, walk):
            pause_s = PAUSE_S
            return Progress.LATER
        context.ledger.set_task_count(project, number)
        walks.end(project, walk)
        return Progress.DONE
    finally:
        walks.leave(project, walk, pause_s=pause_s)


def _walk_on(context: WorkerContext, plan: Plan, walks: TaskWalks, walk: Walk) -> bool:
    """Ask for the tasks of a part of all. Returns whether all are read."""
    project, pending = plan.project.id, context.pending
    failed = {ref.task for ref in pending.failures(project)}
    missing: list[TaskRef] = []

    def visit(task: Task) -> None:
        if is_wanted(context, plan, task) and task.id not in failed:
            missing.append(TaskRef(plan.version, task.id))

    def note(last: int) -> bool:
        added = pending.add(project, missing, priority=Priority.LATER, follows=True)
        missing.clear()
        if added:
            pending.ensure_drains(project)
            log.info("project %d: %d tasks asked for by themselves, up to task %d", project, added, last)
        return walks.save(project, walk, after=last)

    return read_part(context, project, walk, visit=visit, note=note)
