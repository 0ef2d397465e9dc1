"""The bytes of an image file -> its pixels, bounded in bytes and pixels.

It must not know where a file came from, nor about models.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from plugin_config.errors import ImageUnavailable
from plugin_config.settings import Settings

# What browsers show, and TIFF. Pillow reads more, some of it by starting other programs (EPS).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "ICO", "TIFF", "JPEG2000", "PPM")
# What Pillow's readers are known to raise on damaged files.
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, TypeError, KeyError, IndexError, EOFError, struct.error, zlib.error,
)  # fmt: skip
_TRANSPOSE = Image.Transpose
_UPRIGHT: Mapping[Any, Image.Transpose] = {  # by EXIF orientation
    2: _TRANSPOSE.FLIP_LEFT_RIGHT, 3: _TRANSPOSE.ROTATE_180, 4: _TRANSPOSE.FLIP_TOP_BOTTOM, 5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270, 7: _TRANSPOSE.TRANSVERSE, 8: _TRANSPOSE.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """How much an image may cost: bytes of the file, pixels decoded, seconds to fetch, and how far it may reach."""

    most_bytes: int
    most_pixels: int
    timeout_s: float
    allow_private: bool

    @classmethod
    def from_settings(cls, settings: Settings) -> ImageLimits:
        """The limits of the IMAGE settings."""
        return cls(
            settings.image_max_mb * 1_000_000,
            int(settings.image_max_megapixels * 1_000_000),
            settings.image_timeout_s,
            settings.allow_private_images,
        )


def read_image(path: Path, limits: ImageLimits) -> NDArray[np.uint8]:
    """Read an image file from disk: (H, W, 3) uint8 RGB, upright.

    Raises:
        ImageUnavailable: missing, too large or no image.
    """
    subject = f"image {path}"
    try:
        if path.stat().st_size > limits.most_bytes:
            raise too_large(subject, f"{path.stat().st_size / 1e6:.0f} MB", limits)
        content = path.read_bytes()
    except OSError as error:
        raise ImageUnavailable(subject, f"cannot be read ({error.strerror})", "Check the path.") from error
    return decode_image(content, subject=subject, limits=limits)


def decode_image(content: bytes, *, subject: str, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode a file's bytes: (H, W, 3) uint8 RGB, upright. The size is checked before any pixel is decoded.

    Raises:
        ImageUnavailable: too many pixels, truncated, or in no format Pillow reads.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and about sizes, which our own limit decides
            Image.MAX_IMAGE_PIXELS = max(1, limits.most_pixels)  # or Pillow's own limit would cap the setting
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            if image.width * image.height > limits.most_pixels:
                raise too_large(subject, f"{image.width} x {image.height} pixels", limits)
            return _upright_rgb(image)
    except Image.DecompressionBombError as error:
        raise too_large(subject, "more than twice the pixels allowed", limits) from error
    except UnidentifiedImageError as error:
        remedy = f"Convert it to PNG or JPEG; read are {', '.join(_FORMATS)}."
        raise ImageUnavailable(subject, "is in no image format that is read here", remedy) from error
    except _DECODING_ERRORS as error:
        remedy = "Open it in a browser: when it shows there, convert it to PNG or JPEG; else import it again."
        raise ImageUnavailable(subject, f"is not a readable image ({error})", remedy) from error


def _upright_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    # ImageOps.exif_transpose writes the other tags anew, and so fails on damaged ones that no browser minds.
    method = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    if image.mode.startswith(("I", "F")):  # more than 8 bits of grey, which Pillow's convert clips to white
        image = _eight_bits(image)
    if method is not None:
        image = image.transpose(method)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I;16"):
        return Image.fromarray((grey / 257.0).round().astype(np.uint8))  # 65535 is white, as browsers show it
    low, high = float(grey.min()), float(grey.max())  # no browser shows these: from darkest to brightest
    return Image.fromarray(((grey - low) * (255.0 / max(high - low, 1e-12))).round().clip(0, 255).astype(np.uint8))


def too_large(subject: str, found: str, limits: ImageLimits) -> ImageUnavailable:
    """The error of a picture beyond the limits."""
    most = f"{limits.most_bytes / 1e6:.0f} MB and {limits.most_pixels / 1e6:.0f} megapixels"
    remedy = f"Allowed are {most}; raise ZEROMASK_IMAGE_MAX_MB or ZEROMASK_IMAGE_MAX_MEGAPIXELS."
    return ImageUnavailable(subject, f"is too large: {found}", remedy)
