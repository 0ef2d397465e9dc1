"""A folder of photographs with true masks, read as annotators would have annotated them.

The layout is that of `worker.lab.evaluation.photographs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from plugin_config.printable import printable
from worker.lab.evaluation.photographs import FILE_VOID
from worker.learning.corrections.examples import LONGEST_SIDE
from worker.learning.interfaces import UNLABELLED, Words
from worker.segmentation.metrics import VOID
from worker.segmentation.pictures import shrink
from worker.segmentation.text.encoder import BACKGROUND

_T = TypeVar("_T")

_REMEDY = "A set holds images/, masks/, classes.json and split.json; see docs/research/learning.md."


@dataclass(frozen=True)
class LabelledPhotograph:
    """A photograph and its truth: indices of the set's words, UNLABELLED or VOID.

    Attributes:
        stem: name of its file, without ending.
        image: (H, W, 3) uint8 RGB, as it is embedded and annotated.
        truth: (H, W) int16, the annotation.
        judged: (h, w) int16, the truth at the size at which predictions are scored.
    """

    stem: str
    image: NDArray[np.uint8]
    truth: NDArray[np.int16]
    judged: NDArray[np.int16]


@dataclass(frozen=True)
class LabelledSet:
    """Photographs of some parts of a set.

    Attributes:
        words: a text for each class except the background.
        has_background: whether one class is the background; without it every pixel has a label or is void.
        parts: name of a part to its photographs, in the order of split.json.
    """

    words: Words
    has_background: bool
    parts: Mapping[str, tuple[LabelledPhotograph, ...]]


@dataclass(frozen=True)
class SetFolder:
    """A set of which only the lists are read yet.

    Attributes:
        folder: holds images/, masks/, classes.json and split.json.
        words: a text for each class except the background.
        has_background: as `LabelledSet`.
        stems: name of a part to the stems of its photographs, in the order of split.json.
        place: (256,) int16 class of each value of a mask, UNLABELLED or VOID.
    """

    folder: Path
    words: Words
    has_background: bool
    stems: Mapping[str, tuple[str, ...]]
    place: NDArray[np.int16]

    def read(self, stem: str, size: tuple[int, int] | None = None) -> LabelledPhotograph:
        """Read one photograph; `size` as for `read_labelled_set`.

        Raises:
            ImageUnavailable: its image or its mask is missing, or the mask is no index PNG.
        """
        return _read(self.folder, stem, self.place, size)


def open_labelled_set(folder: Path, parts: Sequence[str]) -> SetFolder:
    """Read the lists of a set, for photographs that are read one at a time.

    Args:
        folder: holds images/, masks/, classes.json and split.json.
        parts: of split.json.

    Raises:
        ImageUnavailable: the folder is no set, or a part names no photograph.
    """
    try:
        split = json.loads((folder / "split.json").read_text())
        named = json.loads((folder / "classes.json").read_text())
    except (OSError, ValueError) as error:
        raise ImageUnavailable(f"set {folder}", f"it cannot be read ({error})", _REMEDY) from error
    names = {int(index): str(name) for index, name in named.items() if index.isdigit() and int(index) != FILE_VOID}
    has_background = names.get(0, "").strip("_ ").lower() == BACKGROUND
    labels = sorted(index for index in names if index or not has_background)
    for part in parts:
        if not split.get(part):
            known = ", ".join(split)
            raise ImageUnavailable(f"set {folder}", f"its split has no photographs in {part!r}", f"It has: {known}.")
    if not labels:
        raise ImageUnavailable(f"set {folder}", "its classes.json names no label", _REMEDY)
    place = np.full(256, VOID, dtype=np.int16)
    place[labels] = np.arange(len(labels))
    if has_background:
        place[0] = UNLABELLED
    words = tuple((names[index].replace("_", " "),) for index in labels)
    return SetFolder(folder, words, has_background, {part: tuple(map(str, split[part])) for part in parts}, place)


def read_labelled_set(folder: Path, parts: Sequence[str], size: tuple[int, int] | None) -> LabelledSet:
    """Read parts of a set.

    Args:
        folder: holds images/, masks/, classes.json and split.json.
        parts: of split.json.
        size: (W, H) in pixels at which predictions are scored, the truth resized by nearest neighbour. Photographs
            are reduced to the longest side at which corrections are learned, or to this size if that is larger. None =
            photographs keep their size and are scored at it.

    Raises:
        ImageUnavailable: the folder is no set, or a part holds no photograph.
    """
    found = open_labelled_set(folder, parts)
    read = {part: tuple(found.read(stem, size) for stem in found.stems[part]) for part in parts}
    return LabelledSet(found.words, found.has_background, read)


def spread(items: Sequence[_T], limit: int) -> list[_T]:
    """At most `limit` items, evenly from the first to the last: neighbours in a set are often alike; 0 = all."""
    count = min(limit or len(items), len(items))
    return [items[k * len(items) // count] for k in range(count)]


def _read(folder: Path, stem: str, place: NDArray[np.int16], size: tuple[int, int] | None) -> LabelledPhotograph:
    file = next(iter(sorted((folder / "images").glob(f"{stem}.*"))), None)
    mask = folder / "masks" / f"{stem}.png"
    if file is None or not mask.is_file():
        raise ImageUnavailable(f"photograph {stem} of set {folder}", "its image or its mask is missing", _REMEDY)
    with Image.open(file) as photo, Image.open(mask) as drawn:
        image = np.array(photo.convert("RGB"))
        if size is not None:
            image = shrink(image, max(LONGEST_SIDE, *size))
        own = (image.shape[1], image.shape[0])
        values, judged = (np.array(drawn.resize(to, Image.Resampling.NEAREST)) for to in (own, size or own))
    if values.dtype != np.uint8 or values.ndim != 2:
        raise ImageUnavailable(f"mask {mask}", "it is not an 8-bit index PNG", _REMEDY)
    return LabelledPhotograph(printable(stem), image, place[values], place[judged])
