"""A worker that is cut off from Redis, from Label Studio or from both loses nothing and doubles nothing; real Redis."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Any, cast

import pytest
from redis import Redis

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    QueueUnavailable,
    VersionsUnavailable,
)
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.queue.jobs import TaskRef, refresh_queue
from plugin_config.queue.keys import ENDED, ProjectKeys
from tests.house import wait_until
from tests.queue_states import time_passes
from tests.stand_ins import ALL, PROJECT, StandInContext, context_fixture, version
from worker.service import cut_off
from worker.service.context import WorkerContext
from worker.service.failures import WAIT_FOR_STORAGE, Stage, treat, treatment_of

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

REF = TaskRef(version(), 1)


def another_does_it(context: StandInContext, redis: Redis, task: int) -> None:
    """The lease runs out, another worker gets the task and stores its prediction, and the doubt about it is over."""
    time_passes(redis, 60)
    ref = TaskRef(version(), task)
    assert ref in context.pending.sweep()
    assert [lease.ref for lease in context.pending.take(PROJECT, "another")] == [ref]
    context.label_studio.stored.append(StoredPrediction(90 + task, task, version(), [], 0.5))
    assert context.pending.done(PROJECT, "another", ref)
    time_passes(redis)
    context.reconcile()
    assert context.ledger.unconfirmed(PROJECT) == {}


def test_a_post_that_arrives_hours_after_its_lease_was_lost_is_taken_back(
    context: StandInContext, redis: Redis
) -> None:
    """The network, or the machine, stopped between the check of the lease and the post."""
    context.label_studio.before_store = lambda task: another_does_it(context, redis, task)
    context.ask(1)
    context.drain()
    assert context.stored() == [(1, version())] * 2
    assert context.ledger.unconfirmed(PROJECT) == {REF: False}
    assert len(refresh_queue(redis).job_ids) == 1, "at once, not at the next periodic one"
    context.reconcile()
    assert context.stored() == [(1, version())]
    assert context.pending.counts(PROJECT).done == 1


def test_so_is_one_whose_end_was_told_only_when_redis_was_back(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> bool:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    context.ask(1)
    with monkeypatch.context() as broken:
        broken.setattr(context.pending, "done", away)
        context.drain()
    context.label_studio.stored.clear()
    another_does_it(context, redis, 1)
    context.leases.renew()
    assert context.leases.held() == 0
    assert context.ledger.unconfirmed(PROJECT) == {REF: False}


def test_an_end_told_for_a_project_that_is_gone_leaves_nothing(context: StandInContext, redis: Redis) -> None:
    context.ask(1)
    context.pending.forget_project(PROJECT)
    assert not context.pending.done(PROJECT, context.name, REF)
    assert not redis.exists(f"zeromask:{PROJECT}:doubts")


def test_who_gets_the_task_of_a_dead_worker_looks_before_it_posts(context: StandInContext, redis: Redis) -> None:
    """The prediction of the dead one arrives while the next one draws."""
    context.ask(1)
    assert context.pending.take(PROJECT, "dead")
    time_passes(redis, 60)
    context.pending.sweep()
    late = StoredPrediction(99, 1, version(), [], 0.5)

    def arrive(*_: Any) -> None:
        if late not in context.label_studio.stored:
            context.label_studio.stored.append(late)

    context.segmenter.read_words = arrive  # type: ignore[assignment, method-assign]
    context.drain()
    assert [row.id for row in context.label_studio.stored] == [99]
    assert context.pending.counts(PROJECT).done == 1


def unreachable(task: int) -> None:
    raise LabelStudioUnreachable("LS", "ConnectTimeout", "Look at the network.")


def test_a_worker_that_alone_cannot_reach_label_studio_hands_its_tasks_over(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_off, "_LONG_S", 0.3)
    context.label_studio.before_store = unreachable
    context.ask(*ALL)
    context.begin()
    assert not context.pipeline.wait_empty(1), "nobody stores anything: it may be Label Studio that is away"
    assert context.pending.counts(PROJECT).leased == 8
    redis.hincrby(ENDED, "done", 1)  # another worker has stored one
    assert context.pipeline.wait_empty(120)
    counts = context.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (8, 0, 0)
    assert len(context.ledger.unconfirmed(PROJECT)) > 0, "one that was sent may still arrive"
    assert context.pending.tries(PROJECT, REF) == 0, "no task is to blame"


def test_a_worker_that_stores_something_is_not_cut_off(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_off, "_LONG_S", 0.0)
    lost = {1}

    def lose_one(task: int) -> None:
        if task in lost:
            lost.remove(task)
            unreachable(task)

    context.label_studio.before_store = lose_one
    context.ask(*ALL)
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]


def test_a_worker_in_trouble_leases_nothing_that_it_cannot_read(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = context.leases.take

    def take(project: int, *, limit: int) -> Any:
        taken.append(project)
        return real(project, limit=limit)

    monkeypatch.setattr(context.leases, "take", take)
    context.ask(*ALL)
    context.trouble = "LS: ConnectTimeout"
    with monkeypatch.context() as away:
        away.setattr(context.label_studio, "project", unreachable)
        context.begin()
    assert taken == []
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]
    assert context.trouble == ""


def test_no_time_goes_into_tasks_that_another_worker_has_by_now(context: StandInContext, redis: Redis) -> None:
    hold, waiting = threading.Event(), threading.Semaphore(0)

    def wait(*_: Any) -> None:
        waiting.release()
        hold.wait(30)

    context.segmenter.read_words = wait  # type: ignore[assignment, method-assign]
    context.ask(*ALL)
    context.begin()
    assert all(waiting.acquire(timeout=20) for _ in ALL)
    redis.delete(f"zeromask:{PROJECT}:leases")
    context.leases.renew()
    assert context.leases.held() == 0
    hold.set()
    assert context.pipeline.wait_empty(120)
    assert context.segmenter.batches == []


def test_what_is_leased_again_during_a_renewal_is_not_lost(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.ask(1)
    assert context.leases.take(PROJECT, limit=1)
    real = context.pending.renew

    def renew(project: int, owner: str, refs: Collection[TaskRef]) -> set[TaskRef]:
        context.leases.give_back(project, REF)
        kept = real(project, owner, refs)
        assert context.leases.take(project, limit=1)
        return kept

    monkeypatch.setattr(context.pending, "renew", renew)
    context.leases.renew()
    assert context.leases.holds(PROJECT, REF)


def test_an_order_is_held_while_it_is_renewed_and_no_longer(context: StandInContext, redis: Redis) -> None:
    order, held = context.order, ProjectKeys(PROJECT).ordered
    assert order.begin(PROJECT, "me", hold_s=60, pause_s=1)
    for _ in range(3):
        redis.pexpire(held, 20_000)  # as much of its time has gone by
        order.renew()
        assert 20_000 < redis.pttl(held) <= 60_000
        assert not order.begin(PROJECT, "another", hold_s=60, pause_s=1)
    redis.pexpire(held, 50)
    wait_until(lambda: order.begin(PROJECT, "another", hold_s=600, pause_s=1), told="the end of a dead worker's hold")
    order.end(PROJECT, "another", pause_s=0.1)
    order.renew()
    wait_until(lambda: order.begin(PROJECT, "me", hold_s=60, pause_s=1), told="the end of the pause")


TOLD = {
    "no answer": (Stage.POST, LabelStudioUnreachable("LS", "ConnectTimeout", "Look.")),
    "its token": (Stage.POST, LabelStudioError("LS", "HTTP 401", "Look.", status=401)),
    "no versions": (Stage.ADMISSION, VersionsUnavailable("folder", "cannot be read", "Mount it.")),
    "may not store": (Stage.POST, LabelStudioError("LS", "HTTP 403", "Look.", status=403)),
}


@pytest.mark.parametrize("told", TOLD)
def test_a_trouble_is_taken_back_where_something_shows_that_it_is_over(told: str, context: StandInContext) -> None:
    """Although other workers do all the tasks, and this one stores nothing."""
    stage, error = TOLD[told]
    treatment = treatment_of(stage, error)
    assert treatment is not None
    treat(cast("WorkerContext", context), treatment, error, PROJECT, REF)
    context.drain()  # nothing is due: a project is read all the same
    assert bool(context.trouble) is (told in ("no versions", "may not store"))
    context.reconcile()
    assert bool(context.trouble) is (told == "may not store")
    context.ask(1)
    context.drain()
    assert context.trouble == ""


def test_a_label_studio_that_stores_nothing_is_in_trouble_whatever_it_answers(context: StandInContext) -> None:
    failing = LabelStudioFailing("LS", "answered HTTP 500", "Look.", status=500)
    treat(cast("WorkerContext", context), WAIT_FOR_STORAGE, failing, PROJECT, REF)
    context.drain()
    context.reconcile()
    assert context.trouble == str(failing)


def test_a_refusal_takes_no_trouble_back(context: StandInContext) -> None:
    context.trouble, context.label_studio.refuses = "LS: HTTP 401", True
    context.drain()
    context.reconcile()
    assert context.trouble == "LS: HTTP 401"
