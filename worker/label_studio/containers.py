"""The bytes of an image file -> those that draw its picture, and what the others say about turning and colours.

Texts, EXIF, XMP and profiles cost a decoder memory, and damaged ones cost it the picture, which browsers show. So they
never reach it: a file is given to it without them, as parts of the bytes that are there.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.label_studio.exif import Exif, read_exif, tiff_fields, tiff_orientation
from worker.label_studio.structure import MARKER, MOST_PARTS, TinyParts

_MOST_PROFILE = 4_000_000  # bytes; those of printing presses have two million
_MOST_DATA = 100_000  # chunks of pixels in a PNG
_MOST_BLOCKS = 400_000  # of the texts in a GIF: 255 bytes each, and the texts
_GIFS = (b"GIF87a", b"GIF89a")
_PNG, _JPEG, _TIFFS = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COLOUR_CHUNKS = {b"iCCP", b"sRGB", b"gAMA"}
_ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
# Segments of a JPEG that a decoder needs: the colour transform stands in the last one. Shorter ones are ignored.
_LEAST_SEGMENT = {0xE0: 14, 0xEE: 12}
_METADATA = {*range(0xE0, 0xF0), 0xFE}
_COLOURS, _TEXT = 0xE2, 0xE1
_TRANSPARENCY = b"\xf9"  # a block of a GIF
_DATA = {0xDA, 0xD9}  # a scan, or the end
# The type of the EXIF item of an AVIF, in the box that lists its items.
_EXIF_ITEM = re.compile(rb"infe(?:\x02.{3}.{2}|\x03.{3}.{4}).{2}(Exif)", re.DOTALL)
# Fields of a TIFF that describe it: Pillow turns by one, follows others, and fails where they are damaged.
_TIFF_METADATA = {270, 271, 272, 274, 305, 306, 315, 316, 700, 33723, 34377, 34665, 34853, 37724, 40965}
_NO_FIELD = 65_000


@dataclass(frozen=True)
class PictureFile:
    """A file as its decoder is given it.

    Attributes:
        parts: in order, the bytes that draw the picture.
        exif: what turns and sizes it.
        profile: the ICC profile, where the file's parts say it; None elsewhere, and where it has none.
        gamma: of a PNG that says one and has no profile: its values are light to this power.
    """

    parts: tuple[bytes | memoryview, ...]
    exif: Exif = field(default_factory=Exif)
    profile: bytes | None = None
    gamma: float | None = None


def read_container(content: bytes) -> PictureFile:
    """Take an image file apart; one of a format without metadata that matter stays whole.

    Raises:
        TinyParts: it has more parts than any picture.
    """
    if content.startswith(_PNG):
        return _read_png(content)
    if content.startswith(_JPEG):
        return _read_jpeg(content)
    if content.startswith(_TIFFS):
        return _read_tiff(content)
    if content.startswith(_GIFS):
        return _read_gif(content)
    if content[4:8] == b"ftyp":
        return _read_avif(content)
    return PictureFile((content,))


class _Kept:
    """Parts of a file, those side by side as one."""

    def __init__(self, content: bytes) -> None:
        self._view = memoryview(content)
        self._content = content
        self._spans: list[tuple[int, int] | bytes] = []

    def add(self, start: int, end: int) -> None:
        last = self._spans[-1] if self._spans else None
        if isinstance(last, tuple) and last[1] == start:
            self._spans[-1] = (last[0], end)
        else:
            self._spans.append((start, end))

    def put(self, new: bytes) -> None:
        self._spans.append(new)

    def parts(self) -> tuple[bytes | memoryview, ...]:
        if self._spans == [(0, len(self._content))]:
            return (self._content,)
        return tuple(self._view[slice(*span)] if isinstance(span, tuple) else span for span in self._spans)


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a PNG: its name, and where it and its body begin and end."""

    name: bytes
    start: int
    end: int

    def body(self, content: bytes) -> bytes:
        return content[self.start + 8 : self.end - 4]

    def intact(self, content: bytes) -> bool:
        return zlib.crc32(memoryview(content)[self.start + 4 : self.end - 4]) == int.from_bytes(
            content[self.end - 4 : self.end], "big"
        )


