"""Which corrections are held out from training, and which images evaluate what was learned from which.

An image is never evaluated by an adapter that was trained on the pixels that are evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.learning.corrections.class_maps import ClassMap, drawn_classes
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.metrics import VOID

HOLD_OUT_FROM = 20
"""Number of corrected images from which a part is held out; with fewer, all are needed for training, and the gate
evaluates by cross-validation instead."""

FEWEST_HELD_OUT = 3
"""Number of held-out images from which these evaluate alone; below, the other images are cross-validated too."""

MOST_EVALUATED = 40
"""Held-out images, and cross-validated images, at most: the first by hash."""

_HELD_OUT_SHARE = 0.2
_FOLDS = 3


@dataclass(frozen=True)
class EvaluationImage:
    """One image to evaluate on.

    Attributes:
        example: the image; pixels that must not be evaluated are VOID.
        fold: index of its training set in `EvaluationSplit.training_sets`; None = all training examples, because the
            image is held out.
        elsewhere: whether it is one that may be learned from, but is not by what was learned elsewhere.
    """

    example: Example
    fold: int | None
    elsewhere: bool = False


@dataclass(frozen=True)
class EvaluationSplit:
    """Images to evaluate on, and the training set of each cross-validation fold: each is one fit."""

    images: tuple[EvaluationImage, ...]
    training_sets: tuple[tuple[Example, ...], ...]


def hold_out_split(examples: Sequence[Example], seen: Collection[str] = ()) -> tuple[list[Example], list[Example]]:
    """Split examples into training and held-out ones: none held out below HOLD_OUT_FROM, then one in five of those
    whose tasks the served adapter was not trained on.

    What it was trained on stays to be learned from: without a fifth of that, a candidate would know less than what is
    served until a quarter more is corrected. Else the hash of the task alone decides, so no example is moved to balance
    the labels; those missing among the held-out examples are evaluated by cross-validation instead
    (`evaluation_split`).

    Args:
        examples: all corrections.
        seen: keys of the examples that the served adapter was trained on; empty = one in five of all.

    Returns:
        (train, hold_out), each in the order given.
    """
    if len(examples) < HOLD_OUT_FROM:
        return list(examples), []
    tasks = {_task_of(key) for key in seen}
    hold_out = [e for e in examples if is_held_out(e.key) and _task_of(e.key) not in tasks]
    keys = {example.key for example in hold_out}
    return [example for example in examples if example.key not in keys], hold_out


def is_held_out(key: str) -> bool:
    """Whether an example with this key is held out, once there are enough of them, unless what is served knows it."""
    return hash_share(key) < _HELD_OUT_SHARE


def hash_share(key: str) -> float:
    """Hash a key to a pseudo-random number in [0, 1) that never changes; all images of a task have one number."""
    return int.from_bytes(hashlib.sha256(f"hold out {_task_of(key)}".encode()).digest()[:6]) / 2**48


def _task_of(key: str) -> str:
    return key.partition("/")[0]


def keys_now(seen: Collection[str], examples: Iterable[Example]) -> frozenset[str]:
    """The keys of images that were learned from, as they are now: that of an image changes when its task gets a second
    one, because the labeling config did, and changes back when it is the only one again. Which of several it was is not
    known, so all count.

    Args:
        seen: keys as they were when it was learned from them.
        examples: all there are now.
    """
    keys = {example.key for example in examples}
    of_task: dict[str, set[str]] = {}
    for key in keys:
        of_task.setdefault(_task_of(key), set()).add(key)
    found = set[str]()
    for key in seen:
        present = of_task.get(_task_of(key), set())
        changed = {other for other in present if ("/" in other) != ("/" in key)}
        found |= changed or {key}
    return frozenset(found)


def held_out_images(hold_out: Sequence[Example], seen: Collection[str] = ()) -> list[EvaluationImage]:
    """Held-out images that the served adapter was not trained on either."""
    unseen = _by_hash(example for example in hold_out if example.key not in seen)
    return [EvaluationImage(example, None) for example in unseen[:MOST_EVALUATED]]


def offered_images(
    train: Sequence[Example], hold_out: Sequence[Example], seen: Collection[str] = ()
) -> list[EvaluationImage]:
    """Plan how to evaluate what was learned elsewhere, from none of these images: the held-out ones evaluate, and of
    the others those that show a label which these lack, or all where these are fewer than FEWEST_HELD_OUT.
    """
    held_out = held_out_images(hold_out, seen)
    crossed = _crossed(train, held_out)[:MOST_EVALUATED]
    return [*held_out, *(EvaluationImage(example, None, True) for example in crossed)]


def other_images(train: Sequence[Example], images: Sequence[EvaluationImage]) -> list[EvaluationImage]:
    """The first of the examples to learn from that do not evaluate."""
    evaluating = {image.example.key for image in images}
    return [EvaluationImage(one, None) for one in train if one.key not in evaluating][:MOST_EVALUATED]


def evaluation_split(
    train: Sequence[Example], hold_out: Sequence[Example], seen: Collection[str] = ()
) -> EvaluationSplit:
    """Plan how to evaluate what is learned from `train`.

    The held-out images evaluate. When they are fewer than FEWEST_HELD_OUT, training images are cross-validated too;
    when they lack a label, those training images that show it are. Of these only such as the served adapter was not
    trained on, where some label can be evaluated then: only these can be compared with it, and a fold that leaves out
    what it learned from, perhaps the one image of a rare label, knows less than it does.
    Cross-validation has two forms:

    - *between* images: in up to 3 groups, each evaluated by what was learned from the other groups. Pixels of labels
      that only the group itself shows are VOID, because the other groups cannot teach them.
    - *within* an image, where only one image shows a label: it is cut in two, and either half is evaluated by what was
      learned from the other half and all other images.

    Args:
        train: examples to learn from, all with the same words.
        hold_out: examples that are never learned from.
        seen: keys of the examples that the served adapter was trained on; such a held-out image is not evaluated.
    """
    held_out = held_out_images(hold_out, seen)
    crossed = _crossed(train, held_out)
    planned = _planned(train, held_out, [example for example in crossed if example.key not in seen])
    if any(drawn_classes(image.example.truth) for image in planned.images):
        return planned
    return _planned(train, held_out, crossed)


def _planned(
    train: Sequence[Example], held_out: Sequence[EvaluationImage], crossed: Sequence[Example]
) -> EvaluationSplit:
    crossed = crossed[:MOST_EVALUATED]
    between, sets = _folds_between(train, crossed)
    within, more = _folds_within(train, crossed, first=len(sets))
    return EvaluationSplit((*held_out, *between, *within), (*sets, *more))


def _shown(examples: Iterable[Example]) -> set[int]:
    return {label for example in examples for label in drawn_classes(example.truth)}


def _crossed(train: Sequence[Example], held_out: Sequence[EvaluationImage]) -> list[Example]:
    """Those of the examples to learn from that evaluate beside the held-out images."""
    covered = _shown(image.example for image in held_out)
    if len(held_out) < FEWEST_HELD_OUT:
        return _by_hash(train)
    return _by_hash(example for example in train if drawn_classes(example.truth) - covered)


def _by_hash(examples: Iterable[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: hash_share(example.key))


def _folds_between(
    train: Sequence[Example], crossed: Sequence[Example]
) -> tuple[list[EvaluationImage], list[tuple[Example, ...]]]:
    tasks = {_task_of(example.key) for example in train}
    unit_of: Callable[[str], str] = _task_of if len(tasks) >= _FOLDS else str  # else images evaluate each other
    order = list(dict.fromkeys(unit_of(example.key) for example in crossed))
    groups = [order[start::_FOLDS] for start in range(min(_FOLDS, len(order)))]
    images: list[EvaluationImage] = []
    sets: list[tuple[Example, ...]] = []
    for group in groups:
        rest = tuple(example for example in train if unit_of(example.key) not in group)
        learnable = _shown(rest)
        if not learnable:
            continue
        for example in (one for one in crossed if unit_of(one.key) in group):
            truth = np.where(np.isin(example.truth, [*learnable, UNLABELLED]), example.truth, VOID).astype(np.int16)
            if drawn_classes(truth) or not drawn_classes(example.truth):
                images.append(EvaluationImage(replace(example, truth=truth), len(sets)))
        sets.append(rest)
    return images, sets


def _folds_within(
    train: Sequence[Example], crossed: Sequence[Example], *, first: int
) -> tuple[list[EvaluationImage], list[tuple[Example, ...]]]:
    shown = {example.key: drawn_classes(example.truth) for example in train}
    lone = {label for labels in shown.values() for label in labels if sum(label in s for s in shown.values()) == 1}
    cuts = {example.key: halve(example.truth) for example in crossed if shown[example.key] & lone}
    if not cuts:
        return [], []
    images: list[EvaluationImage] = []
    sets: list[tuple[Example, ...]] = []
    for half in (False, True):
        rest = [_void_where(e, cuts[e.key] == half) if e.key in cuts else e for e in train]
        learnable = _shown(rest)
        for example in crossed:
            if example.key in cuts:
                evaluated = (cuts[example.key] == half) & np.isin(example.truth, [*learnable, UNLABELLED])
                if drawn_classes(example.truth[evaluated]):
                    images.append(EvaluationImage(_void_where(example, ~evaluated), first + len(sets)))
        sets.append(tuple(rest))
    return images, sets


def halve(truth: ClassMap) -> NDArray[np.bool_]:
    """Cut an image in two, (H, W) bool: left and right, top and bottom, or either pair of opposite quarters, all about
    the median of what is labelled; the cut that leaves most labels on both sides, most evenly.
    """
    rows, columns = np.nonzero(truth >= 0)
    middle = (np.median(rows), np.median(columns)) if rows.size else (truth.shape[0] / 2, truth.shape[1] / 2)
    below = np.arange(truth.shape[0])[:, None] >= middle[0]
    right = np.arange(truth.shape[1])[None, :] >= middle[1]
    cuts = [np.broadcast_to(cut, truth.shape) for cut in (right, below, below ^ right)]
    return max(cuts, key=lambda cut: _evenness(truth, cut))


def _evenness(truth: ClassMap, cut: NDArray[np.bool_]) -> float:
    shares = [float(cut[truth == label].mean()) for label in drawn_classes(truth)]
    return sum(min(share, 1 - share) > 0.1 for share in shares) + sum(min(s, 1 - s) for s in shares) / 100


def _void_where(example: Example, where: NDArray[np.bool_]) -> Example:
    return replace(example, truth=np.where(where, VOID, example.truth).astype(np.int16))
