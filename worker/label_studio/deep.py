"""TIFFs of more than 8 bits a channel -> 8 bits, stretched by the range of values that the picture uses.

Microscopes and scanners store 12 bits in 16, or counts, or fractions: what a file could hold says nothing about what
it shows, and no browser shows it. All channels are stretched alike, so that colours stay colours; a thousandth of the
values at either end is left out, since one hot pixel would make the rest black.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.label_studio.exif import tiff_fields, tiff_number

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _EXTRA, _FORMAT = 256, 257, 258, 262, 277, 284, 338, 339
_WHITE_IS_ZERO, _RGB = 0, 2  # photometric interpretations
_SEPARATE = 2  # of planes: each channel is stored by itself, which OpenCV misreads
_OPACITIES = {1, 2}  # extra samples; others are further channels, infrared say
_MOST_SAMPLES = 4  # channels that are read
_UNSIGNED, _SIGNED, _FRACTION = 1, 2, 3
_LEFT_OUT = 0.1  # percent of the values, at either end
_SAMPLED = 1_000_000  # values that the range is found from
_MOST_BYTES = 400_000_000  # of all values, which OpenCV holds at once: a hundred megapixels as Pillow holds them


@dataclass(frozen=True)
class DeepTiff:
    """What a TIFF says of its values.

    Attributes:
        size: (W, H).
        bits: of a value.
        samples: channels.
        form: of values: whole and never below 0, whole, or fractions.
        white_is_zero: whether the lowest value is white.
        coloured: whether the channels are red, green and blue, and perhaps more: Pillow would read their upper 8 bits.
        opacity: whether the fourth channel is that.
    """

    size: tuple[int, int]
    bits: int
    samples: int
    form: int
    white_is_zero: bool
    coloured: bool
    opacity: bool

    @property
    def unsigned(self) -> bool:
        """Whether values are whole and never below 0."""
        return self.form == _UNSIGNED

    @property
    def readable(self) -> bool:
        """Whether OpenCV may be given it."""
        whole = self.size[0] * self.size[1] * self.samples * self.bits // 8 <= _MOST_BYTES
        return whole and (self.coloured or self.samples == 1) and (self.form != _FRACTION or self.bits >= 32)


def deep_tiff(content: bytes) -> DeepTiff | None:
    """Read what a TIFF says; None for one of at most 8 bits, and where nothing can be said."""
    if content[:2] not in {b"II", b"MM"}:
        return None
    found: dict[int, int] = {}
    seen: set[int] = set()
    for field in tiff_fields(content):
        number = None if field.tag in seen else tiff_number(content, field)
        seen.add(field.tag)  # OpenCV takes the first one, too, also of a type that is not read here
        if number is not None:
            found[field.tag] = number
    size, bits, samples = (found.get(_WIDTH, 0), found.get(_HEIGHT, 0)), found.get(_BITS, 1), found.get(_SAMPLES, 1)
    if min(size) < 1 or bits <= 8:
        return None
    photometric = found.get(_PHOTOMETRIC)
    coloured = photometric == _RGB and samples in {3, 4} and found.get(_PLANES) != _SEPARATE
    opacity = samples == 4 and found.get(_EXTRA) in _OPACITIES
    form = found.get(_FORMAT, _UNSIGNED)
    return DeepTiff(size, bits, samples, form, photometric == _WHITE_IS_ZERO, coloured, opacity)


def read_values(content: bytes, found: DeepTiff) -> NDArray[np.generic] | None:
    """The values of a TIFF in full, (H, W, 3 or 4) RGB or (H, W); None where OpenCV does not read it."""
    if not found.readable:
        return None
    wide = found.unsigned and found.bits == 32
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        values = cv2.imdecode(np.frombuffer(_signed(content) if wide else content, dtype=np.uint8), flags)
    except cv2.error:
        return None
    if values is None or values.shape[1::-1] != found.size or values.ndim not in {2, 3}:
        return None
    if wide:  # read as signed, which OpenCV knows
        values = values.view(np.uint32)
    if values.ndim == 3:
        if values.shape[2] not in {3, 4}:
            return None
        values = values[..., [2, 1, 0, 3][: 4 if found.opacity and values.shape[2] == 4 else 3]]
    return np.asarray(values)


def _signed(content: bytes) -> bytes:
    """The same TIFF, saying that its values are signed."""
    order = "<" if content[:2] == b"II" else ">"
    changed = bytearray(content)
    field = next((field for field in tiff_fields(content) if field.tag == _FORMAT), None)
    if field is not None and field.kind == 3 and field.count <= _MOST_SAMPLES:
        inline = 2 * field.count <= len(field.value)
        form = f"{order}{'I' if len(field.value) == 4 else 'Q'}"
        place = field.place + (12 if len(field.value) == 8 else 8)
        place = place if inline else struct.unpack(form, field.value)[0]
        if place + 2 * field.count <= len(changed):
            struct.pack_into(f"{order}{field.count}H", changed, place, *[_SIGNED] * field.count)
    return bytes(changed)


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
    whole = 1.0 if values.dtype.kind == "f" else 2.0 ** (8 * values.dtype.itemsize - (values.dtype.kind == "i")) - 1
    for rows in parts:
        colours = stretch(values[rows, :, :3])
        if values.shape[2] == 4:
            opacity = np.nan_to_num(np.asarray(values[rows, :, 3:], dtype=np.float64) / whole).clip(0, 1)
            colours = np.asarray((colours * opacity + 255 * (1 - opacity)).round(), dtype=np.uint8)
        yield rows, colours
