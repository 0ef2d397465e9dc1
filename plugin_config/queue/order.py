"""What the order of annotation is made from, for each project: a short record of each predicted image, which tasks were
seen by a person, and the places at the head of the order.

A copy of what Label Studio and the model said, to be had without reading all tasks again: what is missing is not known,
and comes with the next prediction.

Fields of the hash `order` of a project:

    created      when the project was created: a Label Studio set up anew gives the same ids again
    sampling     what of the project's sampling is known, see `Sampling`
    view         "made" or "found" of the view of the Data Manager
    remark       what people should know about the order, a sentence
    seen         JSON of `SeenMark`: the tasks of `corrected` and `skipped`, as they were read last
    written      another text after each record that comes or goes
    basis        what the present order was made from
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from plugin_config.json_records import parse_json
from plugin_config.queue import scripts
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.jobs import parse_id
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.order_turns import OrderTurns
from plugin_config.queue.quarantine import decode, valid_members

T = TypeVar("T")

Sampling = Literal["set", "found", "back", "resume", "theirs"]
"""What is known of a project's sampling: it was set to Label Studio's order by score, or found to be that; it was set
back to the default; a person wants the order to be set again; a person chose another before anything was noted here."""

HEAD_BELOW = 0.001
"""Scores of predictions in Label Studio below this are places at the head of the order; all others have at least it."""

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
        labels: label key -> highest raw score of a region predicted with it, in [0, 1]; MOST_LABELS at most.
        encoder: what the vector was made with: vectors of different encoders cannot be compared.
        vector: what the image looks like, (D,) int8 in base64, of any length; "" = not known.
        raw: least raw score of its regions, before any calibration; None = it has no region, or an earlier release made
            the record, whose labels have scores that are not raw.
        blank: least score of those of its images that have no region; None = each has one.
    """

    version: str
    prediction: int
    score: float
    shown: float
    labels: Mapping[str, float]
    encoder: str
    vector: str
    raw: float | None = None
    blank: float | None = None

    def encode(self) -> str:
        """The record as JSON without names: there are many of them."""
        labels = {key: round(score, 3) for key, score in self.labels.items()}
        row = [
            self.version, self.prediction, self.score, self.shown, labels, self.encoder, self.vector, self.raw,
            self.blank,
        ]  # fmt: skip
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


class ProjectOrder(OrderTurns):
    """Holds a Redis connection, and which orders this process sets. Every method raises QueueUnavailable when Redis
    does not answer.
    """

    @redis_errors
    def belong_to(self, project: int, created: str) -> None:
        """Forget what is known of an earlier project with the same id.

        Args:
            project: its id.
            created: when it was created, as Label Studio writes it; "" = not known.
        """
        if created:
            self._run(scripts.CLAIM_ORDER, project, created)

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
        """Replace a record of which only the score in Label Studio has changed: no reason to order again. That of a
        prediction stored meanwhile stays.
        """
        self._run(scripts.REPLACE_RECORD, project, task, record.prediction, record.encode(), "")

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
        """Delete the records and the places of tasks."""
        if tasks:
            keys, pipe = ProjectKeys(project), self._redis.pipeline()
            pipe.hdel(keys.images, *map(str, tasks))
            pipe.hdel(keys.places, *map(str, tasks))
            pipe.hset(keys.order, "written", uuid.uuid4().hex)
            pipe.execute()

    @redis_errors
    def forget_prediction(self, project: int, task: int, prediction: int) -> bool:
        """Delete the record and the place of a task; False where its record is of another prediction by now."""
        return bool(self._run(scripts.REPLACE_RECORD, project, task, prediction, "", uuid.uuid4().hex))

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
        """Another text after each `put`, and after each record that is deleted."""
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
    def sampling(self, project: int) -> str:
        """What `note_sampling` noted; "" where it has not."""
        return decode(self._redis.hget(ProjectKeys(project).order, "sampling") or "")

    @redis_errors
    def note_sampling(self, project: int, how: Sampling, *, first: bool = False) -> None:
        """Note what is known of the project's sampling; with `first` only where nothing was noted."""
        key = ProjectKeys(project).order
        if first:
            self._redis.hsetnx(key, "sampling", how)
        else:
            self._redis.hset(key, "sampling", how)

    @redis_errors
    def view(self, project: int) -> str:
        """What `note_view` noted; "" where it has not."""
        return decode(self._redis.hget(ProjectKeys(project).order, "view") or "")

    @redis_errors
    def note_view(self, project: int, how: Literal["made", "found"]) -> None:
        """Note that the view was made or found to be there: it is made once."""
        self._redis.hset(ProjectKeys(project).order, "view", how)

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
    version, prediction, score, shown, labels, encoder, vector, *raw = _list(row)
    if len(raw) not in (0, 2):  # an earlier release wrote none
        raise TypeError("not a record")
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS or type(prediction) is not int:
        raise TypeError("not a record")
    for text in (version, encoder, vector, *labels):  # a hundred thousand records are read: no generators here
        if type(text) is not str or len(text) > _MOST_TEXT:
            raise TypeError("not the texts of a record")
    return ImageRecord(
        version, prediction, _share(score), _share(shown), {key: _share(value) for key, value in labels.items()},
        encoder, vector, *[None if value is None else _share(value) for value in raw],
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
