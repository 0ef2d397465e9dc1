"""The tasks this worker holds: the one place that renews their leases and says how each of them ended.

It must not know what happens to a task in between.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from plugin_config.errors import QueueDamaged, QueueUnavailable
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Lease, PendingTasks

log = logging.getLogger(__name__)


class Leases:
    """Holds the leases of one worker. Safe to share between threads.

    A task that ends while Redis is away stays held, and its end is told when Redis is back: nothing is done twice
    because of a Redis that restarts.

    Args:
        pending: the tasks' states.
        owner: the worker's name, unique for ever.
    """

    def __init__(self, pending: PendingTasks, owner: str) -> None:
        self._pending = pending
        self._owner = owner
        self._held: set[tuple[int, TaskRef]] = set()
        self._untold: list[tuple[int, TaskRef, Callable[[], bool]]] = []
        self._lock = threading.Lock()

    def take(self, project: int, *, limit: int) -> list[Lease]:
        """Lease the tasks that are due first.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        taken = self._pending.take(project, self._owner, limit=limit)
        with self._lock:
            self._held.update((project, lease.ref) for lease in taken)
        return taken

    def confirm(self, project: int, ref: TaskRef) -> bool:
        """Whether the lease is still ours, renewed; False means that somebody else has the task, or nobody wants it.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if ref in self._pending.renew(project, self._owner, [ref]):
            return True
        self._release(project, ref)
        return False

    def done(self, project: int, ref: TaskRef) -> None:
        """The prediction is stored."""
        self._settle(project, ref, lambda: self._pending.done(project, self._owner, ref))

    def fail(self, project: int, ref: TaskRef, reason: str) -> None:
        """Trying again would not help."""
        log.error("task %d: %s", ref.task, reason)
        self._settle(project, ref, lambda: self._pending.fail(project, self._owner, ref, reason))

    def retry(self, project: int, ref: TaskRef, reason: str, *, most: int) -> None:
        """Perhaps the task's fault: later again, `most` times in all."""
        log.warning("task %d: %s", ref.task, reason)
        self._settle(project, ref, lambda: self._pending.retry(project, self._owner, ref, reason, most=most))

    def give_back(self, project: int, ref: TaskRef, *, delay_s: float = 0.0) -> None:
        """Not the task's fault: in its place again, or after a delay."""
        self._settle(project, ref, lambda: self._pending.give_back(project, self._owner, ref, delay_s=delay_s))

    def drop(self, project: int, ref: TaskRef) -> None:
        """Nobody needs it any more."""
        self._settle(project, ref, lambda: self._pending.drop(project, self._owner, ref))

    def held(self) -> int:
        """How many tasks this worker holds."""
        with self._lock:
            return len(self._held)

    def renew(self) -> None:
        """Tell Redis what could not be told before, and renew the rest.

        Raises:
            QueueUnavailable: Redis does not answer; nothing is forgotten.
        """
        with self._lock:
            untold, self._untold = self._untold, []
        while untold:
            project, ref, tell = untold[0]
            try:
                tell()
            except QueueDamaged as error:  # its lease runs out, and a sweep finds it
                log.error("task %d: how it ended cannot be told. %s", ref.task, error)
            except QueueUnavailable:
                with self._lock:
                    self._untold = untold + self._untold
                raise
            untold.pop(0)
            self._release(project, ref)
        with self._lock:
            held = sorted(self._held)
        for project in {project for project, _ in held}:
            try:
                self._pending.renew(project, self._owner, [ref for owner, ref in held if owner == project])
            except QueueDamaged as error:  # the others' must not run out for it
                log.error("%s", error)

    def _settle(self, project: int, ref: TaskRef, tell: Callable[[], bool]) -> None:
        try:
            tell()
        except QueueUnavailable as error:
            log.warning("task %d: how it ended is told later. %s", ref.task, error)
            with self._lock:
                self._untold.append((project, ref, tell))
            return
        self._release(project, ref)

    def _release(self, project: int, ref: TaskRef) -> None:
        with self._lock:
            self._held.discard((project, ref))
