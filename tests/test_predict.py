"""Each task of a batch is settled by itself, on a real Redis: what goes wrong with one costs the others nothing.

Label Studio and the model are small stand-ins here, because the point is what they do wrong; `test_label_studio.py`
has the real ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from plugin_config.errors import ImageUnavailable, LabelStudioError, LabelStudioUnreachable
from plugin_config.jobs import DrainProject, RefreshProject, TaskRef
from plugin_config.label_studio import Project, StoredPrediction, Task
from plugin_config.ledger import ProjectLedger
from plugin_config.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary, parse_vocabulary, version_name
from worker import predict
from worker.predict import drain
from worker.refresh import refresh
from worker.resident import Resident
from worker.segmentation.segmenter import LabelSegment, Segmentation

CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="{}"/></BrushLabels></View>'
)
PROJECT = 1


def version(word: str = "cat") -> str:
    return version_name("builtin", parse_vocabulary(CONFIG.format(word)))


class StandInLabelStudio:
    """Keeps tasks and predictions in memory; `before_store` may refuse."""

    def __init__(self, count: int) -> None:
        self.config = CONFIG.format("cat")
        self.gone = self.refuses = False
        self.data = dict.fromkeys(range(1, count + 1), "x")
        self.stored: list[StoredPrediction] = []
        self.annotated: set[int] = set()
        self.shown = ""
        self.before_store: Callable[[int], None] = lambda task: None

    def project(self, project: int) -> Project:
        if self.gone:
            raise LabelStudioError("GET project", "was refused (HTTP 404)", "Check.", status=404)
        if self.refuses:
            raise LabelStudioError("GET project", "was refused (HTTP 401)", "Token.", status=401)
        return Project(project, "t", self.config, self.shown)

    def model_titles(self, project: int) -> frozenset[str]:
        return frozenset()

    def all_tasks(self, project: int) -> Iterator[Task]:
        for task in self.data:
            versions = frozenset(row.version for row in self.stored if row.task == task)
            yield Task(task, {"image": self.data[task]}, versions, int(task in self.annotated))

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        return [task for task in self.all_tasks(project) if task.id in ids]

    def predictions(self, task: int) -> list[StoredPrediction]:
        return [row for row in self.stored if row.task == task]

    def create_prediction(self, task: int, result: Sequence[Any], *, score: float, version: str) -> StoredPrediction:
        self.before_store(task)
        row = StoredPrediction(len(self.stored) + 1, task, version, list(result), score)
        self.stored.append(row)
        return row

    def delete_prediction(self, prediction: int) -> None:
        self.stored = [row for row in self.stored if row.id != prediction]

    def show_version(self, project: int, version: str) -> None:
        self.shown = version


class StandInModel:
    """Finds one square in every image; images whose first pixel is 13 do not fit its memory."""

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        if any(image[0, 0, 0] == 13 for image in images):
            raise RuntimeError("out of memory")
        return list(images)

    def segment(self, embedding: Any, vocabulary: Vocabulary, image: NDArray[np.uint8]) -> Segmentation:
        assert embedding is image  # this stand-in's embedding is the picture: each goes with its own
        mask = np.zeros((8, 8), dtype=bool)
        mask[2:5, 2:5] = True
        return Segmentation((LabelSegment(vocabulary.labels[0], mask, 0.9),), 0.9)

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        return {}


@dataclass
class StandInResident:
    """What `worker.resident.Resident` holds, with stand-ins for the model and Label Studio."""

    pending: PendingTasks
    ledger: ProjectLedger
    label_studio: StandInLabelStudio
    name: str = "me"
    settings: Settings = field(default_factory=lambda: Settings(model="builtin"))
    segmenter: StandInModel = field(default_factory=StandInModel)
    embeddings: StandInModel = field(default_factory=StandInModel)
    limits: None = None
    explained: set[str] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def holding(self, project: int, refs: Sequence[TaskRef]) -> Iterator[None]:
        yield

    def release(self, project: int, refs: Sequence[TaskRef]) -> None:
        pass

    def ask(self, *tasks: int, word: str = "cat") -> None:
        self.pending.add(PROJECT, [TaskRef(version(word), task) for task in tasks])

    def drain(self) -> None:
        drain(cast("Resident", self), DrainProject(project=PROJECT, slot=0, limit=8))

    def refresh(self) -> None:
        refresh(cast("Resident", self), RefreshProject(project=PROJECT))

    def stored(self) -> list[tuple[int, str]]:
        return sorted((row.task, row.version) for row in self.label_studio.stored)


@pytest.fixture
def resident(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> StandInResident:
    def fetch(url: object, *, task: int, label_studio: object, limits: object) -> NDArray[np.uint8]:
        if url == "broken":
            raise ImageUnavailable(f"image of task {task}", "is broken", "Mend it.")
        return np.full((8, 8, 3), 13 if url == "huge" else 200, dtype=np.uint8)

    monkeypatch.setattr(predict, "fetch_image", fetch)
    pending = PendingTasks(redis, drain_tasks=8, lease_s=30)
    house = StandInResident(pending, ProjectLedger(redis), StandInLabelStudio(8))
    house.ledger.serve(PROJECT, version())
    return house


def refuse(task: int, error: Exception) -> Callable[[int], None]:
    def check(asked: int) -> None:
        if asked == task:
            raise error

    return check


ALL = tuple(range(1, 9))
BUT_THREE = [(task, version()) for task in ALL if task != 3]


def test_all_is_done_and_shown_once(resident: StandInResident) -> None:
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]
    assert resident.label_studio.shown == version()
    counts = resident.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed, counts.done) == (0, 0, 0, 8)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        pytest.param(LabelStudioError("POST", "was refused (HTTP 404)", "Check.", status=404), "failed", id="refused"),
        pytest.param(LabelStudioUnreachable("LS", "answered HTTP 500", "Log.", status=500), "pending", id="500"),
        pytest.param(RuntimeError("a fault of ours"), "failed", id="our own fault"),
        pytest.param(KeyError("surprise"), "failed", id="surprise"),
    ],
)
def test_one_task_in_trouble_costs_the_others_nothing(
    resident: StandInResident, error: Exception, state: str
) -> None:
    resident.label_studio.before_store = refuse(3, error)
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == BUT_THREE
    counts = resident.pending.counts(PROJECT)
    assert (counts.leased, counts.done) == (0, 7)
    assert (counts.failed, counts.pending) == ((1, 0) if state == "failed" else (0, 1))


@pytest.mark.parametrize("url", ["broken", "huge"])
def test_one_image_in_trouble_costs_the_others_nothing(resident: StandInResident, url: str) -> None:
    resident.label_studio.data[3] = url
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == BUT_THREE
    assert [ref.task for ref in resident.pending.failures(PROJECT)] == [3]


def test_a_task_that_always_gets_500_fails_in_the_end_with_that_reason(
    resident: StandInResident, redis: Redis
) -> None:
    resident.label_studio.before_store = refuse(3, LabelStudioUnreachable("LS", "answered HTTP 500", "L.", status=500))
    resident.ask(3)
    for _ in range(5):
        resident.drain()
        for member, _ in redis.zscan_iter("zeromask:1:pending"):
            redis.zadd("zeromask:1:pending", {member: 0})  # time passes
    (reason,) = resident.pending.failures(PROJECT).values()
    assert "HTTP 500" in reason


def test_a_silent_label_studio_keeps_everything_waiting(resident: StandInResident) -> None:
    resident.label_studio.before_store = refuse(3, LabelStudioUnreachable("LS", "ConnectError", "Start it."))
    resident.ask(*ALL)
    resident.drain()
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.leased, counts.failed) == (2, 6, 0, 0)


def test_a_refused_token_keeps_everything_waiting(resident: StandInResident) -> None:
    resident.label_studio.refuses = True
    resident.ask(*ALL)
    resident.drain()
    counts = resident.pending.counts(PROJECT)
    assert (counts.pending, counts.failed) == (8, 0)


def test_a_project_that_is_gone_is_forgotten(resident: StandInResident, redis: Redis) -> None:
    resident.label_studio.gone = True
    resident.ask(*ALL)
    resident.drain()
    assert resident.pending.projects() == []
    assert [key for key in redis.keys("zeromask:1:*") if b"drain" not in key] == []


def test_what_another_model_was_asked_for_is_predicted_at_the_version_served(resident: StandInResident) -> None:
    resident.pending.add(PROJECT, [TaskRef("ViT-B-16-zeroshot-00000000", task) for task in ALL])
    resident.drain()
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]


def test_a_label_edited_during_a_drain_is_caught_up_with(resident: StandInResident) -> None:
    def edit(task: int) -> None:
        if task == 1:  # another worker refreshes the project while this one draws at the old labels
            resident.label_studio.config = CONFIG.format("dog")
            resident.refresh()

    resident.label_studio.before_store = edit
    resident.ask(*ALL)
    resident.drain()
    assert resident.label_studio.shown != version("cat"), "the old version is not shown any more"
    for _ in range(3):
        resident.drain()
    assert resident.stored() == [(task, version("dog")) for task in ALL]


def test_annotated_tasks_keep_their_older_prediction(resident: StandInResident) -> None:
    resident.ask(*ALL)
    resident.drain()
    resident.label_studio.annotated = {3}
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    resident.drain()
    assert resident.stored() == [(task, version("cat") if task == 3 else version("dog")) for task in ALL]


def test_stopping_gives_back_what_was_not_begun_without_blame(resident: StandInResident) -> None:
    resident.label_studio.before_store = lambda task: resident.stopping.set()
    resident.ask(*ALL)
    resident.drain()
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.leased, counts.failed) == (1, 7, 0, 0)


def test_a_lost_lease_stores_nothing(resident: StandInResident, redis: Redis) -> None:
    resident.ask(1)
    real = resident.segmenter.segment

    def slow(embedding: Any, vocabulary: Vocabulary, image: NDArray[np.uint8]) -> Segmentation:
        redis.delete("zeromask:1:leases")  # it ran out and another worker took the task
        return real(embedding, vocabulary, image)

    resident.segmenter.segment = slow  # type: ignore[method-assign]
    resident.drain()
    assert resident.stored() == []
