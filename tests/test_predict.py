"""Each task of a batch is settled by itself, on a real Redis: what goes wrong with one costs the others nothing."""

from __future__ import annotations

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
    StandInResident,
    refuse,
    resident_fixture,
    version,
)
from worker.service.admission import drain
from worker.service.context import Resident

__all__ = ["resident_fixture"]  # pytest finds the fixture by its being here

UNKNOWN = ("label 'zeppelin': unknown",)


def test_all_is_done_and_shown_once(resident: StandInResident) -> None:
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]
    assert resident.label_studio.shown == version()
    counts = resident.pending.counts(PROJECT)
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
def test_one_task_in_trouble_costs_the_others_nothing(resident: StandInResident, error: Exception, state: str) -> None:
    resident.label_studio.before_store = refuse(3, error)
    resident.ask(*ALL)
    resident.drain()
    assert resident.stored() == BUT_THREE
    counts = resident.pending.counts(PROJECT)
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
    resident: StandInResident, redis: Redis, url: str, tries: int, reason: str
) -> None:
    resident.label_studio.data[3] = url
    resident.ask(*ALL)
    for done in range(tries):
        assert resident.pending.counts(PROJECT).failed == 0, f"failed after {done} tries"
        resident.drain()
        assert resident.stored() == BUT_THREE
        time_passes(redis)
    (failed,) = resident.pending.failures(PROJECT).items()
    assert failed[0].task == 3
    assert reason in failed[1]


def test_a_refused_token_keeps_everything_waiting(resident: StandInResident) -> None:
    resident.label_studio.refuses = True
    resident.ask(*ALL)
    resident.drain()
    counts = resident.pending.counts(PROJECT)
    assert (counts.pending, counts.failed) == (8, 0)


def test_a_project_that_is_gone_is_forgotten(resident: StandInResident, redis: Redis) -> None:
    resident.label_studio.gone = True
    resident.ask(*ALL)
    resident.drain()
    assert resident.pending.projects() == []
    assert [key for key in redis.keys("zeromask:1:*") if b"drain" not in key] == []


def test_what_another_model_was_asked_for_is_predicted_at_the_version_served(resident: StandInResident) -> None:
    resident.pending.add(PROJECT, [TaskRef("ViT-B-16-zeroshot-00000000", task) for task in ALL])
    resident.drain()
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]


def test_what_the_model_cannot_read_is_told_until_the_labels_are_edited(resident: StandInResident) -> None:
    resident.label_studio.config = CONFIG.format("zeppelin")
    resident.pending.add(PROJECT, [TaskRef(version("zeppelin"), 1)])
    resident.drain()
    assert resident.ledger.remarks(PROJECT) == UNKNOWN
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    assert resident.ledger.remarks(PROJECT) == (), "nothing is pending, and it is told"


def test_labels_that_are_edited_back_are_told_again(resident: StandInResident) -> None:
    for word, told in (("zeppelin", UNKNOWN), ("cat", ()), ("zeppelin", UNKNOWN), ("cat", ())):
        resident.label_studio.config = CONFIG.format(word)
        resident.refresh()
        assert resident.ledger.remarks(PROJECT) == told


def test_each_project_is_told_and_the_log_once(resident: StandInResident, caplog: pytest.LogCaptureFixture) -> None:
    for word in ("zeppelin", "cat", "zeppelin"):
        resident.label_studio.config = CONFIG.format(word)
        for project in (PROJECT, 2):
            resident.refresh(project)
    assert (resident.ledger.remarks(PROJECT), resident.ledger.remarks(2)) == (UNKNOWN, UNKNOWN)
    assert [text for text in caplog.messages if "unknown" in text] == [
        f"project {project}: {UNKNOWN[0]}" for project in (PROJECT, 2)
    ]


def test_what_a_version_has_learned_is_known_until_it_is_rolled_back(resident: StandInResident) -> None:
    resident.label_studio.config = CONFIG.format("zeppelin")
    for adapter, told in (("zeroshot", UNKNOWN), ("a1-000001", ()), ("zeroshot", UNKNOWN)):
        resident.adapters.name = adapter
        resident.refresh()
        assert resident.ledger.remarks(PROJECT) == told


def test_a_redis_that_goes_away_while_it_is_told_loses_nothing(
    resident: StandInResident, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    resident.label_studio.config = CONFIG.format("zeppelin")
    with monkeypatch.context() as patch, pytest.raises(QueueUnavailable):
        patch.setattr(resident.ledger, "remark", away)
        resident.refresh()
    resident.refresh()
    assert resident.ledger.remarks(PROJECT) == UNKNOWN


def test_a_label_edited_during_a_drain_is_caught_up_with(resident: StandInResident) -> None:
    def edit(task: int) -> None:
        if task == 1:  # another worker refreshes the project while this one draws at the old labels
            resident.label_studio.config = CONFIG.format("dog")
            resident.refresh()

    resident.label_studio.before_store = edit
    resident.ask(*ALL)
    resident.drain()
    for _ in range(3):
        resident.drain()
    assert resident.stored() == [(task, version("dog")) for task in ALL]
    assert resident.label_studio.shown == version("dog"), "the old version is not shown any more"


def test_annotated_tasks_keep_their_older_prediction(resident: StandInResident) -> None:
    resident.ask(*ALL)
    resident.drain()
    resident.label_studio.annotated = {3}
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    resident.drain()
    assert resident.stored() == [(task, version("cat") if task == 3 else version("dog")) for task in ALL]


def test_what_was_learned_and_gives_no_numbers_fails_no_task(
    resident: StandInResident, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident.adapters.name = "a1-123456"
    plain = resident.segmenter.segment

    def segment(*args: Any, head: Any = None, **others: Any) -> Any:
        if head is not None:
            raise LearningError("what was learned", "gives no numbers", "Learn again.")
        return plain(*args, head=head, **others)

    monkeypatch.setattr(resident.segmenter, "segment", segment)
    resident.pending.add(PROJECT, [TaskRef(version(adapter="a1-123456"), task) for task in ALL])
    resident.drain()
    assert resident.adapters.refused[0] == "a1-123456: what was learned: gives no numbers. Learn again."
    resident.drain()
    resident.drain()
    assert resident.stored() == [(task, version()) for task in ALL]
    assert resident.pending.counts(PROJECT).failed == 0


def test_a_drain_that_damage_ends_is_not_begun_again_at_once(
    resident: StandInResident, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(*_: object, **__: object) -> None:
        raise QueueDamaged("Redis, project 1", "holds something", "Look.")

    resident.ask(*ALL)
    monkeypatch.setattr(resident.leases, "take", take)
    resident.begin()
    resident.pending.ensure_drains(PROJECT)
    assert len(predict_queue(redis)) == 0
    time_passes(redis, 16)
    resident.pending.ensure_drains(PROJECT)
    assert len(predict_queue(redis)) == 1


def test_a_forged_drain_takes_no_more_than_any_other(resident: StandInResident) -> None:
    resident.ask(*range(1, 101))
    drain(cast("Resident", resident), resident.pipeline, DrainProject(project=PROJECT, slot=0, limit=90_000))
    assert resident.pending.counts(PROJECT).pending == 92
