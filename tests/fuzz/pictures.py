"""Damaged image files of every format, through `decode_picture`."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from plugin_config.errors import ImageUnavailable
from tests.fuzz.trial import own_memory_mb
from tests.fuzz.verdicts import TAKEN, Kind, Verdict, judge_error
from worker.label_studio.images import WORKING_PIXELS, ImageLimits, decode_picture

SUBJECT = "image of task 7"
LIMITS = ImageLimits(2_000_000, 6_000_000, 1.0, allow_private=False)
_SIZE = (23, 17)
_CANARY_EVERY = 20
_CODES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
_COMPLETE = 0.75  # of the bytes of a file: one cut off before has not all of its pixels


@dataclass(frozen=True)
class Damage:
    """One change of a file's bytes; places are in [0, 1) of its length, so that they fit every file.

    Attributes:
        kind: "set", "cut", "insert", "delete", "copy", "number", "chunk".
        at: place.
        content: bytes that are written.
        other: a second place, or a length.
    """

    kind: str
    at: float
    content: bytes = b""
    other: float = 0.0


@dataclass(frozen=True)
class File:
    """A small valid file, and what is done to it. `exif`: one entry of the orientation, (order, type, count, value)."""

    base: str
    exif: tuple[str, int, int, bytes] | None
    damages: tuple[Damage, ...]
    tail: bytes = b""


def _picture(mode: str, size: tuple[int, int] = _SIZE) -> Image.Image:
    width, height = size
    grid = np.add.outer(np.arange(height) * 7, np.arange(width) * 11)
    rgb = np.stack([grid % 256, (grid * 3) % 256, (grid // 2) % 256], axis=2).astype(np.uint8)
    rgb[:4, :5] = (250, 10, 10)
    image = Image.fromarray(rgb)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(((grid * 5) % 256).astype(np.uint8)))
        return image.convert(mode)
    if mode == "I;16":
        return Image.fromarray((grid * 150 % 65536).astype(np.uint16))
    if mode == "F":
        return Image.fromarray((grid / 100).astype(np.float32))
    return image.convert(mode)


# Name -> format, mode and options of Pillow's writer.
_BASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("PNG", "RGB", {}), "png-palette": ("PNG", "P", {"transparency": 3}), "png-alpha": ("PNG", "RGBA", {}),
    "png-grey-alpha": ("PNG", "LA", {}), "png-16": ("PNG", "I;16", {}), "png-1": ("PNG", "1", {}),
    "jpeg": ("JPEG", "RGB", {}), "jpeg-grey": ("JPEG", "L", {}), "jpeg-cmyk": ("JPEG", "CMYK", {}),
    "jpeg-progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 2}),
    "gif": ("GIF", "P", {"transparency": 2}), "gif-frames": ("GIF", "P", {"save_all": True}),
    "webp": ("WEBP", "RGB", {}), "webp-lossless": ("WEBP", "RGBA", {"lossless": True}),
    "avif": ("AVIF", "RGB", {"speed": 10}), "avif-alpha": ("AVIF", "RGBA", {"speed": 10}),
    "bmp": ("BMP", "RGB", {}), "bmp-palette": ("BMP", "P", {}), "bmp-1": ("BMP", "1", {}),
    "tiff": ("TIFF", "RGB", {}), "tiff-lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", "RGBA", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", "RGB", {"compression": "jpeg"}), "tiff-packbits": ("TIFF", "L", {"compression": "packbits"}),
    "tiff-16": ("TIFF", "I;16", {}), "tiff-float": ("TIFF", "F", {}), "tiff-fax": ("TIFF", "1",
                                                                                   {"compression": "group4"}),
    "large-png": ("PNG", "L", {}), "large-jpeg": ("JPEG", "L", {}), "large-webp": ("WEBP", "RGB", {"method": 0}),
}  # fmt: skip
_WITH_EXIF = ("PNG", "JPEG", "WEBP")  # Pillow writes AVIF's turns elsewhere
_SMALL = [name for name in _BASES if not name.startswith("large")]


@cache
def _base(name: str, exif: tuple[str, int, int, bytes] | None) -> bytes:
    file_format, mode, options = _BASES[name]
    if name.startswith("large"):  # reduced when it is decoded
        image = Image.new(mode, (2100, 2000), 128 if mode == "L" else (200, 30, 30))
    else:
        image = _picture(mode)
    options = dict(options)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(90 * turn) for turn in (1, 2)]
    if exif is not None and file_format in _WITH_EXIF:
        options["exif"] = b"Exif\0\0" * (file_format != "PNG") + _exif(*exif)
    if exif is not None and file_format == "AVIF":
        turn = Image.Exif()
        turn[0x0112] = 1 + exif[2] % 8
        options["exif"] = turn
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _exif(order: str, kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block whose only entry is the orientation, of any type."""
    mark = "<" if order == "II" else ">"
    entry = struct.pack(f"{mark}HHI", 0x0112, kind, count) + value[:4].ljust(4, b"\0")
    return order.encode() + struct.pack(f"{mark}HIH", 42, 8, 1) + entry + struct.pack(f"{mark}I", 0) + value[4:]


