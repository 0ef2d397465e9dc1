"""Drawn scenes of things named by colour and shape, on stuff, with each thing's own pixels; some labels never trained.

Training scenes show no thing of an unseen label at all: PADing (He et al., CVPR 2023) drops every training image that
has a pixel of one. All four stuffs are seen. Of the drawn world's words only those are labels whose pairs a small
decoder meets often enough: 36 things, six of them unseen, so that 34 labels of 40 are seen (the paper: 119 of 133), and
each seen thing is dealt 106 times to 400 training scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.lab.dealt_scenes import DealtScenes
from worker.lab.dense_data import SCENES, SplitLabels
from worker.lab.drawn_world.composition_trials import pair_label
from worker.lab.drawn_world.scenes import Scene
from worker.lab.drawn_world.world import STUFF, TEXTURES, Thing
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.learning.proposals.proposals import SegmentedImage
from worker.segmentation.metrics import VOID

THINGS = "drawn:things"
"""Name of the set."""

THING_COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
THING_SHAPES = ("star", "cross", "circle", "triangle", "ring", "square")
"""Colours and shapes of the labels: each has one partner that the drawn world holds out of every training."""

_TRAINING, _TEST = 2, 3  # of the seeds; the other drawn sets have 0 and 1
_LEAST_AREA = 24  # visible pixels of a thing that is true: fewer are a rim that another thing left


@dataclass(frozen=True)
class PanopticImage:
    """An image with the label and the thing of each pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int16: index of a label, or VOID.
        instances: (H, W) int16: number of a thing, from 1, or 0 where stuff is.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.int16]
    instances: NDArray[np.int16]

    @property
    def segments(self) -> list[TrueSegment]:
        """Its true segments: things one by one in the order of their numbers, then each stuff as a whole."""
        found = []
        for number in np.unique(self.instances[self.instances > 0]):
            mask = self.instances == number
            found.append(TrueSegment(int(self.truth[mask][0]), mask))
        stuff = np.where(self.instances == 0, self.truth, np.int16(VOID))
        return found + [TrueSegment(int(k), stuff == k) for k in np.unique(stuff[stuff != VOID])]


@dataclass(frozen=True)
class PanopticSet(SplitLabels):
    """Images of things and stuff; no training image shows an unseen label.

    Attributes:
        things: indices of the labels that are countable; the others are stuff.
        training: images to learn from.
        test: images to measure on, which show every label.
    """

    things: frozenset[int]
    training: Sequence[PanopticImage]
    test: Sequence[PanopticImage]


def things_set(*, scenes: int = SCENES, seed: int = 0) -> PanopticSet:
    """The set.

    Args:
        scenes: to draw for training and for testing each.
        seed: of the training scenes; test scenes are the same for every seed.
    """
    pairs = [Thing(colour, TEXTURES[0], shape) for colour in THING_COLOURS for shape in THING_SHAPES]
    labels = (*(pair_label(thing, "colour_shape") for thing in pairs), *STUFF)
    unseen = tuple(k for k, thing in enumerate(pairs) if thing.is_unseen_shape)
    seen = [thing for thing in pairs if not thing.is_unseen_shape]
    training = _ThingScenes(labels, seen, scenes, (_TRAINING, seed))
    test = _ThingScenes(labels, pairs, scenes, (_TEST, 0))
    return PanopticSet(THINGS, labels, unseen, frozenset(range(len(pairs))), training, test)


def segmented_images(data: PanopticSet) -> list[SegmentedImage]:
    """The training images as a decoder learns from them: the classes of their segments are rows of the seen labels."""
    return [segmented_image(one, data.seen) for one in data.training]


def segmented_image(one: PanopticImage, labels: Sequence[int]) -> SegmentedImage:
    """One image with the segments of some labels, whose classes are places in `labels`; all other pixels are VOID."""
    rows = {label: row for row, label in enumerate(labels)}
    kept = [segment for segment in one.segments if segment.index in rows]
    numbers = np.full(one.truth.shape, VOID, dtype=np.int16)
    for number, segment in enumerate(kept):
        numbers[segment.mask] = number
    return SegmentedImage(one.image, numbers, tuple(rows[segment.index] for segment in kept))


class _ThingScenes(DealtScenes[PanopticImage]):
    """Scenes of things of which every pair is dealt equally often.

    Args:
        labels: in the order of the truth's indices.
        pairs: colours and shapes that are dealt.
        count: how many scenes.
        seed: numbers that tell these scenes from others.
    """

    units = (48.0, 72.0)  # things measure 14 to 45 pixels

    def __init__(self, labels: tuple[str, ...], pairs: Sequence[Thing], count: int, seed: tuple[int, ...]) -> None:
        super().__init__(count, seed)
        self._labels, self._pairs = labels, pairs

    def thing(self, rng: np.random.Generator, position: int) -> Thing:
        """See `DealtScenes`: nothing about a thing but its label may be held out of the builtin's training."""
        pair = self._pairs[self.dealt(position, len(self._pairs))]
        while True:
            thing = Thing(pair.colour, TEXTURES[int(rng.integers(len(TEXTURES)))], pair.shape)
            if not thing.is_unseen_texture:
                return thing

    def labelled(self, scene: Scene) -> PanopticImage:
        """See `DealtScenes`."""
        names = [self._labels.index(pair_label(thing, "colour_shape")) for thing in scene.objects]
        first_stuff = len(self._labels) - len(STUFF)
        stuff = first_stuff + scene.stuff.astype(np.int16)
        truth = np.where(scene.instances > 0, np.array([0, *names], dtype=np.int16)[scene.instances], stuff)
        areas = np.bincount(scene.instances.ravel(), minlength=len(names) + 1)
        hidden = (areas < _LEAST_AREA) & (np.arange(len(areas)) > 0)
        truth = np.where(hidden[scene.instances], np.int16(VOID), truth)
        instances = np.where(hidden[scene.instances], 0, scene.instances).astype(np.int16)
        return PanopticImage(scene.image, truth, instances)
