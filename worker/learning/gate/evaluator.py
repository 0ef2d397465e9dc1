"""Heads shown corrected photographs: which pixels they take for what.

It must not know recipes or what follows from its figures. Everything is judged on a small grid and before the outline
is followed, which is the same step for whichever head: seconds on a CPU for dozens of photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from worker.learning.corrections.truth import shrink_nearest
from worker.learning.gate.splits import Trial
from worker.learning.interfaces import UNLABELLED, Example, Words
from worker.segmentation.heads import Head, ImageScores
from worker.segmentation.metrics import VOID, Confusion, confusion
from worker.segmentation.segmenter import Segmenter

GRID_SIDE = 128
"""Cells of the longer side of the grid on which heads are judged."""

FEWEST_PHOTOGRAPHS = 5
"""Below, the quarters of photographs are drawn anew in the bootstrap instead of whole ones."""

_SURE = 0.5  # posterior from which the frozen model is taken at its word
_FEWEST_CELLS = 30


@dataclass(frozen=True)
class Answer:
    """What a head took each cell of a photograph for: (h, w) class, and its posterior."""

    found: NDArray[np.int16]
    posterior: NDArray[np.float32]


def in_words(example: Example, words: Words) -> Example:
    """The same example speaking of other words; what it has of labels that are not among them becomes VOID."""
    if example.words == words:
        return example
    places = {texts: number for number, texts in enumerate(words)}
    lookup = np.array([*(places.get(texts, VOID) for texts in example.words), VOID, UNLABELLED], dtype=np.int16)
    return replace(example, words=words, truth=lookup[example.truth])  # -1 and -2 count from the end


class Bench:
    """Holds the scenes that heads are judged on, so that each is looked at once.

    Args:
        segmenter: the frozen model.
        words: the texts of each class, n of them; the background is class n.
        taught: labels that somebody has corrected.
    """

    def __init__(self, segmenter: Segmenter, words: Words, taught: set[int]) -> None:
        self.classes = len(words) + 1
        self.segmenter = segmenter
        self.words = words
        self._untaught = np.array([k not in taught for k in range(len(words))] + [False])
        self._scenes: dict[str, ImageScores] = {}
        self._frozen: dict[str, Answer] = {}

    def shows_label(self, trials: Sequence[Trial]) -> bool:
        """Whether there is a cell of any label to judge."""
        truths = (self._truth(trial.example) for trial in trials)
        return any(bool(((truth >= 0) & (truth < self.classes - 1)).any()) for truth in truths)

    def look(self, trials: Sequence[Trial], head_of: Callable[[Trial], Head | None]) -> list[Answer]:
        """Show each trial to its head; None is the frozen model."""
        return [self._see(trial.example, head_of(trial)) for trial in trials]

    def confusions(self, trials: Sequence[Trial], answers: Sequence[Answer]) -> list[Confusion]:
        """What was made of each trial, summed by unit: by photograph, or by quarter when there are few.

        Where no region lies, a label that nobody has taught is as good an answer as the background: whether it is
        there was not asked yet.
        """
        keys = dict.fromkeys(trial.example.key for trial in trials)
        parts = 1 if len(keys) >= FEWEST_PHOTOGRAPHS else 4
        units = {key: [np.zeros((self.classes, self.classes), dtype=np.int64) for _ in range(parts)] for key in keys}
        for trial, answer in zip(trials, answers, strict=True):
            truth, found = self._truth(trial.example), answer.found
            found = np.where((truth == self.classes - 1) & self._untaught[found], self.classes - 1, found)
            quarters = _quarters(truth.shape) if parts > 1 else np.zeros(truth.shape, dtype=np.int64)
            for part, total in enumerate(units[trial.example.key]):
                total += confusion(np.where(quarters == part, truth, -1), found, self.classes)
        return [total for key in keys for total in units[key]]

    def agreement(self, trials: Sequence[Trial], answers: Sequence[Answer]) -> float | None:
        """Where no region lies and the frozen model is sure of a label that nobody has taught: the share of cells that
        were taken for the same. None when there are too few to tell.
        """
        cells = kept = 0
        for trial, answer in zip(trials, answers, strict=True):
            frozen = self._see(trial.example, None)
            asked = (self._truth(trial.example) == self.classes - 1) & self._untaught[frozen.found]
            asked &= frozen.posterior >= _SURE
            cells += int(asked.sum())
            kept += int((answer.found == frozen.found)[asked].sum())
        return kept / cells if cells >= _FEWEST_CELLS else None

    def taken_for(self, examples: Sequence[Example], head: Head | None, *, sure: bool = False) -> NDArray[np.float64]:
        """(n, n) cells of each label (rows) that a head takes for each label (columns). With `sure`, only those of
        whose class it is sure, and none of a label where these are less than a quarter.
        """
        taken = np.zeros((self.classes, self.classes))
        cells = np.zeros(self.classes)
        for example in examples:
            truth, seen = self._truth(example), self._see(example, head)
            cells += np.bincount(truth[truth >= 0], minlength=self.classes)
            counted = np.where(seen.posterior >= _SURE, truth, -1) if sure else truth
            taken += confusion(counted, seen.found, self.classes)
        among_labels = taken[:-1, :-1].copy()
        if sure:
            among_labels[among_labels.sum(axis=1) < cells[:-1] / 4] = 0
        return among_labels

    def _truth(self, example: Example) -> NDArray[np.int16]:
        """On the grid: label, the background's class for UNLABELLED, -1 for VOID."""
        truth = shrink_nearest(example.truth, _grid(example.truth.shape))
        return np.where(truth == UNLABELLED, self.classes - 1, np.where(truth == VOID, -1, truth)).astype(np.int16)

    @torch.no_grad()
    def _see(self, example: Example, head: Head | None) -> Answer:
        if head is None and example.key in self._frozen:
            return self._frozen[example.key]
        if example.key not in self._scenes:
            self._scenes[example.key] = self.segmenter.score(example.embedding, self.words, example.image)
        scene = self._scenes[example.key]
        scores = scene.zero_shot if head is None else head.scores(scene)
        shares = scores.resized(_grid(example.truth.shape)).posterior()
        posterior, found = (values.cpu().numpy() for values in torch.max(shares, dim=0))
        seen = Answer(found.astype(np.int16), posterior)
        if head is None:
            self._frozen[example.key] = seen
        return seen


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    scale = min(1.0, GRID_SIDE / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _quarters(shape: tuple[int, ...]) -> NDArray[np.int64]:
    below = np.arange(shape[0])[:, None] >= shape[0] / 2
    right = np.arange(shape[1])[None, :] >= shape[1] / 2
    return np.asarray(2 * below + right, dtype=np.int64)
