"""Label Studio's brush codec: masks to and from the rle-pack bit stream over flattened RGBA.

Own code because label_studio_sdk's codec loops over single bits and values in Python: this one encodes a smooth mask of
a megapixel 8.8 times as fast and a noisy one of 12 megapixels 29 times, and decodes them 31 and 73 times as fast, byte
for byte the same (2026-11-26, docs/research/speed.md; `zeromask bench --only regions` measures it again).

The stream, most significant bit first: 32-bit count of values, 5-bit word size - 1, four 4-bit length sizes - 1, codes.
A code is 1 flag bit, 2 bits naming a length size, the length - 1 in that many bits, and then one value to repeat
(flag 1) or `length` values as they are (flag 0).

Source of the format: https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError

MAX_PIXELS = 1 << 28
"""Largest mask handled, in pixels. The format's own limit is four times that; 268 megapixels is 268 MB as bool."""

_CHANNELS = 4
_HEADER_BITS = 32 + 5 + 4 * 4
_VALUE_BITS = 8
_SIZES = (3, 4, 8, 16)  # what the editor and the SDK write
_LONGEST = 1 << _SIZES[-1]
_CHUNK = 1 << 17  # bytes of stream decoded at a time: keeps the work arrays to some ten megabytes


class _Codes(NamedTuple):
    """N codes in the order of the stream."""

    repeats: NDArray[np.bool_]  # (N,) True: one value repeated, False: literal values
    starts: NDArray[np.int64]  # (N,) values decoded before the code
    stops: NDArray[np.int64]  # (N,) values decoded after it
    offsets: NDArray[np.int64]  # (N,) bit offset of its first value
    end: int  # bit offset after the last code


def encode_rle(mask: NDArray[np.bool_], *, size: tuple[int, int] | None = None) -> list[int]:
    """Encode a mask as the editor's brush stream, byte for byte what `label_studio_sdk` writes for 255 * mask.

    Args:
        mask: (H, W) bool, in pixels of the image after EXIF rotation, or of a reduced copy of it.
        size: (H, W) of the image, no smaller than the mask: each pixel takes what lies at its centre. The work and the
            memory are those of the outline, no mask of that size is made. None = that of the mask.

    Returns:
        Bytes 0..255. All four channels are 255 inside the mask: the editor draws by alpha, and alpha 1 is invisible.

    Raises:
        RegionError: the mask is not a two-dimensional bool array of 1 to MAX_PIXELS pixels.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        problem = f"a mask must be (H, W) bool, got shape {mask.shape} of {mask.dtype}"
        raise RegionError("brush RLE", problem, "Threshold it into one bool array per region.")
    height, width = size or mask.shape
    _check_size(height, width)
    if (height, width) == mask.shape:
        pixels = mask.ravel()
        turns = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        begins_inside = bool(pixels[0])
    else:
        turns = _enlarged_turns(mask, height, width)
        begins_inside = turns.size > 0 and turns[0] == 0
        turns = turns[1:] if begins_inside else turns
    starts = np.concatenate(([0], turns))
    lengths = np.diff(starts, append=height * width) * _CHANNELS
    codes, bits = _run_codes(lengths, (np.arange(starts.size) % 2 == 0) == begins_inside)
    return list(_pack_bits(_header_word(height * width * _CHANNELS), codes, bits))


def _enlarged_turns(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.int64]:
    """Where the pixels of an enlarged mask, in reading order, turn from outside to inside or back; the first is outside
    until then.
    """
    rows, columns = np.nonzero(np.diff(mask, axis=1, prepend=False, append=False))
    columns = np.ceil(columns * (width / mask.shape[1]) - 0.5).astype(np.int64)
    counts = np.bincount(rows, minlength=mask.shape[0])
    source = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)  # the mask's row of each row
    each = counts[source]
    nth = np.arange(int(each.sum())) - np.repeat(np.cumsum(each) - each, each)
    turns: NDArray[np.int64] = columns[np.repeat((np.cumsum(counts) - counts)[source], each) + nth] + np.repeat(
        np.arange(height) * width, each
    )
    # Leaving the mask at the end of a row and entering it at the start of the next is no turn.
    once = np.append(turns[1:] != turns[:-1], True) & np.append(True, turns[1:] != turns[:-1])
    return turns[once & (turns < height * width)] if turns.size else turns


def decode_rle(rle: Sequence[int] | bytes, *, height: int, width: int) -> NDArray[np.bool_]:
    """Decode a brush stream of the editor or the SDK into a mask.

    A pixel belongs to the mask when its alpha is not 0: the editor paints every such pixel in the label's colour, and
    the SDK's export counts it too. A threshold at 128 would lose faint edges that the annotator saw as painted.

    Args:
        rle: list of ints 0..255, or the same as bytes. Any length sizes; words of 8 bits.
        height: of the image after EXIF rotation, in pixels.
        width: of the image after EXIF rotation, in pixels.

    Returns:
        (H, W) bool.

    Raises:
        RegionError: the stream is malformed, ends early, or is of another image size.
    """
    _check_size(height, width)
    data = _stream_bytes(rle)
    count = height * width * _CHANNELS
    sizes = _read_header(data, count)
    windows = _windows(data)
    alpha = np.zeros(height * width, dtype=np.bool_)
    done = 0  # values decoded so far
    for heads in _code_heads(windows, sizes):
        codes = _read_codes(windows, heads, sizes, done, count)
        if codes.end > 8 * len(data) or codes.stops[-1] > count:
            break
        _paint(alpha, windows, codes)
        done = int(codes.stops[-1])
        if done == count:
            return alpha.reshape(height, width)
    problem = f"the stream breaks off or overruns after {done} of {count} values"
    raise RegionError("brush RLE", problem, "Store the region again in Label Studio; the stream was cut or altered.")


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        problem = f"the mask must have 1 to {MAX_PIXELS} pixels, got {height} x {width}"
        raise RegionError("brush RLE", problem, "Check the image size; scale larger images down.")


def _header_word(count: int) -> int:
    word = count << 5 | _VALUE_BITS - 1
    for size in _SIZES:
        word = word << 4 | size - 1
    return word


def _run_codes(lengths: NDArray[np.int64], inside: NDArray[np.bool_]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Codes and their sizes in bits for runs of `lengths` values, each 255 where `inside`, else 0."""
    splits = (lengths - 1) // _LONGEST
    if splits.any():
        last = np.cumsum(splits + 1) - 1
        long = np.repeat(splits > 0, splits + 1)
        inside = np.repeat(inside, splits + 1)
        parts = np.full(inside.size, _LONGEST, dtype=np.int64)
        parts[last] = lengths - splits * _LONGEST
        lengths = parts
    else:
        long = np.zeros(1, dtype=np.bool_)
    index = np.zeros(lengths.size, dtype=np.uint8)
    for size in _SIZES[:-1]:
        index += lengths > 1 << size
    index[...] = np.where(long, len(_SIZES) - 1, index)  # the SDK keeps the longest form for the rest of a split run
    size_bits = np.array(_SIZES, dtype=np.uint8)[index]
    codes = index.astype(np.uint64) | np.uint64(4)
    codes <<= size_bits
    codes |= (lengths - 1).astype(np.uint64)
    codes <<= np.uint64(_VALUE_BITS)
    codes |= np.where(inside, np.uint64(255), np.uint64(0))
    return codes, size_bits.astype(np.int64) + (3 + _VALUE_BITS)


