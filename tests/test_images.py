"""A task's picture: decoded upright whatever its format, and never larger than the limits allow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from plugin_config.settings import Settings
from tests.picture_files import Entry, chunk, encoded, short, tiff
from worker.label_studio import images
from worker.label_studio.images import ImageLimits, decode_image, decode_picture, read_image

LIMITS = ImageLimits(most_bytes=2_000_000, most_pixels=500_000, timeout_s=5.0, allow_private=False)
SIZE = (40, 24)  # (W, H)

# Top left, top right, bottom left, bottom right of the upright picture.
CORNERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def upright() -> Image.Image:
    image = Image.new("RGB", SIZE)
    half = (SIZE[0] // 2, SIZE[1] // 2)
    for index, colour in enumerate(CORNERS):
        left, top = (index % 2) * half[0], (index // 2) * half[1]
        image.paste(colour, (left, top, left + half[0], top + half[1]))
    return image


def decoded(content: bytes, limits: ImageLimits = LIMITS) -> NDArray[np.uint8]:
    return decode_image(content, subject="image of task 7", limits=limits)


def corners(pixels: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    height, width = pixels.shape[:2]
    places = [(height // 4, width // 4), (height // 4, -width // 4), (-height // 4, width // 4),
              (-height // 4, -width // 4)]  # fmt: skip
    return [tuple(int(value) for value in pixels[place]) for place in places]


# What a camera stores when it was held so that `orientation` undoes it.
STORED: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    method = STORED[orientation]
    stored = upright() if method is None else upright().transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    pixels = decoded(encoded(stored, kind, exif=exif, **options))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(np.array(corners(pixels)) - np.array(CORNERS)).max() <= 8


def test_damaged_metadata_does_not_cost_the_picture() -> None:
    """A tag that cannot be written again (orientation 6 beside it) is no reason to refuse what browsers show."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x9003, 12, 5, 4000)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
    pixels = decoded(encoded(upright().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif))
    assert pixels.shape == (SIZE[1], SIZE[0], 3)


def animation(kind: str) -> bytes:
    return encoded(upright(), kind, save_all=True, append_images=[Image.new("RGB", SIZE)], duration=50,
                   **({"lossless": True} if kind == "WEBP" else {}))  # fmt: skip


COLOURED: dict[str, Callable[[], bytes]] = {
    "palette": lambda: encoded(upright().quantize(8), "PNG"),
    "rgba": lambda: encoded(upright().convert("RGBA"), "PNG"),
    "cmyk": lambda: encoded(upright().convert("CMYK"), "TIFF"),
    "animated gif": lambda: animation("GIF"),
    "animated webp": lambda: animation("WEBP"),
    "bmp": lambda: encoded(upright(), "BMP"),
}


@pytest.mark.parametrize("make", COLOURED.values(), ids=COLOURED)
def test_every_kind_of_colour_becomes_rgb(make: Callable[[], bytes]) -> None:
    pixels = decoded(make())
    assert pixels.shape == (SIZE[1], SIZE[0], 3)
    assert pixels.dtype == np.uint8
    assert np.abs(np.array(corners(pixels)) - np.array(CORNERS)).max() <= 2


RAMP = np.linspace(0, 1, 16)
GREY: dict[str, Callable[[], bytes]] = {
    "8 bit": lambda: encoded(Image.fromarray(np.tile((RAMP * 255).round().astype(np.uint8), (4, 1))), "PNG"),
    "grey with alpha": lambda: encoded(
        Image.fromarray(np.tile((RAMP * 255).round().astype(np.uint8), (4, 1))).convert("LA"), "PNG"
    ),
    "16 bit png": lambda: encoded(Image.fromarray(np.tile((RAMP * 65535).round().astype(np.uint16), (4, 1))), "PNG"),
    "16 bit tiff": lambda: encoded(Image.fromarray(np.tile((RAMP * 65535).round().astype(np.uint16), (4, 1))), "TIFF"),
    "32 bit tiff": lambda: encoded(Image.fromarray(np.tile((RAMP * 9e6).astype(np.int32), (4, 1))), "TIFF"),
    "float tiff": lambda: encoded(Image.fromarray(np.tile((RAMP * 3 - 1).astype(np.float32), (4, 1))), "TIFF"),
}


