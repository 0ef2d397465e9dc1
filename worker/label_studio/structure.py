"""Checks of an image file's structure before it is decoded: files that would keep a decoder busy for minutes, or fill
the memory with anything but pixels, are refused.

Pillow reads a file's parts in Python, some of them one by one.
"""

from __future__ import annotations

import io
import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence

from worker.label_studio.exif import tiff_fields

MOST_PARTS = 20_000
"""Of a file beside its pixels: a header has hundreds (an ICC profile or XMP comes in 64 kB each)."""

_MOST_READS = 500_000  # the pixels come in some thousand parts of 8 kB and more
_MOST_SCANS = 100  # of a progressive JPEG, each of which goes through all pixels; photographs have ten
_MOST_NUMBERS = 200_000  # in a field of a TIFF: where its strips lie; its longest palette has 196,608
_MOST_SEGMENTS = 100_000  # of a JPEG
_SCAN, _END = 0xDA, 0xD9
_BYTES = {1, 2, 6, 7}  # types of TIFF fields whose values are bytes, which stay bytes

MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""The next marker of a JPEG, after a segment or in the data of a scan, where 0xff is followed by 0 or a restart
marker."""


class TinyParts(ValueError):
    """A file consists of more parts than any picture does."""

    def __init__(self, most: int) -> None:
        super().__init__(f"it consists of more than {most} tiny parts")


class CountedReads(io.RawIOBase):
    """A file in memory, made of parts of others, that allows a bounded number of reads. Nothing is copied.

    Raises:
        TinyParts: from `read`, when there are more reads.
    """

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._parts = [part for part in parts if len(part)]
        self._starts = list(itertools.accumulate((len(part) for part in self._parts), initial=0))
        self._at = 0
        self._most = MOST_PARTS
        self._reads = 0

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read from anywhere: always."""
        return True

    def tell(self) -> int:
        """The place of the next byte that is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Set the place of the next byte that is read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if start + offset < 0:
            raise ValueError("a place before its beginning is named")
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as from any file, and count."""
        self._reads += 1
        if self._reads > self._most:
            raise TinyParts(self._most)
        whole = self._starts[-1]
        end = whole if size is None or size < 0 else min(self._at + size, whole)
        found = []
        while self._at < end:
            number = bisect_right(self._starts, self._at) - 1
            part, start = self._parts[number], self._starts[number]
            taken = part[self._at - start : end - start]
            found.append(taken)
            self._at += len(taken)
        return bytes(found[0]) if len(found) == 1 else b"".join(found)

    def header_is_read(self) -> None:
        """Raise the bound: from here on pixels are read."""
        self._most = _MOST_READS


def check_structure(content: bytes) -> None:
    """Refuse a file that no decoder should start on.

    Raises:
        ValueError: a JPEG of hundreds of scans, a TIFF of hundreds of thousands of strips.
    """
    if content[:2] == b"\xff\xd8":
        _check_scans(content)
    if content[:2] in (b"II", b"MM"):
        most = max((field.count for field in tiff_fields(content) if field.kind not in _BYTES), default=0)
        if most > _MOST_NUMBERS:
            raise ValueError(f"a field of it holds more than {_MOST_NUMBERS} numbers")


def _check_scans(content: bytes) -> None:
    """Count the scans of a JPEG as its decoder meets them, up to the end of its image: phones append a film, a depth
    map or a second image.
    """
    place, scans = 2, 0
    for _ in range(_MOST_SEGMENTS):
        found = MARKER.search(content, place)
        if found is None or found[1][0] == _END:
            return
        scans += found[1][0] == _SCAN
        if scans > _MOST_SCANS:
            raise ValueError(f"it has more than {_MOST_SCANS} scans")
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    raise TinyParts(_MOST_SEGMENTS)
