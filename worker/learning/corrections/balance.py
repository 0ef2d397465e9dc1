"""Of many corrected images those that are learned from: some that show each label."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256

_NO_LABEL = -1  # what an image shows in which nothing is drawn


def balanced(shown: Sequence[Collection[int]], keys: Sequence[str], most: int) -> list[int]:
    """Choose images so that each label, and images without any, are shown by as many as can be: one after the other, of
    what the chosen ones show least. Of the images that show it the first by hash, so that the choice does not depend on
    when they were corrected, and changes little when more are.

    Args:
        shown: the labels of each image.
        keys: of the images.
        most: how many are chosen, where there are so many.

    Returns:
        the places of the chosen ones, in order.
    """
    if len(shown) <= most:
        return list(range(len(shown)))
    by_hash = sorted(range(len(shown)), key=lambda k: sha256(keys[k].encode()).digest(), reverse=True)
    left: dict[int, list[int]] = {}
    for k in by_hash:
        for label in shown[k] or {_NO_LABEL}:
            left.setdefault(label, []).append(k)
    times = dict.fromkeys(left, 0)
    fewest_first = sorted(left, key=lambda label: (len(left[label]), label))
    chosen = set[int]()
    while len(chosen) < most:
        label = min((label for label in fewest_first if left[label]), key=lambda label: times[label])
        k = left[label].pop()
        if k not in chosen:
            chosen.add(k)
            for other in shown[k] or {_NO_LABEL}:
                times[other] += 1
    return sorted(chosen)