@pytest.mark.parametrize("make", GREY.values(), ids=GREY)
def test_grey_keeps_its_steps(make: Callable[[], bytes]) -> None:
    """Not clipped to white: a ramp stays a ramp, from black to white."""
    pixels = decoded(make())
    assert pixels.shape == (4, 16, 3)
    assert np.abs(pixels[0, :, 0].astype(int) - (RAMP * 255)).max() <= 1
    assert (pixels == pixels[..., :1]).all()


def values(kind: str, low: float, high: float, channels: int = 1) -> NDArray[Any]:
    """A ramp from left to right in the first channel; the others are in the middle."""
    whole = np.full((4, 16, channels), (low + high) / 2)
    whole[..., 0] = low + RAMP * (high - low)
    return (whole[..., 0] if channels == 1 else whole).astype(kind)


DEEP = [("u2", 100, 4095), ("i2", -1500, 1500), ("u4", 1e9, 4e9), ("i4", -1e6, 3e6), ("f4", -0.25, 0.75), ("f8", 0, 9)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "low", "high"), DEEP, ids=[kind for kind, _, _ in DEEP])
def test_deep_tiffs_are_stretched_by_the_range_they_use(
    kind: str, low: float, high: float, channels: int, order: Literal["<", ">"]
) -> None:
    pixels = decoded(tiff(values(kind, low, high, channels), order))
    assert pixels.shape == (4, 16, 3)
    assert np.abs(pixels[0, :, 0].astype(int) - RAMP * 255).max() <= 1
    if channels == 3:
        assert np.abs(pixels[..., 1:].astype(int) - 127).max() <= 1


def test_one_hot_pixel_does_not_make_a_deep_tiff_black() -> None:
    pixels = np.tile(values("u2", 0, 1000), (20, 4))
    pixels[0, 0] = 65_535
    found = decoded(tiff(pixels))
    assert np.abs(found[5, :16, 0].astype(int) - RAMP * 255).max() <= 1


def test_deep_tiffs_whose_lowest_value_is_white_are_turned_over() -> None:
    found = decoded(tiff(values("u2", 0, 1000), white_is_zero=True))
    assert np.abs(found[0, :, 0].astype(int) - RAMP[::-1] * 255).max() <= 1


def test_a_fourth_channel_is_opacity_where_the_tiff_says_so() -> None:
    pixels = values("u2", 0, 1000, 4)
    pixels[..., 3] = 0
    found = decoded(tiff(pixels))
    assert (found == 255).all()
    infrared = tiff(pixels).replace(struct.pack("<HHIHH", 338, 3, 1, 2, 0), struct.pack("<HHIHH", 338, 3, 1, 0, 0))
    assert np.abs(decoded(infrared)[0, :, 0].astype(int) - RAMP * 255).max() <= 1


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize(
    ("field", "turned"),
    [((274, 3, 1, short(6)), True), ((274, 4, 1, struct.pack("<I", 6)), False), ((274, 3, 2, short(6)), False),
     ((34665, 4, 1, struct.pack("<I", 99_999)), False), ((270, 2, 99_999, struct.pack("<I", 3)), False)],
    ids=["orientation", "of type LONG", "of two values", "broken exif", "broken text"],
)  # fmt: skip
def test_tiffs_are_turned_by_their_own_field_alone(field: Entry, turned: bool, kind: str) -> None:
    found = decoded(tiff(values(kind, 0, 255, 3), extra=[field]))
    assert found.shape == ((16, 4, 3) if turned else (4, 16, 3))


def test_the_orientation_of_xmp_does_not_turn_a_tiff() -> None:
    xmp = b"<x:xmpmeta xmlns:tiff='t'><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
    assert decoded(encoded(upright(), "TIFF", tiffinfo={700: xmp})).shape == (SIZE[1], SIZE[0], 3)


HALF = {
    "png": lambda image: encoded(image, "PNG"),
    "webp": lambda image: encoded(image, "WEBP", lossless=True, exact=True),
    "animated webp": lambda image: encoded(
        image, "WEBP", lossless=True, exact=True, save_all=True, append_images=[image.rotate(180)]
    ),
    "palette png": lambda image: encoded(image.quantize(256), "PNG"),
    "tiff": lambda image: encoded(image, "TIFF"),
    "avif": lambda image: encoded(image, "AVIF", quality=95, subsampling="4:4:4"),
}


