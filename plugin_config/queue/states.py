"""Reads the states of the requested tasks: counts, failures, what is pending or leased. `pending` changes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis

from plugin_config.json_records import parse_json
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef, parse_id, parse_ref
from plugin_config.queue.keys import CONTRACTS, ERRORS, PAUSED, PROJECTS, UNKNOWN, ProjectKeys
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.quarantine import decode, parse_moment, valid_members

PACE_S = 60
"""Seconds over which the pace of a project is told."""


@dataclass(frozen=True)
class Counts:
    """How many tasks of a project are in each state; `done` at all versions not forgotten."""

    pending: int
    leased: int
    failed: int
    done: int


@dataclass(frozen=True)
class TaskFailure:
    """One failed task.

    Attributes:
        at: when, UTC.
        project, task: their ids.
        version: the version it was to be predicted at.
        reason: for people.
    """

    at: datetime
    project: int
    task: int
    version: str
    reason: str


class TaskStates:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._ledger = ProjectLedger(redis)

    @redis_errors
    def projects(self) -> list[int]:
        """Ids of the projects that ever requested a task, including those not yet looked up in Label Studio."""
        known: Any = self._redis.smembers(PROJECTS)
        unknown: Any = self._redis.zrange(UNKNOWN, 0, -1)
        rows = (*valid_members(self._redis, PROJECTS, known, parse_id),
                *valid_members(self._redis, UNKNOWN, unknown, parse_id))  # fmt: skip
        return sorted({project for _, project in rows})

    @redis_errors
    def known_projects(self) -> list[int]:
        """Ids of the projects that Label Studio was found to have."""
        known: Any = self._redis.smembers(PROJECTS)
        return sorted(project for _, project in valid_members(self._redis, PROJECTS, known, parse_id))

    @redis_errors
    def paused_projects(self) -> frozenset[int]:
        """Ids of the projects whose tasks wait until a person resumes them."""
        members: Any = self._redis.smembers(PAUSED)
        return frozenset(project for _, project in valid_members(self._redis, PAUSED, members, parse_id))

    @redis_errors
    def newest_contract(self) -> int:
        """The newest contract by which tasks of any project were requested."""
        rows: Any = self._redis.hvals(CONTRACTS)
        return max((parse_id(row) or 1 for row in rows), default=1)

    @redis_errors
    def is_newer(self, project: int) -> bool:
        """Whether a part with a newer contract has requested tasks of a project: it is left to others like it."""
        return bool(self._run(scripts.IS_NEWER, project))

    @redis_errors
    def counts(self, project: int) -> Counts:
        """Tasks by state."""
        keys, versions = ProjectKeys(project), self._ledger.versions(project)
        pipe = self._redis.pipeline(transaction=False)
        pipe.zcard(keys.pending)
        pipe.hlen(keys.leases)
        pipe.hlen(keys.failed)
        for version in versions:
            pipe.scard(keys.done(version))
        pending, leased, failed, *done = pipe.execute()
        return Counts(pending, leased, failed, sum(done))

    @redis_errors
    def tasks_per_s(self, project: int) -> float:
        """Tasks done per second in the last minute."""
        return int(self._run(scripts.PACE, project)) / PACE_S

    @redis_errors
    def longest_wait_s(self, project: int) -> float:
        """Seconds since the task that waits longest became due; 0 where none is due."""
        return max(0, int(self._run(scripts.LONGEST_WAIT, project, scripts.AHEAD_MS))) / 1000

    @redis_errors
    def failures(self, project: int) -> dict[TaskRef, str]:
        """Failed tasks with their reasons."""
        key = ProjectKeys(project).failed
        rows: Any = self._redis.hgetall(key)
        return {ref: decode(rows[member]) for member, ref in valid_members(self._redis, key, rows, parse_ref)}

    @redis_errors
    def tries(self, project: int, ref: TaskRef) -> int:
        """How often a task was tried already."""
        found: Any = self._redis.hget(ProjectKeys(project).tries, ref.encode())
        return int(found) if found is not None and found.isdigit() else 0

    @redis_errors
    def last_failures(self, most: int) -> list[TaskFailure]:
        """The last failures of all projects, newest first; at most `most` rows are read, unreadable ones left out."""
        rows: Any = self._redis.lrange(ERRORS, 0, most - 1) if most else []
        return [failure for failure in (parse_json(row, _failure) for row in rows) if failure is not None]

    @redis_errors
    def open_refs(self, project: int) -> list[TaskRef]:
        """Every task that is pending or leased."""
        keys = ProjectKeys(project)
        waiting: Any = self._redis.zrange(keys.pending, 0, -1)
        held: Any = self._redis.hkeys(keys.leases)
        rows = (*valid_members(self._redis, keys.pending, waiting, parse_ref),
                *valid_members(self._redis, keys.leases, held, parse_ref))  # fmt: skip
        return [ref for _, ref in rows]

    @redis_errors
    def wait_settled(self, project: int, refs: Sequence[TaskRef], *, timeout_s: float) -> bool:
        """Wait until none of the tasks is pending or leased; False when the time ran out."""
        keys, members = ProjectKeys(project), [ref.encode() for ref in refs]
        deadline = time.monotonic() + timeout_s
        while True:
            pipe = self._redis.pipeline(transaction=False)
            for member in members:
                pipe.zscore(keys.pending, member)
                pipe.hexists(keys.leases, member)
            states = pipe.execute()
            if not any(state is not None and state is not False and state != 0 for state in states):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    def _run(self, script: str, project: int, *args: Any) -> Any:
        return self._redis.eval(script, 1, ProjectKeys(project).prefix, *args)


def _failure(row: Any) -> TaskFailure:
    ref = parse_ref(row["task"])
    if ref is None:
        raise ValueError(row["task"])
    return TaskFailure(parse_moment(row["at"]), int(row["project"]), ref.task, ref.version, str(row["reason"]))
