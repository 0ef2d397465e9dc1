"""Masks to regions and back: shapes that lose pixels easily, Label Studio's own validator, broken regions."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from plugin_config.vocabulary import OutputKind
from worker.label_studio.regions import KINDS, decode_region, encode_region, region_label

Mask = NDArray[np.bool_]


def _drawn(*rows: str) -> Mask:
    return np.array([[mark == "#" for mark in row] for row in rows])


def _blobs(seed: int, height: int, width: int, sigma: float) -> Mask:
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.asarray(smooth > np.median(smooth))


MASKS = {
    "full frame": np.ones((6, 9), dtype=np.bool_),
    "one pixel image": np.ones((1, 1), dtype=np.bool_),
    "one pixel": _drawn("....", "..#.", "...."),
    "corner pixel": _drawn("...", "...", "..#"),
    "horizontal line": _drawn(".....", ".####", "....."),
    "vertical line": _drawn("...", ".#.", ".#.", ".#."),
    "bent line": _drawn("#......", "#......", "#......", "#......", "#######"),
    "diagonal line": np.eye(9, dtype=np.bool_),
    "image of one row": _drawn("##.###..#"),
    "image of one column": _drawn("#", ".", "#", "#"),
    "hole": _drawn("#####", "#...#", "#...#", "#####"),
    "hole of one pixel": _drawn("#######", "#######", "###.###", "#######", "#######"),
    "hole open at a corner": _drawn("####.", "#..#.", "#..#.", "###.#", "...##"),
    "hole touching the rim at a corner": _drawn(".####", "#.###", "#####", "#####"),
    "holes touching at a corner": _drawn("######", "#.####", "##.###", "######"),
    "three holes": _drawn("#########", "#.##..###", "####..#.#", "#########"),
    "two islands": _drawn("##...##", "##...##", "......."),
    "islands touching at a corner": _drawn("##..", "##..", "..##", "..##"),
    "island in a hole": _drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),
    "odd size": _blobs(1, 37, 53, 3.0),
    "blobs": _blobs(2, 120, 90, 5.0),
    "noisy": np.random.default_rng(3).random((41, 29)) < 0.5,
    "nearly full of holes": np.random.default_rng(4).random((60, 60)) < 0.8,
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def _encode(mask: Mask, kind: OutputKind, **changed: Any) -> list[dict[str, Any]]:
    arguments: dict[str, Any] = {"control": "c", "to_name": "image", "label": "cat", "score": 0.75} | changed
    return encode_region(mask, kind=kind, **arguments)


def _decode(regions: list[dict[str, Any]], shape: tuple[int, ...]) -> Mask:
    """Union of the regions after a trip through JSON, as Label Studio gives them back."""
    height, width = shape
    drawn = np.zeros((height, width), dtype=np.bool_)
    for region in json.loads(json.dumps(regions)):
        drawn |= decode_region(region, width, height)
    return drawn


def _outline_distance(mask: Mask) -> NDArray[np.float64]:
    """(H, W): pixels from each pixel's centre to the nearest edge between inside and outside."""
    padded = np.pad(mask, 1)
    across, along = padded[:-1, 1:-1] != padded[1:, 1:-1], padded[1:-1, :-1] != padded[1:-1, 1:]
    y, x = np.nonzero(across)
    v, u = np.nonzero(along)
    starts = np.concatenate((np.stack((x, y), axis=1), np.stack((u, v), axis=1)))
    steps = np.repeat([[1, 0], [0, 1]], [len(x), len(u)], axis=0)
    rows, columns = np.indices(mask.shape) + 0.5
    away = np.stack((columns, rows), axis=2)[:, :, None] - starts  # (H, W, E, 2)
    away -= np.clip((away * steps).sum(axis=3), 0, 1)[..., None] * steps
    return np.asarray(np.hypot(away[..., 0], away[..., 1]).min(axis=2))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_has_no_regions(kind: OutputKind) -> None:
    assert _encode(np.zeros((4, 5), dtype=np.bool_), kind) == []


@masks
def test_a_brush_keeps_every_pixel(mask: Mask) -> None:
    (region,) = _encode(mask, "brush")
    assert (_decode([region], mask.shape) == mask).all()


@masks
def test_a_rectangle_is_the_exact_box(mask: Mask) -> None:
    rows, columns = np.nonzero(mask)
    box = np.zeros_like(mask)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    (region,) = _encode(mask, "rectangle")
    assert (_decode([region], mask.shape) == box).all()


@masks
def test_a_polygon_without_tolerance_keeps_every_pixel(mask: Mask) -> None:
    assert (_decode(_encode(mask, "polygon", tolerance=0), mask.shape) == mask).all()


