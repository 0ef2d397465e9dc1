"""The bytes of an image file -> its pixels, bounded in bytes, sides, pixels and the work its structure causes."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from plugin_config.errors import ImageTooLarge, ImageUnavailable
from plugin_config.settings import Settings
from worker.label_studio.colours import converted, lightened
from worker.label_studio.containers import PictureFile, read_container
from worker.label_studio.deep import DeepTiff, deep_tiff, read_values
from worker.label_studio.pixels import (
    Strips,
    gathered,
    image_strips,
    reduced_size,
    tiff_strips,
    turned,
    upright_size,
    webp_strips,
)
from worker.label_studio.structure import CountedReads, check_structure

# What browsers show and people label, and TIFF. Pillow reads more: some by starting other programs (EPS), some at an
# absurd cost (a comment of 30 MB in a PPM takes 15 s, byte by byte).
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF")
# Greys of two and four bits, as Pillow calls them, and by what it multiplies them; not the one that is transparent.
_SCALED = {"L;2": 85, "L;4": 17}
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
    with _opened(content, subject, limits) as opened, _quietly():
        return opened.decode(opened.shown)


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
    with _opened(content, subject, limits) as opened:
        width, height = opened.size
        with admit(width * height) if admit else nullcontext(), _quietly():
            smaller = min(opened.size, opened.shown, key=lambda size: size[0] * size[1])
            pixels = opened.decode(reduced_size(smaller, WORKING_PIXELS))
            return Picture(pixels, upright_size(opened.shown, opened.orientation))


@dataclass(frozen=True)
class _Opened:
    """A file whose header is read.

    Attributes:
        file: without what draws nothing.
        image: as Pillow opened it; None where Pillow does not read it.
        deep: of a TIFF of more than 8 bits.
        size: (W, H) of its pixels.
        shown: (W, H) in which a browser shows them, not turned.
        orientation: as in EXIF.
    """

    file: PictureFile
    image: Image.Image | None
    deep: DeepTiff | None
    size: tuple[int, int]
    shown: tuple[int, int]
    orientation: int

    def decode(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode it at a size (w, h) before turning: (h, w, 3) uint8 RGB, upright."""
        full, strips = self._strips(size)
        profile = self.file.profile or (self.image.info.get("icc_profile") if self.image else None)
        grey = self.image is not None and self.image.mode in {"L", "LA", "1"}
        pixels = gathered(strips, full, size)
        if self.deep is None and isinstance(profile, bytes):
            pixels = converted(pixels, profile, grey=grey)
        elif self.file.gamma:
            pixels = lightened(pixels, self.file.gamma)
        return turned(pixels, self.orientation)

    def _strips(self, size: tuple[int, int]) -> tuple[tuple[int, int], Strips]:
        if self.deep is not None and (self.image is None or self.deep.coloured):
            values = read_values(b"".join(self.file.parts), self.deep)
            if values is not None:
                return self.size, tiff_strips(values, self.deep)
        if self.image is None:
            raise ValueError("its kind of values is not read")
        if size != self.size and self.image.format == "WEBP":
            # Pillow holds a large one in memory four times.
            transparent = self.image.mode == "RGBA"
            return self.size, webp_strips(b"".join(self.file.parts), self.size, transparent=transparent)
        if size != self.size:
            self.image.draft(self.image.mode, size)  # a JPEG is decoded at a reduced size
        strips = image_strips(self.image, profile=self.file.profile, deep=self.deep)
        return self.image.size, strips


@contextmanager
def _opened(content: bytes, subject: str, limits: ImageLimits) -> Iterator[_Opened]:
    """Open an image whose size is within the limits, not decoded yet; Pillow's errors become ImageUnavailable."""
    if not content:
        raise ImageUnavailable(subject, "is an empty file", "Upload it again where it comes from.")
    try:
        check_structure(content)
        container = read_container(content)
        deep, file = deep_tiff(content), CountedReads(container.parts)
        Image.MAX_IMAGE_PIXELS = max(1, limits.most_pixels)  # else Pillow's own limit would cap the setting
        with _image(file, deep) as image:
            opened = _described(container, image, deep)
            for size in (opened.size, opened.shown):
                _check_size(size, subject, limits)
            file.header_is_read()
            yield opened
    except Image.DecompressionBombError as error:
        raise too_large(subject, "more than twice the pixels allowed", limits) from error
    except UnidentifiedImageError as error:
        remedy = f"Convert it to PNG or JPEG; read are {', '.join(_FORMATS)}."
        raise ImageUnavailable(subject, "is in no image format that is read here", remedy) from error
    except _DECODING_ERRORS as error:
        remedy = "Open it in a browser: when it shows there, convert it to PNG or JPEG; else import it again."
        raise ImageUnavailable(subject, f"is not a readable image ({error})", remedy) from error


@contextmanager
def _image(file: CountedReads, deep: DeepTiff | None) -> Iterator[Image.Image | None]:
    """Open a file with Pillow; None for a TIFF of a kind that only OpenCV reads."""
    try:
        with _quietly():
            image = Image.open(cast(IO[bytes], file), formats=_FORMATS)
    except UnidentifiedImageError:
        if deep is None:
            raise
        yield None
        return
    with image:
        yield image


def _described(file: PictureFile, image: Image.Image | None, deep: DeepTiff | None) -> _Opened:
    if image is None:
        if deep is None:
            raise ValueError("its kind of values is not read")
        return _Opened(file, None, deep, deep.size, deep.size, file.exif.orientation)
    image.info.pop("xmp", None)  # by which Pillow would turn a TIFF or an AVIF
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    key = image.info.get("transparency")
    if isinstance(key, tuple) and tiles and tiles[0].args == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)  # as Pillow reads the pixels
    elif isinstance(key, int) and tiles and tiles[0].args in _SCALED:
        image.info["transparency"] = key * _SCALED[tiles[0].args] & 0xFF
    orientation = file.exif.orientation
    if image.format == "AVIF":  # from the properties of the image: its EXIF is left out
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    shown = file.exif.shown_size(image.size)
    return _Opened(file, image, deep, image.size, shown, orientation)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata, and about sizes, which our own limit handles
        yield


def _check_size(size: tuple[int, int], subject: str, limits: ImageLimits) -> None:
    found, (short, long) = f"{size[0]} x {size[1]} pixels", sorted(size)
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
