"""What annotators did with the predicted regions: accepted, changed, deleted, added. Compares regions, not masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import StoredPrediction
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.picture_regions import PictureRegion, item_id, picture_regions


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


_ACCEPTED, _CHANGED, _ADDED, _DELETED = (
    RegionOutcomes(accepted=1),
    RegionOutcomes(changed=1),
    RegionOutcomes(added=1),
    RegionOutcomes(deleted=1),
)
_POINT_MOVED = 1e-3  # percent of the image: less is rounding


def count_outcomes(
    annotation: Annotation, predictions: Sequence[StoredPrediction], vocabulary: Vocabulary, ours: Collection[str] = ()
) -> dict[str, RegionOutcomes]:
    """Compare an annotation with the prediction it was made from, region by region.

    A region keeps its id when an annotator takes it over, and the editor notes in `origin` whether it was changed: an
    unchanged brush may still be stored as other bytes. Points of a polygon that were dragged it does not note (Label
    Studio 1.23), so these are compared.

    Args:
        annotation: not cancelled.
        predictions: of the task.
        vocabulary: whose labels count; others do not.
        ours: versions of our predictions, as the ledger keeps them; regions taken from other predictions count as
            added. Empty = all are ours.

    Returns:
        outcomes by label key.
    """
    parent = find_parent(annotation, predictions)
    foreign = parent is not None and bool(ours) and parent.version not in ours
    # One region for all items of an id; those without one are nobody's.
    before = {row.identity or number: row for number, row in enumerate(_predicted(parent, vocabulary))}
    after = {row.identity or number: row for number, row in enumerate(picture_regions(annotation.result, vocabulary))}
    found: dict[str, RegionOutcomes] = {}
    kept = set()
    for identity, region in after.items():
        old = before.get(identity) if isinstance(identity, str) else None
        old_label = None if old is None else old.label
        if old_label is not None:
            kept.add(identity)
        counted = old_label if old_label is not None and not foreign else region.label
        if counted is not None:
            outcome = _ADDED if foreign else _outcome(region, old, known=parent is not None)
            found[counted.key] = found.get(counted.key, RegionOutcomes()) + outcome
    for identity, region in before.items():
        if region.label is not None and identity not in kept and not foreign:
            found[region.label.key] = found.get(region.label.key, RegionOutcomes()) + _DELETED
    return found


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


def _outcome(region: PictureRegion, old: PictureRegion | None, *, known: bool) -> RegionOutcomes:
    origin = region.item.get("origin")
    if old is None or old.label is None:
        if known:  # its prediction is known and does not contain it
            return _ADDED
        return {"prediction": _ACCEPTED, "prediction-changed": _CHANGED}.get(str(origin), _ADDED)
    same = old.item.get("value") == region.item.get("value") or (
        origin == "prediction" and _same_points(old.item.get("value"), region.item.get("value"))
    )
    return _ACCEPTED if same and region.label == old.label else _CHANGED


def _same_points(one: object, other: object) -> bool:
    """Whether two values have the same points, as far as they are drawn by points."""
    before, after = _points(one), _points(other)
    if before is None or after is None:
        return before is after
    return len(before) == len(after) and all(
        abs(x - y) <= _POINT_MOVED for x, y in zip(chain(*before), chain(*after), strict=True)
    )


def _points(value: object) -> list[tuple[float, float]] | None:
    """The corners of a polygon or vector, in percent; None for what has none, or malformed ones."""
    if not isinstance(value, Mapping):
        return None
    rows = value.get("points", value.get("vertices"))
    if not isinstance(rows, Sequence):
        return None
    try:
        return [(float(row["x"]), float(row["y"])) if isinstance(row, Mapping) else (float(row[0]), float(row[1]))
                for row in rows]  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError):
        return None
