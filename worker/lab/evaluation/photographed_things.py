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


def read_photographed_things(folder: Path, stem: str) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[TrueSegment]]:
    """Read an image, the class of each pixel (_NO_CLASS where there is none) and every thing with its class."""
    try:
        file = next(iter(sorted((folder / "images").glob(f"{stem}.*"))))
        image = np.asarray(Image.open(file).convert("RGB"))
        mask = np.asarray(Image.open(folder / "masks" / f"{stem}.png"))
        numbers = np.asarray(Image.open(folder / "instances" / f"{stem}.png"), dtype=np.int64)
    except (OSError, StopIteration) as error:
        raise ImageUnavailable(f"photograph {stem} of {folder}", f"it cannot be read ({error})", _REMEDY) from error
    if numbers.ndim == 3:
        numbers = numbers[..., :3] @ np.array([1, 256, 65536])
    if mask.ndim != 2 or mask.shape != numbers.shape:
        raise ImageUnavailable(f"photograph {stem} of {folder}", "its mask and instances differ in size", _REMEDY)
    if image.shape[:2] != mask.shape:
        image = np.asarray(cv2.resize(image, mask.shape[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    classes = mask.astype(np.int16)
    classes[(mask == 0) | (mask == FILE_VOID)] = _NO_CLASS
    truth = []
    for number in np.unique(numbers[numbers > 0]):
        thing = (numbers == number) & (classes != _NO_CLASS)
        if thing.any():
            index = int(np.bincount(classes[thing]).argmax())
            truth.append(TrueSegment(index, thing & (classes == index)))
    return image, classes, truth
