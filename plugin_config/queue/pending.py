"""Moves every requested task between its states in Redis: pending, leased, done, failed. Each transition is a script.

A worker takes tasks under a lease that it must renew; when the worker dies the lease ends, and a sweep, which every
living worker does, puts the tasks back. All moments are of one clock, Redis' own made steady, so the clocks of machines
may differ and may be set. `keys` describes what is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from redis import Redis

from plugin_config.errors import QueueDamaged, QueueFull
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef, parse_ref
from plugin_config.queue.keys import AGAIN, CONTRACTS, LEARN, PAUSED, PROJECTS, UNKNOWN, ProjectKeys
from plugin_config.queue.ledger import UNCONFIRMED_S
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.quarantine import valid_members
from plugin_config.queue.scripts import AHEAD_MS
from plugin_config.queue.slots import DrainSlots
from plugin_config.queue.states import TaskStates

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
# A task that two workers held when they died is leased alone from then on, so that innocent ones are not held with it.
SUSPECT_DEATHS = 2
_BULK = 5000
# Anyone may request invented tasks and projects: these many, at some 120 bytes each, fit into a small Redis.
MOST_PENDING = 4_000_000
MOST_UNKNOWN = 200
MOST_PENDING_OF_UNKNOWN = 1_000_000


class Priority(IntEnum):
    """The order of tasks; those of equal priority in the order of their requests."""

    LATER = 0  # not requested by a person: new tasks, tasks of an older version
    ASKED = 1
    OPENED = 2  # an annotator has opened it now


@dataclass(frozen=True)
class Lease:
    """A task taken by a worker.

    Attributes:
        ref: the task.
        urgent: whether a person waits for it.
        alone: whether workers died while they held it, so that it is leased with no other task.
    """

    ref: TaskRef
    urgent: bool = False
    alone: bool = False


class PendingTasks(TaskStates):
    """Holds a Redis connection and moves tasks between their states. Safe to share between threads.

    Every method raises QueueUnavailable when Redis does not answer.

    Args:
        redis: the connection.
        drain_tasks: most tasks of one drain.
        lease_s: seconds after which the lease of a dead worker ends.
    """

    def __init__(self, redis: Redis, *, drain_tasks: int, lease_s: float) -> None:
        super().__init__(redis)
        self._slots = DrainSlots(redis)
        self._presence = WorkerPresence(redis)
        self._drain_tasks = drain_tasks
        self._lease_ms = int(lease_s * 1000)

    @redis_errors
    def add(
        self, project: int, refs: Collection[TaskRef], *, priority: Priority = Priority.ASKED, bounded: bool = False,
        follows: bool = False,
    ) -> int:  # fmt: skip
        """Request tasks, in this order, unless they are pending or leased already.

        Args:
            project: its id.
            refs: the tasks.
            priority: their priority.
            bounded: whether the tasks, or the project, may be invented: then only so many may be pending.
            follows: whether this follows from an earlier request: then nothing is requested if the project has been
                forgotten since, as `zeromask disconnect` does.

        Returns:
            how many are new.

        Raises:
            QueueFull: too many are pending already, of the project or of all unknown projects.
        """
        members, added = [ref.encode() for ref in refs], 0
        for start in range(0, len(members), _BULK):
            part = members[start : start + _BULK]
            following = len(members) - start - len(part)
            most = (MOST_PENDING, MOST_UNKNOWN, MOST_PENDING_OF_UNKNOWN) if bounded else (AHEAD_MS,) * 3
            conditions = (priority * AHEAD_MS, following, *most, int(follows))
            new = int(self._run(scripts.ADD, project, project, *conditions, *part))
            if new < 0:
                problem = "has too many tasks pending, or too many unknown projects are waiting"
                raise QueueFull(f"project {project}", problem, "Ask again when some are done.")
            added += new
        return added

    @redis_errors
    def take(self, project: int, owner: str, *, limit: int | None = None) -> list[Lease]:
        """Lease the first due tasks to `owner`; a suspect is leased alone, and of a paused project nothing is."""
        rows = self._run(
            scripts.TAKE, project, project, owner, self._lease_ms, limit or self._drain_tasks, SUSPECT_DEATHS
        )
        taken = {member: (float(due), suspect) for member, due, suspect in zip(*[iter(rows)] * 3, strict=True)}
        valid = valid_members(self._redis, ProjectKeys(project).leases, taken, parse_ref)
        found = [(ref, *taken[member]) for member, ref in valid]
        return [Lease(ref, urgent=due < -1.5 * AHEAD_MS, alone=suspect == b"1") for ref, due, suspect in found]

    @redis_errors
    def renew(self, project: int, owner: str, refs: Collection[TaskRef]) -> set[TaskRef]:
        """Extend leases; returns those that `owner` still holds."""
        members = {ref.encode().encode(): ref for ref in refs}
        return {members[member] for member in self._run(scripts.RENEW, project, owner, self._lease_ms, *members)}

    @redis_errors
    def done(self, project: int, owner: str, ref: TaskRef, *, replaces: bool = False) -> bool:
        """Note that the prediction is stored; with `replaces`, that older ones are still to be deleted, too. False when
        the lease was lost meanwhile: another worker may have stored one, too, and the task is looked at until no second
        one can arrive.
        """
        return self._settle(project, owner, ref, "done", int(replaces))

    @redis_errors
    def fail(self, project: int, owner: str, ref: TaskRef, reason: str) -> bool:
        """Fail a task for which another try would not help. False when the lease was lost meanwhile."""
        return self._settle(project, owner, ref, "failed", reason[:500])

    @redis_errors
    def note(self, project: int, ref: TaskRef, reason: str) -> None:
        """Show something about a task that has not failed among the last errors."""
        self._run(scripts.NOTE, project, ref.encode(), reason[:500])

    @redis_errors
    def give_back(self, project: int, owner: str, ref: TaskRef, *, delay_s: float = 0.0) -> bool:
        """Return a task that is not at fault: due after `delay_s`, or as before. False when the lease was lost."""
        return self._settle(project, owner, ref, "again", int(delay_s * 1000))

    @redis_errors
    def retry(self, project: int, owner: str, ref: TaskRef, reason: str, *, most: int = MAX_ATTEMPTS) -> bool:
        """Return a task that may be at fault: due after 4, 16, 64 ... s, and failed with `reason` after `most` tries.
        False when the lease was lost meanwhile.
        """
        return self._settle(project, owner, ref, "retry", reason[:500], most)

    @redis_errors
    def drop(self, project: int, owner: str, ref: TaskRef) -> bool:
        """Give up a task that is no longer needed (deleted, of an old version). False when the lease was lost."""
        return self._settle(project, owner, ref, "dropped", "")

    @redis_errors
    def cancel(self, project: int, refs: Collection[TaskRef]) -> int:
        """Take back requests for tasks; a worker that holds one finds its lease gone and posts nothing.

        Returns:
            how many were pending or leased.
        """
        return self._run_in_parts(scripts.CANCEL, project, refs)

    @redis_errors
    def retry_failed(self, project: int, refs: Collection[TaskRef]) -> int:
        """Request failed tasks again; returns how many of them had failed."""
        return self._run_in_parts(scripts.RETRY_FAILED, project, refs, Priority.ASKED * AHEAD_MS)

    @redis_errors
    def pause(self, project: int) -> None:
        """Lease no more tasks of a project until `resume`; those that are leased are finished."""
        self._redis.sadd(PAUSED, project)

    @redis_errors
    def resume(self, project: int) -> None:
        """Lease tasks of a paused project again."""
        self._redis.srem(PAUSED, project)

    @redis_errors
    def is_asked_for(self, project: int) -> bool:
        """Whether the project is known, or somebody asked for it and it is to be looked up."""
        return bool(self._run(scripts.IS_ASKED_FOR, project, project))

    @redis_errors
    def confirm_project(self, project: int) -> bool:
        """Note that Label Studio has this project: it is known from now on. False, and nothing is noted, where nobody
        asks for it, or it was forgotten since.
        """
        return bool(self._run(scripts.CONFIRM, project, project))

    @redis_errors
    def forget_project(self, project: int) -> None:
        """Delete everything about a project that Label Studio does not have, or that is disconnected: all of it, or
        nothing.
        """
        keys = ProjectKeys(project)
        done = [keys.done(version) for version in self._ledger.versions(project)]
        pipe = self._redis.pipeline()
        pipe.unlink(*keys.named(), *done)
        pipe.srem(PROJECTS, project)
        pipe.srem(PAUSED, project)
        pipe.zrem(AGAIN, project)
        pipe.zrem(UNKNOWN, project)
        pipe.zrem(LEARN, project)
        pipe.hdel(CONTRACTS, str(project))
        pipe.execute()

    @redis_errors
    def forget_tasks(self, project: int, tasks: Collection[int]) -> int:
        """Delete the state of tasks that the project no longer has; returns how many had one."""
        gone = set(tasks)
        open_refs = [ref for ref in self.open_refs(project) if ref.task in gone]
        failed = [ref for ref in self.failures(project) if ref.task in gone]
        found = len(failed) + self.cancel(project, open_refs)
        self.forget_failures(project, failed)
        doubted = [ref for ref in self._ledger.unconfirmed(project) if ref.task in gone] if gone else []
        for ref in doubted:
            self._ledger.clear_unconfirmed(project, ref)
        for version in self._ledger.versions(project) if gone else []:
            found += int(self._redis.srem(ProjectKeys(project).done(version), *gone))
        return found

    @redis_errors
    def forget_failures(self, project: int, refs: Collection[TaskRef]) -> None:
        """Forget that these tasks failed."""
        if refs:
            self._redis.hdel(ProjectKeys(project).failed, *(ref.encode() for ref in refs))

    @redis_errors
    def forget_done(self, project: int, *, but: str) -> None:
        """Forget what is done at other versions than `but`: those predictions are replaced."""
        keys = ProjectKeys(project)
        done = [keys.done(version) for version in self._ledger.versions(project) if version != but]
        if done:
            self._redis.unlink(*done)

    def sweep(self) -> list[TaskRef]:
        """Return the tasks of dead workers to the queue, and queue drains wherever tasks are due.

        A project whose keys are damaged beyond quarantine is logged, and does not keep others from being swept.
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
        rows = self._run(scripts.SWEEP, project, MAX_ATTEMPTS, reason, UNCONFIRMED_S * 1000)
        if rows:
            self._slots.free_running(project)
        self.ensure_drains(project)
        return [ref for _, ref in valid_members(self._redis, ProjectKeys(project).pending, rows, parse_ref)]

    @redis_errors
    def ensure_drains(self, project: int, *, urgent: bool = False) -> int:
        """Queue the drains that due tasks need, at most one for each worker and one more.

        Args:
            project: its id.
            urgent: whether another drain goes ahead of all others.

        Returns:
            how many were queued.
        """
        due = int(self._run(scripts.DUE, project, project))
        queued = int(self._slots.queue_urgent(project, limit=self._drain_tasks)) if urgent and due else 0
        most = self._presence.count() + 1
        return queued + self._slots.queue(project, tasks=due, limit=self._drain_tasks, most=most)

    @redis_errors
    def mark_drain_running(self, project: int, slot: int) -> None:
        """Note that a drain runs, so that its slot stays taken."""
        self._slots.mark_running(project, slot)

    @redis_errors
    def end_drain(self, project: int, slot: int) -> None:
        """Free the slot of a drain that ended, and queue the next one behind other projects where tasks are due."""
        self.free_drain(project, slot)
        self.ensure_drains(project)

    @redis_errors
    def free_drain(self, project: int, slot: int) -> None:
        """Free the slot of a drain that ended, and queue none."""
        self._slots.free(project, slot)

    @redis_errors
    def move_to_version(self, project: int, version: str) -> int:
        """Request at `version` what is pending at another, in its place and as if for the first time; returns how many
        tasks moved.
        """
        pending = ProjectKeys(project).pending
        found = dict(self._redis.zscan_iter(pending, count=1000))
        rows = valid_members(self._redis, pending, found, parse_ref)
        stale = [ref for _, ref in rows if ref.version != version]
        return self._run_in_parts(scripts.MOVE, project, stale, version)

    def _run_in_parts(self, script: str, project: int, refs: Collection[TaskRef], *args: int | str) -> int:
        members = [ref.encode() for ref in refs]
        parts = (members[start : start + _BULK] for start in range(0, len(members), _BULK))
        return sum(int(self._run(script, project, *args, *part)) for part in parts)

    def _settle(
        self, project: int, owner: str, ref: TaskRef, outcome: str, detail: str | int, most: int = MAX_ATTEMPTS
    ) -> bool:
        member, doubt_ms = ref.encode(), UNCONFIRMED_S * 1000
        return bool(self._run(scripts.SETTLE, project, owner, member, outcome, detail, most, doubt_ms))
