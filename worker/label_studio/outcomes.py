"""What annotators did with the predicted regions: accepted, changed, deleted, added.

Regions are compared by their ids and points; the masks of changed ones are drawn on request alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.picture_regions import PictureRegion, item_id, picture_regions
from worker.label_studio.region_changes import is_unchanged
from worker.label_studio.regions import RAW_SCORE, decode_region, region_kind
from worker.label_studio.seeded import is_seeded
from worker.learning.corrections.class_maps import shrink_nearest
from worker.segmentation.metrics import mask_iou

Outcome = Literal["accepted", "changed", "deleted", "added"]
"""What became of a region; a changed one was redrawn or given another label."""

_EDIT_SIDE = 640  # pixels of the longer side at which masks are compared


@dataclass(frozen=True)
class RegionRecord:
    """What became of one region.

    Attributes:
        label: key of the predicted label, or for an added region of its own.
        outcome: what became of it.
        score: of the predicted region as it is stored; None where it was added or stored without one, or where its
            prediction is gone.
        edit_iou: IoU of the predicted and the final mask, whatever its label, in [0, 1]: 1 for an accepted one, 0 for a
            deleted one; None for an added one, and where it was not asked for or cannot be drawn.
        raw_score: the score before calibration; the score itself where none is stored beside it.
        version: of the prediction it was taken from; "" where there is none.
    """

    label: str
    outcome: Outcome
    score: float | None
    edit_iou: float | None
    raw_score: float | None = None
    version: str = ""


@dataclass(frozen=True)
class EmptyRecord:
    """What became of a prediction without regions.

    Attributes:
        right: whether it was submitted without regions.
        raw_score: the chance that nothing is there, before calibration, in [0, 1).
        version: of the prediction.
    """

    right: bool
    raw_score: float
    version: str


@dataclass(frozen=True)
class RegionOutcomes:
    """Number of regions of one label. `changed` ones were redrawn or given another label, and count for the predicted
    label.
    """

    accepted: int = 0
    changed: int = 0
    added: int = 0
    deleted: int = 0

    def __add__(self, other: RegionOutcomes) -> RegionOutcomes:
        return RegionOutcomes(
            self.accepted + other.accepted, self.changed + other.changed, self.added + other.added,
            self.deleted + other.deleted,
        )  # fmt: skip


def region_records(
    annotation: Annotation, predictions: Sequence[StoredPrediction], vocabulary: Vocabulary, ours: Collection[str] = (),
    *, draw: bool = False,
) -> list[RegionRecord]:  # fmt: skip
    """Compare an annotation with the prediction it was made from, region by region.

    A region keeps its id when an annotator takes it over; `region_changes` tells whether it was changed.

    Args:
        annotation: not cancelled.
        predictions: of the task.
        vocabulary: whose labels count; others do not.
        ours: versions of our predictions, as the ledger keeps them; regions taken from other predictions count as
            added. Empty = all are ours.
        draw: whether to draw the changed regions for their `edit_iou`, which takes milliseconds for each: at the size
            of image that they note, reduced to 640 pixels of the longer side.

    Returns:
        a record for each region of the annotation, then one for each that was deleted.
    """
    parent = find_parent(annotation, predictions)
    foreign = parent is not None and bool(ours) and parent.version not in ours
    before, after = _by_id(_predicted(parent, vocabulary)), _by_id(picture_regions(annotation.result, vocabulary))
    found: list[RegionRecord] = []
    kept = set()
    for identity, region in after.items():
        old = before.get(identity) if isinstance(identity, str) else None
        old_label = None if old is None else old.label
        if old_label is not None:
            kept.add(identity)
        counted = old_label if old_label is not None and not foreign else region.label
        if counted is not None:
            outcome: Outcome = "added" if foreign else _outcome(region, old, known=parent is not None)
            taken = None if outcome == "added" else old
            found.append(_record(counted, outcome, taken, _edit_iou(outcome, taken, region, draw), parent))
    for identity, region in before.items():
        if region.label is not None and identity not in kept and not foreign:
            found.append(_record(region.label, "deleted", region, 0.0, parent))
    return found


def empty_record(
    annotation: Annotation, predictions: Sequence[StoredPrediction], vocabulary: Vocabulary, ours: Collection[str] = ()
) -> EmptyRecord | None:
    """What became of the prediction that an annotation was made from, where it has no regions and notes the chance that
    nothing is there. Arguments as of `region_records`; the task has one image.
    """
    parent = find_parent(annotation, predictions)
    if parent is None or parent.missed is None or (ours and parent.version not in ours):
        return None
    if any(region.label is not None for region in _predicted(parent, vocabulary)):
        return None
    drawn = any(region.label is not None for region in picture_regions(annotation.result, vocabulary))
    return EmptyRecord(not drawn, 1 - parent.missed, parent.version)


def _by_id(regions: Iterable[PictureRegion]) -> dict[str | int, PictureRegion]:
    """One region for all items of an id; those without one are nobody's. Seeded ones say nothing about the model."""
    return {row.identity or number: row for number, row in enumerate(regions) if not is_seeded(row.identity)}


