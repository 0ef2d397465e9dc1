"""Leases that are renewed, that run out, that no clock disturbs, and what becomes of tasks that kill their workers."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import MAX_ATTEMPTS, Lease, PendingTasks
from plugin_config.queue.states import Counts
from plugin_config.settings import Settings
from tests.queue_states import PROJECT, clock_was_set, refs, take, time_passes


def test_a_renewed_lease_does_not_run_out(redis: Redis) -> None:
    pending = PendingTasks(redis, drain_tasks=4, lease_s=40)
    pending.add(PROJECT, refs(1))
    taken = take(pending, "w")
    for _ in range(4):
        time_passes(redis, 15)
        assert pending.renew(PROJECT, "w", taken) == set(taken)
        assert pending.sweep() == []
    assert pending.done(PROJECT, "w", taken[0])


def test_a_lease_that_ran_out_puts_the_task_back_for_another(redis: Redis) -> None:
    pending = PendingTasks(redis, drain_tasks=4, lease_s=30)
    pending.add(PROJECT, refs(1, 2))
    lost = take(pending, "dead")
    assert pending.sweep() == []
    time_passes(redis, 31)
    assert set(pending.sweep()) == set(lost)
    assert set(take(pending, "alive")) == set(lost)


def test_who_lost_a_lease_is_told_and_cannot_settle(hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1))
    (ref,) = take(hasty, "slow")
    time.sleep(0.08)
    hasty.sweep()
    assert take(hasty, "quick") == [ref]
    assert hasty.renew(PROJECT, "slow", [ref]) == set()
    assert not hasty.done(PROJECT, "slow", ref)
    assert hasty.done(PROJECT, "quick", ref)
    assert hasty.counts(PROJECT) == Counts(pending=0, leased=0, failed=0, done=1)


def test_a_task_that_kills_its_workers_fails_in_the_end(hasty: PendingTasks, redis: Redis) -> None:
    hasty.add(PROJECT, refs(1))
    for _ in range(MAX_ATTEMPTS):
        time_passes(redis, 60)
        assert take(hasty, "dead") == refs(1)
        time_passes(redis, 1)
        hasty.sweep()
    assert take(hasty, "dead") == []
    assert "died 5 times" in hasty.failures(PROJECT)[TaskRef("v1", 1)]


def test_success_forgets_earlier_deaths(hasty: PendingTasks, redis: Redis) -> None:
    hasty.add(PROJECT, refs(1))
    take(hasty, "dead")
    time.sleep(0.06)
    hasty.sweep()
    (ref,) = take(hasty, "w")
    hasty.done(PROJECT, "w", ref)
    assert redis.hlen(f"zeromask:{PROJECT}:deaths") == 0


def test_suspects_travel_alone_so_that_only_the_guilty_one_fails(hasty: PendingTasks, redis: Redis) -> None:
    """Task 3 kills every worker that holds it; the others were beside it."""
    hasty.add(PROJECT, refs(1, 2, 3, 4))
    for _ in range(20):
        time_passes(redis, 60)
        taken = hasty.take(PROJECT, "w")
        if any(lease.ref.task == 3 for lease in taken):
            time_passes(redis, 1)
            hasty.sweep()
            continue
        for lease in taken:
            assert hasty.done(PROJECT, "w", lease.ref)
    assert [ref.task for ref in hasty.failures(PROJECT)] == [3]
    assert hasty.counts(PROJECT) == Counts(pending=0, leased=0, failed=1, done=3)


def test_what_a_dead_worker_held_is_first_again_and_its_second_death_waits(
    hasty: PendingTasks, redis: Redis
) -> None:
    hasty.add(PROJECT, refs(1, 2))
    assert take(hasty, "dead", limit=1) == refs(1)
    time_passes(redis, 1)
    hasty.sweep()
    assert take(hasty, "dead", limit=1) == refs(1)
    time_passes(redis, 0.1)
    hasty.sweep()
    assert take(hasty, "w") == refs(2)
    time_passes(redis, 2)
    assert hasty.take(PROJECT, "w") == [Lease(refs(1)[0], alone=True)]


def test_what_may_have_arrived_with_a_death_is_doubted_for_a_while(hasty: PendingTasks, redis: Redis) -> None:
    ledger = ProjectLedger(redis)
    hasty.add(PROJECT, refs(1))
    take(hasty, "dead")
    time_passes(redis, 1)
    hasty.sweep()
    ledger.add_unconfirmed(PROJECT, TaskRef("v1", 2))
    assert ledger.unconfirmed(PROJECT) == dict.fromkeys(refs(1, 2), False)
    time_passes(redis, 200)
    assert ledger.unconfirmed(PROJECT) == dict.fromkeys(refs(1, 2), True)
    ledger.clear_unconfirmed(PROJECT, TaskRef("v1", 2))
    assert set(ledger.unconfirmed(PROJECT)) == set(refs(1))


def test_tries_back_off_and_end_with_the_reason(pending: PendingTasks, redis: Redis) -> None:
    pending.add(PROJECT, refs(1))
    for wait_s in (4, 16):
        pending.retry(PROJECT, "w", take(pending, "w")[0], "host is slow", most=3)
        time_passes(redis, wait_s - 2)
        assert take(pending, "w") == []
        time_passes(redis, 3)
    pending.retry(PROJECT, "w", take(pending, "w")[0], "host is slow", most=3)
    assert pending.failures(PROJECT) == {refs(1)[0]: "host is slow"}


@pytest.mark.parametrize("jump_s", [-86400, -3600, 3600, 86400])
def test_a_clock_that_is_set_costs_no_lease_and_delays_no_task(redis: Redis, jump_s: int) -> None:
    pending = PendingTasks(redis, drain_tasks=4, lease_s=30)
    pending.add(PROJECT, refs(1, 2))
    (held,) = take(pending, "w", limit=1)
    clock_was_set(redis, jump_s)
    assert pending.sweep() == [], "its worker lives"
    assert pending.done(PROJECT, "w", held)
    pending.add(PROJECT, refs(3))
    assert take(pending, "w") == refs(2, 3), "due now, whatever the clock says"


def test_a_dead_worker_is_noticed_in_time_although_the_clock_was_set_back(redis: Redis) -> None:
    pending = PendingTasks(redis, drain_tasks=4, lease_s=0.2)
    pending.add(PROJECT, refs(1))
    take(pending, "dead")
    clock_was_set(redis, -3600)
    found = pending.sweep()  # its time may be over already, on a busy machine
    time.sleep(0.25)
    assert found + pending.sweep() == refs(1)


def test_a_lease_as_long_as_the_default_outlives_a_redis_that_was_away(redis: Redis) -> None:
    """It was renewed just before, a sweep came after that, and the renewal comes back a beat later than the sweep."""
    pending, between_beats_s = PendingTasks(redis, drain_tasks=4, lease_s=Settings().lease_s), 2.5
    pending.add(PROJECT, refs(1))
    (held,) = take(pending, "w")
    for jump_s in (3600, -7200, 86400):
        assert pending.renew(PROJECT, "w", [held]) == {held}
        time_passes(redis, between_beats_s)
        assert pending.sweep() == []
        clock_was_set(redis, jump_s)
        assert pending.sweep() == [], "another worker, or another thread of its own, comes first"
        time_passes(redis, between_beats_s)
        assert pending.sweep() == []
