"""Annotated images -> batches of crops: scaled, cut and mirrored at random, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import ClassMap, drawn_classes, with_background
from worker.learning.corrections.examples import with_words
from worker.learning.interfaces import Example, Words
from worker.segmentation.metrics import VOID

HIDDEN = -3
"""Class of pixels without one that a pseudo-label may be given to; what lies beyond an image is VOID all the same."""

_REMEDY = "Submit an annotation with a region of one of the project's labels."
_PADDING = 127  # of images; their class is VOID there


@dataclass(frozen=True)
class Sample:
    """One annotated image to learn from.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int16: a row of the label vectors, the background among them, or VOID, which pixels of unseen
            classes must be; or HIDDEN, where the loss knows what that is.
    """

    image: NDArray[np.uint8]
    truth: ClassMap


@dataclass(frozen=True)
class CropConfig:
    """How crops are drawn.

    Attributes:
        side: pixels of the square crops, a multiple of what the tower takes; 0 = chosen for the network.
        scales: smallest and largest factor on the size of the images.
        flips: whether half of the crops are mirrored.
    """

    side: int = 0
    scales: tuple[float, float] = (0.8, 1.25)
    flips: bool = True


def taught_words(examples: Sequence[Example], words: Words) -> Words:
    """The words of those classes that some example shows.

    Raises:
        LearningError: none does.
    """
    shown = {example.words[k] for example in examples for k in drawn_classes(example.truth)}
    taught = tuple(texts for texts in words if texts in shown)
    if not taught:
        raise LearningError("corrections", "no label of the project is drawn in any of them", _REMEDY)
    return taught


def training_sample(example: Example, taught: Words) -> Sample:
    """An example as the training reads it: classes are rows of the taught words, what nobody drew on is background, and
    pixels of any other class are VOID.
    """
    return Sample(example.image, with_background(with_words(example, taught).truth, len(taught)))


def batch_rng(seed: int, step: int) -> np.random.Generator:
    """The random generator of one step: a training that goes on draws what an unbroken one would have drawn."""
    return np.random.default_rng([seed, step])


def entered(sample: Sample, short_side: int) -> Sample:
    """The same at the size at which images enter the network: their short side has so many pixels."""
    height, width = sample.truth.shape
    scale = short_side / min(height, width)
    return _resized(sample, (max(1, round(height * scale)), max(1, round(width * scale))))


def draw_batch(
    samples: Sequence[Sample], count: int, config: CropConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a batch of crops, each of another sample as far as there are enough.

    Args:
        samples: at the size at which they enter the network.
        count: B.
        config: of the crops.
        rng: random generator.

    Returns:
        (B, 3, side, side) uint8 pixels and (B, side, side) int64 classes.
    """
    rounds = [rng.permutation(len(samples)) for _ in range(-(-count // len(samples)))]
    crops = [_crop(samples[k], config, rng) for k in np.concatenate(rounds)[:count]]
    pixels = np.stack([crop.image for crop in crops])
    truth = np.stack([crop.truth for crop in crops]).astype(np.int64)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(truth)


def _crop(sample: Sample, config: CropConfig, rng: np.random.Generator) -> Sample:
    scale = float(rng.uniform(*config.scales))
    height, width = (max(1, round(side * scale)) for side in sample.truth.shape)
    scaled = _resized(sample, (height, width))
    top, left = (int(rng.integers(max(1, side - config.side + 1))) for side in (height, width))
    part = (slice(top, top + config.side), slice(left, left + config.side))
    image: NDArray[np.uint8] = np.full((config.side, config.side, 3), _PADDING, dtype=np.uint8)
    truth: ClassMap = np.full((config.side, config.side), VOID, dtype=np.int16)
    cut = scaled.truth[part]
    image[: cut.shape[0], : cut.shape[1]], truth[: cut.shape[0], : cut.shape[1]] = scaled.image[part], cut
    if config.flips and rng.random() < 0.5:
        image, truth = image[:, ::-1], truth[:, ::-1]
    return Sample(image, truth)


def _resized(sample: Sample, size: tuple[int, int]) -> Sample:
    if sample.truth.shape == size:
        return sample
    method = cv2.INTER_AREA if size[0] < sample.truth.shape[0] else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(sample.image, size[::-1], interpolation=method), dtype=np.uint8)
    truth = np.asarray(cv2.resize(sample.truth, size[::-1], interpolation=cv2.INTER_NEAREST), dtype=np.int16)
    return Sample(image, truth)
