"""Sizes and trainings of generators: those of PADing, and a small one that trains in seconds on a CPU.

A preset is data; `dataclasses.replace` changes what a study changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.learning.generator.primitives import GeneratorSize
from worker.learning.generator.training import GeneratorConfig, LossWeights

PUBLISHED = GeneratorSize()
"""For vectors of 256 numbers, as those of the paper's segmenter."""

SMALL = GeneratorSize(primitives=100, layers=2, heads=4, hidden=256)
"""For vectors of some 128 numbers."""

# He et al., CVPR 2023, as released: 12 images of 100 queries in a step.
_PANOPTIC = GeneratorConfig(steps=20_000, size=PUBLISHED, queries=1200)
PRESETS: Mapping[str, GeneratorConfig] = {
    "panoptic": _PANOPTIC,
    "instances": GeneratorConfig(
        steps=4_000, size=PUBLISHED, queries=1200, unseen_weight=2.0, weights=LossWeights(structure=1e-3)
    ),
    "semantic": GeneratorConfig(
        steps=2_000, size=GeneratorSize(dropout=0.3), disentangling_dropout=0.2, queries=1200, supplied=0,
        weights=LossWeights(structure=1e-3),
    ),
    # Few steps from nothing: larger rates, scaled words, and every unseen label in each step.
    "small": GeneratorConfig(
        steps=300, size=SMALL, queries=512, scaled_words=True, supplied=0, generator_rate=2e-3, classifier_rate=1e-2
    ),
}  # fmt: skip
