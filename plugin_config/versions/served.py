"""Which learned version of each project is served: Redis' copy of the pointers on disk, which both halves read.

A copy for speed, made anew by the worker at its start and at every look at a project; the truth is in
`plugin_config.versions.manifests`. It must not know files or tensors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.exceptions import LockError

from plugin_config.errors import QueueUnavailable
from plugin_config.json_records import make_dataclass, parse_json
from plugin_config.model_version import ZEROSHOT, adapter_number, model_slug
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import report
from plugin_config.versions.manifests import Owner

log = logging.getLogger(__name__)

_MOVE_S = 20.0
_ENDLESS = -1  # of Redis: a key that does not expire
_MOST_REMEMBERED = 1000


@dataclass(frozen=True)
class ServedCopy:
    """What a project's predictions are made with.

    Attributes:
        served: name of the version, or "zeroshot".
        serial: of the pointer this was copied from.
        place: where the versions are kept; `owner` whose they are.
        trouble: why it is not what the pointer says; "" = it is.
    """

    served: str
    serial: int
    place: str
    owner: Owner
    trouble: str = ""


class ServedAdapters:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._odd: set[int] = set()

    @redis_errors
    def served(self, project: int, model: str) -> str:
        """The adapter's name in the version string; "zeroshot" while nothing is known."""
        found = self.copy_of(project, model)
        return found.served if found else ZEROSHOT

    @redis_errors
    def copy_of(self, project: int, model: str) -> ServedCopy | None:
        """The copy for one model, None while nothing is known, or while what stands there cannot be read: a newer
        release may have written it, or somebody else. The worker's next look makes it anew.
        """
        found: Any = self._redis.hget(ProjectKeys(project).adapters, model_slug(model))
        return None if found is None else self._read(project, found)

    @redis_errors
    def copies(self, project: int) -> list[ServedCopy]:
        """The copies for all models that ever served the project."""
        rows: Any = self._redis.hvals(ProjectKeys(project).adapters)
        return [copy for copy in (self._read(project, row) for row in rows) if copy is not None]

    @redis_errors
    def copy(self, project: int, found: ServedCopy) -> None:
        """This is what is served from now on."""
        self._redis.hset(ProjectKeys(project).adapters, model_slug(found.owner.model), json.dumps(asdict(found)))

    @contextmanager
    def moving(self, project: int) -> Iterator[None]:
        """Keep others from moving the project's pointer meanwhile."""
        key = ProjectKeys(project).pointer
        self._let_go(key)
        lock = self._redis.lock(key, timeout=_MOVE_S, blocking_timeout=_MOVE_S)
        if not redis_errors(lock.acquire)():
            remedy = "Try again in a moment."
            raise QueueUnavailable(f"project {project}", "is being moved to another version just now", remedy)
        try:
            yield
        finally:
            try:
                redis_errors(lock.release)()
            except QueueUnavailable as error:
                if not isinstance(error.__cause__, LockError):  # it ran out: nobody needs to be told
                    raise

    @redis_errors
    def _let_go(self, key: str) -> None:
        """What holds the pointer for longer than anybody here does was written by somebody else."""
        left_ms = int(self._redis.pttl(key))
        if left_ms == _ENDLESS or left_ms > _MOVE_S * 1000:
            report(self._redis, key, "a hold without an end")
            self._redis.delete(key)

    def _read(self, project: int, row: Any) -> ServedCopy | None:
        found = parse_json(row, _copy)
        if found is not None:
            self._odd.discard(project)
        elif project not in self._odd:  # each request would say it again
            if len(self._odd) >= _MOST_REMEMBERED:
                self._odd.clear()
            self._odd.add(project)
            log.warning("project %d: Redis' copy of what is served cannot be read (%.200r): it counts as none until a "
                        "worker makes it anew", project, row)  # fmt: skip
        return found


def _copy(row: Any) -> ServedCopy:
    copy = make_dataclass(ServedCopy, row, owner=make_dataclass(Owner, row["owner"]))
    if copy.served != ZEROSHOT and not adapter_number(copy.served):
        raise ValueError(copy.served)
    return copy
