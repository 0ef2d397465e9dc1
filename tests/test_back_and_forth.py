"""Predictions follow what is served, forth and back again: replaced, shown, those of annotated tasks kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from threading import Lock

import pytest
from rq.timeouts import JobTimeoutException

from plugin_config.errors import LabelStudioFailing, LabelStudioUnreachable, QueueUnavailable
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.queue.jobs import TaskRef
from tests.stand_ins import (
    ALL,
    CONFIG,
    PROJECT,
    StandInContext,
    context_fixture,
    version,
)
from worker.service import posting

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


def everywhere(name: str) -> list[tuple[int, str]]:
    return [(task, name) for task in ALL]


def serve(context: StandInContext, adapter: str) -> None:
    """The pointer moves, and the project is looked at."""
    context.adapters.name = adapter
    context.reconcile()


@pytest.fixture
def predicted(context: StandInContext) -> StandInContext:
    """All tasks have their zero-shot prediction, and it is shown."""
    context.ask(*ALL)
    context.drain()
    assert context.label_studio.shown == version()
    return context


def test_a_promotion_replaces_predictions_and_a_rollback_brings_them_back(predicted: StandInContext) -> None:
    for adapter in ("a1-000001", "a2-000002", "a1-000001", "zeroshot", "a2-000002", "zeroshot"):
        serve(predicted, adapter)
        predicted.drain()
        assert predicted.stored() == everywhere(version(adapter=adapter))
        assert predicted.label_studio.shown == version(adapter=adapter)
        assert predicted.pending.counts(PROJECT).done == len(ALL)


def test_what_was_learned_draws(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")
    predicted.drain()
    assert predicted.segmenter.heads == [None] * 8 + [predicted.adapters.head] * 8


def test_the_least_certain_go_first(predicted: StandInContext) -> None:
    predicted.label_studio.scores = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.2, 5: 0.95, 6: 0.4, 7: 0.3, 8: 0.85}
    serve(predicted, "a1-000001")
    taken = [lease.ref for lease in predicted.pending.take(PROJECT, "w", limit=20)]
    assert taken == [TaskRef(version(adapter="a1-000001"), task) for task in (2, 4, 7, 6, 3, 8, 1, 5)]


def test_a_rollback_in_the_middle_leaves_one_prediction_each(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")
    half = predicted.pending.take(PROJECT, predicted.name, limit=4)
    for lease in half:
        predicted.pending.give_back(PROJECT, predicted.name, lease.ref, delay_s=60)
    predicted.drain()  # the other four
    assert len(set(predicted.stored()) & set(everywhere(version()))) == 4
    serve(predicted, "zeroshot")
    predicted.drain()
    assert predicted.stored() == everywhere(version())
    assert predicted.label_studio.shown == version()


def test_one_that_is_stored_while_it_is_rolled_back_is_replaced(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")

    def roll_back(task: int) -> None:
        predicted.label_studio.after_store = lambda task: None
        serve(predicted, "zeroshot")

    predicted.label_studio.after_store = roll_back
    for _ in range(3):
        predicted.drain()
    assert predicted.stored() == everywhere(version())


def test_a_version_that_comes_back_while_its_predictions_are_deleted_is_asked_for_again(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, turn, rolled_back = predicted.label_studio.predictions, Lock(), False

    def predictions(task: int) -> list[StoredPrediction]:
        nonlocal rolled_back
        with turn:  # one of the threads that store
            mine, rolled_back = not rolled_back, True
        if mine:
            serve(predicted, "zeroshot")  # finds both predictions of the task, and deletes the newer one
        return listed(task)

    serve(predicted, "a1-000001")
    monkeypatch.setattr(predicted.label_studio, "predictions", predictions)
    for _ in range(3):
        predicted.drain()
    assert predicted.stored() == everywhere(version())


def test_a_worker_that_died_between_storing_and_deleting_leaves_no_second_one(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")
    predicted.ledger.add_version(PROJECT, version(adapter="a1-000001"))
    predicted.label_studio.create_prediction(3, [], score=0.5, version=version(adapter="a1-000001"))
    serve(predicted, "zeroshot")
    predicted.drain()
    assert predicted.stored() == everywhere(version())


def test_annotated_tasks_keep_what_their_annotation_came_from(predicted: StandInContext) -> None:
    predicted.label_studio.annotated = {1, 2}
    serve(predicted, "a1-000001")
    predicted.drain()
    new = version(adapter="a1-000001")
    assert predicted.stored() == [(task, version() if task < 3 else new) for task in ALL]


def test_a_rollback_is_shown_also_where_everything_is_annotated(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")
    predicted.drain()
    predicted.label_studio.annotated = set(ALL)
    serve(predicted, "zeroshot")
    assert predicted.label_studio.shown == version()


def test_other_labels_and_another_version_at_once(predicted: StandInContext) -> None:
    predicted.label_studio.config = CONFIG.format("dog")
    serve(predicted, "a1-000001")
    predicted.drain()
    assert predicted.stored() == everywhere(version("dog", adapter="a1-000001"))


def test_tasks_wait_for_versions_that_cannot_be_had(predicted: StandInContext) -> None:
    serve(predicted, "a1-000001")
    predicted.adapters.away = True
    predicted.drain()
    counts = predicted.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (8, 0, 0)
    assert "cannot be read" in predicted.trouble
    predicted.reconcile()  # which fails alike, and harms nothing
    predicted.adapters.away = False
    predicted.drain()
    assert predicted.stored() == everywhere(version(adapter="a1-000001"))
    assert predicted.trouble == ""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(LabelStudioUnreachable("Label Studio", "does not answer", "Start it."), id="Label Studio away"),
        pytest.param(QueueUnavailable("Redis", "does not answer", "Start it."), id="Redis away"),
        pytest.param(JobTimeoutException("600 s are over"), id="RQ's time over"),
        pytest.param(MemoryError(), id="no memory"),
        pytest.param(KeyboardInterrupt(), id="told to stop"),
    ],
)
@pytest.mark.parametrize("read", [0, 3])
def test_a_look_that_ends_in_between_is_made_up_for_by_the_next(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch, end: BaseException, read: int
) -> None:
    def breaks_off(project: int, **_: int) -> Iterator[Task]:
        yield from itertools.islice(type(predicted.label_studio).all_tasks(predicted.label_studio, project), read)
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(predicted.label_studio, "all_tasks", breaks_off)
        with suppress(QueueUnavailable, JobTimeoutException, MemoryError, KeyboardInterrupt):
            serve(predicted, "a1-000001")
    predicted.reconcile()
    predicted.drain()
    assert predicted.stored() == everywhere(version(adapter="a1-000001"))


def test_a_version_is_caught_up_with_once(predicted: StandInContext, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(predicted, "a1-000001")
    predicted.drain()

    def read(project: int, **_: int) -> None:
        raise AssertionError("a hundred thousand tasks take minutes")

    monkeypatch.setattr(predicted.label_studio, "all_tasks", read)
    predicted.reconcile()


def test_what_label_studio_would_not_delete_is_deleted_later(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(prediction: int) -> None:
        raise LabelStudioFailing("Label Studio", "answered HTTP 500", "Wait.", status=500)

    serve(predicted, "a1-000001")
    with monkeypatch.context() as patch:
        patch.setattr(predicted.label_studio, "delete_prediction", locked)
        predicted.drain()
    assert len(predicted.stored()) == 16
    predicted.reconcile()
    assert predicted.stored() == everywhere(version(adapter="a1-000001"))
    assert predicted.ledger.leftovers(PROJECT) == []


def test_a_task_that_is_annotated_while_it_is_drawn_keeps_what_its_annotation_came_from(
    predicted: StandInContext
) -> None:
    serve(predicted, "a1-000001")

    def annotate(task: int) -> None:
        if task in (3, 4):
            predicted.label_studio.annotated.add(task)

    predicted.label_studio.before_store = annotate
    predicted.drain()
    new = version(adapter="a1-000001")
    kept = [(task, version()) for task in (3, 4)]
    assert predicted.stored() == sorted([*everywhere(new), *kept])
    assert predicted.ledger.leftovers(PROJECT) == []


def test_a_worker_that_dies_before_it_has_deleted_older_ones_leaves_them_to_a_look(
    predicted: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")  # what is swallowed there ends it as well

    serve(predicted, "a1-000001")
    with monkeypatch.context() as patch:
        patch.setattr(posting, "delete_older_predictions", die)
        predicted.drain()
    new = version(adapter="a1-000001")
    assert predicted.stored() == sorted([*everywhere(version()), *everywhere(new)])
    assert predicted.pending.counts(PROJECT).done == len(ALL)
    assert predicted.ledger.leftovers(PROJECT) == list(ALL)
    predicted.reconcile()
    assert predicted.stored() == everywhere(new)
    assert predicted.ledger.leftovers(PROJECT) == []


def test_a_worker_that_dies_once_a_task_is_settled_has_asked_for_the_version_that_came_meanwhile(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer, settled = TaskRef(version(adapter="a1-000001"), 3), list[bool]()
    done = context.pending.done

    def note(project: int, owner: str, ref: TaskRef, *, replaces: bool) -> bool:
        settled.append(newer in context.pending.open_refs(PROJECT))
        return done(project, owner, ref, replaces=replaces)

    context.ask(3)
    monkeypatch.setattr(context.pending, "done", note)
    context.label_studio.after_store = lambda task: context.ledger.start_rollout(PROJECT, newer.version)
    context.drain()
    assert settled == [True]
