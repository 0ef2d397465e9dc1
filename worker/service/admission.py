"""Pending tasks of a project into the pipeline: lease them, read what the project wants, admit them.

A job carries numbers only; everything else is read from Label Studio when the work begins.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from plugin_config.control_arm import in_control_arm
from plugin_config.errors import (
    LabelStudioError,
    LabelStudioUnreachable,
    QueueDamaged,
    QueueUnavailable,
    ZeromaskError,
)
from plugin_config.model_version import ModelVersion, engine_name
from plugin_config.queue.jobs import DrainProject, TaskRef
from plugin_config.queue.pending import Lease, Priority
from plugin_config.queue.slots import URGENT_SLOT
from worker.service.context import WorkerContext
from worker.service.failures import Action, Sign, Stage, note_sign, treat, treatment_of
from worker.service.pipeline import Pipeline
from worker.service.plan import read_plan, report_remarks
from worker.service.posting import finish
from worker.service.turns import LeasedTask

log = logging.getLogger(__name__)

_ROOM_S = 0.25  # other jobs wait behind this one, opened tasks among them
# An opened task does not wait long for an empty pipeline: other projects are kept out until the next try instead.
_EMPTY_S, _KEPT_S, _ALONE_S = 2.0, 15.0, 60.0
_NOT_ALONE_DELAY_S = 5.0


def drain(context: WorkerContext, pipeline: Pipeline, job: DrainProject) -> None:
    """Admit due tasks of a project as soon as the pipeline has room, and queue the next drain behind other projects.

    Nothing is leased of a project that is left to other workers; one of them gets the drain.
    """
    limit = min(job.limit, context.settings.drain_tasks)  # anyone who reaches Redis may have queued the job
    context.pending.mark_drain_running(job.project, job.slot)
    try:
        leaves, urgent = context.adapters.leaves, job.slot == URGENT_SLOT
        if not leaves(job.project) and pipeline.room(job.project, limit, urgent=urgent, timeout_s=_ROOM_S):
            Admission(context, pipeline, job.project).run(limit)
        if leaves(job.project):  # which may be known since then only
            context.handover.pass_on(job.project, job.slot)
            return
    except QueueDamaged as error:  # the slot expires and a sweep queues the drain: to do it now would repeat for ever
        log.error("%s", error)
        return
    except QueueUnavailable:
        context.pending.end_drain(job.project, job.slot)
        raise
    context.pending.end_drain(job.project, job.slot)


class Admission:
    """Leases tasks of one project, puts those that need a prediction into the pipeline, and settles the others."""

    def __init__(self, context: WorkerContext, pipeline: Pipeline, project: int) -> None:
        self._context = context
        self._pipeline = pipeline
        self._leases = context.leases
        self._project = project

    def run(self, limit: int) -> None:
        """Lease, read, admit. Tasks that cannot begin now are given back. A worker that could not reach Label Studio
        asks it before it leases any: others, which perhaps can, get them meanwhile.
        """
        if self._context.trouble and not self._is_reached():
            return
        left = {lease.ref: lease for lease in self._leases.take(self._project, limit=limit)}
        try:
            if left:
                self._begin(left)
        except ZeromaskError as error:
            self._treat(left, error)
        finally:  # Redis went away, or RQ's time for a job was over: a task held and forgotten would wait for ever
            while left:
                self._leases.give_back(self._project, left.popitem()[0])

    def _is_reached(self) -> bool:
        """Whether Label Studio answers at all; if not, this waits for a while."""
        try:
            self._context.label_studio.project(self._project)
        except LabelStudioUnreachable as error:
            treatment = treatment_of(Stage.ADMISSION, error)
            self._context.stopping.wait(treatment.pause_s if treatment else 0.0)
            return False
        except LabelStudioError:  # an answer, which is treated where tasks are leased
            return True
        note_sign(self._context, Sign.ANSWER)
        return True

    def _begin(self, left: dict[TaskRef, Lease]) -> None:
        """Admit or settle tasks, removing each from `left`."""
        context, project = self._context, self._project
        plan = read_plan(context, project)
        note_sign(context, Sign.PLAN)
        if plan.is_left:  # from now on `leaves` says so before any are leased
            return
        if context.ledger.target_version(project) != plan.version:
            context.hints.request_refresh(project)
        report_remarks(context, plan)
        self._move_to(plan.version, left)
        tasks = {task.id: task for task in context.label_studio.tasks(project, [ref.task for ref in left])}
        work = []
        for ref, lease in list(left.items()):
            task = tasks.get(ref.task)
            if in_control_arm(ref.task, context.settings.control_share):  # asked for before the share was set
                del left[ref]
                self._leases.drop(project, ref)
            elif task is None:
                log.info("task %d: is gone from project %d", ref.task, project)
                del left[ref]
                self._leases.drop(project, ref)
            elif plan.version in task.versions:  # stored before, only the answer was lost
                del left[ref]
                finish(context, LeasedTask(plan, lease, task))
            else:
                work.append(LeasedTask(plan, lease, task))
        if any(lease.alone for lease in left.values()):
            self._admit_alone(work, left)
        else:
            left.clear()
            self._pipeline.admit(work)

    def _admit_alone(self, work: Sequence[LeasedTask], left: dict[TaskRef, Lease]) -> None:
        """Admit tasks that were leased when workers died: if one dies again, no other task is to blame."""
        if self._pipeline.wait_empty(_EMPTY_S):
            left.clear()
            self._pipeline.keep_for(self._project, 0)
            self._pipeline.admit(work)
            self._pipeline.wait_empty(_ALONE_S)
        else:
            self._pipeline.keep_for(self._project, _KEPT_S)
        while left:
            self._leases.give_back(self._project, left.popitem()[0], delay_s=_NOT_ALONE_DELAY_S)

    def _move_to(self, version: str, left: dict[TaskRef, Lease]) -> None:
        """Replace tasks asked for at another version by the same tasks at this one."""
        logged, engine = self._context.logged_versions, engine_name(self._context.settings)
        for ref, lease in [(ref, lease) for ref, lease in left.items() if ref.version != version]:
            asked = ModelVersion.parse(ref.version)
            if (asked is None or asked.model != engine) and (self._project, ref.version) not in logged:
                logged.add((self._project, ref.version))
                log.warning("version %s was requested, this worker serves %s and predicts that; unless backend and "
                            "worker were just restarted, give both the same MODEL and settings",
                            ref.version, version)  # fmt: skip
            priority = Priority.OPENED if lease.urgent else Priority.ASKED
            self._context.pending.add(self._project, [TaskRef(version, ref.task)], priority=priority, follows=True)
            del left[ref]
            self._leases.drop(self._project, ref)

    def _treat(self, left: dict[TaskRef, Lease], error: ZeromaskError) -> None:
        """Settle all tasks of `left` as the table says.

        Raises:
            ZeromaskError: the error, where it is in no row.
        """
        treatment = treatment_of(Stage.ADMISSION, error)
        if treatment is None:
            raise error
        if treatment.action is Action.FORGET_PROJECT:
            log.warning("project %d is gone; what was pending for it is forgotten", self._project)
            self._context.pending.forget_project(self._project)
            while left:
                self._leases.drop(self._project, left.popitem()[0])
            return
        if treatment.concerns_all:
            log.error("project %d: %s (%d tasks wait)", self._project, error, len(left))
        while left:
            treat(self._context, treatment, error, self._project, left.popitem()[0])
        if treatment.pause_s:
            self._context.stopping.wait(treatment.pause_s)