def _read_png(content: bytes) -> PictureFile:
    kept, colours = _Kept(content), _PngColours()
    kept.add(0, len(_PNG))
    exif: Exif | None = None
    chunks = list(_chunks(content))
    first = next((place for place, chunk in enumerate(chunks) if chunk.name == b"IDAT"), len(chunks))
    animation, transparency = _Animation.of(chunks, first, content), _transparency(chunks[:first], content)
    for place, chunk in enumerate(chunks):
        if chunk.name == b"tRNS":
            if chunk is transparency:
                kept.add(chunk.start, chunk.end)
        elif chunk.name == b"eXIf":
            if exif is None and place < first and chunk.intact(content):
                exif = read_exif(chunk.body(content))
        elif chunk.name in _COLOUR_CHUNKS:
            if place < first and chunk.intact(content):
                colours.found.setdefault(chunk.name, chunk.body(content))
        elif chunk.name == b"IDAT" and animation.frame:
            if place == first:
                animation.put(kept, content)
        elif _draws(chunk):
            kept.add(chunk.start, chunk.end)
    # EXIF of a PNG turns it and never sizes it.
    return PictureFile(kept.parts(), Exif(exif.orientation if exif else 1), colours.profile(), colours.gamma())


class _PngColours:
    """What a PNG says of its colours: a profile, or that they are sRGB, or a gamma, in this order."""

    def __init__(self) -> None:
        self.found: dict[bytes, bytes] = {}

    def profile(self) -> bytes | None:
        _, nothing, packed = self.found.get(b"iCCP", b"").partition(b"\0")
        if not nothing or packed[:1] != b"\0":
            return None
        try:
            return zlib.decompressobj().decompress(packed[1:], _MOST_PROFILE) or None
        except zlib.error:
            return None

    def gamma(self) -> float | None:
        said = self.found.get(b"gAMA", b"")
        if self.profile() or len(said) != 4 or len(self.found.get(b"sRGB", b"")) == 1:
            return None
        return int.from_bytes(said, "big") / 100_000 or None


def _chunks(content: bytes) -> Iterator[_Chunk]:
    place, data, others = len(_PNG), 0, 0
    while place + 8 <= len(content):
        name = content[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        data, others = data + (name in {b"IDAT", b"fdAT"}), others + (name not in {b"IDAT", b"fdAT"})
        if data > _MOST_DATA or others > MOST_PARTS:
            raise TinyParts(_MOST_DATA if data > _MOST_DATA else MOST_PARTS)
        yield _Chunk(name, place, min(end, len(content)))
        if name == b"IEND" or end > len(content):
            return
        place = end


def _transparency(chunks: list[_Chunk], content: bytes) -> _Chunk | None:
    """The chunk that says what is transparent: the first before the pixels, and behind the palette if there is one.
    Others count for nothing.

    Args:
        chunks: those before the pixels.
        content: of the file.
    """
    colour, has_palette = content[25:26], False
    least = {b"\0": 2, b"\2": 6}.get(colour, 0)  # a grey value, or one of each colour
    for chunk in chunks:
        has_palette = has_palette or chunk.name == b"PLTE"
        is_key = chunk.name == b"tRNS" and chunk.end - chunk.start - 12 >= least and chunk.intact(content)
        if is_key and (has_palette or colour != b"\3"):
            return chunk
    return None


def _draws(chunk: _Chunk) -> bool:
    """Whether the pixels would be others without a chunk. Those with a capital are needed, whatever they are."""
    return chunk.name not in _ANIMATION and not chunk.name[0] & 0x20


@dataclass(frozen=True)
class _Animation:
    """The first frame of an animated PNG whose other picture, for programs that show none, is not part of it."""

    frame: tuple[_Chunk, ...] = ()

    @classmethod
    def of(cls, chunks: list[_Chunk], first: int, content: bytes) -> _Animation:
        """Find the chunks of the frame: none where the first frame is the picture itself."""
        before = {chunk.name for chunk in chunks[:first] if chunk.intact(content)} if first < len(chunks) else set()
        if b"acTL" not in before or b"fcTL" in before:
            return cls()
        after = [chunk for chunk in chunks[first:] if chunk.name in {b"fcTL", b"fdAT"}]
        heads = [place for place, chunk in enumerate(after) if chunk.name == b"fcTL"]
        return cls(tuple(after[heads[0] : heads[1] if len(heads) > 1 else None]) if heads else ())

    def put(self, kept: _Kept, content: bytes) -> None:
        """Keep the frame in place of the picture."""
        for chunk in self.frame:
            if chunk.name == b"fcTL":
                kept.add(chunk.start, chunk.end)
                continue
            body = b"IDAT" + chunk.body(content)[4:]  # without the number of the part
            kept.put(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))


