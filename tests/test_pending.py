"""The states of a task, on a real Redis: asked for, leased, lost, done, failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from plugin_config.errors import QueueUnavailable
from plugin_config.queue import presence as presence_module
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, enqueue, predict_queue, refresh_queue
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts
from tests.queue_states import PROJECT, refs, take, time_passes


def test_what_is_asked_for_is_pending_once(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(1, 2, 2, 3)) == 3
    assert pending.add(PROJECT, refs(2, 3, 4)) == 1
    assert pending.counts(PROJECT) == Counts(pending=4, leased=0, failed=0, done=0)
    assert pending.projects() == [PROJECT]


def test_two_versions_of_a_task_are_two(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(1) + refs(1, version="v2")) == 2


def test_nothing_asked_for_is_nothing_taken(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, []) == 0
    assert take(pending, "w") == []
    assert pending.counts(PROJECT) == Counts(0, 0, 0, 0)


def test_many_tasks_are_asked_for_in_one_go(pending: PendingTasks) -> None:
    assert pending.add(PROJECT, refs(*range(1, 12_002))) == 12_001
    assert pending.counts(PROJECT).pending == 12_001


def test_a_take_leases_the_first_due_and_no_more_than_asked(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))
    time.sleep(0.005)
    pending.add(PROJECT, refs(3, 4, 5))
    assert set(take(pending, "w", limit=2)) == set(refs(1, 2))
    assert pending.counts(PROJECT) == Counts(pending=3, leased=2, failed=0, done=0)


def test_urgent_tasks_come_first_and_in_their_own_order(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 9))
    pending.add(PROJECT, refs(5), priority=Priority.OPENED)
    time.sleep(0.005)
    pending.add(PROJECT, refs(9), priority=Priority.OPENED)  # was asked for in bulk: moves ahead, and is still one
    assert take(pending, "w", limit=2) == refs(5, 9)
    assert pending.counts(PROJECT).pending == 2


def test_a_bulk_request_does_not_take_urgency_away(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    pending.add(PROJECT, refs(9), priority=Priority.OPENED)
    pending.add(PROJECT, refs(9))
    assert take(pending, "w", limit=1) == refs(9)


def test_a_leased_task_is_not_asked_for_again(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    take(pending, "w")
    assert pending.add(PROJECT, refs(1)) == 0
    assert take(pending, "other") == []


def test_workers_never_share_a_task(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(*range(1, 201)))
    taken: list[TaskRef] = []

    def work(name: str) -> None:
        while found := take(pending, name, limit=3):
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
    (ref,) = take(pending, "w")
    settled = {
        "done": lambda: pending.done(PROJECT, owner, ref),
        "failed": lambda: pending.fail(PROJECT, owner, ref, "too dark"),
        "again": lambda: pending.give_back(PROJECT, owner, ref),
        "dropped": lambda: pending.drop(PROJECT, owner, ref),
    }[outcome]()
    assert settled is (owner == "w")
    assert pending.counts(PROJECT) == (after if owner == "w" else Counts(0, 1, 0, 0))


def test_a_task_given_back_with_a_delay_is_not_due_before(pending: PendingTasks, redis: Redis) -> None:
    pending.add(PROJECT, refs(1))
    (ref,) = take(pending, "w")
    pending.give_back(PROJECT, "w", ref, delay_s=30)
    assert take(pending, "w") == []
    time_passes(redis, 31)
    assert take(pending, "w") == [ref]


def test_a_failed_task_keeps_its_reason_until_it_is_asked_for_again(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    (ref,) = take(pending, "w")
    pending.fail(PROJECT, "w", ref, "no such picture" + "!" * 1000)
    assert pending.failures(PROJECT)[ref].startswith("no such picture")
    assert len(pending.failures(PROJECT)[ref]) == 500
    assert pending.add(PROJECT, refs(1)) == 1
    assert pending.failures(PROJECT) == {}


def test_given_back_at_once_means_in_its_old_place(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))
    (first,) = take(pending, "w", limit=1)
    pending.give_back(PROJECT, "w", first)
    assert take(pending, "w") == refs(1, 2)


def test_the_order_asked_for_is_the_order_taken(pending: PendingTasks) -> None:
    asked = refs(*(7 * number % 11_003 + 1 for number in range(11_000)))
    pending.add(PROJECT, asked)
    assert take(pending, "w", limit=11_000) == asked


def test_later_waits_for_asked_and_asked_for_opened(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1), priority=Priority.LATER)
    time.sleep(0.005)
    pending.add(PROJECT, refs(2))
    time.sleep(0.005)
    pending.add(PROJECT, refs(3), priority=Priority.OPENED)
    taken = pending.take(PROJECT, "w")
    assert [(lease.ref.task, lease.urgent) for lease in taken] == [(3, True), (2, False), (1, False)]


def test_a_pending_task_costs_little_memory(pending: PendingTasks, redis: Redis) -> None:
    version = "ViT-B-16-datacomp-xl-s13b-b90k-zeroshot-0a1b2c3d"
    pending.add(PROJECT, refs(*range(10_000_000, 10_020_000), version=version))
    bytes_per_task = sum(int(redis.memory_usage(key, samples=0) or 0) for key in redis.keys("zeromask:*")) / 20_000
    assert bytes_per_task <= 300


def test_tasks_that_are_gone_leave_nothing(pending: PendingTasks, redis: Redis) -> None:
    pending.add(PROJECT, refs(1, 2, 3, 4, 5))
    for ref in take(pending, "w", limit=3):
        pending.done(PROJECT, "w", ref) if ref.task < 3 else pending.fail(PROJECT, "w", ref, "broken")
    ledger = ProjectLedger(redis)
    for ref in refs(3, 4, 5):
        ledger.add_unconfirmed(PROJECT, ref)
    assert pending.forget_tasks(PROJECT, {1, 3, 4, 99}) == 3
    assert list(ledger.unconfirmed(PROJECT)) == refs(5)
    assert pending.counts(PROJECT) == Counts(pending=1, leased=0, failed=0, done=1)
    assert pending.forget_tasks(PROJECT, set()) == 0


def test_one_refresh_waits_at_a_time(redis: Redis, pending: PendingTasks, hints: ProjectHints) -> None:
    assert [hints.request_refresh(PROJECT) for _ in range(3)] == [True, False, False]
    hints.begin_refresh(PROJECT)
    assert hints.request_refresh(PROJECT)
    assert (len(refresh_queue(redis)), len(predict_queue(redis))) == (2, 0)
    assert pending.projects() == [], "a look makes no project known"


def test_webhooks_that_arrive_together_cause_one_refresh(
    redis: Redis, hints: ProjectHints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one that came between the note of the first and its job queued another job."""
    together: list[bool] = []

    def queue_late(*args: Any, **options: Any) -> str:
        together.append(hints.request_refresh(PROJECT))
        return enqueue(*args, **options)

    monkeypatch.setattr("plugin_config.queue.hints.enqueue", queue_late)
    assert hints.request_refresh(PROJECT)
    assert together == [False]
    assert len(refresh_queue(redis)) == 1
    assert not hints.request_refresh(PROJECT)


