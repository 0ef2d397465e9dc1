"""The learning loop on a set of photographs: annotate some, learn, ask the gate, pre-annotate photographs never seen.

Segmenter, recipe, outline stage and gate are those that the service runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.evaluation.labelled_set import LabelledPhotograph, LabelledSet
from worker.learning.corrections.class_maps import shrink_nearest, with_background
from worker.learning.corrections.examples import LONGEST_SIDE
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import hold_out_split
from worker.learning.interfaces import Adapter, AdapterState, Example, Fitted, Recipe, Words, fit_both
from worker.segmentation.heads import Head
from worker.segmentation.metrics import Confusion, class_ious, confusion
from worker.segmentation.pictures import shrink
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.encoder import BACKGROUND


@dataclass(frozen=True)
class TestScores:
    """IoUs of a head on the test photographs, pixels pooled over all of them.

    Attributes:
        miou: mean over the classes that occur in truth or prediction.
        per_label: IoU of each of these classes, by its word.
    """

    miou: float
    per_label: Mapping[str, float]


class LearningLoop:
    """Holds a segmenter, a labelled set and the embeddings of its photographs, computed once.

    Args:
        segmenter: the model.
        photographs: the set.
        learn: part of the set that is annotated.
        test: part of the set that is scored.
        outlines: whether masks follow the photographs' outlines; off for ablations.
    """

    def __init__(
        self, segmenter: Segmenter, photographs: LabelledSet, *, learn: str, test: str, outlines: bool = True
    ) -> None:
        self._segmenter = segmenter
        self._set = photographs
        self._outlines = outlines
        self.train = [self._example(photo, LONGEST_SIDE) for photo in photographs.parts[learn]]
        self.test = [self._example(photo) for photo in photographs.parts[test]]
        self._truths = [photo.judged for photo in photographs.parts[test]]

    @property
    def words(self) -> Words:
        """The texts of the labels."""
        return self._set.words

    @property
    def has_background(self) -> bool:
        """Whether pixels may have none of the labels."""
        return self._set.has_background

    def evaluate(self, head: Head | None) -> TestScores:
        """Pre-annotate the test photographs with a head (None = zero-shot) and compare with the truth."""
        count = len(self.words)
        matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
        for example, drawn in zip(self.test, self._truths, strict=True):
            predicted = shrink_nearest(self.predict(example, head), (drawn.shape[0], drawn.shape[1]))
            matrix += confusion(with_background(drawn, count), predicted, count + 1)
        names = [" ".join(texts[:1]) for texts in self.words] + [BACKGROUND] * self._set.has_background
        return scores_of(matrix, names)

    def predict(self, example: Example, head: Head | None) -> NDArray[np.int16]:
        """Class of each pixel of a photograph, (H, W): an index in `words`; their number is the background."""
        scene = self._segmenter.score(example.embedding, self.words, example.image)
        return self._segmenter.pixel_classes(scene, head, outlines=self._outlines)[0]

    def random_order(self, number: int) -> list[int]:
        """Random order `number` of the photographs to annotate; it does not depend on the model."""
        return [int(index) for index in np.random.RandomState(number).permutation(len(self.train))]

    def least_certain(self, among: Sequence[int], head: Head | None) -> list[int]:
        """Sort photographs for active learning: lowest score of the service first."""
        scores = {index: self.score(index, head) for index in among}
        return sorted(among, key=lambda index: scores[index])

    def score(self, index: int, head: Head | None) -> float:
        """Score in [0, 1] that the service gives a photograph's segments, at the size at which it is learned from."""
        labels = [Label(texts[0], texts, "label", "image", "$image", "brush") for texts in self.words]
        example, vocabulary = self.train[index], Vocabulary(tuple(labels))
        return self._segmenter.segment(example.embedding, vocabulary, example.image, head=head).score

    def _example(self, photo: LabelledPhotograph, longest_side: int | None = None) -> Example:
        """Embed a photograph at full size, then reduce it as the service reduces what it learns from."""
        (embedding,) = self._segmenter.embed([photo.image])
        image = photo.image if longest_side is None else shrink(photo.image, longest_side)
        frame = (image.shape[0], image.shape[1])
        truth = shrink_nearest(photo.truth, frame)
        return Example(photo.stem, image, replace(embedding, size=frame), self.words, truth)


