"""The pictures that are compared with a browser: every format in every orientation, and what odd files hold."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.picture_files import (
    LONG,
    PROFILES,
    SHORT,
    SIZE,
    app1,
    avif_with_exif,
    bmp,
    chunk,
    deep_png,
    dense,
    directory,
    encoded,
    fading,
    fine,
    gif,
    grey_png,
    jpeg_with,
    long,
    picture,
    png_with,
    segment,
    short,
    turning,
)

_BLACK = Image.new("RGB", SIZE)
_TYPES = {"BYTE": 1, "ASCII": 2, "LONG": 4, "RATIONAL": 5, "SBYTE": 6, "UNDEFINED": 7, "SSHORT": 8, "SLONG": 9,
          "FLOAT": 11, "IFD": 13}  # fmt: skip
_MADE_BY = (0x010F, 2, 4, b"abc\0")
_XMP = b"<x:xmpmeta xmlns:tiff='t'><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"


def pictures() -> dict[str, bytes]:
    """All files by name."""
    return dict([*_turned(), *_odd_exif(), *_odd_png_exif(), *_damaged(), *_transparent(), *_coloured(), *_animated()])


def _turned() -> Iterator[tuple[str, bytes]]:
    for value in range(1, 9):
        block = turning(value)
        exif = b"Exif\0\0" + block
        yield f"jpeg, orientation {value}", jpeg_with(app1(block))
        yield f"jpeg, orientation {value}, big-endian", jpeg_with(app1(turning(value, ">")))
        yield f"progressive jpeg, orientation {value}", fine(picture(), progressive=True, exif=exif)
        yield f"png, orientation {value}", png_with(chunk(b"eXIf", block))
        yield f"png, orientation {value}, big-endian", png_with(chunk(b"eXIf", turning(value, ">")))
        yield f"webp, orientation {value}", encoded(picture(), "WEBP", lossless=True, exif=exif)
        yield f"avif, orientation {value}", encoded(picture(), "AVIF", quality=95, subsampling="4:4:4", exif=exif)
        yield f"avif, orientation {value} in exif alone", avif_with_exif(value)
        # No place is known for EXIF in these; what follows the picture is no part of it.
        yield f"gif, orientation {value} behind it", encoded(picture(), "GIF") + exif
        yield f"bmp, orientation {value} behind it", encoded(picture(), "BMP") + exif


def _odd_exif() -> Iterator[tuple[str, bytes]]:
    inner = directory([(0x0112, SHORT, 1, short(6))])[8:]
    jpeg = fine(picture())
    blocks = {
        **{f"orientation of type {name}": turning(6, kind=kind) for name, kind in _TYPES.items()},
        **{f"orientation {value}": turning(value) for value in (0, 9, 262, 65535)},
        "two orientations in one field": turning(6, count=2), "no orientation in its field": turning(6, count=0),
        "LONG orientation, big-endian": directory([(0x0112, LONG, 1, struct.pack(">I", 6))], ">"),
        "two fields, the first out of range": directory([(0x0112, SHORT, 1, short(9)), (0x0112, SHORT, 1, short(6))]),
        "two fields": directory([(0x0112, SHORT, 1, short(3)), (0x0112, SHORT, 1, short(6))]),
        "field out of order": directory([(0x9999, SHORT, 1, short(9)), (0x0112, SHORT, 1, short(6))]),
        "orientation in the exif directory": directory([(0x8769, LONG, 1, long(26))], behind=inner),
        "both directories": directory([(0x0112, SHORT, 1, short(3)), (0x8769, LONG, 1, long(38))], behind=inner),
        "exif directory first": directory([(0x8769, LONG, 1, long(38)), (0x0112, SHORT, 1, short(3))], behind=inner),
        "orientation in the gps directory": directory([(0x8825, LONG, 1, long(26))], behind=inner),
        "a directory that holds itself": directory([(0x8769, LONG, 1, long(8)), (0x0112, SHORT, 1, short(6))]),
        "orientation of the thumbnail": directory([_MADE_BY])[:-4] + long(26) + inner,
        "directory at an odd place": turning(6, first=9),
        "directory beyond the block": b"II*\0" + long(2000), "directory at its own head": b"II*\0" + bytes(4) + inner,
        "block cut after the field": turning(6)[:-4], "block cut in the field": turning(6)[:-6],
        "more fields said than there are": b"II*\0" + long(8) + b"\xff\xff" + turning(6)[10:],
        "another magic number": b"II+\0" + turning(6)[4:], "no order of bytes": b"XXXX" + turning(6)[4:],
        "rest of the value in use": directory([(0x0112, SHORT, 1, struct.pack("<HH", 6, 7))]),
        "half the density": dense(144, 32, 20), "half the density, turned": dense(144, 32, 20, orientation=6),
        "twice the density": dense(36, 128, 80), "a density that does not fit": dense(144, 64, 40),
        "a density of nothing": dense(0, 64, 40),
    }  # fmt: skip
    yield from ((f"jpeg, {name}", jpeg_with(app1(block))) for name, block in blocks.items())
    yield "jpeg, two segments of exif", jpeg_with(app1(turning(6)), app1(turning(3)))
    yield "jpeg, exif without orientation before exif", jpeg_with(app1(directory([_MADE_BY])), app1(turning(3)))
    yield "jpeg, broken exif before exif", jpeg_with(app1(b"XXXX"), app1(turning(3)))
    yield "jpeg, xmp alone", jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP))
    yield "jpeg, xmp before exif", jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP), app1(turning(3)))
    yield "jpeg, another byte to fill", jpeg_with(app1(turning(6), b"Exif\0\1"))
    yield "jpeg, no byte to fill", jpeg_with(app1(turning(6), b"Exif\0"))
    yield "jpeg, exif in small letters", jpeg_with(app1(turning(6), b"exif\0\0"))
    yield "jpeg, exif in another segment", jpeg_with(segment(0xE2, b"Exif\0\0" + turning(6)))
    yield "jpeg, exif after jfif", jpeg_with(app1(turning(6)), before=b"\xff\xdb")
    yield "jpeg, exif before the scan", jpeg_with(app1(turning(6)), before=b"\xff\xda")
    yield "jpeg, exif after the scan", jpeg[:-2] + app1(turning(6)) + jpeg[-2:]
    yield "jpeg, exif behind it", jpeg + app1(turning(6))
    yield "jpeg, fill bytes before exif", jpeg_with(b"\xff\xff" + app1(turning(6)))


def _odd_png_exif() -> Iterator[tuple[str, bytes]]:
    inner = directory([(0x0112, SHORT, 1, short(6))])[8:]
    blocks = {
        "orientation of type LONG": turning(6, kind=LONG), "two orientations in one field": turning(6, count=2),
        "exif with the head of a jpeg's": b"Exif\0\0" + turning(6), "empty exif": b"", "short exif": b"II*\0",
        "broken exif": b"\xff" * 40, "half the density": dense(144, 32, 20),
        "orientation in the exif directory": directory([(0x8769, LONG, 1, long(26))], behind=inner),
    }  # fmt: skip
    yield from ((f"png, {name}", png_with(chunk(b"eXIf", block))) for name, block in blocks.items())
    yield "png, two chunks of exif", png_with(chunk(b"eXIf", turning(6)), chunk(b"eXIf", turning(3)))
    yield "png, broken exif before exif", png_with(chunk(b"eXIf", b"XX"), chunk(b"eXIf", turning(3)))
    wrong = chunk(b"eXIf", turning(6), broken=True)
    yield "png, exif with a wrong sum", png_with(wrong)
    yield "png, exif with a wrong sum before exif", png_with(wrong, chunk(b"eXIf", turning(3)))
    yield "png, exif after the pixels", png_with(chunk(b"eXIf", turning(6)), at_end=True)
    raw = b"\nexif\n      32\n" + (b"Exif\0\0" + turning(6)).hex().encode()
    for kind in ("exif", "APP1"):
        packed = f"Raw profile type {kind}".encode() + b"\0\0" + zlib.compress(raw)
        yield f"png, raw profile of type {kind}", png_with(chunk(b"zTXt", packed))
    yield "png, xmp", png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP))
    yield "webp, xmp", encoded(picture(), "WEBP", lossless=True, xmp=_XMP)
    yield "avif, xmp", encoded(picture(), "AVIF", quality=95, subsampling="4:4:4", xmp=_XMP)
    yield "webp, xmp and exif", encoded(picture(), "WEBP", lossless=True, xmp=_XMP, exif=turning(3))
    yield "webp, half the density", encoded(picture(), "WEBP", lossless=True, exif=b"Exif\0\0" + dense(144, 32, 20))


def _damaged() -> Iterator[tuple[str, bytes]]:
    vast = zlib.compress(bytes(3_000_000))
    chunks = {
        "a vast text": chunk(b"zTXt", b"a\0\0" + vast),
        "a vast international text": chunk(b"iTXt", b"a\0\1\0\0\0" + vast),
        "many texts": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 80,
        "a vast profile": chunk(b"iCCP", b"a\0\0" + vast),
        "a long plain text": chunk(b"tEXt", b"a\0" + b"x" * 2_000_000),
        "text of an unknown packing": chunk(b"zTXt", b"a\0\1abc"),
        "text with a wrong sum": chunk(b"tEXt", b"a\0b", broken=True),
        "broken profile": chunk(b"iCCP", b"x\0\0abcd"),
        "profile of an unknown packing": chunk(b"iCCP", b"x\0\1abcd"),
        "profile without an end of its name": chunk(b"iCCP", b"x" * 100),
        "empty profile": chunk(b"iCCP"),
        "empty gamma": chunk(b"gAMA"),
        "gamma of nothing": chunk(b"gAMA", bytes(4)),
        "usual gamma": chunk(b"gAMA", struct.pack(">I", 45455)),
        "linear gamma": chunk(b"gAMA", struct.pack(">I", 100_000)),
        "short chromaticity": chunk(b"cHRM", b"abc"),
        "short density": chunk(b"pHYs", b"a"),
        "empty srgb": chunk(b"sRGB"),
        "pixels that are no squares": chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0)),
        "background": chunk(b"bKGD", b"\0\1" * 3),
        "unknown chunk": chunk(b"abCd", b"x"),
        "chunk with a digit": chunk(b"a1Cd", b"x"),
        "short acTL": chunk(b"acTL", b"abc"),
        "transparency with a wrong sum": chunk(b"tRNS", b"\0\xe0\0\xbf\0\x0c", broken=True),
    }
    yield from ((f"png, {name}", png_with(body)) for name, body in chunks.items())
    whole = encoded(picture(), "PNG")
    yield "png, a vast text behind the pixels", png_with(chunk(b"zTXt", b"a\0\0" + vast), at_end=True)
    yield "png, wrong sum of the pixels", whole[:-16] + bytes(4) + whole[-12:]
    yield "png, no end", whole[:-12]
    yield "png, cut in a text", whole[:-12] + chunk(b"tEXt", b"abcd" * 100)[:50]
    yield "png, junk behind the pixels", whole[:-12] + b"junkjunkjunk"
    segments = {
        "short jfif": segment(0xE0, b"JFIF\0\1"),
        "short adobe": segment(0xEE, b"Adobe\0"),
        "empty comment": segment(0xFE, b""),
        "broken photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\x00\xff\xff"),
        "broken mpf": segment(0xE2, b"MPF\0II*\0\xff"),
        "broken profile": segment(0xE2, b"ICC_PROFILE\0\1\1abc"),
        "half a profile": segment(0xE2, b"ICC_PROFILE\0\2"),
        "broken flashpix": segment(0xE2, b"FPXR\0" + b"\xff" * 9),
        "broken xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
        "long comments": segment(0xFE, b"x" * 65_000) * 20,
        "junk before a segment": b"\xff\xe5\0\2abc",
    }
    yield from ((f"jpeg, {name}", jpeg_with(body)) for name, body in segments.items())
    yield "gif, long comments", _gif_comment(30_000)
    yield "avif, broken exif", avif_with_exif(6).replace(b"II*\0", b"XXXX")


def _gif_comment(parts: int) -> bytes:
    whole = encoded(picture(), "GIF")
    place = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:place] + b"\x21\xfe" + (b"\xff" + b"x" * 255) * parts + b"\0" + whole[place:]


def _transparent() -> Iterator[tuple[str, bytes]]:
    few = picture().quantize(16)
    grey, black = picture().convert("L"), picture().convert("1")
    place = np.asarray(picture())[20, 20]
    rows = np.asarray(fading())[::-1][..., [2, 1, 0, 3]]
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "png, rgba", encoded(fading(), "PNG")
    yield "png, grey with alpha", encoded(fading("LA"), "PNG")
    yield "png, transparent all over", encoded(Image.new("RGBA", SIZE, (200, 30, 60, 0)), "PNG")
    yield "png, palette with one transparent", encoded(few, "PNG", transparency=3)
    yield "png, palette with opacities", encoded(few, "PNG", transparency=bytes(range(0, 256, 16)))
    yield "png, palette with fewer opacities", encoded(few, "PNG", transparency=b"\x00\x80\xff")
    yield "png, one transparent grey", encoded(grey, "PNG", transparency=int(np.asarray(grey)[20, 20]))
    yield "png, one transparent colour", encoded(picture(), "PNG", transparency=tuple(int(v) for v in place))
    yield "png, two bits, one transparent grey", grey_png(2, 1)
    yield "png, four bits, one transparent grey", grey_png(4, 6)
    yield from _odd_transparency(few)
    yield "png, one bit with transparency", encoded(black, "PNG", transparency=0)
    yield "webp, lossless rgba", encoded(fading(), "WEBP", lossless=True, exact=True)
    yield "webp, lossy rgba", encoded(fading(), "WEBP", quality=95)
    yield (
        "webp, transparent all over",
        encoded(Image.new("RGBA", SIZE, (200, 30, 60, 0)), "WEBP", lossless=True, exact=True),
    )
    for kind in ("avif", "premultiplied avif"):
        options = {"quality": 95, "subsampling": "4:4:4", "alpha_premultiplied": kind != "avif"}
        yield f"{kind}, rgba", encoded(fading(), "AVIF", **options)
    yield "avif, grey with alpha", encoded(fading("LA"), "AVIF", quality=95)
    yield "gif, one transparent", encoded(few, "GIF", transparency=3)
    yield "gif, frame inside its screen", gif(SIZE, (10, 10, 20, 20))
    yield "gif, transparent frame", gif(SIZE, (10, 10, 20, 20), transparent=1)
    yield "gif, frame beyond its screen", gif(SIZE, (50, 30, 30, 30))
    yield "gif, frame larger than its screen", gif((20, 20), (0, 0, *SIZE))
    yield "gif, screen of nothing", gif((0, 0), (0, 0, *SIZE))
    for head in (56, 108, 124):
        yield f"bmp, rgba with a head of {head}", bmp(32, 3, rows.tobytes(), head=head, masks=masks)
    clear = rows.copy()
    clear[..., 3] = 0
    yield "bmp, transparent all over", bmp(32, 3, clear.tobytes(), head=108, masks=masks)
    yield "bmp, 32 bits without opacity", bmp(32, 0, rows.tobytes())


def _odd_transparency(few: Image.Image) -> Iterator[tuple[str, bytes]]:
    key, opacities = chunk(b"tRNS", b"\0\xd6\0\xb9\0\x1a"), chunk(b"tRNS", b"\0\x40")
    paletted = encoded(few, "PNG")
    palette, pixels = paletted.index(b"PLTE") - 4, paletted.index(b"IDAT") - 4
    yield "png, transparency behind the pixels", png_with(key, at_end=True)
    yield "png, palette with opacities behind the pixels", png_with(opacities, whole=paletted, at_end=True)
    yield "png, opacities before their palette", paletted[:palette] + opacities + paletted[palette:]
    twice = opacities + chunk(b"tRNS", b"\xff\xff")
    yield "png, palette with opacities twice", paletted[:pixels] + twice + paletted[pixels:]


def _coloured() -> Iterator[tuple[str, bytes]]:
    values = np.random.default_rng(0).integers(0, 65536, (SIZE[1], SIZE[0], 4))
    values[..., :2] = np.linspace(0, 65535, SIZE[0]).astype(int)[None, :, None]
    for name, colour, channels in (("grey", 0, 1), ("rgb", 2, 3), ("grey with alpha", 4, 2), ("rgba", 6, 4)):
        yield f"png, 16 bits, {name}", deep_png(values[..., :channels], colour)
    yield (
        "png, 16 bits, one transparent grey",
        deep_png(values[..., :1], 0, chunk(b"tRNS", struct.pack(">H", values[0, 9, 0]))),
    )
    key = struct.pack(">HHH", *values[3, 3, :3])
    yield "png, 16 bits, one transparent colour", deep_png(values[..., :3], 2, chunk(b"tRNS", key))
    yield "png, palette", encoded(picture().quantize(16), "PNG")
    yield "png, one bit", encoded(picture().convert("1"), "PNG")
    yield "png, interlaced", encoded(picture(), "PNG", interlace=True)
    yield "jpeg, grey", encoded(picture().convert("L"), "JPEG", quality=95)
    yield "jpeg, half the colours", encoded(picture(), "JPEG", quality=95, subsampling=2)
    yield "jpeg, rgb", encoded(picture(), "JPEG", quality=95, keep_rgb=True)
    cmyk = fine(picture().convert("CMYK"))
    adobe = cmyk.index(b"Adobe") - 4
    yield "jpeg, cmyk", cmyk
    yield "jpeg, cmyk without adobe", cmyk[:adobe] + cmyk[adobe + 16 :]
    yield "jpeg, ycck", cmyk[: adobe + 15] + b"\2" + cmyk[adobe + 16 :]
    for name, make in PROFILES.items():
        yield f"png, {name} profile", encoded(picture(), "PNG", icc_profile=make())
        yield f"jpeg, {name} profile", fine(picture(), icc_profile=make())
    yield "webp, swapped profile", encoded(picture(), "WEBP", lossless=True, icc_profile=PROFILES["swapped"]())
    yield (
        "avif, swapped profile",
        encoded(picture(), "AVIF", quality=95, subsampling="4:4:4", icc_profile=PROFILES["swapped"]()),
    )
    yield "png, grey with a linear profile", encoded(picture().convert("L"), "PNG", icc_profile=PROFILES["linear"]())
    yield "avif, grey", encoded(picture().convert("L"), "AVIF", quality=95)
    yield "avif, half the colours", encoded(picture(), "AVIF", quality=95)
    few = (np.asarray(picture())[::-1] >> 3).astype(np.uint16)
    packed = (few[..., 0] << 10 | few[..., 1] << 5 | few[..., 2]).astype("<u2").tobytes()
    yield "bmp, 16 bits", bmp(16, 0, packed)
    yield "bmp, palette", encoded(picture().quantize(16), "BMP")
    yield "bmp, one bit", encoded(picture().convert("1"), "BMP")
    rows = np.asarray(fading())[..., [2, 1, 0, 3]]
    yield "bmp, downwards", bmp(32, 0, rows.tobytes(), up=False)
    yield "tiff", encoded(picture(), "TIFF")


def _animated() -> Iterator[tuple[str, bytes]]:
    films: dict[str, dict[str, Any]] = {"png": {}, "gif": {}, "webp": {"lossless": True}, "avif": {"quality": 95}}
    for kind, options in films.items():
        yield (
            f"{kind}, animated",
            encoded(picture(), kind, save_all=True, append_images=[_BLACK], duration=50, **options),
        )
    yield "png, animated and turned", png_with(chunk(b"eXIf", turning(6)), whole=_film(picture()))
    hidden = encoded(_BLACK, "PNG", save_all=True, default_image=True, append_images=[picture(), _BLACK], duration=50)
    yield "png, animated, another picture for others", hidden
    yield (
        "webp, animated rgba",
        encoded(fading(), "WEBP", save_all=True, append_images=[fading()], duration=50, lossless=True, exact=True),
    )
    yield (
        "jpeg, two pictures",
        encoded(picture(), "MPO", save_all=True, append_images=[_BLACK], quality=95, subsampling=0),
    )


def _film(first: Image.Image) -> bytes:
    return encoded(first, "PNG", save_all=True, append_images=[_BLACK], duration=50)
