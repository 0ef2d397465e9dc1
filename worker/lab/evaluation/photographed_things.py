"""Photographs whose things are drawn one by one: are components of the true classes cut into the true things?

No model takes part: the class map is the truth's own, so that the figures are the cuts' alone. The layout of a set is
that of `photographs` with `instances/STEM.png` beside `masks/`: each thing a number (or a colour) of its own, 0 = none.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from worker.lab.evaluation.crowds import TrueSegment
from worker.lab.evaluation.panoptic_quality import SegmentJudge
from worker.lab.evaluation.photographs import FILE_VOID
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.splitting import CUT_RULE

_NOTHING = 256  # class of what is not judged and of what is background
_REMEDY = "A set holds images/, masks/ and instances/, the latter two as PNG of the same size; see docs/research/instances.md."


def judge_photographs(folder: Path) -> dict[str, object]:
    """PQ of things and AP50 with components left whole and cut, and how many photographs and things there are.

    Raises:
        ImageUnavailable: the folder is not a set with instances.
    """
    stems = sorted(path.stem for path in (folder / "instances").glob("*.png"))
    if not stems:
        raise ImageUnavailable(f"set {folder}", "it has no instances/*.png", _REMEDY)
    rules = {"whole": None, "split": CUT_RULE}
    judges = {name: SegmentJudge(_NOTHING, frozenset(range(_NOTHING))) for name in rules}
    things = 0
    for stem in stems:
        image, classes, truth = _read(folder, stem)
        things += len(truth)
        wanted = [SegmentRequest(int(index), stuff=False) for index in np.unique(classes) if index != _NOTHING]
        sure = np.ones(classes.shape, dtype=np.float32)
        for name, rule in rules.items():
            found = assemble(classes, sure, wanted, image, rule=rule)
            judges[name].hear(found, [segment.score for segment in found], truth)
    figures = {name: judge.figures() for name, judge in judges.items()}
    told = {name: {key: round(row[key], 4) for key in ("pq", "sq", "rq", "ap50")} for name, row in figures.items()}
    return {"photographs": len(stems), "things": things, **told}


def _read(folder: Path, stem: str) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[TrueSegment]]:
    """The image, the class of each pixel (_NOTHING where there is none) and every thing with its class."""
    try:
        picture = next(iter(sorted((folder / "images").glob(f"{stem}.*"))))
        image = np.asarray(Image.open(picture).convert("RGB"))
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
    classes[(mask == 0) | (mask == FILE_VOID)] = _NOTHING
    truth = []
    for number in np.unique(numbers[numbers > 0]):
        thing = (numbers == number) & (classes != _NOTHING)
        if thing.any():
            index = int(np.bincount(classes[thing]).argmax())
            truth.append(TrueSegment(index, thing & (classes == index)))
    return image, classes, truth
