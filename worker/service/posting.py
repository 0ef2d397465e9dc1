"""A drawn task becomes one prediction in Label Studio, and takes the place of older ones.

While Label Studio is away the post waits, with its lease renewed; where only this worker cannot reach it, others get
the task. After a lost answer, of this worker or of one that had the task before, the stored predictions are read before
the post is repeated. A post whose lease was lost while it was on its way may be the second one: a reconcile settles it.
"""

from __future__ import annotations

import logging
import threading
import time

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    QueueUnavailable,
    ZeromaskError,
)
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.model_cards import given_title
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Priority
from plugin_config.queue.totals import Totals
from worker.service.context import WorkerContext
from worker.service.cut_off import CutOff
from worker.service.failures import WAIT_FOR_STORAGE, Action, Sign, Stage, note_sign, treat, treatment_of
from worker.service.ordering import record_stored, score_to_post
from worker.service.plan import Plan
from worker.service.turns import DrawnTask, LeasedTask

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 5.0
# After so many tasks in a row that got HTTP 500, the tasks are not to blame; after an hour of that they may be.
_OUTAGE_TASKS = 3
_OUTAGE_S = 3600.0


class Outage:
    """Tells a Label Studio in trouble from a task in trouble. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: set[TaskRef] = set()
        self._since = 0.0

    def over(self) -> None:
        """A prediction was stored."""
        with self._lock:
            self._refused.clear()

    def refused(self, ref: TaskRef) -> bool:
        """Note a task that got HTTP 500. Returns True when others got the same and none was stored in between."""
        with self._lock:
            if not self._refused:
                self._since = time.monotonic()
            self._refused.add(ref)
            return len(self._refused) >= _OUTAGE_TASKS and time.monotonic() - self._since < _OUTAGE_S


class Posting:
    """Stores predictions for one worker; its threads share it."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._outage = Outage()
        self._totals = Totals(context.redis)
        self._cut_off = CutOff(self._totals)

    def post(self, drawn: DrawnTask) -> None:
        """Store the prediction and settle the task: done, failed, given back, or to be tried again later."""
        started, wait_s, doubtful, leased = time.perf_counter(), _FIRST_WAIT_S, False, drawn.leased
        while True:
            try:
                stored = self._attempt(drawn, doubtful=doubtful)
            except ZeromaskError as error:
                if isinstance(error, (LabelStudioUnreachable, LabelStudioFailing)):
                    doubtful = True
                    self._doubt(leased)
                if self._treat(leased, error) is not Action.HOLD:
                    return
                if isinstance(error, LabelStudioUnreachable) and self._cut_off.unreached():
                    log.warning("task %d: goes to another worker: only this one cannot reach Label Studio",
                                leased.ref.task)  # fmt: skip
                    self._context.leases.give_back(leased.project, leased.ref)
                    return
            else:
                if stored:
                    self._note_times(drawn, started)
                return
            if self._context.stopping.wait(wait_s):
                self._context.leases.give_back(leased.project, leased.ref)
                return
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _attempt(self, drawn: DrawnTask, *, doubtful: bool) -> bool:
        """Post once. False when the task is somebody else's by now; True when its prediction is stored."""
        leased, label_studio = drawn.leased, self._context.label_studio
        version, ref = leased.plan.version, leased.ref
        if doubtful:  # again, in case Redis was away too when the answer was lost
            self._context.ledger.add_unconfirmed(leased.project, ref)
        looks = doubtful or self._context.ledger.is_unconfirmed(leased.project, ref)  # another worker may have sent it
        found = [row for row in label_studio.predictions(ref.task) if row.version == version] if looks else []
        if found:
            stored = found[0]
            log.info("task %d: was stored, only the answer was lost", ref.task)
        else:
            if not self._context.leases.confirm(leased.project, ref):
                log.warning("task %d: its lease is gone: cancelled, or another worker has it", ref.task)
                return False
            self._context.ledger.add_version(leased.project, version)
            score = score_to_post(self._context, drawn)
            missed = None if drawn.raw_nothing is None else 1 - drawn.raw_nothing
            stored = label_studio.create_prediction(
                ref.task, drawn.result, score=score, version=version, missed=missed
            )
            if stored.version != version or len(stored.result) != len(drawn.result):
                problem = f"stored {len(stored.result)} of {len(drawn.result)} regions at version {stored.version!r}"
                raise LabelStudioError(f"task {ref.task}", problem, "See Label Studio's log.")
        self._outage.over()
        self._cut_off.over()
        note_sign(self._context, Sign.STORED)
        self._tell_left_out(drawn)
        record_stored(self._context, drawn, prediction=stored.id, shown=stored.score or 0.0)
        finish(self._context, leased)
        return True

    def _tell_left_out(self, drawn: DrawnTask) -> None:
        """Note what of a task is not in its prediction, for `zeromask status`."""
        if drawn.left_out:
            reason = f"predicted without {'; '.join(drawn.left_out)}"
            log.warning("task %d: %s", drawn.leased.ref.task, reason)
            try:
                self._context.pending.note(drawn.leased.project, drawn.leased.ref, reason)
            except QueueUnavailable as error:
                log.warning("task %d: %s", drawn.leased.ref.task, error)

    def _treat(self, leased: LeasedTask, error: ZeromaskError) -> Action:
        """Do what the table says. Returns HOLD when the post is to be repeated; else the task is settled.

        Raises:
            ZeromaskError: the error, where it is in no row.
        """
        treatment, ref = treatment_of(Stage.POST, error), leased.ref
        if treatment is None:
            raise error
        if treatment.action is Action.RETRY and self._outage.refused(ref):
            treatment = WAIT_FOR_STORAGE
        if treatment.action is Action.FAIL and self._is_gone(leased):
            log.info("task %d: was deleted meanwhile", ref.task)
            self._context.leases.drop(leased.project, ref)
            return Action.FAIL
        if treatment.action is Action.HOLD:
            log.warning("task %d: waits. %s", ref.task, error)
        elif treatment.action is Action.GIVE_BACK:
            log.error("task %d: %s", ref.task, error)
        treat(self._context, treatment, error, leased.project, ref)
        return treatment.action

    def _doubt(self, leased: LeasedTask) -> None:
        try:
            self._context.ledger.add_unconfirmed(leased.project, leased.ref)
        except QueueUnavailable as error:
            log.warning("task %d: %s", leased.ref.task, error)

    def _is_gone(self, leased: LeasedTask) -> bool:
        try:
            return not self._context.label_studio.tasks(leased.project, [leased.ref.task])
        except LabelStudioError as error:
            return error.status == 404

    def _note_times(self, drawn: DrawnTask, started: float) -> None:
        """Log how long each stage took, and add it to what `/metrics` shows."""
        ms = {**drawn.ms, "post": (time.perf_counter() - started) * 1000}
        spent = ", ".join(f"{stage} {stage_ms:.0f} ms" for stage, stage_ms in ms.items())
        log.info("task %d: %d regions, version %s, %s", drawn.leased.ref.task, len(drawn.result),
                 drawn.leased.plan.version, spent)  # fmt: skip
        try:
            self._totals.add_stages(ms)
        except QueueUnavailable as error:  # the times of one task are missing in a sum
            log.warning("task %d: %s", drawn.leased.ref.task, error)


