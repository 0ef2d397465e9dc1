"""Small image files as cameras, programs and accidents write them, each with a name: what browsers make of them is in
`browser_pictures.json`.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

SIZE = (64, 40)  # (W, H)
W, H = SIZE
SHORT, LONG, RATIONAL = 3, 4, 5
_KEEP_TAG, _OWN_TAG = 0x0112, 0x0113

Entry = tuple[int, int, int, bytes]
"""Of a TIFF directory: tag, type, number of values, the four bytes of the value or of its place."""


def picture() -> Image.Image:
    """Four corners of different colours, each a ramp, so that no turned copy looks like another."""
    y, x = np.mgrid[:H, :W]
    red = np.where(x < W // 2, 230 - x * 2, 30 + x)
    green = np.where(y < H // 2, 200 - y * 3, 40 + y * 3)
    return Image.fromarray(np.stack([red, green, (x + y) * 2], axis=-1).clip(0, 255).astype(np.uint8))


def fading(mode: str = "RGBA") -> Image.Image:
    """The picture, transparent on the left and opaque on the right."""
    image = picture().convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, W).round().astype(np.uint8), (H, 1))))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fine(image: Image.Image, **options: Any) -> bytes:
    """A JPEG that keeps colours within a few levels."""
    return encoded(image, "JPEG", quality=95, subsampling=0, **options)


def directory(entries: Sequence[Entry], order: str = "<", *, first: int = 8, behind: bytes = b"") -> bytes:
    """An EXIF block of one directory at a place, with bytes behind it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", first) + bytes(first - 8)
    rows = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(f"{order}H", len(entries)) + rows + bytes(4) + behind


def short(value: int, order: str = "<") -> bytes:
    """One SHORT in the four bytes of a value."""
    return struct.pack(f"{order}HH", value, 0)


def long(value: int) -> bytes:
    """One LONG, little-endian."""
    return struct.pack("<I", value)


def turning(value: int, order: str = "<", *, kind: int = SHORT, count: int = 1, **options: Any) -> bytes:
    """An EXIF block that says an orientation."""
    return directory([(0x0112, kind, count, short(value, order))], order, **options)


def dense(dpi: int, x: int, y: int, *, orientation: int = 1) -> bytes:
    """An EXIF block that says a resolution, and a size in pixels."""
    inner = 8 + 2 + 12 * 5 + 4
    sizes = directory([(0xA002, LONG, 1, long(x)), (0xA003, LONG, 1, long(y))])[8:]
    entries = [
        (0x0112, SHORT, 1, short(orientation)), (0x011A, RATIONAL, 1, long(inner)), (0x011B, RATIONAL, 1, long(inner)),
        (0x0128, SHORT, 1, short(2)), (0x8769, LONG, 1, long(inner + 8)),
    ]  # fmt: skip
    return directory(entries, behind=struct.pack("<II", dpi, 1) + sizes)


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def app1(block: bytes, head: bytes = b"Exif\0\0") -> bytes:
    """The segment of a JPEG that holds EXIF."""
    return segment(0xE1, head + block)


def jpeg_with(*inserted: bytes, before: bytes | None = None) -> bytes:
    """A JPEG with bytes right after its beginning, or before a marker."""
    whole = fine(picture())
    place = 2 if before is None else whole.index(before)
    return whole[:place] + b"".join(inserted) + whole[place:]


def chunk(name: bytes, body: bytes = b"", *, broken: bool = False) -> bytes:
    """A chunk of a PNG, perhaps with a wrong check sum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ broken)


def png_with(*inserted: bytes, whole: bytes | None = None, at_end: bool = False) -> bytes:
    """A PNG with chunks before its pixels, or after them."""
    whole = encoded(picture(), "PNG") if whole is None else whole
    place = len(whole) - 12 if at_end else 33
    return whole[:place] + b"".join(inserted) + whole[place:]


def deep_png(values: NDArray[np.int64], colour: int, *inserted: bytes) -> bytes:
    """A PNG of 16 bits a channel from (H, W, channels) values."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(inserted) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def grey_png(bits: int, transparent: int) -> bytes:
    """A PNG of grey levels of 2 or 4 bits, one of which is transparent."""
    levels = (np.arange(W) % (1 << bits)).reshape(-1, 8 // bits)
    row = b"\0" + (levels << np.arange(8 - bits, -1, -bits)).sum(axis=1).astype(np.uint8).tobytes()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, bits, 0, 0, 0, 0))
    key = chunk(b"tRNS", struct.pack(">H", transparent))
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(row * H)) + chunk(b"IEND")


