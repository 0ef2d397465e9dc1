"""PASCAL-5i and COCO-20i in their published layouts: which image is judged for which class, as HSNet (Min et al., ICCV
2021) lists them and LSeg and SAZS take them over.

    ROOT/VOC2012/JPEGImages/NAME.jpg             PASCAL VOC 2012
    ROOT/VOC2012/SegmentationClassAug/NAME.png   masks, with those of SBD: class number from 1, 0 none, 255 ignored
    ROOT/COCO2014/{train2014,val2014}/NAME.jpg   COCO 2014
    ROOT/COCO2014/annotations/{train2014,val2014}/NAME.png   masks: class number from 1, 0 none
    ROOT/splits/pascal/{trn,val}/fold{0..3}.txt  lines NAME__CLASS, the class from 01
    ROOT/splits/coco/{trn,val}/fold{0..3}.pkl    class from 0 -> names such as val2014/NAME.jpg
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from worker.segmentation.metrics import VOID

FOLDS = 4
ITEMS = 1000
"""How many items are judged as published, whatever the length of the list."""

_IGNORED = 255  # of a mask of PASCAL
_MOST_PIXELS = 64_000_000  # of a mask; COCO's have 0.4 million

PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

_LISTS = "the fold lists are in data/splits of https://github.com/juhongm999/hsnet"
_SOURCES: Mapping[str, str] = {
    "pascal": "Get VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and the "
              "SegmentationClassAug masks that HSNet's README links to; " + _LISTS,
    "coco": "Get train2014.zip and val2014.zip from http://images.cocodataset.org/zips/ and the masks that HSNet's "
            "README links to; " + _LISTS,
}  # fmt: skip
_LAYOUTS: Mapping[str, str] = {
    "pascal": "VOC2012/JPEGImages/, VOC2012/SegmentationClassAug/ and splits/pascal/val/fold{fold}.txt",
    "coco": "COCO2014/val2014/, COCO2014/annotations/val2014/ and splits/coco/val/fold{fold}.pkl",
}

# What reading a pickle raises that is none, or holds something else.
_NO_LIST = (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError)


@dataclass(frozen=True)
class FoldItem:
    """One image and the class that is asked for.

    Attributes:
        name: of the image, as the list has it.
        index: of the class, from 0.
    """

    name: str
    index: int


@dataclass(frozen=True)
class FoldData:
    """One fold of a data set.

    Attributes:
        dataset: pascal or coco.
        fold: 0 to 3.
        root: folder of the data.
        names: of all classes.
        classes: indices of the classes of the fold, which training must not see.
        items: of the fold, in the order of the list.
        by_class: names of the images of each class of the fold, in the order of the list.
    """

    dataset: str
    fold: int
    root: Path
    names: tuple[str, ...]
    classes: tuple[int, ...]
    items: tuple[FoldItem, ...]
    by_class: Mapping[int, tuple[str, ...]]

    def read(self, item: FoldItem) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Read an item.

        Returns:
            (H, W, 3) uint8 RGB, and (H, W) int16: 0 where the class is, 1 elsewhere, VOID where the set does not say.

        Raises:
            ImageUnavailable: a file is missing or cannot be read.
        """
        image, mask = _paths(self.root, self.dataset, item.name)
        try:
            with Image.open(image) as photo, Image.open(mask) as drawn:
                if drawn.width * drawn.height > _MOST_PIXELS or photo.size != drawn.size:
                    problem = f"its size is {photo.width}x{photo.height}, that of its mask {drawn.width}x{drawn.height}"
                    raise ImageUnavailable(f"image {image}", problem, "Download the set again.")
                pixels, values = np.array(photo.convert("RGB")), np.array(drawn)
        except (OSError, ValueError) as error:
            raise _missing(self.dataset, self.fold, self.root, str(error)) from error
        if values.ndim != 2:
            raise ImageUnavailable(f"mask {mask}", "it is not an index PNG", _SOURCES[self.dataset] + ".")
        truth = np.where(values == item.index + 1, 0, 1).astype(np.int16)
        if self.dataset == "pascal":
            truth[values == _IGNORED] = VOID
        return pixels, truth


