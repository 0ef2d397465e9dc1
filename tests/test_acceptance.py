"""Scores calibrated on what annotators accepted, and the score of a prediction as a whole."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label
from tests.stand_ins import version
from worker.label_studio.outcomes import EmptyRecord, RegionRecord
from worker.learning.acceptance import (
    IDENTITY,
    Calibration,
    JudgedScore,
    PlattMap,
    VersionHistory,
    fit_calibration,
    fit_map,
    fit_versions,
)
from worker.segmentation.instances.acceptance import chance_of_nothing, whole_score
from worker.segmentation.segmenter import LabelSegment, Segmentation
from worker.service.trainer.calibrating import fit_maps

SCORES = np.linspace(0.0, 1.0, 101)


def log_odds(score: float) -> float:
    return float(np.log(score / (1 - score)))


def records(count: int, *, slope: float, bias: float, seed: int = 0) -> list[JudgedScore]:
    """Regions whose true chance is that map of their raw score."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.95, count)
    chances = 1 / (1 + np.exp(-slope * np.array([log_odds(score) for score in scores]) - bias))
    return [JudgedScore(float(s), bool(a)) for s, a in zip(scores, rng.uniform(size=count) < chances, strict=True)]


def error(found: PlattMap, *, slope: float, bias: float) -> float:
    """Mean distance of the map from the true chance, as expected calibration error has it, over scores seen."""
    inside = np.linspace(0.05, 0.95, 91)
    true = [1 / (1 + np.exp(-slope * log_odds(score) - bias)) for score in inside]
    return float(np.mean([abs(found.probability(score) - one) for score, one in zip(inside, true, strict=True)]))


def test_before_any_history_scores_stay_as_they_are() -> None:
    assert fit_calibration([]) == IDENTITY
    assert [IDENTITY.probability(score) for score in SCORES] == list(SCORES)
    assert fit_versions([]) == {}


@pytest.mark.parametrize(("slope", "bias"), [(1, -2), (1, 2), (0.3, 0), (2, 0), (0.5, 1), (1, 0)])
def test_a_known_distortion_is_found_from_fifty_regions(slope: float, bias: float) -> None:
    errors = [error(fit_calibration(records(50, slope=slope, bias=bias, seed=seed)), slope=slope, bias=bias)
              for seed in range(20)]  # fmt: skip
    assert np.mean(errors) < 0.08
    if (slope, bias) != (1, 0):
        assert np.mean(errors) < 0.6 * error(IDENTITY, slope=slope, bias=bias)


@pytest.mark.parametrize("slope", [0.1, 4.0])
def test_scores_that_say_too_much_or_too_little_become_probabilities(slope: float) -> None:
    found = fit_calibration(records(400, slope=slope, bias=0.0))
    assert (found.slope < 0.4) if slope < 1 else (found.slope > 2)
    assert error(found, slope=slope, bias=0.0) < 0.05


def test_a_few_regions_change_little_and_many_decide() -> None:
    refused = [JudgedScore(0.9, False)]
    moved = [fit_calibration(refused * count).probability(0.9) for count in (1, 3, 10, 100)]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.7
    assert moved[-1] < 0.1


@pytest.mark.parametrize("accepted", [True, False])
def test_annotators_who_accept_all_or_nothing_leave_probabilities(accepted: bool) -> None:
    found = fit_calibration([JudgedScore(score, accepted) for score in (0.0, 0.2, 0.5, 0.9, 1.0)] * 200)
    probabilities = [found.probability(score) for score in SCORES]
    assert all(0 < one < 1 for one in probabilities)
    assert (min(probabilities) > 0.5) if accepted else (max(probabilities) < 0.5)


def test_the_order_of_scores_never_changes() -> None:
    reversed_scores = [JudgedScore(0.95, False), JudgedScore(0.05, True)] * 100
    found = fit_calibration(reversed_scores)
    probabilities = [found.probability(score) for score in SCORES[1:-1]]
    assert all(one < other for one, other in pairwise(probabilities))


