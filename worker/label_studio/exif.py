"""EXIF blocks and TIFF directories -> how a browser turns and sizes the picture.

The rules are Chromium's, measured: a field counts where its type and its number of values are those of the standard,
and the first one that counts is taken. Pillow takes more: any type, XMP, texts that ImageMagick writes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

_ORIENTATION, _EXIF_DIRECTORY = 0x0112, 0x8769
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _X_PIXELS, _Y_PIXELS = 0x011A, 0x011B, 0x0128, 0xA002, 0xA003
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_INCH = 2
_NORMAL_DPI = 72
_MOST_FIELDS = 65_536  # of a directory
_MOST_EXIF_FIELDS = 10_000  # of all directories of a block: each may name one, and itself
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


@dataclass(frozen=True)
class Field:
    """A field of a directory.

    Attributes:
        tag, kind, count: as stored; `kind` is the type of its values.
        value: 4 bytes (8 in a BigTIFF): the values or where they lie.
        place: of the field in the block, in bytes.
    """

    tag: int
    kind: int
    count: int
    value: bytes
    place: int


@dataclass(frozen=True)
class Exif:
    """What of EXIF changes how a browser shows the picture.

    Attributes:
        orientation: 1 to 8; 1 = as stored.
        resolution: (x, y) in pixels per `unit`, 2 being inches.
        pixels: (x, y) that the picture says to have.
    """

    orientation: int = 1
    resolution: tuple[float, float] = (0.0, 0.0)
    unit: int = 0
    pixels: tuple[int, int] = (0, 0)

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size in which a browser shows a JPEG of this (W, H), before it is turned.

        It differs where the resolution and the pixels named agree on another size: the picture was made for a screen of
        twice the density, say.
        """
        if self.unit != _INCH or min(*self.resolution, *self.pixels) <= 0:
            return size
        by_resolution = tuple(
            math.floor(side * _NORMAL_DPI / dpi + 0.5) for side, dpi in zip(size, self.resolution, strict=True)
        )
        return self.pixels if by_resolution == self.pixels else size


def read_exif(block: bytes) -> Exif:
    """Read an EXIF block: a TIFF header and its directories. Whatever is damaged counts as absent."""
    order = _ORDERS.get(block[:4])
    if order is None or len(block) < 8:
        return Exif()
    found: dict[int, float] = {}
    for field in islice(_all_fields(block, order), _MOST_EXIF_FIELDS):
        number = _number(field, block, order)
        if number is not None and (field.tag != _ORIENTATION or 1 <= number <= 8):
            found.setdefault(field.tag, number)
    return Exif(
        int(found.get(_ORIENTATION, 1)), (found.get(_X_RESOLUTION, 0.0), found.get(_Y_RESOLUTION, 0.0)),
        int(found.get(_UNIT, 0)), (int(found.get(_X_PIXELS, 0)), int(found.get(_Y_PIXELS, 0))),
    )  # fmt: skip


def tiff_fields(content: bytes) -> Iterator[Field]:
    """Yield the fields of the first directory of a TIFF or BigTIFF, as far as they are there."""
    order = "<" if content[:2] == b"II" else ">"
    try:
        if struct.unpack_from(f"{order}H", content, 2)[0] == 43:
            (place,) = struct.unpack_from(f"{order}Q", content, 8)
            yield from _fields(content, order, place, head="Q", entry="HHQ8s")
        else:
            (place,) = struct.unpack_from(f"{order}I", content, 4)
            yield from _fields(content, order, place)
    except struct.error:
        return


def tiff_number(content: bytes, field: Field) -> int | None:
    """The first value of a field of SHORT or LONG values of a TIFF; None where it has none."""
    order = "<" if content[:2] == b"II" else ">"
    form = {_SHORT: "H", _LONG: "I"}.get(field.kind)
    if form is None or field.count < 1:
        return None
    try:
        if field.count * struct.calcsize(form) <= len(field.value):
            return int(struct.unpack_from(order + form, field.value)[0])
        (place,) = struct.unpack(order + ("I" if len(field.value) == 4 else "Q"), field.value)
        return int(struct.unpack_from(order + form, content, place)[0])
    except (struct.error, OverflowError):
        return None


def tiff_orientation(content: bytes) -> Exif:
    """The orientation of a TIFF, from its own field."""
    for field in tiff_fields(content):
        if field.tag == _ORIENTATION and field.kind == _SHORT and field.count == 1:
            number = tiff_number(content, field)
            if number is not None and 1 <= number <= 8:
                return replace(Exif(), orientation=number)
    return Exif()


def _all_fields(block: bytes, order: str) -> Iterator[Field]:
    """The fields of the main directory, with those of the EXIF directory where the main one names it."""
    for field in _fields(block, order, _unsigned(block[4:8], order)):
        yield field
        if field.tag == _EXIF_DIRECTORY and field.kind == _LONG and field.count == 1:
            yield from _fields(block, order, _unsigned(field.value, order))


def _fields(content: bytes, order: str, place: int, *, head: str = "H", entry: str = "HHI4s") -> Iterator[Field]:
    form, first = struct.Struct(order + entry), place + struct.calcsize(order + head)
    if first > len(content):
        return
    (count,) = struct.unpack_from(order + head, content, place)
    last = min(first + form.size * min(count, _MOST_FIELDS), len(content))
    for at in range(first, last - form.size + 1, form.size):
        tag, kind, values, value = form.unpack_from(content, at)
        yield Field(tag, kind, values, value, at)


def _number(field: Field, block: bytes, order: str) -> float | None:
    """The value of a field of the tags above, where it is of the type the standard gives it."""
    if field.count != 1:
        return None
    if field.tag in {_ORIENTATION, _UNIT, _X_PIXELS, _Y_PIXELS} and field.kind == _SHORT:
        return _unsigned(field.value[:2], order)
    if field.tag in {_X_PIXELS, _Y_PIXELS} and field.kind == _LONG:
        return _unsigned(field.value, order)
    if field.tag in {_X_RESOLUTION, _Y_RESOLUTION} and field.kind == _RATIONAL:
        place = _unsigned(field.value, order)
        above, below = _unsigned(block[place : place + 4], order), _unsigned(block[place + 4 : place + 8], order)
        return above / below if below else None
    return None


def _unsigned(value: bytes, order: str) -> int:
    return int.from_bytes(value, "little" if order == "<" else "big")
