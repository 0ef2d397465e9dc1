"""What became of each predicted region, told by ids, origins and what is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.outcomes import (
    EmptyRecord,
    RegionOutcomes,
    RegionRecord,
    count_records,
    empty_record,
    find_parent,
    region_records,
    sum_outcomes,
)

VOCABULARY = parse_vocabulary(
    """<View><Image name="image" value="$image"/><PolygonLabels name="polygon" toName="image">
    <Label value="cat"/><Label value="dog"/></PolygonLabels></View>"""
)
ACCEPTED, CHANGED = RegionOutcomes(accepted=1), RegionOutcomes(changed=1)
LONG = "0f" * 16  # an id as earlier versions made them, of the first island of a mask; "-1" followed for the next
ADDED, DELETED = RegionOutcomes(added=1), RegionOutcomes(deleted=1)


def region(name: str, label: str = "cat", *, x: float = 0.0, **more: Any) -> dict[str, Any]:
    value = {"points": [[x, 0], [50, 0], [0, 50]], "closed": True, "polygonlabels": [label]}
    return {"id": name, "from_name": "polygon", "to_name": "image", "type": "polygonlabels", "value": value} | more


def brush(name: str, rle: list[int], **more: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": rle, "brushlabels": ["cat"]}
    return region(name, **more) | {"type": "brushlabels", "value": value}


def vector(name: str, *, x: float = 0.0, **more: Any) -> dict[str, Any]:
    vertices = [{"id": name, "x": x, "y": 0}, {"id": name, "x": 50, "y": 0}, {"id": name, "x": 0, "y": 50}]
    value = {"vertices": vertices, "closed": True, "vectorlabels": ["cat"]}
    return region(name, **more) | {"type": "vectorlabels", "value": value}


def count_outcomes(
    annotation: Annotation, predictions: Sequence[StoredPrediction], vocabulary: Vocabulary, ours: Collection[str] = ()
) -> dict[str, RegionOutcomes]:
    return count_records(region_records(annotation, predictions, vocabulary, ours))


def annotation(*regions: dict[str, Any], parent: int | None = 1) -> Annotation:
    return Annotation(1, 1, regions, False, False, parent, 1, "2026-01-01T00:00:00Z")


def prediction(*regions: dict[str, Any], number: int = 1, version: str = "ours") -> StoredPrediction:
    return StoredPrediction(number, 1, version, regions, 0.5)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        pytest.param([region("a")], [region("a")], {"cat": ACCEPTED}, id="the same"),
        pytest.param([region("a")], [region("a", x=1)], {"cat": CHANGED}, id="another outline"),
        pytest.param([region("a")], [region("a", x=1e-9, origin="prediction")], {"cat": ACCEPTED}, id="untouched"),
        pytest.param([region("a")], [region("a", x=1, origin="prediction")], {"cat": CHANGED}, id="a point dragged"),
        pytest.param([brush("a", [1])], [brush("a", [2], origin="prediction")], {"cat": ACCEPTED}, id="other bytes"),
        pytest.param([vector("a")], [vector("a", x=1, origin="prediction")], {"cat": CHANGED}, id="a vertex dragged"),
        pytest.param([region("a")], [region("a", x=1, origin="prediction-changed")], {"cat": CHANGED}, id="touched"),
        pytest.param([region("a")], [region("a", "dog", origin="prediction")], {"cat": CHANGED}, id="another label"),
        pytest.param([region("a")], [], {"cat": DELETED}, id="deleted"),
        pytest.param([], [region("b", "dog")], {"dog": ADDED}, id="added"),
        pytest.param([region("a")], [region("b")], {"cat": ADDED + DELETED}, id="drawn anew"),
        pytest.param([region("a", "gone")], [region("a", "dog")], {"dog": ADDED}, id="its label vanished"),
        pytest.param([region("a")], [region("a", "gone")], {"cat": CHANGED}, id="given a vanished one"),
        pytest.param([region("a", "gone")], [], {}, id="a label that vanished, deleted"),
        pytest.param([], [{"id": "c", "type": "choices", "value": {"choices": ["x"]}}], {}, id="no region"),
    ],
)  # fmt: skip
def test_what_became_of_a_region(before: list[Any], after: list[Any], found: dict[str, RegionOutcomes]) -> None:
    assert count_outcomes(annotation(*after), [prediction(*before)], VOCABULARY) == found


def answer(kind: str, name: str = "a", **more: Any) -> dict[str, Any]:
    """An answer about region `name`, which repeats its shape as the editor does."""
    value = dict(region(name)["value"], polygonlabels=None) | {kind: ["good"]}
    return {"id": name, "from_name": "q", "to_name": "image", "type": kind, "origin": "manual", "value": value} | more


@pytest.mark.parametrize("kind", ["choices", "textarea", "number", "rating", "taxonomy", "datetime", "pairwise"])
@pytest.mark.parametrize("first", [True, False], ids=["before it", "behind it"])
def test_an_answer_about_a_region_is_no_region_of_its_own(kind: str, first: bool) -> None:
    taken = region("a", origin="prediction")
    items = [answer(kind), taken] if first else [taken, answer(kind)]
    assert count_outcomes(annotation(*items), [prediction(region("a"))], VOCABULARY) == {"cat": ACCEPTED}
    assert count_outcomes(annotation(*items), [prediction(region("a"), answer(kind))], VOCABULARY) == {"cat": ACCEPTED}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        pytest.param([region("a")], [answer("choices")], {"cat": DELETED}, id="an answer about a region deleted"),
        pytest.param([], [answer("choices", to_name="image")], {}, id="an answer about the whole image"),
        pytest.param([region("a")], [region("a"), {"type": "relation", "from_id": "a", "to_id": "a"}],
                     {"cat": ACCEPTED}, id="a relation"),
        pytest.param([region("a")], [region("a", type="polygon"), region("a", type="labels", from_name="l")],
                     {"cat": ACCEPTED}, id="a shape and its label"),
        pytest.param([region("a") | {"id": None}], [region("a") | {"id": None}], {"cat": ADDED + DELETED}, id="no ids"),
        pytest.param([region("a") | {"id": 7}], [region("a") | {"id": 7}], {"cat": ACCEPTED}, id="numbers as ids"),
        pytest.param([region("a") | {"id": [7]}], [region("a") | {"id": {}}], {"cat": ADDED + DELETED}, id="lists"),
        pytest.param([region("a")], [region("a"), region("b", value={"points": [[1, 1]], "polygonlabels": ["cat"]})],
                     {"cat": ACCEPTED}, id="a polygon of one point"),
        pytest.param([region("a")], [region("a"), region("a")], {"cat": ACCEPTED}, id="an id twice"),
        pytest.param([region(LONG), region(f"{LONG}-1", "dog")], [region(LONG), region(f"{LONG}-1", "dog", x=1)],
                     {"cat": ACCEPTED, "dog": CHANGED}, id="islands by an earlier version"),
        pytest.param([{"id": "a", "type": 7}, {}, region("a", type=None)], [region("a")], {"cat": ADDED},
                     id="a prediction that is malformed"),
        pytest.param([region("a", value=None)], [region("a")], {"cat": ADDED}, id="a prediction without a shape"),
    ],
)  # fmt: skip
def test_odd_items_are_counted_once_or_not_at_all(
    before: list[Any], after: list[Any], found: dict[str, RegionOutcomes]
) -> None:
    assert count_outcomes(annotation(*after), [prediction(*before)], VOCABULARY) == found


def test_a_parent_is_not_found_by_ids_that_are_missing() -> None:
    odd = prediction(region("a", id=None), {"type": "choices"}, number=1)
    assert find_parent(annotation(region("a", id=None), {"id": None}, parent=None), [odd]) is None


def test_a_prediction_that_was_deleted_since_is_replaced_by_what_the_editor_noted() -> None:
    regions = [region("a", origin="prediction"), region("b", origin="prediction-changed"), region("c", origin="manual")]
    assert count_outcomes(annotation(*regions, parent=None), [], VOCABULARY) == {"cat": RegionOutcomes(1, 1, 1, 0)}


def test_the_prediction_is_found_by_the_ids_of_its_regions_when_none_is_named() -> None:
    one, two = prediction(region("x"), number=1), prediction(region("a"), region("b"), number=2)
    made = annotation(region("a"), region("c"), parent=None)
    assert find_parent(made, [one, two]) == two
    assert count_outcomes(made, [one, two], VOCABULARY) == {"cat": RegionOutcomes(1, 0, 1, 1)}
    assert find_parent(annotation(region("c"), parent=None), [one, two]) is None
    assert find_parent(annotation(region("a"), parent=1), [one, two]) == one, "what is named comes first"


def test_predictions_of_others_say_nothing_about_ours() -> None:
    foreign = prediction(region("a"), region("b"), version="somebody-elses")
    assert count_outcomes(annotation(region("a")), [foreign], VOCABULARY, {"ours"}) == {"cat": ADDED}
    assert count_outcomes(annotation(region("a")), [foreign], VOCABULARY) == {"cat": ACCEPTED + DELETED}


def test_outcomes_add_up() -> None:
    total = sum_outcomes([{"cat": RegionOutcomes(3, 1, 5, 0)}, {"cat": DELETED, "dog": ADDED}])
    assert total == {"cat": RegionOutcomes(3, 1, 5, 1), "dog": ADDED}


SIZED = {"original_width": 200, "original_height": 100}


def triangle(name: str, label: str = "cat", *, left: float = 0.0, **more: Any) -> dict[str, Any]:
    """A right-angled triangle of which `left` percent of the image's width are cut off."""
    points = [[left, 0], [100, 0], [100, 100]]
    return region(name, label, value={"points": points, "closed": True, "polygonlabels": [label]}, **SIZED, **more)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        pytest.param([region("a", score=0.9)], [region("a")], [("cat", "accepted", 0.9, 1.0)], id="accepted"),
        pytest.param([region("a", score=1)], [], [("cat", "deleted", 1.0, 0.0)], id="deleted"),
        pytest.param([], [region("b", score=0.4)], [("cat", "added", None, None)], id="added"),
        pytest.param([region("a")], [region("a")], [("cat", "accepted", None, 1.0)], id="stored without a score"),
        pytest.param([region("a", score="0.5")], [region("a")], [("cat", "accepted", None, 1.0)], id="a text"),
        pytest.param([region("a", score=7.0)], [region("a")], [("cat", "accepted", None, 1.0)], id="no probability"),
        pytest.param([region("a", score=0.2)], [region("a", x=1)], [("cat", "changed", 0.2, None)], id="of no size"),
        pytest.param([triangle("a", score=0.2)], [triangle("a", left=50)], [("cat", "changed", 0.2, 0.5)], id="half"),
        pytest.param([triangle("a", score=0.2)], [triangle("a", "dog")], [("cat", "changed", 0.2, 1.0)],
                     id="another label"),
        pytest.param([brush("a", [1], **SIZED)], [brush("a", [2], **SIZED)], [("cat", "changed", None, None)],
                     id="not to be drawn"),
        pytest.param([region("a", score=0.9)], [region("a"), region("b", "dog")],
                     [("cat", "accepted", 0.9, 1.0), ("dog", "added", None, None)], id="one beside it"),
    ],
)  # fmt: skip
def test_a_record_has_score_and_edit_of_its_region(before: list[Any], after: list[Any], found: list[Any]) -> None:
    records = region_records(annotation(*after), [prediction(*before)], VOCABULARY, draw=True)
    rounded = [(row.label, row.outcome, row.score, row.edit_iou and round(row.edit_iou, 1)) for row in records]
    assert rounded == found