@pytest.mark.parametrize("make", HALF.values(), ids=HALF)
def test_large_pictures_are_reduced_on_white(
    make: Callable[[Image.Image], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WORKING_PIXELS", 20_000)
    image = upright().resize((400, 240), Image.Resampling.NEAREST).convert("RGBA")
    image.paste((10, 20, 30, 0), (0, 0, 200, 240))
    picture = decode_picture(make(image), subject="t", limits=LIMITS)
    assert picture.size == (240, 400)
    assert picture.pixels.size < 3 * 20_001
    found = np.array(corners(picture.pixels))
    white = (255, 255, 255)
    assert np.abs(found - np.array([white, CORNERS[1], white, CORNERS[3]])).max() <= 12


def test_constant_float_pictures_are_read() -> None:
    assert decoded(encoded(Image.fromarray(np.full((4, 5), np.nan, np.float32)), "TIFF")).shape == (4, 5, 3)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is huge, and has no pixels: reading any would fail in another way."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(1000, 501), (4000, 4000), (100_000, 100_000)], ids=str)
def test_too_many_pixels_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageUnavailable, match=r"task 7: is too large.*ZEROMASK_IMAGE_MAX_MEGAPIXELS"):
        decoded(huge_png(*size))


def test_the_limit_of_pixels_is_the_setting_and_not_pillows_own() -> None:
    limits = ImageLimits.from_settings(Settings(image_max_megapixels=400.0))
    with pytest.raises(ImageUnavailable, match="not a readable image"):  # it got as far as the missing pixels
        decoded(huge_png(19_000, 19_000), limits)


@pytest.mark.parametrize("size", [(1, 300_000), (40_000, 10), (101, 1)], ids=str)
def test_long_sides_are_refused_before_decoding(size: tuple[int, int]) -> None:
    """What is 1 pixel wide and a hundred million long ends the worker in OpenCV."""
    with pytest.raises(ImageUnavailable, match=r"task 7: is too long: \d+ x \d+ pixels.*Cut it into parts"):
        decoded(huge_png(*size))


def tiff_of(offsets: int) -> bytes:
    """A TIFF that says its rows lie in so many places."""
    tags = [(256, 3, 1, 9), (257, 3, 1, 9), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, offsets, 200)]
    rows = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4 * offsets)


