"""The calibration protocol: its figures are the textbook's, and its page shows what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plugin_config.vocabulary import Label
from worker.lab.calibration_page import BEGIN, END, PAGE, SETS, measured_part, read_results
from worker.lab.evaluate import main
from worker.lab.evaluation.calibration import judge_image, table
from worker.lab.evaluation.calibration_figures import (
    CalibrationRun,
    JudgedImage,
    JudgedRegion,
    empty_figures,
    equal_mass_bins,
    expected_error,
    ranking,
    summarise,
)
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.segmentation.segmenter import LabelSegment, Segmentation

CAT, DOG = (Label(name, (name,), "label", "image", "$image", "brush") for name in ("cat", "dog"))


def strip(start: int, stop: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    mask = np.zeros((1, 100), dtype=np.bool_)
    mask[0, start:stop] = True
    return mask


def test_a_region_is_judged_by_the_true_one_of_its_label_that_fits_best() -> None:
    found = Segmentation((LabelSegment(CAT, strip(0, 8), 0.9), LabelSegment(DOG, strip(20, 30), 0.5)), 0.5)
    truth = [TrueSegment(0, strip(0, 10)), TrueSegment(0, strip(20, 30)), TrueSegment(1, strip(40, 50))]
    judged = judge_image(found, [CAT, DOG], truth)
    assert judged.regions == (JudgedRegion("cat", 0.9, 0.8), JudgedRegion("dog", 0.5, 0.0))
    assert [region.accepted for region in judged.regions] == [True, False]
    assert (judged.missed, judged.accepted) == (2, False)
    nothing = judge_image(Segmentation((), 0.7), [CAT, DOG], [])
    assert (nothing, nothing.accepted) == (JudgedImage((), 0, 0.7), True)
    assert not judge_image(Segmentation((), 0.7), [CAT, DOG], truth).accepted


def test_the_error_is_the_distance_of_score_and_share_in_bins_of_equal_counts() -> None:
    scores, right = [0.2] * 20 + [0.9] * 20, [False] * 20 + [True] * 10 + [False] * 10
    assert [(row["count"], row["right"]) for row in equal_mass_bins(scores, right)] == [(20, 0.0), (20, 0.5)]
    assert expected_error(scores, right) == pytest.approx((0.2 + 0.4) / 2)
    assert len(equal_mass_bins(list(np.linspace(0, 1, 1000)), [True] * 1000)) == 15
    assert expected_error([], []) is None


def test_ranking_is_the_area_under_the_curve() -> None:
    assert ranking([0.1, 0.9], [False, True]) == 1.0
    assert ranking([0.5, 0.5], [False, True]) == 0.5
    assert ranking([0.9, 0.1], [False, True]) == 0.0
    assert ranking([0.9, 0.1], [True, True]) is None


def images(count: int, *, overconfident: bool, seed: int) -> list[JudgedImage]:
    """Images of one region, whose score is its chance of acceptance, or much more."""
    rng = np.random.default_rng(seed)
    chances = rng.uniform(0.05, 0.95, count)
    ious = np.where(rng.uniform(size=count) < chances, 0.9, 0.3)
    odds = np.log(chances / (1 - chances)) + (2.0 if overconfident else 0.0)
    scores = 1 / (1 + np.exp(-odds))
    return [JudgedImage((JudgedRegion("cat", float(s), float(i)),), 0, float(s))
            for s, i in zip(scores, ious, strict=True)]  # fmt: skip


def test_a_history_mends_scores_that_are_too_sure_and_leaves_good_ones() -> None:
    mended, left = (
        summarise([
            CalibrationRun({"a1": images(50, overconfident=wrong, seed=k)}, images(60, overconfident=wrong, seed=k + 9))
            for k in range(8)
        ])
        for wrong in (True, False)
    )  # fmt: skip
    assert mended["before"]["ece"] > 0.2
    assert mended["after"]["ece"] < 0.1
    assert left["after"]["ece"] < 0.1
    assert mended["after"]["spearman"] > mended["before"]["spearman"] - 0.05 > 0.3
    assert mended["whole"]["least"] == mended["whole"]["product"], "of one region"
    assert "50 images corrected" in table({"made up": mended})


def test_without_a_history_or_without_predictions_figures_are_still_given() -> None:
    found = summarise([CalibrationRun({}, [JudgedImage((), 0, 0.7), JudgedImage((), 1, 0.3)])])
    assert (found["after"]["ece"], found["after"]["predictions"]) == (None, 0)
    figures = {"mean_score": 0.5, "ece": 0.0}
    assert found["empty"] == {"images": 2, "right": 0.5, "seen": 0.0, **figures, "after": figures}
    assert "-" in table({"nothing": found})


def empty_images(count: int, *, seed: int) -> list[JudgedImage]:
    """Predictions without regions that are less sure of it than they are right."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0.3, 1.0, count)
    right = rng.uniform(size=count) < 1 / (1 + np.exp(-odds - 2))
    return [JudgedImage((), int(not ok), float(1 / (1 + np.exp(-one)))) for one, ok in zip(odds, right, strict=True)]


def test_a_history_mends_the_scores_of_predictions_without_regions() -> None:
    runs = [CalibrationRun({"a1": empty_images(30, seed=k)}, empty_images(40, seed=k + 9)) for k in range(8)]
    found = empty_figures(runs)
    assert found["seen"] == 30
    assert found["ece"] > 0.2
    assert found["after"]["ece"] < 0.08
    unread = CalibrationRun({"a1": [JudgedImage((), 0, 0.0)] * 20}, [JudgedImage((), 0, 0.0), JudgedImage((), 0, 0.6)])
    found = empty_figures([unread])
    assert (found["seen"], found["mean_score"], found["after"]["mean_score"]) == (0, 0.3, 0.3), "labels it cannot read"


@pytest.mark.parametrize("option", ["--corrections", "--held-out", "--every", "--orders"])
def test_numbers_below_one_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--protocol", "calibration", option, "0"]) == 2
    assert option in capsys.readouterr().err


def test_a_few_drawn_scenes_go_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--protocol", "calibration", "--model", "builtin", "--corrections", "2", "--held-out", "2", "--json"]
    assert main([*arguments, "--output-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)["drawn"]
    assert (found["images"], found["held_out_images"]) == (2, 2)
    assert found["alone"]["images"] + found["alone"]["seen"] > 2, "most of eight"
    assert json.loads((tmp_path / "calibration_drawn.json").read_text())["drawn"] == found
    assert "as it should be" in (tmp_path / "calibration_drawn.svg").read_text()


def test_the_page_shows_what_is_stored() -> None:
    part = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert part.strip() == measured_part(read_results())


def test_the_page_tells_bars_that_are_missed() -> None:
    good = summarise([CalibrationRun({}, images(100, overconfident=False, seed=2))])
    told = measured_part({"drawn": {**good, "after": {**good["after"], "ece": 0.2, "spearman": 0.7}}})
    assert f"{SETS['drawn']}, ECE at most 0.08: 0.200, **missed**." in told
    assert f"{SETS['drawn']}, Spearman at least 0.5: 0.700, met." in told
    assert "not measured yet" in told, "the other set"
