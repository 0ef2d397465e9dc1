"""What workers have done since Redis was set up, for `/metrics`: tasks that ended, and the time at each stage.

These numbers only grow, until Redis is emptied: a monitoring system takes the differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_id
from plugin_config.queue.keys import ENDED, STAGES, ProjectKeys

STAGE_NAMES = ("fetch", "embed", "segment", "post")
"""The stages of a task in a worker: its image is read, encoded, segmented, and the prediction stored."""
OUTCOMES = ("done", "failed")
"""How a task ends: its prediction is stored, or there is a reason why not. Requested again, it ends again."""


@dataclass(frozen=True)
class StageTotal:
    """One stage, all workers together.

    Attributes:
        tasks: how many tasks passed it, of those whose prediction was stored.
        seconds: how long that took.
    """

    tasks: int
    seconds: float


class Totals:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def add_stages(self, ms: Mapping[str, float]) -> None:
        """Add a task whose prediction was stored: stage -> milliseconds that it took."""
        spent = [part for stage, stage_ms in ms.items() for part in (stage, round(stage_ms * 1000))]
        self._redis.eval(scripts.ADD_STAGES, 1, ProjectKeys(0).prefix, *spent)

    @redis_errors
    def ended(self) -> dict[str, int]:
        """How a task ends -> how many ended so. A number that cannot be read counts as 0."""
        return dict(zip(OUTCOMES, self._read(ENDED, *OUTCOMES), strict=True))

    @redis_errors
    def stages(self) -> dict[str, StageTotal]:
        """Stage -> its totals. A number that cannot be read counts as 0."""
        tasks = self._read(STAGES, *STAGE_NAMES)
        spent = self._read(STAGES, *(f"{stage}:us" for stage in STAGE_NAMES))
        rows = zip(STAGE_NAMES, tasks, spent, strict=True)
        return {stage: StageTotal(count, micros / 1_000_000) for stage, count, micros in rows}

    def _read(self, key: str, *fields: str) -> list[int]:
        found: Any = self._redis.hmget(key, list(fields))
        return [parse_id(value) or 0 for value in found]