def count_records(records: Iterable[RegionRecord]) -> dict[str, RegionOutcomes]:
    """Count the outcomes of regions by label key."""
    return sum_outcomes({record.label: RegionOutcomes(**{record.outcome: 1})} for record in records)


def find_parent(annotation: Annotation, predictions: Sequence[StoredPrediction]) -> StoredPrediction | None:
    """Find the prediction an annotation was made from: the one it names, else the one with most of its region ids."""
    for prediction in predictions:
        if prediction.id == annotation.parent_prediction:
            return prediction
    ids = _ids(annotation.result)
    shared = [(len(ids & _ids(prediction.result)), prediction.id, prediction) for prediction in predictions]
    best = max(shared, default=None, key=lambda row: row[:2])
    return best[2] if best is not None and best[0] else None


def _ids(result: Sequence[Any]) -> set[str]:
    found = {item_id(item) for item in result if isinstance(item, Mapping)}
    return {identity for identity in found if identity is not None}


def _predicted(prediction: StoredPrediction | None, vocabulary: Vocabulary) -> list[PictureRegion]:
    """Regions of a prediction; what others stored in it may be malformed, which costs nothing."""
    if prediction is None:
        return []
    items = [item for item in prediction.result if isinstance(item, Mapping) and isinstance(item.get("type"), str)]
    return picture_regions(items, vocabulary)


def sum_outcomes(parts: Iterable[Mapping[str, RegionOutcomes]]) -> dict[str, RegionOutcomes]:
    """Add up outcomes by label key."""
    total: dict[str, RegionOutcomes] = {}
    for part in parts:
        for key, outcomes in part.items():
            total[key] = total.get(key, RegionOutcomes()) + outcomes
    return total


def _outcome(region: PictureRegion, old: PictureRegion | None, *, known: bool) -> Outcome:
    origin = region.item.get("origin")
    if old is None or old.label is None:
        if known or origin not in ("prediction", "prediction-changed"):
            return "added"  # its prediction is known and does not contain it, or it is of none
        return "accepted" if origin == "prediction" else "changed"
    return "accepted" if is_unchanged(region.item, old.item) and region.label == old.label else "changed"


def _record(
    label: Label, outcome: Outcome, predicted: PictureRegion | None, edit_iou: float | None,
    parent: StoredPrediction | None,
) -> RegionRecord:  # fmt: skip
    """The record of a region; `predicted`, of `parent`, is what it was made from, None = nothing."""
    if predicted is None or parent is None:
        return RegionRecord(label.key, outcome, None, edit_iou)
    score, raw_score = (_score(predicted, key) for key in ("score", RAW_SCORE))
    return RegionRecord(label.key, outcome, score, edit_iou, score if raw_score is None else raw_score, parent.version)


def _score(region: PictureRegion, key: str) -> float | None:
    """A score of a predicted region; None where it has none in [0, 1]."""
    score = region.item.get(key)
    if isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1:
        return float(score)
    return None


def _edit_iou(outcome: Outcome, old: PictureRegion | None, region: PictureRegion, draw: bool) -> float | None:
    """IoU of the masks before and after; None where there is none, see `RegionRecord`."""
    if outcome == "accepted":
        return 1.0
    if outcome == "added" or old is None or not draw:
        return None
    size = _noted_size(old) or _noted_size(region)
    if size is None:
        return None
    try:
        return mask_iou(_draw(old, size), _draw(region, size))
    except RegionError:
        return None


def _draw(region: PictureRegion, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The region's mask in an image of (H, W) pixels, reduced to 640 pixels of the longer side.

    Raises:
        RegionError: it has no area that can be read.
    """
    scale = min(1.0, _EDIT_SIDE / max(size))
    frame = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    if region_kind(region.item) in ("brush", "bitmask"):  # its pixels are those of the full image
        return np.asarray(shrink_nearest(decode_region(region.item, size[1], size[0]), frame))
    return decode_region(region.item, frame[1], frame[0])


def _noted_size(region: PictureRegion) -> tuple[int, int] | None:
    """(H, W) of the image as the region notes it, pixels."""
    height, width = (region.item.get(key) for key in ("original_height", "original_width"))
    if isinstance(height, int) and isinstance(width, int) and height >= 1 and width >= 1:
        return height, width
    return None
