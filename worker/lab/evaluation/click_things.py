"""Things to be clicked on, and what a model predicts for them: of photographs with instances, and of drawn scenes.

The layout of a set is that of `photographs` plus `instances/STEM.png`: a number for each thing, 0 = none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, TrueSegment, panoptic_scene
from worker.lab.evaluation.photographed_things import read_photographed_things
from worker.lab.evaluation.photographs import FILE_VOID
from worker.learning.interfaces import Words
from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.instances.assembly import LEAST_SCORE, SegmentRequest, assemble
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.encoder import BACKGROUND

LEAST_SHARE = 0.0005
"""Share of its picture below which a thing is not asked for: predictions have no smaller segments either."""

_REMEDY = "A set holds images/, masks/, instances/, classes.json and split.json; see docs/research/clicks.md."

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Picture:
    """A picture and its things.

    Attributes:
        name: for a person.
        image: (H, W, 3) uint8 RGB.
        words: the texts of each class.
        things: `index` in the words and (H, W) bool mask of each.
    """

    name: str
    image: NDArray[np.uint8]
    words: Words
    things: tuple[TrueSegment, ...]


@dataclass(frozen=True)
class Prediction:
    """What a model draws by itself.

    Attributes:
        classes: (H, W) int16 class of each pixel.
        segments: class and mask of each region.
    """

    classes: NDArray[np.int16]
    segments: tuple[tuple[int, Mask], ...]

    def best_of(self, thing: TrueSegment) -> Mask | None:
        """The region of the thing's class that overlaps it most; None if none does."""
        same = [mask for index, mask in self.segments if index == thing.index]
        ious = [mask_iou(mask, thing.mask) for mask in same]
        return same[int(np.argmax(ious))] if max(ious, default=0.0) > 0 else None


def drawn_pictures(count: int, *, seed: int) -> Iterator[Picture]:
    """Draw scenes in which things of one class touch; one in four without."""
    for number in range(count):
        drawn = panoptic_scene(seed, number, touching=number % 4 != 3)
        things = [segment for segment in drawn.truth if segment.index < STUFF_FROM]
        words = tuple((label,) for label in drawn.labels)
        yield Picture(f"drawn scene {number}", drawn.scene.image, words, _large(things))


def read_photographs(folder: Path, part: str) -> Iterator[Picture]:
    """Read the photographs of one part of a set, or of all ("").

    Raises:
        ImageUnavailable: the folder is not a set with instances, or has no such part.
    """
    try:
        split = json.loads((folder / "split.json").read_text())
        named = json.loads((folder / "classes.json").read_text())
    except (OSError, ValueError) as error:
        raise ImageUnavailable(f"set {folder}", f"it cannot be read ({error})", _REMEDY) from error
    stems = split.get(part, []) if part else sorted(stem for stems in split.values() for stem in stems)
    stems = [str(stem) for stem in stems if (folder / "instances" / f"{stem}.png").is_file()]
    if not stems:
        raise ImageUnavailable(f"set {folder}", f"part {part or 'all'!r} holds no instances", _REMEDY)
    names = {int(index): str(name) for index, name in named.items() if index.isdigit() and int(index) != FILE_VOID}
    labels = sorted(index for index, name in names.items() if index and name.strip("_ ").lower() != BACKGROUND)
    words = tuple((names[index].replace("_", " "),) for index in labels)
    for stem in stems:
        image, _, truth = read_photographed_things(folder, stem)
        things = [TrueSegment(labels.index(segment.index), segment.mask) for segment in truth
                  if segment.index in names]  # fmt: skip
        yield Picture(f"photograph {stem}", image, words, _large(things))


def predict(segmenter: Segmenter, picture: Picture, head: Head | None) -> tuple[ImageScores, Prediction]:
    """Segment a picture without clicks, each class that it shows as things."""
    scores = segmenter.score(segmenter.embed([picture.image])[0], picture.words, picture.image)
    classes, confidence = segmenter.pixel_classes(scores, head)
    wanted = [SegmentRequest(index, stuff=False) for index in sorted({thing.index for thing in picture.things})]
    segments = assemble(classes, confidence, wanted, picture.image)
    kept = tuple((segment.index, segment.mask) for segment in segments if segment.score >= LEAST_SCORE)
    return scores, Prediction(classes, kept)


def _large(things: Sequence[TrueSegment]) -> tuple[TrueSegment, ...]:
    return tuple(thing for thing in things if np.count_nonzero(thing.mask) >= LEAST_SHARE * thing.mask.size)
