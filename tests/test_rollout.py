"""A change of version in a project that is too large for one job: read in parts, by several jobs; real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from redis import Redis
from rq.timeouts import JobTimeoutException

from plugin_config.errors import AnswerTooLarge
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.queue.jobs import RefreshProject, TaskRef, refresh_queue
from plugin_config.queue.keys import AGAIN, ProjectKeys
from plugin_config.queue.walks import HOLD_S, Held, TaskWalks, Walk
from tests.stand_ins import ALL, PROJECT, StandInContext, StandInLabelStudio, context_fixture, version
from worker.service import prelabel, rollout, walking
from worker.service.reconcile import reconcile

if TYPE_CHECKING:
    from worker.service.context import WorkerContext

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


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "PAUSE_S", 0)
    monkeypatch.setattr(prelabel, "PAUSE_S", 0)


@pytest.fixture
def prelabelling(context: StandInContext) -> StandInContext:
    context.settings = replace(context.settings, prelabel=True)
    return context


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job has the time to read one task."""
    monkeypatch.setattr(walking, "WALK_S", 0)


def is_noted(context: StandInContext) -> bool:
    """Whether the next look is to come after the pause, and not at once."""
    assert len(refresh_queue(context.redis)) == 0
    at, seconds = context.redis.zscore(AGAIN, PROJECT), context.redis.time()[0]
    return at is not None and 3 < at / 1000 - seconds < 7


def finish(context: StandInContext, *, most: int = 20) -> int:
    """Run the jobs that follow one another; returns how many."""
    for number in range(1, most + 1):
        context.reconcile()
        target = context.ledger.target_version(PROJECT)
        if not context.ledger.is_rolling_out(PROJECT, target):
            return number
        assert is_noted(context)
        assert context.pending.open_refs(PROJECT) == [], "the least confident of all go first: all is read before"
    raise AssertionError("it never ends")


def begin(walks: TaskWalks, *, anew: bool = False) -> Walk:
    walk = walks.begin(PROJECT, NEW, anew=anew)
    assert isinstance(walk, Walk)
    return walk


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


def killed(context: StandInContext, monkeypatch: pytest.MonkeyPatch, *, at: int, times: int) -> list[int]:
    """Kill so many jobs as each is about to read task `at`; returns where each walk began."""

    def die(task: int) -> None:
        if task == at:
            raise JobTimeoutException("600 s are over")

    with monkeypatch.context() as patch:
        begun = reading(context, patch, die)
        for _ in range(times):
            with pytest.raises(JobTimeoutException):
                context.reconcile()
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
    monkeypatch.setattr(walking, "_PART", 2)
    saved = (dies_at - 1) // 2 * 2
    begun = killed(predicted, monkeypatch, at=dies_at, times=3)
    assert begun == [0, saved, saved], "even where each is killed, none begins at the beginning"
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

    monkeypatch.setattr(walking, "_PART", 2)
    reading(predicted, monkeypatch, promote)
    predicted.reconcile()
    assert is_noted(predicted)
    assert predicted.ledger.target_version(PROJECT) == NEXT
    assert asked_for(predicted) == in_order(NEXT)


