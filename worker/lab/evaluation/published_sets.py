"""The sets on which open-vocabulary segmentation is compared, in their published layouts; images are read one by one.

A folder may hold a set as its archives unpack, or be the innermost folder that is named here.

    voc         VOCdevkit/VOC2012: JPEGImages/, SegmentationClass/, ImageSets/Segmentation/val.txt
    context     VOCdevkit/VOC2010: JPEGImages/, and ImageSets/SegmentationContext/val.txt or ImageSets/Main/val.txt, and
                SegmentationClassContext/*.png, numbered by mmsegmentation, 0 none
                or 59_context_labels/*.png with 59_labels.txt, or trainval/*.mat with labels.txt, as first published
    ade20k      ADEChallengeData2016: images/validation/, annotations/validation/, 0 ignored
    cityscapes  leftImg8bit/val/CITY/*_leftImg8bit.png, gtFine/val/CITY/*_gtFine_labelIds.png
    coco-stuff  images/val2017/ or val2017/, and the maps of stuffthingmaps_trainval2017.zip in annotations/val2017/,
                stuffthingmaps/val2017/ or stuffthingmaps_trainval2017/val2017/, 255 unlabelled
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.lab.evaluation.class_names import (
    ADE_NAMES,
    CITYSCAPES_NAMES,
    CONTEXT_NAMES,
    OBJECT_NAMES,
    STUFF_NAMES,
    VOC_NAMES,
    plain_names,
)
from worker.lab.evaluation.set_files import (
    SetItem,
    SetSource,
    find_root,
    index_png,
    label_map,
    listed_items,
    paired_items,
    read_item,
)
from worker.segmentation.metrics import VOID

_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # labelIds that are judged
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)  # values of COCO's maps that no class has


@dataclass(frozen=True)
class Benchmark:
    """One way of judging the images of a set.

    Attributes:
        name: as papers name it.
        labels: plain names, by class index.
        has_background: whether pixels of no label are a class, the last, that is judged too; else they are not judged.
        classes: (n,) int16 class index of each value of a mask, or VOID.
        short_side: pixels to which the shorter side of an image is brought as published; 0 = images stay as they are.
    """

    name: str
    labels: tuple[str, ...]
    has_background: bool
    classes: NDArray[np.int16]
    short_side: int

    def truth(self, values: NDArray[np.int64]) -> NDArray[np.int16]:
        """(H, W) int16 class indices, the background after the labels, or VOID, of (H, W) values of a mask."""
        return self.classes[values]


@dataclass(frozen=True)
class PublishedSet:
    """The validation images of a set, of which nothing is read yet.

    Attributes:
        name: as in `--data`.
        benchmarks: that are judged on them.
        items: in the published order.
        read: an item's (H, W, 3) uint8 RGB image and (H, W) int64 values of its mask.
    """

    name: str
    benchmarks: tuple[Benchmark, ...]
    items: tuple[SetItem, ...]
    read: Callable[[SetItem], tuple[NDArray[np.uint8], NDArray[np.int64]]]


_SOURCES: Mapping[str, SetSource] = {
    "voc": SetSource(
        "VOCdevkit/VOC2012/ with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/val.txt",
        "Get VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    ),
    "context": SetSource(
        "VOCdevkit/VOC2010/ with JPEGImages/ and ImageSets/Main/val.txt, and in it SegmentationClassContext/*.png and "
        "ImageSets/SegmentationContext/val.txt, or 59_context_labels/*.png and 59_labels.txt, or trainval/*.mat and "
        "labels.txt",
        "Get VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and the labels from "
        "https://cs.stanford.edu/~roozbeh/pascal-context/",
    ),
    "ade20k": SetSource(
        "ADEChallengeData2016/ with images/validation/ and annotations/validation/",
        "Get ADEChallengeData2016.zip from http://data.csail.mit.edu/places/ADEchallenge/",
    ),
    "cityscapes": SetSource(
        "leftImg8bit/val/ and gtFine/val/ with *_gtFine_labelIds.png",
        "Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com/ after "
        "signing up",
    ),
    "coco-stuff": SetSource(
        "images/val2017/ and annotations/val2017/ with the maps as they are published, one PNG for each image",
        "Get val2017.zip from http://images.cocodataset.org/zips/ and stuffthingmaps_trainval2017.zip from "
        "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/",
    ),
}


def published_set(name: str, folder: Path) -> PublishedSet:
    """Find the images of a set.

    Args:
        name: a key of SETS.
        folder: holds the set as its archives unpack, or is the innermost folder of the layout.

    Raises:
        ImageUnavailable: a part is not where it is expected; the remedy says where to get it and how it must lie.
    """
    return SETS[name](folder, _SOURCES[name])


def _voc(folder: Path, source: SetSource) -> PublishedSet:
    root = find_root(folder, "VOCdevkit/VOC2012", "VOC2012", having="SegmentationClass", source=source)
    items = listed_items(root, "ImageSets/Segmentation/val.txt", "JPEGImages", "SegmentationClass", ".png", source)
    with_background = _from_one(VOC_NAMES, background=len(VOC_NAMES))
    benchmarks = (Benchmark("VOC21", VOC_NAMES, True, with_background, 336),
                  Benchmark("VOC20", VOC_NAMES, False, _from_one(VOC_NAMES), 336))  # fmt: skip
    return PublishedSet("voc", benchmarks, items, lambda item: read_item(item, source, index_png))


def _context(folder: Path, source: SetSource) -> PublishedSet:
    root = find_root(folder, "VOCdevkit/VOC2010", "VOC2010", having="JPEGImages", source=source)
    lists = ("ImageSets/SegmentationContext/val.txt", "ImageSets/Main/val.txt")
    listing = next((name for name in lists if (root / name).is_file()), lists[-1])
    forms = (("SegmentationClassContext", ".png", ""), ("59_context_labels", ".png", "59_labels.txt"),
             ("trainval", ".mat", "labels.txt"))  # fmt: skip
    found = next((form for form in forms if (root / form[0]).is_dir()), None)
    if found is None:
        raise source.missing(root, "there is none of " + ", ".join(f"{form[0]}/" for form in forms))
    masks, ending, numbers = found
    items = listed_items(root, listing, "JPEGImages", masks, ending, source)
    places = _context_places(root / numbers, source) if numbers else np.arange(256)
    decode = label_map if ending == ".mat" else index_png
    with_background = _from_one(CONTEXT_NAMES, background=len(CONTEXT_NAMES))
    benchmarks = (Benchmark("Context60", CONTEXT_NAMES, True, with_background, 336),
                  Benchmark("Context59", CONTEXT_NAMES, False, _from_one(CONTEXT_NAMES), 336))  # fmt: skip

    def read(item: SetItem) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        image, values = read_item(item, source, decode)
        strange = values[(values < 0) | (values >= len(places))]
        if len(strange):
            raise source.missing(root, f"mask {item.mask} has the value {strange[0]}, which no class has")
        return image, places[values]

    return PublishedSet("context", benchmarks, items, read)


def _context_places(path: Path, source: SetSource) -> NDArray[np.int64]:
    """(n,) number from 1, in the order of the alphabet, of each value of masks that are numbered as a file says; 0 for
    all that is none of the 59 classes."""
    try:
        rows = [line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line]
        numbered = {plain_names([name.strip().lower()])[0]: int(number) for number, name in rows}
    except (OSError, ValueError) as error:
        raise source.missing(path.parent, f"{path.name} cannot be read ({error})") from error
    unnamed = [name for name in CONTEXT_NAMES if not 0 < numbered.get(name, 0) < 10_000]
    if unnamed:
        raise source.missing(path.parent, f"{path.name} has no number for {unnamed[0]!r}")
    places = np.zeros(max(256, max(numbered.values()) + 1), dtype=np.int64)
    places[[numbered[name] for name in CONTEXT_NAMES]] = np.arange(1, len(CONTEXT_NAMES) + 1)
    return places


def _ade20k(folder: Path, source: SetSource) -> PublishedSet:
    root = find_root(folder, "ADEChallengeData2016", having="annotations/validation", source=source)
    images = sorted((root / "images" / "validation").glob("*.jpg"))
    items = paired_items(root, images, lambda image: root / "annotations" / "validation" / f"{image.stem}.png", source)
    benchmarks = (Benchmark("ADE20K", ADE_NAMES, False, _from_one(ADE_NAMES), 336),)
    return PublishedSet("ade20k", benchmarks, items, lambda item: read_item(item, source, index_png))


def _cityscapes(folder: Path, source: SetSource) -> PublishedSet:
    root = find_root(folder, "cityscapes", having="gtFine/val", source=source)
    images = sorted((root / "leftImg8bit" / "val").glob("*/*_leftImg8bit.png"))

    def mask_of(image: Path) -> Path:
        stem = image.name.removesuffix("_leftImg8bit.png")
        return root / "gtFine" / "val" / image.parent.name / f"{stem}_gtFine_labelIds.png"

    items = paired_items(root, images, mask_of, source)
    classes = _table({value: k for k, value in enumerate(_CITYSCAPES_IDS)}, VOID)
    benchmarks = (Benchmark("Cityscapes", CITYSCAPES_NAMES, False, classes, 560),)
    return PublishedSet("cityscapes", benchmarks, items, lambda item: read_item(item, source, index_png))


def _coco_stuff(folder: Path, source: SetSource) -> PublishedSet:
    places = ("annotations/val2017", "stuffthingmaps/val2017", "stuffthingmaps_trainval2017/val2017")
    masks = next((folder / name for name in places if (folder / name).is_dir()), folder / places[0])
    folders = (folder / "images" / "val2017", folder / "val2017")
    images = sorted(next((one for one in folders if one.is_dir()), folders[0]).glob("*.jpg"))
    items = paired_items(folder, images, lambda image: masks / f"{image.stem}.png", source)
    values = [value for value in range(182) if value not in _COCO_GAPS]
    stuff = {value: k for k, value in enumerate(values)}
    # As GroupViT (Xu et al., CVPR 2022) judges things: all that is none of them is background, unlabelled pixels too.
    things = {value: k for value, k in stuff.items() if k < len(OBJECT_NAMES)}
    benchmarks = (Benchmark("COCO-Object", OBJECT_NAMES, True, _table(things, len(OBJECT_NAMES)), 336),
                  Benchmark("COCO-Stuff", STUFF_NAMES, False, _table(stuff, VOID), 448))  # fmt: skip
    return PublishedSet("coco-stuff", benchmarks, items, lambda item: read_item(item, source, index_png))


SETS: Mapping[str, Callable[[Path, SetSource], PublishedSet]] = {
    "voc": _voc, "context": _context, "ade20k": _ade20k, "cityscapes": _cityscapes, "coco-stuff": _coco_stuff,
}  # fmt: skip
"""The names of the sets; `published_set` opens them."""


def _table(places: Mapping[int, int], otherwise: int) -> NDArray[np.int16]:
    """(256,) int16 class of each value of a mask."""
    table = np.full(256, otherwise, dtype=np.int16)
    table[list(places)] = list(places.values())
    return table


def _from_one(labels: Sequence[str], *, background: int = VOID) -> NDArray[np.int16]:
    """The table of a set that numbers its classes from 1 and has 0 for none of them; other values are not judged."""
    return _table({0: background} | {k + 1: k for k in range(len(labels))}, VOID)