def test_a_new_version_starts_from_the_map_of_the_one_before() -> None:
    old, few = records(200, slope=0.5, bias=-2), records(3, slope=0.5, bias=-2, seed=1)
    history = {"zeroshot": old, "a1-000000": few, "a2-000000": []}
    found = fit_versions((name, VersionHistory(seen)) for name, seen in history.items())
    assert found["zeroshot"] == fit_calibration(old)
    assert found["a2-000000"] == found["a1-000000"]
    assert found["a1-000000"].records == 203
    assert error(found["a1-000000"], slope=0.5, bias=-2) < error(fit_calibration(few), slope=0.5, bias=-2)


def test_predictions_without_regions_have_a_map_of_their_own() -> None:
    old, few = records(200, slope=0.5, bias=2), records(3, slope=0.5, bias=2, seed=1)
    regions = records(40, slope=1, bias=-2)
    history = [VersionHistory(nothing=old), VersionHistory(regions, few), VersionHistory()]
    found = list(fit_versions(zip(("zeroshot", "a1-000000", "a2-000000"), history, strict=True)).values())
    assert found[0].nothing == fit_map(old)
    assert found[0].is_identity, "no region was seen"
    assert fit_calibration(regions) == Calibration(found[1].slope, found[1].bias, found[1].records)
    assert (found[1].nothing.records, found[2]) == (203, found[1])
    assert error(found[1].nothing, slope=0.5, bias=2) < error(fit_map(few), slope=0.5, bias=2)
    assert found[1].chance_of_nothing(0.3) > 0.6 > 0.3 > found[1].probability(0.3)
    assert found[1].chance_of_nothing(0.0) == 0.0, "labels that the model cannot read"


def test_a_few_wrong_ones_change_little() -> None:
    wrong = [JudgedScore(0.9, False)]
    moved = [fit_versions([("a", VersionHistory(nothing=wrong * count))])["a"] for count in (1, 30)]
    assert 0.7 < moved[0].chance_of_nothing(0.9) < 0.8
    assert moved[1].chance_of_nothing(0.9) < 0.3


def test_what_an_earlier_release_stored_is_read_and_it_reads_what_is_stored_now() -> None:
    found = Calibration.from_json({"slope": 0.5, "bias": 1.0, "records": 50}, subject="a1")
    assert found == Calibration(0.5, 1.0, 50)
    assert found.chance_of_nothing(0.4) == 0.4
    mapped = Calibration(0.5, 1.0, 50, PlattMap(1.0, 2.0, 7))
    assert {name: mapped.to_json()[name] for name in ("slope", "bias", "records")} == {
        "slope": 0.5, "bias": 1.0, "records": 50,
    }  # fmt: skip
    assert Calibration.from_json(json.loads(json.dumps(mapped.to_json())), subject="a1") == mapped


def test_a_map_survives_being_stored() -> None:
    found = fit_calibration(records(50, slope=0.5, bias=1))
    assert Calibration.from_json(json.loads(json.dumps(found.to_json())), subject="a1") == found