def scans(count: int) -> bytes:
    whole = encoded(upright(), "JPEG", progressive=True)
    last = whole.rfind(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


PLAIN = encoded(upright(), "PNG")
GIF = encoded(upright(), "GIF")
PALETTE = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
COMMENT = b"#" + b"x" * 98 + b"\n"
LABORIOUS: dict[str, bytes] = {
    "comment of a ppm": b"P6\n" + COMMENT * 20_000 + b"8 8\n255\n" + bytes(192),
    "chunks of a png": PLAIN[:33] + chunk(b"abCd") * 20_000 + PLAIN[33:],
    "data in chunks of a png": PLAIN[:33] + chunk(b"IDAT") * 150_000 + PLAIN[33:],
    "texts of a gif": GIF[:PALETTE] + b"\x21\xfe" + b"\x01x" * 450_000 + b"\0" + GIF[PALETTE:],
    "data of a png": PLAIN[:33] + chunk(b"IDAT") * 300_000 + PLAIN[33:],
    "markers of a jpeg": b"\xff\xd8" + b"\xff\xe9\x00\x02" * 20_000 + encoded(upright(), "JPEG")[2:],
    "scans of a jpeg": scans(200),
    "strips of a tiff": tiff_of(300_000),
}


@pytest.mark.parametrize("content", LABORIOUS.values(), ids=LABORIOUS)
def test_files_of_countless_parts_are_refused(content: bytes) -> None:
    """Each would keep one of Pillow's loops in Python at work for a minute at the size a file may have."""
    with pytest.raises(ImageUnavailable, match=r"no image format|tiny parts|scans|numbers"):
        decoded(content, replace(LIMITS, most_bytes=64_000_000))


def test_what_a_phone_puts_behind_a_picture_is_no_part_of_it() -> None:
    """A film of some seconds holds by chance what would begin a hundred scans, and a second picture holds its own."""
    film, second = b"\x00\x00\x00\x18ftypmp42" + b"x\xff\xda" * 1000, scans(99)
    for whole in (encoded(upright(), "JPEG"), scans(50)):
        expected = decoded(whole)
        for behind in (film, second):
            np.testing.assert_array_equal(decoded(whole + behind), expected)


LARGE: dict[str, Callable[[Image.Image], bytes]] = {
    "png": lambda image: encoded(image, "PNG"),
    "rgba png": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "palette gif": lambda image: encoded(image.quantize(8), "GIF"),
    "jpeg": lambda image: encoded(image, "JPEG", quality=95),
    "webp": lambda image: encoded(image, "WEBP", lossless=True),
    "cmyk tiff": lambda image: encoded(image.convert("CMYK"), "TIFF"),
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE)
def test_large_pictures_are_reduced_and_keep_their_size(
    make: Callable[[Image.Image], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WORKING_PIXELS", 120_000)
    asked: list[int] = []

    @contextmanager
    def admit(pixels: int) -> Iterator[None]:
        asked.append(pixels)
        yield

    whole = make(upright().resize((800, 480), Image.Resampling.NEAREST))
    picture = decode_picture(whole, subject="image of task 7", limits=LIMITS, admit=admit)
    assert asked == [800 * 480]
    assert picture.size == (480, 800)
    height, width = picture.pixels.shape[:2]
    assert 110_000 < height * width <= 120_000
    assert width / height == pytest.approx(800 / 480, abs=0.02)
    assert np.abs(np.array(corners(picture.pixels)) - np.array(CORNERS)).max() <= 8


def test_a_large_picture_on_its_side_is_turned_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "WORKING_PIXELS", 20_000)
    stored = upright().resize((400, 240), Image.Resampling.NEAREST).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode_picture(encoded(stored, "JPEG", exif=exif, quality=95), subject="t", limits=LIMITS)
    assert picture.size == (240, 400)
    assert picture.pixels.shape[1] > picture.pixels.shape[0]
    assert np.abs(np.array(corners(picture.pixels)) - np.array(CORNERS)).max() <= 8


def test_ordinary_pictures_are_left_as_they_are() -> None:
    for make in COLOURED.values():
        content = make()
        picture = decode_picture(content, subject="t", limits=LIMITS)
        assert picture.size == picture.pixels.shape[:2]
        assert np.array_equal(picture.pixels, decoded(content))


DAMAGED = {
    "text": b"<html>log in</html>",
    "truncated png": PLAIN[:-40],
    "truncated jpeg": encoded(upright(), "JPEG")[:300],
    "half a header": PLAIN[:20],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "avif without picture": encoded(upright(), "AVIF").replace(b"av01", b"av00"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_picture_is_refused_with_a_remedy(content: bytes) -> None:
    with pytest.raises(ImageUnavailable, match="PNG or JPEG") as caught:
        decoded(content)
    assert caught.value.subject == "image of task 7"
    assert "BytesIO" not in str(caught.value)


def test_an_empty_file_is_told_as_what_it_is() -> None:
    """Another format would not help."""
    with pytest.raises(ImageUnavailable, match=r"is an empty file\. Upload it again"):
        decoded(b"")


def test_no_damage_gets_past_the_errors_named() -> None:
    rng = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"):
        whole = encoded(upright(), kind)
        for _ in range(40):
            broken = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 300), size=4):
                broken[place] = rng.integers(0, 256)
            try:
                assert decoded(bytes(broken)).ndim == 3
            except ImageUnavailable:
                continue


def test_files_are_read_within_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(PLAIN)
    assert read_image(path, LIMITS).shape == (SIZE[1], SIZE[0], 3)
    with pytest.raises(ImageUnavailable, match="too large"):
        read_image(path, replace(LIMITS, most_bytes=100))
    with pytest.raises(ImageUnavailable, match="Check the path"):
        read_image(tmp_path / "missing.png", LIMITS)
    with pytest.raises(ImageUnavailable, match="Check the path"):
        read_image(tmp_path, LIMITS)