def content_of(file: File) -> bytes:
    """The bytes of a damaged file."""
    content = _base(file.base, file.exif)
    for damage in file.damages:
        content = _damaged(content, damage)
    return content + file.tail


def _damaged(content: bytes, damage: Damage) -> bytes:
    at, other = int(damage.at * len(content)), int(damage.other * len(content))
    match damage.kind:
        case "set" | "number":
            return content[:at] + damage.content + content[at + len(damage.content) :]
        case "cut":
            return content[:at]
        case "insert":
            return content[:at] + damage.content + content[at:]
        case "delete":
            return content[:at] + content[at + 1 + other % 64 :]
        case "copy":
            return content[:at] + content[other : other + 64] + content[at:]
    return _with_chunk(content, damage)


def _with_chunk(content: bytes, damage: Damage) -> bytes:
    """A PNG whose checksums hold: one chunk has other content, or another one stands before it. Others as "insert"."""
    if content[:4] != b"\x89PNG":
        at = int(damage.at * len(content))
        return content[:at] + damage.content + content[at:]
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return content
    number = int(damage.at * len(chunks))
    name, inside = chunks[number]
    if damage.other < 0.5:
        at = int(damage.other * 2 * len(inside))
        chunks[number] = (name, inside[:at] + damage.content + inside[at + len(damage.content) :])
    else:
        names = (b"eXIf", b"iTXt", b"zTXt", b"tEXt", b"iCCP", b"tRNS", b"PLTE", b"gAMA", b"acTL", b"fcTL", b"abCd")
        chunks.insert(number, (names[int(damage.other * 997) % len(names)], damage.content))
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return content[:8] + b"".join(parts)


_SPECIAL = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
            0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip


def _numbers() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda value, code: struct.pack(code, value & (0xFFFF if code[1] == "H" else 0xFFFFFFFF)),
        st.sampled_from(_SPECIAL), st.sampled_from(("<H", ">H", "<I", ">I")),
    )  # fmt: skip


_PLACE = st.one_of(st.floats(0, 0.999), st.floats(0, 0.15))  # headers are small
_DAMAGE = st.one_of(
    st.builds(Damage, st.just("number"), _PLACE, _numbers()),
    st.builds(Damage, st.just("set"), _PLACE, st.binary(min_size=1, max_size=8)),
    st.builds(Damage, st.just("cut"), st.floats(0, 0.999)),
    st.builds(Damage, st.just("insert"), _PLACE, st.binary(min_size=1, max_size=40)),
    st.builds(Damage, st.just("delete"), _PLACE, st.just(b""), st.floats(0, 0.999)),
    st.builds(Damage, st.just("copy"), _PLACE, st.just(b""), st.floats(0, 0.999)),
    st.builds(Damage, st.just("chunk"), _PLACE, st.binary(max_size=40), st.floats(0, 0.999)),
)
_EXIFS = st.one_of(
    st.none(),
    st.tuples(st.sampled_from(["II", "MM"]), st.sampled_from([3, 3, 3, *_CODES, 0, 13, 129, 65535]),
              st.sampled_from([1, 1, 1, 0, 2, 5, 2**31, 2**32 - 1]),
              st.one_of(st.sampled_from([b"\6\0", b"\0\6", b"\0\0\0\6", b"\6\0\0\0"]), st.binary(max_size=12))),
)  # fmt: skip
CASES = st.builds(
    File, st.one_of(st.sampled_from(_SMALL), st.sampled_from(_SMALL), st.sampled_from(list(_BASES))), _EXIFS,
    st.one_of(st.just(()), st.lists(_DAMAGE, min_size=1, max_size=3).map(tuple)), st.one_of(st.just(b""),
                                                                                            st.binary(max_size=60)),
)  # fmt: skip


