"""Does learning pay? The loop on a folder of photographs: annotate some, learn, pre-annotate photographs never seen.

Everything goes through what the service runs: the segmenter, the recipe, the shape stage. Every figure is the mean IoU
over the classes that occur in truth or prediction, counted over all pixels of the test photographs, the background
included and void left out. It must not know how a recipe learns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.evaluation.labelled_set import LabelledPhotograph, LabelledSet, read_labelled_set
from worker.learning.adapter import UNLABELLED, VOID, Example, Recipe, Words
from worker.learning.recipes import RECIPES, recipe_named
from worker.segmentation.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text import BACKGROUND

MEANING = "photographs annotated, learned from, and others pre-annotated: does learning pay?"


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
        self.train = [self._example(photo) for photo in found.parts[learn]]
        self._test = [self._example(photo) for photo in found.parts[test]]

    @property
    def words(self) -> Words:
        """The texts of the labels."""
        return self._set.words

    def judge(self, head: Head | None) -> Judged:
        """Pre-annotate the test photographs and compare."""
        count = len(self.words)
        matrix = np.zeros((count + 1, count + 1), dtype=np.int64)
        for example in self._test:
            scene = self._segmenter.look(example.embedding, self.words, example.image)
            pixels, _ = self._segmenter.pixel_classes(scene, head, outlines=self._outlines)
            known = example.truth != VOID
            truth = np.where(example.truth == UNLABELLED, count, example.truth)[known].astype(np.int64)
            matrix += np.bincount(truth * (count + 1) + pixels[known], minlength=(count + 1) ** 2).reshape(matrix.shape)
        names = [" ".join(texts[:1]) for texts in self.words] + [BACKGROUND] * self._set.has_background
        return _ious(matrix, names)

    def random_order(self, number: int) -> list[int]:
        """Order `number` of the photographs to annotate; the same whatever the model."""
        return [int(index) for index in np.random.RandomState(number).permutation(len(self.train))]

    def least_certain(self, among: Sequence[int], head: Head | None) -> list[int]:
        """Photographs to annotate next: those first of whose segments the service is least sure."""
        labels = [Label(texts[0], texts, "label", "image", "image", "brush") for texts in self.words]
        vocabulary, sureness = Vocabulary(tuple(labels)), {}
        for index in among:
            example = self.train[index]
            found = self._segmenter.segment(example.embedding, vocabulary, example.image, head=head)
            sureness[index] = found.score
        return sorted(among, key=lambda index: sureness[index])

    def _example(self, photo: LabelledPhotograph) -> Example:
        return Example(photo.stem, photo.image, self._embed(photo.image), self.words, photo.truth)

    def _embed(self, image: NDArray[np.uint8]) -> ImageEmbedding:
        return self._segmenter.embed([image])[0]


def _ious(matrix: NDArray[np.int64], names: Sequence[str]) -> Judged:
    """IoU of the named classes, which come first in the confusion (true, found), and their mean."""
    hit = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hit
    ious = {name: float(hit[k] / union[k]) for k, name in enumerate(names) if union[k]}
    return Judged(float(np.mean(list(ious.values()))) if ious else 0.0, ious)


@dataclass(frozen=True)
class Outcome:
    """One refit: after how many photographs, in which order, how it did and the seconds it took."""

    photographs: int
    judged: Judged
    seconds: float


def play(
    loop: Loop, recipe: Recipe, segmenter: Segmenter, counts: Sequence[int], order: int | None
) -> Iterator[Outcome]:
    """Annotate in an order, None = least certain first, and after each of `counts` photographs learn and judge."""
    chosen: list[int] = []
    head: Head | None = None
    for count in counts:
        if order is not None:
            chosen = loop.random_order(order)[:count]
        else:
            left = [index for index in range(len(loop.train)) if index not in chosen]
            chosen += loop.least_certain(left, head)[: count - len(chosen)]
        begun = time.perf_counter()
        head = recipe.fit([loop.train[index] for index in chosen], loop.words, segmenter)
        seconds = time.perf_counter() - begun
        yield Outcome(count, loop.judge(head), seconds)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Options of this protocol; defaults out of the settings."""
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="a set, see docs/learning_photos.md")
    parser.add_argument("--learn", required=True, metavar="PART", help="part of the set that is annotated")
    parser.add_argument("--test", required=True, metavar="PART", help="part of the set that is judged")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="pixels of all (default: as they are)")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 3, 5, 9], help="photographs annotated; a number "
                        "larger than the part means all of it (default: 1 3 5 9)")  # fmt: skip
    parser.add_argument("--recipe", default="quick", choices=tuple(RECIPES), help="what learns (default: %(default)s)")
    parser.add_argument("--order", default="random", choices=("active", "random"), help="in which photographs are "
                        "annotated: least certain first, or at random (default: %(default)s)")  # fmt: skip
    parser.add_argument("--orders", type=int, default=10, help="random orders (default: %(default)s)")
    parser.add_argument("--without", nargs="+", default=[], choices=("encoder", "appearance", "retrieval", "shape"),
                        help="parts left out, to see what they are worth")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Play the loop; a table (or one JSON line) on stdout, progress on stderr."""
    if min(options.counts) < 1 or options.orders < 1 or min(options.size or [1]) < 1:
        raise SettingsError("--counts, --orders and --size", "must be at least 1", "Give positive numbers.")
    found = read_labelled_set(options.photos, [options.learn, options.test], options.size and tuple(options.size))
    segmenter = Segmenter(Encoder(options.model, device=options.device))
    loop = Loop(segmenter, found, learn=options.learn, test=options.test, outlines="shape" not in options.without)
    recipe = recipe_named(options.recipe, without=[part for part in options.without if part != "shape"])
    counts = sorted({min(count, len(loop.train)) for count in options.counts})
    orders: list[int | None] = [None] if options.order == "active" else list(range(options.orders))
    outcomes: dict[int, list[Outcome]] = {count: [] for count in counts}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=len(orders) * len(counts))
        zero_shot = loop.judge(None)
        for order in orders:
            for outcome in play(loop, recipe, segmenter, counts, order):
                outcomes[outcome.photographs].append(outcome)
                progress.advance(bar)
    told = {"zero_shot": {"miou": round(zero_shot.miou, 4), "per_label": _rounded(zero_shot.per_label)},
            "learning_curve": {str(count): _summary(outcomes[count]) for count in counts}}  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n" if options.json else table(zero_shot, outcomes))
    return 0


def table(zero_shot: Judged, outcomes: Mapping[int, Sequence[Outcome]]) -> str:
    """The learning curve for a person."""
    lines = ["photographs  mIoU   std    refit s", f"{'none':>11}  {zero_shot.miou:.3f}"]
    for count, some in outcomes.items():
        mious = [outcome.judged.miou for outcome in some]
        seconds = median(outcome.seconds for outcome in some)
        lines.append(f"{count:>11}  {np.mean(mious):.3f}  {np.std(mious):.3f}  {seconds:>7.2f}")
    return "\n".join(lines) + "\n"


def _summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    mious = [outcome.judged.miou for outcome in outcomes]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.judged.per_label)
    per_label = {
        name: float(np.mean([o.judged.per_label[name] for o in outcomes if name in o.judged.per_label]))
        for name in names
    }
    return {
        "miou": round(float(np.mean(mious)), 4),
        "orders": [round(miou, 4) for miou in mious],
        "per_label": _rounded(per_label),
        "refit_seconds": round(median(outcome.seconds for outcome in outcomes), 3),
    }


def _rounded(ious: Mapping[str, float]) -> dict[str, float]:
    return {name: round(iou, 4) for name, iou in ious.items()}
