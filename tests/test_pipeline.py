"""The pipeline: which tasks are in it together, what fits a forward pass, what becomes of them when a worker ends."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from plugin_config.errors import (
    LabelStudioUnreachable,
    QueueUnavailable,
)
from plugin_config.vocabulary import Vocabulary
from tests.queue_states import time_passes
from tests.stand_ins import (
    ALL,
    PROJECT,
    StandInContext,
    StandInModel,
    context_fixture,
    version,
)
from worker.label_studio.images import Picture
from worker.label_studio.task_images import TaskImage
from worker.segmentation.segmenter import Segmentation
from worker.service.batching import BatchSize, embed_batch
from worker.service.pipeline import Pipeline, Stages
from worker.service.turns import EmbeddedTask, FetchedTask, ImageTurn

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


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


def test_a_redis_that_goes_away_while_a_drain_begins_leaves_no_task_behind(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held by a living worker and worked on by nobody, a task would wait for ever."""

    def away(*_: Any) -> str:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    with monkeypatch.context() as broken:
        broken.setattr(context.ledger, "target_version", away)
        context.ask(*ALL)
        with pytest.raises(QueueUnavailable):
            context.begin()
    assert context.leases.held() == 0
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]


@pytest.mark.parametrize("image", [0, 1], ids=["first image", "second image"])
def test_a_fault_before_the_first_stage_costs_that_task_alone(
    image: int, context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease would be renewed for as long as the worker lives, and so would those of all tasks after it."""
    two = '<View><Image name="a" value="$image"/><Image name="b" value="$other"/>{}</View>'.format(
        "".join(f'<BrushLabels name="{name}l" toName="{name}"><Label value="cat"/></BrushLabels>' for name in "ab")
    )
    context.label_studio.config = two
    context.label_studio.data_of = {task: {"image": "x", "other": "x"} for task in ALL}
    address = TaskImage.address

    def broken(self: TaskImage) -> Any:
        if self.task.id == 3 and self.vocabulary.to_name == "ab"[image]:
            raise RuntimeError("a fault of ours")
        return address(self)

    monkeypatch.setattr(TaskImage, "address", broken)
    context.ask(*ALL)
    context.reconcile()
    context.drain()
    assert len(context.stored()) == 7
    assert context.leases.held() == 0
    ((failed, why),) = context.pending.failures(PROJECT).items()
    assert (failed.task, "a fault of ours" in why) == (3, True)


def test_a_suspect_is_alone_on_the_line(context: StandInContext, redis: Redis) -> None:
    """Two workers died with it; the third one must die of nothing else."""
    context.ask(*ALL)
    redis.hset(f"zeromask:{PROJECT}:deaths", f"{version()}|3", 2)
    together: list[list[int]] = []

    def watch(task: int) -> None:
        if task == 3:
            together.append([ref.task for ref in context.pending.open_refs(PROJECT)])

    context.label_studio.before_store = watch
    for _ in range(3):
        context.begin()
    assert context.pipeline.wait_empty(120)
    assert context.stored() == [(task, version()) for task in ALL]
    counts = context.pending.counts(PROJECT)
    assert (counts.done, counts.leased) == (8, 0)
    assert together == [[4, 5, 6, 7, 8, 3]], "the others wait, the earlier ones are done"


def test_a_suspect_waits_for_an_empty_line_without_holding_up_what_is_opened(
    context: StandInContext, redis: Redis
) -> None:
    """The line of busy projects is empty after minutes at best, unless they are kept from it meanwhile."""
    hold = threading.Event()

    def wait(task: int) -> None:
        hold.wait(30)

    context.label_studio.before_store = wait
    context.ask(1)
    context.begin()
    redis.hset(f"zeromask:{PROJECT}:deaths", f"{version()}|3", 2)
    context.ask(3)
    started = time.monotonic()
    context.begin()
    assert time.monotonic() - started < 20
    assert not context.pipeline.room(PROJECT + 1, 1, urgent=False, timeout_s=0)
    assert context.pipeline.room(PROJECT + 1, 1, urgent=True, timeout_s=0)
    assert context.pipeline.room(PROJECT, 1, urgent=False, timeout_s=0), "its next try"
    hold.set()
    assert context.pipeline.wait_empty(120)
    time_passes(redis, 6)
    context.begin()
    assert context.pipeline.wait_empty(120)
    assert context.stored() == [(task, version()) for task in (1, 3)]
    assert context.pipeline.room(PROJECT + 1, 1, urgent=False, timeout_s=0)


def test_the_line_takes_no_more_than_it_can_hold(context: StandInContext) -> None:
    hold = threading.Event()

    def wait(task: int) -> None:
        hold.wait(20)

    context.label_studio.before_store = wait
    context.label_studio.data = dict.fromkeys(range(1, 51), "x")
    context.ask(*range(1, 51))
    for _ in range(2):
        context.begin()
    assert not context.pipeline.room(PROJECT, 8, urgent=False, timeout_s=0.1)
    assert context.pipeline.room(PROJECT, 8, urgent=True, timeout_s=0.1), "somebody waits for these"
    assert context.pipeline.room(PROJECT + 1, 8, urgent=False, timeout_s=0.1), "another project has its own share"
    hold.set()
    assert context.pipeline.wait_empty(120)


class HangingStages:
    """Fetching for project 1 hangs; what comes through of the others is noted."""

    def __init__(self) -> None:
        self.hold = threading.Event()
        self.hanging, self.fetched = threading.Semaphore(0), threading.Semaphore(0)

    def fetch(self, turn: ImageTurn) -> FetchedTask | None:
        if turn.leased.project == 1:
            self.hanging.release()
            self.hold.wait(30)
        else:
            self.fetched.release()
        return None

    def give_back(self, leased: Any, *, posting: bool) -> None:
        """Nobody's."""


def tasks_of(project: int, count: int, *, urgent: bool = False) -> list[Any]:
    images = SimpleNamespace(images=[SimpleNamespace(address=lambda: "http://h/a.png")])
    lease = SimpleNamespace(urgent=urgent)
    return [SimpleNamespace(project=project, images=images, lease=lease, ref=number) for number in range(count)]


def test_pictures_that_hang_hold_up_no_other_project() -> None:
    stages = HangingStages()
    pipeline = Pipeline(cast("Stages", stages), capacity=16, batch=8, stopping=threading.Event())
    try:
        for _ in range(2):
            assert pipeline.room(1, 8, urgent=False, timeout_s=0)
            pipeline.admit(tasks_of(1, 8))
        assert not pipeline.room(1, 8, urgent=False, timeout_s=0), "this project has its share of the line"
        assert pipeline.room(1, 8, urgent=True, timeout_s=0)
        pipeline.admit(tasks_of(1, 8, urgent=True))
        for project in range(2, 6):
            assert pipeline.room(project, 8, urgent=False, timeout_s=0)
            pipeline.admit(tasks_of(project, 8))
        pipeline.admit(tasks_of(6, 1, urgent=True))
        assert all(stages.fetched.acquire(timeout=30) for _ in range(4 * 8 + 1))
    finally:
        stages.hold.set()
        assert pipeline.wait_empty(120)
        pipeline.close(grace_s=0)


class BlockedStages(HangingStages):
    """Nothing is drawn; what was embedded is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = threading.Semaphore(0)

    def fetch(self, turn: ImageTurn) -> FetchedTask:
        pixels: Any = SimpleNamespace(nbytes=12_000_000, shape=(2000, 2000, 3))
        return FetchedTask(turn, Picture(pixels, (2000, 2000)))

    def embed(self, batch: Any, size: BatchSize) -> Any:
        for _ in batch:
            self.embedded.release()
        return [EmbeddedTask(item.turn, item.picture, cast("Any", None), None) for item in batch]

    def draw(self, embedded: Any) -> None:
        self.hold.wait(30)


def test_pictures_that_are_opened_wait_outside_the_memory_and_hold_up_no_other_project() -> None:
    stages = BlockedStages()
    pipeline = Pipeline(cast("Stages", stages), capacity=64, batch=1, stopping=threading.Event())
    try:
        pipeline.admit(tasks_of(1, 60, urgent=True))
        assert all(stages.embedded.acquire(timeout=30) for _ in range(9)), "one is being drawn, eight wait for that"
        assert not stages.embedded.acquire(timeout=0.6)
        pipeline.admit(tasks_of(2, 1, urgent=True))
        assert stages.embedded.acquire(timeout=30), "it waits for none of the other project's"
        assert not stages.embedded.acquire(timeout=0.1)
    finally:
        stages.hold.set()
        assert pipeline.wait_empty(120)
        pipeline.close(grace_s=0)


def test_stopping_does_not_wait_for_each_picture_that_hangs() -> None:
    """A supervisor kills what has not ended after ten seconds."""
    stages = HangingStages()
    pipeline = Pipeline(cast("Stages", stages), capacity=16, batch=8, stopping=threading.Event())
    pipeline.admit(tasks_of(1, 16))
    pipeline.admit(tasks_of(1, 16, urgent=True))
    assert all(stages.hanging.acquire(timeout=30) for _ in range(12))
    started = time.monotonic()
    pipeline.close(grace_s=0)
    assert time.monotonic() - started < 10
    stages.hold.set()


def test_stopping_finishes_what_was_drawn_and_gives_the_rest_back_without_blame(
    context: StandInContext, redis: Redis
) -> None:
    context.label_studio.data = dict.fromkeys(range(1, 17), "x")
    context.ask(*range(1, 17))
    looked = threading.Event()

    def stop() -> None:  # the signal comes when tasks are taken and none is fetched
        context.stopping.set()
        looked.set()

    context.label_studio.before_tasks = stop
    context.begin()
    assert looked.is_set()
    context.begin()
    context.pipeline.close(grace_s=5)
    counts = context.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.leased, counts.failed) == (0, 16, 0, 0)
    assert redis.hlen(f"zeromask:{PROJECT}:deaths") == redis.hlen(f"zeromask:{PROJECT}:tries") == 0


def test_stopping_while_label_studio_is_away_gives_everything_back(context: StandInContext) -> None:
    def away(task: int) -> None:
        raise LabelStudioUnreachable("LS", "ConnectError", "Start it.")

    context.label_studio.before_store = away
    context.ask(*ALL)
    context.begin()
    assert not context.pipeline.wait_empty(0.3)
    context.pipeline.close(grace_s=5)
    counts = context.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (8, 0, 0)


def test_masks_that_do_not_fit_are_tried_again_and_cost_the_others_nothing(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = context.segmenter.segment, [True]

    def segment(embedding: Any, vocabulary: Vocabulary, image: NDArray[np.uint8], **_: Any) -> Segmentation:
        if full.pop() if full else False:
            raise MemoryError
        return real(embedding, vocabulary, image)

    monkeypatch.setattr(context.segmenter, "segment", segment)
    context.ask(*ALL)
    context.reconcile()
    context.drain()
    assert len(context.stored()) == 7
    time_passes(redis)
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]


def test_labels_that_do_not_fit_are_tried_again(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read where pictures are fetched, beside whatever else is in the memory just then."""
    full = [True]

    def read_words(vocabulary: Vocabulary) -> None:
        if full.pop() if full else False:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(context.segmenter, "read_words", read_words)
    context.ask(1)
    context.drain()
    assert context.pending.counts(PROJECT).pending == 1
    time_passes(redis)
    context.drain()
    assert context.stored() == [(1, version())]
