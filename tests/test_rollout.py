"""A change of version in a project that is too large for one job: read in parts, by several jobs; real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from rq.timeouts import JobTimeoutException

from plugin_config.label_studio.client import Task
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.walks import VersionWalks
from tests.stand_ins import ALL, PROJECT, StandInContext, context_fixture, version
from worker.service import rollout

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

NEW, NEXT = version(adapter="a1-000001"), version(adapter="a2-000002")
SCORES = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.2, 5: 0.95, 6: 0.4, 7: 0.3, 8: 0.85}
LEAST_CONFIDENT_FIRST = [2, 4, 7, 6, 3, 8, 1, 5]


@pytest.fixture
def predicted(context: StandInContext) -> StandInContext:
    """All tasks have their zero-shot prediction; another version is promoted."""
    context.ask(*ALL)
    context.drain()
    context.label_studio.scores = SCORES
    context.adapters.name = "a1-000001"
    return context


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job has the time to read one task."""
    monkeypatch.setattr(rollout, "WALK_S", 0)


def is_queued(context: StandInContext) -> bool:
    return not context.hints.request_refresh(PROJECT)


def finish(context: StandInContext, *, most: int = 20) -> int:
    """Run the jobs that follow one another; returns how many."""
    for number in range(1, most + 1):
        context.reconcile()
        target = context.ledger.target_version(PROJECT)
        if not context.ledger.is_rolling_out(PROJECT, target):
            return number
        assert is_queued(context), "the next job is queued at once"
        assert context.pending.open_refs(PROJECT) == [], "the least confident of all go first: all is read before"
    raise AssertionError("it never ends")


def asked_for(context: StandInContext) -> list[TaskRef]:
    """What a worker gets, in its order."""
    return [lease.ref for lease in context.pending.take(PROJECT, "w", limit=20)]


def in_order(name: str = NEW, *, but: tuple[int, ...] = ()) -> list[TaskRef]:
    return [TaskRef(name, task) for task in LEAST_CONFIDENT_FIRST if task not in but]


def reading(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch, at: Callable[[int], object]
) -> list[int]:
    """Call `at` with each task that is about to be read; returns where each walk begins."""
    read, begun = context.label_studio.all_tasks, list[int]()

    def all_tasks(project: int, *, after: int = 0) -> Iterator[Task]:
        begun.append(after)
        for task in read(project, after=after):
            at(task.id)
            yield task

    monkeypatch.setattr(context.label_studio, "all_tasks", all_tasks)
    return begun