def finish(context: WorkerContext, leased: LeasedTask) -> None:
    """Settle a task whose prediction is stored, and let the prediction take the place of older ones. What is left to be
    done of it is noted before the task is settled: this process may die in between, and nobody would look again.
    """
    plan, project, ref = leased.plan, leased.project, leased.ref
    replaces = bool(leased.task.versions - {plan.version})
    try:
        _ask_again_if_outdated(context, leased)
    except QueueUnavailable as error:
        log.warning("task %d: %s", ref.task, error)
    was_held = context.leases.done(project, ref, replaces=replaces)
    try:
        if not was_held:
            log.warning("task %d: its lease was lost while its prediction was on its way; it is looked at", ref.task)
            context.hints.request_refresh(project)
        if _ask_again_if_outdated(context, leased):  # labels or version changed while this was drawn
            return
        try:
            delete_older_predictions(context, plan, leased.task)
        except LabelStudioError:
            context.hints.request_refresh(project)
            raise
        if replaces:
            context.ledger.clear_leftover(project, ref.task)
        # Again: if an older version came back meanwhile, its prediction was among those just deleted.
        if not _ask_again_if_outdated(context, leased):
            show_version(context, plan)
    except (LabelStudioError, QueueUnavailable) as error:  # the prediction is stored; what is left over is harmless
        log.warning("task %d: %s", ref.task, error)


def _ask_again_if_outdated(context: WorkerContext, leased: LeasedTask) -> bool:
    """Ask for the task again if another version is served by now; whether it is."""
    served = context.ledger.target_version(leased.project)
    if not served or served == leased.plan.version:
        return False
    context.pending.add(
        leased.project, [TaskRef(served, leased.ref.task)], priority=Priority.LATER, follows=True
    )
    return True


def delete_older_predictions(context: WorkerContext, plan: Plan, task: Task) -> None:
    """Delete predictions of older versions of ours, unless the task is annotated by now: annotations keep the
    prediction they came from, and minutes may have passed since the task was read.
    """
    project, label_studio = plan.project.id, context.label_studio
    older = (task.versions - {plan.version}) & context.ledger.versions(project)
    if not older or task.annotations:
        return
    found = [row for row in label_studio.predictions(task.id) if row.version in older]
    if not found or any(now.annotations for now in label_studio.tasks(project, [task.id], data=False)):
        return
    for prediction in found:
        label_studio.delete_prediction(prediction.id)


def show_version(context: WorkerContext, plan: Plan) -> None:
    """Show annotators the version just stored, once per version, unless they chose a version that is not ours."""
    project, shown = plan.project.id, plan.project.model_version
    if shown == plan.version or context.ledger.shown_version(project) == plan.version:
        return
    titles = set(map(given_title, context.label_studio.model_titles(project)))  # they may have changed since the plan
    if shown in context.ledger.versions(project) | {""} or given_title(shown) in titles:
        context.label_studio.show_version(project, plan.version)
    context.ledger.set_shown_version(project, plan.version)
