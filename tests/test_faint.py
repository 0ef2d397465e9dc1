"""Faint regions are not drawn where a score is a probability, and nothing is left out by its score where it is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label
from worker.learning.acceptance import IDENTITY, Calibration, PlattMap
from worker.segmentation.segmenter import LabelSegment, Segmentation, Segmenter
from worker.service.faint import ENOUGH_SEEN, without_faint

BUILTIN, OTHER = Settings(model="builtin"), Settings(model="ViT-B-16/datacomp_xl_s13b_b90k")
SEEN = Calibration(1.0, 0.0, ENOUGH_SEEN)
CAT = Label("cat", ("cat",), control="b", to_name="i", image_value="$image", output="brush")


def found(*scores: float, label: Label = CAT) -> Segmentation:
    segments = tuple(LabelSegment(label, np.ones((2, 2), dtype=np.bool_), score) for score in scores)
    return Segmentation(segments, min(scores, default=0.9))


@pytest.mark.parametrize(
    ("settings", "calibration", "drawn"),
    [
        pytest.param(BUILTIN, IDENTITY, [0.3, 0.9], id="builtin: its scores were fitted"),
        pytest.param(OTHER, IDENTITY, [0.01, 0.29, 0.3, 0.9], id="another model without history"),
        pytest.param(OTHER, Calibration(1.0, 0.0, ENOUGH_SEEN - 1), [0.01, 0.29, 0.3, 0.9], id="too little history"),
        pytest.param(OTHER, SEEN, [0.3, 0.9], id="another model whose regions were seen"),
        pytest.param(replace(OTHER, least_score=0.0), SEEN, [0.01, 0.29, 0.3, 0.9], id="all are wanted"),
    ],
)
def test_what_is_drawn(settings: Settings, calibration: Calibration, drawn: Sequence[float]) -> None:
    shown = without_faint(found(0.01, 0.29, 0.3, 0.9), calibration, settings)
    assert [segment.score for segment in shown.segments] == pytest.approx(drawn)
    assert shown.score == pytest.approx(min(drawn))


def test_the_score_is_the_one_that_the_history_has_calibrated() -> None:
    pessimist = Calibration(1.0, -3.0, ENOUGH_SEEN)
    assert pessimist.probability(0.8) < 0.3 < pessimist.probability(0.95)
    (kept,) = without_faint(found(0.8, 0.95), pessimist, OTHER).segments
    assert kept.raw_score == 0.95
    assert kept.score == pytest.approx(pessimist.probability(0.95))


def test_where_all_are_faint_the_image_is_as_sure_as_the_likeliest_is_not() -> None:
    shown = without_faint(found(0.1, 0.25), IDENTITY, BUILTIN)
    mapped = without_faint(found(0.1, 0.25), Calibration(nothing=PlattMap(1.0, 1.0, 9)), BUILTIN)
    assert (shown.raw_nothing, mapped.raw_nothing) == (0.75, 0.75)
    assert mapped.score > shown.score == 0.75
    assert (shown.segments, shown.score) == ((), 0.75)
    assert without_faint(found(), IDENTITY, BUILTIN) == found()


def test_a_label_may_have_a_threshold_of_its_own() -> None:
    shown = without_faint(found(0.1, 0.25, label=replace(CAT, least_score=0.2)), IDENTITY, BUILTIN)
    assert [segment.score for segment in shown.segments] == [0.25]


def test_the_threshold_of_a_label_holds_for_the_fitted_score_from_the_start() -> None:
    pessimist = Calibration(1.0, -3.0, ENOUGH_SEEN - 1)
    assert pessimist.probability(0.8) < 0.3 < pessimist.probability(0.95)
    (kept,) = without_faint(found(0.8, 0.95, label=replace(CAT, least_score=0.3)), pessimist, OTHER).segments
    assert kept.raw_score == 0.95


def test_the_library_drops_slivers_of_the_builtin_model_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("worker.segmentation.segmenter.Encoder.from_settings", lambda *_, **__: None)
    monkeypatch.setattr(Segmenter, "__init__", lambda self, *_, least_score, **__: setattr(self, "bound", least_score))
    bounds = [Segmenter.from_settings(replace(settings, state_dir=str(tmp_path))).bound  # type: ignore[attr-defined]
              for settings in (BUILTIN, OTHER, replace(BUILTIN, least_score=0.0))]  # fmt: skip
    assert bounds == [0.05, 0.0, 0.0]
