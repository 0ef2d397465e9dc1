"""Reads many projects in two requests to Redis, however many there are: the status page asks every few seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_text
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.learning import Progress, parse_progress
from plugin_config.queue.ledger import parse_remarks
from plugin_config.queue.quarantine import decode
from plugin_config.queue.states import PACE_S, Counts
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.versions.verdicts import LastVerdict, parse_verdicts


@dataclass(frozen=True)
class ProjectReading:
    """What Redis holds of one project.

    Attributes:
        counts: its tasks by state.
        per_s: tasks done per second in the last minute.
        remarks: what people should know about its webhooks, labels and order, a sentence each.
        progress: how far its learning is; None before the first check.
        copies: what serves it, one for each model that ever did.
        verdicts: slug of a model -> the last verdict on what was learned.
    """

    counts: Counts
    per_s: float
    remarks: tuple[str, ...]
    progress: Progress | None
    copies: tuple[ServedCopy, ...]
    verdicts: Mapping[str, LastVerdict]


@redis_errors
def read_projects(redis: Redis, projects: Sequence[int]) -> Mapping[int, ProjectReading]:
    """Read projects together.

    Args:
        redis: a connection.
        projects: their ids.

    Returns:
        project -> what was read; without those of which a key has a wrong type, or where Redis refuses: whoever reads
        such a project by itself moves the key away, or learns why.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    if not projects:
        return {}
    pipe = redis.pipeline(transaction=False)
    pipe.eval(scripts.PACES, 1, ProjectKeys(0).prefix, *map(str, projects))
    for project in projects:
        keys = ProjectKeys(project)
        pipe.zcard(keys.pending)
        pipe.hlen(keys.leases)
        pipe.hlen(keys.failed)
        pipe.smembers(keys.versions)
        pipe.get(keys.warning)
        pipe.hget(keys.labels, "remarks")
        pipe.hget(keys.order, "remark")
        pipe.get(keys.learning)
        pipe.hvals(keys.adapters)
        pipe.hgetall(keys.verdicts)
    sums, *answers = pipe.execute(raise_on_error=False)
    # One `pace` of a wrong type ends the script for all: then each project is read by itself, once.
    paces = {} if isinstance(sums, Exception) else dict(zip(projects, sums, strict=True))
    rows = dict(zip(projects, zip(*[iter(answers)] * 10, strict=True), strict=True))
    sound = {project: row for project, row in rows.items() if _sound(row)}
    done = _done(redis, {project: row[3] for project, row in sound.items()})
    adapters = ServedAdapters(redis)
    found = {}
    for project, row in sound.items():
        if project in done and project in paces:
            pending, leased, failed, _, warning, remarks, remark, learning, copies, verdicts = row
            told = (decode(warning or ""), *parse_remarks(remarks), decode(remark or ""))
            found[project] = ProjectReading(
                Counts(pending, leased, failed, done[project]), int(paces[project]) / PACE_S, tuple(filter(None, told)),
                parse_progress(learning), tuple(adapters.parse_copies(project, copies)),
                parse_verdicts(verdicts),
            )  # fmt: skip
    return found


def _done(redis: Redis, versions: Mapping[int, Any]) -> Mapping[int, int]:
    """How many tasks of each project are done, at all of its versions; without those where that cannot be told."""
    named = {project: [parse_text(version) for version in found] for project, found in versions.items()}
    pipe = redis.pipeline(transaction=False)
    asked = [(project, version) for project, found in named.items() for version in found if version]
    for project, version in asked:
        pipe.scard(ProjectKeys(project).done(version))
    counts = pipe.execute(raise_on_error=False) if asked else []
    sums = {project: 0 for project, found in named.items() if None not in found}
    for (project, _), count in zip(asked, counts, strict=True):
        if isinstance(count, Exception):
            sums.pop(project, None)
        elif project in sums:
            sums[project] += count
    return sums


def _sound(row: Sequence[Any]) -> bool:
    return not any(isinstance(answer, Exception) for answer in row)