def test_a_refresh_that_cannot_be_queued_keeps_no_other_waiting(
    redis: Redis, hints: ProjectHints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise RedisTimeout("no answer")

    with monkeypatch.context() as broken:
        broken.setattr("plugin_config.queue.hints.enqueue", fail)
        with pytest.raises(QueueUnavailable):
            hints.request_refresh(PROJECT)
    assert hints.request_refresh(PROJECT)
    assert len(refresh_queue(redis)) == 1


def test_a_process_that_dies_before_its_refresh_is_queued_keeps_others_waiting_for_seconds(
    redis: Redis, hints: ProjectHints
) -> None:
    key = f"zeromask:{PROJECT}:refresh"
    redis.set(key, "claimed|refresh-1-x", px=5000)
    assert not hints.request_refresh(PROJECT)
    redis.pexpire(key, 1)
    time.sleep(0.01)
    assert hints.request_refresh(PROJECT)
    redis.set(key, "claimed|refresh-1-x")  # nobody of ours writes that: it would never end
    assert hints.request_refresh(PROJECT)


def test_pending_tasks_move_to_a_new_version(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2) + refs(2, 3, version="v2"))
    pending.move_to_version(PROJECT, "v2")
    assert set(take(pending, "w")) == set(refs(1, 2, 3, version="v2"))
    assert pending.counts(PROJECT).pending == 0


def test_what_moves_to_a_new_version_keeps_its_place_and_leaves_no_counts(redis: Redis, pending: PendingTasks) -> None:
    """The counts of each version would stay, and after a rollback they would apply to it again."""
    pending.add(PROJECT, refs(1, 2))
    for ref in take(pending, "w"):
        pending.retry(PROJECT, "w", ref, "503")
    pending.add(PROJECT, refs(3))
    take(pending, "dead")
    time_passes(redis)
    pending.sweep()
    pending.retry(PROJECT, "w", take(pending, "w", limit=1)[0], "503")
    pending.add(PROJECT, refs(5), priority=Priority.OPENED)
    assert redis.hlen(f"zeromask:{PROJECT}:tries") and redis.hlen(f"zeromask:{PROJECT}:deaths")
    assert pending.move_to_version(PROJECT, "v2") == 4
    assert not redis.exists(f"zeromask:{PROJECT}:tries", f"zeromask:{PROJECT}:deaths")
    first, *others = take(pending, "w")
    assert first == TaskRef("v2", 5), "somebody waits for it"
    assert set(others) == set(refs(1, 2, 3, version="v2")), "what waited for another try is due"
    assert pending.move_to_version(PROJECT, "v1") == 0


