"""Faint regions are not drawn: those that annotators would most likely change or delete.

A score is taken for a probability with the builtin models, whose scores were fitted to it, and with any model once
enough of a project's regions were seen by annotators. Until then only a threshold that a label has of its own counts.
"""

from __future__ import annotations

from dataclasses import replace

from plugin_config.settings import Settings
from worker.learning.acceptance import Calibration
from worker.segmentation.encoders.checkpoints import is_builtin
from worker.segmentation.instances.acceptance import whole_score
from worker.segmentation.segmenter import Segmentation

ENOUGH_SEEN = 50
"""Regions after which a project's own history decides about its scores; see docs/research/calibration.md."""


def without_faint(found: Segmentation, calibration: Calibration, settings: Settings) -> Segmentation:
    """What is drawn of what was found in an image.

    Args:
        found: with raw scores.
        calibration: how the project's raw scores are mapped.
        settings: `least_score`, and of which model the scores are.

    Returns:
        the segments with calibrated scores, without those below `least_score`, or the threshold of their label where
        it has one. Where none is left, the score is the chance that none of them would have been accepted, calibrated
        as that of an image in which nothing was found.
    """
    found = calibration.applied(found)
    is_probability = is_builtin(settings.model) or calibration.records >= ENOUGH_SEEN
    least = settings.least_score if is_probability else 0.0
    kept = tuple(
        segment
        for segment in found.segments
        if segment.score >= (least if segment.label.least_score is None else segment.label.least_score)
    )
    if len(kept) == len(found.segments):
        return found
    if kept:
        return replace(found, segments=kept, score=whole_score([segment.score for segment in kept]))
    nothing = 1 - max(segment.score for segment in found.segments)
    return replace(found, segments=(), score=calibration.chance_of_nothing(nothing), raw_nothing=nothing)
