"""Which version of each project is served: copies in Redis of the pointers on disk, for backend and workers to read.

A worker writes them at its start and whenever it reads a project again; the truth is in
`plugin_config.versions.manifests`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import LockError

from plugin_config.errors import QueueUnavailable, VersionsUnavailable
from plugin_config.json_records import make_dataclass, parse_json
from plugin_config.model_version import ZEROSHOT, Learned, adapter_number, model_slug
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode, report
from plugin_config.versions.manifests import Owner, Pointer
from plugin_config.versions.storage import without_sign_in

log = logging.getLogger(__name__)

_MOVE_S = 20.0
_ENDLESS = -1  # of Redis: a key that does not expire
_MOST_REMEMBERED = 1000


@dataclass(frozen=True)
class ServedCopy:
    """What a project's predictions are made with.

    Attributes:
        served: name of the version, or ZEROSHOT.
        serial: of the pointer this was copied from.
        place: folder or URL of all versions, as ZEROMASK_VERSIONS names it.
        owner: what these versions were learned for.
        trouble: why it is not the version that the pointer names; "" = it is.
        calibration: engine -> how its raw scores are mapped; those of other engines stay as they are.
        learned, made: what versions of predictions say of it, see `plugin_config.model_version.Learned`.
    """

    served: str
    serial: int
    place: str
    owner: Owner
    trouble: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    learned: str = ""
    made: str = ""

    @property
    def told(self) -> Learned:
        """What versions of predictions say of what is served."""
        return Learned(self.learned, self.made)

    def check_place(self, pointer: Pointer) -> None:
        """Check that the pointer that this process read at `place` is the one that this is a copy of.

        Raises:
            VersionsUnavailable: it is behind this copy, so that `place` leads elsewhere from here, such as to a folder
                of another machine. What would be written there nobody would serve.
        """
        if pointer.serial < self.serial:
            problem = f"is not where the versions of project {self.owner.project} are, as seen from here"
            remedy = "Give this process the folder or URL that ZEROMASK_VERSIONS names, as workers and learner have it."
            raise VersionsUnavailable(f"folder {without_sign_in(self.place)}", problem, remedy)


class ServedAdapters:
    """Holds a Redis connection. Every method raises QueueUnavailable where Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._odd: set[int] = set()

    @redis_errors
    def served(self, project: int, model: str) -> str:
        """Name of the adapter in the version string; ZEROSHOT while there is no copy."""
        found = self.copy(project, model)
        return found.served if found else ZEROSHOT

    @redis_errors
    def copy(self, project: int, model: str) -> ServedCopy | None:
        """The copy for one model; None while there is none, or where it cannot be read: a newer release may have
        written it, or another program. A worker then writes it again.
        """
        found: Any = self._redis.hget(ProjectKeys(project).adapters, model_slug(model))
        return None if found is None else self._read(project, found)

    @redis_errors
    def copies(self, project: int) -> list[ServedCopy]:
        """The copies for all models that ever served the project."""
        rows: Any = self._redis.hvals(ProjectKeys(project).adapters)
        return self.parse_copies(project, rows)

    def parse_copies(self, project: int, rows: Iterable[Any]) -> list[ServedCopy]:
        """The copies that the key `adapters` holds, without those that cannot be read."""
        return [copy for copy in (self._read(project, row) for row in rows) if copy is not None]

    @redis_errors
    def write(self, project: int, copy: ServedCopy) -> None:
        """Write the copy for one model."""
        row = asdict(copy)
        for name in ("calibration", "learned", "made"):  # an earlier release, which may run beside this one, knows none
            if not row[name]:
                del row[name]
        self._redis.hset(ProjectKeys(project).adapters, model_slug(copy.owner.model), json.dumps(row))

    @redis_errors
    def write_outcomes(self, owner: Owner, outcomes: Mapping[str, Mapping[str, int]]) -> None:
        """Write what annotators did with a project's predicted regions, as `manifests.Attempt.outcomes` has it."""
        self._redis.hset(ProjectKeys(owner.project).outcomes, model_slug(owner.model), json.dumps(outcomes))

    @redis_errors
    def outcomes(self, project: int) -> dict[str, Mapping[str, Mapping[str, int]]]:
        """Slug of the model -> what `write_outcomes` wrote last; without what cannot be read."""
        return parse_outcomes(self._redis.hgetall(ProjectKeys(project).outcomes))

    @redis_errors
    def write_judged(self, project: int, judged: Mapping[str, Mapping[str, Mapping[str, int]]]) -> None:
        """Replace what annotators did with the regions predicted at each version: version -> as `write_outcomes`."""
        key = ProjectKeys(project).judged
        pipe = self._redis.pipeline()
        pipe.delete(key)
        if judged:
            rows: Any = {version: json.dumps(outcomes) for version, outcomes in judged.items()}
            pipe.hset(key, mapping=rows)
        pipe.execute()

    @redis_errors
    def judged(self, project: int) -> dict[str, Mapping[str, Mapping[str, int]]]:
        """What `write_judged` wrote last; without what cannot be read."""
        return parse_outcomes(self._redis.hgetall(ProjectKeys(project).judged))

    @contextmanager
    def pointer_lock(self, project: int) -> Iterator[None]:
        """Hold the lock of the project's pointer: no other process moves it meanwhile."""
        key = ProjectKeys(project).pointer
        self._delete_foreign_lock(key)
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
                if not isinstance(error.__cause__, LockError):  # it has expired, which is no error
                    raise

    @redis_errors
    def _delete_foreign_lock(self, key: str) -> None:
        """Delete a lock that lasts longer than ours do: another program wrote it."""
        left_ms = int(self._redis.pttl(key))
        if left_ms == _ENDLESS or left_ms > _MOVE_S * 1000:
            report(self._redis, key, "a lock that lasts too long")
            self._redis.delete(key)

    def _read(self, project: int, row: Any) -> ServedCopy | None:
        found = parse_json(row, _copy)
        if found is not None:
            self._odd.discard(project)
        elif project not in self._odd:  # or every request would log it again
            if len(self._odd) >= _MOST_REMEMBERED:
                self._odd.clear()
            self._odd.add(project)
            log.warning("project %d: Redis' copy of what is served cannot be read (%.200r): it counts as none until a "
                        "worker writes it again", project, row)  # fmt: skip
        return found


def parse_outcomes(rows: Any) -> dict[str, Mapping[str, Mapping[str, int]]]:
    """What the keys `outcomes` and `judged` hold: slug of a model, or version -> label key -> what annotators did ->
    how many regions; without what cannot be read.
    """
    found = {decode(name): parse_json(row, _outcomes) for name, row in rows.items()}
    return {name: outcomes for name, outcomes in found.items() if outcomes is not None}


def _outcomes(row: Any) -> dict[str, Mapping[str, int]]:
    counts = [count for counted in row.values() for count in counted.values()]
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        raise TypeError("outcomes must hold counts")
    return dict(row)


def _copy(row: Any) -> ServedCopy:
    copy = make_dataclass(ServedCopy, row, owner=make_dataclass(Owner, row["owner"]))
    if copy.served != ZEROSHOT and not adapter_number(copy.served):
        raise ValueError(copy.served)
    _ = copy.told  # raises ValueError where it is none
    return copy
