"""What the order of annotation is made from, for each project: a short record of each predicted image, which tasks were
seen by a person, and the places at the head of the order.

A copy of what Label Studio and the model said, to be had without reading all tasks again: what is missing is not known,
and comes with the next prediction.

Fields of the hash `order` of a project:

    sampling     "set" once the project's sampling was set to Label Studio's order by score, "found" where it was that
    view         "made" or "found", likewise, of the view of the Data Manager
    remark       what people should know about the order, a sentence
    seen         JSON of `SeenMark`: the tasks of `corrected` and `skipped`, as they were read last
    written      another text after each record
    basis        what the present order was made from
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from redis import Redis

from plugin_config.json_records import parse_json
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_id
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.quarantine import decode, valid_members

T = TypeVar("T")

MOST_RECORDS = 100_000
"""Images of a project that have a record; further ones follow by their score alone."""

MOST_LABELS = 8
"""Labels of a record, those with the highest scores."""

_MOST_TEXT = 2000  # characters of a record's labels and vector each
_AT_ONCE = 1000


@dataclass(frozen=True)
class ImageRecord:
    """What is known of a task whose prediction is stored.

    Attributes:
        version: of the prediction.
        prediction: its id in Label Studio.
        score: of the prediction as it was computed, in [0, 1]: how sure the model is of it.
        shown: its score in Label Studio, where a place in the order may stand.
        labels: label key -> highest score of a region predicted with it, in [0, 1]; MOST_LABELS at most.
        encoder: what the vector was made with: vectors of different encoders cannot be compared.
        vector: what the image looks like, (D,) int8 in base64, of any length; "" = not known.
    """

    version: str
    prediction: int
    score: float
    shown: float
    labels: Mapping[str, float]
    encoder: str
    vector: str

    def encode(self) -> str:
        """The record as JSON without names: there are many of them."""
        labels = {key: round(score, 3) for key, score in self.labels.items()}
        row = [self.version, self.prediction, self.score, self.shown, labels, self.encoder, self.vector]
        return json.dumps(row, separators=(",", ":"))


@dataclass(frozen=True)
class Place:
    """A place at the head of the order.

    Attributes:
        rank: from 0.
        score: what the task's prediction has in Label Studio for it.
        reason: why the task is there, for people.
    """

    rank: int
    score: float
    reason: str


@dataclass(frozen=True)
class SeenMark:
    """The tasks that a person annotated or skipped, cheap to ask for and to compare.

    Attributes:
        tasks: how many there are.
        latest: when one of them last changed, as Label Studio writes it; "" where there is none.
    """

    tasks: int
    latest: str


class ProjectOrder:
    """Holds a Redis connection. Every method raises QueueUnavailable when Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @redis_errors
    def put(self, project: int, task: int, record: ImageRecord) -> bool:
        """Keep the record of a task; False where it is new and there are MOST_RECORDS already."""
        keys = ProjectKeys(project)
        if int(self._redis.hlen(keys.images)) >= MOST_RECORDS and not self._redis.hexists(keys.images, str(task)):
            return False
        pipe = self._redis.pipeline()
        pipe.hset(keys.images, str(task), record.encode())
        pipe.hset(keys.order, "written", uuid.uuid4().hex)
        pipe.execute()
        return True

    @redis_errors
    def set_shown(self, project: int, task: int, record: ImageRecord) -> None:
        """Replace a record of which only the score in Label Studio has changed: no reason to order again."""
        self._redis.hset(ProjectKeys(project).images, str(task), record.encode())

    @redis_errors
    def count(self, project: int) -> int:
        """How many records there are."""
        return int(self._redis.hlen(ProjectKeys(project).images))

    def records(self, project: int) -> Iterator[tuple[int, ImageRecord]]:
        """Every record with the id of its task, read in pages; one may come twice. Unreadable ones are removed."""
        cursor: int | None = None
        while cursor != 0:
            cursor, rows = self._page(project, cursor or 0)
            yield from rows

    @redis_errors
    def _page(self, project: int, cursor: int) -> tuple[int, list[tuple[int, ImageRecord]]]:
        found: Any = self._redis.hscan(ProjectKeys(project).images, cursor, count=_AT_ONCE)
        return int(found[0]), list(self._parsed(ProjectKeys(project).images, found[1], _record))

    @redis_errors
    def some_records(self, project: int, tasks: Collection[int]) -> dict[int, ImageRecord]:
        """The records of these tasks, where there are any."""
        if not tasks:
            return {}
        key, ids = ProjectKeys(project).images, sorted(tasks)
        texts: Any = self._redis.hmget(key, [str(task) for task in ids])
        rows = {str(task).encode(): text for task, text in zip(ids, texts, strict=True) if text is not None}
        return dict(self._parsed(key, rows, _record))

    @redis_errors
    def forget(self, project: int, tasks: Collection[int]) -> None:
        """Delete the records of tasks."""
        if tasks:
            self._redis.hdel(ProjectKeys(project).images, *map(str, tasks))

    @redis_errors
    def places(self, project: int) -> dict[int, Place]:
        """The head of the order, by the id of the task, the next one first."""
        key = ProjectKeys(project).places
        rows: Any = self._redis.hgetall(key)
        return dict(sorted(self._parsed(key, rows, _place), key=lambda found: found[1].rank))

    @redis_errors
    def place(self, project: int, task: int) -> Place | None:
        """The place of a task; None where it is not at the head."""
        key = ProjectKeys(project).places
        text: Any = self._redis.hget(key, str(task))
        return None if text is None else dict(self._parsed(key, {str(task).encode(): text}, _place)).get(task)

    @redis_errors
    def set_places(self, project: int, places: Mapping[int, Place]) -> None:
        """Replace the head of the order."""
        key = ProjectKeys(project).places
        pipe = self._redis.pipeline()
        pipe.delete(key)
        if places:
            rows = {str(task): [found.rank, found.score, found.reason] for task, found in places.items()}
            texts: Any = {task: json.dumps(row) for task, row in rows.items()}
            pipe.hset(key, mapping=texts)
        pipe.execute()

    @redis_errors
    def seen_mark(self, project: int) -> SeenMark:
        """The mark of the last `set_seen`; of no task before the first."""
        found = self._redis.hget(ProjectKeys(project).order, "seen") or b"null"
        return parse_json(found, lambda row: SeenMark(int(row[0]), str(row[1]))) or SeenMark(0, "")

    @redis_errors
    def seen(self, project: int) -> tuple[frozenset[int], frozenset[int]]:
        """Ids of the tasks that are annotated, and of those that were only skipped."""
        keys = ProjectKeys(project)
        return self._ids(keys.corrected), self._ids(keys.skipped)

    @redis_errors
    def set_seen(self, project: int, corrected: Collection[int], skipped: Collection[int], mark: SeenMark) -> None:
        """Replace what `seen` and `seen_mark` return."""
        keys = ProjectKeys(project)
        pipe = self._redis.pipeline()
        for key, tasks in ((keys.corrected, list(corrected)), (keys.skipped, list(skipped))):
            pipe.delete(key)
            for start in range(0, len(tasks), _AT_ONCE):
                pipe.sadd(key, *tasks[start : start + _AT_ONCE])
        pipe.hset(keys.order, "seen", json.dumps([mark.tasks, mark.latest]))
        pipe.execute()

    @redis_errors
    def written(self, project: int) -> str:
        """Another text after each `put`."""
        return decode(self._redis.hget(ProjectKeys(project).order, "written") or "")

    @redis_errors
    def basis(self, project: int) -> str:
        """The text of the last `set_basis`, "" before the first."""
        return decode(self._redis.hget(ProjectKeys(project).order, "basis") or "")

    @redis_errors
    def set_basis(self, project: int, basis: str) -> None:
        """Note what the present order was made from."""
        self._redis.hset(ProjectKeys(project).order, "basis", basis)

    @redis_errors
    def begin(self, project: int, *, pause_s: float) -> bool:
        """Whether the order may be set now: not within `pause_s` seconds after the last time."""
        return bool(self._redis.set(ProjectKeys(project).ordered, "1", nx=True, px=max(1, int(pause_s * 1000))))

    @redis_errors
    def noted(self, project: int, what: Literal["sampling", "view"]) -> str:
        """What `note` noted; "" where it has not."""
        return decode(self._redis.hget(ProjectKeys(project).order, what) or "")

    @redis_errors
    def note(self, project: int, what: Literal["sampling", "view"], how: Literal["set", "made", "found"]) -> None:
        """Note that the sampling was set or the view made, or found to be there: each is done once."""
        self._redis.hset(ProjectKeys(project).order, what, how)

    @redis_errors
    def forget_sampling(self, project: int) -> None:
        """Have the project's sampling set once more."""
        self._redis.hdel(ProjectKeys(project).order, "sampling")

    @redis_errors
    def set_remark(self, project: int, remark: str) -> None:
        """Replace what people should know about the order, a sentence; "" = nothing."""
        if remark:
            self._redis.hset(ProjectKeys(project).order, "remark", remark)
        else:
            self._redis.hdel(ProjectKeys(project).order, "remark")

    @redis_errors
    def remark(self, project: int) -> str:
        """The text of the last `set_remark`, "" before the first."""
        return decode(self._redis.hget(ProjectKeys(project).order, "remark") or "")

    def _ids(self, key: str) -> frozenset[int]:
        rows: Any = self._redis.smembers(key)
        return frozenset(task for _, task in valid_members(self._redis, key, rows, parse_id))

    def _parsed(
        self, key: str, rows: Mapping[Any, Any], make: Callable[[Any], T]
    ) -> Iterator[tuple[int, T]]:
        """Rows of a hash by task; what nobody here wrote is removed."""
        def parse(member: Any) -> tuple[int, T] | None:
            task, value = parse_id(member), parse_json(rows[member], make)
            return None if task is None or value is None else (task, value)

        return iter([found for _, found in valid_members(self._redis, key, rows, parse)])


def _record(row: Any) -> ImageRecord:
    version, prediction, score, shown, labels, encoder, vector = _list(row)
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS or type(prediction) is not int:
        raise TypeError("not a record")
    if any(type(text) is not str or len(text) > _MOST_TEXT for text in (version, encoder, vector, *labels)):
        raise TypeError("not the texts of a record")
    return ImageRecord(
        version, prediction, _share(score), _share(shown), {key: _share(value) for key, value in labels.items()},
        encoder, vector,
    )  # fmt: skip


def _place(row: Any) -> Place:
    rank, score, reason = _list(row)
    if type(rank) is not int or rank < 0 or type(reason) is not str:
        raise TypeError("not a place")
    return Place(rank, _share(score), reason)


def _list(row: Any) -> Sequence[Any]:
    if type(row) is not list:
        raise TypeError("not a list")
    return row


def _share(value: Any) -> float:
    """A number in [0, 1]."""
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(value)
    return float(value)
