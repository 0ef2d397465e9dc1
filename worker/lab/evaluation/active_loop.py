"""The whole loop with a simulated annotator: order, corrections, recipe, gate, served version, next predictions.

Order, segmenter, recipe, gate, hold-out, strengths and the least score of a region are those that the service runs;
what is simulated is the annotator alone, and scores are not calibrated on what they do. The learning curve is that of
what is served, so a candidate that the gate refuses changes nothing.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.evaluation.annotator import Annotator, Correction, DrawnRegion
from worker.lab.evaluation.loop import LearningLoop
from worker.learning.acceptance import IDENTITY
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import hold_out_split
from worker.learning.interfaces import Adapter, Example, Recipe
from worker.learning.selection.candidates import Candidate, Vector
from worker.learning.selection.choosing import next_images
from worker.learning.selection.coverage import Coverage
from worker.learning.selection.vectors import image_vector, unit_vector
from worker.segmentation.segmenter import Segmentation, Segmenter
from worker.service.faint import without_faint

_START = 1  # of the seeds


@dataclass(frozen=True)
class Asked:
    """What an order chooses from.

    Attributes:
        candidates: images nobody has corrected yet.
        vectors: of those that are corrected.
        counts: label key -> number of corrected images that show it.
        count: images to choose.
        seed: of this run.
    """

    candidates: Sequence[Candidate]
    vectors: Sequence[Vector | None]
    counts: Mapping[str, int]
    count: int
    seed: int


VectorOf = Callable[[Example, Segmenter], Vector | None]


def encoder_vector(example: Example, segmenter: Segmenter) -> Vector | None:
    """The mean of the model's patch features, as the service has it."""
    return image_vector(example.embedding)


def photo_vector(example: Example, segmenter: Segmenter) -> Vector | None:
    """The mean of the deepest features of the photograph network, of unit length."""
    scores = segmenter.score(example.embedding, example.words, example.image)
    *_, deepest = scores.photo_features(example.image)
    return unit_vector(deepest.float().mean(dim=(1, 2)).numpy())


@dataclass(frozen=True)
class Order:
    """A way to choose the next images.

    Attributes:
        choose: returns the keys of the chosen ones.
        predicts: whether it reads what is predicted for all candidates.
        vector_of: what an image looks like to it.
    """

    choose: Callable[[Asked], list[str]]
    predicts: bool
    vector_of: VectorOf = encoder_vector


def _active(asked: Asked) -> list[str]:
    found = next_images(asked.candidates, asked.vectors, asked.counts, count=asked.count, seed=asked.seed)
    return [choice.key for choice in found]


def _at_random(asked: Asked) -> list[str]:
    """The same permutation however many are chosen at a time."""
    keys = [one.key for one in asked.candidates]
    return sorted(keys, key=lambda key: hashlib.sha256(f"random {key}".encode()).digest())[: asked.count]


def _least_margin(asked: Asked) -> list[str]:
    return [one.key for one in sorted(asked.candidates, key=lambda one: (one.margin, one.key))][: asked.count]


def _k_center(asked: Asked) -> list[str]:
    coverage = Coverage([one.vector for one in asked.candidates])
    coverage.cover(asked.vectors)
    left = np.ones(len(asked.candidates), dtype=np.bool_)
    taken: list[str] = []
    for _ in range(asked.count):
        number = coverage.farthest(left) if (left & coverage.known).any() else int(np.argmax(left))
        taken.append(asked.candidates[number].key)
        left[number] = False
        coverage.cover_own(number)
    return taken


ORDERS: Mapping[str, Order] = {
    "random": Order(_at_random, predicts=False),
    "active": Order(_active, predicts=True),
    "active-photo": Order(_active, predicts=True, vector_of=photo_vector),
    "margin": Order(_least_margin, predicts=True),
    "k-center": Order(_k_center, predicts=False),
}
"""The service's own is `active`; the others are what it is compared with."""


@dataclass(frozen=True)
class Round:
    """A round of training.

    Attributes:
        corrected: images that are corrected by then.
        miou: of what is served after it, on the test images.
        promoted: whether the gate promoted what was learned.
    """

    corrected: int
    miou: float
    promoted: bool


@dataclass(frozen=True)
class Run:
    """One order from its first corrected image to its last.

    Attributes:
        rounds: of training.
        corrections: of each image, in the order in which they were corrected.
    """

    rounds: tuple[Round, ...]
    corrections: tuple[Correction, ...]


@dataclass(frozen=True)
class _State:
    """How far a run has come. Nothing in it changes: every order starts from the same one.

    Attributes:
        run: so far.
        examples: what annotators made of the corrected images, by key.
        served: None = the zero-shot model.
        seen: keys of the examples that it was trained on.
    """

    run: Run
    examples: Mapping[str, Example]
    served: Adapter | None = None
    seen: tuple[str, ...] = ()