def test_a_record_names_the_version_and_its_raw_score() -> None:
    before = [region("a", score=0.9, raw_score=0.4), region("b", score=0.8), region("c", score=0.7, raw_score="x")]
    records = region_records(annotation(region("a"), region("d")), [prediction(*before)], VOCABULARY)
    assert [(row.score, row.raw_score, row.version) for row in records] == [
        (0.9, 0.4, "ours"), (None, None, ""), (0.8, 0.8, "ours"), (0.7, 0.7, "ours"),
    ]  # fmt: skip


def test_changed_regions_are_drawn_on_request_alone() -> None:
    before, after = [triangle("a", score=0.2)], annotation(triangle("a", left=50))
    (record,) = region_records(after, [prediction(*before)], VOCABULARY)
    assert (record.outcome, record.edit_iou) == ("changed", None)


def test_the_mask_of_a_changed_brush_is_that_of_its_pixels() -> None:
    size = {"original_width": 1600, "original_height": 800}
    left, both = np.zeros((800, 1600), np.bool_), np.ones((800, 1600), np.bool_)
    left[:, :800] = True
    before, after = ({**brush("a", encode_rle(mask)), **size} for mask in (left, both))
    (record,) = region_records(annotation(after), [prediction(before)], VOCABULARY, draw=True)
    assert record.edit_iou == pytest.approx(0.5)