def test_one_job_is_enough_for_a_small_project(predicted: StandInContext) -> None:
    assert finish(predicted) == 1
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
def test_a_project_too_large_for_a_job_is_read_by_several(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    begun = reading(predicted, monkeypatch, lambda task: None)
    assert finish(predicted) == len(ALL) + 1
    assert begun == [0, *ALL], "each goes on where the last one was"
    assert asked_for(predicted) == in_order(), "as in one job"
    assert redis.exists(ProjectKeys(PROJECT).walk, ProjectKeys(PROJECT).stale) == 0


@pytest.mark.usefixtures("short")
def test_all_is_predicted_once_in_the_end(predicted: StandInContext) -> None:
    finish(predicted)
    predicted.drain()
    assert predicted.stored() == [(task, NEW) for task in ALL]
    assert len(predicted.segmenter.heads) == 2 * len(ALL)
    assert predicted.label_studio.shown == NEW


@pytest.mark.usefixtures("short")
def test_what_is_hinted_at_is_looked_at_before_all_is_read(predicted: StandInContext) -> None:
    predicted.hints.hint_tasks(PROJECT, [3])
    predicted.reconcile()
    assert predicted.hints.hinted_tasks(PROJECT, most=9) == []


@pytest.mark.parametrize("dies_at", [1, 2, 3, 6, 8])
def test_a_job_that_is_killed_costs_its_last_part_alone(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    def die(task: int) -> None:
        if task == dies_at:
            raise JobTimeoutException("600 s are over")

    monkeypatch.setattr(rollout, "_PART", 2)
    with monkeypatch.context() as patch:
        begun = reading(predicted, patch, die)
        for _ in range(3):  # even where each is killed, none begins at the beginning
            with pytest.raises(JobTimeoutException):
                predicted.reconcile()
    saved = (dies_at - 1) // 2 * 2
    assert begun == [0, saved, saved]
    begun = reading(predicted, monkeypatch, lambda task: None)
    assert finish(predicted) == 1
    assert begun == [saved]
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("jobs", [1, 5, 8])
def test_another_version_in_the_middle_begins_at_the_beginning(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    begun = reading(predicted, monkeypatch, lambda task: None)
    for _ in range(jobs):
        predicted.reconcile()
    predicted.adapters.name = "a2-000002"
    finish(predicted)
    assert begun[jobs:] == [0, *ALL]
    assert asked_for(predicted) == in_order(NEXT)


@pytest.mark.usefixtures("short")
def test_a_version_that_comes_back_begins_at_the_beginning_too(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a1-000001", "a2-000002", "a1-000001"):
        predicted.adapters.name = name
        begun = reading(predicted, monkeypatch, lambda task: None)
        predicted.reconcile()
        assert begun[-1] == 0
    finish(predicted)
    assert asked_for(predicted) == in_order()


def test_a_job_that_is_overtaken_by_another_version_asks_for_nothing(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote(task: int) -> None:
        if task == 5 and predicted.adapters.name == "a1-000001":
            predicted.adapters.name = "a2-000002"
            predicted.reconcile()  # of another worker

    monkeypatch.setattr(rollout, "_PART", 2)
    reading(predicted, monkeypatch, promote)
    predicted.reconcile()
    assert is_queued(predicted)
    assert predicted.ledger.target_version(PROJECT) == NEXT
    assert asked_for(predicted) == in_order(NEXT)


def test_two_workers_at_the_same_walk_ask_for_each_task_once(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = [5]

    def look_beside(task: int) -> None:
        if task in beside:
            beside.clear()
            predicted.reconcile()

    monkeypatch.setattr(rollout, "_PART", 2)
    begun = reading(predicted, monkeypatch, look_beside)
    predicted.reconcile()
    predicted.reconcile()
    assert begun == [0, 4], "the other one goes on where this one was; then there is nothing to read any more"
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
def test_tasks_that_are_deleted_and_made_meanwhile(predicted: StandInContext) -> None:
    for _ in range(4):
        predicted.reconcile()
    for task in (2, 4, 7):  # two that are read and one that is not; the walk stands at one that is gone
        del predicted.label_studio.data[task]
        predicted.label_studio.stored = [row for row in predicted.label_studio.stored if row.task != task]
    predicted.label_studio.data[9] = "x"
    predicted.hints.hint_tasks(PROJECT, [2, 4, 7, 9])
    finish(predicted)
    predicted.drain()
    assert predicted.stored() == [(task, NEW) for task in (1, 3, 5, 6, 8)]
    counts = predicted.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (0, 0, 0)


@pytest.mark.usefixtures("short")
def test_a_task_that_was_stored_late_at_the_old_version_is_asked_for_as_before(predicted: StandInContext) -> None:
    predicted.label_studio.data[9] = "x"
    predicted.ask(9)
    (lease,) = predicted.pending.take(PROJECT, predicted.name, limit=1)
    for _ in range(3):
        predicted.reconcile()
    predicted.pending.give_back(PROJECT, predicted.name, lease.ref)
    for _ in range(10):
        predicted.reconcile()
    predicted.drain()
    predicted.drain()
    assert predicted.stored() == [(task, NEW) for task in (*ALL, 9)]


def test_a_worker_that_is_told_to_stop_leaves_the_rest_to_others(predicted: StandInContext) -> None:
    predicted.stopping.set()
    predicted.reconcile()
    assert predicted.ledger.is_rolling_out(PROJECT, NEW)
    assert is_queued(predicted)
    predicted.stopping.clear()
    assert finish(predicted) == 1
    assert asked_for(predicted) == in_order()


def test_what_an_earlier_release_rolled_out_in_between_is_not_mistaken_for_read(predicted: StandInContext) -> None:
    """It knows nothing of walks: one of ours is left behind."""
    walks = VersionWalks(predicted.redis)
    walk = walks.begin(PROJECT, NEW, anew=True)
    assert walks.save(PROJECT, walk, after=8, scores={1: 0.5})
    assert finish(predicted) == 1
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "9" * 40])
def test_a_note_that_cannot_be_read_begins_at_the_beginning(
    predicted: StandInContext, redis: Redis, after: str
) -> None:
    for _ in range(3):
        predicted.reconcile()
    redis.hset(ProjectKeys(PROJECT).walk, "after", after)
    finish(predicted)
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
def test_a_walk_that_redis_lost_is_made_again(predicted: StandInContext, redis: Redis) -> None:
    for _ in range(3):
        predicted.reconcile()
    redis.delete(ProjectKeys(PROJECT).walk, ProjectKeys(PROJECT).stale)
    finish(predicted)
    assert asked_for(predicted) == in_order()


def test_how_far_a_walk_is_never_goes_back(redis: Redis) -> None:
    walks = VersionWalks(redis)
    walk = walks.begin(PROJECT, NEW, anew=False)
    for after in (9, 10, 2, 2**62 + 1, 2**62):
        assert walks.save(PROJECT, walk, after=after, scores={after: 0.5})
    assert redis.hget(ProjectKeys(PROJECT).walk, "after") == str(2**62 + 1).encode()
    assert walks.found(PROJECT, walk) == [2, 9, 10, 2**62, 2**62 + 1], "those of equal scores by id"
    walks.end(PROJECT, walk)
    assert walks.found(PROJECT, walk) is None
    assert not walks.save(PROJECT, walk, after=11, scores={})
