"""Files of published sets: found before anything is measured, read one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from plugin_config.errors import ImageUnavailable

_MOST_PIXELS = 64_000_000  # of an image; Cityscapes' have 2 million


@dataclass(frozen=True)
class SetItem:
    """An image and what says the class of each pixel.

    Attributes:
        name: of the image, for messages.
        image: its file.
        mask: its mask's file.
    """

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class SetSource:
    """Where a set comes from.

    Attributes:
        holds: what its folder holds, as words.
        get: where to get that, as a sentence without a full stop.
    """

    holds: str
    get: str

    def missing(self, root: Path, problem: str) -> ImageUnavailable:
        """The error that a part of the set is not as it should be: what the set holds, and where to get it."""
        return ImageUnavailable(f"set {root}", problem, f"It holds {self.holds}. {self.get}.")


def find_root(folder: Path, *below: str, having: str, source: SetSource) -> Path:
    """The folder itself or the first of those `below` it that has a part.

    Raises:
        ImageUnavailable: none has.
    """
    for place in (folder, *(folder / name for name in below)):
        if (place / having).is_dir():
            return place
    raise source.missing(folder, f"there is no {having}/ in it")


def listed_items(
    root: Path, listing: str, images: str, masks: str, ending: str, source: SetSource
) -> tuple[SetItem, ...]:
    """The items that a text file of the set names, one a line, in its order.

    Args:
        root: of the set.
        listing, images, masks: the file, and the folders of images and masks, below the root.
        ending: of the masks' names.
        source: says where to get the set.

    Raises:
        ImageUnavailable: the file cannot be read, or an image or a mask that it names is missing.
    """
    try:
        lines = [line.split()[0] for line in (root / listing).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise source.missing(root, f"{listing} cannot be read ({error})") from error
    strange = [name for name in lines if Path(name).name != name or name in (".", "..")]
    if strange:
        raise source.missing(root, f"{listing} names {strange[0]!r}, which is no image")
    return paired_items(root, [root / images / f"{name}.jpg" for name in lines],
                   lambda image: root / masks / f"{image.stem}{ending}", source)  # fmt: skip


def paired_items(
    root: Path, images: Iterable[Path], mask_of: Callable[[Path], Path], source: SetSource
) -> tuple[SetItem, ...]:
    """Items whose files are all there, so that no run breaks off after hours.

    Raises:
        ImageUnavailable: a file is missing, or there are no images.
    """
    items = tuple(SetItem(image.stem, image, mask_of(image)) for image in images)
    if not items:
        raise source.missing(root, "there are no images")
    for item in items:
        for path in (item.image, item.mask):
            if not path.is_file():
                raise source.missing(root, f"there is no {path.relative_to(root)}")
    return items


def read_item(
    item: SetItem, source: SetSource, decode: Callable[[Path], NDArray[np.int64]]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read an item.

    Args:
        item: the files.
        source: says where to get the set.
        decode: (H, W) int64 values of a mask's file.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) int64 values of the mask.

    Raises:
        ImageUnavailable: a file cannot be read, is too large, or both differ in size.
    """
    remedy = f"{source.get} again."
    try:
        with Image.open(item.image) as photo:
            if photo.width * photo.height > _MOST_PIXELS:
                raise ImageUnavailable(f"image {item.image}", f"it has {photo.width}x{photo.height} pixels", remedy)
            image = np.array(photo.convert("RGB"))
        values = decode(item.mask)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MatReadError) as error:
        problem = f"it or its mask {item.mask} cannot be read ({error})"
        raise ImageUnavailable(f"image {item.image}", problem, remedy) from error
    if values.shape != image.shape[:2]:
        problem = f"its (height, width) is {image.shape[:2]}, that of its mask {values.shape}"
        raise ImageUnavailable(f"image {item.image}", problem, remedy)
    return image, values


def index_png(path: Path) -> NDArray[np.int64]:
    """(H, W) int64 values of an 8-bit index or grey PNG."""
    with Image.open(path) as drawn:
        if drawn.mode not in ("P", "L") or drawn.width * drawn.height > _MOST_PIXELS:
            raise ValueError(f"a mask is an 8-bit index PNG, not {drawn.mode} of {drawn.width}x{drawn.height}")
        return np.array(drawn).astype(np.int64)


def label_map(path: Path) -> NDArray[np.int64]:
    """(H, W) int64 values of the LabelMap of a MATLAB file."""
    return np.asarray(loadmat(path, variable_names=["LabelMap"])["LabelMap"]).astype(np.int64)