def test_the_versions_of_stored_predictions_are_known(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1) + refs(1, version="v2") + refs(2, version="v3"))
    for ref in take(pending, "w", limit=2):
        pending.done(PROJECT, "w", ref)
    assert ProjectLedger(redis).versions(PROJECT) == {"v1", "v2"}


def test_waiting_ends_when_the_tasks_are_settled(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))

    def work() -> None:
        time.sleep(0.1)
        first, second = take(pending, "w")
        pending.done(PROJECT, "w", first)
        pending.fail(PROJECT, "w", second, "broken")

    worker = threading.Thread(target=work, daemon=True)
    started = time.monotonic()
    worker.start()
    assert pending.wait_settled(PROJECT, refs(1, 2), timeout_s=60)
    assert 0.1 <= time.monotonic() - started < 30
    worker.join()


@pytest.mark.parametrize("leased", [False, True])
def test_waiting_gives_up_in_time(pending: PendingTasks, leased: bool) -> None:
    pending.add(PROJECT, refs(1))
    if leased:
        take(pending, "w")
    started = time.monotonic()
    assert not pending.wait_settled(PROJECT, refs(1), timeout_s=0.1)
    assert time.monotonic() - started < 30


def test_waiting_for_nothing_is_over_at_once(pending: PendingTasks) -> None:
    assert pending.wait_settled(PROJECT, [], timeout_s=5)
    assert pending.wait_settled(PROJECT, refs(1), timeout_s=5)


def test_workers_that_live_are_counted(presence: WorkerPresence, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "a"):
        presence.heartbeat(name, {"model": f"of {name}"})
    assert presence.count() == 2
    assert [(worker.name, worker.about) for worker in presence.workers()] == [
        ("a", {"model": "of a"}), ("b", {"model": "of b"})]  # fmt: skip
    presence.remove("b")
    assert presence.count() == 1
    monkeypatch.setattr(presence_module, "ALIVE_MS", 20)
    time.sleep(0.05)
    assert presence.count() == 0
    assert presence.workers() == []


def test_the_last_webhook_is_remembered(hints: ProjectHints) -> None:
    assert hints.last_webhook(PROJECT) is None
    hints.record_webhook(PROJECT, "TASKS_CREATED")
    hints.record_webhook(PROJECT, "PROJECT_UPDATED")
    action, moment = (hints.last_webhook(PROJECT) or "").split(" ")
    assert action == "PROJECT_UPDATED"
    assert moment.startswith("20")
    assert moment.endswith("+00:00")
    assert hints.last_webhook(PROJECT + 1) is None


CALLS: dict[str, Callable[[PendingTasks], object]] = {
    "add": lambda pending: pending.add(PROJECT, refs(1)),
    "take": lambda pending: take(pending, "w"),
    "renew": lambda pending: pending.renew(PROJECT, "w", refs(1)),
    "done": lambda pending: pending.done(PROJECT, "w", refs(1)[0]),
    "sweep": lambda pending: pending.sweep(),
    "ensure_drains": lambda pending: pending.ensure_drains(PROJECT),
    "mark_drain_running": lambda pending: pending.mark_drain_running(PROJECT, 0),
    "move_to_version": lambda pending: pending.move_to_version(PROJECT, "v"),
    "counts": lambda pending: pending.counts(PROJECT),
    "wait_settled": lambda pending: pending.wait_settled(PROJECT, refs(1), timeout_s=1),
    "projects": lambda pending: pending.projects(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_dead_redis_is_an_error_of_ours(dead_redis_url: str, name: str) -> None:
    redis = Redis.from_url(dead_redis_url, retry=Retry(NoBackoff(), 0))
    with pytest.raises(QueueUnavailable, match="REDIS_URL"):
        CALLS[name](PendingTasks(redis, drain_tasks=4, lease_s=1))


def test_a_dead_redis_is_an_error_of_ours_for_hints_and_presence(dead_redis_url: str) -> None:
    redis = Redis.from_url(dead_redis_url, retry=Retry(NoBackoff(), 0))
    for call in (ProjectHints(redis).request_refresh, ProjectHints(redis).last_webhook):
        with pytest.raises(QueueUnavailable, match="REDIS_URL"):
            call(PROJECT)
    with pytest.raises(QueueUnavailable, match="REDIS_URL"):
        ProjectLedger(redis).versions(PROJECT)
    with pytest.raises(QueueUnavailable, match="REDIS_URL"):
        WorkerPresence(redis).count()
