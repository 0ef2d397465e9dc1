"""Each task of a batch is settled by itself, on a real Redis: what goes wrong with one costs the others nothing.

Label Studio and the model are small stand-ins here, because the point is what they do wrong; `test_label_studio.py`
has the real ones.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from plugin_config.control import QueueControl
from plugin_config.errors import (
    ImageHostTrouble,
    ImageUnavailable,
    LabelStudioError,
    LabelStudioUnreachable,
    QueueUnavailable,
)
from plugin_config.hints import ProjectHints
from plugin_config.jobs import DrainProject, RefreshProject, TaskRef
from plugin_config.label_studio import Project, StoredPrediction, Task
from plugin_config.ledger import ProjectLedger
from plugin_config.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary, parse_vocabulary, version_name
from worker import posting, predict
from worker.batches import BatchSize, embed_batch
from worker.leases import Leases
from worker.pipeline import Pipeline
from worker.predict import Prediction, drain
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
        self.ids = itertools.count(1)
        self.annotated: set[int] = set()
        self.shown = ""
        self.before_store: Callable[[int], None] = lambda task: None
        self.after_store: Callable[[int], None] = lambda task: None
        self.before_tasks: Callable[[], None] = lambda: None
        self.parents: set[int] = set()
        self.scores: dict[int, float] = {}

    def project(self, project: int) -> Project:
        if self.gone:
            raise LabelStudioError("GET project", "was refused (HTTP 404)", "Check.", status=404)
        if self.refuses:
            raise LabelStudioError("GET project", "was refused (HTTP 401)", "Token.", status=401)
        return Project(project, "t", self.config, self.shown, len(self.data))

    def model_titles(self, project: int) -> frozenset[str]:
        return frozenset()

    def all_tasks(self, project: int) -> Iterator[Task]:
        for task in self.data:
            versions = frozenset(row.version for row in self.stored if row.task == task)
            yield Task(task, {"image": self.data[task]}, versions, int(task in self.annotated), self.scores.get(task))

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        self.before_tasks()
        return [task for task in self.all_tasks(project) if task.id in ids]

    def predictions(self, task: int) -> list[StoredPrediction]:
        return [row for row in self.stored if row.task == task]

    def create_prediction(self, task: int, result: Sequence[Any], *, score: float, version: str) -> StoredPrediction:
        self.before_store(task)
        row = StoredPrediction(next(self.ids), task, version, list(result), score)
        self.stored.append(row)
        self.after_store(task)
        return row

    def parent_predictions(self, task: int) -> frozenset[int]:
        return frozenset(self.parents)

    def delete_prediction(self, prediction: int) -> None:
        self.stored = [row for row in self.stored if row.id != prediction]

    def show_version(self, project: int, version: str) -> None:
        self.shown = version


class StandInModel:
    """Finds one square in every image; images whose first pixel is 13 do not fit its memory, nor do more than `room` at
    once; those with 14 break it.
    """

    def __init__(self) -> None:
        self.room = 100
        self.batches: list[int] = []

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]:
        self.batches.append(len(images))
        if any(image[0, 0, 0] == 13 for image in images) or len(images) > self.room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        if any(image[0, 0, 0] == 14 for image in images):
            raise RuntimeError("shapes do not match")
        return list(images)

    def segment(self, embedding: Any, vocabulary: Vocabulary) -> Segmentation:
        mask = np.zeros((8, 8), dtype=bool)
        mask[2:5, 2:5] = True
        return Segmentation((LabelSegment(vocabulary.labels[0], mask, 0.9),), 0.9)

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        return {}


class StandInResident:
    """What `worker.resident.Resident` holds, with stand-ins for the model and Label Studio, and a real line."""

    def __init__(self, redis: Redis, count: int = 8) -> None:
        self.name = "me"
        self.settings = Settings(model="builtin")
        self.pending = PendingTasks(redis, drain_tasks=8, lease_s=30)
        self.leases = Leases(self.pending, self.name)
        self.ledger = ProjectLedger(redis)
        self.hints = ProjectHints(redis)
        self.label_studio = StandInLabelStudio(count)
        self.segmenter = self.embeddings = StandInModel()
        self.limits = None
        self.explained: set[str] = set()
        self.stopping = threading.Event()
        self.trouble = ""
        self.pipeline = Pipeline(Prediction(cast("Resident", self)), capacity=16, batch=8, stopping=self.stopping)

    def ask(self, *tasks: int, word: str = "cat") -> None:
        self.pending.add(PROJECT, [TaskRef(version(word), task) for task in tasks])

    def begin(self) -> None:
        drain(cast("Resident", self), self.pipeline, DrainProject(project=PROJECT, slot=0, limit=8))

    def drain(self) -> None:
        self.begin()
        assert self.pipeline.wait_empty(20)

    def refresh(self) -> None:
        refresh(cast("Resident", self), RefreshProject(project=PROJECT))

    def stored(self) -> list[tuple[int, str]]:
        return sorted((row.task, row.version) for row in self.label_studio.stored)


@pytest.fixture(name="resident")
def resident_fixture(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInResident]:
    def fetch(url: object, *, task: int, label_studio: object, limits: object) -> NDArray[np.uint8]:
        if url == "broken":
            raise ImageUnavailable(f"image of task {task}", "is broken", "Mend it.")
        if url == "slow":
            raise ImageHostTrouble(f"image of task {task}", "did not arrive within 30 s", "Look at its server.")
        return np.full((8, 8, 3), {"huge": 13, "odd": 14}.get(str(url), 200), dtype=np.uint8)

    monkeypatch.setattr(predict, "fetch_image", fetch)
    monkeypatch.setattr(predict, "_AWAY_S", 0.05)
    monkeypatch.setattr(predict, "_REFUSED_S", 0.05)
    monkeypatch.setattr(posting, "_FIRST_WAIT_S", 0.05)
    house = StandInResident(redis)
    house.ledger.serve(PROJECT, version())
    yield house
    house.pipeline.close(grace_s=0.1)


def time_passes(redis: Redis, seconds: float = 1000) -> None:
    redis.hincrby("zeromask:clock", "now", int(seconds * 1000))


def refuse(task: int, error: Exception) -> Callable[[int], None]:
    def check(asked: int) -> None:
        if asked == task:
            raise error

    return check


def refuse_once(task: int, error: Exception) -> Callable[[int], None]:
    left = [task]

    def check(asked: int) -> None:
        if asked in left:
            left.remove(asked)
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


@pytest.mark.parametrize(
    ("url", "tries", "reason"),
    [
        pytest.param("broken", 1, "is broken", id="no image"),
        pytest.param("odd", 1, "cannot be embedded (shapes do not match)", id="breaks the model"),
        pytest.param("huge", 3, "does not fit the memory", id="larger than the memory"),
        pytest.param("slow", 3, "did not arrive", id="slow host"),
    ],
)
def test_one_image_in_trouble_costs_the_others_nothing(
    resident: StandInResident, redis: Redis, url: str, tries: int, reason: str
) -> None:
    resident.label_studio.data[3] = url
    resident.ask(*ALL)
    for done in range(tries):
        assert resident.pending.counts(PROJECT).failed == 0, f"failed after {done} tries"
        resident.drain()
        assert resident.stored() == BUT_THREE
        time_passes(redis)
    (failed,) = resident.pending.failures(PROJECT).items()
    assert failed[0].task == 3
    assert reason in failed[1]


def test_a_batch_that_does_not_fit_is_done_in_parts_and_the_next_ones_are_smaller() -> None:
    model, size = StandInModel(), BatchSize(8)
    size.size, model.room = 8, 3
    images = [np.full((8, 8, 3), 200, dtype=np.uint8) for _ in range(8)]
    assert len(embed_batch(images, model.embed, size)) == 8
    assert model.batches == [8, 4, 2, 2, 4, 2, 2]
    assert size.size == 2
    for _ in range(40):
        embed_batch(images[: size.size], model.embed, size)
    assert size.size == 2, "no more for a while"
    model.room = 100  # something else gave its memory back
    for _ in range(100):
        embed_batch(images[: size.size], model.embed, size)
    assert size.size == 8


def test_a_slow_model_gets_small_batches() -> None:
    size = BatchSize(8)
    for _ in range(5):
        size.took(size.size, 0.01)
    assert size.size == 8
    size.took(8, 5.0)
    assert size.size == 4


def test_a_task_that_always_gets_500_fails_in_the_end_with_that_reason(
    resident: StandInResident, redis: Redis
) -> None:
    resident.label_studio.before_store = refuse(3, LabelStudioUnreachable("LS", "answered HTTP 500", "L.", status=500))
    resident.ask(3)
    for _ in range(5):
        resident.drain()
        time_passes(redis)
    (reason,) = resident.pending.failures(PROJECT).values()
    assert "HTTP 500" in reason


@pytest.mark.parametrize("status", [0, 500, 502])
def test_posts_wait_for_a_label_studio_in_trouble_and_go_on(resident: StandInResident, status: int) -> None:
    troubled = threading.Event()
    troubled.set()

    def trouble(task: int) -> None:
        if troubled.is_set():
            raise LabelStudioUnreachable("LS", f"answered HTTP {status}", "Start it.", status=status)

    resident.label_studio.before_store = trouble
    resident.ask(*ALL)
    resident.begin()
    assert not resident.pipeline.wait_empty(0.5)
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.failed) == (0, 0)
    assert counts.leased + counts.pending == 8
    assert "answered HTTP" in resident.trouble
    troubled.clear()
    assert resident.pipeline.wait_empty(20)
    blamed = resident.pending.counts(PROJECT).pending
    assert blamed <= 2, "before it was clear that Label Studio is the one in trouble"
    assert (len(resident.stored()), resident.pending.counts(PROJECT).done) == (8 - blamed, 8 - blamed)
    assert resident.trouble == ""


@pytest.mark.parametrize("status", [0, 500, 502])
def test_a_post_that_arrived_although_its_answer_was_lost_is_not_repeated(
    resident: StandInResident, redis: Redis, status: int
) -> None:
    lost: set[int] = set()

    def lose(task: int) -> None:
        if task not in lost:
            lost.add(task)
            raise LabelStudioUnreachable("LS", "ReadTimeout", "Look.", status=status)

    resident.label_studio.after_store = lose
    resident.ask(*ALL)
    for _ in range(3):
        resident.drain()
        time_passes(redis, 10)
    assert resident.stored() == [(task, version()) for task in ALL]
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.failed) == (8, 0, 0)


def test_a_prediction_that_came_late_beside_its_repetition_is_found(resident: StandInResident, redis: Redis) -> None:
    """The first request is still at work in Label Studio when the second one is answered."""
    late: list[StoredPrediction] = []
    resident.label_studio.before_store = refuse_once(3, LabelStudioUnreachable("LS", "ReadTimeout", "Look."))
    resident.ask(*ALL)
    resident.drain()
    late.append(StoredPrediction(99, 3, version(), [], 0.5))
    resident.label_studio.stored += late
    resident.refresh()
    assert resident.stored() == [(task, version()) for task in ALL]
    assert 99 not in [row.id for row in resident.label_studio.stored], "the first one stays"
    assert resident.ledger.doubts(PROJECT) != {}
    time_passes(redis)
    resident.refresh()
    assert resident.ledger.doubts(PROJECT) == {}


def test_of_two_predictions_the_one_annotated_stays(resident: StandInResident) -> None:
    resident.ask(3)
    resident.drain()
    resident.label_studio.stored.append(StoredPrediction(99, 3, version(), [], 0.5))
    resident.label_studio.parents = {99}
    resident.ledger.doubt(PROJECT, TaskRef(version(), 3))
    resident.refresh()
    assert [row.id for row in resident.label_studio.stored] == [99]


def test_how_a_task_ended_is_told_when_redis_is_back(
    resident: StandInResident, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = resident.pending.done

    def away(*_: Any) -> bool:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    monkeypatch.setattr(resident.pending, "done", away)
    resident.ask(*ALL)
    resident.drain()
    assert len(resident.stored()) == 8
    assert resident.pending.counts(PROJECT).leased == 8
    with pytest.raises(QueueUnavailable):
        resident.leases.renew()
    assert resident.leases.held() == 8
    monkeypatch.setattr(resident.pending, "done", real)
    resident.leases.renew()
    assert resident.leases.held() == 0
    assert resident.pending.counts(PROJECT).done == 8


def test_a_redis_that_goes_away_while_a_drain_begins_leaves_no_task_behind(
    resident: StandInResident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held by a living worker and worked on by nobody, a task would wait for ever."""

    def away(*_: Any) -> str:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    with monkeypatch.context() as broken:
        broken.setattr(resident.ledger, "served", away)
        resident.ask(*ALL)
        with pytest.raises(QueueUnavailable):
            resident.begin()
    assert resident.leases.held() == 0
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]


