"""Posts through a Label Studio and a Redis in trouble: they wait, they look before they repeat, none arrives twice."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    QueueUnavailable,
)
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.overview.control import QueueControl
from plugin_config.queue.jobs import TaskRef
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary
from tests.house import wait_until
from tests.queue_states import time_passes
from tests.stand_ins import (
    ALL,
    PROJECT,
    StandInContext,
    context_fixture,
    refuse,
    refuse_once,
    version,
)
from worker.segmentation.segmenter import Segmentation

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


def test_a_task_that_always_gets_500_fails_in_the_end_with_that_reason(
    context: StandInContext, redis: Redis
) -> None:
    context.label_studio.before_store = refuse(3, LabelStudioFailing("LS", "answered HTTP 500", "L.", status=500))
    context.ask(3)
    for _ in range(5):
        context.drain()
        time_passes(redis)
    (reason,) = context.pending.failures(PROJECT).values()
    assert "HTTP 500" in reason


def away(status: int) -> LabelStudioError:
    """The error of a status; 0 = no answer."""
    if not status:
        return LabelStudioUnreachable("LS", "ReadTimeout", "Start it.")
    return LabelStudioFailing("LS", f"answered HTTP {status}", "Look.", status=status)


@pytest.mark.parametrize("status", [0, 500, 502])
def test_posts_wait_for_a_label_studio_in_trouble_and_go_on(context: StandInContext, status: int) -> None:
    troubled = threading.Event()
    troubled.set()

    def trouble(task: int) -> None:
        if troubled.is_set():
            raise away(status)

    context.label_studio.before_store = trouble
    context.ask(*ALL)
    context.begin()
    assert not context.pipeline.wait_empty(0.5)
    wait_until(lambda: context.trouble == str(away(status)), told="the trouble is noted")
    counts = context.pending.counts(PROJECT)
    assert (counts.done, counts.failed) == (0, 0)
    assert counts.leased + counts.pending == 8
    troubled.clear()
    assert context.pipeline.wait_empty(120)
    blamed = context.pending.counts(PROJECT).pending
    assert blamed <= 2, "before it was clear that Label Studio is the one in trouble"
    assert (len(context.stored()), context.pending.counts(PROJECT).done) == (8 - blamed, 8 - blamed)
    assert context.trouble == ""


@pytest.mark.parametrize("status", [0, 500, 502])
def test_a_post_that_arrived_although_its_answer_was_lost_is_not_repeated(
    context: StandInContext, redis: Redis, status: int
) -> None:
    lost: set[int] = set()

    def lose(task: int) -> None:
        if task not in lost:
            lost.add(task)
            raise away(status)

    context.label_studio.after_store = lose
    context.ask(*ALL)
    for _ in range(3):
        context.drain()
        time_passes(redis, 10)
    assert context.stored() == [(task, version()) for task in ALL]
    counts = context.pending.counts(PROJECT)
    assert (counts.done, counts.pending, counts.failed) == (8, 0, 0)


def test_a_prediction_that_came_late_beside_its_repetition_is_found(context: StandInContext, redis: Redis) -> None:
    """The first request is still at work in Label Studio when the second one is answered."""
    late: list[StoredPrediction] = []
    context.label_studio.before_store = refuse_once(3, LabelStudioUnreachable("LS", "ReadTimeout", "Look."))
    context.ask(*ALL)
    context.drain()
    late.append(StoredPrediction(99, 3, version(), [], 0.5))
    context.label_studio.stored += late
    context.reconcile()
    assert context.stored() == [(task, version()) for task in ALL]
    assert 99 not in [row.id for row in context.label_studio.stored], "the first one stays"
    assert context.ledger.unconfirmed(PROJECT) != {}
    time_passes(redis)
    context.reconcile()
    assert context.ledger.unconfirmed(PROJECT) == {}


def test_of_two_predictions_the_one_annotated_stays(context: StandInContext) -> None:
    context.ask(3)
    context.drain()
    context.label_studio.stored.append(StoredPrediction(99, 3, version(), [], 0.5))
    context.label_studio.parents = {99}
    context.ledger.add_unconfirmed(PROJECT, TaskRef(version(), 3))
    context.reconcile()
    assert [row.id for row in context.label_studio.stored] == [99]


def test_a_doubt_about_a_task_that_is_gone_does_not_end_the_look(context: StandInContext) -> None:
    context.ask(3, 4)
    context.drain()
    context.label_studio.stored.append(StoredPrediction(99, 4, version(), [], 0.5))
    for task in (3, 4):
        context.ledger.add_unconfirmed(PROJECT, TaskRef(version(), task))
    del context.label_studio.data[3]
    context.reconcile()
    assert list(context.ledger.unconfirmed(PROJECT)) == [TaskRef(version(), 4)]
    assert 99 not in [row.id for row in context.label_studio.stored], "the others are settled"


def test_how_a_task_ended_is_told_when_redis_is_back(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = context.pending.done

    def away(*_: Any, **__: Any) -> bool:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    monkeypatch.setattr(context.pending, "done", away)
    context.ask(*ALL)
    context.drain()
    assert len(context.stored()) == 8
    assert context.pending.counts(PROJECT).leased == 8
    with pytest.raises(QueueUnavailable):
        context.leases.renew()
    assert context.leases.held() == 8
    monkeypatch.setattr(context.pending, "done", real)
    context.leases.renew()
    assert context.leases.held() == 0
    assert context.pending.counts(PROJECT).done == 8


def test_a_cancelled_task_is_not_posted(context: StandInContext, redis: Redis, settings: Settings) -> None:
    def cancel() -> None:
        QueueControl(redis, settings).cancel(PROJECT)

    context.label_studio.before_tasks = cancel
    context.ask(*ALL)
    context.drain()
    assert context.stored() == []


def test_a_task_deleted_while_it_was_drawn_is_no_failure(context: StandInContext) -> None:
    def delete(task: int) -> None:
        if task == 3:
            context.label_studio.data.pop(3, None)
            raise LabelStudioError("POST", "was refused (HTTP 400)", "Check.", status=400)

    context.label_studio.before_store = delete
    context.ask(*ALL)
    context.drain()
    counts = context.pending.counts(PROJECT)
    assert (counts.done, counts.failed, counts.pending, counts.leased) == (7, 0, 0, 0)


def test_a_lost_lease_stores_nothing(context: StandInContext, redis: Redis) -> None:
    context.ask(1)
    real = context.segmenter.segment

    def slow(embedding: Any, vocabulary: Vocabulary, image: NDArray[np.uint8], **_: Any) -> Segmentation:
        redis.delete("zeromask:1:leases")  # it ran out and another worker took the task
        return real(embedding, vocabulary, image)

    context.segmenter.segment = slow  # type: ignore[method-assign]
    context.drain()
    assert context.stored() == []