class ActiveLoop:
    """Holds the images of one seed, what is predicted for them by what is served now, and the annotator.

    Args:
        loop: images to learn from and to test on, embedded.
        segmenter: the model.
        settings: of which regions are drawn.
        recipe: what learns.
        annotator: who corrects.
        pool: images to choose from at most, drawn by the seed; 0 = all.
        seed: decides about them, about the first image, about mistakes and about which images are held out.
    """

    def __init__(
        self, loop: LearningLoop, segmenter: Segmenter, settings: Settings, recipe: Recipe, annotator: Annotator,
        *, pool: int, seed: int,
    ) -> None:  # fmt: skip
        self._loop, self._segmenter, self._settings = loop, segmenter, settings
        self._recipe, self._annotator = recipe, annotator
        self._seed = seed
        drawn = np.random.default_rng((_START, seed)).permutation(len(loop.train))[: pool or None]
        # Another seed, another hold-out: which images are held out is decided by their keys.
        examples = [replace(loop.train[int(k)], key=f"{seed} {loop.train[int(k)].key}") for k in drawn]
        self._truths = {example.key: example for example in examples}
        self._first = examples[0].key
        self._vectors: dict[tuple[VectorOf, str], Vector | None] = {}
        labels = [Label(texts[0], texts, "label", "image", "$image", "brush") for texts in loop.words]
        self._vocabulary = Vocabulary(tuple(labels))
        self._predicted: dict[str, Segmentation] = {}
        self._predicted_by: Adapter | None = None

    @property
    def size(self) -> int:
        """Number of images to choose from."""
        return len(self._truths)

    def run(self, orders: Sequence[str], counts: Sequence[int], zero_shot: float) -> Iterator[tuple[str, Run]]:
        """Run each order, one after another; the first image, and what is learned from it, is the same for all.

        Args:
            orders: names in `ORDERS`.
            counts: numbers of corrected images after which a round of training follows, ascending, the first is 1.
            zero_shot: mean IoU of the zero-shot model on the test images, which is served first.
        """
        start = self._round(_State(Run((Round(0, zero_shot, False),), ()), {}), [self._first])
        yield from ((name, self._run(ORDERS[name], start, counts)) for name in orders)

    def _run(self, order: Order, state: _State, counts: Sequence[int]) -> Run:
        for count in counts[1:]:
            state = self._round(state, self._choose(order, state, count - len(state.examples)))
        return state.run

    def _choose(self, order: Order, state: _State, count: int) -> list[str]:
        left = [key for key in self._truths if key not in state.examples]
        looks = {key: self._vector(order.vector_of, key) for key in self._truths}
        candidates = [self._candidate(key, looks[key], state.served) if order.predicts else Candidate(key, looks[key])
                      for key in left]  # fmt: skip
        shown = Counter(index for example in state.examples.values() for index in drawn_classes(example.truth))
        counts = {texts[0]: shown[index] for index, texts in enumerate(self._loop.words)}
        vectors = [looks[key] for key in state.examples]
        return order.choose(Asked(candidates, vectors, counts, count, self._seed))

    def _vector(self, vector_of: VectorOf, key: str) -> Vector | None:
        if (vector_of, key) not in self._vectors:
            self._vectors[vector_of, key] = vector_of(self._truths[key], self._segmenter)
        return self._vectors[vector_of, key]

    def _candidate(self, key: str, vector: Vector | None, served: Adapter | None) -> Candidate:
        """A candidate as the service sees it: its prediction's score is the margin."""
        found = self._predict(key, served)
        labels: dict[str, float] = {}
        for segment in found.segments:
            labels[segment.label.key] = max(labels.get(segment.label.key, 0.0), segment.score)
        return Candidate(key, vector, found.score, labels)

    def _predict(self, key: str, served: Adapter | None) -> Segmentation:
        if served is not self._predicted_by:
            self._predicted, self._predicted_by = {}, served
        if key not in self._predicted:
            true = self._truths[key]
            found = self._segmenter.segment(true.embedding, self._vocabulary, true.image, head=served)
            self._predicted[key] = without_faint(found, IDENTITY, self._settings)
        return self._predicted[key]

    def _round(self, state: _State, keys: Sequence[str]) -> _State:
        """Correct these images, learn from all that are corrected, ask the gate, and serve what it promotes."""
        corrections = {key: self._correct(key, state.served) for key in keys}
        corrected = {key: replace(self._truths[key], truth=one.truth) for key, one in corrections.items()}
        examples = {**state.examples, **corrected}
        train, held_out = hold_out_split(list(examples.values()), state.seen)
        words = self._loop.words
        verdict = judge(self._recipe, train, held_out, state.served, words, self._segmenter, seen=state.seen)
        served, seen = (verdict.adapter, verdict.learned_from) if verdict.promoted else (state.served, state.seen)
        miou = self._loop.evaluate(served).miou if verdict.promoted else state.run.rounds[-1].miou
        run = Run(
            (*state.run.rounds, Round(len(examples), miou, verdict.promoted)),
            (*state.run.corrections, *corrections.values()),
        )
        return _State(run, examples, served, seen)

    def _correct(self, key: str, served: Adapter | None) -> Correction:
        number = {texts: index for index, texts in enumerate(self._loop.words)}
        segments = self._predict(key, served).segments
        regions = [DrawnRegion(number[segment.label.texts], segment.mask) for segment in segments]
        rng = np.random.default_rng(zlib.crc32(f"mistakes {key}".encode()))
        return self._annotator.correct(regions, self._truths[key].truth, rng)
