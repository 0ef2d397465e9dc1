"""The panoptic protocol: its figures are the textbook's, its scenes are what they claim, and cutting gains on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.lab.evaluate import main
from worker.lab.evaluation.fit_assembly import fit_acceptance, fit_cut_rule, scene_examples, wanted_of
from worker.lab.evaluation.panoptic_scenes import FIT_SEED, STUFF_FROM, TrueSegment, panoptic_scene
from worker.lab.metrics import PanopticEvaluator, average_precision, calibration_error, reliability
from worker.segmentation.instances.acceptance import SegmentEvidence
from worker.segmentation.instances.assembly import assemble
from worker.segmentation.instances.cut_evidence import CutEvidence
from worker.segmentation.instances.splitting import CUT_RULE

pytestmark = pytest.mark.usefixtures("one_thread")


def strip(index: int, start: int, stop: int) -> TrueSegment:
    mask = np.zeros((1, 100), dtype=np.bool_)
    mask[0, start:stop] = True
    return TrueSegment(index, mask)


def figures(found: Sequence[TrueSegment], truth: Sequence[TrueSegment], scores: Sequence[float]) -> dict[str, float]:
    evaluator = PanopticEvaluator(3, frozenset({0, 1}))
    evaluator.add(found, scores, truth)
    return evaluator.figures()


def test_pq_is_sq_times_rq_and_counts_misses_and_extras() -> None:
    truth = [strip(0, 0, 10), strip(0, 20, 30), strip(2, 40, 100)]
    found = [strip(0, 0, 8), strip(0, 20, 24), strip(2, 40, 100)]  # IoU 0.8; 0.4, so a miss and an extra; 1.0
    result = figures(found, truth, [0.9, 0.8, 0.7])
    assert result["sq_things"] == pytest.approx(0.8)
    assert result["rq_things"] == pytest.approx(1 / (1 + 0.5 + 0.5))
    assert result["pq_things"] == pytest.approx(0.4)
    assert result["pq_stuff"] == 1.0
    assert result["pq"] == pytest.approx(0.7)


def test_two_things_in_one_mask_are_two_misses() -> None:
    truth = [strip(0, 0, 10), strip(0, 10, 20)]
    assert figures([strip(0, 0, 20)], truth, [0.9])["pq_things"] == 0.0
    assert figures(truth, truth, [0.9, 0.9])["pq_things"] == 1.0


def test_ap_is_the_mean_over_ten_ious() -> None:
    result = figures([strip(0, 0, 72)], [strip(0, 0, 100)], [0.9])  # matches at 0.5 to 0.7, which is five of ten
    assert result["ap50"] == 1.0
    assert result["ap"] == pytest.approx(0.5)


def test_the_right_place_with_the_wrong_class_is_no_hit() -> None:
    assert figures([strip(1, 0, 10)], [strip(0, 0, 10)], [0.9])["pq"] == 0.0


@pytest.mark.parametrize(
    ("scored", "true", "expected"),
    [
        pytest.param([(0.9, True), (0.8, True)], 2, 1.0, id="all"),
        pytest.param([(0.9, True)], 2, 51 / 101, id="half of them"),
        pytest.param([(0.9, False), (0.8, True)], 1, 0.5, id="an extra ranked first"),
        pytest.param([(0.8, False), (0.9, True)], 1, 1.0, id="an extra ranked last costs nothing"),
        pytest.param([], 3, 0.0, id="nothing found"),
    ],
)
def test_average_precision_is_that_of_101_recalls(
    scored: list[tuple[float, bool]], true: int, expected: float
) -> None:
    assert average_precision(scored, true) == pytest.approx(expected)


def test_calibration_is_the_distance_of_score_and_truth() -> None:
    scored = [(0.75, True)] * 3 + [(0.75, False)] + [(0.15, True)]
    assert calibration_error(scored) == pytest.approx(0.85 / 5)
    assert [row["count"] for row in reliability(scored)] == [1, 4]


def components(asked_mask: NDArray[np.bool_]) -> int:
    return int(cv2.connectedComponents(asked_mask.astype(np.uint8), connectivity=8)[0]) - 1


def test_things_of_one_class_touch_often_and_only_when_asked_to() -> None:
    touching = apart = 0
    for number in range(24):
        asked = panoptic_scene(3, number)
        for index in range(STUFF_FROM):
            of_class = [segment.mask for segment in asked.truth if segment.index == index]
            touching += len(of_class) > 1 and components(np.any(of_class, axis=0)) < len(of_class)
        alone = panoptic_scene(3, number, touching=False).scene
        apart += components(alone.instances > 0) >= len(alone.objects) - 1
    assert touching >= 16
    assert apart >= 20


def test_a_scene_is_a_function_of_its_seed_and_its_truth_has_no_overlap() -> None:
    one, again = panoptic_scene(3, 5), panoptic_scene(3, 5)
    assert np.array_equal(one.scene.image, again.scene.image)
    assert np.array_equal(np.sum([segment.mask for segment in one.truth], axis=0), np.ones(one.scene.instances.shape))
    assert not np.array_equal(one.scene.image, panoptic_scene(FIT_SEED, 5).scene.image)


def test_on_true_classes_cutting_brings_things_back_one_by_one() -> None:
    """With the class map given, what is left is the cuts' own doing."""
    evaluators = {name: PanopticEvaluator(12, frozenset(range(STUFF_FROM))) for name in ("whole", "split")}
    for number in range(20):
        asked = panoptic_scene(3, number)
        classes = np.full(asked.scene.instances.shape, 12, dtype=np.int16)
        for segment in asked.truth:
            classes[segment.mask] = segment.index
        confidence = np.full(classes.shape, 0.95, dtype=np.float32)
        for name, evaluator in evaluators.items():
            rule = None if name == "whole" else CUT_RULE
            found = assemble(classes, confidence, wanted_of(asked), asked.scene.image, rule=rule)
            evaluator.add(found, [segment.score for segment in found], asked.truth)
    whole, split = (evaluators[name].figures() for name in ("whole", "split"))
    assert split["pq_things"] > whole["pq_things"] + 0.08
    assert split["ap50"] > whole["ap50"] + 0.08
    assert split["pq_stuff"] == whole["pq_stuff"]


