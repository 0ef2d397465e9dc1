"""What annotators did with the predicted regions: accepted, changed, deleted, added. Compares regions, not masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import StoredPrediction
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.annotation_maps import find_label


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


def count_outcomes(
    annotation: Annotation, predictions: Sequence[StoredPrediction], vocabulary: Vocabulary, ours: Collection[str] = ()
) -> dict[str, RegionOutcomes]:
    """Compare an annotation with the prediction it was made from, region by region.

    A region keeps its id when an annotator takes it over, and the editor notes in `origin` whether it was changed: an
    unchanged brush may still be stored as other bytes.

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
    before = {} if parent is None else {str(region.get("id")): region for region in parent.result}
    found: dict[str, RegionOutcomes] = {}
    kept = set()
    for region in annotation.result:
        label = find_label(region, vocabulary)
        old = before.get(str(region.get("id")))
        old_label = None if old is None else find_label(old, vocabulary)
        if old_label is not None:
            kept.add(str(region.get("id")))
        counted = old_label if old_label is not None and not foreign else label
        if counted is not None:
            outcome = _ADDED if foreign else _outcome(region, old, label, old_label, known=parent is not None)
            found[counted.key] = found.get(counted.key, RegionOutcomes()) + outcome
    for identity, region in before.items():
        label = find_label(region, vocabulary)
        if label is not None and identity not in kept and not foreign:
            found[label.key] = found.get(label.key, RegionOutcomes()) + _DELETED
    return found


def find_parent(annotation: Annotation, predictions: Sequence[StoredPrediction]) -> StoredPrediction | None:
    """Find the prediction an annotation was made from: the one it names, else the one with most of its region ids."""
    for prediction in predictions:
        if prediction.id == annotation.parent_prediction:
            return prediction
    ids = {region.get("id") for region in annotation.result}
    shared = [(sum(region.get("id") in ids for region in p.result), p.id, p) for p in predictions]
    best = max(shared, default=None, key=lambda row: row[:2])
    return best[2] if best is not None and best[0] else None


def sum_outcomes(parts: Iterable[Mapping[str, RegionOutcomes]]) -> dict[str, RegionOutcomes]:
    """Add up outcomes by label key."""
    total: dict[str, RegionOutcomes] = {}
    for part in parts:
        for key, outcomes in part.items():
            total[key] = total.get(key, RegionOutcomes()) + outcomes
    return total


def _outcome(
    region: Mapping[str, Any],
    old: Mapping[str, Any] | None,
    label: Label | None,
    old_label: Label | None,
    *,
    known: bool,
) -> RegionOutcomes:
    origin = region.get("origin")
    if old_label is None or old is None:
        if known:  # its prediction is known and does not contain it
            return _ADDED
        return {"prediction": _ACCEPTED, "prediction-changed": _CHANGED}.get(str(origin), _ADDED)
    same = old.get("value") == region.get("value") or origin == "prediction"
    return _ACCEPTED if same and label == old_label else _CHANGED