@masks
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_a_polygon_stays_within_its_tolerance(mask: Mask, tolerance: float) -> None:
    changed = _decode(_encode(mask, "polygon", tolerance=tolerance), mask.shape) != mask
    assert _outline_distance(mask)[changed].max(initial=0) <= tolerance + 0.001


LINES = ["one pixel", "corner pixel", "horizontal line", "vertical line", "bent line", "diagonal line", "hole"]


@pytest.mark.parametrize("name", LINES)
def test_thin_things_survive_the_default_tolerance(name: str) -> None:
    assert (_decode(_encode(MASKS[name], "polygon"), MASKS[name].shape) == MASKS[name]).all()


def test_a_smooth_outline_takes_few_points() -> None:
    y, x = np.mgrid[:200, :200]
    disc = (x - 100) ** 2 + (y - 100) ** 2 < 80**2
    (region,) = _encode(disc, "polygon")
    assert len(region["value"]["points"]) < 60


@pytest.mark.parametrize(
    ("name", "rings"),
    [("hole", 1), ("three holes", 1), ("two islands", 2), ("islands touching at a corner", 1), ("island in a hole", 2)],
)
def test_an_island_is_one_ring(name: str, rings: int) -> None:
    assert len(_encode(MASKS[name], "polygon")) == rings


def test_an_island_with_thousands_of_holes_takes_no_minutes() -> None:
    mask = np.ones((241, 241), dtype=np.bool_)
    mask[1::2, 1::2] = False  # 14,400 holes
    assert (_decode(_encode(mask, "polygon"), mask.shape) == mask).all()


@pytest.mark.parametrize("kind", KINDS)
@masks
def test_regions_are_what_label_studio_expects(mask: Mask, kind: OutputKind) -> None:
    for region in _encode(mask, kind):
        value = region["value"]
        points = value.get("points") or [[value.get("x", 0), value.get("y", 0)]]
        assert kind != "polygon" or (value["closed"] is True and len(points) >= 3)
        assert all(0 <= number <= 100 for point in points for number in point)
        assert kind != "rectangle" or value["x"] + value["width"] <= 100.001
        assert (region["original_height"], region["original_width"]) == mask.shape
        assert (region["image_rotation"], region["score"], region_label(region)) == (0, 0.75, "cat")


def test_a_full_frame_is_0_to_100_percent() -> None:
    (polygon,) = _encode(MASKS["full frame"], "polygon")
    assert sorted(polygon["value"]["points"]) == [[0, 0], [0, 100], [100, 0], [100, 100]]
    (box,) = _encode(MASKS["full frame"], "rectangle")
    assert [box["value"][key] for key in ("x", "y", "width", "height", "rotation")] == [0, 0, 100, 100, 0]


def test_ids_are_unique_and_of_the_editors_kind_or_as_told() -> None:
    ids = [region["id"] for _ in range(200) for region in _encode(MASKS["two islands"], "polygon")]
    assert len(set(ids)) == 400
    assert all(re.fullmatch("[A-Za-z0-9_-]{10}", identity) for identity in ids)
    first, second = [region["id"] for region in _encode(MASKS["two islands"], "polygon", region_id="r")]
    assert first == "r" and re.fullmatch("[A-Za-z0-9_-]{10}", second)


