"""The state of every asked-for task in Redis: pending, leased, done, failed. One small script per transition.

A worker takes tasks under a lease it must renew; when the worker dies the lease runs out and a sweep, which every
living worker does, puts the tasks back. One clock decides, Redis' own made steady, so machines may disagree about the
time and it may be set. It must not know what predicting is.

Keys of project P (members are `version|task`):

    zeromask:projects         set    projects that ever asked, and that Label Studio has
    zeromask:unknown          zset   projects that asked and may be made up -> moment, ms; until a look tells
    zeromask:paused           set    projects whose tasks wait until somebody resumes them
    zeromask:clock            hash   see pending_scripts.CLOCK
    zeromask:errors           list   the last hundred failures as JSON, newest first
    zeromask:P:pending        zset   member -> moment it is due, ms; earlier = sooner
    zeromask:P:leases         hash   member -> "owner|moment it runs out, ms|moment it was due, ms"
    zeromask:P:tries          hash   member -> tries that failed for a reason that may pass
    zeromask:P:deaths         hash   member -> leases that ran out
    zeromask:P:failed         hash   member -> reason
    zeromask:P:done:V         set    tasks predicted at version V
    zeromask:P:versions       set    every version we stored predictions of; see ledger.py for this and others
    zeromask:P:pace           hash   ring of 5 s: "number of the 5 s:tasks done in them"
    zeromask:P:drain:S        string see slots.py; learning.py and adapters.py tell of learning
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from redis import Redis

from plugin_config.errors import QueueDamaged, QueueFull
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.ledger import DOUBT_S
from plugin_config.queue.mending import project_keys
from plugin_config.queue.odd import as_ref, readable
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.slots import DrainSlots
from plugin_config.queue.states import TaskStates

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
# A task that was there when two workers died travels alone, so that a third one dies of the guilty one only.
SUSPECT_DEATHS = 2
_BULK = 5000
# Anyone may ask for made-up tasks and projects: what waits fits a small Redis, some 120 bytes each.
MOST_PENDING = 4_000_000
MOST_UNKNOWN = 200
MOST_PENDING_OF_UNKNOWN = 1_000_000
AHEAD_MS = 10**13  # farther than any clock reaches: classes never mix


class Priority(IntEnum):
    """What goes first; within a class, what was asked for first."""

    LATER = 0  # nobody asked: new tasks, tasks of an older version
    ASKED = 1
    OPENED = 2  # an annotator looks at it now


@dataclass(frozen=True)
class Lease:
    """A task taken by a worker: `urgent` when somebody waits for it, `alone` when workers died of it or beside it."""

    ref: TaskRef
    urgent: bool = False
    alone: bool = False


class PendingTasks(TaskStates):
    """Holds a Redis connection and moves tasks between their states. Safe to share between threads.

    Every method raises QueueUnavailable when Redis does not answer.
    """

    def __init__(self, redis: Redis, *, drain_tasks: int, lease_s: float) -> None:
        super().__init__(redis)
        self._slots = DrainSlots(redis)
        self._presence = WorkerPresence(redis)
        self._drain_tasks = drain_tasks
        self._lease_ms = int(lease_s * 1000)

    @redis_errors
    def add(
        self, project: int, refs: Collection[TaskRef], *, priority: Priority = Priority.ASKED, bounded: bool = False
    ) -> int:
        """Ask for tasks, in this order; what is pending or being worked on is not asked for twice. Returns how many
        are new.

        Args:
            project: its number.
            refs: the tasks.
            priority: what goes first.
            bounded: whether somebody may have made the tasks, or the project, up: then only so many may wait.

        Raises:
            QueueFull: as many wait already as may, of the project or of all that may be made up.
        """
        members, added = [ref.encode() for ref in refs], 0
        for start in range(0, len(members), _BULK):
            part = members[start : start + _BULK]
            following = len(members) - start - len(part)
            most = (MOST_PENDING, MOST_UNKNOWN, MOST_PENDING_OF_UNKNOWN) if bounded else (AHEAD_MS,) * 3
            new = int(self._run(scripts.ADD, project, project, priority * AHEAD_MS, following, *most, *part))
            if new < 0:
                problem = "waits for as many tasks as may wait, or for too many other projects to be looked up"
                raise QueueFull(f"project {project}", problem, "Ask again when some are done.")
            added += new
        return added

    @redis_errors
    def take(self, project: int, owner: str, *, limit: int | None = None) -> list[Lease]:
        """Lease the tasks that are due first to `owner`; a suspect comes alone, a paused project gives none."""
        rows = self._run(
            scripts.TAKE, project, project, owner, self._lease_ms, limit or self._drain_tasks, SUSPECT_DEATHS
        )
        taken = {member: (float(due), suspect) for member, due, suspect in zip(*[iter(rows)] * 3, strict=True)}
        found = [(ref, *taken[member]) for member, ref in self._refs(project, "leases", taken)]
        return [Lease(ref, urgent=due < -1.5 * AHEAD_MS, alone=suspect == b"1") for ref, due, suspect in found]

    @redis_errors
    def renew(self, project: int, owner: str, refs: Collection[TaskRef]) -> set[TaskRef]:
        """Extend leases; returns those `owner` still holds. What is missing belongs to somebody else now."""
        members = {ref.encode().encode(): ref for ref in refs}
        return {members[member] for member in self._run(scripts.RENEW, project, owner, self._lease_ms, *members)}

    @redis_errors
    def done(self, project: int, owner: str, ref: TaskRef) -> bool:
        """The prediction is stored. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "done", "")

    @redis_errors
    def fail(self, project: int, owner: str, ref: TaskRef, reason: str) -> bool:
        """Trying again would not help; keep the reason. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "failed", reason[:500])

    @redis_errors
    def give_back(self, project: int, owner: str, ref: TaskRef, *, delay_s: float = 0.0) -> bool:
        """Not the task's fault: due again after `delay_s`, or where it was. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "again", int(delay_s * 1000))

    @redis_errors
    def retry(self, project: int, owner: str, ref: TaskRef, reason: str, *, most: int = MAX_ATTEMPTS) -> bool:
        """Perhaps the task's fault: due again after 4, 16, 64 ... s, and failed with `reason` after `most` tries."""
        return self._settle(project, owner, ref, "retry", reason[:500], most)

    @redis_errors
    def drop(self, project: int, owner: str, ref: TaskRef) -> bool:
        """Nobody needs it any more (deleted, of an old version)."""
        return self._settle(project, owner, ref, "dropped", "")

    @redis_errors
    def confirm(self, project: int) -> None:
        """Label Studio has this project: it is known from now on."""
        pipe = self._redis.pipeline()
        pipe.sadd("zeromask:projects", project)
        pipe.zrem("zeromask:unknown", project)
        pipe.execute()

    @redis_errors
    def forget(self, project: int) -> None:
        """A project is gone, or never was: nothing of it is kept."""
        self._redis.srem("zeromask:projects", project)
        self._redis.srem("zeromask:paused", project)
        self._redis.zrem("zeromask:unknown", project)
        self._redis.zrem("zeromask:learn", project)
        self._redis.unlink(*project_keys(self._redis, project))

    @redis_errors
    def forget_tasks(self, project: int, tasks: Collection[int]) -> int:
        """Tasks are gone from the project: no state of theirs is kept. Returns how many stood in one."""
        gone = set(tasks)
        asked = [ref.encode() for ref in self.open_refs(project) if ref.task in gone]
        failed = [ref for ref in self.failures(project) if ref.task in gone]
        found = len(failed)
        for start in range(0, len(asked), _BULK):
            found += int(self._run(scripts.CANCEL, project, *asked[start : start + _BULK]))
        self.forget_failures(project, failed)
        for version in self.versions(project) if gone else []:
            found += int(self._redis.srem(self._key(project, f"done:{version}"), *gone))
        return found

    @redis_errors
    def forget_failures(self, project: int, refs: Collection[TaskRef]) -> None:
        """These failures say nothing any more."""
        if refs:
            self._redis.hdel(self._key(project, "failed"), *(ref.encode() for ref in refs))

    @redis_errors
    def forget_done(self, project: int, *, but: str) -> None:
        """Tasks predicted at other versions than `but` are counted no more: what is stored of them is replaced."""
        keys = [self._key(project, f"done:{version}") for version in self.versions(project) if version != but]
        if keys:
            self._redis.unlink(*keys)

    def sweep(self) -> list[TaskRef]:
        """Put back the tasks of workers that died, and make sure that a drain is queued wherever tasks are due.

        A project whose keys are damaged beyond what can be set aside is told in the log, and costs no other one.
        """
        returned: list[TaskRef] = []
        for project in self.projects():
            try:
                returned += self._sweep_project(project)
            except QueueDamaged as error:
                log.error("%s", error)
        return returned

    @redis_errors
    def _sweep_project(self, project: int) -> list[TaskRef]:
        reason = f"its worker died {MAX_ATTEMPTS} times on it; see the worker's log"
        rows = self._run(scripts.SWEEP, project, MAX_ATTEMPTS, reason, DOUBT_S * 1000)
        if rows:
            self._slots.stop(project)
        self.ensure_drains(project)
        return [ref for _, ref in self._refs(project, "pending", rows)]

    @redis_errors
    def ensure_drains(self, project: int, *, urgent: bool = False) -> int:
        """Queue as many drain jobs as the due tasks need and slots allow, one for each worker and one waiting; an
        urgent one more goes ahead of all. Returns how many were queued.
        """
        due = int(self._run(scripts.DUE, project, project))
        queued = int(self._slots.queue_urgent(project, limit=self._drain_tasks)) if urgent and due else 0
        most = self._presence.live_workers() + 1
        return queued + self._slots.queue(project, tasks=due, limit=self._drain_tasks, most=most)

    @redis_errors
    def next_drain(self, project: int, slot: int) -> None:
        """End of a drain: queue behind the other projects when tasks are due, else free the slot."""
        self._slots.free(project, slot)
        self.ensure_drains(project)

    @redis_errors
    def hold_slot(self, project: int, slot: int) -> None:
        """A drain that is being worked on keeps its slot."""
        self._slots.hold(project, slot)

    @redis_errors
    def move_to_version(self, project: int, version: str) -> int:
        """Ask at `version` for whatever is pending at another; returns how many tasks moved."""
        pending = self._key(project, "pending")
        due_at: dict[Any, float] = dict(self._redis.zscan_iter(pending, count=1000))
        rows = self._refs(project, "pending", due_at)
        stale = [(ref, due_at[member]) for member, ref in rows if ref.version != version]
        for start in range(0, len(stale), _BULK):
            part = stale[start : start + _BULK]
            self.add(project, [TaskRef(version, ref.task) for ref, _ in part], priority=Priority.LATER)
            # They keep their place: an annotator may be waiting for them.
            self._redis.zadd(pending, {TaskRef(version, ref.task).encode(): due for ref, due in part}, xx=True, lt=True)
            self._redis.zrem(pending, *(ref.encode() for ref, _ in part))
        return len(stale)

    def _refs(self, project: int, name: str, members: Iterable[Any]) -> list[tuple[Any, TaskRef]]:
        """What members stand for; those that nobody here wrote are set aside from the key, and cost no other one."""
        return readable(self._redis, self._key(project, name), members, as_ref)

    def _settle(
        self, project: int, owner: str, ref: TaskRef, outcome: str, detail: str | int, most: int = MAX_ATTEMPTS
    ) -> bool:
        return bool(self._run(scripts.SETTLE, project, owner, ref.encode(), outcome, detail, most))
