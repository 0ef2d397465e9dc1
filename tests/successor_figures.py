"""How often the gate lets a better successor through: `python -m tests.successor_figures [SEED ...]`.

What `quick` learns from the first k corrected pictures of a drawn project is served, what it learns from the first m of
them is the candidate, for all k < m of 1, 3, 5, 9, 14, 20. Both are scored on other pictures, along outlines. One JSON
line says how many of the candidates that are better or worse there the gate lets through before outlines are followed,
with the proof that is asked of a successor and with that which is asked of others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from plugin_config.settings import Settings
from worker.lab.evaluation.active import drawn_project
from worker.lab.evaluation.loop import LearningLoop
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.corrections.examples import with_words
from worker.learning.gate.candidates import Baselines
from worker.learning.gate.evaluator import Evaluator
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
class _Learned:
    """What was learned from some corrected pictures.

    Attributes:
        adapter: at full strength.
        train, hold_out: these pictures.
        miou: on other pictures.
    """

    adapter: Adapter
    train: Sequence[Example]
    hold_out: Sequence[Example]
    miou: float


@dataclass(frozen=True)
class Pair:
    """A candidate and what is served.

    Attributes:
        gain: mean IoU on other pictures.
        objections: of the gate, to a successor and to any other candidate.
    """

    gain: float
    objections: dict[bool, tuple[str, ...]]


def main(seeds: Sequence[int]) -> None:
    """One JSON line on stdout."""
    torch.set_num_threads(1)
    settings = replace(Settings.from_env(os.environ), model="builtin")
    segmenter = Segmenter(Encoder.from_settings(settings))
    loop = LearningLoop(segmenter, drawn_project(POOL, TESTED), learn="train", test="test")
    shown = track(seeds, "Judging", console=Console(stderr=True))
    pairs = [pair for seed in shown for pair in _pairs(loop, segmenter, seed)]
    sys.stdout.write(json.dumps({"seeds": list(seeds), "pairs": len(pairs), **figures(pairs)}) + "\n")


def figures(pairs: Sequence[Pair]) -> dict[str, object]:
    """How many are better and worse, and how many of these the gate lets through."""
    better, worse = ([pair for pair in pairs if sign * pair.gain > MARGIN] for sign in (1, -1))
    return {
        "better": len(better),
        "worse": len(worse),
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


def _pairs(loop: LearningLoop, segmenter: Segmenter, seed: int) -> Iterator[Pair]:
    drawn = np.random.default_rng((1, seed)).permutation(len(loop.train))[: max(COUNTS)]
    examples = [replace(loop.train[int(k)], key=f"{seed} {loop.train[int(k)].key}") for k in drawn]
    before: list[_Learned] = []
    for count in COUNTS:
        train, hold_out = hold_out_split([with_words(example, loop.words) for example in examples[:count]])
        adapter = recipe_named("quick").fit(train, loop.words, segmenter)
        found = _Learned(adapter, train, hold_out, loop.evaluate(adapter).miou)
        yield from (_compared(loop, segmenter, served, found) for served in before)
        before.append(found)


def _compared(loop: LearningLoop, segmenter: Segmenter, served: _Learned, found: _Learned) -> Pair:
    seen = {example.key for example in served.train}
    split = evaluation_split(found.train, found.hold_out, seen)
    recipe = recipe_named("quick")
    folds = [recipe.fit(examples, loop.words, segmenter) for examples in split.training_sets]
    corrected = {label for example in found.train for label in drawn_classes(example.truth)}
    evaluator = Evaluator(segmenter, loop.words, corrected)
    names = [*(texts[0] for texts in loop.words), "background"]
    objections = {}
    for succeeds in (False, True):
        baselines = Baselines(evaluator, split.images, served.adapter, seen, names, succeeds=succeeds)
        objections[succeeds] = baselines.evaluate([1.0], found.adapter, folds)[0].objections
    return Pair(found.miou - served.miou, objections)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or SEEDS)
