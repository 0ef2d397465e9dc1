"""The loop on a set of photographs: annotate some, learn, put it to the gate, pre-annotate photographs never seen.

Everything goes through what the service runs: segmenter, recipe, outlines, gate. It must not know how a recipe learns.
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
from worker.learning.corrections.hold_out import split
from worker.learning.gate.decision import judge
from worker.learning.interfaces import Adapter, AdapterState, Example, Recipe, Words
from worker.segmentation.heads import Head
from worker.segmentation.metrics import Confusion, confusion
from worker.segmentation.pictures import shrink
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.encoder import BACKGROUND


@dataclass(frozen=True)
class Judged:
    """What a head made of the test photographs.

    Attributes:
        miou: mean over the classes that occur.
        per_label: IoU of each class by its word, of those that occur.
    """

    miou: float
    per_label: Mapping[str, float]


class Loop:
    """Holds a segmenter, a set and the embeddings of its photographs, made once as the service's cache does.

    Args:
        segmenter: the model.
        found: the set.
        learn: part that is annotated.
        test: part that is judged.
        outlines: whether masks follow the photographs' outlines; off for ablations.
    """

    def __init__(
        self, segmenter: Segmenter, found: LabelledSet, *, learn: str, test: str, outlines: bool = True
    ) -> None:
        self._segmenter = segmenter
        self._set = found
        self._outlines = outlines
        self.train = [self._example(photo, LONGEST_SIDE) for photo in found.parts[learn]]
        self.test = [self._example(photo) for photo in found.parts[test]]
        self._truths = [photo.judged for photo in found.parts[test]]

    @property
    def words(self) -> Words:
        """The texts of the labels."""
        return self._set.words

    def judge(self, head: Head | None) -> Judged:
        """Pre-annotate the test photographs and compare."""
        count = len(self.words)
        matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
        for example, drawn in zip(self.test, self._truths, strict=True):
            pixels = shrink_nearest(self.found(example, head), (drawn.shape[0], drawn.shape[1]))
            matrix += confusion(with_background(drawn, count), pixels, count + 1)
        names = [" ".join(texts[:1]) for texts in self.words] + [BACKGROUND] * self._set.has_background
        return judged(matrix, names)

    def found(self, example: Example, head: Head | None) -> NDArray[np.int16]:
        """The class of each pixel of a photograph, (H, W): an index in `words`, their number = background."""
        scene = self._segmenter.look(example.embedding, self.words, example.image)
        return self._segmenter.pixel_classes(scene, head, outlines=self._outlines)[0]

    def random_order(self, number: int) -> list[int]:
        """Order `number` of the photographs to annotate; the same whatever the model."""
        return [int(index) for index in np.random.RandomState(number).permutation(len(self.train))]

    def least_certain(self, among: Sequence[int], head: Head | None) -> list[int]:
        """Photographs to annotate next: those first of whose segments the service is least sure."""
        sureness = {index: self.score(index, head) for index in among}
        return sorted(among, key=lambda index: sureness[index])

    def score(self, index: int, head: Head | None) -> float:
        """How sure the service is of its segments of a photograph, no larger than it is learned from."""
        labels = [Label(texts[0], texts, "label", "image", "image", "brush") for texts in self.words]
        example, vocabulary = self.train[index], Vocabulary(tuple(labels))
        return self._segmenter.segment(example.embedding, vocabulary, example.image, head=head).score

    def _example(self, photo: LabelledPhotograph, longest_side: int | None = None) -> Example:
        """A photograph, embedded as it is, then reduced as the service reduces what it learns from."""
        (embedding,) = self._segmenter.embed([photo.image])
        image = photo.image if longest_side is None else shrink(photo.image, longest_side)
        frame = (image.shape[0], image.shape[1])
        truth = shrink_nearest(photo.truth, frame)
        return Example(photo.stem, image, replace(embedding, size=frame), self.words, truth)


def judged(matrix: Confusion, names: Sequence[str]) -> Judged:
    """IoU of the named classes, which come first in the confusion (true, found), and their mean."""
    hit = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hit
    ious = {name: float(hit[k] / union[k]) for k, name in enumerate(names) if union[k]}
    return Judged(float(np.mean(list(ious.values()))) if ious else 0.0, ious)


@dataclass(frozen=True)
class Outcome:
    """One refit.

    Attributes:
        photographs: it learned from so many.
        adapter: what it learned.
        judged: how that did.
        seconds: it took.
        promoted: what the gate said; None = not asked.
    """

    photographs: int
    adapter: Adapter
    judged: Judged
    seconds: float
    promoted: bool | None


@dataclass(frozen=True)
class _Learned:
    """A recipe that has learned already from some examples: the gate need not wait for it twice."""

    recipe: Recipe
    examples: Sequence[Example]
    adapter: Adapter

    @property
    def name(self) -> str:
        """The recipe's."""
        return self.recipe.name

    @property
    def form(self) -> int:
        """The recipe's."""
        return self.recipe.form

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Adapter:
        """What was learned from these examples, or what the recipe makes of others."""
        known = [example.key for example in examples] == [example.key for example in self.examples]
        known = known and all(mine.truth is other.truth for mine, other in zip(examples, self.examples, strict=True))
        return self.adapter if known else self.recipe.fit(examples, words, segmenter)

    def load(self, state: AdapterState) -> Adapter:
        """See `worker.learning.interfaces.Recipe`."""
        return self.recipe.load(state)


class _Service:
    """Holds what is served, as the gate decides it: the zero-shot model first."""

    def __init__(self, words: Words, segmenter: Segmenter) -> None:
        self._words = words
        self._segmenter = segmenter
        self._served: Adapter | None = None
        self._seen: tuple[str, ...] = ()

    def offer(self, candidate: _Learned) -> bool:
        """Put a candidate to the gate with the corrections it comes from; whether it is served from now on."""
        taught, held_out = split(candidate.examples)
        verdict = judge(candidate, taught, held_out, self._served, self._words, self._segmenter, seen=self._seen)
        if verdict.promoted:
            self._served, self._seen = verdict.adapter, verdict.learned_from
        return verdict.promoted


def play(
    loop: Loop, recipe: Recipe, segmenter: Segmenter, counts: Sequence[int], order: int | None, *, gate: bool
) -> Iterator[Outcome]:
    """Annotate in an order, None = least certain first, and after each of `counts` photographs learn and judge.

    Args:
        gate: whether each candidate is also put to the gate, after those before it.
    """
    chosen: list[int] = []
    head: Adapter | None = None
    service = _Service(loop.words, segmenter)
    for count in counts:
        if order is not None:
            chosen = loop.random_order(order)[:count]
        else:
            left = [index for index in range(len(loop.train)) if index not in chosen]
            chosen += loop.least_certain(left, head)[: count - len(chosen)]
        examples = [loop.train[index] for index in chosen]
        begun = time.perf_counter()
        head = recipe.fit(examples, loop.words, segmenter)
        seconds = time.perf_counter() - begun
        promoted = service.offer(_Learned(recipe, examples, head)) if gate else None
        yield Outcome(count, head, loop.judge(head), seconds, promoted)
