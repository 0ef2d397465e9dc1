"""The order in which images are best corrected.

Three rules, each for a part of the images:

1. *At random*: RANDOM_SHARE of the places go to images that the gate holds out from its HOLD_OUT_FROM-th correction on
   (`worker.learning.gate.splits`), in an order that depends on nothing but their keys, so that what is measured on them
   holds for all images. They are chosen by no other rule.
2. *Diversity first*: until about as many images are corrected as there are labels, the one that stands for most images
   which no corrected or chosen one is like (`representatives`): what a model says that has hardly seen the labels says
   little.
3. *Uncertain and rare*: then the one with the highest product of uncertainty (1 - margin) and rarity of its labels,
   among those that are farther from the corrected and chosen ones than half of all are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import floor

import numpy as np

from worker.learning.gate.splits import is_held_out
from worker.learning.selection.candidates import Candidate, Choice, Vector
from worker.learning.selection.coverage import Coverage
from worker.learning.selection.worth import worth_of

RANDOM_SHARE = 0.15
"""Share of the places that go to images at random. The gate holds out one image in five; fewer are enough here, since
what is learned first matters most."""

FEWEST_DIVERSE, MOST_DIVERSE = 4, 10
"""Corrected images, at least and at most, up to which diversity decides; in between it is the number of labels."""

AT_RANDOM, TYPICAL = "at random, for the hold-out", "the most typical image"
UNLIKE = "stands for images unlike the corrected ones"
"""Reasons of a choice; `worker.learning.selection.worth` has the others."""


def next_images(
    candidates: Sequence[Candidate],
    corrected_vectors: Sequence[Vector | None],
    corrected_counts: Mapping[str, int],
    *,
    count: int,
    random_share: float = RANDOM_SHARE,
    seed: int = 0,
) -> list[Choice]:
    """Choose the next images to correct, the best first. The choice does not depend on the order of the candidates.

    Takes O((n + m) count) for n candidates and m corrected images, and the memory of the vectors and a few numbers
    more for each candidate.

    Args:
        candidates: images nobody has corrected yet.
        corrected_vectors: of the images that are corrected, one each; None = not known.
        corrected_counts: label key -> regions of it that annotators kept or drew, 0 for labels nobody corrected yet.
        count: images to choose, at most.
        random_share: of the places that go to held-out images at random.
        seed: of the order in which these come, and of equals; for one project always the same.

    Raises:
        ValueError: count is negative or random_share not in [0, 1].
    """
    if count < 0 or not 0 <= random_share <= 1:
        raise ValueError(f"count must not be negative and random_share in [0, 1], got {count} and {random_share}")
    candidates = sorted(candidates, key=lambda one: _hash(one.key, seed))
    queue = _Queue(candidates, corrected_vectors, corrected_counts)
    labels = {*corrected_counts, *(label for one in candidates for label in one.labels)}
    diverse = min(MOST_DIVERSE, max(FEWEST_DIVERSE, len(labels)))
    done, choices = len(corrected_vectors), list[Choice]()
    for place in range(min(count, len(candidates))):
        is_random = floor((done + place + 1) * random_share) > floor((done + place) * random_share)
        number, reason = queue.take(at_random=is_random, diverse=done + place < diverse)
        choices.append(Choice(candidates[number].key, reason, place))
    return choices


class _Queue:
    """Holds which candidates are left, and takes them one by one; there must be one left."""

    def __init__(
        self, candidates: Sequence[Candidate], corrected_vectors: Sequence[Vector | None],
        corrected_counts: Mapping[str, int],
    ) -> None:  # fmt: skip
        self._coverage = Coverage([one.vector for one in candidates])
        self._coverage.cover(corrected_vectors)
        self._worth = worth_of(candidates, corrected_counts)
        self._held_out = np.array([is_held_out(one.key) for one in candidates], dtype=np.bool_)
        self._others = ~self._held_out

    def take(self, *, at_random: bool, diverse: bool) -> tuple[int, str]:
        """Take one, by the rule of held-out images (where there are some) or one of the others; its number and why."""
        coverage, others = self._coverage, self._others
        if self._held_out.any() and (at_random or not others.any()):
            number, reason = int(np.argmax(self._held_out)), AT_RANDOM
        elif diverse and (others & coverage.known).any():
            number, reason = coverage.representative(others), TYPICAL if coverage.is_empty else UNLIKE
        else:
            far = others & (coverage.distances >= np.median(coverage.distances[others]))
            number = int(np.argmax(np.where(far, self._worth.values, -1.0)))
            reason = self._worth.reasons[number]
        self._held_out[number] = others[number] = False
        coverage.cover_own(number)
        return number, reason


def _hash(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"order {seed} {key}".encode()).digest()