def profile(columns: Sequence[Sequence[float]], gamma: float) -> bytes:
    """An ICC profile of a screen: the (X, Y, Z) of its red, green and blue, and its gamma."""

    def fixed(values: Sequence[float]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = [(b"wtpt", b"XYZ " + bytes(4) + fixed(white)), (b"cprt", b"text" + bytes(4) + b"x" + bytes(3)),
            (b"desc", b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(82))]  # fmt: skip
    tags += [(name + b"XYZ", b"XYZ " + bytes(4) + fixed(values)) for name, values in zip((b"r", b"g", b"b"), columns,
                                                                                        strict=True)]  # fmt: skip
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = b"lcms" + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(white)
    head += bytes(124 - len(head))
    return struct.pack(">I", 128 + len(table) + len(body)) + head + table + body


SCREEN = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
WIDE = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
PROFILES: dict[str, Callable[[], bytes]] = {
    "srgb": lambda: ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "swapped": lambda: profile(SCREEN[::-1], 2.2),
    "linear": lambda: profile(SCREEN, 1.0),
    "prophoto": lambda: profile(WIDE, 1.8),
}


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], *, transparent: int | None = None) -> bytes:
    """A GIF of a screen (W, H) whose frame (left, top, width, height) is green."""
    palette = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0])
    image = Image.new("P", frame[2:], 1)
    image.putpalette(palette + bytes(756))
    whole = encoded(image, "GIF")
    table = 3 * 2 ** ((whole[10] & 7) + 1) if whole[10] & 0x80 else 0
    drawn = whole[whole.index(b"\x2c", 13 + table) : -1]
    own = 3 * 2 ** ((drawn[9] & 7) + 1) if drawn[9] & 0x80 else 0
    control = b"" if transparent is None else b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x81, 0, 0) + palette
    return head + control + b"\x2c" + struct.pack("<HHHHB", *frame, 0) + drawn[10 + own :] + b"\x3b"


def bmp(
    bits: int, compression: int, data: bytes, *, head: int = 40, masks: Sequence[int] = (), up: bool = True
) -> bytes:
    """A BMP of the picture's size."""
    masked = b"".join(struct.pack("<I", mask) for mask in masks)
    body = struct.pack("<IiiHHIIiiII", head, W, H if up else -H, 1, bits, compression, len(data), 2835, 2835, 0, 0)
    body += masked + bytes(max(0, head - len(body) - len(masked)))
    return b"BM" + struct.pack("<IHHI", 14 + len(body) + len(data), 0, 0, 14 + len(body)) + body + data


def avif_with_exif(said: int) -> bytes:
    """An AVIF whose EXIF says an orientation that its own properties do not."""
    block = directory([(0x010F, 2, 4, b"abc\0"), (_OWN_TAG, SHORT, 1, short(said))])
    whole = encoded(picture(), "AVIF", quality=95, subsampling="4:4:4", exif=b"Exif\0\0" + block)
    return whole.replace(struct.pack("<HH", _OWN_TAG, SHORT), struct.pack("<HH", _KEEP_TAG, SHORT))


def tiff(
    values: NDArray[Any], order: Literal["<", ">"] = "<", *, white_is_zero: bool = False, extra: Sequence[Entry] = ()
) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, 3 or 4) values of any type, with further fields."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    bits, form = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()

    def number(tag: int, value: int) -> Entry:
        return tag, SHORT, 1, short(value, order)

    def place(tag: int, at: int, *, kind: int = LONG, count: int = 1) -> Entry:
        return tag, kind, count, struct.pack(f"{order}I", at)

    photometric = 2 if channels > 1 else 0 if white_is_zero else 1
    entries = [number(256, width), number(257, height), number(259, 1), number(262, photometric), number(277, channels),
               number(278, height), place(279, len(data)), *extra]  # fmt: skip
    if channels == 4:
        entries.append(number(338, 2))
    behind = 8 + 2 + 12 * (len(entries) + 3) + 4
    lists = struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[form] * channels)
    if channels > 1:
        entries += [place(258, behind, kind=SHORT, count=channels),
                    place(339, behind + 2 * channels, kind=SHORT, count=channels)]  # fmt: skip
    else:
        entries += [number(258, bits), number(339, form)]
    entries.append(place(273, behind + len(lists)))
    return directory(sorted(entries), order, behind=lists + data)
