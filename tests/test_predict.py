"""Each task of a batch is settled by itself, on a real Redis: what goes wrong with one costs the others nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from redis import Redis

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LearningError,
    QueueDamaged,
    QueueUnavailable,
)
from plugin_config.queue.jobs import DrainProject, TaskRef, predict_queue
from tests.queue_states import time_passes
from tests.stand_ins import (
    ALL,
    BUT_THREE,
    CONFIG,
    PROJECT,
    StandInContext,
    context_fixture,
    refuse,
    version,
)
from worker.service.admission import drain
from worker.service.context import WorkerContext

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

UNKNOWN = ("label 'zeppelin': unknown",)


def test_all_is_done_and_shown_once(context: StandInContext) -> None:
    context.ask(*ALL)
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]
    assert context.label_studio.shown == version()
    counts = context.pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed, counts.done) == (0, 0, 0, 8)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        pytest.param(LabelStudioError("POST", "was refused (HTTP 404)", "Check.", status=404), "failed", id="refused"),
        pytest.param(LabelStudioFailing("LS", "answered HTTP 500", "Log.", status=500), "pending", id="500"),
        pytest.param(RuntimeError("a fault of ours"), "failed", id="our own fault"),
        pytest.param(KeyError("surprise"), "failed", id="surprise"),
    ],
)
def test_one_task_in_trouble_costs_the_others_nothing(context: StandInContext, error: Exception, state: str) -> None:
    context.label_studio.before_store = refuse(3, error)
    context.ask(*ALL)
    context.drain()
    assert context.stored() == BUT_THREE
    counts = context.pending.counts(PROJECT)
    assert (counts.leased, counts.done) == (0, 7)
    assert (counts.failed, counts.pending) == ((1, 0) if state == "failed" else (0, 1))


@pytest.mark.parametrize(
    ("url", "tries", "reason"),
    [
        pytest.param("broken", 1, "is broken", id="no image"),
        pytest.param("odd", 1, "cannot be embedded (shapes do not match)", id="breaks the model"),
        pytest.param("huge", 3, "does not fit the memory", id="larger than the memory"),
        pytest.param("slow", 3, "did not arrive", id="slow host"),
        pytest.param("vast", 3, "does not fit the memory", id="decoded larger than the memory"),
    ],
)
def test_one_image_in_trouble_costs_the_others_nothing(
    context: StandInContext, redis: Redis, url: str, tries: int, reason: str
) -> None:
    context.label_studio.data[3] = url
    context.ask(*ALL)
    for done in range(tries):
        assert context.pending.counts(PROJECT).failed == 0, f"failed after {done} tries"
        context.drain()
        assert context.stored() == BUT_THREE
        time_passes(redis)
    (failed,) = context.pending.failures(PROJECT).items()
    assert failed[0].task == 3
    assert reason in failed[1]


def test_a_refused_token_keeps_everything_waiting(context: StandInContext) -> None:
    context.label_studio.refuses = True
    context.ask(*ALL)
    context.drain()
    counts = context.pending.counts(PROJECT)
    assert (counts.pending, counts.failed) == (8, 0)


def test_a_project_that_is_gone_is_forgotten(context: StandInContext, redis: Redis) -> None:
    context.label_studio.gone = True
    context.ask(*ALL)
    context.drain()
    assert context.pending.projects() == []
    assert [key for key in redis.keys("zeromask:1:*") if b"drain" not in key] == []


def test_a_project_set_up_anew_with_the_same_id_inherits_nothing(
    context: StandInContext, caplog: pytest.LogCaptureFixture
) -> None:
    """Label Studio's numbers begin at 1 again where its database is new."""
    studio = context.label_studio
    studio.before_store = refuse(3, LabelStudioError("POST", "was refused (HTTP 400)", "Look."))
    context.ask(*ALL)
    context.drain()
    context.ledger.set_task_count(PROJECT, 8)
    context.reconcile()
    assert (studio.shown, context.pending.counts(PROJECT).failed) == (version(), 1)
    assert "had its id before" not in caplog.text
    studio.before_store = lambda task: None
    studio.stored, studio.shown, studio.created = [], "", "2027-01-01"
    context.settings = replace(context.settings, prelabel=True)
    context.hints.hint_tasks(PROJECT, [2])
    context.reconcile()
    counts = context.pending.counts(PROJECT)
    assert (counts.pending, counts.failed, counts.done) == (8, 0, 0)
    assert "another one had its id before" in caplog.text
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]
    assert studio.shown == version()


def test_tasks_asked_for_in_a_project_set_up_anew_are_predicted(context: StandInContext) -> None:
    studio = context.label_studio
    context.ask(*ALL)
    context.drain()
    assert studio.shown == version()
    studio.stored, studio.shown, studio.created = [], "", "2027-01-01"
    context.ask(1, 2)
    context.drain()
    assert context.stored() == [(1, version()), (2, version())]
    assert studio.shown == version()


def test_what_another_model_was_asked_for_is_predicted_at_the_version_served(context: StandInContext) -> None:
    context.pending.add(PROJECT, [TaskRef("ViT-B-16-zeroshot-00000000", task) for task in ALL])
    context.drain()
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]