def _read_jpeg(content: bytes) -> PictureFile:
    kept, place = _Kept(content), 2
    kept.add(0, place)
    exif: Exif | None = None
    profile: dict[int, bytes] = {}
    for _ in range(MOST_PARTS):
        found = MARKER.search(content, place)
        start = found.start() if found else place
        length = int.from_bytes(content[start + 2 : start + 4], "big")
        end = start + 2 + length
        if found is None or found[1][0] in _DATA or length < 2 or end > len(content):
            kept.add(start, len(content))
            return PictureFile(kept.parts(), exif or Exif(), _jpeg_profile(profile))
        kind, body = found[1][0], content[start + 4 : end]
        if kind == _TEXT and exif is None and body.startswith(b"Exif\0"):
            exif = read_exif(body[6:])
        elif kind == _COLOURS and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile.setdefault(body[12], body[14:])
        if kind not in _METADATA or len(body) >= _LEAST_SEGMENT.get(kind, len(body) + 1):
            kept.add(start, end)
        place = end
    raise TinyParts(MOST_PARTS)


def _jpeg_profile(parts: dict[int, bytes]) -> bytes | None:
    whole = b"".join(parts[number] for number in sorted(parts))
    return whole if 0 < len(whole) <= _MOST_PROFILE else None


def _read_tiff(content: bytes) -> PictureFile:
    """No browser shows a TIFF. It is turned by its own field, as the programs that show it do."""
    kept, place = _Kept(content), 0
    order = "<" if content[:2] == b"II" else ">"
    for entry in tiff_fields(content):
        if entry.tag in _TIFF_METADATA:
            kept.add(place, entry.place)
            kept.put(struct.pack(f"{order}H", _NO_FIELD))
            place = entry.place + 2
    kept.add(place, len(content))
    return PictureFile(kept.parts(), tiff_orientation(content))


def _read_gif(content: bytes) -> PictureFile:
    """Its texts go; what says which colour is transparent stays."""
    if len(content) < 14:
        return PictureFile((content,))
    kept, place = _Kept(content), 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    kept.add(0, min(place, len(content)))
    blocks = 0
    while content[place : place + 1] == b"\x21":
        start, place, blocks = place, place + 2, blocks + 1
        while place < len(content) and content[place] and blocks <= _MOST_BLOCKS:
            place, blocks = place + 1 + content[place], blocks + 1
        if blocks > _MOST_BLOCKS:
            raise TinyParts(_MOST_BLOCKS)
        place += 1
        if content[start + 1 : start + 2] == _TRANSPARENCY:
            kept.add(start, min(place, len(content)))
    kept.add(min(place, len(content)), len(content))
    return PictureFile(kept.parts())


def _read_avif(content: bytes) -> PictureFile:
    """An AVIF is turned by its own properties, which the decoder reads; its EXIF counts for nothing."""
    place, kept = 0, _Kept(content)
    for _ in range(100):
        size = int.from_bytes(content[place : place + 4], "big")
        if content[place + 4 : place + 8] == b"meta":
            found = _EXIF_ITEM.search(content, place, place + size)
            if found:
                kept.add(0, found.start(1))
                kept.put(b"free")
                kept.add(found.end(1), len(content))
                return PictureFile(kept.parts())
        if size < 8:
            break
        place += size
    return PictureFile((content,))