@pytest.mark.parametrize("row", [
    None, [], {}, {"slope": "x", "bias": 0, "records": 1}, {"slope": -1, "bias": 0, "records": 1},
    {"slope": 1, "bias": float("nan"), "records": 1}, {"slope": float("inf"), "bias": 0, "records": 1},
    {"slope": 1, "bias": 0, "records": -1}, {"slope": 1, "bias": 10**400, "records": 1},
    {"slope": 2, "bias": 0, "records": 1, "nothing": None},
    {"slope": 2, "bias": 0, "records": 1, "nothing": {"slope": 1, "bias": "x", "records": 1}},
])  # fmt: skip
def test_a_damaged_map_leaves_scores_as_they_are_and_says_so(row: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Calibration.from_json(row, subject="project 7") == IDENTITY
    assert "project 7" in caplog.text


def found_in_image(*scores: float, score: float = 0.7) -> Segmentation:
    mask = np.ones((4, 4), np.bool_)
    label = cast("Label", None)
    return Segmentation(tuple(LabelSegment(label, mask, score) for score in scores), score)


def test_segments_get_probabilities_and_keep_their_raw_scores() -> None:
    calibration = Calibration(1.0, -1.0, 50)
    found = calibration.applied(found_in_image(0.5, 0.8))
    assert [segment.raw_score for segment in found.segments] == [0.5, 0.8]
    assert [segment.score for segment in found.segments] == [calibration.probability(score) for score in (0.5, 0.8)]
    assert found.score == found.segments[0].score
    plain = found_in_image(0.5)
    assert IDENTITY.applied(plain) is plain
    assert calibration.applied(found_in_image(score=0.7)).score == 0.7, "nothing was found"


def test_an_image_in_which_nothing_is_found_gets_the_probability_that_nothing_is_there() -> None:
    calibration = Calibration(nothing=PlattMap(1.0, 1.0, 50))
    empty = replace(found_in_image(score=0.6), raw_nothing=0.6)
    assert calibration.applied(empty).score == calibration.nothing.probability(0.6) > 0.7
    assert calibration.applied(empty).raw_nothing == 0.6
    assert IDENTITY.applied(empty) is empty
    answers = found_in_image(score=0.6)
    assert calibration.applied(answers) is answers, "a score of answers, or of labels that the model cannot read"


def test_a_whole_is_as_sure_as_its_least_certain_part() -> None:
    assert whole_score([0.9, 0.3, 0.95]) == 0.3


def test_where_something_may_be_it_is_not_sure_that_nothing_is_there() -> None:
    background = np.full((200, 300), 0.98, np.float32)
    assert chance_of_nothing(background) == pytest.approx(0.98)
    speck, spot, line = background.copy(), background.copy(), background.copy()
    speck[50:52, 50:52] = 0.1
    spot[50:70, 50:70] = 0.3
    line[100:103] = 0.1
    assert chance_of_nothing(speck) > 0.9
    assert chance_of_nothing(line) > 0.9, "as along an outline"
    assert chance_of_nothing(spot) == pytest.approx(0.3, abs=0.01)


def test_the_size_of_an_image_does_not_change_the_chance_that_nothing_is_there() -> None:
    small = np.full((120, 160), 0.9, np.float32)
    small[40:60, 40:60] = 0.2
    large = np.kron(small, np.ones((8, 8), np.float32))
    assert chance_of_nothing(large) == pytest.approx(chance_of_nothing(small), abs=0.02)


def region(outcome: str, raw_score: float | None, made_by: str) -> RegionRecord:
    return RegionRecord("cat", outcome, raw_score, None, raw_score, made_by)  # type: ignore[arg-type]


def test_only_regions_that_these_settings_predicted_are_fitted_on() -> None:
    ours = [region("accepted", 0.2, version()), region("deleted", 0.9, version(adapter="a2-000000"))]
    others = [
        region("added", None, ""), region("accepted", None, version()),
        region("accepted", 0.1, "other-zeroshot-00000000"),
        region("changed", 0.9, "imported by somebody"),
    ]  # fmt: skip
    found = fit_maps([*reversed(ours), *others], Settings(model="builtin"))
    assert list(found) == ["zeroshot", "a2-000000"]
    assert [one.records for one in found.values()] == [1, 2]


def test_only_empty_predictions_of_these_settings_are_fitted_on() -> None:
    empty = [
        EmptyRecord(True, 0.4, version()), EmptyRecord(False, 0.9, version(adapter="a2-000000")),
        EmptyRecord(True, 0.1, "other-zeroshot-00000000"), EmptyRecord(True, 0.1, "imported by somebody"),
    ]  # fmt: skip
    found = fit_maps([region("accepted", 0.2, version(adapter="a1-000000"))], Settings(model="builtin"), empty)
    assert list(found) == ["zeroshot", "a1-000000", "a2-000000"]
    assert [(one.records, one.nothing.records) for one in found.values()] == [(0, 1), (1, 1), (1, 2)]