class PictureJudge:
    """Silent: pixels of another size than the file's header says, of another orientation than a browser's, that are not
    8-bit RGB, or of a file that was cut off in the midst of them. Refused: a valid file. Harmed: a healthy picture,
    tried in between, is not decoded as before.
    """

    def __init__(self) -> None:
        self._healthy = _base("png", None)
        self._right = decode_picture(self._healthy, subject=SUBJECT, limits=LIMITS).pixels
        self._tried = 0
        for name in _BASES:  # what is imported once is not growth
            decode_picture(_base(name, None), subject=SUBJECT, limits=LIMITS)

    def memory_mb(self) -> float:
        return own_memory_mb()

    def __call__(self, case: File) -> Verdict:
        self._tried += 1
        if self._tried % _CANARY_EVERY == 0:
            found = decode_picture(self._healthy, subject=SUBJECT, limits=LIMITS).pixels
            if not np.array_equal(found, self._right):
                return Verdict("harmed", "a healthy picture has other pixels now", "healthy picture")
        content = content_of(case)
        try:
            picture = decode_picture(content, subject=SUBJECT, limits=LIMITS)
        except ImageUnavailable as error:
            if not case.damages:
                return Verdict("refused", f"a valid file with EXIF {case.exif}: {error}"[:300], f"{case.base} refused")
            return judge_error(error, SUBJECT)
        pixels, size = picture.pixels, picture.size
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            return Verdict("silent", f"pixels of shape {pixels.shape}, {pixels.dtype}", "no RGB")
        if size[0] * size[1] > LIMITS.most_pixels or pixels.shape[0] * pixels.shape[1] > WORKING_PIXELS:
            return Verdict("silent", f"{size} pixels are beyond the limit", "beyond the limit")
        said = _size_in_header(content)
        if said is not None and size not in (said, said[::-1]):
            return Verdict("silent", f"its header says {said}, decoded were {size}", "another size")
        if not case.damages and not case.tail and size != _as_shown(case):
            told = f"{case.base} with EXIF {case.exif} is {size}, shown {_as_shown(case)}"
            return Verdict("silent", told, f"{_BASES[case.base][0]} turned")
        if _is_cut_off(case):
            return Verdict("silent", f"a {case.base} cut off at {len(content)} of {len(_base(case.base, case.exif))} "
                           "bytes was decoded as if it were whole", f"{_BASES[case.base][0]} cut off")  # fmt: skip
        return TAKEN


def _as_shown(file: File) -> tuple[int, int]:
    """The (H, W) of an undamaged file in Chromium: turned only by a well-typed EXIF entry, and not in WebP."""
    size = (2000, 2100) if file.base.startswith("large") else (_SIZE[1], _SIZE[0])
    file_format, exif = _BASES[file.base][0], file.exif
    if exif is None or file_format not in ("JPEG", "PNG", "AVIF"):
        return size
    order, kind, count, value = exif
    turn = int.from_bytes(value[:2].ljust(2, b"\0"), "little" if order == "II" else "big")
    if file_format == "AVIF":
        turn = 1 + count % 8
    elif (kind, count) != (3, 1):
        turn = 1
    return _turned(size) if 5 <= turn <= 8 else size


def _is_cut_off(file: File) -> bool:
    """Whether nothing but a cut was done to a file, and before the end of its pixels. Of an animation the first frame
    counts; where a file's pixels end is known of none exactly, so a cut is one that takes a good part.
    """
    if len(file.damages) != 1 or file.damages[0].kind != "cut" or file.tail or "frames" in file.base:
        return False
    return file.damages[0].at < _COMPLETE and file.exif is None and _BASES[file.base][0] != "TIFF"


def _size_in_header(content: bytes) -> tuple[int, int] | None:
    """The (H, W) where the header of a file says it, read without any library; None where that takes more."""
    try:
        if content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR":
            return _turned(struct.unpack_from(">II", content, 16))
        if content[:4] == b"GIF8":
            size = _turned(struct.unpack_from("<HH", content, 6))
            return size if all(size) else None  # a browser takes the first frame's, then
        if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8X":
            return int.from_bytes(content[27:30], "little") + 1, int.from_bytes(content[24:27], "little") + 1
        if content[:2] == b"BM" and content[14:15] == b"\x28":
            width, height = struct.unpack_from("<ii", content, 18)
            return abs(height), abs(width)
    except struct.error:
        return None
    return None


def _turned(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


@contextmanager
def judge() -> Iterator[PictureJudge]:
    yield PictureJudge()


def show(case: File) -> str:
    """The file itself, in base64, where it is small."""
    content = content_of(case)
    inside = base64.b64encode(content).decode() if len(content) < 2500 else f"{len(content)} bytes"
    return f"{case.base} exif={case.exif} damages={list(case.damages)} tail={case.tail!r} base64:{inside}"


KIND = Kind("images", CASES, "tests.fuzz.pictures:judge", show, most_s=5.0, most_growth_mb=80.0, full=2500, short=160)
Show = Callable[[Any], str]
