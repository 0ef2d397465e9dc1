"""TIFFs of more than 8 bits a channel -> 8 bits, stretched by the range of values that the picture uses.

Microscopes and scanners store 12 bits in 16, or counts, or fractions: what a file could hold says nothing about what it
shows, and no browser shows it. All channels are stretched alike, so that colours stay colours; a thousandth of the values
at either end is left out, since one hot pixel would make the rest black.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.label_studio.exif import tiff_fields, tiff_number

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _FORMAT = 256, 257, 258, 262, 277, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_LEFT_OUT = 0.1  # percent of the values, at either end
_SAMPLED = 1_000_000  # values that the range is found from
_MOST_BITS = 32


@dataclass(frozen=True)
class DeepTiff:
    """What a TIFF says of its values.

    Attributes:
        size: (W, H).
        samples: channels.
        unsigned: whether values are whole and never below 0.
        white_is_zero: whether the lowest value is white.
    """

    size: tuple[int, int]
    samples: int
    unsigned: bool
    white_is_zero: bool

    @property
    def coloured(self) -> bool:
        """Whether there are three colours, and perhaps opacity: Pillow would read their upper 8 bits."""
        return self.samples in {3, 4} and not self.white_is_zero


def deep_tiff(content: bytes) -> DeepTiff | None:
    """Read what a TIFF says; None for one of at most 8 bits, of more than 32, or of which nothing can be said."""
    if content[:2] not in {b"II", b"MM"}:
        return None
    found: dict[int, int] = {}
    for field in tiff_fields(content):
        number = tiff_number(content, field)
        if number is not None:
            found.setdefault(field.tag, number)
    size, bits = (found.get(_WIDTH, 0), found.get(_HEIGHT, 0)), found.get(_BITS, 1)
    if min(size) < 1 or not 8 < bits <= _MOST_BITS:
        return None
    white = found.get(_PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    return DeepTiff(size, found.get(_SAMPLES, 1), found.get(_FORMAT, _UNSIGNED) == _UNSIGNED, white)


def read_values(content: bytes, found: DeepTiff) -> NDArray[np.generic] | None:
    """The values of a TIFF in full, (H, W, 3 or 4) RGB or (H, W); None where OpenCV does not read it."""
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        values = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error:
        return None
    if values is None or values.shape[1::-1] != found.size or values.ndim not in {2, 3}:
        return None
    if values.ndim == 3:
        if values.shape[2] not in {3, 4}:
            return None
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return np.asarray(values)


@dataclass(frozen=True)
class Stretch:
    """The values shown as black and as white."""

    black: float
    white: float

    @classmethod
    def of(cls, values: NDArray[np.generic], *, white_is_zero: bool = False) -> Stretch:
        """Find the range of the values used."""
        known = np.asarray(values, dtype=np.float64).ravel()
        known = known[np.isfinite(known)]
        if not known.size:
            return cls(0.0, 1.0)
        low = float(np.percentile(known, _LEFT_OUT, method="lower"))
        high = float(np.percentile(known, 100 - _LEFT_OUT, method="higher"))
        if low == high:  # nearly all values are one
            low, high = float(known.min()), float(known.max())
        return cls(high, low) if white_is_zero else cls(low, high)

    def __call__(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Eight bits of each value; what is no number is black."""
        low, high = sorted((self.black, self.white))
        known = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=self.black).clip(low, high)
        return np.asarray(((known - self.black) * (255.0 / (self.white - self.black or 1.0))).round(), dtype=np.uint8)


def sampled(values: NDArray[np.generic], of: int = 1) -> NDArray[np.generic]:
    """Some of the values of (H, W, ...), evenly from all over the picture; all of them in a small one.

    Args:
        values: of the picture, or of one of its strips.
        of: how many strips there are.
    """
    step = max(1, int(np.ceil((values.size * of / _SAMPLED) ** 0.5)))
    return values[::step, ::step]


def value_strips(
    values: NDArray[np.generic], parts: list[slice], *, white_is_zero: bool
) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Yield rows of (H, W) grey or (H, W, 3 or 4) RGB values as (rows, W, 3) uint8 RGB, the transparent on white."""
    if values.ndim == 2:
        stretch = Stretch.of(sampled(values), white_is_zero=white_is_zero)
        for rows in parts:
            yield rows, np.repeat(stretch(values[rows])[..., None], 3, axis=2)
        return
    stretch = Stretch.of(sampled(values[..., :3]))
    whole = float(np.iinfo(values.dtype).max) if np.issubdtype(values.dtype, np.integer) else 1.0
    for rows in parts:
        colours = stretch(values[rows, :, :3])
        if values.shape[2] == 4:
            opacity = np.nan_to_num(np.asarray(values[rows, :, 3:], dtype=np.float64) / whole).clip(0, 1)
            colours = np.asarray((colours * opacity + 255 * (1 - opacity)).round(), dtype=np.uint8)
        yield rows, colours
