"""Tiny sets in the layouts that the zero-shot protocols read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

NAMES = {"0": "grass", "1": "circle", "2": "square", "3": "water", "7": "stone", "255": "void"}
"""Classes of `write_photos`; no photograph shows the last but one."""


def striped_mask(size: tuple[int, int], values: Sequence[int]) -> NDArray[np.uint8]:
    """(H, W) uint8: vertical stripes of these values."""
    columns = np.linspace(0, len(values), size[1], endpoint=False).astype(int)
    return np.tile(np.array(values, dtype=np.uint8)[columns], (size[0], 1))


def write_picture(path: Path, mask: NDArray[np.uint8], *, seed: int = 0) -> None:
    """A picture in which each value of a mask has its colour, and some noise."""
    colours = np.random.default_rng(5).integers(40, 216, (256, 3))
    noise = np.random.default_rng(seed).integers(-20, 20, (*mask.shape, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), (colours[mask] + noise).clip(0, 255).astype(np.uint8))


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """An index PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask)


def write_photos(folder: Path, *, train: int = 3, test: int = 2, names: Mapping[str, str] = NAMES) -> Path:
    """A photo folder; each image shows grass, circle, square and water, and void."""
    stems = [f"p{number}" for number in range(train + test)]
    for number, stem in enumerate(stems):
        mask = striped_mask((40, 60), np.roll([0, 1, 2, 3, 255], number).tolist())
        write_picture(folder / "images" / f"{stem}.png", mask, seed=number)
        write_mask(folder / "masks" / f"{stem}.png", mask)
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "split.json").write_text(json.dumps({"train": stems[:train], "test": stems[train:]}))
    return folder


def write_pascal(root: Path, *, fold: int = 0, images: int = 3) -> Path:
    """PASCAL-5i: every image shows the five classes of the fold, and ignored pixels; each is listed for two of them."""
    first = 5 * fold
    lines = []
    for number in range(images):
        name = f"2007_{number:06}"
        mask = striped_mask((40, 70), [0, *(first + k + 1 for k in range(5)), 255])
        write_picture(root / "VOC2012" / "JPEGImages" / f"{name}.jpg", mask, seed=number)
        write_mask(root / "VOC2012" / "SegmentationClassAug" / f"{name}.png", mask)
        lines += [f"{name}__{first + k + 1:02}" for k in (range(5) if number == 0 else (number % 5, 4))]
    for part, folds in (("val", [fold]), ("trn", [k for k in range(4) if k != fold])):
        for k in folds:
            path = root / "splits" / "pascal" / part / f"fold{k}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines if part == "val" else [f"2007_000000__{5 * k + 1:02}"]) + "\n")
    return root


def write_coco(root: Path, *, fold: int = 1, images: int = 3) -> Path:
    """COCO-20i: each class of the fold has all images."""
    names = [f"val2014/COCO_val2014_{number:012}.jpg" for number in range(images)]
    for number, name in enumerate(names):
        mask = striped_mask((40, 60), [0, *(fold + 4 * v + 1 for v in range(5))])
        write_picture(root / "COCO2014" / name, mask, seed=number)
        write_mask((root / "COCO2014" / "annotations" / name).with_suffix(".png"), mask)
    for part in ("val", "trn"):
        path = root / "splits" / "coco" / part / f"fold{fold}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = [k for k in range(80) if (k % 4 == fold) == (part == "val")]
        path.write_bytes(pickle.dumps(dict.fromkeys(classes, names)))
    return root