def fold_classes(dataset: str, fold: int) -> tuple[int, ...]:
    """Indices of the classes of a fold: {5i..5i+4} of PASCAL, {i+4v} of COCO."""
    if dataset == "pascal":
        return tuple(range(5 * fold, 5 * fold + 5))
    return tuple(fold + FOLDS * v for v in range(len(COCO_CLASSES) // FOLDS))


def read_fold(dataset: str, fold: int, root: Path) -> FoldData:
    """Read the list of a fold.

    Raises:
        ImageUnavailable: a part of the set is not where it is expected; the remedy says where to get it.
    """
    return _read(dataset, fold, root, "val", fold_classes(dataset, fold))


def read_seen(dataset: str, fold: int, root: Path) -> FoldData:
    """The same of the classes that training may see, from its own lists."""
    seen = tuple(k for k in range(len(_names(dataset))) if k not in fold_classes(dataset, fold))
    return _read(dataset, fold, root, "trn", seen)


def published_items(data: FoldData, *, count: int = ITEMS, seed: int = 0) -> Iterator[FoldItem]:
    """The items in the order and number that are published.

    PASCAL's list is gone through again and again. Of COCO a class is drawn, then an image of it; the images that
    few-shot methods draw beside each, and nobody here looks at, are drawn too, so that the sequence is theirs.
    """
    if data.dataset == "pascal":
        for k in range(count):
            yield data.items[k % len(data.items)]
        return
    random = np.random.RandomState(seed)
    for _ in range(count):
        index = int(random.choice(list(data.classes), 1, replace=False)[0])
        names = list(data.by_class[index])
        name = str(random.choice(names, 1, replace=False)[0])
        while len(names) > 1 and random.choice(names, 1, replace=False)[0] == name:
            pass
        yield FoldItem(name, index)


def _names(dataset: str) -> tuple[str, ...]:
    return PASCAL_CLASSES if dataset == "pascal" else COCO_CLASSES


def _read(dataset: str, fold: int, root: Path, part: str, classes: tuple[int, ...]) -> FoldData:
    _check_layout(dataset, fold, root)
    if dataset == "pascal":
        # HSNet lists the training images of each fold's classes; those of the other three are learned from.
        folds = [fold] if part == "val" else [k for k in range(FOLDS) if k != fold]
        items = [item for k in folds for item in _pascal_list(root, part, k)]
    else:
        items = _coco_list(root, part, fold)
    strange = [item for item in items if item.index not in classes]
    if strange:
        problem = f"its {part} list of fold {fold} names class {strange[0].index}, which is not of it"
        raise ImageUnavailable(f"set {root}", problem, f"Take HSNet's lists: {_LISTS}.")
    by_class = {k: tuple(item.name for item in items if item.index == k) for k in classes}
    if part == "val" and not all(by_class.values()):
        empty = next(k for k in classes if not by_class[k])
        problem = f"its list of fold {fold} has no image of {_names(dataset)[empty]!r}"
        raise ImageUnavailable(f"set {root}", problem, f"Take HSNet's lists: {_LISTS}.")
    return FoldData(dataset, fold, root, _names(dataset), classes, tuple(items), by_class)


def _check_layout(dataset: str, fold: int, root: Path) -> None:
    for name in _LAYOUTS[dataset].replace(" and ", ", ").split(", "):
        if not (root / name.format(fold=fold)).exists():
            raise _missing(dataset, fold, root, f"there is no {name.format(fold=fold)}")


def _missing(dataset: str, fold: int, root: Path, problem: str) -> ImageUnavailable:
    expected = _LAYOUTS[dataset].format(fold=fold)
    return ImageUnavailable(f"set {root}", problem, f"It holds {expected}. {_SOURCES[dataset]}.")


def _pascal_list(root: Path, part: str, fold: int) -> list[FoldItem]:
    path = root / "splits" / "pascal" / part / f"fold{fold}.txt"
    try:
        lines = [line.strip().rpartition("__") for line in path.read_text().splitlines() if line.strip()]
        return [FoldItem(_plain(name), int(number) - 1) for name, _, number in lines]
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


class _PlainValues(pickle.Unpickler):
    """Reads what is made of numbers, text and containers; nothing in the file is ever run."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse to load anything by its name."""
        raise pickle.UnpicklingError(f"it holds {module_name}.{global_name}, not only lists of names")


def _coco_list(root: Path, part: str, fold: int) -> list[FoldItem]:
    path = root / "splits" / "coco" / part / f"fold{fold}.pkl"
    try:
        with path.open("rb") as file:
            found = _PlainValues(file).load()
        return [FoldItem(_plain(name), int(k)) for k, names in found.items() for name in names]
    except _NO_LIST as error:
        raise _unreadable(path, error) from error


def _plain(name: object) -> str:
    """A name that stays inside the folder of the set."""
    text = str(name)
    if not text or text.startswith("/") or ".." in Path(text).parts:
        raise ValueError(f"{text!r} is no name of an image")
    return text


def _unreadable(path: Path, error: Exception) -> ImageUnavailable:
    return ImageUnavailable(f"list {path}", f"it cannot be read ({error})", f"Take HSNet's: {_LISTS}.")


def _paths(root: Path, dataset: str, name: str) -> tuple[Path, Path]:
    if dataset == "pascal":
        voc = root / "VOC2012"
        return voc / "JPEGImages" / f"{name}.jpg", voc / "SegmentationClassAug" / f"{name}.png"
    coco = root / "COCO2014"
    return coco / name, (coco / "annotations" / name).with_suffix(".png")


def seen_sample(data: FoldData, count: int) -> Sequence[FoldItem]:
    """At most `count` items, evenly spread over a list."""
    step = max(1, len(data.items) // max(1, count))
    return data.items[::step][:count]
