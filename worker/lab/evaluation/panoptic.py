"""Are things found one by one? PQ and AP with and without cuts on drawn scenes in which things of one class touch.

Both share one forward and one class map, so that the cuts alone make the difference. Scenes in which nothing touches
show what cutting costs where it is not needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.evaluation.fit_assembly import wanted_of
from worker.lab.evaluation.panoptic_scenes import (
    FIT_SEED,
    STUFF_FROM,
    WORDS,
    PanopticScene,
    TrueSegment,
    labels_of,
    panoptic_scene,
    words_of,
)
from worker.lab.evaluation.photographed_things import evaluate_photographs
from worker.lab.metrics import PanopticEvaluator, PanopticSegment, reliability
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.assembly import LEAST_SCORE, Segment, assemble
from worker.segmentation.instances.splitting import CUT_RULE, CutRule
from worker.segmentation.segmenter import Segmenter

MEANING = "things that touch: PQ and AP50 on drawn scenes, with and without cuts"
_RULES: Mapping[str, CutRule | None] = {"whole": None, "split": CUT_RULE}
_LABELS = len(labels_of("colours"))


@dataclass
class _SceneScores:
    """Counts over the scenes of one kind, touching or apart.

    Attributes:
        evaluators: by rule, and by rule and words.
        by_image: by rule, PQ of the things of each scene.
    """

    evaluators: dict[str, PanopticEvaluator] = field(default_factory=dict)
    by_image: dict[str, list[float]] = field(default_factory=dict)

    def add(self, rule: str, number: int, predicted: Sequence[Segment], drawn: PanopticScene) -> None:
        """Count one scene: with all scenes, with those of the same words, and alone."""
        scores = [segment.score for segment in predicted]
        sides = _reindexed(predicted, number), _reindexed(drawn.truth, number)
        alone = _new_evaluator()
        kept = [self.evaluators.setdefault(name, _new_evaluator()) for name in (rule, f"{rule} {words_of(number)}")]
        for evaluator in (*kept, alone):
            evaluator.add(sides[0], scores, sides[1])
        self.by_image.setdefault(rule, []).append(alone.pooled_pq())

    def figures(self) -> dict[str, object]:
        """Figures by rule and words; mean gain of cutting in PQ of things per image, with its standard error."""
        found: dict[str, object] = {name: _rounded(evaluator.figures()) for name, evaluator in self.evaluators.items()}
        gain = np.array(self.by_image["split"]) - np.array(self.by_image["whole"])
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        return found | {"gain": _rounded({"pq_things": gain.mean(), "error": error, "worse": (gain < 0).mean()})}


def _new_evaluator() -> PanopticEvaluator:
    """An evaluator in which scenes labelled by shape have classes of their own, after those labelled by colour."""
    things = frozenset(k * _LABELS + label for k in range(len(WORDS)) for label in range(STUFF_FROM))
    return PanopticEvaluator(len(WORDS) * _LABELS, things)


def _reindexed(segments: Sequence[PanopticSegment], number: int) -> list[TrueSegment]:
    first = _LABELS * WORDS.index(words_of(number))
    return [TrueSegment(first + segment.index, segment.mask) for segment in segments]


def evaluate_panoptic(encoder: Encoder, *, scenes: int, seed: int) -> dict[str, object]:
    """Evaluate `scenes` scenes with touching things and a third as many without; return the figures as JSON values."""
    segmenter, console = Segmenter(encoder), Console(stderr=True)
    kinds = {True: _SceneScores(), False: _SceneScores()}
    numbered = [(number, True) for number in range(scenes)] + [(number, False) for number in range(max(2, scenes // 3))]
    times = _StageTimes()
    for number, touching in track(numbered, "Evaluating", console=console, disable=not console.is_terminal):
        _evaluate_scene(segmenter, number, panoptic_scene(seed, number, touching=touching), kinds[touching], times)
    return {
        "scenes": scenes,
        "touching": kinds[True].figures(),
        "apart": kinds[False].figures(),
        "reliability": [_rounded(row) for row in reliability(kinds[True].evaluators["split"].accepted)],
        "ms": {name: round(float(np.median(spent)), 1) for name, spent in times.spent.items()},
    }


@dataclass
class _StageTimes:
    """Milliseconds of each stage, call by call."""

    spent: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Time a block of one stage."""
        started = time.perf_counter()
        yield
        self.spent.setdefault(stage, []).append(1000 * (time.perf_counter() - started))


def _evaluate_scene(
    segmenter: Segmenter, number: int, drawn: PanopticScene, counts: _SceneScores, times: _StageTimes
) -> None:
    image = drawn.scene.image
    with times.of("embed"):
        embedding = segmenter.embed([image])[0]
    with times.of("classes"):
        scene = segmenter.score(embedding, [(label,) for label in drawn.labels], image)
        classes, confidence = segmenter.pixel_classes(scene)
    for name, rule in _RULES.items():
        with times.of(name):
            segments = assemble(classes, confidence, wanted_of(drawn), image, rule=rule)
        counts.add(name, number, [segment for segment in segments if segment.score >= LEAST_SCORE], drawn)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="scenes that touch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the drawn scenes (default: %(default)s)")
    parser.add_argument("--photos", type=Path, metavar="SET", help="evaluate the cuts on photographs with instances/ "
                        "instead, the true classes given; no model is run")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Evaluate the model, or the cuts on photographs, and print a table, or one JSON line with --json."""
    if options.photos is not None:
        figures = evaluate_photographs(options.photos)
        sys.stdout.write(json.dumps(figures) + "\n" if options.json else f"{figures}\n")
        return 0
    if options.limit < len(WORDS):
        raise SettingsError("--limit", f"is {options.limit}", f"Ask for at least {len(WORDS)} scenes.")
    if options.seed == FIT_SEED:
        raise SettingsError("--seed", f"is {FIT_SEED}, that of the scenes the rules were fitted on", "Take another.")
    found = evaluate_panoptic(Encoder.from_settings(settings), scenes=options.limit, seed=options.seed)
    sys.stdout.write(json.dumps(found) + "\n" if options.json else table(found))
    return 0


def table(found: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    keys = ("pq", "sq", "rq", "pq_things", "pq_stuff", "ap50", "ece")
    lines = [f"{found['scenes']} scenes with touching things, a third as many without", ""]
    lines.append(f"  {'':<26}" + "".join(f"{key:>11}" for key in keys))
    for kind in ("touching", "apart"):
        for name, row in found[kind].items():
            if name != "gain":
                lines.append(f"  {kind + ' ' + name:<26}" + "".join(f"{row[key]:>11.3f}" for key in keys))
        gain = found[kind]["gain"]
        mean = f"{gain['pq_things']:+.3f} (+- {gain['error']:.3f})"
        lines.append(f"  cutting adds {mean} to the PQ of things in an image; {gain['worse']:.0%} lose")
    lines += ["", "  score, and share of segments that reached it with IoU 0.75 (how many)"]
    lines += [f"  {row['score']:.2f}  {row['right']:.2f}  ({row['count']:.0f})" for row in found["reliability"]]
    lines.append("  ms: " + ", ".join(f"{name} {spent:g}" for name, spent in found["ms"].items()))
    return "\n".join(lines) + "\n"


def _rounded(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: round(float(value), 4) for key, value in row.items()}
