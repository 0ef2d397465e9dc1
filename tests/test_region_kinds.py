"""Every kind of region: written, valid for label_studio_sdk, and read back as a correction of the same pixels."""

from __future__ import annotations

import base64
import io
import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from numpy.typing import NDArray
from PIL import Image

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.errors import RegionError
from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.annotation_maps import draw_class_map
from worker.label_studio.bitmasks import decode_bitmask, encode_bitmask
from worker.label_studio.regions import decode_region, encode_region
from worker.label_studio.results import encode_segments
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import LabelSegment

Mask = NDArray[np.bool_]
HEIGHT, WIDTH = 90, 140
SIZE = (HEIGHT, WIDTH)
KINDS = list(OUTPUT_KINDS.values())
kinds = pytest.mark.parametrize("kind", KINDS)


def ellipse(x: float, y: float, a: float, b: float, degrees: float, size: tuple[int, int] = SIZE) -> Mask:
    """Pixels whose centre lies in an ellipse, turned clockwise."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    turn = np.radians(degrees)
    across = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    down = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
    return np.asarray((across / a) ** 2 + (down / b) ** 2 <= 1)


def blob() -> Mask:
    """A crooked thing with a hole, and a part apart."""
    mask = ellipse(60, 45, 45, 25, 20) & ~ellipse(60, 45, 10, 8, 0)
    mask[5:15, 120:135] = True
    return mask


MASKS = {
    "ellipse": ellipse(70, 45, 40, 18, 30), "blob": blob(), "full": np.ones(SIZE, dtype=np.bool_),
    "pixel": ellipse(10.5, 80.5, 0.5, 0.5, 0), "diagonal": ellipse(70, 45, 90, 4, 32.7),
    "at the border": ellipse(0, 45, 30, 20, 0), "in the corner": ellipse(140, 90, 60, 30, 30),
}  # fmt: skip
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


def config(kind: OutputKind, *, pair: bool = False) -> str:
    """A labeling config whose labels are drawn as a kind of region, by its own control or by a Labels control."""
    tag = next(tag for tag, output in OUTPUT_KINDS.items() if output == kind)
    labels = '<Label value="Cat" alias="cat"/><Label value="Dog"/>'
    more = 'closable="true"' if kind == "vector" else ""
    if not pair:
        drawing = f'<{tag} name="c" toName="image" {more}>{labels}</{tag}>'
    else:
        shape = tag.removesuffix("Labels")
        drawing = f'<Labels name="c" toName="image">{labels}</Labels><{shape} name="s" toName="image" {more}/>'
    return f'<View><Image name="image" value="$image"/>{drawing}</View>'


def result(mask: Mask, kind: OutputKind, *, pair: bool = False) -> list[dict[str, Any]]:
    """The result of a prediction of one segment, after a trip through JSON."""
    label = parse_vocabulary(config(kind, pair=pair)).labels[0]
    assert label.output == kind
    return list(json.loads(json.dumps(encode_segments([LabelSegment(label, mask, 0.75, raw_score=0.5)]).regions)))


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


@kinds
@masks
@pytest.mark.parametrize("pair", [False, True], ids=["own labels", "Labels beside"])
def test_the_sdk_validates_every_region(mask: Mask, kind: OutputKind, pair: bool) -> None:
    interface = LabelInterface(config(kind, pair=pair))
    regions = result(mask, kind, pair=pair)
    prediction = {"result": regions, "score": 0.75, "model_version": "v"}
    assert list(interface.validate_prediction(prediction, return_errors=True)) == []
    assert all((region["score"], region["raw_score"]) == (0.75, 0.5) for region in regions)
    labelled = "labels" if pair else f"{kind}labels"
    assert all(region["value"][labelled] == ["cat"] for region in regions if region["type"] == labelled)
    named = json.loads(json.dumps(prediction).replace('["cat"]', '["Cat"]'))
    assert interface.validate_prediction(named, return_errors=True), "the alias is the key: the check above can fail"


@kinds
def test_a_labels_control_has_two_items_of_one_id_and_shape(kind: OutputKind) -> None:
    items = result(MASKS["ellipse"], kind, pair=True)
    assert [(item["from_name"], item["type"]) for item in items] == [("s", kind), ("c", "labels")]
    assert items[0]["id"] == items[1]["id"]
    assert items[0]["value"] | {"labels": ["cat"]} == items[1]["value"]


LEAST_IOU = {
    "brush": dict.fromkeys(MASKS, 1.0),
    "bitmask": dict.fromkeys(MASKS, 1.0),
    "polygon": {"ellipse": 0.97, "blob": 0.97, "full": 1.0, "pixel": 1.0},
    "vector": {"ellipse": 0.97, "blob": 0.97, "full": 1.0, "pixel": 1.0},
    "ellipse": {"ellipse": 0.98, "blob": 0.8, "full": 0.78, "pixel": 1.0, "at the border": 0.79},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, least in LEAST_IOU.items() for name in least])
@pytest.mark.parametrize("pair", [False, True], ids=["own labels", "Labels beside"])
def test_an_untouched_region_is_read_back_as_its_mask(kind: OutputKind, name: str, pair: bool) -> None:
    mask = MASKS[name]
    found = draw_class_map(result(mask, kind, pair=pair), parse_vocabulary(config(kind, pair=pair)), SIZE, SIZE)
    assert iou(found == 0, mask) >= LEAST_IOU[kind][name]
    assert ((found == 0) | (found == UNLABELLED)).all()


@pytest.mark.parametrize("degrees", [0, 10, 45, 80, 90, 135, 170])
@pytest.mark.parametrize(("a", "b"), [(40, 12), (30, 29), (42, 30), (20, 3)])
@pytest.mark.parametrize("size", [(90, 140), (140, 90)], ids=["wide", "high"])
def test_an_ellipse_is_found_again(degrees: float, a: float, b: float, size: tuple[int, int]) -> None:
    mask = ellipse(size[1] / 2, size[0] / 2, a, b, degrees, size)
    (region,) = encode_region(mask, kind="ellipse", control="c", to_name="image", label="x", score=1)
    assert iou(decode_region(region, size[1], size[0]), mask) >= 0.97
    value = region["value"]
    assert max(value["radiusX"], value["radiusY"]) <= 50
    assert 0 <= value["rotation"] < 360


@masks
def test_an_ellipse_stays_in_the_image(mask: Mask) -> None:
    (region,) = result(mask, "ellipse")
    value = region["value"]
    turn = np.radians(value["rotation"])
    a, b = value["radiusX"] * WIDTH / 100, value["radiusY"] * HEIGHT / 100
    across, down = np.hypot(a * np.cos(turn), b * np.sin(turn)), np.hypot(a * np.sin(turn), b * np.cos(turn))
    x, y = value["x"] * WIDTH / 100, value["y"] * HEIGHT / 100
    assert min(x - across, y - down) >= -0.01
    assert x + across <= WIDTH + 0.01
    assert y + down <= HEIGHT + 0.01
    assert iou(decode_region(region, WIDTH, HEIGHT), mask) >= 0.78


@masks
def test_a_point_lies_well_inside(mask: Mask) -> None:
    (region,) = result(mask, "keypoint")
    value = region["value"]
    row, column = int(value["y"] * HEIGHT / 100), int(value["x"] * WIDTH / 100)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    assert depth[row, column] >= depth.max() - 0.5
    assert mask[row, column]
    assert 0 < value["width"] < 2


def test_of_many_points_as_deep_it_is_the_one_in_the_middle() -> None:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[40:50, 20:100] = True
    (region,) = result(mask, "keypoint")
    assert region["value"]["x"] * WIDTH / 100 == pytest.approx(60, abs=1)


def test_a_bitmask_is_black_on_transparent_of_the_images_size() -> None:
    (region,) = result(blob(), "bitmask")
    url = region["value"]["imageDataURL"]
    assert url.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert pixels.shape == (*SIZE, 4)
    assert ((pixels[..., 3] == 255) == blob()).all()
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    assert (pixels[..., :3] == 0).all()


@kinds
def test_masks_of_a_reduced_copy_are_regions_of_the_image(kind: OutputKind) -> None:
    large = (3 * HEIGHT, 3 * WIDTH)
    regions = encode_region(blob(), kind=kind, control="c", to_name="image", label="x", score=1, size=large)
    assert {(region["original_height"], region["original_width"]) for region in regions} == {large}
    if kind == "keypoint":
        return
    found = np.zeros(large, dtype=np.bool_)
    for region in regions:
        found |= decode_region(region, large[1], large[0])
    enlarged = blob().repeat(3, axis=0).repeat(3, axis=1)
    least = {"brush": 1, "bitmask": 1, "polygon": 0.96, "vector": 0.96, "ellipse": 0.8, "rectangle": 0.4}
    assert iou(found, enlarged) >= least[kind]


def test_a_vector_is_a_closed_chain_of_vertices() -> None:
    first, second = result(blob(), "vector")
    assert first["value"]["closed"] is second["value"]["closed"] is True
    for region in (first, second):
        vertices = region["value"]["vertices"]
        names = [vertex["id"] for vertex in vertices]
        assert len(set(names)) == len(names) >= 3
        assert [vertex["prevPointId"] for vertex in vertices] == [names[-1], *names[:-1]], "else the editor opens it"


VECTORS = parse_vocabulary(config("vector"))
SQUARE = [{"id": f"p{k}", "x": x, "y": y, "isBezier": False} for k, (x, y) in enumerate(
    [(25, 25), (75, 25), (75, 75), (25, 75)])]  # fmt: skip


def vector(vertices: list[dict[str, Any]], **more: Any) -> NDArray[np.int16]:
    value = {"vertices": vertices, "closed": True, "vectorlabels": ["cat"]} | more
    item = {"id": "v", "from_name": "c", "to_name": "image", "type": "vectorlabels", "value": value}
    return draw_class_map([item], VECTORS, (80, 80), (80, 80))


def test_a_closed_vector_is_learned_from_and_a_line_is_not() -> None:
    inside = np.zeros((80, 80), dtype=np.bool_)
    inside[20:60, 20:60] = True
    assert ((vector(SQUARE) == 0) == inside).all()
    opened = vector(SQUARE, closed=False)
    assert 0 not in opened
    assert (opened == VOID).any()
    branching = [*SQUARE[:3], SQUARE[3] | {"prevPointId": "p0"}]
    assert 0 not in vector(branching)


def test_a_curved_vector_bulges_as_the_editor_draws_it() -> None:
    ends = {"isBezier": True, "controlPoint1": {"x": 75, "y": 60}, "controlPoint2": {"x": 95, "y": 40}}
    starts = {"isBezier": True, "controlPoint1": {"x": 95, "y": 60}, "controlPoint2": {"x": 60, "y": 75}}
    curved = vector([SQUARE[0], SQUARE[1] | ends, SQUARE[2] | starts, SQUARE[3]])
    assert (curved == 0).sum() > 1600
    assert curved[40, 70] == 0, "at half of the curve x is 75 / 4 + 95 * 3 / 4 percent"
    assert curved[40, 74] == UNLABELLED


POINTS = parse_vocabulary(
    '<View><Image name="image" value="$image"/><KeyPointLabels name="k" toName="image"><Label value="cat"/>'
    '</KeyPointLabels><BrushLabels name="b" toName="image"><Label value="dog"/></BrushLabels></View>'
)


def test_points_teach_nothing_of_areas() -> None:
    cat, dog = POINTS.labels
    points = encode_segments([LabelSegment(cat, MASKS["ellipse"], 0.5)]).regions
    assert (draw_class_map(points, POINTS, SIZE, SIZE) == VOID).all()
    both = draw_class_map([*points, *encode_segments([LabelSegment(dog, blob(), 0.5)]).regions], POINTS, SIZE, SIZE)
    assert ((both == 1) == blob()).all()
    assert (both[~blob()] == VOID).all()
    assert (draw_class_map([], POINTS, SIZE, SIZE) == UNLABELLED).all(), "none there is told by none"
    assert any("tell no area" in remark for remark in POINTS.remarks)


def png(mode: str, *, size: tuple[int, int] = (4, 3), **more: Any) -> str:
    file = io.BytesIO()
    Image.new(mode, size, **more).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


FOREIGN = {
    "faint paint counts": (png("RGBA", color=(9, 9, 9, 1)), 12),
    "grey and alpha": (png("LA", color=(200, 255)), 12),
    "nothing painted": (png("RGBA", color=(0, 0, 0, 0)), 0),
    "twice the size": (png("RGBA", size=(8, 6), color=(0, 0, 0, 255)), 12),
}


@pytest.mark.parametrize(("url", "painted"), FOREIGN.values(), ids=FOREIGN.keys())
def test_bitmasks_of_others_are_read_by_their_alpha(url: str, painted: int) -> None:
    assert decode_bitmask(url, height=3, width=4).sum() == painted


BROKEN = {
    "no text": (7, "no text"),
    "another kind of image": ("data:image/jpeg;base64,AAAA", "no text"),
    "not base64": ("data:image/png;base64,####", "base64"),
    "no PNG": ("data:image/png;base64,AAAA", "no readable PNG"),
    "cut off": (encode_bitmask(np.random.default_rng(0).random((90, 90)) < 0.5)[:-200], ""),
    "opaque": (png("L", color=255), "no transparency"),
    "far larger than the image": (png("RGBA", size=(90, 90)), "90 x 90 pixels"),
}


@pytest.mark.parametrize(("url", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_bitmask_is_refused_with_the_reason(url: object, problem: str) -> None:
    region = {"id": "r7", "type": "bitmasklabels", "value": {"imageDataURL": url}}
    with pytest.raises(RegionError, match=r"region 'r7' of type 'bitmasklabels'") as caught:
        decode_region(region, 4, 3)
    assert problem in caught.value.problem


def test_a_result_counts_regions_and_bytes_of_every_kind() -> None:
    for kind in KINDS:
        label = parse_vocabulary(config(kind, pair=True)).labels[0]
        segments = [LabelSegment(label, MASKS["ellipse"], 0.5)] * 3
        assert len(encode_segments(segments, most_regions=2).regions) == 4, "two regions of two items"
        whole = encode_segments(segments).regions
        assert len(encode_segments(segments, most_bytes=len(json.dumps(whole)) - 1).regions) < len(whole)


ODD_VALUES: list[Any] = [
    None, True, "1", "", -1e300, math.nan, math.inf, [], {}, [1], {"x": 1}, {"x": 1, "y": "2"}, 10**400,
]  # fmt: skip


def test_whatever_is_wrong_with_a_bitmask_or_a_vector_is_a_refusal() -> None:
    rng = np.random.default_rng(7)
    content = base64.b64decode(encode_bitmask(blob()).partition(",")[2])
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        for place in rng.integers(0, len(broken), size=int(rng.integers(1, 4))):
            broken[place] = int(rng.integers(0, 256))
        url = "data:image/png;base64," + base64.b64encode(broken[: int(rng.integers(1, len(broken) + 1))]).decode()
        refused += refuses({"id": "r", "type": "bitmask", "value": {"imageDataURL": url}})
    curve = {"isBezier": True, "controlPoint1": {"x": 1, "y": 2}, "controlPoint2": {"x": 3, "y": 4}}
    for odd in ODD_VALUES:
        for key in ("id", "x", "y", "prevPointId", "isBezier", "controlPoint1", "controlPoint2"):
            vertices = [SQUARE[0], SQUARE[1] | curve | {key: odd}, SQUARE[2]]
            refused += refuses({"id": "r", "type": "vector", "value": {"vertices": vertices, "closed": True}})
        for value in ({"vertices": odd, "closed": True}, {"vertices": [odd] * 3, "closed": True},
                      {"vertices": SQUARE, "closed": odd}, {"imageDataURL": odd}, odd):  # fmt: skip
            refused += refuses({"id": "r", "type": "vector", "value": value})
            refused += refuses({"id": "r", "type": "bitmask", "value": value})
    assert refused > 300


def refuses(region: dict[str, Any]) -> bool:
    try:
        mask = decode_region(region, WIDTH, HEIGHT)
    except RegionError as error:
        assert "'r'" in error.subject
        return bool(error.remedy)
    assert mask.shape == SIZE
    return False
