"""Annotations of one image become a class map, by the rules of docs/reference/learning_rules.md."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from plugin_config.errors import RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.vocabulary import OutputKind, parse_vocabulary
from worker.label_studio.annotation_maps import counting_annotations, draw_class_map
from worker.label_studio.picture_regions import find_label
from worker.label_studio.regions import encode_region
from worker.learning.corrections.class_maps import (
    drawn_classes,
    merge_class_maps,
    renumber,
    shrink_nearest,
    with_background,
)
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID
from worker.service.trainer.annotated_example import annotated_example

VOCABULARY = parse_vocabulary(
    """<View><Image name="image" value="$image"/><Image name="other" value="$other"/>
    <BrushLabels name="brush" toName="image"><Label value="cat" alias="c"/><Label value="grass"/></BrushLabels>
    <PolygonLabels name="polygon" toName="image"><Label value="dog"/><Label value="cat"/></PolygonLabels>
    <RectangleLabels name="box" toName="image"><Label value="dog"/></RectangleLabels></View>"""
)
CAT, GRASS, DOG = range(3)
SIZE = (60, 80)


def region(kind: OutputKind, label: str, rows: slice, columns: slice, **more: Any) -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[rows, columns] = True
    control = {"brush": "brush", "polygon": "polygon", "rectangle": "box"}[kind]
    (made,) = encode_region(mask, kind=kind, control=control, to_name="image", label=label, score=0.5)
    return made | more


def annotation(number: int, *, who: int | None = 1, at: str = "2026-01-01T00:00:00Z", **more: Any) -> Annotation:
    fields = {"cancelled": False, "ground_truth": False, "parent_prediction": None, "result": ()} | more
    return Annotation(id=number, task=1, annotator=who, updated_at=at, **fields)


def draw(*regions: dict[str, Any], frame: tuple[int, int] = SIZE) -> np.ndarray[Any, np.dtype[np.int16]]:
    return draw_class_map(regions, VOCABULARY, SIZE, frame)


def test_every_region_type_is_drawn_in_its_place() -> None:
    truth = draw(
        region("brush", "grass", slice(0, 20), slice(0, 80)), region("polygon", "cat", slice(30, 50), slice(5, 25)),
        region("rectangle", "dog", slice(30, 50), slice(40, 70)),
    )  # fmt: skip
    assert VOCABULARY.words == (("cat",), ("grass",), ("dog",))
    assert (truth[:20] == GRASS).all()
    assert (truth[30:50, 5:25] == CAT).all(), "one class, whichever control drew it"
    assert (truth[30:50, 48:62] == DOG).sum() == pytest.approx(20 * 14, abs=8)
    assert truth[30, 40] == truth[49, 69] == VOID, "a box's corners may be anything"
    assert (truth == DOG).sum() == pytest.approx(np.pi / 4 * 20 * 30, rel=0.03)
    assert (truth[52:] == UNLABELLED).all()


def test_the_smaller_lies_on_top_and_of_equals_the_later() -> None:
    small = region("brush", "c", slice(20, 30), slice(20, 30))
    large = region("brush", "grass", slice(0, 60), slice(0, 80))
    for order in ((small, large), (large, small)):
        truth = draw(*order)
        assert (truth[20:30, 20:30] == CAT).all()
        assert (truth == GRASS).sum() == 60 * 80 - 100
    same = region("polygon", "dog", slice(20, 30), slice(20, 30))
    assert (draw(small, same)[20:30, 20:30] == DOG).all()
    assert (draw(same, small)[20:30, 20:30] == CAT).all()


def test_corners_of_a_box_hide_no_other_region() -> None:
    grass = region("brush", "grass", slice(0, 60), slice(0, 80))
    truth = draw(region("rectangle", "dog", slice(10, 30), slice(10, 30)), grass)
    assert truth[10, 10] == GRASS
    assert truth[20, 20] == DOG


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({}, "c", id="as it is"),
        pytest.param({"to_name": "other"}, None, id="on another image"),
        pytest.param({"from_name": "gone"}, "c", id="by a control that is not in the vocabulary"),
        pytest.param({"from_name": None}, None, id="by no control"),
        pytest.param({"value": {"brushlabels": ["cat"]}}, "c", id="by its value, where it has an alias"),
        pytest.param({"value": {"brushlabels": ["gone"]}}, None, id="of a label that vanished"),
        pytest.param({"value": {"brushlabels": ["gone", "grass", "c"]}}, "grass", id="of several the first left"),
        pytest.param({"type": "choices", "value": {"choices": ["c"]}, "from_name": "x"}, None, id="no region"),
        pytest.param({"type": "relation", "value": None}, None, id="no value"),
        pytest.param({"value": {"brushlabels": [None]}}, None, id="no text"),
    ],
)
def test_labels_are_those_of_the_labeling_config(change: dict[str, Any], found: str | None) -> None:
    label = find_label(region("brush", "c", slice(0, 9), slice(0, 9), **change), VOCABULARY)
    assert (label.key if label else None) == found


def test_a_broken_region_is_an_error() -> None:
    with pytest.raises(RegionError):
        draw(region("brush", "c", slice(0, 9), slice(0, 9), value={"brushlabels": ["c"], "rle": [1, 2]}))


def test_regions_are_drawn_small_as_they_are_large() -> None:
    cat = region("brush", "c", slice(10, 40), slice(10, 40))
    regions = [cat, region("polygon", "dog", slice(10, 40), slice(50, 70))]
    small = draw(*regions, frame=(30, 40))
    assert (small == shrink_nearest(draw(*regions), (30, 40))).all()
    assert (small[5:20, 5:20] == CAT).all()


def test_ordinary_annotations_are_drawn_as_they_always_were() -> None:
    """Another class map for the same annotation would have every project learn again."""
    turned = region("rectangle", "dog", slice(20, 40), slice(10, 50))
    turned["value"]["rotation"] = 30
    points = [[10.5, 70], [60, 55.25], [95, 90], [40, 65], [30, 99.9]]
    crooked = region("polygon", "cat", slice(0, 9), slice(0, 9)) | {
        "value": {"points": points, "closed": True, "polygonlabels": ["cat"]}
    }
    regions = [region("brush", "grass", slice(25, 60), slice(0, 70)), turned, crooked, {"type": "relation"}]
    found = {frame: sha256(draw(*regions, frame=frame).tobytes()).hexdigest()[:12] for frame in (SIZE, (31, 41))}
    assert found == {SIZE: "64dc519ef5a2", (31, 41): "d4627f309b29"}


def test_which_annotations_count() -> None:
    skipped, first, again = annotation(1, cancelled=True), annotation(2), annotation(3, at="2026-01-02T00:00:00Z")
    other, gone, gone_too = annotation(4, who=2), annotation(5, who=None), annotation(6, who=None)
    rows = [again, skipped, gone_too, first, other, gone]
    assert [row.id for row in counting_annotations(rows)] == [3, 4, 5, 6]
    flagged = annotation(7, who=2, ground_truth=True)
    assert counting_annotations([*rows, flagged]) == [flagged]
    assert counting_annotations([*rows, annotation(8, ground_truth=True, cancelled=True)]) != []
    assert counting_annotations([skipped]) == []


IMPORTED: dict[str, Any] = {"imported": True, "ground_truth": True, "at": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    ("others", "counting"),
    [
        pytest.param([], [1], id="alone"),
        pytest.param([annotation(2, at="2026-01-03T00:00:00Z")], [2], id="a later one by the same person"),
        pytest.param([annotation(2, who=2, at="2026-01-03T00:00:00Z")], [2], id="a later one by another person"),
        pytest.param([annotation(2, who=None, at="2026-01-03T00:00:00Z")], [2], id="by a person who is deleted"),
        pytest.param([annotation(2, who=2, at="2026-01-03T00:00:00Z"), annotation(3, who=3)], [2, 3],
                     id="then whoever made one counts"),
        pytest.param([annotation(2, who=2)], [1], id="an earlier one"),
        pytest.param([annotation(2, who=2, at="2026-01-02T00:00:00Z")], [2], id="at the same time, made later"),
        pytest.param([annotation(2, at="2026-01-03T00:00:00Z", cancelled=True)], [1], id="a later one, skipped"),
        pytest.param([annotation(2, at="2026-01-03T00:00:00Z", imported=True)], [1], id="another import"),
        pytest.param([annotation(2, who=2, ground_truth=True)], [1, 2], id="an earlier ground truth by a person"),
        pytest.param([annotation(2, who=2, ground_truth=True, at="2026-01-03T00:00:00Z")], [2],
                     id="a later ground truth by a person"),
        pytest.param([annotation(2, who=2, ground_truth=True, imported=True)], [1, 2], id="two imported ones"),
    ],
)  # fmt: skip
def test_a_later_annotation_by_a_person_outranks_an_imported_ground_truth(
    others: list[Annotation], counting: list[int]
) -> None:
    rows = [annotation(1, **IMPORTED), *others]
    assert [row.id for row in counting_annotations(rows)] == counting
    assert [row.id for row in counting_annotations(rows[::-1])] == counting


def test_a_ground_truth_that_a_person_flagged_is_outranked_by_nobody() -> None:
    flagged, later = annotation(1, ground_truth=True), annotation(2, who=2, at="2026-01-03T00:00:00Z")
    assert counting_annotations([flagged, later]) == [flagged]


def test_annotators_are_merged_by_majority_and_ties_are_void() -> None:
    votes = np.array([[0, 0, 0, 0, VOID, 0], [0, 0, 1, 1, 1, VOID], [0, 1, 2, 1, VOID, 1]], dtype=np.int16)[:, None]
    assert merge_class_maps(list(votes)).tolist() == [[0, 0, VOID, 1, 1, VOID]]
    assert merge_class_maps([votes[0], votes[1]]).tolist() == [[0, 0, VOID, VOID, 1, 0]]
    assert merge_class_maps([np.full((1, 1), UNLABELLED, dtype=np.int16)] * 2).tolist() == [[UNLABELLED]]


def test_a_large_image_is_reduced_with_its_truth() -> None:
    import torch

    image = np.zeros((*SIZE, 3), dtype=np.uint8)
    image[10:40, 10:40] = 200
    embedding = ImageEmbedding(torch.zeros(3, 4, 2), SIZE)
    rows = [annotation(1, result=[region("brush", "c", slice(10, 40), slice(10, 40))])]
    example = annotated_example("1", rows, VOCABULARY, image, embedding, longest_side=40)
    assert example.image.shape == (30, 40, 3)
    assert example.embedding.size == example.truth.shape == (30, 40)
    assert ((example.image[..., 0] == 200) == (example.truth == CAT)).all()
    assert annotated_example("1", rows, VOCABULARY, image, embedding).image is image
    half = np.ascontiguousarray(image[::2, ::2])  # what was embedded of it, where it is larger than is segmented
    reduced = annotated_example("1", rows, VOCABULARY, half, embedding, longest_side=40, size=SIZE)
    assert np.array_equal(reduced.truth, example.truth)
    assert reduced.image.shape == example.image.shape


def test_class_maps_are_renumbered_and_get_a_background_but_void_stays_void() -> None:
    drawn = np.array([[0, 1, 2, UNLABELLED, VOID]], dtype=np.int16)
    assert renumber(drawn, [2, VOID, 0]).tolist() == [[2, VOID, 0, UNLABELLED, VOID]]
    assert with_background(drawn, 3).tolist() == [[0, 1, 2, 3, VOID]]
    assert renumber(drawn, [0, 1, 2]).dtype == with_background(drawn, 3).dtype == np.int16
    assert drawn_classes(drawn) == {0, 1, 2}