def test_a_cancelled_task_is_not_posted(resident: StandInResident, redis: Redis, settings: Settings) -> None:
    def cancel() -> None:
        QueueControl(redis, settings).cancel(PROJECT)

    resident.label_studio.before_tasks = cancel
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == []


def test_a_task_deleted_while_it_was_drawn_is_no_failure(resident: StandInResident) -> None:
    def delete(task: int) -> None:
        if task == 3:
            resident.label_studio.data.pop(3, None)
            raise LabelStudioError("POST", "was refused (HTTP 400)", "Check.", status=400)

    resident.label_studio.before_store = delete
    resident.ask(*ALL)
    resident.drain()
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.failed, counts.pending, counts.leased) == (7, 0, 0, 0)


def test_a_suspect_is_alone_on_the_line(resident: StandInResident, redis: Redis) -> None:
    """Two workers died with it; the third one must die of nothing else."""
    resident.ask(*ALL)
    redis.hset(f"zeromask:{PROJECT}:deaths", f"{version()}|3", 2)
    together: list[list[int]] = []

    def watch(task: int) -> None:
        if task == 3:
            together.append([ref.task for ref in resident.pending.open_refs(PROJECT)])

    resident.label_studio.before_store = watch
    for _ in range(3):
        resident.begin()
    assert resident.pipeline.wait_empty(20)
    assert resident.stored() == [(task, version()) for task in ALL]
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.leased) == (8, 0)
    assert together == [[4, 5, 6, 7, 8, 3]], "the others wait, the earlier ones are done"


