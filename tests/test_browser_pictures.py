"""Pictures are read as a browser shows them: the size, the orientation, and the colours on white."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.browser_pictures import NoBrowser, ask, chromium, points, remembered
from tests.picture_kinds import pictures
from worker.label_studio.images import ImageLimits, decode_image, decode_picture

LIMITS = ImageLimits(most_bytes=10_000_000, most_pixels=500_000, timeout_s=5.0, allow_private=False)
FILES = pictures()
SAID = remembered()
SHOWN = [name for name, said in SAID.items() if said]

# Levels of 255 by which a colour may differ: lossy decoders round differently. Chromium takes the values of an animated
# AVIF, and the opacity of any, to begin at 16.
ROUNDING, LOSSY, AVIF_OPACITY = 2, 10, 24
# Read here with other colours than in a browser, or not at all, on purpose.
ELSEWHERE = {"tiff"}


def tolerance(name: str) -> int:
    if name.startswith(("avif", "premultiplied avif")):
        return AVIF_OPACITY if any(word in name for word in ("alpha", "rgba", "animated")) else LOSSY
    return LOSSY if "jpeg" in name or "lossy" in name or "density" in name else ROUNDING


def ours(name: str) -> NDArray[np.uint8]:
    return decode_image(FILES[name], subject=name, limits=LIMITS)


def levels(rows: list[str]) -> NDArray[np.int64]:
    return np.array([list(bytes.fromhex(point)) for row in rows for point in row.split()], dtype=np.int64)


def test_every_picture_has_its_answer() -> None:
    assert set(SAID) == set(FILES), "run python -m tests.browser_pictures"
    assert {name for name, said in SAID.items() if said is None} == ELSEWHERE


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_are_as_chromium_said(name: str) -> None:
    said = SAID[name]
    assert said is not None
    pixels = ours(name)
    assert pixels.shape == (said["size"][1], said["size"][0], 3)
    assert np.abs(levels(points(pixels)) - levels(said["points"])).max() <= tolerance(name)


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_keep_their_frame_where_they_are_segmented(name: str) -> None:
    """The frame in which Label Studio draws regions is that of the browser."""
    said = SAID[name]
    assert said is not None
    assert list(decode_picture(FILES[name], subject=name, limits=LIMITS).size) == said["size"][::-1]


def test_pictures_are_as_chromium_shows_them_now() -> None:
    """Every pixel, in the browser of this machine; installed where root runs the tests on Debian."""
    try:
        shown = ask(chromium(install=True), FILES)
    except NoBrowser as reason:
        pytest.skip(str(reason))
    assert {name for name, pixels in shown.items() if pixels is None} == ELSEWHERE
    wrong = {}
    for name, pixels in shown.items():
        if pixels is None:
            continue
        found = ours(name)
        if found.shape != pixels.shape:
            wrong[name] = f"{found.shape} instead of {pixels.shape}"
            continue
        different = np.abs(found.astype(int) - pixels)
        if different.max() > tolerance(name):
            wrong[name] = f"up to {different.max()} levels, {different.mean():.1f} in the mean"
    assert not wrong
