"""The bytes of an image file -> its pixels, bounded in bytes, sides, pixels and the work its structure causes."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from plugin_config.errors import ImageTooLarge, ImageUnavailable
from plugin_config.settings import Settings
from worker.label_studio.pixels import reduced_size, turned, upright_pixels, upright_size, webp_pixels
from worker.label_studio.structure import CountedReads, check_structure

# What browsers show and people label, and TIFF. Pillow reads more: some by starting other programs (EPS), some at an
# absurd cost (a comment of 30 MB in a PPM takes 15 s, byte by byte).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
# What Pillow's readers are known to raise on damaged files.
_DECODING_ERRORS = (
    OSError, ValueError, SyntaxError, RuntimeError, TypeError, KeyError, IndexError, EOFError, struct.error, zlib.error,
)  # fmt: skip

WORKING_PIXELS = 4_000_000
"""Images with more pixels are reduced to this number before they are segmented. On two cores 20 labels take 1.5 s at
this size, 2.6 s at 8 million pixels and 8 s at 24 million, and an annotator who opens another task waits that long. The
model sees fewer pixels anyway: its input is at most twice its native size, and outlines are found at 512 pixels."""

MOST_SIDE = 32_768
"""Pixels of the longer side: the limit of a browser's canvas, in which the image would be labelled."""

MOST_ASPECT = 100
"""The longer side over the shorter one."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image: bytes of the file, pixels decoded, seconds to fetch, private addresses or not, and a PEM
    file of further authorities that its server's certificate may be of ("" = none).
    """

    most_bytes: int
    most_pixels: int
    timeout_s: float
    allow_private: bool
    ca_bundle: str = ""

    @classmethod
    def from_settings(cls, settings: Settings) -> ImageLimits:
        """The limits of the IMAGE settings."""
        return cls(
            settings.image_max_mb * 1_000_000,
            int(settings.image_max_megapixels * 1_000_000),
            settings.image_timeout_s,
            settings.allow_private_images,
            settings.ca_bundle,
        )


@dataclass(frozen=True)
class Picture:
    """A decoded image as it is segmented.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, upright, at most WORKING_PIXELS of them.
        size: (H, W) of the file's image, upright: the frame Label Studio draws regions in. Equal to (h, w) unless the
            image was reduced.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


Admit = Callable[[int], AbstractContextManager[None]]
"""Called with the number of pixels about to be decoded; they are decoded inside the context it returns."""


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
    """Decode an image in full: (H, W, 3) uint8 RGB, upright. The size is checked before any pixel is decoded.

    Raises:
        ImageUnavailable: too many pixels, a side too long, truncated, or in no format that is read here.
    """
    with _opened(content, subject, limits) as image, _quietly():
        return upright_pixels(image, image.size)


def decode_picture(content: bytes, *, subject: str, limits: ImageLimits, admit: Admit | None = None) -> Picture:
    """Decode an image at the size that is segmented: images with more than WORKING_PIXELS are reduced.

    Args:
        content: of the file.
        subject: names the image in errors.
        limits: for images.
        admit: called once the size is known and before any pixel is decoded; None = decode at once.

    Raises:
        ImageUnavailable: as `decode_image`.
    """
    with _opened(content, subject, limits) as image:
        width, height = image.size
        with admit(width * height) if admit else nullcontext(), _quietly():
            return _decode(image, content)


def _decode(image: Image.Image, content: bytes) -> Picture:
    width, height = image.size
    small = reduced_size((width, height), WORKING_PIXELS)
    if small == (width, height):
        pixels = upright_pixels(image, small)
        return Picture(pixels, (pixels.shape[0], pixels.shape[1]))
    if image.format == "WEBP":  # Pillow holds a large one in memory four times
        pixels = turned(webp_pixels(content, small), image)
    else:
        image.draft(image.mode, small)  # a JPEG is decoded at a reduced size
        pixels = upright_pixels(image, small)
    return Picture(pixels, upright_size(image, (height, width)))


@contextmanager
def _opened(content: bytes, subject: str, limits: ImageLimits) -> Iterator[Image.Image]:
    """Open an image whose size is within the limits, not decoded yet; Pillow's errors become ImageUnavailable."""
    try:
        check_structure(content)
        file = CountedReads(content)
        Image.MAX_IMAGE_PIXELS = max(1, limits.most_pixels)  # else Pillow's own limit would cap the setting
        with _quietly():
            image = Image.open(file, formats=_FORMATS)
        with image:
            _check_size(image, subject, limits)
            file.header_is_read()
            yield image
    except Image.DecompressionBombError as error:
        raise too_large(subject, "more than twice the pixels allowed", limits) from error
    except UnidentifiedImageError as error:
        remedy = f"Convert it to PNG or JPEG; read are {', '.join(_FORMATS)}."
        raise ImageUnavailable(subject, "is in no image format that is read here", remedy) from error
    except _DECODING_ERRORS as error:
        remedy = "Open it in a browser: when it shows there, convert it to PNG or JPEG; else import it again."
        raise ImageUnavailable(subject, f"is not a readable image ({error})", remedy) from error


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata, and about sizes, which our own limit handles
        yield


def _check_size(image: Image.Image, subject: str, limits: ImageLimits) -> None:
    found, (short, long) = f"{image.width} x {image.height} pixels", sorted(image.size)
    if short * long > limits.most_pixels:
        raise too_large(subject, found, limits)
    if long > MOST_SIDE or long > MOST_ASPECT * short:
        remedy = f"Cut it into parts: a side may have {MOST_SIDE} pixels, and {MOST_ASPECT} times those of the other."
        raise ImageUnavailable(subject, f"is too long: {found}", remedy)


def too_large(subject: str, found: str, limits: ImageLimits) -> ImageTooLarge:
    """The error for an image beyond the limits."""
    most = f"{limits.most_bytes / 1e6:.0f} MB and {limits.most_pixels / 1e6:.0f} megapixels"
    remedy = f"Allowed are {most}; raise ZEROMASK_IMAGE_MAX_MB or ZEROMASK_IMAGE_MAX_MEGAPIXELS."
    return ImageTooLarge(subject, f"is too large: {found}", remedy)
