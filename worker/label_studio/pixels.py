"""An opened image -> upright 8-bit RGB, in full or reduced, a strip at a time: never two full copies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_STRIP_PIXELS = 2_000_000
_TRANSPOSE = Image.Transpose
_UPRIGHT: Mapping[Any, Image.Transpose] = {  # by EXIF orientation
    2: _TRANSPOSE.FLIP_LEFT_RIGHT, 3: _TRANSPOSE.ROTATE_180, 4: _TRANSPOSE.FLIP_TOP_BOTTOM, 5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270, 7: _TRANSPOSE.TRANSVERSE, 8: _TRANSPOSE.ROTATE_90,
}  # fmt: skip
_ON_ITS_SIDE = {5, 6, 7, 8}


def reduced_size(size: tuple[int, int], most: int) -> tuple[int, int]:
    """The size itself, or the one of the same aspect ratio with `most` pixels or a few fewer."""
    one, other = size
    scale = (most / (one * other)) ** 0.5
    if scale >= 1:
        return size
    return max(1, int(one * scale)), max(1, int(other * scale))


def upright_pixels(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode an image: (h, w, 3) uint8 RGB, rotated as its EXIF says; of an animation the first frame.

    Args:
        image: as opened.
        size: (w, h) before rotation, no larger than the image. Smaller means averaged over areas.
    """
    image.load()
    width, height = image.size
    whole = np.empty((height, size[0], 3), dtype=np.uint8)
    for rows, strip in _rgb_strips(image):
        whole[rows] = strip if size[0] == width else _averaged(strip, (size[0], strip.shape[0]))
    return turned(_averaged(whole, size), image)


def turned(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Rotate the (h, w, 3) pixels of an image upright as its EXIF says."""
    # ImageOps.exif_transpose rewrites the other tags, and so fails on damaged ones that browsers ignore.
    method = _UPRIGHT.get(_orientation(image))
    return pixels if method is None else np.asarray(Image.fromarray(pixels).transpose(method))


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of an image after rotation, from its (H, W) as stored."""
    return (size[1], size[0]) if _orientation(image) in _ON_ITS_SIDE else size


def webp_pixels(content: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a WebP with OpenCV, which holds its pixels once: (h, w, 3) uint8 RGB of this (w, h), not rotated.

    Raises:
        ValueError: it is damaged.
    """
    data = np.frombuffer(content, dtype=np.uint8)
    found = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None:
        raise ValueError("it is damaged")
    small = _averaged(np.asarray(found, dtype=np.uint8), size)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _orientation(image: Image.Image) -> Any:
    return image.getexif().get(ExifTags.Base.Orientation)


def _averaged(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1::-1] == size:
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _rgb_strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Yield the rows of an image, some at a time: (rows, W, 3) uint8 RGB."""
    width, height = image.size
    step = max(1, _STRIP_PIXELS // width)
    parts = [slice(top, min(top + step, height)) for top in range(0, height, step)]
    deep = image.mode.startswith(("I", "F"))  # more than 8 bits of grey, which Pillow's convert clips to white
    low, high = _range(image, parts) if deep else (0.0, 0.0)
    for rows in parts:
        strip = image.crop((0, rows.start, width, rows.stop))
        if deep:
            strip = _eight_bits(strip, low, high)
        yield rows, np.asarray(strip.convert("RGB"), dtype=np.uint8)


def _range(image: Image.Image, parts: list[slice]) -> tuple[float, float]:
    """The values shown as black and white of a grey image: with 16 bits 0 and 65535, as in browsers; of the other deep
    formats, which no browser shows, the darkest and brightest there are.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = np.inf, -np.inf
    for rows in parts:
        grey = _grey(image.crop((0, rows.start, image.width, rows.stop)))
        low, high = min(low, float(grey.min())), max(high, float(grey.max()))
    return low, high


def _grey(image: Image.Image) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)


def _eight_bits(image: Image.Image, low: float, high: float) -> Image.Image:
    grey = _grey(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((grey / 257.0).round().astype(np.uint8))
    return Image.fromarray(((grey - low) * (255.0 / max(high - low, 1e-12))).round().clip(0, 255).astype(np.uint8))
