"""Checks of an image file's structure before it is decoded: files that would keep a decoder busy for minutes, or fill
the memory with anything but pixels, are refused.

Pillow reads a file's parts in Python, some of them one by one.
"""

from __future__ import annotations

import io
import re
import struct

# An image's header has hundreds of parts (an ICC profile or XMP comes in 64 kB each), its data some of 8 kB and more.
_MOST_READS_OF_HEADER = 20_000
_MOST_READS = 500_000
_MOST_SCANS = 100  # of a progressive JPEG, each of which goes through all pixels; photographs have ten
_MOST_NUMBERS = 200_000  # in a field of a TIFF: where its strips lie; its longest palette has 196,608
_MOST_SEGMENTS = 100_000  # of a JPEG
# The next marker of a JPEG, after a segment or in the data of a scan, where 0xff is followed by 0 or a restart marker.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_END, _SCAN = 0xD9, 0xDA
_BYTES = {1, 2, 6, 7}  # types of TIFF fields whose values are bytes, which stay bytes


class CountedReads(io.BytesIO):
    """A file in memory that allows a bounded number of reads.

    Raises:
        ValueError: from `read`, when there are more.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._most = _MOST_READS_OF_HEADER
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as from any file, and count."""
        self._reads += 1
        if self._reads > self._most:
            raise ValueError(f"it consists of more than {self._most} tiny parts")
        return super().read(size)

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
    if content[:2] in (b"II", b"MM") and _most_numbers(content) > _MOST_NUMBERS:
        raise ValueError(f"a field of it holds more than {_MOST_NUMBERS} numbers")


def _check_scans(content: bytes) -> None:
    """Count the scans of a JPEG as its decoder meets them, up to the end of its image: phones append a film, a depth
    map or a second image.
    """
    place, scans = 2, 0
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(content, place)
        if found is None or found[1][0] == _END:
            return
        scans += found[1][0] == _SCAN
        if scans > _MOST_SCANS:
            raise ValueError(f"it has more than {_MOST_SCANS} scans")
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    raise ValueError(f"it consists of more than {_MOST_SEGMENTS} tiny parts")


def _most_numbers(content: bytes) -> int:
    """The most values of a field in the first directory of a TIFF; 0 where it is broken, which its decoder reports."""
    order = "<" if content[:2] == b"II" else ">"
    try:
        if struct.unpack_from(f"{order}H", content, 2)[0] == 43:  # BigTIFF
            (place,), head, entry = struct.unpack_from(f"{order}Q", content, 8), f"{order}Q", f"{order}HHQ8x"
        else:
            (place,), head, entry = struct.unpack_from(f"{order}I", content, 4), f"{order}H", f"{order}HHI4x"
        (count,) = struct.unpack_from(head, content, place)
        first, size = place + struct.calcsize(head), struct.calcsize(entry)
        rows = struct.iter_unpack(entry, content[first : first + size * min(count, _MOST_NUMBERS)])
        return max((number for _, kind, number in rows if kind not in _BYTES), default=0)
    except struct.error:
        return 0