def _pack_bits(header: int, codes: NDArray[np.uint64], bits: NDArray[np.int64]) -> bytes:
    """Lay the header and the codes end to end, padded with zero bits as the SDK pads."""
    codes = np.concatenate((np.array([header], dtype=np.uint64), codes))
    bits = np.concatenate((np.array([_HEADER_BITS]), bits))
    ends = np.cumsum(bits)
    total = int(ends[-1])
    starts = ends - bits
    word = starts >> 6
    room = 64 - (starts & 63) - bits  # bits free behind the code in its word; negative: it goes on in the next
    placed = (codes << np.maximum(room, 0).astype(np.uint64)) >> np.maximum(-room, 0).astype(np.uint64)
    # No code is longer than a word, so each word but perhaps the last has a code that starts in it.
    first = np.flatnonzero(np.diff(word, prepend=-1))
    words = np.zeros(int(word[-1]) + 2, dtype=np.uint64)
    words[: first.size] = np.bitwise_or.reduceat(placed, first)
    over = np.flatnonzero(room < 0)
    words[word[over] + 1] |= codes[over] << (64 + room[over]).astype(np.uint64)
    return words.astype(">u8").tobytes()[: total // 8 + 1]


def _stream_bytes(rle: Sequence[int] | bytes) -> bytes:
    remedy = "Pass the list of value.rle as Label Studio exports it."
    if not isinstance(rle, bytes | bytearray | list | tuple):
        raise RegionError("brush RLE", f"it must be a list of bytes 0..255, got {type(rle).__name__}", remedy)
    try:
        return bytes(rle)
    except (TypeError, ValueError) as error:
        raise RegionError("brush RLE", f"it must hold only bytes 0..255 ({error})", remedy) from error


def _read_header(data: bytes, count: int) -> tuple[int, ...]:
    """Check that the header has `count` values of 8 bits; return the bits of a length by the code's size index."""
    if 8 * len(data) < _HEADER_BITS:
        raise RegionError("brush RLE", f"{len(data)} bytes are too few for a header", "Store the region again.")
    head = int.from_bytes(data[:7], "big") >> 56 - _HEADER_BITS
    found, word_bits = head >> 21, (head >> 16 & 31) + 1
    if word_bits != _VALUE_BITS:
        raise RegionError("brush RLE", f"its words have {word_bits} bits, not 8", "Encode RGBA bytes, nothing else.")
    if found != count:
        problem = f"it holds {found} values, the image's RGBA pixels need {count}"
        raise RegionError("brush RLE", problem, "Use the size of the image it was drawn on, after EXIF rotation.")
    return tuple((head >> shift & 15) + 1 for shift in (12, 8, 4, 0))


def _windows(data: bytes) -> NDArray[np.uint32]:
    """(len(data) + 4,): at each byte the 24 bits that begin there, zeros behind the end: any field of up to 17 bits."""
    padded = np.frombuffer(data + bytes(6), dtype=np.uint8).astype(np.uint32)
    windows: NDArray[np.uint32] = (padded[:-2] << np.uint32(16)) | (padded[1:-1] << np.uint32(8)) | padded[2:]
    return windows


def _field(windows: NDArray[np.uint32], offsets: NDArray[np.int64], bits: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Read `bits` bits at each bit offset."""
    field: NDArray[np.int64] = windows[offsets >> 3].astype(np.int64)
    field >>= 24 - (offsets & 7) - bits
    field &= (np.int64(1) << bits) - 1
    return field


@functools.lru_cache(maxsize=8)
def _step_table(sizes: tuple[int, ...]) -> NDArray[np.uint64]:
    """(65536,): for the 16 bits at a byte, the bits to the next code from each of its 8 bit offsets, a byte for each.

    0 stands for a literal whose length does not fit into 8 bits.
    """
    steps = np.zeros(256, dtype=np.uint8)
    for byte in range(256):
        size = sizes[byte >> 5 & 3]
        values = 1 if byte & 128 else (byte >> 5 - size & (1 << size) - 1) + 1 if size <= 5 else 32
        bits = 3 + size + _VALUE_BITS * values
        steps[byte] = bits if bits < 256 else 0
    pairs = np.arange(1 << 16)[:, None] >> 8 - np.arange(8)
    table: NDArray[np.uint64] = steps[pairs & 255].view(np.uint64)[:, 0]
    return table


def _code_heads(windows: NDArray[np.uint32], sizes: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Yield the bit offsets of the codes, some thousands at a time, up to the end of the stream.

    Where a code begins is known only after the one before it. So the step from every bit offset is looked up at once,
    and the only work left in order is to hop along them.
    """
    table = _step_table(sizes)
    last = len(windows) - 4
    hop = _HEADER_BITS
    for first in range(0, last, _CHUNK):
        near = windows[first : min(first + _CHUNK, last)]
        steps = table[near >> 8].view(np.uint8).tobytes()
        base, length = 8 * first, len(steps)
        seen = bytearray(length)
        hop -= base
        while hop < length:
            seen[hop] = 1
            step = steps[hop]
            hop += step or _literal_bits(windows, base + hop, sizes)
        hop += base
        heads = np.flatnonzero(np.frombuffer(seen, dtype=np.bool_))
        if heads.size:
            yield heads + base


def _literal_bits(windows: NDArray[np.uint32], head: int, sizes: tuple[int, ...]) -> int:
    """Bits of the literal code at bit offset `head`."""
    index = int(windows[head >> 3]) >> 21 - (head & 7) & 3
    size, field = sizes[index], head + 3
    length = (int(windows[field >> 3]) >> 24 - (field & 7) - size & (1 << size) - 1) + 1
    return 3 + size + _VALUE_BITS * length


def _read_codes(
    windows: NDArray[np.uint32], heads: NDArray[np.int64], sizes: tuple[int, ...], done: int, count: int
) -> _Codes:
    """Read the codes at the bit offsets `heads` after `done` values, up to the one that reaches `count`."""
    kinds = _field(windows, heads, 3)
    size_bits = np.array(sizes, dtype=np.int64)[kinds & 3]
    lengths = _field(windows, heads + 3, size_bits) + 1
    stops = done + np.cumsum(lengths)
    used = int(np.searchsorted(stops, count)) + 1  # behind that code there is only padding
    repeats, lengths, stops = kinds[:used] >= 4, lengths[:used], stops[:used]
    offsets = heads[:used] + 3 + size_bits[:used]
    end = int(offsets[-1]) + _VALUE_BITS * (1 if repeats[-1] else int(lengths[-1]))
    return _Codes(repeats, stops - lengths, stops, offsets, end)


def _paint(alpha: NDArray[np.bool_], windows: NDArray[np.uint32], codes: _Codes) -> None:
    """Write the pixels whose alpha lies in the codes."""
    first, after = codes.starts // _CHANNELS, codes.stops // _CHANNELS  # alpha of pixel p is value 4 p + 3
    offsets, counts = codes.offsets, after - first
    if not codes.repeats.all():
        # A literal is as many runs of one pixel, its alphas 32 bits apart.
        parts = np.where(codes.repeats, 1, counts)
        ahead = np.where(codes.repeats, 0, _VALUE_BITS * (_CHANNELS * first + _CHANNELS - 1 - codes.starts))
        nth = np.arange(int(parts.sum())) - np.repeat(np.cumsum(parts) - parts, parts)
        offsets = np.repeat(offsets + ahead, parts) + _VALUE_BITS * _CHANNELS * nth
        counts = np.repeat(np.where(codes.repeats, counts, 1), parts)
    painted = _field(windows, offsets, _VALUE_BITS) != 0
    alpha[int(first[0]) : int(after[-1])] = np.repeat(painted, counts)
