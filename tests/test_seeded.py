"""Seeded wrong masks: known by their ids, moved away from what is there, and never learned from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import OutputKind, Vocabulary, parse_vocabulary
from worker.label_studio.annotation_maps import draw_class_map
from worker.label_studio.outcomes import RegionOutcomes, count_records, region_records
from worker.label_studio.region_ids import ALPHABET, ID_LENGTH, new_region_id
from worker.label_studio.regions import decode_region, encode_region
from worker.label_studio.seeded import (
    SeededOutcomes,
    count_seeded,
    holds_seeded,
    is_seeded,
    seed_region,
    seeded_region_id,
)
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

SIZE = (80, 100)
TAGS = {"brush": "BrushLabels", "polygon": "PolygonLabels", "rectangle": "RectangleLabels", "bitmask": "BitmaskLabels"}


def vocabulary_of(kind: str) -> Vocabulary:
    return parse_vocabulary(
        f"""<View><Image name="image" value="$image"/><{TAGS[kind]} name="c" toName="image">
        <Label value="cat"/><Label value="dog"/></{TAGS[kind]}></View>"""
    )


def block(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[rows, columns] = True
    return mask


def region(mask: NDArray[np.bool_], kind: OutputKind = "brush", label: str = "cat") -> dict[str, Any]:
    (made,) = encode_region(mask, kind=kind, control="c", to_name="image", label=label, score=0.75)
    return made


def prediction(*regions: dict[str, Any]) -> StoredPrediction:
    return StoredPrediction(1, 1, "ours", regions, 0.5)


def annotation(*regions: dict[str, Any]) -> Annotation:
    return Annotation(1, 1, regions, False, False, 1, 1, "2026")


def test_ids_look_like_any_other_and_are_known() -> None:
    ids = [seeded_region_id() for _ in range(1000)]
    assert all(map(is_seeded, ids))
    assert len(set(ids)) == 1000
    assert {len(identity) for identity in ids} == {ID_LENGTH}
    assert set("".join(ids)) <= set(ALPHABET)
    assert not any(is_seeded(new_region_id()) for _ in range(1000))
    assert not any(map(is_seeded, [None, "", "abc", ids[0] + "x", ids[0][::-1]]))


@pytest.mark.parametrize("kind", TAGS)
def test_a_region_is_moved_whole_to_where_nothing_of_its_label_is(kind: Any) -> None:
    there = block(slice(5, 25), slice(5, 35))
    other = block(slice(50, 75), slice(5, 35))
    given = prediction(region(there, kind), region(other, kind))
    (made,) = seed_region(given, vocabulary_of(kind))
    assert is_seeded(made["id"])
    assert (made["from_name"], made["type"], made["score"]) == ("c", f"{kind}labels", 0.75)
    mask = decode_region(made, SIZE[1], SIZE[0])
    assert np.count_nonzero(mask) == pytest.approx(np.count_nonzero(there), rel=0.1)
    assert not (mask & (there | other)).any()
    assert [decode_region(item, SIZE[1], SIZE[0]).any() for item in given.result] == [True, True], "they stay"


def test_what_cannot_be_moved_gives_nothing() -> None:
    cat = vocabulary_of("brush")
    assert seed_region(prediction(), cat) == []
    assert seed_region(prediction(region(block(slice(0, 80), slice(0, 90)))), cat) == [], "too large"
    assert seed_region(prediction(region(block(slice(0, 2), slice(0, 2)))), cat) == [], "too small"
    full = region(block(slice(20, 80), slice(0, 100)))
    assert seed_region(prediction(region(block(slice(0, 18), slice(0, 100))), full), cat) == [], "no room"
    assert seed_region(prediction(region(block(slice(5, 25), slice(5, 35))) | {"original_width": None}), cat) == []
    (made,) = seed_region(prediction(region(block(slice(5, 25), slice(5, 35)))), cat)
    assert seed_region(prediction(made), cat) == [], "a seeded one is not moved again"


def test_what_is_left_in_is_not_learned_from_and_counts_in_no_share() -> None:
    vocabulary = vocabulary_of("brush")
    true = region(block(slice(5, 25), slice(5, 35)))
    (wrong,) = seed_region(prediction(true), vocabulary)
    shown, taken = prediction(true, wrong), [{**item, "origin": "prediction"} for item in (true, wrong)]
    drawn = draw_class_map(taken, vocabulary, SIZE, SIZE)
    mask = decode_region(wrong, SIZE[1], SIZE[0])
    assert (drawn[mask] == VOID).all()
    assert (drawn[5:25, 5:35] == 0).all()
    assert (drawn == UNLABELLED).sum() == drawn.size - 2 * 20 * 30
    for rows in (taken, taken[:1]):
        records = region_records(annotation(*rows), [shown], vocabulary)
        assert count_records(records) == {"cat": RegionOutcomes(accepted=1)}
    relabelled = {**taken[1], "value": {**wrong["value"], "brushlabels": ["dog"]}, "origin": "prediction-changed"}
    records = region_records(annotation(taken[0], relabelled), [shown], vocabulary)
    assert count_records(records) == {"cat": RegionOutcomes(accepted=1)}
    assert VOID in draw_class_map([relabelled], vocabulary, SIZE, SIZE)
    assert 1 not in draw_class_map([relabelled], vocabulary, SIZE, SIZE), "nor when somebody changed it"


def test_what_became_of_them_is_counted() -> None:
    vocabulary = vocabulary_of("brush")
    true = region(block(slice(5, 25), slice(5, 35)))
    (wrong,) = seed_region(prediction(true), vocabulary)
    shown = prediction(true, wrong)
    changed = {**wrong, "value": region(block(slice(0, 9), slice(0, 9)))["value"], "origin": "prediction-changed"}
    assert count_seeded(annotation(true, wrong), shown) == SeededOutcomes(left=1)
    assert count_seeded(annotation(true, {**wrong, "origin": "prediction"}), shown) == SeededOutcomes(left=1)
    assert count_seeded(annotation(true), shown) == SeededOutcomes(deleted=1)
    assert count_seeded(annotation(changed, cast(Any, 7)), shown) == SeededOutcomes(changed=1)
    assert count_seeded(annotation(wrong), None) == SeededOutcomes()
    assert count_seeded(annotation(wrong), replace(shown, result=[true])) == SeededOutcomes()


def test_a_dragged_or_relabelled_polygon_is_changed_whatever_the_editor_notes() -> None:
    true = region(block(slice(5, 25), slice(5, 35)), "polygon")
    (wrong,) = seed_region(prediction(true), vocabulary_of("polygon"))
    shown = prediction(true, wrong)
    points = [[x + 3, y] for x, y in wrong["value"]["points"]]
    rounded = [[x + 1e-5, y] for x, y in wrong["value"]["points"]]
    for change, outcome in (
        ({"points": points}, SeededOutcomes(changed=1)),
        ({"points": rounded}, SeededOutcomes(left=1)),
        ({"points": rounded, "polygonlabels": ["dog"]}, SeededOutcomes(changed=1)),
    ):
        submitted = annotation({**wrong, "value": {**wrong["value"], **change}, "origin": "prediction"})
        assert count_seeded(submitted, shown) == outcome
        assert holds_seeded(submitted, shown) == bool(outcome.left)


def test_one_that_was_left_in_is_known_without_its_prediction() -> None:
    true = region(block(slice(5, 25), slice(5, 35)))
    (wrong,) = seed_region(prediction(true), vocabulary_of("brush"))
    left, changed = ({**wrong, "origin": origin} for origin in ("prediction", "prediction-changed"))
    for gone in (None, prediction(true)):
        assert holds_seeded(annotation(true, left), gone)
        assert not holds_seeded(annotation(true, changed), gone), "the editor notes that it was caught"
        assert not holds_seeded(annotation(true, cast(Any, 7)), gone)
