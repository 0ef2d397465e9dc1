"""What each kind of item says about the pixels: a label, unknown, or nothing. What cannot be used is no background."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from tests.annotation_items import (
    BOX,
    CAT,
    DOG,
    HEIGHT,
    RING,
    VOCABULARY,
    WIDTH,
    brush,
    item,
    left_quarter,
    middle,
)
from worker.label_studio.annotation_maps import draw_class_map
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.picture_regions import picture_regions
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

SIZE = (HEIGHT, WIDTH)
ELLIPSE = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}
PNG = "data:image/png;base64,iVBORw0KGgo="


def draw(*items: Any) -> NDArray[np.int16]:
    return draw_class_map(items, VOCABULARY, SIZE, SIZE)


def share(found: NDArray[np.int16], value: int, inside: NDArray[np.bool_] | None = None) -> float:
    return float((found == value)[np.ones(SIZE, dtype=bool) if inside is None else inside].mean())


def test_an_ellipse_is_the_label_of_its_name() -> None:
    found = draw(item("ellipselabels", ELLIPSE, "cat"))
    assert (found == CAT).sum() == pytest.approx(np.pi * 12 * 8, rel=0.03)
    assert found[HEIGHT // 2, WIDTH // 2] == found[9, 24] == found[16, 13] == CAT
    assert found[9, 13] == UNLABELLED
    assert set(np.unique(found)) == {CAT, UNLABELLED}


def test_an_ellipse_turns_clockwise_about_its_centre_in_pixels() -> None:
    flat = ELLIPSE | {"radiusX": 40, "radiusY": 10}  # 19.2 x 3.2 pixels
    turned = draw(item("ellipselabels", flat | {"rotation": 30}, "cat")) == CAT
    assert turned.sum() == pytest.approx(np.pi * 19.2 * 3.2, rel=0.05)
    assert turned[16 + 7, 24 + 12] and turned[16 - 7, 24 - 12], "it leans down to the right"
    assert not turned[16 - 7, 24 + 12]
    upright = draw(item("ellipselabels", flat | {"rotation": 90}, "cat")) == CAT
    rows, columns = np.nonzero(upright)
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (31, 5)


UNNAMED = {
    "rectangle": item("rectanglelabels", BOX),
    "rectangle of no labels": item("rectanglelabels", BOX | {"rectanglelabels": []}),
    "rectangle of a label that is null": item("rectanglelabels", BOX | {"rectanglelabels": None}),
    "rectangle of a Rectangle control": item("rectangle", BOX),
    "polygon": item("polygonlabels", {"points": RING, "closed": True}),
    "polygon of a label the config no longer has": item("polygonlabels", {"points": RING}, "horse"),
    "rectangle of a label the config no longer has": item("rectanglelabels", BOX, "horse"),
    "rectangle of no control": item("rectanglelabels", BOX, "cat", from_name=None),
    "rectangle that names no image": item("rectanglelabels", BOX, "cat", to_name=None),
    "rectangle on an image that the config does not have": item("rectanglelabels", BOX, "cat", to_name="img"),
    "vector of no label": item("vectorlabels", {"vertices": [{"x": x, "y": y} for x, y in RING], "closed": True}),
    "an id that is a number": item("rectanglelabels", BOX, id=7),
    "no id": item("rectanglelabels", BOX, id=None),
    "labels of a Labels control without another item": item("labels", BOX, "horse"),
}


@pytest.mark.parametrize("region", UNNAMED.values(), ids=UNNAMED.keys())
def test_a_region_that_says_not_what_is_there_is_void(region: dict[str, Any]) -> None:
    found = draw(region)
    assert ((found == VOID) == middle()).all()
    assert (found[~middle()] == UNLABELLED).all()


@pytest.mark.parametrize(
    ("region", "label"),
    [
        pytest.param(brush(), None, id="without a label"),
        pytest.param(brush("horse"), None, id="of a label the config no longer has"),
        pytest.param(brush("dog"), DOG, id="of a label"),
        pytest.param(brush("dog", from_name="renamed"), DOG, id="of a control the config no longer has"),
        pytest.param(brush("dog", item_index=0), DOG, id="on the first page"),
        pytest.param(brush("dog", original_width=0, original_height="32"), DOG, id="of a size that says nothing"),
        pytest.param(brush("dog", original_width=WIDTH + 1), DOG, id="of a size rounded otherwise"),
    ],
)
def test_brushes(region: dict[str, Any], label: int | None) -> None:
    found = draw(region)
    assert ((found == (VOID if label is None else label)) == left_quarter()).all()


def test_an_ellipse_without_a_label_of_ours_is_void() -> None:
    for labels in ((), ("horse",)):
        found = draw(item("ellipselabels", ELLIPSE, *labels))
        assert (found == VOID).sum() == pytest.approx(np.pi * 12 * 8, rel=0.03)


def test_what_lies_on_an_unnamed_region_stays_and_it_hides_what_is_larger() -> None:
    whole = {"x": 0, "y": 0, "width": 100, "height": 100}
    found = draw(item("rectanglelabels", whole, id="x2"), brush("dog"))
    assert share(found, DOG, left_quarter()) == share(found, VOID, ~left_quarter()) == 1
    found = draw(item("rectanglelabels", BOX), item("polygonlabels", {"points": [[0, 0], [99, 0], [99, 99]]}, "cat"))
    assert share(found, VOID, middle()) == 1


PAIRS = {
    "brush": (brush(kind="brush"), item("labels", brush()["value"], "dog"), left_quarter()),
    "labels without the shape": (brush(kind="brush"), item("labels", {}, "dog"), left_quarter()),
    "brush and brushlabels": (brush(kind="brush"), item("brushlabels", {}, "dog"), left_quarter()),
    "polygon": (item("polygon", {"points": RING}), item("labels", {"points": RING}, "dog"), middle()),
}


@pytest.mark.parametrize(("shape", "labels", "inside"), PAIRS.values(), ids=PAIRS.keys())
def test_a_shape_has_the_label_of_another_item_of_its_id(shape: Any, labels: Any, inside: Any) -> None:
    for items in ((shape, labels), (labels, shape)):
        assert ((draw(*items) == DOG) == inside).all()
        assert len(picture_regions(items, VOCABULARY)) == 1
    assert share(draw(shape), VOID, inside) == 1


@pytest.mark.parametrize(
    ("kind", "value", "inside"),
    [
        pytest.param("brushlabels", brush()["value"], left_quarter(), id="a brush"),
        pytest.param("polygonlabels", {"points": RING, "closed": True}, middle(), id="a polygon"),
    ],
)
@pytest.mark.parametrize("active", ["keypointlabels", "rectanglelabels", "ellipselabels"])
def test_labels_of_other_controls_that_were_active_make_no_second_region(
    kind: str, value: Any, inside: Any, active: str
) -> None:
    """The editor writes such items of a mask that a smart click is answered with, when a label was chosen meanwhile."""
    shape, labels = item(kind, value, "dog"), item(active, value, "cat")
    for items in ((shape, labels), (labels, shape)):
        assert ((draw(*items) == DOG) == inside).all()
        assert [(region.kind, region.item) for region in picture_regions(items, VOCABULARY)] == [(kind[:-6], shape)]
    with pytest.raises(RegionError):
        draw(labels)


@pytest.mark.parametrize(("kind", "value"), [("rectangle", BOX), ("ellipse", ELLIPSE)])
def test_a_box_and_an_ellipse_have_the_label_of_a_labels_control(kind: str, value: Any) -> None:
    found = draw(item(kind, value), item("labels", value, "cat"))
    assert (found == CAT).sum() == pytest.approx(np.pi * 12 * 8, rel=0.03)
    assert draw(item("labels", value, "cat")).tolist() == found.tolist(), "the item of Labels alone has a shape too"


def test_a_region_is_not_named_by_an_answer_to_a_question_about_it() -> None:
    asked = item("choices", BOX | {"choices": ["cat"]})
    assert share(draw(item("rectanglelabels", BOX), asked), CAT) == 0
    assert share(draw(asked), UNLABELLED) == 1


def test_two_shapes_of_one_id_are_two_regions() -> None:
    found = draw(brush("dog"), item("rectanglelabels", BOX))
    assert share(found, DOG, left_quarter()) == share(found, VOID, middle()) == 1


NOTHING = {
    "an empty polygon": item("polygonlabels", {"points": [], "closed": False}, "cat"),
    "a polygon of one point": item("polygonlabels", {"points": [[1, 1]], "closed": True}, "cat"),
    "an open polygon of two points": item("polygonlabels", {"points": [[1, 1], [9, 9]], "closed": False}, "cat"),
    "a closed polygon of two points": item("polygonlabels", {"points": [[1, 1], [9, 9]], "closed": True}, "cat"),
    "a polygon without area": item("polygonlabels", {"points": [[1, 1], [50, 1], [25, 1]]}, "cat"),
    "a polygon of one point thrice": item("polygonlabels", {"points": [[9, 9]] * 3}, "cat"),
    "a polygon outside": item("polygonlabels", {"points": [[101, 0], [150, 0], [150, 90]]}, "cat"),
    "a rectangle outside": item("rectanglelabels", BOX | {"x": 200}, "cat"),
    "a rectangle without height": item("rectanglelabels", BOX | {"height": 0}, "cat"),
    "an ellipse without radius": item("ellipselabels", ELLIPSE | {"radiusX": 0}, "cat"),
    "a brush that paints nothing": item("brushlabels", {"format": "rle", "rle": []}, "cat"),
    "a vector of one vertex": item("vectorlabels", {"vertices": [{"x": 1, "y": 1}], "closed": True}, "cat"),
    "a region on another image": item("rectanglelabels", BOX, "cat", to_name="other"),
    "a broken region on another image": item("rectanglelabels", None, to_name="other"),
    "words of a text": item("hypertextlabels", {"start": 1, "end": 2}, "cat", to_name="words"),
    "words of a text that the config does not have": item("hypertextlabels", {"start": 1}, "cat", to_name="html"),
    "a region on another page": item("rectanglelabels", BOX, "cat", item_index=2),
    "choices": item("choices", {"choices": ["cat"]}),
    "a text": item("textarea", {"text": ["cat"]}, from_name="t"),
    "a rating": item("rating", {"rating": 3}, from_name="t"),
    "a number": item("number", {"number": 3}, from_name="t"),
    "a taxonomy": item("taxonomy", {"taxonomy": [["a", "cat"]]}, from_name="t"),
    "an answer of null": item("choices", None),
    "a relation": {"type": "relation", "from_id": "x1", "to_id": "x2", "direction": "right"},
    "labels of nothing": item("labels", {}, "cat"),
    "what is not known yet": item("gesture", {"strength": 2}, from_name="t"),
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING.keys())
def test_what_covers_nothing_is_passed_over(nothing: Any) -> None:
    assert draw(brush("dog", id="b1"), nothing).tolist() == draw(brush("dog")).tolist()


def test_an_open_polygon_is_a_line_and_what_is_along_it_is_unknown() -> None:
    region = item("polygonlabels", {"points": [[20, 20], [60, 20], [60, 60]], "closed": False}, "cat")
    found = draw(region)
    assert share(found, CAT) == 0
    assert (found[6, 12:28] == VOID).all()
    assert (found[8:18, 28] == VOID).all()
    assert found[10, 20] == UNLABELLED, "it is not filled"
    assert 0.02 < share(found, VOID) < 0.15
    assert share(draw(region, brush("dog")), DOG, left_quarter()) == 1, "it hides nothing"


def test_a_point_makes_a_small_disc_unknown_and_hides_nothing() -> None:
    point = item("keypointlabels", {"x": 50, "y": 50, "width": 5}, "cat")
    found = draw(point)
    assert (found == VOID).sum() == pytest.approx(np.pi * 2.4**2, abs=4)
    assert found[16, 24] == VOID
    assert share(found, CAT) == 0
    assert draw(item("keypointlabels", {"x": 50, "y": 50}))[16, 24] == VOID
    inside = item("keypointlabels", {"x": 10, "y": 50, "width": 5}, "cat")
    assert draw(brush("dog"), inside).tolist() == draw(brush("dog")).tolist()


def test_a_click_whose_answer_was_not_accepted_makes_nothing_background() -> None:
    click = item("keypointlabels", {"x": 10, "y": 50, "width": 1}, "dog", is_positive=True)
    assert share(draw(click), VOID) == 1
    assert draw(brush("dog", id="b1"), click).tolist() == draw(brush("dog")).tolist(), "it is answered"
    beside = draw(item("rectanglelabels", BOX, "cat", id="r1"), click)
    assert (beside == CAT).any() and not (beside == UNLABELLED).any()
    unnamed = item("keypoint", {"x": 10, "y": 50, "width": 1}, is_positive=False)
    assert share(draw(unnamed), VOID) == 1
    assert draw(brush("dog", id="b1"), unnamed).tolist() == draw(brush("dog")).tolist()


def test_a_click_outside_of_what_is_drawn_takes_nothing_from_the_background() -> None:
    outside = item("keypointlabels", {"x": 90, "y": 50, "width": 1}, "dog", is_positive=False)
    found = draw(brush("dog", id="b1"), outside)
    assert share(found, UNLABELLED) > 0.4
    assert share(draw(outside), VOID) == 1, "alone, nobody accepted what it was to correct"


def test_vectors_are_unknown_where_they_may_lie() -> None:
    corners = [{"x": x, "y": y} for x, y in [[25, 25], [75, 25], [75, 75]]]
    found = draw(item("vectorlabels", {"vertices": corners, "closed": False}, "cat"))
    assert (found[8, 12:36] == VOID).all()
    assert found[14, 20] == UNLABELLED
    curved = [*corners[:2], corners[2] | {"isBezier": True, "controlPoint1": {"x": 0, "y": 99}}]
    found = draw(item("vectorlabels", {"vertices": curved, "closed": False}, "cat"))
    assert found[28, 4] == found[14, 30] == VOID
    assert share(found, CAT) == 0


def box(**change: Any) -> dict[str, Any]:
    return item("rectanglelabels", BOX | change, "cat")


MALFORMED = {
    "null": None, "a text": "x", "a number": 7, "a list": [1], "true": True,
    "no type": {"id": "a", "to_name": "image", "value": BOX},
    "type null": box() | {"type": None}, "an object of nothing": {},
    "value null": item("rectanglelabels", None), "value a list": item("brushlabels", [1]),
    "value a text": item("polygonlabels", "x"), "no value": {"id": "a", "to_name": "image", "type": "brush"},
    "x a text": box(x="25"), "x null": box(x=None), "x infinite": box(x=float("inf")), "x true": box(x=True),
    "width no number": box(width=float("nan")), "height vast": box(height=10**400),
    "rotation a text": box(rotation="1"),
    "an ellipse without radius": item("ellipselabels", {"x": 1, "y": 1, "radiusX": 2}, "cat"),
    "an ellipse of texts": item("ellipselabels", ELLIPSE | {"radiusY": "25"}),
    "points null": item("polygonlabels", {"points": None}, "cat"), "no points": item("polygonlabels", {}, "cat"),
    "points of one number": item("polygonlabels", {"points": [[1], [2], [3]]}, "cat"),
    "points of four": item("polygonlabels", {"points": [[1, 2, 3, 4]] * 3}, "cat"),
    "points of texts": item("polygonlabels", {"points": [["1", "2"], ["9", "2"], ["9", "9"]]}, "cat"),
    "points that are numbers": item("polygonlabels", {"points": [1, 2, 3]}, "cat"),
    "points of vast numbers": item("polygonlabels", {"points": [[1, 2], [10**400, 2], [3, 4]]}, "cat"),
    "points that are lists of lists": item("polygonlabels", {"points": [[[1], [2]]] * 3}, "cat"),
    "points are an object": item("polygonlabels", {"points": {"x": 1}}, "cat"),
    "no rle": item("brushlabels", {"format": "rle"}, "cat"), "rle null": item("brushlabels", {"rle": None}, "cat"),
    "rle a text": item("brushlabels", {"rle": "0F"}, "cat"), "rle of texts": item("brushlabels", {"rle": ["1"]}, "cat"),
    "rle of fractions": item("brushlabels", {"rle": [1.5, 2.5]}, "cat"), "rle 7": item("brushlabels", {"rle": 7}),
    "rle below 0": item("brushlabels", {"rle": [-1, 3]}, "cat"), "rle vast": item("brushlabels", {"rle": [10**400]}),
    "rle an object": item("brushlabels", {"rle": {"0": 1}}), "rle too short": item("brushlabels", {"rle": [0] * 9}),
    "rle cut off": item("brushlabels", {"rle": brush()["value"]["rle"][:-3]}, "cat"),
    "rle of another picture": item("brushlabels", {"rle": encode_rle(np.ones((9, 9), dtype=bool))}, "cat"),
    "a mask as a picture": item("brushlabels", {"format": "rle", "maskDataURL": PNG}, "cat"),
    "a bitmask": item("bitmasklabels", {"imageDataURL": PNG}, "cat"),
    "a region of a kind that is not known": item("cuboidlabels", {"cuboid": [1, 2]}, "cat"),
    "a point of nothing": item("keypointlabels", {"width": 1}, "cat"),
    "vertices null": item("vectorlabels", {"vertices": None}, "cat"),
    "vertices of numbers": item("vectorlabels", {"vertices": [1, 2, 3]}, "cat"),
    "vertices without x": item("vectorlabels", {"vertices": [{"y": 1}] * 3}, "cat"),
}  # fmt: skip


@pytest.mark.parametrize("broken", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_one_error_of_ours_that_is_short(broken: Any) -> None:
    with pytest.raises(RegionError) as caught:
        draw(brush("dog", id="b1"), broken)
    assert len(str(caught.value)) < 400
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("size", "told"),
    [
        pytest.param((HEIGHT, WIDTH), "of 32 x 48 pixels, which has 48 x 32 now: it was turned since", id="turned"),
        pytest.param((2 * WIDTH, HEIGHT), "of 96 x 32 pixels, which has 48 x 32 now. Put", id="wider"),
        pytest.param((WIDTH, HEIGHT + 2), "of 48 x 34 pixels", id="a little higher"),
    ],
)  # fmt: skip
def test_a_brush_of_another_size_is_told(size: tuple[int, int], told: str) -> None:
    with pytest.raises(RegionError, match=told):
        draw(brush("dog", original_width=size[0], original_height=size[1]))


def test_a_shape_of_another_size_lies_where_the_editor_shows_it() -> None:
    noted = item("polygonlabels", {"points": RING}, "cat", original_width=1, original_height=1)
    assert share(draw(noted), CAT, middle()) == 1


def test_what_a_broken_region_holds_is_not_told_in_full() -> None:
    with pytest.raises(RegionError) as caught:
        draw(item("brushlabels", None, "cat", id="a" * 10**6))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("rle", ["abc", [1, 2, 3], [0.5], [999]])
def test_a_broken_rle_is_told_as_one_with_what_to_do(rle: Any) -> None:
    with pytest.raises(RegionError, match=r"its rle cannot be read: .* Open the task in Label Studio and delete"):
        draw(item("brushlabels", {"format": "rle", "rle": rle}, "cat"))