def scores_of(matrix: Confusion, names: Sequence[str]) -> TestScores:
    """IoU of the named classes, which come first in the confusion, and their mean.

    A class that is predicted but nowhere in the truth counts as 0; one that is in neither is left out.
    """
    occurs = matrix.sum(axis=0) + matrix.sum(axis=1) > 0
    scores = np.nan_to_num(class_ious(matrix))
    ious = {name: float(scores[k]) for k, name in enumerate(names) if occurs[k]}
    return TestScores(float(np.mean(list(ious.values()))) if ious else 0.0, ious)


@dataclass(frozen=True)
class Refit:
    """One refit of the adapter.

    Attributes:
        photographs: how many it learned from.
        adapter: the result.
        test: its scores on the test photographs.
        seconds: how long the fit took.
        promoted: the gate's verdict; None = the gate was off.
    """

    photographs: int
    adapter: Adapter
    test: TestScores
    seconds: float
    promoted: bool | None


@dataclass(frozen=True)
class FittedRecipe:
    """A recipe with one fit already done, so that the gate need not repeat it."""

    recipe: Recipe
    examples: Sequence[Example]
    fitted: Fitted

    @property
    def name(self) -> str:
        """Name of the recipe."""
        return self.recipe.name

    @property
    def form(self) -> int:
        """Format number of the recipe."""
        return self.recipe.form

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Adapter:
        """See `worker.learning.interfaces.Recipe`."""
        return self.fit_both(examples, words, segmenter).plain

    def fit_both(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
        """Return the fit at hand for its own examples; fit the recipe on any others."""
        known = [example.key for example in examples] == [example.key for example in self.examples]
        known = known and all(mine.truth is other.truth for mine, other in zip(examples, self.examples, strict=True))
        return self.fitted if known else fit_both(self.recipe, examples, words, segmenter)

    def load(self, state: AdapterState, segmenter: Segmenter) -> Adapter:
        """See `worker.learning.interfaces.Recipe`."""
        return self.recipe.load(state, segmenter)


class _GatedVersions:
    """Holds the adapter in service, as the gate decides it: none at first, which is the zero-shot model."""

    def __init__(self, words: Words, segmenter: Segmenter) -> None:
        self._words = words
        self._segmenter = segmenter
        self._served: Adapter | None = None
        self._seen: tuple[str, ...] = ()

    def offer(self, candidate: FittedRecipe) -> bool:
        """Ask the gate about a candidate with the corrections it comes from; True when it is promoted."""
        taught, held_out = hold_out_split(candidate.examples, self._seen)
        verdict = judge(candidate, taught, held_out, self._served, self._words, self._segmenter, seen=self._seen)
        if verdict.promoted:
            self._served, self._seen = verdict.adapter, verdict.learned_from
        return verdict.promoted


def run_loop(
    loop: LearningLoop, recipe: Recipe, segmenter: Segmenter, counts: Sequence[int], order: int | None, *, gate: bool
) -> Iterator[Refit]:
    """Annotate photographs in one order; refit and evaluate after each of `counts` of them.

    Args:
        loop: the photographs and their embeddings.
        recipe: what learns.
        segmenter: the model.
        counts: numbers of photographs, ascending.
        order: number of a random order; None = least certain first.
        gate: whether each candidate is also submitted to the gate, one after another.
    """
    chosen: list[int] = []
    head: Adapter | None = None
    versions = _GatedVersions(loop.words, segmenter)
    for count in counts:
        if order is not None:
            chosen = loop.random_order(order)[:count]
        else:
            left = [index for index in range(len(loop.train)) if index not in chosen]
            chosen += loop.least_certain(left, head)[: count - len(chosen)]
        examples = [loop.train[index] for index in chosen]
        started = time.perf_counter()
        fitted = fit_both(recipe, examples, loop.words, segmenter) if gate else Fitted(
            recipe.fit(examples, loop.words, segmenter)
        )
        head, seconds = fitted.plain, time.perf_counter() - started
        promoted = versions.offer(FittedRecipe(recipe, examples, fitted)) if gate else None
        yield Refit(count, head, loop.evaluate(head), seconds, promoted)
