"""How well the gate decides, on drawn scenes: `python -m tests.gate_figures`.

For labels the model knows and labels it does not, and 1 to 9 corrected pictures: mean IoU on 30 other pictures of the
zero-shot model, of what the gate serves, and of what was learned, ungated. Takes about two minutes.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from tests.learning_world import KNOWN, STRANGE, LinearRecipe, corrected_scenes
from worker.learning.gate.decision import judge
from worker.learning.gate.evaluator import Evaluator
from worker.learning.gate.splits import EvaluationImage
from worker.learning.interfaces import Adapter, Example, Words
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.metrics import class_ious
from worker.segmentation.segmenter import Segmenter

COUNTS = (1, 2, 3, 5, 9)
ORDERS = 10


def main() -> None:
    """One JSON line per kind of label and number of corrections, on stdout."""
    torch.set_num_threads(1)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    drawn = corrected_scenes(segmenter, 30, seed=999)
    rows: dict[tuple[str, int], list[tuple[float, float, float, bool, float]]] = {}
    for seed in track(range(ORDERS), "Judging", console=Console(stderr=True)):
        corrected = corrected_scenes(segmenter, max(COUNTS), seed=seed)
        for kind, words in (("known", KNOWN), ("strange", STRANGE)):
            learn, others = ([replace(e, words=words) for e in part] for part in (corrected, drawn))
            evaluator = Evaluator(segmenter, words, set(range(len(words))))
            for count in COUNTS:
                rows.setdefault((kind, count), []).append(_row(learn[:count], others, words, evaluator))
    for (kind, count), found in rows.items():
        zero_shot, served, ungated, promoted, seconds = np.array(found, dtype=float).T
        figures = {
            "labels": kind, "corrections": count, "promoted": int(promoted.sum()), "of": ORDERS,
            "zero_shot": round(zero_shot.mean(), 3), "served": round(served.mean(), 3),
            "ungated": round(ungated.mean(), 3), "served_worst_gain": round((served - zero_shot).min(), 3),
            "ungated_worst_gain": round((ungated - zero_shot).min(), 3), "cpu_s": round(float(np.median(seconds)), 2),
        }  # fmt: skip
        sys.stdout.write(json.dumps(figures) + "\n")


def _row(
    learn: list[Example], others: list[Example], words: Words, evaluator: Evaluator
) -> tuple[float, float, float, bool, float]:
    images = [EvaluationImage(example, None) for example in others]

    def quality(head: Adapter | None) -> float:
        confusions = evaluator.confusions(images, evaluator.predict(images, lambda image: head))
        return float(np.nanmean(class_ious(np.sum(confusions, axis=0))))

    started = time.process_time()
    verdict = judge(LinearRecipe(), learn, [], None, words, evaluator.segmenter)
    seconds = time.process_time() - started
    ungated = LinearRecipe().fit(learn, words, evaluator.segmenter)
    return quality(None), quality(verdict.adapter), quality(ungated), verdict.promoted, seconds


if __name__ == "__main__":
    main()
