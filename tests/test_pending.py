"""The states of a task, on a real Redis: asked for, leased, lost, done, failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from plugin_config import pending as module
from plugin_config.errors import QueueUnavailable
from plugin_config.jobs import TaskRef, predict_queue
from plugin_config.pending import MAX_ATTEMPTS, Counts, PendingTasks

PROJECT = 7


def refs(*tasks: int, version: str = "v1") -> list[TaskRef]:
    return [TaskRef(version, task) for task in tasks]


def test_what_is_asked_for_is_pending_once(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(1, 2, 2, 3)) == 3
    assert pending.add(PROJECT, refs(2, 3, 4)) == 1
    assert pending.counts(PROJECT) == Counts(pending=4, leased=0, failed=0, done=0)
    assert pending.projects() == [PROJECT]


def test_two_versions_of_a_task_are_two(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(1) + refs(1, version="v2")) == 2


def test_nothing_asked_for_is_nothing_taken(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, []) == 0
    assert pending.take(PROJECT, "w") == []
    assert pending.counts(PROJECT) == Counts(0, 0, 0, 0)


def test_many_tasks_are_asked_for_in_one_go(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(*range(1, 12_002))) == 12_001
    assert pending.counts(PROJECT).pending == 12_001


def test_a_take_leases_the_first_due_and_no_more_than_asked(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))
    time.sleep(0.005)
    pending.add(PROJECT, refs(3, 4, 5))
    assert set(pending.take(PROJECT, "w", limit=2)) == set(refs(1, 2))
    assert pending.counts(PROJECT) == Counts(pending=3, leased=2, failed=0, done=0)


def test_urgent_tasks_come_first_and_in_their_own_order(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 9))
    pending.add(PROJECT, refs(5), urgent=True)
    time.sleep(0.005)
    pending.add(PROJECT, refs(9), urgent=True)  # was asked for in bulk: moves ahead, is not asked for twice
    assert pending.take(PROJECT, "w", limit=2) == refs(5, 9)
    assert pending.counts(PROJECT).pending == 2


def test_a_bulk_request_does_not_take_urgency_away(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    pending.add(PROJECT, refs(9), urgent=True)
    pending.add(PROJECT, refs(9))
    assert pending.take(PROJECT, "w", limit=1) == refs(9)


def test_a_leased_task_is_not_asked_for_again(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    pending.take(PROJECT, "w")
    assert pending.add(PROJECT, refs(1)) == 0
    assert pending.take(PROJECT, "other") == []


def test_workers_never_share_a_task(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(*range(1, 201)))
    taken: list[TaskRef] = []

    def work(name: str) -> None:
        while found := pending.take(PROJECT, name, limit=3):
            taken.extend(found)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == refs(*range(1, 201))


@pytest.mark.parametrize(
    ("outcome", "after"),
    [
        pytest.param("done", Counts(pending=0, leased=0, failed=0, done=1), id="done"),
        pytest.param("failed", Counts(pending=0, leased=0, failed=1, done=0), id="failed"),
        pytest.param("again", Counts(pending=1, leased=0, failed=0, done=0), id="given back"),
        pytest.param("dropped", Counts(pending=0, leased=0, failed=0, done=0), id="dropped"),
    ],
)
@pytest.mark.parametrize("owner", ["w", "thief", "w|", ""])
def test_only_the_owner_of_a_lease_settles(pending: PendingTasks, outcome: str, after: Counts, owner: str) -> None:
    pending.add(PROJECT, refs(1))
    (ref,) = pending.take(PROJECT, "w")
    settled = {
        "done": lambda: pending.done(PROJECT, owner, ref),
        "failed": lambda: pending.fail(PROJECT, owner, ref, "too dark"),
        "again": lambda: pending.give_back(PROJECT, owner, ref),
        "dropped": lambda: pending.drop(PROJECT, owner, ref),
    }[outcome]()
    assert settled is (owner == "w")
    assert pending.counts(PROJECT) == (after if owner == "w" else Counts(0, 1, 0, 0))


def test_a_task_given_back_with_a_delay_is_not_due_before(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    (ref,) = pending.take(PROJECT, "w")
    pending.give_back(PROJECT, "w", ref, delay_s=0.2)
    assert pending.take(PROJECT, "w") == []
    time.sleep(0.25)
    assert pending.take(PROJECT, "w") == [ref]


def test_a_failed_task_keeps_its_reason_until_it_is_asked_for_again(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    (ref,) = pending.take(PROJECT, "w")
    pending.fail(PROJECT, "w", ref, "no such picture" + "!" * 1000)
    assert pending.failures(PROJECT)[ref].startswith("no such picture")
    assert len(pending.failures(PROJECT)[ref]) == 500
    assert pending.add(PROJECT, refs(1)) == 1
    assert pending.failures(PROJECT) == {}


def test_a_renewed_lease_does_not_run_out(redis: Redis) -> None:
    pending = PendingTasks(redis, drain_tasks=4, lease_s=0.4)
    pending.add(PROJECT, refs(1))
    taken = pending.take(PROJECT, "w")
    for _ in range(4):
        time.sleep(0.15)
        assert pending.renew(PROJECT, "w", taken) == set(taken)
        assert pending.sweep() == []
    assert pending.done(PROJECT, "w", taken[0])


def test_a_lease_that_ran_out_puts_the_task_back_for_another(hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1, 2))
    lost = hasty.take(PROJECT, "dead")
    assert hasty.sweep() == []
    time.sleep(0.08)
    assert set(hasty.sweep()) == set(lost)
    assert set(hasty.take(PROJECT, "alive")) == set(lost)


def test_who_lost_a_lease_is_told_and_cannot_settle(hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1))
    (ref,) = hasty.take(PROJECT, "slow")
    time.sleep(0.08)
    hasty.sweep()
    assert hasty.take(PROJECT, "quick") == [ref]
    assert hasty.renew(PROJECT, "slow", [ref]) == set()
    assert not hasty.done(PROJECT, "slow", ref)
    assert hasty.done(PROJECT, "quick", ref)
    assert hasty.counts(PROJECT) == Counts(pending=0, leased=0, failed=0, done=1)


def test_a_task_that_kills_its_workers_fails_in_the_end(hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1))
    for _ in range(MAX_ATTEMPTS):
        assert hasty.take(PROJECT, "dead") == refs(1)
        time.sleep(0.06)
        hasty.sweep()
    assert hasty.take(PROJECT, "dead") == []
    assert "died 5 times" in hasty.failures(PROJECT)[TaskRef("v1", 1)]


def test_success_forgets_earlier_deaths(hasty: PendingTasks, redis: Redis) -> None:
    hasty.add(PROJECT, refs(1))
    hasty.take(PROJECT, "dead")
    time.sleep(0.06)
    hasty.sweep()
    (ref,) = hasty.take(PROJECT, "w")
    hasty.done(PROJECT, "w", ref)
    assert redis.hlen(f"zeromask:{PROJECT}:attempts") == 0


def test_one_refresh_waits_at_a_time(redis: Redis, pending: PendingTasks) -> None:
    assert [pending.request_refresh(PROJECT) for _ in range(3)] == [True, False, False]
    pending.begin_refresh(PROJECT)
    assert pending.request_refresh(PROJECT)
    assert len(predict_queue(redis)) == 2
    assert pending.projects() == [PROJECT]


def test_pending_tasks_move_to_a_new_version(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2) + refs(2, 3, version="v2"))
    pending.move_to_version(PROJECT, "v2")
    assert set(pending.take(PROJECT, "w")) == set(refs(1, 2, 3, version="v2"))
    assert pending.counts(PROJECT).pending == 0


def test_what_was_predicted_tells_its_versions(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1) + refs(1, version="v2") + refs(2, version="v3"))
    for ref in pending.take(PROJECT, "w", limit=2):
        pending.done(PROJECT, "w", ref)
    assert pending.versions(PROJECT) == ["v1", "v2"]


def test_waiting_ends_when_the_tasks_are_settled(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))

    def work() -> None:
        time.sleep(0.1)
        first, second = pending.take(PROJECT, "w")
        pending.done(PROJECT, "w", first)
        pending.fail(PROJECT, "w", second, "broken")

    worker = threading.Thread(target=work)
    worker.start()
    started = time.monotonic()
    assert pending.wait_settled(PROJECT, refs(1, 2), timeout_s=5)
    assert 0.05 < time.monotonic() - started < 2
    worker.join()


@pytest.mark.parametrize("leased", [False, True])
def test_waiting_gives_up_in_time(pending: PendingTasks, leased: bool) -> None:
    pending.add(PROJECT, refs(1))
    if leased:
        pending.take(PROJECT, "w")
    started = time.monotonic()
    assert not pending.wait_settled(PROJECT, refs(1), timeout_s=0.1)
    assert time.monotonic() - started < 1


def test_waiting_for_nothing_is_over_at_once(pending: PendingTasks) -> None:
    assert pending.wait_settled(PROJECT, [], timeout_s=5)
    assert pending.wait_settled(PROJECT, refs(1), timeout_s=5)


def test_workers_that_live_are_counted(pending: PendingTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "a"):
        pending.heartbeat(name)
    assert pending.live_workers() == 2
    pending.leave("b")
    assert pending.live_workers() == 1
    monkeypatch.setattr(module, "_WORKER_SEEN_MS", 20)
    time.sleep(0.05)
    assert pending.live_workers() == 0


def test_the_last_webhook_is_remembered(pending: PendingTasks) -> None:
    assert pending.last_webhook(PROJECT) is None
    pending.record_webhook(PROJECT, "TASKS_CREATED")
    pending.record_webhook(PROJECT, "PROJECT_UPDATED")
    action, moment = (pending.last_webhook(PROJECT) or "").split(" ")
    assert action == "PROJECT_UPDATED"
    assert moment.startswith("20")
    assert moment.endswith("+00:00")
    assert pending.last_webhook(PROJECT + 1) is None


CALLS: dict[str, Callable[[PendingTasks], object]] = {
    "add": lambda pending: pending.add(PROJECT, refs(1)),
    "take": lambda pending: pending.take(PROJECT, "w"),
    "renew": lambda pending: pending.renew(PROJECT, "w", refs(1)),
    "done": lambda pending: pending.done(PROJECT, "w", refs(1)[0]),
    "sweep": lambda pending: pending.sweep(),
    "ensure_drains": lambda pending: pending.ensure_drains(PROJECT),
    "hold_slot": lambda pending: pending.hold_slot(PROJECT, 0),
    "request_refresh": lambda pending: pending.request_refresh(PROJECT),
    "move_to_version": lambda pending: pending.move_to_version(PROJECT, "v"),
    "counts": lambda pending: pending.counts(PROJECT),
    "live_workers": lambda pending: pending.live_workers(),
    "wait_settled": lambda pending: pending.wait_settled(PROJECT, refs(1), timeout_s=1),
    "record_webhook": lambda pending: pending.record_webhook(PROJECT, "X"),
    "versions": lambda pending: pending.versions(PROJECT),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_dead_redis_is_an_error_of_ours(dead_redis_url: str, name: str) -> None:
    redis = Redis.from_url(dead_redis_url, retry=Retry(NoBackoff(), 0))
    with pytest.raises(QueueUnavailable, match="REDIS_URL"):
        CALLS[name](PendingTasks(redis, drain_tasks=4, lease_s=1))
