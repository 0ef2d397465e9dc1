"""The simulated annotator: what is accepted, edited, deleted and drawn, how long it takes, and which mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.lab.evaluation.annotator import (
    ACCEPTED_FROM,
    PERFECT,
    Annotator,
    Correction,
    DrawnRegion,
    Noise,
    match_regions,
    true_regions,
    wobbled,
)
from worker.learning.interfaces import UNLABELLED
from worker.report.time_model import TimeModel
from worker.segmentation.metrics import VOID

SIZE = (60, 80)
TIME = TimeModel(image=10, look=1, click=2, outline=50, wrong=2)
CAT, DOG = 0, 1


def box(top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def truth_of(*regions: tuple[int, NDArray[np.bool_]]) -> NDArray[np.int16]:
    truth = np.full(SIZE, UNLABELLED, dtype=np.int16)
    for index, mask in regions:
        truth[mask] = index
    return truth


THING = box(10, 10, 20, 20)
TRUTH = truth_of((CAT, THING))


def correct(*predicted: DrawnRegion, truth: NDArray[np.int16] = TRUTH, noise: Noise = PERFECT) -> Correction:
    return Annotator(time=TIME, noise=noise).correct(predicted, truth, np.random.default_rng(0))


def counts(found: Correction) -> tuple[int, int, int, int]:
    return found.accepted, found.changed, found.deleted, found.added


def test_a_good_region_is_accepted_as_it_is() -> None:
    almost = box(10, 10, 18, 20)  # IoU .9
    found = correct(DrawnRegion(CAT, almost))
    assert counts(found) == (1, 0, 0, 0)
    assert found.seconds == 10 + 1
    assert found.from_scratch == 10 + 50
    np.testing.assert_array_equal(found.truth, truth_of((CAT, almost)))


def test_a_good_region_of_another_label_is_given_its_label() -> None:
    found = correct(DrawnRegion(DOG, THING))
    assert counts(found) == (0, 1, 0, 0)
    assert found.seconds == 10 + 1 + 2
    np.testing.assert_array_equal(found.truth, TRUTH)


def test_a_fair_region_is_edited_and_a_poor_one_is_drawn_anew() -> None:
    fair = correct(DrawnRegion(CAT, box(10, 10, 14, 20)))  # IoU .7
    assert counts(fair) == (0, 1, 0, 0)
    assert fair.seconds == pytest.approx(10 + 1 + 2 + 2 * 50 * 0.3)
    relabelled = correct(DrawnRegion(DOG, box(10, 10, 14, 20)))
    assert relabelled.seconds == pytest.approx(fair.seconds + 2)
    poor = correct(DrawnRegion(CAT, box(10, 10, 8, 20)))  # IoU .4: an edit would take 62 s, drawing anew 52
    assert counts(poor) == (0, 0, 1, 1)
    assert poor.seconds == 10 + 1 + 2 + 50
    for found in (fair, relabelled, poor):
        np.testing.assert_array_equal(found.truth, TRUTH)


def test_what_is_not_there_is_deleted_and_what_is_missing_is_drawn() -> None:
    found = correct(DrawnRegion(DOG, box(40, 50, 10, 10)))
    assert counts(found) == (0, 0, 1, 1)
    assert found.seconds == 10 + 1 + 2 + 50
    np.testing.assert_array_equal(found.truth, TRUTH)
    nothing = truth_of()
    assert correct(truth=nothing).seconds == correct(truth=nothing).from_scratch == 10
    assert counts(correct(DrawnRegion(DOG, THING), truth=nothing)) == (0, 0, 1, 0)


def test_it_is_told_which_predicted_region_each_submitted_one_was_made_from() -> None:
    truth = truth_of((CAT, THING), (DOG, box(40, 50, 10, 10)), (CAT, box(40, 10, 10, 10)))
    predicted = [DrawnRegion(CAT, box(0, 60, 5, 5)), DrawnRegion(CAT, box(10, 10, 14, 20)),
                 DrawnRegion(DOG, box(40, 50, 10, 10))]  # fmt: skip
    found = Annotator(time=TIME, noise=PERFECT).decide(predicted, truth, np.random.default_rng(0))
    told = {(one.predicted, one.accepted): one.region for one in found.regions}
    assert set(told) == {(1, False), (2, True), (None, False)}
    assert told[2, True] is predicted[2]
    np.testing.assert_array_equal(told[1, False].mask, THING)
    assert dict(found.counts) == {"accepted": 1, "changed": 1, "deleted": 1, "added": 1}


def test_void_counts_nowhere_and_without_a_background_the_rest_is_void() -> None:
    truth = TRUTH.copy()
    truth[10:20, 10:30] = VOID
    found = correct(DrawnRegion(CAT, THING), truth=truth)
    assert counts(found) == (1, 0, 0, 0)
    np.testing.assert_array_equal(found.truth, truth)
    everywhere = Annotator(time=TIME, noise=PERFECT, has_background=False)
    painted = everywhere.correct([], truth, np.random.default_rng(0)).truth
    assert set(np.unique(painted).tolist()) == {VOID, CAT}


def test_regions_are_components_and_specks_are_none() -> None:
    truth = truth_of((CAT, box(0, 0, 10, 10)), (CAT, box(20, 20, 10, 10)), (DOG, box(40, 40, 5, 5)))
    truth[59, 79] = DOG
    found = true_regions(truth)
    assert [(one.index, int(one.mask.sum())) for one in found] == [(CAT, 100), (CAT, 100), (DOG, 25)]


def test_each_true_region_is_matched_once_and_the_best_first() -> None:
    true = [box(0, 0, 20, 20), box(0, 40, 20, 20)]
    predicted = [box(0, 0, 20, 10), box(0, 10, 20, 9), box(0, 40, 20, 20), box(50, 0, 5, 5)]
    assert match_regions(predicted, true) == {0: (0, 0.5), 2: (1, 1.0)}
    assert match_regions([], true) == match_regions(predicted, []) == {}


def test_mistakes_come_as_often_as_they_should() -> None:
    rng = np.random.default_rng(1)
    trusting = Annotator(time=TIME, noise=replace(PERFECT, over_trust=0.2))
    wrong = DrawnRegion(DOG, box(40, 50, 10, 10))
    found = [trusting.correct([wrong], TRUTH, rng) for _ in range(400)]
    assert np.mean([one.accepted for one in found]) == pytest.approx(0.2, abs=0.06)
    assert all((one.truth == DOG).any() == bool(one.accepted) for one in found)
    small = truth_of((CAT, box(0, 0, 4, 4)), (DOG, THING))
    hasty = Annotator(time=TIME, noise=replace(PERFECT, overlooked=0.3))
    overlooking = [hasty.correct([], small, rng) for _ in range(400)]
    assert np.mean([one.added for one in overlooking]) == pytest.approx(1.7, abs=0.07)
    assert all(one.seconds == one.from_scratch == 10 + 50 * one.added for one in overlooking)
    shown = [hasty.correct([DrawnRegion(CAT, box(0, 0, 4, 4))], small, rng) for _ in range(50)]
    assert all(counts(one) == (1, 0, 0, 1) for one in shown), "what is predicted is not overlooked"


def test_a_drawn_outline_wobbles_by_as_much_as_it_should() -> None:
    large = np.zeros((480, 640), dtype=np.bool_)
    large[100:300, 200:400] = True
    rng = np.random.default_rng(2)
    assert wobbled(large, 0.0, rng) is large
    ious = []
    for wobble in (0.003, 0.01):
        drawn = wobbled(large, wobble, rng)
        ious.append((large & drawn).sum() / (large | drawn).sum())
        assert abs(int(drawn.sum()) - int(large.sum())) < 0.05 * large.sum()
    assert 0.95 < ious[0] < 1
    assert 0.8 < ious[1] < ious[0]
    dot = box(5, 5, 2, 2)
    assert all(wobbled(dot, 0.05, rng).any() for _ in range(30))


def test_the_constants_say_what_the_docstrings_say() -> None:
    time = TimeModel()
    assert time.edit(ACCEPTED_FROM) == pytest.approx(18.6)
    assert time.edit(0.5) == pytest.approx(time.redraw)
