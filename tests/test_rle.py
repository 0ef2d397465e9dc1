"""The brush codec against the SDK's, in both directions, and against streams that are broken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from worker.label_studio.brush_rle import MAX_PIXELS, decode_rle, encode_rle

Mask = NDArray[np.bool_]


def _random(seed: int, height: int, width: int, share: float) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < share


def _disc(size: int) -> Mask:
    y, x = np.mgrid[:size, :size]
    return np.asarray((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2)


MASKS = {
    "empty": np.zeros((5, 7), dtype=np.bool_),
    "full": np.ones((5, 7), dtype=np.bool_),
    "one pixel image": np.ones((1, 1), dtype=np.bool_),
    "row": _random(1, 1, 37, 0.5),
    "column": _random(2, 37, 1, 0.5),
    "odd size, noisy": _random(3, 31, 17, 0.5),
    "sparse": _random(4, 64, 65, 0.02),
    "disc": _disc(90),
    "run of 65,536 values": np.ones((128, 128), dtype=np.bool_),
    "run just over 65,536 values": np.ones((1, 16385), dtype=np.bool_),
    "run of several splits": np.pad(np.ones((301, 307), dtype=np.bool_), 1),
    "noisy over several chunks": _random(5, 600, 600, 0.5),
    "strided view": _random(6, 40, 40, 0.5)[::2, ::-3],
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@masks
def test_encoding_is_byte_for_byte_the_sdks(mask: Mask) -> None:
    assert encode_rle(mask) == brush.mask2rle(mask.astype(np.uint8) * 255)


@masks
def test_the_sdk_decodes_what_we_encode(mask: Mask) -> None:
    channels = brush.decode_rle(encode_rle(mask)).reshape(*mask.shape, 4)
    assert (channels == np.where(mask, 255, 0)[:, :, None]).all()


@masks
def test_decoding_gives_the_mask_back(mask: Mask) -> None:
    rle = encode_rle(mask)
    height, width = mask.shape
    assert (decode_rle(rle, height=height, width=width) == mask).all()
    assert (decode_rle(bytes(rle), height=height, width=width) == mask).all()


def _bits(value: int, size: int) -> str:
    return f"{value:0{size}b}"


def _editor_stream(values: Sequence[int], sizes: Sequence[int]) -> bytes:
    """What the editor writes: repeats as runs, everything between them as literals."""
    bits = _bits(len(values), 32) + _bits(7, 5) + "".join(_bits(size - 1, 4) for size in sizes)
    longest = 1 << sizes[3]

    def code(flag: str, length: int, payload: Sequence[int]) -> str:
        index = next(index for index, size in enumerate(sizes) if length <= 1 << size)
        return flag + _bits(index, 2) + _bits(length - 1, sizes[index]) + "".join(_bits(v, 8) for v in payload)

    literals: list[int] = []
    at = 0
    while at < len(values):
        stop = at + 1
        while stop < len(values) and stop - at < longest and values[stop] == values[at]:
            stop += 1
        if stop - at == 1:
            literals.append(values[at])
        if literals and (stop - at > 1 or stop == len(values) or len(literals) == longest):
            bits += code("0", len(literals), literals)
            literals = []
        if stop - at > 1:
            bits += code("1", stop - at, values[at : at + 1])
        at = stop
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def _colours(seed: int, pixels: int, runs: float) -> list[int]:
    """RGBA bytes of a painted canvas: any colours, faint edges, unequal channels."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (pixels, 4)) * (rng.random((pixels, 1)) < 0.5)
    source = np.maximum.accumulate(np.where(rng.random(pixels) < runs, 0, np.arange(pixels)))
    return [int(value) for value in colours[source].ravel()]


@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (1, 2, 3, 4), (2, 5, 9, 13), (16, 16, 16, 16), (6, 7, 8, 9)], ids=str)
@pytest.mark.parametrize("runs", [0.0, 0.5, 0.95], ids=["literals", "mixed", "runs"])
def test_streams_of_the_editor_decode_as_in_the_sdk(sizes: tuple[int, ...], runs: float) -> None:
    height, width = 23, 29
    stream = _editor_stream(_colours(7, height * width, runs), sizes)
    alpha = brush.decode_rle(stream).reshape(height, width, 4)[:, :, 3]
    assert alpha.any()
    assert (decode_rle(stream, height=height, width=width) == (alpha > 0)).all()


