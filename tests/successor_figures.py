"""How often the gate lets a better successor through: `python -m tests.successor_figures [--photos DIR] [SEED ...]`.

Pictures are corrected in rounds, from the masks that are served then, by the simulated annotator of `zeromask evaluate
--protocol active`. What `quick` learned from the first k is served, what it learned from the first m is the candidate,
for k, m of 1, 3, 5, 9, 14, 20 with at most one between them. Both are scored on other pictures, along outlines. One
JSON line says how many of the candidates that are better or worse there the gate lets through before outlines are
followed, with the proof that is asked of a successor and with that which is asked of others; and how far the gain that
it measures is from theirs, in mean IoU and in errors that it takes it for (`measured_error`), and the same of the IoU
of each class that it could object to.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.evaluation.active import drawn_project
from worker.lab.evaluation.annotator import Annotator, DrawnRegion
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.loop import LearningLoop, TestScores
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.corrections.examples import with_words
from worker.learning.gate.candidates import Baselines
from worker.learning.gate.comparison import Comparison
from worker.learning.gate.evaluator import Evaluator
from worker.learning.gate.evidence import FEWEST_OF_SUCCESSOR, LEAST_FOUND, MOST_DROP, expected_gain
from worker.learning.gate.splits import evaluation_split, hold_out_split
from worker.learning.interfaces import Adapter, Example
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

COUNTS = (1, 3, 5, 9, 14, 20)
SEEDS = (20, 21, 22)
POOL, TESTED = 120, 24
MARGIN = 0.01
"""Mean IoU on other pictures from which a candidate counts as better or worse."""


@dataclass(frozen=True)
class Learned:
    """What was learned from some corrected pictures.

    Attributes:
        adapter: at full strength; None = the zero-shot model.
        seen: keys of the pictures.
        scores: on other pictures.
    """

    adapter: Adapter | None
    seen: frozenset[str]
    scores: TestScores


@dataclass(frozen=True)
class Off:
    """How far a measured gain is from that on other pictures.

    Attributes:
        by: IoU.
        error: how far off the gate takes it for.
        standard_error: of the same over the resamples.
        fell: whether it fell by more than MOST_DROP on other pictures.
        refused: whether the gate said that it would fall.
    """

    by: float
    error: float
    standard_error: float
    fell: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Pair:
    """A candidate and what is served.

    Attributes:
        gain: mean IoU on other pictures.
        growth: logarithm of how many times as many corrections the candidate was trained on.
        off: the mean IoU that it gains on the images that evaluate it.
        classes_off: the IoU of each class that its fall there could speak against.
        objections: of the gate, to a successor and to any other candidate.
    """

    gain: float
    growth: float
    off: Off
    classes_off: tuple[Off, ...]
    objections: dict[bool, tuple[str, ...]]


class Project:
    """Pictures that are corrected one after another, and others that are scored.

    Args:
        loop: the pictures, embedded.
        segmenter: the model.
        seed: decides about the order and the annotator's mistakes.
    """

    def __init__(self, loop: LearningLoop, segmenter: Segmenter, seed: int) -> None:
        self._loop, self._segmenter, self._recipe = loop, segmenter, recipe_named("quick")
        drawn = np.random.default_rng((1, seed)).permutation(len(loop.train))[: max(COUNTS)]
        found = (replace(loop.train[int(k)], key=f"{seed} {loop.train[int(k)].key}") for k in drawn)
        self._pictures = [with_words(example, loop.words) for example in found]
        self._annotator = Annotator(has_background=loop.has_background)
        labels = (Label(texts[0], texts, "label", "image", "$image", "brush") for texts in loop.words)
        self._vocabulary = Vocabulary(tuple(labels))

    def pairs(self) -> Iterator[Pair]:
        """What is served at first is the zero-shot model; in every other round nothing is promoted."""
        served = Learned(None, frozenset(), TestScores(0.0, {}))
        corrected: list[Example] = []
        for number, count in enumerate(count for count in COUNTS if count <= len(self._pictures)):
            corrected += [self._correct(one, served.adapter) for one in self._pictures[len(corrected) : count]]
            train, hold_out = hold_out_split(corrected, served.seen)
            adapter = self._recipe.fit(train, self._loop.words, self._segmenter)
            found = Learned(adapter, frozenset(one.key for one in train), self._loop.evaluate(adapter))
            if served.adapter is not None and len(found.seen) > len(served.seen):
                yield self._compared(served, found, train, hold_out)
            if number % 2 == 0:
                served = found

    def _correct(self, picture: Example, served: Adapter | None) -> Example:
        predicted = self._segmenter.segment(picture.embedding, self._vocabulary, picture.image, head=served).segments
        number = {texts: index for index, texts in enumerate(self._loop.words)}
        regions = [DrawnRegion(number[segment.label.texts], segment.mask) for segment in predicted]
        rng = np.random.default_rng(zlib.crc32(f"mistakes {picture.key}".encode()))
        return replace(picture, truth=self._annotator.correct(regions, picture.truth, rng).truth)

    def _compared(
        self, served: Learned, found: Learned, train: Sequence[Example], hold_out: Sequence[Example]
    ) -> Pair:
        assert found.adapter is not None
        words, segmenter = self._loop.words, self._segmenter
        split = evaluation_split(train, hold_out, served.seen)
        folds = [self._recipe.fit(examples, words, segmenter) for examples in split.training_sets]
        evaluator = Evaluator(segmenter, words, {label for example in train for label in drawn_classes(example.truth)})
        names = [*(texts[0] for texts in words), "background"]
        objections = {}
        for expected in (None, expected_gain(len(found.seen), len(served.seen))):
            baselines = Baselines(evaluator, split.images, served.adapter, served.seen, names, expected=expected)
            (judged,) = baselines.evaluate([1.0], found.adapter, folds)
            objections[expected is not None] = judged.objections
        comparison, growth = judged.versus_served, math.log(len(found.seen) / len(served.seen))
        gain, (before, after) = found.scores.miou - served.scores.miou, comparison.mean_ious
        off = Off(after - before - gain, baselines.error_of(comparison), comparison.standard_error)
        reasons = "; ".join(objections[True])
        classes_off = tuple(_classes_off(baselines, comparison, names, served.scores, found.scores, reasons))
        return Pair(gain, growth, off, classes_off, objections)


def _classes_off(
    baselines: Baselines, comparison: Comparison, names: Sequence[str], served: TestScores, found: TestScores,
    reasons: str,
) -> Iterator[Off]:  # fmt: skip
    before, after = comparison.ious
    errors, standard_errors = baselines.class_errors_of(comparison), comparison.class_standard_errors
    for k, name in enumerate(names):
        speaks = baselines.shown[k] >= FEWEST_OF_SUCCESSOR and before[k] >= LEAST_FOUND  # not where it is NaN
        if speaks and name in served.per_label and name in found.per_label:
            gain = found.per_label[name] - served.per_label[name]
            yield Off(after[k] - before[k] - gain, float(errors[k]), float(standard_errors[k]), gain < -MOST_DROP,
                      f"{name} would fall" in reasons)  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """One JSON line on stdout."""
    torch.set_num_threads(1)
    settings = replace(Settings.from_env(os.environ), model="builtin")
    segmenter = Segmenter(Encoder.from_settings(settings))
    size = arguments.size and tuple(arguments.size)
    pictures = read_labelled_set(arguments.photos, ["train", "test"], size) if arguments.photos else drawn_project(
        POOL, TESTED
    )  # fmt: skip
    pictures = replace(pictures, parts={**pictures.parts, "test": pictures.parts["test"][:TESTED]})
    loop = LearningLoop(segmenter, pictures, learn="train", test="test")
    shown = track(arguments.seeds, "Judging", console=Console(stderr=True))
    pairs = [pair for seed in shown for pair in Project(loop, segmenter, seed).pairs()]
    sys.stdout.write(json.dumps({"seeds": list(arguments.seeds), "pairs": len(pairs), **figures(pairs)}) + "\n")


def figures(pairs: Sequence[Pair]) -> dict[str, object]:
    """How many are better and worse, how many of these the gate lets through, and the gain over the logarithm of the
    number of corrections: mean and standard deviation.
    """
    better, worse = ([pair for pair in pairs if sign * pair.gain > MARGIN] for sign in (1, -1))
    slopes = [pair.gain / pair.growth for pair in pairs]
    return {
        "better": len(better),
        "worse": len(worse),
        "gain_by_e_times_as_many": [round(float(np.mean(slopes)), 3), round(float(np.std(slopes)), 3)],
        **_off([pair.off for pair in pairs]),
        "classes": _off([off for pair in pairs for off in pair.classes_off]),
        **{
            name: {
                "better": sum(not pair.objections[succeeds] for pair in better),
                "worse": sum(not pair.objections[succeeds] for pair in worse),
                "share_of_gain": round(
                    sum(pair.gain for pair in better if not pair.objections[succeeds])
                    / max(sum(pair.gain for pair in better), 1e-9), 3,
                ),
            }
            for name, succeeds in (("as_others", False), ("as_successors", True))
        },
    }  # fmt: skip


def _off(found: Sequence[Off]) -> dict[str, object]:
    if not found:
        return {"count": 0}
    return {
        "count": len(found),
        "measured_off_by": round(_root_mean_square([off.by for off in found]), 3),
        "in_errors": round(_root_mean_square([off.by / off.error for off in found]), 2),
        "in_standard_errors": round(_root_mean_square([off.by / off.standard_error for off in found]), 2),
        "too_low_by_two_errors": sum(off.by < -2 * off.error for off in found),
        "too_low_by_two_standard_errors": sum(off.by < -2 * off.standard_error for off in found),
        "fell": sum(off.fell for off in found),
        "fell_and_refused": sum(off.fell and off.refused for off in found),
        "refused": sum(off.refused for off in found),
    }


def _root_mean_square(values: Sequence[float]) -> float:
    return math.sqrt(float(np.mean(np.square(values))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs in place of drawn pictures")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="pixels that are scored (default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    main(_arguments())