def _region(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": "r7", "type": kind, "value": value}


SHAPES = {
    "pixels whose centre is inside": (_region("rectangle", x=12.4, y=0, width=50.2, height=60), [".####..."]),
    "half a turn": (_region("rectanglelabels", x=50, y=100, width=50, height=100, rotation=180), ["####...."]),
    "beyond the image": (_region("rectangle", x=-50, y=-50, width=75, height=300), ["##......"]),
    "outside the image": (_region("rectangle", x=150, y=0, width=10, height=100), ["........"]),
    "polygon beyond the image": (_region("polygon", points=[[50, -9], [500, 50], [50, 109]]), ["....####"]),
    "closing point repeated": (_region("polygon", points=[[0, 0], [50, 0], [50, 100], [0, 100], [0, 0]]), ["####...."]),
    "self-crossing fills as a canvas does": (
        _region("polygon", points=[[0, 0], [100, 0], [100, 100], [25, 100], [25, 0], [75, 0], [75, 100], [0, 100]]),
        ["########"],
    ),
}


@pytest.mark.parametrize(("region", "rows"), SHAPES.values(), ids=SHAPES.keys())
def test_shapes_are_drawn_by_pixel_centres(region: dict[str, Any], rows: list[str]) -> None:
    expected = _drawn(*rows)
    assert (decode_region(region, expected.shape[1], expected.shape[0]) == expected).all()


def test_a_rectangle_turns_about_its_top_left_corner_in_pixels() -> None:
    """A quarter turn clockwise of 40 x 20 px at (100, 10) covers 20 px to the left and 40 px down."""
    region = _region("rectanglelabels", x=50, y=10, width=20, height=20, rotation=90)
    expected = np.zeros((100, 200), dtype=np.bool_)
    expected[10:50, 80:100] = True
    assert (decode_region(region, 200, 100) == expected).all()
    tilted = decode_region(_region("rectangle", x=50, y=10, width=20, height=20, rotation=30), 200, 100)
    rows, columns = np.nonzero(tilted)
    assert tilted.sum() == pytest.approx(40 * 20, abs=15)
    assert columns.mean() + 0.5 == pytest.approx(100 + 20 * math.cos(math.pi / 6) - 10 * 0.5, abs=0.3)
    assert rows.mean() + 0.5 == pytest.approx(10 + 20 * 0.5 + 10 * math.cos(math.pi / 6), abs=0.3)


REFUSED = {
    "unknown type": _region("keypointlabels", x=1, y=1, width=1),
    "no vertices": _region("vectorlabels", closed=True),
    "vertices of no place": _region("vectorlabels", closed=True, vertices=[{"x": 1}] * 3),
    "bitmask without its picture": _region("bitmasklabels"),
    "bitmask of another size": _encode(np.ones((3, 3), dtype=np.bool_), "bitmask", region_id="r7")[0],
    "no type": {"id": "r7", "value": {"x": 1}},
    "no value": {"id": "r7", "type": "brushlabels"},
    "value is a list": {"id": "r7", "type": "brushlabels", "value": [1]},
    "brush without rle": _region("brushlabels", format="rle"),
    "brush with a broken rle": _region("brushlabels", rle=[1, 2, 3]),
    "brush of another size": _encode(np.ones((3, 3), dtype=np.bool_), "brush", region_id="r7")[0],
    "brush of a size beyond floats": {
        **_encode(np.ones((4, 8), dtype=np.bool_), "brush", region_id="r7")[0], "original_width": 10**400,
    },
    "no points": _region("polygonlabels"),
    "no list of points": _region("polygonlabels", points="0 0 1 1 2 2"),
    "points as text": _region("polygonlabels", points=[["a", "b"]] * 3),
    "ragged points": _region("polygonlabels", points=[[0, 0], [1, 1], [2]]),
    "endless points": _region("polygonlabels", points=[[0, 0], [1, 1], [math.inf, 2]]),
    "no height": _region("rectangle", x=1, y=1, width=2),
    "height as text": _region("rectangle", x=1, y=1, width=2, height="3"),
    "no number": _region("rectangle", x=1, y=math.nan, width=2, height=3),
}


@pytest.mark.parametrize("region", REFUSED.values(), ids=REFUSED.keys())
def test_a_region_that_cannot_be_drawn_is_refused_by_name(region: dict[str, Any]) -> None:
    with pytest.raises(RegionError) as caught:
        decode_region(region, 8, 4)
    assert "'r7'" in caught.value.subject
    assert repr(region.get("type")) in caught.value.subject
    assert caught.value.remedy


def test_the_refusal_of_a_type_says_which_are_read() -> None:
    with pytest.raises(RegionError, match="brush, bitmask, polygon, rectangle, ellipse, vector"):
        decode_region(REFUSED["unknown type"], 8, 4)


@pytest.mark.parametrize("size", [(0, 4), (1 << 20, 1 << 20)], ids=["no pixels", "absurd"])
def test_an_absurd_image_size_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RegionError, match="pixels"):
        decode_region(_region("rectangle", x=0, y=0, width=1, height=1), *size)


@pytest.mark.parametrize(
    "value", [{}, {"brushlabels": []}, {"brushlabels": "cat"}, {"brushlabels": [3]}, None], ids=str
)
def test_a_region_without_a_label_is_refused(value: dict[str, Any] | None) -> None:
    with pytest.raises(RegionError, match="no label"):
        region_label({"id": "r7", "type": "brushlabels", "value": value})


WRONG: dict[str, dict[str, Any]] = {
    "score above 1": {"score": 1.5},
    "score not a number": {"score": math.nan},
    "no label": {"label": ""},
    "negative tolerance": {"tolerance": -1.0},
    "endless tolerance": {"tolerance": math.inf},
    "unknown kind": {"kind": "magicwand"},
    "mask of numbers": {"mask": np.ones((2, 2))},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_refused(changed: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"mask": MASKS["hole"], "kind": "polygon"} | changed
    with pytest.raises(RegionError):
        _encode(**arguments)
