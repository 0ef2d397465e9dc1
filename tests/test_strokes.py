"""What a click reads of a brush region that the editor has saved in a draft: strokes, erased paint, the magic wand."""

from __future__ import annotations

import base64
import json
import math
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.label_studio.bitmasks import encode_bitmask
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.prompts import DrawnMasks
from worker.label_studio.strokes import MOST_POINTS

SIZE, SHAPE = (400, 600), (200, 300)
Mask = NDArray[np.bool_]


def stroke(*numbers: float, width: float = 5.0, kind: str = "add", **changes: Any) -> dict[str, Any]:
    """A stroke as the editor serializes it, on an image that its window shows 750 pixels wide."""
    points = [7.5 * x if place % 2 == 0 else 5.0 * x for place, x in enumerate(numbers)]
    return {"id": "Tq3fW", "type": kind, "points": points, "relativePoints": list(numbers), "strokeWidth": 7.5 * width,
            "relativeStrokeWidth": width, "eraserSize": 25, **changes}  # fmt: skip


def region(**value: Any) -> dict[str, Any]:
    return {"id": "mJ8k2Lx0aQ", "type": "brushlabels", "from_name": "b", "to_name": "i", "origin": "manual",
            "original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0,
            "value": {"format": "rle", **value, "brushlabels": ["cat"]}}  # fmt: skip


def read(found: dict[str, Any], shape: tuple[int, int] = SIZE) -> Mask | None:
    return DrawnMasks().mask(json.loads(json.dumps(found)), size=SIZE, shape=shape)


def near(numbers: list[float], width: float, shape: tuple[int, int]) -> Mask:
    """Pixels whose centre is within half a width of a line, all in percent as the editor counts."""
    rows, columns = np.indices(shape) + 0.5
    ends = np.array(numbers).reshape(-1, 2) * np.array([shape[1], shape[0]]) / 100
    found = np.zeros(shape, dtype=np.bool_)
    for (left, top), (right, bottom) in zip(ends, [*ends[1:], ends[-1]], strict=True):
        across, down = right - left, bottom - top
        along = ((columns - left) * across + (rows - top) * down) / (across**2 + down**2 or 1.0)
        along = np.clip(along, 0, 1)
        apart = np.hypot(columns - left - along * across, rows - top - along * down)
        found |= apart <= width / 200 * shape[1]
    return found


def alike(found: Mask | None, wanted: Mask) -> bool:
    assert found is not None and found.shape == wanted.shape
    return float((found & wanted).sum() / (found | wanted).sum()) > 0.95


def block() -> Mask:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[100:300, 100:400] = True
    return mask


def packed(mask: Mask) -> str:
    """The `rle` of a mask as the backend passes it on."""
    return base64.b64encode(bytes(encode_rle(mask))).decode()


@pytest.mark.parametrize("shape", [pytest.param(SIZE, id="as large as the file"), pytest.param(SHAPE, id="reduced")])
@pytest.mark.parametrize(
    ("numbers", "width"),
    [
        pytest.param([20, 50, 60, 50], 10, id="a line"),
        pytest.param([10, 10, 50.5, 20.25, 70, 80, 30, 90], 5, id="a bent line that is not closed"),
        pytest.param([40, 40, 40, 40], 8, id="a click"),
        pytest.param([-5, 50, 104, 52], 6, id="across the edges"),
    ],
)
def test_a_stroke_is_drawn_where_the_editor_draws_it(
    numbers: list[float], width: float, shape: tuple[int, int]
) -> None:
    found, pixel = read(region(touches=[stroke(*numbers, width=width)]), shape), 100 / shape[1]
    assert found is not None and found.shape == shape
    assert not (found & ~near(numbers, width + 3 * pixel, shape)).any(), "within a pixel and a half of the rim"
    assert not (near(numbers, width - 3 * pixel, shape) & ~found).any()


