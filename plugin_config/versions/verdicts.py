"""The last verdict on what was learned of each project, for people: `zeromask status` and the status page.

The pointer on disk holds it (`plugin_config.versions.manifests`); workers copy it to Redis, where it stays until a
newer one, so that it is read without the place of the versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from plugin_config.json_records import make_dataclass, parse_json
from plugin_config.model_version import model_slug
from plugin_config.printable import one_line
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode
from plugin_config.versions.manifests import Owner, Pointer

CORRECTIONS = "corrections"
"""Source of what the recipe `quick` learned."""

_MOST_REASON = 1000  # characters


@dataclass(frozen=True)
class LastVerdict:
    """The gate's last verdict on a project.

    Attributes:
        at: when, UTC, ISO 8601.
        promoted: whether what was judged is served since.
        reason: a sentence for people.
        source: what was judged: CORRECTIONS, or as `Contender.source` has it, "offered: lseg trained on drawn:words".
        version: name of the version that was made; "" = none was.
    """

    at: str
    promoted: bool
    reason: str
    source: str
    version: str = ""


def verdict_of(pointer: Pointer) -> LastVerdict | None:
    """The newest verdict that a pointer holds; None where nothing was judged yet."""
    found = [
        LastVerdict(row.at, row.verdict.promoted, row.verdict.reason, row.source, row.version)
        for row in pointer.contenders.values()
    ]
    if pointer.attempt is not None:
        attempt = pointer.attempt
        verdict = attempt.verdict
        found.append(LastVerdict(attempt.at, verdict.promoted, verdict.reason, CORRECTIONS, attempt.version))
    return max((row for row in found if row.reason), key=lambda row: row.at, default=None)


@redis_errors
def write_verdict(redis: Redis, owner: Owner, verdict: LastVerdict | None) -> None:
    """Replace the last verdict on a project for one model; None = nothing was judged.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    key, model = ProjectKeys(owner.project).verdicts, model_slug(owner.model)
    if verdict is None:
        redis.hdel(key, model)
    else:
        redis.hset(key, model, json.dumps(asdict(verdict)))


@redis_errors
def last_verdict(redis: Redis, project: int, model: str) -> LastVerdict | None:
    """The last verdict on a project for one model.

    Args:
        redis: a connection.
        project: its id.
        model: the MODEL setting.

    Returns:
        None where nothing was judged yet, or where it cannot be read.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    return last_verdicts(redis, project).get(model_slug(model))


@redis_errors
def last_verdicts(redis: Redis, project: int) -> Mapping[str, LastVerdict]:
    """Slug of the model -> its last verdict on a project, without what cannot be read.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    rows: Any = redis.hgetall(ProjectKeys(project).verdicts)
    return parse_verdicts(rows)


def parse_verdicts(rows: Mapping[Any, Any]) -> Mapping[str, LastVerdict]:
    """What the key `verdicts` holds: slug of the model -> its last verdict, without what cannot be read."""
    found = {decode(model): parse_json(row, _verdict) for model, row in rows.items()}
    return {model: verdict for model, verdict in found.items() if verdict is not None}


def _verdict(row: Any) -> LastVerdict:
    found = make_dataclass(LastVerdict, row)
    reason, source = one_line(found.reason)[:_MOST_REASON], one_line(found.source)[:_MOST_REASON]
    return LastVerdict(one_line(found.at)[:40], found.promoted, reason, source, one_line(found.version)[:100])
