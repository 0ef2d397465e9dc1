"""Photographs with instance masks: are components of the true classes cut into the true things?

No model takes part: the class map is the truth, so that the figures measure the cuts alone. The layout of a set is that
of `photographs` plus `instances/STEM.png` beside `masks/`: a number (or a colour) for each thing, 0 = none.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.lab.evaluation.photographs import FILE_VOID
from worker.lab.metrics import PanopticEvaluator
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.splitting import CUT_RULE

_NO_CLASS = 256  # of void and of background
_REMEDY = "A set holds images/, masks/ and instances/, the last two PNG of one size; see docs/research/instances.md."


def evaluate_photographs(folder: Path) -> dict[str, object]:
    """PQ of things and AP50 with components left whole and with components cut; counts of photographs and things.

    Raises:
        ImageUnavailable: the folder is not a set with instances.
    """
    stems = sorted(path.stem for path in (folder / "instances").glob("*.png"))
    if not stems:
        raise ImageUnavailable(f"set {folder}", "it has no instances/*.png", _REMEDY)
    rules = {"whole": None, "split": CUT_RULE}
    evaluators = {name: PanopticEvaluator(_NO_CLASS, frozenset(range(_NO_CLASS))) for name in rules}
    things = 0
    for stem in stems:
        image, classes, truth = read_photographed_things(folder, stem)
        things += len(truth)
        wanted = [SegmentRequest(int(index), stuff=False) for index in np.unique(classes) if index != _NO_CLASS]
        confidence = np.ones(classes.shape, dtype=np.float32)
        for name, rule in rules.items():
            segments = assemble(classes, confidence, wanted, image, rule=rule)
            evaluators[name].add(segments, [segment.score for segment in segments], truth)
    figures = {name: evaluator.figures() for name, evaluator in evaluators.items()}
    rounded = {name: {key: round(row[key], 4) for key in ("pq", "sq", "rq", "ap50")} for name, row in figures.items()}
    return {"photographs": len(stems), "things": things, **rounded}


def read_things(
    folder: Path, stem: str, classes: NDArray[np.int64] | NDArray[np.int16]
) -> list[TrueSegment]:
    """Read the things of a photograph, at the size at which the class of each pixel is known.

    Args:
        folder: of the set.
        stem: of the photograph.
        classes: (H, W) class of each pixel; negative = none.

    Raises:
        ImageUnavailable: it has no instances that can be read.
    """
    try:
        numbers = _read_numbers(folder / "instances" / f"{stem}.png")
    except OSError as error:
        problem = f"its instances cannot be read ({error})"
        raise ImageUnavailable(f"photograph {stem} of {folder}", problem, _REMEDY) from error
    rows, columns = (  # of the nearest pixels
        ((np.arange(to) + 0.5) * size / to).astype(np.int64)
        for size, to in zip(numbers.shape, classes.shape, strict=True)
    )
    return _things_of(numbers[rows[:, None], columns], classes)


def _read_numbers(file: Path) -> NDArray[np.int64]:
    """Read instances/STEM.png: (H, W) number of each pixel's thing, 0 = none.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(file) as drawn:
        numbers = np.asarray(drawn, dtype=np.int64)
    return numbers if numbers.ndim == 2 else np.asarray(numbers[..., :3] @ np.array([1, 256, 65536]))


def _things_of(numbers: NDArray[np.int64], classes: NDArray[np.int64] | NDArray[np.int16]) -> list[TrueSegment]:
    """Make a segment of each number: its most frequent class, and its pixels of that class.

    Args:
        numbers: (H, W) number of each pixel's thing, 0 = none.
        classes: (H, W) class of each pixel; negative = none.
    """
    things = []
    for number in np.unique(numbers[numbers > 0]):
        thing = (numbers == number) & (classes >= 0)
        if thing.any():
            index = int(np.bincount(classes[thing]).argmax())
            things.append(TrueSegment(index, thing & (classes == index)))
    return things


def read_photographed_things(folder: Path, stem: str) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[TrueSegment]]:
    """Read an image, the class of each pixel (_NO_CLASS where there is none) and every thing with its class."""
    try:
        file = next(iter(sorted((folder / "images").glob(f"{stem}.*"))))
        image = np.asarray(Image.open(file).convert("RGB"))
        mask = np.asarray(Image.open(folder / "masks" / f"{stem}.png"))
        numbers = _read_numbers(folder / "instances" / f"{stem}.png")
    except (OSError, StopIteration) as error:
        raise ImageUnavailable(f"photograph {stem} of {folder}", f"it cannot be read ({error})", _REMEDY) from error
    if mask.ndim != 2 or mask.shape != numbers.shape:
        raise ImageUnavailable(f"photograph {stem} of {folder}", "its mask and instances differ in size", _REMEDY)
    if image.shape[:2] != mask.shape:
        image = np.asarray(cv2.resize(image, mask.shape[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    none = (mask == 0) | (mask == FILE_VOID)
    truth = _things_of(numbers, np.where(none, np.int16(-1), mask.astype(np.int16)))
    return image, np.where(none, np.int16(_NO_CLASS), mask.astype(np.int16)), truth