def test_what_the_model_cannot_read_is_told_until_the_labels_are_edited(context: StandInContext) -> None:
    context.label_studio.config = CONFIG.format("zeppelin")
    context.pending.add(PROJECT, [TaskRef(version("zeppelin"), 1)])
    context.drain()
    assert context.ledger.label_remarks(PROJECT) == UNKNOWN
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    assert context.ledger.label_remarks(PROJECT) == (), "nothing is pending, and it is told"


def test_labels_that_are_edited_back_are_told_again(context: StandInContext) -> None:
    for word, told in (("zeppelin", UNKNOWN), ("cat", ()), ("zeppelin", UNKNOWN), ("cat", ())):
        context.label_studio.config = CONFIG.format(word)
        context.reconcile()
        assert context.ledger.label_remarks(PROJECT) == told


def test_what_of_the_config_is_passed_over_is_told_though_the_version_stays(
    context: StandInContext, caplog: pytest.LogCaptureFixture
) -> None:
    plain, second = CONFIG.format("cat"), '<Image name="j" value="$j"/></View>'
    for config, told in ((plain.replace("</View>", second), 1), (plain, 0), (plain.replace("</View>", second), 1)):
        context.label_studio.config = config
        context.reconcile()
        remarks = context.ledger.label_remarks(PROJECT)
        assert ["Image 'j': is not segmented" in remark for remark in remarks] == [True] * told
    assert [text for text in caplog.messages if "Image 'j'" in text] == [
        f"project {PROJECT}: {remarks[0]}"
    ]
    assert context.ledger.target_version(PROJECT) == version("cat")


def test_each_project_is_told_and_the_log_once(context: StandInContext, caplog: pytest.LogCaptureFixture) -> None:
    for word in ("zeppelin", "cat", "zeppelin"):
        context.label_studio.config = CONFIG.format(word)
        for project in (PROJECT, 2):
            context.reconcile(project)
    assert (context.ledger.label_remarks(PROJECT), context.ledger.label_remarks(2)) == (UNKNOWN, UNKNOWN)
    assert [text for text in caplog.messages if "unknown" in text] == [
        f"project {project}: {UNKNOWN[0]}" for project in (PROJECT, 2)
    ]


def test_what_a_version_has_learned_is_known_until_it_is_rolled_back(context: StandInContext) -> None:
    context.label_studio.config = CONFIG.format("zeppelin")
    for adapter, told in (("zeroshot", UNKNOWN), ("a1-000001", ()), ("zeroshot", UNKNOWN)):
        context.adapters.name = adapter
        context.reconcile()
        assert context.ledger.label_remarks(PROJECT) == told


def test_a_redis_that_goes_away_while_it_is_told_loses_nothing(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    context.label_studio.config = CONFIG.format("zeppelin")
    with monkeypatch.context() as patch, pytest.raises(QueueUnavailable):
        patch.setattr(context.ledger, "set_label_remarks", away)
        context.reconcile()
    context.reconcile()
    assert context.ledger.label_remarks(PROJECT) == UNKNOWN


def test_a_label_edited_during_a_drain_is_caught_up_with(context: StandInContext) -> None:
    def edit(task: int) -> None:
        if task == 1:  # another worker refreshes the project while this one draws at the old labels
            context.label_studio.config = CONFIG.format("dog")
            context.reconcile()

    context.label_studio.before_store = edit
    context.ask(*ALL)
    context.drain()
    for _ in range(3):
        context.drain()
    assert context.stored() == [(task, version("dog")) for task in ALL]
    assert context.label_studio.shown == version("dog"), "the old version is not shown any more"


def test_annotated_tasks_keep_their_older_prediction(context: StandInContext) -> None:
    context.ask(*ALL)
    context.drain()
    context.label_studio.annotated = {3}
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    context.drain()
    assert context.stored() == [(task, version("cat") if task == 3 else version("dog")) for task in ALL]


def test_what_was_learned_and_gives_no_numbers_fails_no_task(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.adapters.name = "a1-123456"
    plain = context.segmenter.segment

    def segment(*args: Any, head: Any = None, **others: Any) -> Any:
        if head is not None:
            raise LearningError("what was learned", "gives no numbers", "Learn again.")
        return plain(*args, head=head, **others)

    monkeypatch.setattr(context.segmenter, "segment", segment)
    context.pending.add(PROJECT, [TaskRef(version(adapter="a1-123456"), task) for task in ALL])
    context.drain()
    assert context.adapters.refused[0] == "a1-123456: what was learned: gives no numbers. Learn again."
    context.drain()
    context.drain()
    assert context.stored() == [(task, version()) for task in ALL]
    assert context.pending.counts(PROJECT).failed == 0


def test_a_drain_that_damage_ends_is_not_begun_again_at_once(
    context: StandInContext, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(*_: object, **__: object) -> None:
        raise QueueDamaged("Redis, project 1", "holds something", "Look.")

    context.ask(*ALL)
    monkeypatch.setattr(context.leases, "take", take)
    context.begin()
    context.pending.ensure_drains(PROJECT)
    assert len(predict_queue(redis)) == 0
    time_passes(redis, 16)
    context.pending.ensure_drains(PROJECT)
    assert len(predict_queue(redis)) == 1


def test_a_forged_drain_takes_no_more_than_any_other(context: StandInContext) -> None:
    context.ask(*range(1, 101))
    drain(cast("WorkerContext", context), context.pipeline, DrainProject(project=PROJECT, slot=0, limit=90_000))
    assert context.pending.counts(PROJECT).pending == 92
