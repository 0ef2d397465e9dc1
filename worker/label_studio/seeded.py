"""Seeded wrong masks: regions that are put into predictions on request, to see how many annotators catch.

What people accept says little while nothing wrong is shown (arXiv 2509.08514). A seeded region is known by its id
alone, wherever it is stored, so that nothing else need be kept: it looks like any other, and its last characters follow
from the first. One id in 16 million is taken for seeded by chance.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.picture_regions import PictureRegion, item_id, label_names, picture_regions
from worker.label_studio.region_changes import is_unchanged
from worker.label_studio.region_ids import ALPHABET, ID_LENGTH
from worker.label_studio.regions import decode_region, encode_region

_CHECKED = 4  # last characters of an id
_MOST_OVERLAP = 0.1  # share of the moved mask that lies on what is predicted for the label
_WAY = 0.9  # share of the way to the border of the image that a region is moved
_LEAST_SHARE, _MOST_SHARE = 0.002, 0.3  # of the image, of a region that is moved


@dataclass(frozen=True)
class SeededOutcomes:
    """What annotators did with the seeded regions that they were shown: deleted, changed, or left as they were."""

    deleted: int = 0
    changed: int = 0
    left: int = 0

    def __add__(self, other: SeededOutcomes) -> SeededOutcomes:
        return SeededOutcomes(self.deleted + other.deleted, self.changed + other.changed, self.left + other.left)


NONE_SEEDED = SeededOutcomes()


def seeded_region_id() -> str:
    """Make an id for a seeded region; it looks like those of `new_region_id`."""
    head = "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH - _CHECKED))
    return head + _check(head)


def is_seeded(identity: str | None) -> bool:
    """Whether an id is that of a seeded region."""
    if identity is None or len(identity) != ID_LENGTH:
        return False
    return identity[-_CHECKED:] == _check(identity[:-_CHECKED])


def seed_region(prediction: StoredPrediction, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Make a wrong region for a prediction: a copy of one of its regions, moved to where nothing of its label is.

    What is predicted stays as it is, so that an annotator who leaves the wrong region in loses nothing else.

    Args:
        prediction: of one image of any kind of region that has an area.
        vocabulary: of that image.

    Returns:
        the items of the region; none where no region can be moved.
    """
    for region in picture_regions(prediction.result, vocabulary):
        if (made := _moved(region, prediction, vocabulary)) is not None:
            return made
    return []


def count_seeded(annotation: Annotation, prediction: StoredPrediction | None) -> SeededOutcomes:
    """Count what became of the seeded regions of the prediction that an annotation was made from."""
    if prediction is None:
        return NONE_SEEDED
    before, after = _seeded(prediction.result), _seeded(annotation.result)
    left = sum(
        identity in after and _is_as_before(after[identity], item) for identity, item in before.items()
    )
    deleted = sum(identity not in after for identity in before)
    return SeededOutcomes(deleted, len(before) - deleted - left, left)


def holds_seeded(annotation: Annotation, prediction: StoredPrediction | None) -> bool:
    """Whether a seeded region was left in an annotation as it was. Where the prediction is gone, or a newer one took
    its place, the editor's note that a region was changed is all that is known: a dragged polygon counts as left in.

    Args:
        annotation: of any origin.
        prediction: that it was made from; None where there is none, or it is deleted since.
    """
    before = {} if prediction is None else _seeded(prediction.result)
    return any(
        _is_as_before(item, before[identity]) if identity in before else item.get("origin") != "prediction-changed"
        for identity, item in _seeded(annotation.result).items()
    )


def _check(head: str) -> str:
    digest = hashlib.sha256(f"seeded {head}".encode()).digest()
    return "".join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:_CHECKED])


def _seeded(result: Sequence[Any]) -> dict[str, Mapping[str, Any]]:
    """Items of seeded regions by id, one of each."""
    items = ((item_id(item), item) for item in result if isinstance(item, Mapping))
    return {identity: item for identity, item in items if identity is not None and is_seeded(identity)}


def _is_as_before(item: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    return is_unchanged(item, before) and label_names(item) == label_names(before)


def _moved(
    region: PictureRegion, prediction: StoredPrediction, vocabulary: Vocabulary
) -> list[dict[str, Any]] | None:
    height, width, score = (region.item.get(key) for key in ("original_height", "original_width", "score"))
    label = region.label
    if label is None or not isinstance(height, int) or not isinstance(width, int) or is_seeded(region.identity):
        return None
    try:
        mask = decode_region(region.item, width, height)
        if not _LEAST_SHARE <= float(mask.mean()) <= _MOST_SHARE:
            return None
        taken = _drawn(prediction, vocabulary, label.key, width, height)
    except RegionError:
        return None
    moved = min(_places(mask), key=lambda moved: np.count_nonzero(moved & taken))
    if np.count_nonzero(moved & taken) > _MOST_OVERLAP * np.count_nonzero(moved):
        return None
    items = encode_region(
        moved, kind=label.output, control=label.control, to_name=label.to_name, label=label.key,
        score=float(score) if isinstance(score, int | float) else prediction.score or 0.5, shape=label.shape,
    )  # fmt: skip
    if len({item["id"] for item in items}) != 1:  # a polygon of several islands would count as often
        return None
    place = {} if vocabulary.item_index is None else {"item_index": vocabulary.item_index}
    identity = seeded_region_id()
    return [{**item, "id": identity, **place} for item in items]


def _places(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """A mask, (H, W), moved towards each border and corner of its image, whole."""
    ways = []
    for axis in (0, 1):
        covered = np.flatnonzero(mask.any(axis=1 - axis))
        free = -int(covered[0]), mask.shape[axis] - 1 - int(covered[-1])
        ways.append([0, *(round(_WAY * way) for way in free)])
    return [np.roll(mask, (down, right), axis=(0, 1)) for down in ways[0] for right in ways[1]]


def _drawn(
    prediction: StoredPrediction, vocabulary: Vocabulary, label: str, width: int, height: int
) -> NDArray[np.bool_]:
    """Where regions of a label are predicted, (H, W)."""
    taken = np.zeros((height, width), dtype=np.bool_)
    for region in picture_regions(prediction.result, vocabulary):
        if region.label is not None and region.label.key == label:
            taken |= decode_region(region.item, width, height)
    return taken