def test_while_one_worker_reads_another_does_the_rest_of_the_look_and_asks_for_no_other(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[bool]()

    def look_beside(task: int) -> None:
        if task == 5 and not looked:
            looked.append(True)
            predicted.hints.hint_tasks(PROJECT, [3])
            predicted.ledger.add_leftover(PROJECT, 4)
            predicted.ledger.add_unconfirmed(PROJECT, TaskRef(version(), 777))
            predicted.reconcile()
            assert predicted.hints.hinted_tasks(PROJECT, most=9) == []
            assert predicted.ledger.leftovers(PROJECT) == []
            assert predicted.ledger.unconfirmed(PROJECT) == {}
            assert predicted.redis.zcard(AGAIN) == len(refresh_queue(predicted.redis)) == 0

    # Of `tasks`, which is asked for some tasks only, the stand-in reads all.
    monkeypatch.setattr(predicted.label_studio, "tasks", lambda project, ids, **_: [
        task for task in StandInLabelStudio.all_tasks(predicted.label_studio, project) if task.id in ids
    ])  # fmt: skip
    monkeypatch.setattr(walking, "_PART", 2)
    begun = reading(predicted, monkeypatch, look_beside)
    predicted.reconcile()
    assert looked
    assert begun == [0]
    assert asked_for(predicted) == in_order()
    assert not predicted.ledger.is_rolling_out(PROJECT, NEW)


@pytest.mark.usefixtures("short")
def test_what_does_not_hang_on_the_version_is_not_put_off_until_all_is_read(predicted: StandInContext) -> None:
    predicted.ledger.add_unconfirmed(PROJECT, TaskRef(version(), 777))
    predicted.reconcile()
    assert predicted.ledger.is_rolling_out(PROJECT, NEW)
    assert predicted.ledger.unconfirmed(PROJECT) == {}


@pytest.mark.usefixtures("short")
def test_the_walk_of_a_worker_that_died_goes_on_when_its_time_is_over(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    walker = ProjectKeys(PROJECT).walker
    predicted.reconcile()
    begin(TaskWalks(redis, "version"))  # and no more is heard of it
    begun = reading(predicted, monkeypatch, lambda task: None)
    predicted.reconcile()
    assert (begun, redis.zcard(AGAIN), len(refresh_queue(redis))) == ([], 0, 0)
    assert 0 < redis.pttl(walker) <= HOLD_S * 1000
    redis.pexpire(walker, 0)
    finish(predicted)
    assert begun == list(ALL)
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
def test_setting_the_clock_back_holds_no_walk_for_longer(predicted: StandInContext, redis: Redis) -> None:
    predicted.reconcile()
    redis.set(ProjectKeys(PROJECT).walker, "x", px=int(HOLD_S * 2000))
    finish(predicted)
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
def test_a_look_in_the_pause_reads_nothing_and_loses_nothing(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    monkeypatch.setattr(rollout, "PAUSE_S", 5)
    begun = reading(predicted, monkeypatch, lambda task: None)
    for _ in range(3):  # such as for webhooks; each stands for the look that was noted before
        predicted.reconcile()
        assert is_noted(predicted)
    assert begun == [0]
    assert redis.pttl(ProjectKeys(PROJECT).walker) <= 5000
    redis.pexpire(ProjectKeys(PROJECT).walker, 0)
    predicted.reconcile()
    assert begun == [0, 1]


def test_another_version_waits_for_no_reader_and_no_pause(redis: Redis) -> None:
    walks = TaskWalks(redis, "version")
    walk = begin(walks)
    assert walks.begin(PROJECT, NEW) is Held.READ
    other = walks.begin(PROJECT, NEXT)
    assert isinstance(other, Walk)
    walks.leave(PROJECT, walk, pause_s=5)  # of the former
    assert walks.begin(PROJECT, NEXT) is Held.READ
    walks.leave(PROJECT, other, pause_s=5)
    assert walks.begin(PROJECT, NEXT) is Held.PAUSED
    assert isinstance(walks.begin(PROJECT, NEW), Walk)


def test_of_two_slow_readers_both_get_on(redis: Redis) -> None:
    walks = TaskWalks(redis, "version")
    slow = begin(walks)
    redis.delete(ProjectKeys(PROJECT).walker)  # it was taken for dead
    other = begin(walks)
    assert not walks.save(PROJECT, slow, after=5, scores={1: 0.5}), "another goes on"
    assert walks.save(PROJECT, other, after=4, scores={2: 0.4})
    walks.leave(PROJECT, other, pause_s=0)
    assert begin(walks).after == 5
    assert walks.found(PROJECT, slow) == [2, 1]


def test_a_reader_that_was_slow_alone_holds_the_walk_again(redis: Redis) -> None:
    walks = TaskWalks(redis, "version")
    walk = begin(walks)
    redis.delete(ProjectKeys(PROJECT).walker)
    assert walks.save(PROJECT, walk, after=5)
    assert walks.begin(PROJECT, NEW) is Held.READ


@pytest.mark.parametrize(("page_s", "task_s", "begins"), [(20, 0, [0, 4, 8]), (0, 8, [0, 2, 4, 6, 8]), (1, 1, [0])])
def test_a_page_that_came_slowly_is_read_to_its_end(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, page_s: float, task_s: float, begins: list[int]
) -> None:
    now = [0.0]

    def pass_page(task: int) -> None:
        now[0] += page_s * (task % 4 == 1)

    def confidence(task: Task) -> float:
        now[0] += task_s
        return task.score or 0

    monkeypatch.setattr(walking, "_PART", 4)
    monkeypatch.setattr(walking, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(rollout, "_confidence", confidence)
    begun = reading(predicted, monkeypatch, pass_page)
    finish(predicted)
    assert begun == begins
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
    assert is_noted(predicted)
    predicted.stopping.clear()
    assert finish(predicted) == 1
    assert asked_for(predicted) == in_order()


def test_what_an_earlier_release_rolled_out_in_between_is_not_mistaken_for_read(predicted: StandInContext) -> None:
    """It knows nothing of walks: one of ours is left behind."""
    walks = TaskWalks(predicted.redis, "version")
    walk = begin(walks, anew=True)
    assert walks.save(PROJECT, walk, after=8, scores={1: 0.5})
    assert finish(predicted) == 1
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "9" * 40, "000000005", "00", "5\n", str(2**63)])
def test_a_note_that_cannot_be_read_begins_at_the_beginning(
    predicted: StandInContext, redis: Redis, after: str
) -> None:
    for _ in range(3):
        predicted.reconcile()
    redis.hset(ProjectKeys(PROJECT).walk, "after", after)
    finish(predicted)
    assert asked_for(predicted) == in_order()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", [b"", b"x", b"\xff" * 32, b"A" * 32, b"0" * 33], ids=repr)
def test_a_walk_whose_name_nobody_here_wrote_is_begun_anew(
    predicted: StandInContext, redis: Redis, name: bytes
) -> None:
    for _ in range(3):
        predicted.reconcile()
    redis.hset(ProjectKeys(PROJECT).walk, "name", name)
    finish(predicted)
    assert asked_for(predicted) == in_order()


@pytest.mark.parametrize("after", [10**18, 2**63 - 1])
def test_the_longest_ids_are_read_back(redis: Redis, after: int) -> None:
    walks = TaskWalks(redis, "version")
    walk = begin(walks)
    assert walks.save(PROJECT, walk, after=after)
    walks.leave(PROJECT, walk, pause_s=0)
    assert begin(walks).after == after


@pytest.mark.usefixtures("short")
def test_a_walk_that_redis_lost_is_made_again(predicted: StandInContext, redis: Redis) -> None:
    for _ in range(3):
        predicted.reconcile()
    redis.delete(ProjectKeys(PROJECT).walk, ProjectKeys(PROJECT).stale)
    finish(predicted)
    assert asked_for(predicted) == in_order()


def test_how_far_a_walk_is_never_goes_back(redis: Redis) -> None:
    walks = TaskWalks(redis, "version")
    walk = begin(walks)
    for after in (9, 10, 2, 2**62 + 1, 2**62):
        assert walks.save(PROJECT, walk, after=after, scores={after: 0.5})
    assert redis.hget(ProjectKeys(PROJECT).walk, "after") == str(2**62 + 1).encode()
    assert walks.found(PROJECT, walk) == [2, 9, 10, 2**62, 2**62 + 1], "those of equal scores by id"
    walks.end(PROJECT, walk)
    assert walks.found(PROJECT, walk) is None
    assert not walks.save(PROJECT, walk, after=11, scores={})


def look(context: StandInContext, *, most: int = 20) -> int:
    """Run the jobs that follow one another until the number of tasks is noted; returns how many."""
    for number in range(1, most + 1):
        context.reconcile()
        if context.ledger.task_count(PROJECT) == len(context.label_studio.data):
            return number
        assert is_noted(context)
    raise AssertionError("it never ends")


@pytest.mark.usefixtures("short")
def test_tasks_that_no_webhook_told_of_are_asked_for_by_several_jobs(
    prelabelling: StandInContext, monkeypatch: pytest.MonkeyPatch, redis: Redis
) -> None:
    begun = reading(prelabelling, monkeypatch, lambda task: None)
    prelabelling.ledger.add_unconfirmed(PROJECT, TaskRef(version(), 777))
    monkeypatch.setattr("worker.service.reconcile._existing", lambda *_: set())
    prelabelling.reconcile()
    assert [ref.task for ref in prelabelling.pending.open_refs(PROJECT)] == [1], "at once"
    assert prelabelling.ledger.unconfirmed(PROJECT) == {}, "the rest of the look is not put off"
    assert look(prelabelling) == len(ALL)
    assert begun == [0, *ALL]
    assert sorted(ref.task for ref in prelabelling.pending.open_refs(PROJECT)) == list(ALL)
    keys = ProjectKeys(PROJECT)
    assert redis.exists(keys.recount, keys.recounter) == 0


@pytest.mark.parametrize("dies_at", [1, 4, 8])
def test_a_job_that_is_killed_while_it_looks_for_new_tasks_costs_its_last_part_alone(
    prelabelling: StandInContext, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    monkeypatch.setattr(walking, "_PART", 2)
    saved = (dies_at - 1) // 2 * 2
    assert killed(prelabelling, monkeypatch, at=dies_at, times=2) == [0, saved]
    begun = reading(prelabelling, monkeypatch, lambda task: None)
    assert look(prelabelling) == 1
    assert begun == [saved]
    assert sorted(ref.task for ref in prelabelling.pending.open_refs(PROJECT)) == list(ALL)


@pytest.mark.usefixtures("short")
def test_a_look_for_new_tasks_that_webhooks_made_needless_is_not_gone_on_with_later(
    prelabelling: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        prelabelling.reconcile()
    prelabelling.ledger.set_task_count(PROJECT, len(ALL))
    prelabelling.reconcile()
    prelabelling.ledger.set_task_count(PROJECT, 1)
    begun = reading(prelabelling, monkeypatch, lambda task: None)
    look(prelabelling)
    assert begun == [0, *ALL]


def test_while_one_worker_looks_for_new_tasks_another_does_not(
    prelabelling: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_beside(task: int) -> None:
        if task == 5:
            prelabelling.reconcile()
            assert prelabelling.redis.zcard(AGAIN) == len(refresh_queue(prelabelling.redis)) == 0

    begun = reading(prelabelling, monkeypatch, look_beside)
    assert look(prelabelling) == 1
    assert begun == [0]


@pytest.mark.usefixtures("short")
def test_while_a_version_is_rolled_out_nothing_else_changes_its_order(prelabelling: StandInContext) -> None:
    look(prelabelling)
    prelabelling.drain()
    prelabelling.label_studio.scores = SCORES
    prelabelling.adapters.name = "a1-000001"
    prelabelling.ledger.set_task_count(PROJECT, 3)
    finish(prelabelling)
    assert asked_for(prelabelling) == in_order()


def test_a_project_that_is_disconnected_while_its_tasks_are_read_stays_so(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disconnect(task: int) -> None:
        if task == 5:
            predicted.pending.forget_project(PROJECT)

    with monkeypatch.context() as patch:
        reading(predicted, patch, disconnect)
        predicted.reconcile()
    assert predicted.pending.projects() == []
    assert predicted.pending.open_refs(PROJECT) == []
    for project in predicted.hints.due_refreshes() or [PROJECT]:  # the look that was noted for the end of the pause
        reconcile(cast("WorkerContext", predicted), RefreshProject(project=project))
    assert predicted.pending.projects() == []
    assert predicted.ledger.target_version(PROJECT) == ""


def test_new_tasks_of_a_project_that_is_disconnected_while_they_are_read_are_not_asked_for(
    prelabelling: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        reading(prelabelling, patch, lambda task: prelabelling.pending.forget_project(PROJECT))
        prelabelling.reconcile()
    assert prelabelling.pending.projects() == []
    assert prelabelling.pending.open_refs(PROJECT) == []


def test_one_task_whose_older_predictions_cannot_be_deleted_does_not_keep_a_version_from_coming(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = predicted.label_studio.predictions

    def predictions(task: int) -> list[StoredPrediction]:
        if task == 3:
            raise AnswerTooLarge("GET /api/predictions/", "answered more than 64 MB", "Delete some.")
        return listed(task)

    for task in (3, 4):  # the version was served before, and has come back
        predicted.label_studio.create_prediction(task, [], score=0.5, version=NEW)
    with monkeypatch.context() as patch:
        patch.setattr(predicted.label_studio, "predictions", predictions)
        finish(predicted)
    assert asked_for(predicted) == in_order(but=(3, 4))
    assert [row.version for row in listed(4)] == [NEW]
    assert (len(listed(3)), predicted.ledger.leftovers(PROJECT)) == (2, [3]), "noted for a later look"
    predicted.reconcile()
    assert ([row.version for row in listed(3)], predicted.ledger.leftovers(PROJECT)) == ([NEW], [])
