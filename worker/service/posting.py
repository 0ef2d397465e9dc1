"""A drawn task -> one prediction in Label Studio, through whatever happens on the way.

While Label Studio is away the post waits, with its lease renewed; when an answer was lost, it looks before it posts
again. It must not know about models.
"""

from __future__ import annotations

import logging
import threading
import time

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    QueueDamaged,
    QueueUnavailable,
)
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import MAX_ATTEMPTS, Priority
from worker.service.context import Resident
from worker.service.plan import Order, replace_older, show
from worker.service.work import Drawn, Leased

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 5.0
_REFUSED_DELAY_S = 30.0
# So many tasks refused with 500 in a row, and it is not the tasks; after an hour of that it may be them after all.
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
        """A server error answered this task; True when others got the same, and none got through in between."""
        with self._lock:
            if not self._refused:
                self._since = time.monotonic()
            self._refused.add(ref)
            return len(self._refused) >= _OUTAGE_TASKS and time.monotonic() - self._since < _OUTAGE_S


class Posting:
    """Stores predictions for one worker; its threads share it."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._outage = Outage()

    def post(self, drawn: Drawn) -> None:
        """Store the prediction and settle the task: done, failed, given back, or to be tried again later."""
        started, wait_s, doubtful = time.perf_counter(), _FIRST_WAIT_S, False
        while True:
            try:
                if not self._attempt(drawn, doubtful=doubtful):
                    return
            except QueueDamaged as error:  # waiting would not help: whoever sweeps finds the task
                log.error("task %d: %s", drawn.leased.ref.task, error)
                self._resident.leases.give_back(drawn.leased.project, drawn.leased.ref)
                return
            except QueueUnavailable as error:  # without its word nobody may post: somebody else may have the task
                log.warning("task %d: waits for Redis. %s", drawn.leased.ref.task, error)
            except (LabelStudioUnreachable, LabelStudioFailing) as error:
                doubtful = True
                self._doubt(drawn.leased)
                if error.status == 500 and not self._outage.refused(drawn.leased.ref):
                    self._resident.leases.retry(drawn.leased.project, drawn.leased.ref, str(error), most=MAX_ATTEMPTS)
                    return
                self._resident.trouble = str(error)
                log.warning("task %d: %s", drawn.leased.ref.task, error)
            except LabelStudioError as error:
                self._refused(drawn.leased, error)
                return
            else:
                self._tell(drawn, started)
                return
            if self._resident.stopping.wait(wait_s):
                self._resident.leases.give_back(drawn.leased.project, drawn.leased.ref)
                return
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _attempt(self, drawn: Drawn, *, doubtful: bool) -> bool:
        """Post once. False when the task is somebody else's by now; True when its prediction is stored."""
        leased, label_studio = drawn.leased, self._resident.label_studio
        version, ref = leased.order.version, leased.ref
        if doubtful:  # again, in case Redis was away too when the answer was lost
            self._resident.ledger.doubt(leased.project, ref)
        if doubtful and any(row.version == version for row in label_studio.predictions(ref.task)):
            log.info("task %d: was stored, only the answer was lost", ref.task)
        else:
            if not self._resident.leases.confirm(leased.project, ref):
                log.warning("task %d: its lease is gone: cancelled, or another worker has it", ref.task)
                return False
            self._resident.ledger.remember_version(leased.project, version)
            stored = label_studio.create_prediction(ref.task, drawn.result, score=drawn.score, version=version)
            if stored.version != version or len(stored.result) != len(drawn.result):
                problem = f"stored {len(stored.result)} of {len(drawn.result)} regions at version {stored.version!r}"
                raise LabelStudioError(f"task {ref.task}", problem, "See Label Studio's log.")
        self._outage.over()
        self._resident.trouble = ""
        finish(self._resident, leased)
        return True

    def _doubt(self, leased: Leased) -> None:
        try:
            self._resident.ledger.doubt(leased.project, leased.ref)
        except QueueUnavailable as error:
            log.warning("task %d: %s", leased.ref.task, error)

    def _refused(self, leased: Leased, error: LabelStudioError) -> None:
        leases, project, ref = self._resident.leases, leased.project, leased.ref
        if error.status in (401, 403):  # the token, most likely: nothing is wrong with the task
            self._resident.trouble = str(error)
            log.error("task %d: %s", ref.task, error)
            leases.give_back(project, ref, delay_s=_REFUSED_DELAY_S)
        elif self._is_gone(leased):
            log.info("task %d: was deleted meanwhile", ref.task)
            leases.drop(project, ref)
        else:
            leases.fail(project, ref, str(error))

    def _is_gone(self, leased: Leased) -> bool:
        try:
            return not self._resident.label_studio.tasks(leased.project, [leased.ref.task])
        except LabelStudioError as error:
            return error.status == 404

    def _tell(self, drawn: Drawn, started: float) -> None:
        ms = {**drawn.ms, "post": (time.perf_counter() - started) * 1000}
        told = ", ".join(f"{stage} {spent:.0f} ms" for stage, spent in ms.items())
        log.info("task %d: %d regions, version %s, %s", drawn.leased.ref.task, len(drawn.result),
                 drawn.leased.order.version, told)  # fmt: skip


def finish(resident: Resident, leased: Leased) -> None:
    """The task has its prediction: settle it, and let the prediction take the place of older ones."""
    order, project, ref = leased.order, leased.project, leased.ref
    resident.leases.done(project, ref)
    try:
        served = resident.ledger.served(project)
        if served and served != order.version:  # the labels changed while this was drawn
            resident.pending.add(project, [TaskRef(served, ref.task)], priority=Priority.LATER)
            return
        _tidy(resident, order, leased)
    except (LabelStudioError, QueueUnavailable) as error:  # the prediction is stored; what is left over is harmless
        log.warning("task %d: %s", ref.task, error)


def _tidy(resident: Resident, order: Order, leased: Leased) -> None:
    try:
        replace_older(resident, order, leased.task)
    except LabelStudioError:
        resident.ledger.leave(leased.project, leased.ref.task)
        resident.hints.request_refresh(leased.project)
        raise
    show(resident, order)