def test_the_line_takes_no_more_than_it_can_hold(resident: StandInResident) -> None:
    hold = threading.Event()

    def wait(task: int) -> None:
        hold.wait(20)

    resident.label_studio.before_store = wait
    resident.label_studio.data = dict.fromkeys(range(1, 51), "x")
    resident.ask(*range(1, 51))
    for _ in range(2):
        resident.begin()
    assert not resident.pipeline.room(8, urgent=False, timeout_s=0.1)
    assert resident.pipeline.room(8, urgent=True, timeout_s=0.1), "somebody waits for these"
    hold.set()
    assert resident.pipeline.wait_empty(20)


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
    for _ in range(3):
        resident.drain()
    assert resident.stored() == [(task, version("dog")) for task in ALL]
    assert resident.label_studio.shown == version("dog"), "the old version is not shown any more"


def test_annotated_tasks_keep_their_older_prediction(resident: StandInResident) -> None:
    resident.ask(*ALL)
    resident.drain()
    resident.label_studio.annotated = {3}
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    resident.drain()
    assert resident.stored() == [(task, version("cat") if task == 3 else version("dog")) for task in ALL]


def test_stopping_finishes_what_was_drawn_and_gives_the_rest_back_without_blame(
    resident: StandInResident, redis: Redis
) -> None:
    resident.label_studio.data = dict.fromkeys(range(1, 17), "x")
    resident.ask(*range(1, 17))
    looked = threading.Event()

    def stop() -> None:  # the signal comes when tasks are taken and none is fetched
        resident.stopping.set()
        looked.set()

    resident.label_studio.before_tasks = stop
    resident.begin()
    assert looked.is_set()
    resident.begin()
    resident.pipeline.close(grace_s=5)
    counts = resident.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.leased, counts.failed) == (0, 16, 0, 0)
    assert redis.hlen(f"zeromask:{PROJECT}:deaths") == redis.hlen(f"zeromask:{PROJECT}:tries") == 0


def test_stopping_while_label_studio_is_away_gives_everything_back(resident: StandInResident) -> None:
    def away(task: int) -> None:
        raise LabelStudioUnreachable("LS", "ConnectError", "Start it.")

    resident.label_studio.before_store = away
    resident.ask(*ALL)
    resident.begin()
    assert not resident.pipeline.wait_empty(0.3)
    resident.pipeline.close(grace_s=5)
    counts = resident.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (8, 0, 0)


def test_a_lost_lease_stores_nothing(resident: StandInResident, redis: Redis) -> None:
    resident.ask(1)
    real = resident.segmenter.segment

    def slow(embedding: Any, vocabulary: Vocabulary) -> Segmentation:
        redis.delete("zeromask:1:leases")  # it ran out and another worker took the task
        return real(embedding, vocabulary)

    resident.segmenter.segment = slow  # type: ignore[method-assign]
    resident.drain()
    assert resident.stored() == []
