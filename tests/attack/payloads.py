"""Files and answers that are small to send and dear to read, made without being dear to make."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

from PIL import Image

_MB = 1 << 20


@cache
def png(width: int, height: int, *, pixel: bytes = bytes((215, 40, 40))) -> bytes:
    """A PNG of one colour, compressed row by row: RGB for three bytes, grey of 16 bits for two, of 8 for one."""
    row = b"\0" + pixel * width
    rows = max(1, _MB // len(row))
    block, packer, parts = row * rows, zlib.compressobj(9), []
    for start in range(0, height, rows):
        parts.append(packer.compress(block[: len(row) * min(rows, height - start)]))
    parts.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 16 if len(pixel) == 2 else 8, 2 if len(pixel) == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"".join(parts)) + _chunk(b"IEND", b"")


def png_with_text(count: int, megabytes: int) -> bytes:
    """A PNG of 8 x 8 with so many compressed texts, each of so many MB unpacked."""
    text = b"Comment\0\0" + zlib.compress(bytes(megabytes * _MB), 9)
    whole = png(8, 8)
    return whole[:33] + _chunk(b"zTXt", text) * count + whole[33:]


def ppm_with_comment(megabytes: int) -> bytes:
    """A portable pixmap of 64 x 64 whose header holds a comment of so many MB."""
    return b"P6\n#" + b"x" * (megabytes * 1_000_000) + b"\n64 64\n255\n" + bytes((215, 40, 40)) * 64 * 64


def gif(frames: int, side: int) -> bytes:
    """A GIF of so many frames."""
    buffer = io.BytesIO()
    first, second = (Image.new("L", (side, side), grey) for grey in (40, 200))
    following = [second, first] * (frames // 2)  # two alike in a row would be written as one
    first.save(buffer, "GIF", save_all=True, append_images=following[: frames - 1])
    return buffer.getvalue()


@cache
def gzip_of_zeros(megabytes: int, *, layers: int) -> bytes:
    """So many MB of zeros, packed so many times over."""
    packer = zlib.compressobj(9 if layers > 1 else 1, zlib.DEFLATED, 31)
    if layers > 1:
        return packer.compress(gzip_of_zeros(megabytes, layers=layers - 1)) + packer.flush()
    return b"".join([*(packer.compress(bytes(_MB)) for _ in range(megabytes)), packer.flush()])


def labeling_config(labels: int) -> str:
    """A labeling config of so many labels, each of other words."""
    names = "".join(f'<Label value="thing {number} of many"/>' for number in range(labels))
    return (f'<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">{names}'
            "</BrushLabels></View>")  # fmt: skip


def config_with_attributes(count: int) -> str:
    """A labeling config with one label of so many attributes."""
    attributes = " ".join(f'a{number}="1"' for number in range(count))
    return (f'<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="cat" '
            f"{attributes}/></BrushLabels></View>")  # fmt: skip


def config_of_entities() -> str:
    """A labeling config whose few lines mean a thousand million words."""
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE View [<!ENTITY e0 "cat ">{lines}]><View><Label value="&e9;"/></View>'


def deep_config(depth: int) -> str:
    """A labeling config of nested views."""
    return "<View>" * depth + "</View>" * depth


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
