"""Tiny sets in the layouts in which the benchmarks of open-vocabulary segmentation are published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from tests.zero_shot_sets import striped_mask, write_mask, write_picture
from worker.lab.evaluation.class_names import CONTEXT_CLASSES

SIZE = (40, 60)


def _write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_voc(folder: Path, *, images: int = 2) -> Path:
    """VOCtrainval_11-May-2012.tar: masks are palette PNGs. The first image shows an aeroplane, a person and a tv
    monitor, the others twice as much of a person; one more is not in the list."""
    root = folder / "VOCdevkit" / "VOC2012"
    names = [f"2007_{number:06}" for number in range(images)]
    for number, name in enumerate([*names, "2011_003276"]):
        mask = striped_mask(SIZE, [0, 0, 15, 15, 255] if number else [0, 1, 15, 20, 255])
        write_picture(root / "JPEGImages" / f"{name}.jpg", mask, seed=number)
        write_palette(root / "SegmentationClass" / f"{name}.png", mask)
    _write_list(root / "ImageSets" / "Segmentation" / "val.txt", names)
    return folder


def write_palette(path: Path, mask: NDArray[np.uint8]) -> None:
    """An index PNG with colours, as PASCAL VOC has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(mask).convert("P")
    drawn.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    drawn.save(path)


CONTEXT_459 = {name: 459 - 3 * number for number, name in enumerate(CONTEXT_CLASSES)}
"""Numbers of the classes among the 459 of `labels.txt`; here they fall, as nothing says that they rise."""


def write_context(folder: Path, form: str, *, shown: Sequence[str] = ("aeroplane", "tvmonitor", "wood")) -> Path:
    """VOC2010 with labels in one of the three forms: stripes of no class, of the classes shown, and of another."""
    root = folder / "VOCdevkit" / "VOC2010"
    name = "2008_000002"
    stripes = striped_mask(SIZE, [0, 1, 2, 3, 4])
    write_picture(root / "JPEGImages" / f"{name}.jpg", stripes)
    _write_list(root / "ImageSets" / "Main" / "val.txt", [name])
    if form == "mmsegmentation":
        _write_list(root / "ImageSets" / "SegmentationContext" / "val.txt", [name])
        numbers = [0, *(CONTEXT_CLASSES.index(one) + 1 for one in shown), 0]
        write_mask(root / "SegmentationClassContext" / f"{name}.png", np.array(numbers, dtype=np.uint8)[stripes])
    elif form == "png":  # numbered from 1 in an order of its own
        order = CONTEXT_CLASSES[::-1]
        (root / "59_labels.txt").write_text("".join(f"{k + 1}: {one}\n" for k, one in enumerate(order)))
        numbers = [0, *(order.index(one) + 1 for one in shown), 0]
        write_mask(root / "59_context_labels" / f"{name}.png", np.array(numbers, dtype=np.uint8)[stripes])
    else:
        rows = {number: one for one, number in CONTEXT_459.items()}
        lines = [f"{number}: {rows.get(number, f'thing{number}')}\n" for number in range(1, 460)]
        (root / "labels.txt").write_text("".join(lines))
        numbers = [1, *(CONTEXT_459[one] for one in shown), 2]
        (root / "trainval").mkdir()
        savemat(root / "trainval" / f"{name}.mat", {"LabelMap": np.array(numbers, dtype=np.uint16)[stripes]})
    return folder


def write_ade20k(folder: Path) -> Path:
    """ADEChallengeData2016.zip: 0 is ignored."""
    root = folder / "ADEChallengeData2016"
    mask = striped_mask(SIZE, [0, 1, 3, 150])
    write_picture(root / "images" / "validation" / "ADE_val_00000001.jpg", mask)
    write_mask(root / "annotations" / "validation" / "ADE_val_00000001.png", mask)
    return folder


def write_cityscapes(folder: Path, ids: Sequence[int] = (0, 4, 7, 8, 14, 33)) -> Path:
    """leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, one image of each of two cities."""
    for number, city in enumerate(("frankfurt", "munster")):
        mask = striped_mask(SIZE, ids)
        stem = f"{city}_000000_00{number}019"
        write_picture(folder / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", mask, seed=number)
        for kind in ("labelIds", "instanceIds", "color"):
            write_mask(folder / "gtFine" / "val" / city / f"{stem}_gtFine_{kind}.png", mask)
    return folder


def write_coco_stuff(folder: Path, *, images: str = "images/val2017", maps: str = "annotations/val2017") -> Path:
    """val2017.zip and stuffthingmaps_trainval2017.zip; beside them what mmsegmentation makes of the maps."""
    mask = striped_mask(SIZE, [0, 12, 89, 91, 181, 255])
    write_picture(folder / images / "000000000139.jpg", mask)
    write_mask(folder / maps / "000000000139.png", mask)
    write_mask(folder / maps / "000000000139_labelTrainIds.png", np.zeros_like(mask))
    return folder


def stripe_classes(truth: NDArray[np.int16], stripes: int) -> list[int]:
    """The class in the middle of each vertical stripe."""
    columns = ((np.arange(stripes) + 0.5) * truth.shape[1] / stripes).astype(int)
    return [int(value) for value in truth[0, columns]]
