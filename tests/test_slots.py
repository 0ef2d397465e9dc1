"""Drain jobs: as many as needed, never more than the slots, none lost with a worker, on a real Redis."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from plugin_config.queue import slots
from plugin_config.queue.jobs import DrainProject, predict_queue
from plugin_config.queue.keys import SLOTS
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from tests.queue_states import PROJECT, refs


def drains(redis: Redis) -> list[DrainProject]:
    return [DrainProject.from_json(job.args[0]) for job in predict_queue(redis).jobs if "drain" in str(job.func_name)]


def lose_jobs(redis: Redis) -> None:
    """What is left after a worker took the jobs and did nothing else."""
    redis.delete(predict_queue(redis).key)


@pytest.mark.parametrize(
    ("tasks", "jobs"),
    [
        pytest.param(0, 0, id="nothing due"),
        pytest.param(1, 1, id="one"),
        pytest.param(4, 1, id="as many as one drain takes"),
        pytest.param(5, 2, id="one more"),
        pytest.param(1000, 2, id="bounded: one for the worker and one waiting"),
    ],
)
def test_as_many_drains_are_queued_as_needed_and_no_more(
    redis: Redis, pending: PendingTasks, presence: WorkerPresence, tasks: int, jobs: int
) -> None:
    presence.heartbeat("w")
    pending.add(PROJECT, refs(*range(1, tasks + 1)))
    assert pending.ensure_drains(PROJECT) == jobs
    assert pending.ensure_drains(PROJECT) == 0
    assert [job.slot for job in drains(redis)] == list(range(jobs))


def test_tasks_not_due_yet_need_no_drain(pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    (lease,) = pending.take(PROJECT, "w")
    pending.give_back(PROJECT, "w", lease.ref, delay_s=60)
    assert pending.ensure_drains(PROJECT) == 0


def test_jobs_do_not_pile_up_while_the_queue_is_long(
    redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RUNNING_S", 1)
    monkeypatch.setattr(slots, "_CLAIMED_S", 1)
    pending.add(PROJECT, refs(*range(1, 9)))
    pending.ensure_drains(PROJECT)
    time.sleep(1.1)  # no worker came; the sweep of some other project's worker looks again
    pending.sweep()
    assert len(drains(redis)) == 1


def test_a_drain_that_outlives_its_hold_adds_no_job_for_good(
    redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RUNNING_S", 1)
    pending.add(PROJECT, refs(1, 2))
    pending.ensure_drains(PROJECT)
    lose_jobs(redis)
    pending.mark_drain_running(PROJECT, 0)
    time.sleep(1.1)
    pending.sweep()  # a second drain while the first one still runs
    assert len(drains(redis)) == 1
    pending.end_drain(PROJECT, 0)  # the first one ends
    assert len(drains(redis)) == 1


def test_the_end_of_a_drain_queues_the_next_one_while_tasks_are_due(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(*range(1, 6)))
    pending.ensure_drains(PROJECT)
    lose_jobs(redis)
    pending.mark_drain_running(PROJECT, 0)
    pending.mark_drain_running(PROJECT, 1)
    for lease in pending.take(PROJECT, "w"):
        pending.done(PROJECT, "w", lease.ref)
    pending.end_drain(PROJECT, 0)
    assert [job.slot for job in drains(redis)] == [0]
    lose_jobs(redis)
    pending.take(PROJECT, "w")
    pending.end_drain(PROJECT, 0)
    assert drains(redis) == []


def test_a_slot_whose_job_vanished_heals(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    assert pending.ensure_drains(PROJECT) == 1
    lose_jobs(redis)
    assert pending.ensure_drains(PROJECT) == 1


def test_a_dead_worker_does_not_keep_its_slot(redis: Redis, hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1))
    hasty.ensure_drains(PROJECT)
    lose_jobs(redis)
    hasty.mark_drain_running(PROJECT, 0)
    hasty.take(PROJECT, "dead")
    time.sleep(0.08)
    assert hasty.sweep() == refs(1)
    assert len(drains(redis)) == 1


def test_many_workers_share_a_project_within_bounds(
    redis: Redis, pending: PendingTasks, presence: WorkerPresence
) -> None:
    for number in range(30):
        presence.heartbeat(f"w{number}")
    pending.add(PROJECT, refs(*range(1, 1001)))
    assert pending.ensure_drains(PROJECT) == SLOTS


def test_a_small_project_waits_for_a_few_drains_of_a_large_one_only(
    redis: Redis, pending: PendingTasks, presence: WorkerPresence
) -> None:
    presence.heartbeat("w")
    pending.add(1, refs(*range(1, 1001)))
    pending.ensure_drains(1)
    pending.add(2, refs(1))
    pending.ensure_drains(2)
    pending.end_drain(1, 0)
    order = [job.project for job in drains(redis)]
    assert order.index(2) <= 2
    assert len(order) == 3


def test_what_an_annotator_waits_for_goes_ahead_of_all(redis: Redis, pending: PendingTasks) -> None:
    pending.add(1, refs(*range(1, 1001)))
    pending.ensure_drains(1)
    pending.add(2, refs(1), priority=Priority.OPENED)
    for _ in range(3):
        pending.ensure_drains(2, urgent=True)
    first, *others = drains(redis)
    assert (first.project, first.slot) == (2, slots.URGENT_SLOT)
    assert [job.slot for job in others].count(slots.URGENT_SLOT) == 0


def test_projects_have_slots_of_their_own(redis: Redis, pending: PendingTasks) -> None:
    for project in (1, 2):
        pending.add(project, refs(1))
        assert pending.ensure_drains(project) == 1
    assert [job.project for job in drains(redis)] == [1, 2]
