"""The tasks that this worker has leased: the one place that renews their leases and reports how each task ended."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping

from plugin_config.errors import QueueDamaged, QueueUnavailable
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Lease, PendingTasks

log = logging.getLogger(__name__)


class Leases:
    """Holds the leases of one worker. Safe to share between threads.

    A task that ends while Redis is away stays leased, and its end is written when Redis is back: no task is predicted
    twice because Redis was restarted. Leases that ran out meanwhile are lost: `holds` says so after the next renewal.

    Args:
        pending: the tasks' states.
        owner: the worker's name, never used again by another.
    """

    def __init__(self, pending: PendingTasks, owner: str) -> None:
        self._pending = pending
        self._owner = owner
        self._held: dict[tuple[int, TaskRef], int] = {}  # with the number of the lease: a task may be leased again
        self._numbers = itertools.count()
        self._unwritten: list[tuple[int, TaskRef, Callable[[], bool]]] = []
        self._lock = threading.Lock()

    def take(self, project: int, *, limit: int) -> list[Lease]:
        """Lease the tasks that are due first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        taken = self._pending.take(project, self._owner, limit=limit)
        with self._lock:
            self._held.update(((project, lease.ref), next(self._numbers)) for lease in taken)
        return taken

    def confirm(self, project: int, ref: TaskRef) -> bool:
        """Renew a lease. Returns False when it is lost: another worker has the task, or it was cancelled.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if ref in self._pending.renew(project, self._owner, [ref]):
            return True
        self._release(project, ref)
        return False

    def holds(self, project: int, ref: TaskRef) -> bool:
        """Whether this worker still has a task, as far as it knows: that is certain after `confirm` only."""
        with self._lock:
            return (project, ref) in self._held

    def done(self, project: int, ref: TaskRef, *, replaces: bool = False) -> bool:
        """Settle a task whose prediction is stored, and note whether older ones are still to be deleted. False when the
        lease was lost meanwhile.
        """
        return self._settle(project, ref, lambda: self._pending.done(project, self._owner, ref, replaces=replaces))

    def fail(self, project: int, ref: TaskRef, reason: str) -> None:
        """Settle a task as failed: trying again would not help."""
        log.error("task %d: %s", ref.task, reason)
        self._settle(project, ref, lambda: self._pending.fail(project, self._owner, ref, reason))

    def retry(self, project: int, ref: TaskRef, reason: str, *, most: int) -> None:
        """Try a task again later, `most` times in all; then it has failed."""
        log.warning("task %d: %s", ref.task, reason)
        self._settle(project, ref, lambda: self._pending.retry(project, self._owner, ref, reason, most=most))

    def give_back(self, project: int, ref: TaskRef, *, delay_s: float = 0.0) -> None:
        """Make a task pending again, in its old place or after a delay; this counts as no attempt."""
        self._settle(project, ref, lambda: self._pending.give_back(project, self._owner, ref, delay_s=delay_s))

    def drop(self, project: int, ref: TaskRef) -> None:
        """Forget a task that is not wanted any more."""
        self._settle(project, ref, lambda: self._pending.drop(project, self._owner, ref))

    def held(self) -> int:
        """How many tasks this worker has leased."""
        with self._lock:
            return len(self._held)

    def renew(self) -> None:
        """Write the ends of tasks that could not be written before, renew the other leases, and forget those that are
        lost: another worker has the task, or it was cancelled.

        Raises:
            QueueUnavailable: Redis does not answer; nothing is lost.
        """
        with self._lock:
            unwritten, self._unwritten = self._unwritten, []
        while unwritten:
            project, ref, write = unwritten[0]
            try:
                write()
            except QueueDamaged as error:  # its lease runs out, and a sweep finds it
                log.error("task %d: how it ended cannot be stored. %s", ref.task, error)
            except QueueUnavailable:
                with self._lock:
                    self._unwritten = unwritten + self._unwritten
                raise
            unwritten.pop(0)
            self._release(project, ref)
        with self._lock:
            held = dict(self._held)
        for project in sorted({project for project, _ in held}):
            refs = [ref for owner, ref in held if owner == project]
            try:
                kept = self._pending.renew(project, self._owner, refs)
            except QueueDamaged as error:  # the leases of other projects must not run out because of it
                log.error("%s", error)
                continue
            self._forget_lost(project, {ref: held[project, ref] for ref in refs if ref not in kept})

    def _forget_lost(self, project: int, lost: Mapping[TaskRef, int]) -> None:
        """Forget leases by their numbers: what was settled and leased again during the renewal is not lost."""
        with self._lock:
            gone = [ref for ref, number in lost.items() if self._held.get((project, ref)) == number]
            for ref in gone:
                del self._held[project, ref]
        if gone:
            log.info("project %d: %d tasks are no longer leased to this worker: cancelled, or another worker has them",
                     project, len(gone))  # fmt: skip

    def _settle(self, project: int, ref: TaskRef, write: Callable[[], bool]) -> bool:
        try:
            was_held = write()
        except QueueUnavailable as error:
            log.warning("task %d: how it ended is stored later. %s", ref.task, error)
            with self._lock:
                self._unwritten.append((project, ref, write))
            return True  # as far as is known
        self._release(project, ref)
        return was_held

    def _release(self, project: int, ref: TaskRef) -> None:
        with self._lock:
            self._held.pop((project, ref), None)
