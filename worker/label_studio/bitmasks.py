"""Label Studio's bitmask: masks to and from a PNG in a data URL, whose transparent pixels are outside.

The editor paints each pixel of the PNG by its alpha, whatever its colour, and stretches a PNG of another size over the
image; it writes one of the image's size, black where painted (BitmaskRegion.jsx of its sources, Label Studio 1.23).
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import RegionError

_PREFIX = "data:image/png;base64,"
_SUBJECT = "bitmask"
_MOST_TIMES = 4  # as many pixels as the image may have: more are no annotator's, and would only cost memory
_REMEDY = "Store it as the editor does: a PNG of the image's size in base64, transparent where nothing is."
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, TypeError, KeyError, IndexError, EOFError,
                    struct.error, zlib.error, Image.DecompressionBombError)  # fmt: skip


def encode_bitmask(mask: NDArray[np.bool_], *, size: tuple[int, int] | None = None) -> str:
    """Write a mask as a data URL of a PNG, black inside and transparent outside.

    Args:
        mask: (H, W) bool, in pixels of the image after EXIF rotation, or of a reduced copy of it.
        size: (H, W) of the image, where the mask is of a reduced copy: each pixel takes what lies at its centre.
    """
    height, width = size or mask.shape
    pixels = mask.astype(np.uint8)
    if mask.shape != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    image = Image.fromarray(pixels, mode="P")
    image.putpalette([0] * 6)
    file = io.BytesIO()
    image.save(file, "PNG", bits=1, transparency=0)  # one bit for each pixel, and the first of two blacks transparent
    return _PREFIX + base64.b64encode(file.getvalue()).decode()


def decode_bitmask(url: object, *, height: int, width: int) -> NDArray[np.bool_]:
    """Read the data URL of a bitmask as a mask.

    Args:
        url: `imageDataURL` of a region's value.
        height: of the image after EXIF rotation, in pixels.
        width: of the image after EXIF rotation, in pixels.

    Returns:
        (H, W) bool: the pixels that are painted at all.

    Raises:
        RegionError: it is no PNG in base64, has far more pixels than the image, or has no transparency.
    """
    if not isinstance(url, str) or not url[: len(_PREFIX)].lower() == _PREFIX:
        raise RegionError(_SUBJECT, f"'imageDataURL' is no text that begins with {_PREFIX}", _REMEDY)
    try:
        content = base64.b64decode(url[len(_PREFIX) :], validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > _MOST_TIMES * width * height:
                problem = f"its PNG has {image.width} x {image.height} pixels, and the image {width} x {height}"
                raise RegionError(_SUBJECT, problem, _REMEDY)
            alpha = _alpha(image)
    except binascii.Error as error:
        raise RegionError(_SUBJECT, f"'imageDataURL' is not in base64 ({error})", _REMEDY) from error
    except _DECODING_ERRORS as error:
        raise RegionError(_SUBJECT, f"'imageDataURL' is no readable PNG ({error})", _REMEDY) from error
    if alpha is None:
        raise RegionError(_SUBJECT, "its PNG has no transparency, so that the editor paints all of the image", _REMEDY)
    if alpha.shape != (height, width):
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(alpha > 0)


def _alpha(image: Image.Image) -> NDArray[np.uint8] | None:
    """(h, w) uint8 opacity of a PNG; None where it has no transparency at all."""
    if "A" not in image.getbands():
        if "transparency" not in image.info:
            return None
        image = image.convert("RGBA")
    return np.asarray(image.getchannel("A"))