def test_a_foreign_or_missing_prediction_gives_no_scores() -> None:
    stored, kept = [region("a", score=0.9)], region("a", score=0.9, origin="prediction")
    foreign = region_records(annotation(kept), [prediction(*stored, version="theirs")], VOCABULARY, {"ours"})
    gone = region_records(annotation(kept, parent=None), [], VOCABULARY)
    assert foreign == [RegionRecord("cat", "added", None, None)]
    assert gone == [RegionRecord("cat", "accepted", None, 1.0)]


def test_a_prediction_without_regions_is_right_where_nothing_was_added() -> None:
    empty = replace(prediction(), missed=0.25)

    def became(after: Annotation, *predictions: StoredPrediction, ours: tuple[str, ...] = ()) -> EmptyRecord | None:
        return empty_record(after, predictions, VOCABULARY, ours)

    answer = {"from_name": "more", "to_name": "image", "type": "choices", "value": {"choices": ["yes"]}}
    assert became(annotation(), empty) == EmptyRecord(True, 0.75, "ours")
    assert became(annotation(answer), empty) == EmptyRecord(True, 0.75, "ours")
    assert became(annotation(region("a", label="bird")), empty) == EmptyRecord(True, 0.75, "ours"), "none of its labels"
    assert became(annotation(region("a")), replace(empty, result=[answer])) == EmptyRecord(False, 0.75, "ours")
    assert became(annotation(), empty, ours=("ours",)) is not None
    assert became(annotation(), empty, ours=("others",)) is None
    assert became(annotation(parent=None), empty) is None, "made from nothing"
    assert became(annotation()) is None, "deleted since"
    assert became(annotation(), prediction()) is None, "it notes no chance"
    assert became(annotation(), replace(empty, result=[region("a")])) is None, "it has a region"