def test_examples_of_cuts_know_right_from_wrong() -> None:
    found = []
    for number in range(6):
        asked = panoptic_scene(3, number)
        classes = np.full(asked.scene.instances.shape, 12, dtype=np.int16)
        for segment in asked.truth:
            classes[segment.mask] = segment.index
        found += list(scene_examples(asked, classes))
    right = [evidence.contrast for evidence, is_right in found if is_right]
    wrong = [evidence.contrast for evidence, is_right in found if not is_right]
    assert len(right) >= 5
    assert np.median(right) > np.median(wrong)


def test_fits_find_the_rule_that_made_the_examples_and_keep_the_signs() -> None:
    rng = np.random.default_rng(0)
    even = CutEvidence(neck=0.5, neck_squared=0.25, contrast=0.5, edge=0.0, crease=1.0, convexity=0.5, balance=-0.5)
    sources: list[list[tuple[CutEvidence, bool]]] = [[], []]
    for k in range(1200):
        neck, edge = rng.uniform(0, 1.2), rng.normal()
        contrast = (0.5, 3.0)[k % 2]
        evidence = replace(even, neck=neck, neck_squared=neck**2, edge=edge, contrast=contrast)
        sources[k % 6 == 0].append((evidence, bool(1.5 - 3 * neck - edge + rng.logistic() > 0)))
    rule = fit_cut_rule(sources, [1.0, 2.0])
    assert rule.alike.contrast == 0  # never varied among these
    assert rule.alike.edge == pytest.approx(0, abs=0.05)  # here it speaks against a cut, which it must not
    for contrast in (0.5, 3.0):
        wide = replace(even, neck=1.0, neck_squared=1.0, contrast=contrast)
        narrow = replace(even, neck=0.2, neck_squared=0.04, contrast=contrast)
        assert rule.log_odds(narrow) > 0 > rule.log_odds(wide)
    segments = []
    for k in range(600):
        seen = SegmentEvidence(posterior=rng.uniform(0.3, 1), contrast=rng.normal(), size=-5.0, cut_margin=3.0)
        segments.append((seen, k % 2 == 0, bool(rng.uniform(0.3, 1) < seen.posterior)))
    fitted = fit_acceptance(segments)
    for weights in (fitted.thing, fitted.stuff):
        assert weights.posterior > 2
        assert min(weights.contrast, weights.size) >= 0


def test_the_command_prints_the_figures_as_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--protocol", "panoptic", "--model", "builtin", "--limit", "10"]
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["touching"]["split"]["pq_things"] > found["touching"]["whole"]["pq_things"] + 0.03
    assert found["touching"]["split"]["pq_stuff"] == found["touching"]["whole"]["pq_stuff"]
    assert found["apart"]["split"]["pq_things"] > 0.75
    assert found["touching"]["split"]["ece"] < 0.15
    assert set(found["ms"]) == {"embed", "classes", "whole", "split"}


def write_set(folder: Path, *, count: int) -> None:
    """Crowds as photographs with their things drawn one by one."""
    for name in ("images", "masks", "instances"):
        (folder / name).mkdir()
    for number in range(count):
        asked = panoptic_scene(3, 2 * number)
        classes = np.zeros(asked.scene.instances.shape, dtype=np.uint8)
        for segment in asked.truth:
            classes[segment.mask] = segment.index + 1 if segment.index < STUFF_FROM else 0
        Image.fromarray(asked.scene.image).save(folder / "images" / f"{number}.png")
        Image.fromarray(classes).save(folder / "masks" / f"{number}.png")
        Image.fromarray(asked.scene.instances.astype(np.uint8)).save(folder / "instances" / f"{number}.png")


def test_photographs_with_instances_judge_the_cuts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path, count=6)
    assert main(["--protocol", "panoptic", "--photos", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == 6
    assert found["things"] == sum(len(panoptic_scene(3, 2 * number).scene.objects) for number in range(6))
    assert found["split"]["pq"] > found["whole"]["pq"] + 0.05
    assert main(["--protocol", "panoptic", "--photos", str(tmp_path / "images")]) == 2
    assert "instances/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--limit", "1"], "at least 2"), (["--seed", str(FIT_SEED)], "were fitted on")]
)
def test_the_command_says_what_to_do(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--protocol", "panoptic", "--model", "builtin", *arguments]) == 2
    assert message in capsys.readouterr().err
