"""Some tasks of a project with what is known of each, read in bounded pieces however many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import TaskRef, parse_ref
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode
from plugin_config.queue.scripts import AHEAD_MS

_MOST_WAIT_S = 10**7


@dataclass(frozen=True)
class TaskRow:
    """A task and why it is in its state.

    Attributes:
        ref: the task and the version it is wanted at.
        detail: for people; "" = nothing is to be said.
    """

    ref: TaskRef
    detail: str


@dataclass(frozen=True)
class ProjectTasks:
    """Some tasks of a project, by state."""

    failed: tuple[TaskRow, ...]
    leased: tuple[TaskRow, ...]
    pending: tuple[TaskRow, ...]


@redis_errors
def read_tasks(redis: Redis, project: int, *, most: int) -> ProjectTasks:
    """Read tasks of a project in two requests to Redis.

    Args:
        redis: a connection.
        project: its id.
        most: of each state; of the pending ones those that are due first, of the others any.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    keys = ProjectKeys(project)
    pipe = redis.pipeline(transaction=False)
    pipe.eval(scripts.NOW, 1, keys.prefix)
    pipe.hscan(keys.failed, 0, count=most)
    pipe.hscan(keys.leases, 0, count=most)
    pipe.zrange(keys.pending, 0, most - 1, withscores=True)
    now, (_, failed), (_, leased), pending = pipe.execute()
    waiting: list[Any] = [member for member, _ in pending]
    tries: list[Any] = list(redis.hmget(keys.tries, waiting)) if waiting else []
    waits = {member: _waits(due, int(now), tried) for (member, due), tried in zip(pending, tries, strict=True)}
    return ProjectTasks(
        _rows({member: decode(reason) for member, reason in failed.items()}, most),
        _rows({member: f"at worker {decode(lease).split('|')[0]}" for member, lease in leased.items()}, most),
        _rows(waits, most),
    )


def _rows(details: dict[Any, str], most: int) -> tuple[TaskRow, ...]:
    """Without members that nobody here wrote: whoever leases or counts them sets them aside."""
    refs = ((parse_ref(member), detail) for member, detail in details.items())
    return tuple(TaskRow(ref, detail) for ref, detail in refs if ref is not None)[:most]


def _waits(due_ms: float, now_ms: int, tried: Any) -> str:
    if due_ms <= now_ms:
        return "an annotator has opened it" if due_ms < -1.5 * AHEAD_MS else ""
    count = int(tried) if tried is not None and tried.isdigit() else 0
    times = f"tried {count} {'time' if count == 1 else 'times'}, " if count else ""
    wait_s = (due_ms - now_ms) / 1000
    return f"{times}again in {max(1, round(wait_s))} s" if wait_s < _MOST_WAIT_S else "never due"  # not ours
