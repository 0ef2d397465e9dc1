"""A drawn picture, its labels, and what a trained model would have seen in it: masks as real ones, weights random.

Random weights see nothing, and what comes after the forward costs what the masks cost. So the patch logits that random
weights give are replaced, by those that a model with its usual errors would give of the drawn truth. It must not know
what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.drawn_world.scenes import draw_scene
from worker.lab.drawn_world.world import random_thing
from worker.lab.evaluation.photographs import Photograph, clues
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import ImageScores

PRESENT = 5
_NOISE = 0.15  # of area shares: bilinear upsampling then has mIoU 0.8, see `worker.lab.evaluation.refine`
_THING = 0.5  # of the short side


@dataclass(frozen=True)
class EmulatedHead:
    """Says what was put in its mouth, (n + 1, h, w) float32, whatever the scene."""

    told: Tensor

    def scores(self, image: ImageScores) -> ClassScores:
        """The emulated patch logits."""
        return ClassScores.from_logits(self.told)


@dataclass(frozen=True)
class Stand:
    """A picture with five things, labels of which five are in it, and the emulated head for them.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        vocabulary: as many brush labels as were asked for; the first five are drawn.
        head: gives the emulated logits.
        truth: (H, W) int64: label of each pixel, their number = background.
    """

    image: NDArray[np.uint8]
    vocabulary: Vocabulary
    head: EmulatedHead
    truth: NDArray[np.int64]


@dataclass(frozen=True)
class Drawing:
    """(H, W, 3) uint8 RGB with five things, and (H, W) int32 number of the thing at each pixel, 0 = none."""

    image: NDArray[np.uint8]
    things: NDArray[np.int32]


def draw(height: int, width: int) -> Drawing:
    """Draw five things of the drawn world; the same size gives the same picture."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        things = [random_thing(rng, "any") for _ in range(PRESENT)]
        scene = draw_scene(rng, (height, width), things, unit=_THING * min(height, width))
        if len(scene.objects) == PRESENT:
            return Drawing(scene.image, scene.instances)
    raise RuntimeError(f"five things find no place in {width} x {height} pixels")


def stand(drawing: Drawing, labels: int, device: object = "cpu") -> Stand:
    """Ask `labels` labels, at least five, about a drawing."""
    things = drawing.things.astype(np.int64)
    truth = np.where(things > 0, things - 1, labels)
    photo = Photograph("drawn", drawing.image, truth, tuple(range(labels + 1)))
    told = clues(photo, seed=0).logits(_NOISE)
    words = tuple(
        Label(f"thing {k}", (f"thing {k}",), control="brush", to_name="image", image_key="image", output="brush")
        for k in range(labels)
    )
    return Stand(drawing.image, Vocabulary(words), EmulatedHead(told.to(device)), truth)  # type: ignore[call-overload]
