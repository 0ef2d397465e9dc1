"""A look at a project: new tasks, tasks that are gone, another version; real Redis, stand-in Label Studio."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
from redis import Redis

from plugin_config.errors import LabelStudioError, LabelStudioFailing
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.queue.jobs import RefreshProject, TaskRef
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.states import Counts
from tests.order_project import record
from tests.stand_ins import (
    ALL,
    CONFIG,
    PROJECT,
    StandInContext,
    context_fixture,
    version,
)
from worker.service.reconcile import reconcile

if TYPE_CHECKING:
    from worker.service.context import WorkerContext

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


@pytest.fixture
def prelabelling(context: StandInContext) -> StandInContext:
    context.settings = replace(context.settings, prelabel=True)
    return context


def pending_tasks(context: StandInContext) -> list[int]:
    return [ref.task for ref in context.pending.open_refs(PROJECT)]


def test_new_tasks_are_asked_for_where_that_is_set(prelabelling: StandInContext) -> None:
    prelabelling.label_studio.annotated = {3}
    prelabelling.hints.hint_tasks(PROJECT, [2, 3, 4, 777])
    prelabelling.ledger.set_task_count(PROJECT, 6)  # with the three new ones and without the one that is gone: eight
    prelabelling.reconcile()
    assert pending_tasks(prelabelling) == [2, 4]
    assert prelabelling.hints.hinted_tasks(PROJECT, most=9) == []


def test_a_lost_webhook_is_caught_up_with(prelabelling: StandInContext) -> None:
    prelabelling.reconcile()
    assert pending_tasks(prelabelling) == list(ALL)
    for _ in ALL:
        prelabelling.drain()
    prelabelling.label_studio.data[9] = "x"
    prelabelling.reconcile()
    assert pending_tasks(prelabelling) == [9]


def test_nothing_is_asked_for_by_itself_where_that_is_not_set(context: StandInContext) -> None:
    context.hints.hint_tasks(PROJECT, [1, 2])
    context.reconcile()
    assert pending_tasks(context) == []


def test_tasks_that_are_gone_are_forgotten_and_only_those(context: StandInContext) -> None:
    context.label_studio.data[2] = "broken"
    context.ask(1, 2)
    context.drain()
    context.ask(3, 4)
    for task in (1, 2, 3):
        context.order.put(PROJECT, task, record(task))
        del context.label_studio.data[task]
    context.hints.hint_tasks(PROJECT, [1, 2, 3, 4])
    context.reconcile()
    assert context.pending.counts(PROJECT) == Counts(pending=1, leased=0, failed=0, done=0)
    assert pending_tasks(context) == [4]
    assert context.order.count(PROJECT) == 0


def test_after_a_change_of_labels_the_least_certain_go_first_behind_what_was_asked_for(
    context: StandInContext,
) -> None:
    context.ask(*ALL)
    context.drain()
    context.label_studio.scores = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.2, 5: 0.95, 6: 0.4, 7: 0.3, 8: 0.85}
    context.label_studio.data[9] = "x"
    context.ask(9)
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    taken = [lease.ref for lease in context.pending.take(PROJECT, "w", limit=20)]
    assert taken == [TaskRef(version("dog"), task) for task in (9, 2, 4, 7, 6, 3, 8, 1, 5)]
    assert context.pending.counts(PROJECT).done == 0, "what was done at the old labels counts no more"


def test_the_tasks_of_a_project_that_never_had_other_labels_are_not_read_for_that(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.ask(*ALL)
    context.drain()
    context.ledger.start_rollout(PROJECT, "")

    def read(project: int, **_: int) -> None:
        raise AssertionError("a hundred thousand tasks take minutes")

    monkeypatch.setattr(context.label_studio, "all_tasks", read)
    context.reconcile()
    assert context.ledger.target_version(PROJECT) == version()


def test_what_failed_at_other_labels_is_asked_for_again(context: StandInContext) -> None:
    context.label_studio.data[2] = "broken"
    context.ask(1, 2)
    context.drain()
    assert [ref.task for ref in context.pending.failures(PROJECT)] == [2]
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    assert context.pending.failures(PROJECT) == {}
    assert context.pending.open_refs(PROJECT) == [TaskRef(version("dog"), 1), TaskRef(version("dog"), 2)]


def test_ten_webhooks_are_one_look_and_one_prediction_each(prelabelling: StandInContext, redis: Redis) -> None:
    for _ in range(10):
        prelabelling.hints.hint_tasks(PROJECT, ALL)
        prelabelling.reconcile()
        prelabelling.drain()
    assert prelabelling.stored() == [(task, version()) for task in ALL]
    assert redis.scard(f"zeromask:{PROJECT}:hinted") == 0


def test_something_that_is_missing_beside_a_project_that_is_there_forgets_nothing(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise LabelStudioError("GET /api/tasks/", "was refused (HTTP 404) Invalid page", "Check.", status=404)

    context.ask(1, 2)
    context.hints.hint_tasks(PROJECT, [1])
    with monkeypatch.context() as patch:
        patch.setattr(context.label_studio, "tasks", missing)
        context.reconcile()
    assert pending_tasks(context) == [1, 2]
    context.label_studio.gone = True
    context.reconcile()
    assert pending_tasks(context) == []


def test_what_was_stored_before_redis_was_lost_is_replaced_and_what_is_of_others_is_not(
    context: StandInContext, redis: Redis
) -> None:
    context.ask(1, 2)
    context.drain()
    context.label_studio.annotated = {2}
    context.label_studio.shown = version()
    context.label_studio.stored.append(StoredPrediction(99, 3, "yolo-v8", [], 0.5))
    redis.flushdb()
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    assert context.ledger.versions(PROJECT) == {version()}
    assert pending_tasks(context) == [1], "one without annotation has a prediction of an older version"
    context.ask(3, word="dog")
    context.drain()
    assert context.stored() == [(1, version("dog")), (2, version()), (3, version("dog")), (3, "yolo-v8")]
    assert context.label_studio.shown == version("dog")


def test_stored_versions_are_asked_for_once(context: StandInContext, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counts(_: object, project: int) -> dict[str, int]:
        asked.append(project)
        return {}

    monkeypatch.setattr("worker.service.rollout.version_counts", counts)
    context.ledger.start_rollout(PROJECT, "")
    for word in ("cat", "cat", "dog"):
        context.label_studio.config = CONFIG.format(word)
        context.reconcile()
        context.ask(1, word=word)
        context.drain()
    assert asked == [PROJECT]


def test_a_look_that_was_queued_before_a_project_was_disconnected_does_not_bring_it_back(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.ask(1, 2)
    context.drain()
    context.reconcile()
    context.pending.forget_project(PROJECT)
    with monkeypatch.context() as patch:
        patch.setattr(context.label_studio, "project", None)  # it is not asked
        reconcile(cast("WorkerContext", context), RefreshProject(project=PROJECT))
    assert context.pending.projects() == []
    assert redis.keys(f"zeromask:{PROJECT}:*") == [ProjectKeys(PROJECT).looked.encode()], "for two seconds"
    context.ask(3)
    context.reconcile()
    assert context.pending.projects() == [PROJECT], "who connects it again has it looked at"


def test_what_follows_from_an_earlier_request_is_asked_for_only_while_the_project_is(context: StandInContext) -> None:
    refs = [TaskRef(version(), task) for task in ALL]
    assert context.pending.add(PROJECT, refs, follows=True) == 0
    assert not context.pending.confirm_project(PROJECT)
    assert context.pending.projects() == []
    assert context.pending.open_refs(PROJECT) == []
    context.ask(1)
    assert context.pending.add(PROJECT, refs, follows=True) == len(ALL) - 1, "asked for, and not yet looked up"
    assert context.pending.confirm_project(PROJECT)
    context.pending.cancel(PROJECT, refs)
    assert context.pending.add(PROJECT, refs, follows=True) == len(ALL)


def test_what_label_studio_refuses_of_one_task_keeps_nothing_else_of_a_look_from_being_done(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, listed = version("dog"), context.label_studio.predictions

    def predictions(task: int) -> list[StoredPrediction]:
        if task in (1, 5):
            raise LabelStudioFailing("GET /api/predictions/", "answered HTTP 500", "See its log.", status=500)
        return listed(task)

    context.ask(*ALL)
    context.drain()
    context.ledger.add_version(PROJECT, old)
    for task in (1, 2):
        context.label_studio.stored.append(StoredPrediction(100 + task, task, old, [], 0.5))
        context.ledger.add_leftover(PROJECT, task)
    for task in (5, 6):
        context.label_studio.stored.append(StoredPrediction(100 + task, task, version(), [], 0.5))
        context.ledger.add_unconfirmed(PROJECT, TaskRef(version(), task))
    with monkeypatch.context() as patch:
        patch.setattr(context.label_studio, "predictions", predictions)
        context.reconcile()
    assert [row.id for row in context.label_studio.stored if row.id > 100] == [101, 105]
    assert context.ledger.leftovers(PROJECT) == [1]
    for task in (1, 5):
        assert f"task {task}: passed over in this look. GET /api/predictions/: answered HTTP 500" in caplog.text
    context.reconcile()
    assert [row.id for row in context.label_studio.stored if row.id > 100] == []
    assert context.ledger.leftovers(PROJECT) == []
