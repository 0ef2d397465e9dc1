"""Models whose posteriors are flatter or sharper than the builtin's, for which the raw score was fitted: they keep
their right regions, before any history and after it, and a history makes probabilities of their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from torch import Tensor

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.evaluation.calibration import judge_image
from worker.lab.evaluation.calibration_figures import expected_error
from worker.lab.evaluation.click_things import LEAST_SHARE
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, panoptic_scene
from worker.learning.acceptance import IDENTITY, Calibration, JudgedScore, fit_calibration
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmentation, Segmenter
from worker.segmentation.text.encoder import TextClasses
from worker.service.faint import ENOUGH_SEEN, without_faint

pytestmark = pytest.mark.usefixtures("one_thread")

_AS_IT_IS, _FLAT, _SHARP = 1.0, 5.0, 0.2  # temperatures
_SCENES = 40
_SMALL = 0.01  # of the image
_SETTINGS = Settings(model="ViT-B-16/datacomp_xl_s13b_b90k")  # any model but a builtin one


class Tempered(Segmenter):
    """The builtin model, its logits divided by a temperature: the same classes, other posteriors."""

    temperature = _AS_IT_IS

    def _zero_shot(self, features: Tensor, classes: TextClasses) -> ClassScores:
        found = super()._zero_shot(features, classes)
        return ClassScores.of(found.logits / self.temperature, found.scored)


@dataclass(frozen=True)
class Predicted:
    """What a model found in a scene, and which of its segments an annotator would leave as they are."""

    found: Segmentation
    accepted: tuple[bool, ...]

    @property
    def judged(self) -> list[JudgedScore]:
        return [JudgedScore(*one) for one in zip((s.score for s in self.found.segments), self.accepted, strict=True)]

    def drawn(self, calibration: Calibration, settings: Settings = _SETTINGS) -> list[bool]:
        """Of each segment, whether it is drawn."""
        kept = {id(segment.mask) for segment in without_faint(self.found, calibration, settings).segments}
        return [id(segment.mask) in kept for segment in self.found.segments]


Predictions = dict[float, list[Predicted]]


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    """Of each temperature, what is found in drawn scenes, with no bound on raw scores, as other models are served."""
    segmenter = Tempered(Encoder("builtin", device="cpu"), least_score=0.0)
    found: Predictions = {_AS_IT_IS: [], _FLAT: [], _SHARP: []}
    for number in range(_SCENES):
        drawn = panoptic_scene(1, number, touching=number % 2 == 0)
        image = drawn.scene.image
        labels = [Label(name, (name,), "label", "image", "$image", "brush", stuff=index >= STUFF_FROM)
                  for index, name in enumerate(drawn.labels)]  # fmt: skip
        truth = [one for one in drawn.truth if np.count_nonzero(one.mask) >= LEAST_SHARE * one.mask.size]
        embedding = segmenter.embed([image])[0]
        for temperature, images in found.items():
            segmenter.temperature = temperature
            segmentation = segmenter.segment(embedding, Vocabulary(tuple(labels)), image)
            judged = judge_image(segmentation, labels, truth)
            images.append(Predicted(segmentation, tuple(region.accepted for region in judged.regions)))
    return found


def _split(images: Sequence[Predicted]) -> tuple[Calibration, list[Predicted]]:
    """The map after fifty regions, and the images after them."""
    seen: list[JudgedScore] = []
    for number, image in enumerate(images):
        seen += image.judged
        if len(seen) >= ENOUGH_SEEN:
            return fit_calibration(seen[:ENOUGH_SEEN]), list(images[number + 1 :])
    raise AssertionError(f"only {len(seen)} regions")


def _right(images: Sequence[Predicted]) -> int:
    return sum(sum(image.accepted) for image in images)


@pytest.mark.parametrize("temperature", [_FLAT, _SHARP])
def test_right_regions_are_kept_before_any_history(predictions: Predictions, temperature: float) -> None:
    images = predictions[temperature]
    assert all(all(image.drawn(IDENTITY)) for image in images)
    assert _right(images) >= 0.97 * _right(predictions[_AS_IT_IS])  # and the masks are as good
    small = [segment for image in images for segment, right in zip(image.found.segments, image.accepted, strict=True)
             if right and segment.mask.mean() < _SMALL]  # fmt: skip
    assert small


def test_raw_scores_of_a_flat_model_are_no_probabilities(predictions: Predictions) -> None:
    judged = [one for image in predictions[_FLAT] for one in image.judged]
    error = expected_error([one.score for one in judged], [one.accepted for one in judged])
    assert error is not None
    assert error > 0.15


def test_a_bound_on_raw_scores_would_cost_a_flat_model_right_regions(predictions: Predictions) -> None:
    builtin = Settings(model="builtin")
    lost = [right and not drawn for image in predictions[_FLAT]
            for right, drawn in zip(image.accepted, image.drawn(IDENTITY, builtin), strict=True)]  # fmt: skip
    assert sum(lost) >= 5


@pytest.mark.parametrize("temperature", [_FLAT, _SHARP])
def test_after_fifty_corrected_regions_scores_are_probabilities(predictions: Predictions, temperature: float) -> None:
    calibration, held_out = _split(predictions[temperature])
    judged = [one for image in held_out for one in image.judged]
    right = [one.accepted for one in judged]
    after = expected_error([calibration.probability(one.score) for one in judged], right)
    assert after is not None
    assert after <= 0.08


@pytest.mark.parametrize("temperature", [_FLAT, _SHARP])
def test_then_faint_regions_go_and_right_ones_stay(predictions: Predictions, temperature: float) -> None:
    calibration, held_out = _split(predictions[temperature])
    pairs = [pair for image in held_out for pair in zip(image.accepted, image.drawn(calibration), strict=True)]
    assert sum(right and not drawn for right, drawn in pairs) <= 0.01 * _right(held_out)
    wrong = [drawn for right, drawn in pairs if not right]
    assert wrong.count(False) >= 0.2 * len(wrong)  # of 30 some 7 where scores are sharp, 17 where they are flat