def test_literals_longer_than_a_chunk_decode() -> None:
    height, width = 500, 400
    values = _colours(8, height * width, 0.0)
    stream = _editor_stream(values, (3, 4, 8, 16))
    expected = np.array(values).reshape(height, width, 4)[:, :, 3] > 0
    assert (decode_rle(stream, height=height, width=width) == expected).all()


def test_values_of_the_sdks_encoder_that_are_not_grey_decode() -> None:
    values = np.array(_colours(9, 35, 0.3))
    expected = values.reshape(5, 7, 4)[:, :, 3] > 0
    assert (decode_rle(brush.encode_rle(values), height=5, width=7) == expected).all()


def test_the_faintest_alpha_counts() -> None:
    values = [9, 9, 9, 0, 0, 0, 0, 1]
    assert decode_rle(_editor_stream(values, (3, 4, 8, 16)), height=1, width=2).tolist() == [[False, True]]


GOOD = encode_rle(MASKS["odd size, noisy"])
BROKEN: dict[str, tuple[object, str]] = {
    "empty": ([], "too few"),
    "header cut": (GOOD[:6], "too few"),
    "header only": (GOOD[:7], "breaks off"),
    "cut in the middle": (GOOD[: len(GOOD) // 2], "breaks off"),
    "last bytes cut": (GOOD[:-2], "breaks off"),
    "other count": ([255, *GOOD[1:]], "values"),
    "16-bit words": ([*GOOD[:4], 0b01111000 | GOOD[4] & 7, *GOOD[5:]], "16 bits"),
    "byte above 255": ([*GOOD, 256], "0..255"),
    "negative byte": ([*GOOD, -1], "0..255"),
    "fractions": ([0.5] * 20, "0..255"),
    "text": ("AAAA", "got str"),
    "nothing": (None, "got NoneType"),
    "a number": (12, "got int"),
    "an object": ({"0": 1}, "got dict"),
    "last run overruns": (_editor_stream([255] * 17 * 31 * 4 + [0] * 8, (3, 4, 8, 16)), "values"),
}


@pytest.mark.parametrize(("stream", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_stream_is_refused(stream: list[int], problem: str) -> None:
    with pytest.raises(RegionError, match=problem) as caught:
        decode_rle(stream, height=31, width=17)
    assert caught.value.subject == "brush RLE"
    assert caught.value.remedy


def test_a_run_beyond_the_promised_count_is_refused() -> None:
    long = _editor_stream([255] * 64, (3, 4, 8, 16))
    lying = (32).to_bytes(4, "big") + long[4:]
    with pytest.raises(RegionError, match="overruns"):
        decode_rle(lying, height=2, width=4)


def test_any_flipped_byte_gives_a_mask_or_a_region_error() -> None:
    rng = np.random.default_rng(10)
    for _ in range(300):
        stream = np.array(GOOD)
        stream[rng.integers(7, len(GOOD), 3)] = rng.integers(0, 256, 3)
        try:
            assert decode_rle(stream.tolist(), height=31, width=17).shape == (31, 17)
        except RegionError as error:
            assert "brush RLE" in str(error)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, -1), (MAX_PIXELS, 2)], ids=["none", "negative", "absurd"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(height: int, width: int) -> None:
    with pytest.raises(RegionError, match="pixels"):
        decode_rle(GOOD, height=height, width=width)


@pytest.mark.parametrize(
    "mask",
    [np.zeros((3, 3), dtype=np.uint8), np.zeros((3, 3, 1), dtype=np.bool_), np.zeros((0, 3), dtype=np.bool_)],
    ids=["not bool", "three dimensions", "no pixels"],
)
def test_only_a_bool_mask_is_encoded(mask: Mask) -> None:
    with pytest.raises(RegionError, match="mask"):
        encode_rle(mask)


@pytest.mark.parametrize("seed", range(20))
def test_a_mask_of_a_reduced_copy_is_enlarged_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 12, size=2))
    tall, wide = height + int(rng.integers(0, 20)), width + int(rng.integers(0, 20))
    mask = rng.random((height, width)) < (seed % 5) / 4
    rows = ((np.arange(tall) + 0.5) * height / tall).astype(int)
    columns = ((np.arange(wide) + 0.5) * width / wide).astype(int)
    found = decode_rle(encode_rle(mask, size=(tall, wide)), height=tall, width=wide)
    assert np.array_equal(found, mask[rows[:, None], columns])
