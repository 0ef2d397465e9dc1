"""From what annotators accepted to the scores of the next predictions: through rounds, restarts and rollbacks."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from plugin_config.model_version import ZEROSHOT, engine_name
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.settings import Settings
from plugin_config.versions.rollback import roll_back
from plugin_config.versions.served import ServedAdapters
from tests.learning_house import LearningHouse, learning_house_fixture
from tests.stand_ins import PROJECT, StandInContext, context_fixture, version
from worker.label_studio.outcomes import EmptyRecord, Outcome, RegionRecord
from worker.learning.acceptance import IDENTITY, Calibration, PlattMap
from worker.segmentation.segmenter import Segmentation
from worker.service.plan import read_plan

__all__ = ["context_fixture", "learning_house_fixture"]  # pytest finds the fixtures by their being here

ENGINE = engine_name(Settings(model="builtin"))


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    return learning_house


def seen(outcome: Outcome, count: int, *, adapter: str = ZEROSHOT) -> tuple[RegionRecord, ...]:
    """So many regions that were predicted with a score of 0.9."""
    return (RegionRecord("cat", outcome, 0.9, None, 0.9, version(adapter=adapter)),) * count


def used(house: LearningHouse) -> Calibration:
    """What a worker that predicts scores with now."""
    return read_plan(house.make_resident("worker", learner=False), PROJECT).calibration


def test_what_annotators_refuse_lowers_scores_from_the_next_round_on(house: LearningHouse) -> None:
    assert used(house) == IDENTITY
    house.promotes, house.records = False, seen("deleted", 30)
    house.annotate(3, digest="one")
    house.look()
    assert house.served == ZEROSHOT, "nothing was promoted"
    found = used(house)
    assert found.records == 30
    assert found.probability(0.9) < 0.4
    assert used(house) == found, "a worker that is started later"


def test_what_annotators_did_is_noted_by_version_of_ours(house: LearningHouse) -> None:
    ledger, adapters = ProjectLedger(house.redis), ServedAdapters(house.redis)
    ledger.add_version(PROJECT, version())
    ledger.add_version(PROJECT, version(adapter="a1-123456"))
    foreign = replace(seen("accepted", 1)[0], version="somebody-else")
    house.promotes = False
    house.records = (*seen("deleted", 3), *seen("accepted", 2, adapter="a1-123456"), foreign)
    house.annotate(3, digest="one")
    house.look()
    none = {"accepted": 0, "changed": 0, "deleted": 0, "added": 0}
    assert adapters.judged(PROJECT) == {
        version(): {"cat": {**none, "deleted": 3}}, version(adapter="a1-123456"): {"cat": {**none, "accepted": 2}},
    }  # fmt: skip
    house.redis.hset(f"zeromask:{PROJECT}:judged", "v", b'{"cat": {"accepted": -1}}')
    assert set(adapters.judged(PROJECT)) == {version(), version(adapter="a1-123456")}


def test_a_new_version_starts_from_the_map_before_and_gets_its_own(house: LearningHouse) -> None:
    house.records = seen("deleted", 30)
    house.annotate(3, digest="one")
    house.look()
    first = house.served
    assert first != ZEROSHOT
    before = used(house)
    assert before.probability(0.9) < 0.4
    house.promotes, house.records = False, (*house.records, *seen("accepted", 60, adapter=first))
    house.annotate(6, digest="two")
    house.look()
    assert house.served == first
    assert used(house).probability(0.9) > before.probability(0.9) + 0.2
    roll_back(house.redis, PROJECT, "builtin", ZEROSHOT)
    assert used(house) == before, "the zero-shot model is no better than it was"


def test_corrections_that_are_gone_are_forgotten(house: LearningHouse) -> None:
    house.promotes, house.records = False, seen("changed", 30)
    house.annotate(3, digest="one")
    house.look()
    assert used(house) != IDENTITY
    house.records = ()
    house.annotate(6, digest="two")
    house.look()
    assert used(house) == IDENTITY


@pytest.mark.parametrize("content", [
    "{", "[]", '{"zeroshot": 7}', '{"zeroshot": {"slope": 1, "bias": 0, "records": 1}}',
    json.dumps({ENGINE: {"zeroshot": {"slope": "steep"}}}),
])  # fmt: skip
def test_a_damaged_map_costs_the_calibration_alone_until_the_next_round(
    house: LearningHouse, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    house.promotes, house.records = False, seen("deleted", 30)
    house.annotate(3, digest="one")
    house.look()
    found = used(house)
    (file,) = tmp_path.rglob("calibration.json")
    file.write_text(content)
    house.redis.flushall()
    with caplog.at_level(logging.WARNING):
        assert used(house) == IDENTITY
    assert "calibration" in caplog.text
    house.annotate(6, digest="two")
    house.look()
    assert used(house) == found


def test_versions_without_a_map_use_that_of_the_newest_before_them(house: LearningHouse) -> None:
    file = house.resident.adapters.calibrations(house.label_studio.project(PROJECT))
    assert file.of("a3-000000") == {}
    others = {"zeroshot": {"slope": 2.0, "bias": 0.0, "records": 1}}
    file.write("another", others)
    maps = {name: {"slope": 1.0, "bias": float(bias), "records": 1}
            for bias, name in enumerate(["a4-000000", "zeroshot", "a2-000000"])}  # fmt: skip
    file.write(ENGINE, maps)
    assert file.of("a3-000000") == {"another": others["zeroshot"], ENGINE: maps["a2-000000"]}
    assert file.of("a1-000000")[ENGINE] == file.of(ZEROSHOT)[ENGINE] == maps["zeroshot"]
    assert file.of("a5-000000")[ENGINE] == file.of("a4-000000")[ENGINE] == maps["a4-000000"]


def test_empty_predictions_are_calibrated_on_what_became_of_them(house: LearningHouse, tmp_path: Path) -> None:
    house.promotes, house.empty = False, (EmptyRecord(True, 0.4, version()),) * 30
    house.annotate(3, digest="one")
    house.look()
    found = used(house)
    assert (found.records, found.nothing.records) == (0, 30)
    assert found.chance_of_nothing(0.4) > 0.7
    assert found.probability(0.4) == 0.4, "no region was seen"
    (file,) = tmp_path.rglob("calibration.json")
    earlier = {name: {"slope": 1.0, "bias": -1.0, "records": 9} for name in ("zeroshot",)}  # without `nothing`
    file.write_text(json.dumps({ENGINE: earlier}))
    house.redis.flushall()
    assert used(house) == Calibration(1.0, -1.0, 9)
    house.annotate(6, digest="two")
    house.look()
    assert used(house) == found


def test_an_engine_with_other_settings_has_its_own_maps(house: LearningHouse) -> None:
    house.promotes, house.records = False, seen("deleted", 30)
    house.annotate(3, digest="one")
    house.look()
    found = used(house)
    assert found != IDENTITY
    mine, house.settings = house.settings, replace(house.settings, least_score=0.2)
    assert engine_name(house.settings) != engine_name(mine)
    assert used(house) == IDENTITY
    house.settings = mine
    assert used(house) == found


def test_a_stored_region_has_its_probability_and_its_raw_score(context: StandInContext) -> None:
    context.adapters.map = Calibration(1.0, -1.0, 50)
    context.ask(1)
    context.drain()
    (prediction,) = context.label_studio.predictions(1)
    expected = context.adapters.map.probability(0.9)
    assert prediction.score == pytest.approx(expected)
    assert {(row["score"], row["raw_score"]) for row in prediction.result} == {(expected, 0.9)}


def test_without_a_history_a_region_has_one_score(context: StandInContext) -> None:
    context.ask(1)
    context.drain()
    (prediction,) = context.label_studio.predictions(1)
    assert prediction.score == pytest.approx(0.9)
    assert all(row["score"] == 0.9 and "raw_score" not in row for row in prediction.result)


def test_a_stored_prediction_of_nothing_has_its_probability_and_notes_the_raw_one(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Segmentation((), 0.6, raw_nothing=0.6)
    monkeypatch.setattr(context.segmenter, "segment", lambda *_, **__: empty)
    context.adapters.map = Calibration(nothing=PlattMap(1.0, 1.0, 50))
    context.ask(1)
    context.drain()
    (prediction,) = context.label_studio.predictions(1)
    assert prediction.score == pytest.approx(context.adapters.map.chance_of_nothing(0.6))
    assert not prediction.result
    assert prediction.missed == pytest.approx(0.4)
    empty = Segmentation((), 0.0)  # labels that the model cannot read
    context.ask(2)
    context.drain()
    (prediction,) = context.label_studio.predictions(2)
    assert (prediction.score, prediction.missed) == (0.0, None)