def test_an_eraser_takes_away_what_was_there_and_a_later_stroke_paints_over_it() -> None:
    line = [10.0, 50.0, 90.0, 50.0]
    erased = read(region(rle=packed(block()), touches=[stroke(*line, width=10, kind="eraser")]))
    assert alike(erased, block() & ~near(line, 10, SIZE))
    again = read(region(rle=packed(block()), touches=[stroke(*line, width=10, kind="eraser"), stroke(*line, width=4)]))
    assert alike(again, (block() & ~near(line, 10, SIZE)) | near(line, 4, SIZE))
    painted = read(region(touches=[stroke(*line, width=4), stroke(*line, width=10, kind="eraser")]))
    assert painted is not None and not painted.any()


def test_what_the_magic_wand_found_is_read_and_strokes_lie_over_it() -> None:
    wand = encode_bitmask(block())
    found = read(region(maskDataURL=wand))
    assert found is not None and np.array_equal(found, block())
    half = read(region(maskDataURL=wand, touches=[stroke(10, 50, 90, 50, width=10, kind="eraser")]), SHAPE)
    assert alike(half, block()[::2, ::2] & ~near([10, 50, 90, 50], 10, SHAPE))


def test_what_a_stroke_does_not_tell_is_what_the_editor_takes() -> None:
    found = read(region(rle=None, touches=[{"relativePoints": [50, 50, 50, 50]}]))
    assert alike(found, near([50, 50, 50, 50], 25, SIZE))
    thin = read(region(touches=[stroke(20, 50, 60, 50, width=0)]))
    assert thin is not None and 200 <= thin.sum() <= 300, "a line of one pixel"


HUGE = [float(number % 97) for number in range(2 * MOST_POINTS + 2)]


@pytest.mark.parametrize(
    "touches",
    [
        pytest.param([stroke(math.nan, 1, 2, 3)], id="NaN"),
        pytest.param([stroke(math.inf, 1, 2, 3)], id="infinity"),
        pytest.param([stroke(10**300, 1, 2, 3)], id="far away"),
        pytest.param([stroke(20, 50, 60, 50, relativePoints=["20", "50", "60", "50"])], id="texts"),
        pytest.param([stroke(relativePoints="2050")], id="a text"),
        pytest.param([stroke(relativePoints=[[20, 50], [60, 50]])], id="pairs"),
        pytest.param([stroke(20, 50, 60)], id="half a point"),
        pytest.param([stroke(20, 50, 60, 50, width=-1)], id="a negative width"),
        pytest.param([stroke(20, 50, 60, 50, width=math.nan)], id="no width"),
        pytest.param([stroke(20, 50, 60, 50, relativeStrokeWidth="5")], id="a text as width"),
        pytest.param([stroke(20, 50, 60, 50, kind="lasso")], id="another tool"),
        pytest.param([stroke(20, 50, 60, 50, kind="add"), 3], id="a number"),
        pytest.param({"0": stroke(20, 50, 60, 50)}, id="no list"),
        pytest.param([stroke(*HUGE)], id="too many points"),
        pytest.param([{"relativePoints": []}] * (MOST_POINTS + 1), id="too many strokes"),
        pytest.param([stroke(*HUGE[:-2], width=1e6)] * 2, id="wide without end"),
        pytest.param([stroke(*HUGE[:18_000], width=100)], id="over and over"),
    ],
)
def test_a_stroke_that_is_none_costs_its_region(touches: Any) -> None:
    started = time.monotonic()
    assert read(region(rle=packed(block()), touches=touches)) is None
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "numbers", [pytest.param(HUGE[:19_000], id="within"), pytest.param([1e6, -1e6, -1e6, 1e6] * 4_000, id="beyond")]
)
def test_strokes_that_are_read_take_no_seconds(numbers: list[float]) -> None:
    started = time.monotonic()
    found = DrawnMasks().mask(region(touches=[stroke(*numbers, width=1)]), size=(4000, 5000), shape=(1733, 2309))
    assert found is not None
    assert time.monotonic() - started < 3, "a bound for busy machines: some tenths of it"


@pytest.mark.parametrize("value", [{"rle": "%"}, {"rle": "AAAA"}, {"maskDataURL": "data:image/png;base64,AAAA"},
                                   {"maskDataURL": 7}])  # fmt: skip
def test_strokes_over_what_cannot_be_read_cost_their_region(value: Any) -> None:
    assert read(region(**value, touches=[stroke(20, 50, 60, 50)])) is None
