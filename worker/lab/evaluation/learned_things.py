"""Are things found one by one after learning from a few corrected photographs? AP and PQ on a set with instances/.

Segmenter, recipe, outline stage and assembly are those that the service runs. The things are also left whole where they
touch, so that the figures show what cutting is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plugin_config.errors import ImageUnavailable
from worker.lab.evaluation.loop import LearningLoop
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.lab.evaluation.photographed_things import read_things
from worker.lab.metrics import PanopticEvaluator
from worker.learning.interfaces import Recipe
from worker.segmentation.heads import Head
from worker.segmentation.instances.assembly import LEAST_SCORE, SegmentRequest, assemble
from worker.segmentation.instances.splitting import CUT_RULE, CutRule
from worker.segmentation.segmenter import Segmenter

_RULES: Mapping[str, CutRule | None] = {"split": CUT_RULE, "whole": None}
_KEYS = ("ap50", "ap", "pq", "sq", "rq")


class LearnedThings:
    """Holds the true things of the test photographs of a loop.

    Args:
        loop: the photographs.
        segmenter: the model.
        folder: of the set; it holds instances/.

    Raises:
        ImageUnavailable: the set has no instances for a test photograph, or no thing of a label at all.
    """

    def __init__(self, loop: LearningLoop, segmenter: Segmenter, folder: Path) -> None:
        self._loop = loop
        self._segmenter = segmenter
        self.truths: list[list[TrueSegment]] = [
            read_things(folder, example.key, example.truth) for example in loop.test
        ]
        if not any(self.truths):
            raise ImageUnavailable(f"set {folder}", "its instances/ show no thing of a label", "Draw some.")

    def evaluate(self, head: Head | None) -> dict[str, Any]:
        """Figures of a head (None = zero-shot): means over the labels, by label, and with components left whole."""
        names = [texts[0] for texts in self._loop.words]
        labels = frozenset(range(len(names)))
        evaluators = {name: PanopticEvaluator(len(names), labels) for name in _RULES}
        wanted = [SegmentRequest(index, stuff=False) for index in labels]
        for example, truth in zip(self._loop.test, self.truths, strict=True):
            scene = self._segmenter.score(example.embedding, self._loop.words, example.image)
            classes, confidence = self._segmenter.pixel_classes(scene, head)
            for name, rule in _RULES.items():
                found = assemble(classes, confidence, wanted, example.image, rule=rule)
                drawn = [segment for segment in found if segment.score >= LEAST_SCORE]
                evaluators[name].add(drawn, [segment.score for segment in drawn], truth)
        figures = {name: evaluator.figures() for name, evaluator in evaluators.items()}
        split = evaluators["split"]
        per_label = {
            name: split.class_precisions(index) | split.counts[index].figures()
            for index, name in enumerate(names)
            if split.counts[index].true
        }
        return {
            **{key: figures["split"][key] for key in _KEYS},
            "per_label": {name: {key: row[key] for key in _KEYS} for name, row in per_label.items()},
            "whole": {key: figures["whole"][key] for key in _KEYS},
        }


def evaluate_learned_things(
    loop: LearningLoop, recipe: Recipe, segmenter: Segmenter, folder: Path, *, shots: int, orders: Sequence[int]
) -> dict[str, Any]:
    """Learn from `shots` photographs in each random order and find the things of the test photographs.

    Returns:
        ap50, ap (mean over IoUs of 0.5 to 0.95), pq, sq and rq: means over the orders; the same by label, and with
        components left whole; and of each order its photographs and its ap50, ap and pq.

    Raises:
        ImageUnavailable: see LearnedThings.
    """
    things = LearnedThings(loop, segmenter, folder)
    rows, each = [], []
    for order in orders:
        examples = [loop.train[index] for index in loop.random_order(order)[:shots]]
        row = things.evaluate(recipe.fit(examples, loop.words, segmenter))
        rows.append(row)
        figures = {key: round(float(row[key]), 4) for key in ("ap50", "ap", "pq")}
        each.append({"learned": [example.key for example in examples]} | figures)
    counts = {"shots": shots, "photographs": len(things.truths), "things": sum(map(len, things.truths))}
    return counts | _mean_of(rows) | {"orders": each}


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of nested figures, all of the same keys."""
    return {
        key: _mean_of([row[key] for row in rows])
        if isinstance(value, Mapping)
        else round(float(np.mean([row[key] for row in rows])), 4)
        for key, value in rows[0].items()
    }


def table(found: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    lines = [f"{found['things']} things of {found['photographs']} photographs, learned from {found['shots']}", ""]
    lines.append(f"  {'':<20}" + "".join(f"{key:>8}" for key in _KEYS))
    rows = {"all labels": found, **found["per_label"], "components whole": found["whole"]}
    lines += [f"  {name:<20}" + "".join(f"{row[key]:>8.3f}" for key in _KEYS) for name, row in rows.items()]
    lines += ["", "  ap50 of each order: " + " ".join(f"{row['ap50']:.3f}" for row in found["orders"])]
    return "\n".join(lines) + "\n"
