"""An opened image -> 8-bit RGB as a browser shows it, in full or reduced: what is transparent on white, upright.

It goes a strip at a time: never two full copies in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from worker.label_studio.colours import ink_colours
from worker.label_studio.deep import DeepTiff, Stretch, sampled, value_strips

_STRIP_PIXELS = 2_000_000
_UPRIGHT: Mapping[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {  # by EXIF orientation
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: lambda pixels: cv2.transpose(pixels),
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_ON_ITS_SIDE = {5, 6, 7, 8}
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N", "RGB"}  # of RGB the upper 8 bits

Strips = Iterable[tuple[slice, NDArray[np.uint8]]]
"""Rows of an image from top to bottom, each with its pixels: (rows, W, 3) uint8 RGB."""


def reduced_size(size: tuple[int, int], most: int) -> tuple[int, int]:
    """The size itself, or the one of the same aspect ratio with `most` pixels or a few fewer."""
    one, other = size
    scale = (most / (one * other)) ** 0.5
    if scale >= 1:
        return size
    return max(1, int(one * scale)), max(1, int(other * scale))


def gathered(strips: Strips, full: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Put an image together: (h, w, 3) uint8 RGB.

    Args:
        strips: of the image.
        full: (W, H) of the image.
        size: (w, h) wanted. Smaller means averaged over areas.
    """
    width = min(size[0], full[0])
    whole = np.empty((full[1], width, 3), dtype=np.uint8)
    for rows, strip in strips:
        whole[rows] = _resized(strip, (width, strip.shape[0]))
    return _resized(whole, size)


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn (h, w, 3) pixels upright from an EXIF orientation."""
    turn = _UPRIGHT.get(orientation)
    return pixels if turn is None else np.asarray(turn(pixels), dtype=np.uint8)


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """The (H, W) of an image after it is turned, from its (W, H) as stored."""
    return size if orientation in _ON_ITS_SIDE else (size[1], size[0])


def image_strips(image: Image.Image, *, profile: bytes | None, deep: DeepTiff | None) -> Strips:
    """Decode an image with Pillow; of an animation the first frame.

    Args:
        image: as opened.
        profile: by which CMYK becomes RGB.
        deep: of a TIFF of more than 8 bits.
    """
    bounds = tuple(image.tile[0].extents or ()) if isinstance(image, ImageFile.ImageFile) and image.tile else ()
    image.load()
    if deep is not None and image.mode in _DEEP_MODES:
        return _deep_strips(image, deep)
    # A frame of an animation may cover a part of the picture; the rest is transparent.
    partly = image.format in {"GIF", "PNG"} and bounds and bounds != (0, 0, *image.size)
    return _strips(image, profile, bounds if partly else None)


def webp_strips(content: bytes, size: tuple[int, int], *, transparent: bool) -> Strips:
    """Decode a WebP with OpenCV, which holds its pixels once; of an animation the first frame.

    Args:
        content: of the file.
        size: (W, H).
        transparent: whether it has opacity.

    Raises:
        ValueError: it is damaged.
    """
    flags = cv2.IMREAD_UNCHANGED if transparent else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    found = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    if found is None or found.shape[1::-1] != size:
        raise ValueError("it is damaged")
    return _webp_strips(found)


def tiff_strips(values: NDArray[np.generic], deep: DeepTiff) -> Strips:
    """The strips of the values of a TIFF of more than 8 bits."""
    return value_strips(values, _parts(deep.size), white_is_zero=deep.white_is_zero)


def _parts(size: tuple[int, int]) -> list[slice]:
    width, height = size
    step = max(1, _STRIP_PIXELS // width)
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def _strips(image: Image.Image, profile: bytes | None, covered: tuple[int, ...] | None) -> Strips:
    for rows in _parts(image.size):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        pixels = np.asarray(_rgb(strip, profile), dtype=np.uint8)
        if covered:
            left, top, right, bottom = covered
            inside = np.full(pixels.shape, 255, dtype=np.uint8)
            part = slice(max(0, top - rows.start), max(0, bottom - rows.start)), slice(left, right)
            inside[part] = pixels[part]
            pixels = inside
        yield rows, pixels


def _rgb(strip: Image.Image, profile: bytes | None) -> Image.Image:
    if strip.mode.startswith("I;16"):  # of a PNG, whose 65,535 is white whatever it uses
        return _sixteen_bits(strip)
    if strip.mode == "CMYK":
        return ink_colours(strip, profile)
    if not strip.has_transparency_data:
        return strip if strip.mode == "RGB" else strip.convert("RGB")
    if strip.mode != "RGBA":
        strip = strip.convert("RGBA")
    if strip.getchannel("A").getextrema() == (255, 255):
        return strip.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB")


def _sixteen_bits(strip: Image.Image) -> Image.Image:
    values = np.asarray(strip)
    grey = (values / 257.0).round().astype(np.uint8)
    grey[values == strip.info.get("transparency", -1)] = 255
    return Image.fromarray(grey).convert("RGB")


def _webp_strips(found: NDArray[np.uint8]) -> Strips:
    height, width = found.shape[:2]
    for rows in _parts((width, height)):
        if found.shape[2] == 4:
            strip = Image.fromarray(cv2.cvtColor(found[rows], cv2.COLOR_BGRA2RGBA))
            yield rows, np.asarray(_rgb(strip, None), dtype=np.uint8)
        else:
            yield rows, np.asarray(cv2.cvtColor(found[rows], cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _deep_strips(image: Image.Image, deep: DeepTiff) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    parts = _parts(image.size)
    # Evenly from all rows, so that the whole is never there as numbers.
    known = np.concatenate([sampled(_values(image, rows, deep), of=len(parts)).ravel() for rows in parts])
    stretch = Stretch.of(known, white_is_zero=deep.white_is_zero)
    for rows in parts:
        strip = stretch(_values(image, rows, deep))
        yield rows, strip if strip.ndim == 3 else np.repeat(strip[..., None], 3, axis=2)


def _values(image: Image.Image, rows: slice, deep: DeepTiff) -> NDArray[np.generic]:
    values = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
    return values.view(np.uint32) if deep.unsigned and values.dtype == np.int32 else values


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if pixels.shape[1::-1] == size:
        return pixels
    smaller = size[0] <= pixels.shape[1] and size[1] <= pixels.shape[0]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)
