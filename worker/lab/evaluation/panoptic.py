"""Are things found one by one? Drawn scenes in which things of one class touch, by PQ and AP, with and without cuts.

One forward and one class map serve both, so that the difference is the cuts' alone; scenes in which nothing touches
show what cutting costs where nothing is to be cut. It must not know how the model was trained.
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
from worker.lab.evaluation.crowds import FIT_SEED, STUFF_FROM, WORDS, Crowd, TrueSegment, crowd, labels_of, words_of
from worker.lab.evaluation.fit_assembly import wanted_of
from worker.lab.evaluation.panoptic_quality import Region, SegmentJudge, reliability
from worker.lab.evaluation.photographed_things import judge_photographs
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.assembly import LEAST_SCORE, Segment, assemble
from worker.segmentation.instances.splitting import CUT_RULE, CutRule
from worker.segmentation.segmenter import Segmenter

MEANING = "things that touch: PQ and AP50 on drawn scenes, with and without cuts"
_RULES: Mapping[str, CutRule | None] = {"whole": None, "split": CUT_RULE}
_LABELS = len(labels_of("colours"))


@dataclass
class _Tallies:
    """Everything a run counts of one kind of scenes, by rule, and by rule and words."""

    judges: dict[str, SegmentJudge] = field(default_factory=dict)
    by_picture: dict[str, list[float]] = field(default_factory=dict)

    def hear(self, rule: str, number: int, found: Sequence[Segment], asked: Crowd) -> None:
        """Judge one scene: by class over all pictures, by class over those of the same words, and alone."""
        scores = [segment.score for segment in found]
        sides = _reindexed(found, number), _reindexed(asked.truth, number)
        alone = _judge()
        kept = [self.judges.setdefault(name, _judge()) for name in (rule, f"{rule} {words_of(number)}")]
        for judge in (*kept, alone):
            judge.hear(sides[0], scores, sides[1])
        self.by_picture.setdefault(rule, []).append(alone.pooled_pq())

    def figures(self) -> dict[str, object]:
        """By rule and words; and what cutting adds to the PQ of things in a picture, with its standard error."""
        found: dict[str, object] = {name: _rounded(judge.figures()) for name, judge in self.judges.items()}
        gain = np.array(self.by_picture["split"]) - np.array(self.by_picture["whole"])
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        return found | {"gain": _rounded({"pq_things": gain.mean(), "error": error, "worse": (gain < 0).mean()})}


def _judge() -> SegmentJudge:
    """Scenes asked by shape have classes of their own, behind those asked by colour."""
    things = frozenset(k * _LABELS + label for k in range(len(WORDS)) for label in range(STUFF_FROM))
    return SegmentJudge(len(WORDS) * _LABELS, things)


def _reindexed(segments: Sequence[Region], number: int) -> list[TrueSegment]:
    first = _LABELS * WORDS.index(words_of(number))
    return [TrueSegment(first + segment.index, segment.mask) for segment in segments]


def judge_model(encoder: Encoder, *, scenes: int, seed: int) -> dict[str, object]:
    """Put `scenes` scenes that touch, and a third as many that do not, to a model; the figures, fit for JSON."""
    segmenter, console = Segmenter(encoder), Console(stderr=True)
    kinds = {True: _Tallies(), False: _Tallies()}
    asked = [(number, True) for number in range(scenes)] + [(number, False) for number in range(max(2, scenes // 3))]
    clock = _Clock()
    for number, touching in track(asked, "judging", console=console, disable=not console.is_terminal):
        _hear(segmenter, number, crowd(seed, number, touching=touching), kinds[touching], clock)
    return {
        "scenes": scenes,
        "touching": kinds[True].figures(),
        "apart": kinds[False].figures(),
        "reliability": [_rounded(row) for row in reliability(kinds[True].judges["split"].accepted)],
        "ms": {name: round(float(np.median(spent)), 1) for name, spent in clock.spent.items()},
    }


@dataclass
class _Clock:
    """Milliseconds spent on each stage, call by call."""

    spent: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.spent.setdefault(stage, []).append(1000 * (time.perf_counter() - started))


def _hear(segmenter: Segmenter, number: int, asked: Crowd, tallies: _Tallies, clock: _Clock) -> None:
    image = asked.scene.image
    with clock.of("embed"):
        embedding = segmenter.embed([image])[0]
    with clock.of("classes"):
        scene = segmenter.score(embedding, [(label,) for label in asked.labels], image)
        classes, confidence = segmenter.pixel_classes(scene)
    for name, rule in _RULES.items():
        with clock.of(name):
            found = assemble(classes, confidence, wanted_of(asked), image, rule=rule)
        tallies.hear(name, number, [segment for segment in found if segment.score >= LEAST_SCORE], asked)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Options of this protocol; defaults out of the settings."""
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="scenes that touch (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the pictures (default: %(default)s)")
    parser.add_argument("--photos", type=Path, metavar="SET", help="judge the cuts on photographs with instances/ "
                        "instead, the true classes given; no model is run")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Judge the model, or the cuts on photographs, and print a table, or one JSON line with --json."""
    if options.photos is not None:
        judged = judge_photographs(options.photos)
        sys.stdout.write(json.dumps(judged) + "\n" if options.json else f"{judged}\n")
        return 0
    if options.limit < len(WORDS):
        raise SettingsError("--limit", f"is {options.limit}", f"Ask for at least {len(WORDS)} scenes.")
    if options.seed == FIT_SEED:
        raise SettingsError("--seed", f"is {FIT_SEED}, that of the scenes the rules were fitted on", "Take another.")
    found = judge_model(Encoder.from_settings(settings), scenes=options.limit, seed=options.seed)
    sys.stdout.write(json.dumps(found) + "\n" if options.json else table(found))
    return 0


def table(found: Mapping[str, Any]) -> str:
    """The figures for a person."""
    keys = ("pq", "sq", "rq", "pq_things", "pq_stuff", "ap50", "ece")
    lines = [f"{found['scenes']} scenes with touching things, a third as many without", ""]
    lines.append(f"  {'':<26}" + "".join(f"{key:>11}" for key in keys))
    for kind in ("touching", "apart"):
        for name, row in found[kind].items():
            if name != "gain":
                lines.append(f"  {kind + ' ' + name:<26}" + "".join(f"{row[key]:>11.3f}" for key in keys))
        gain = found[kind]["gain"]
        told = f"{gain['pq_things']:+.3f} (+- {gain['error']:.3f})"
        lines.append(f"  cutting adds {told} to the PQ of things in a picture; {gain['worse']:.0%} lose")
    lines += ["", "  score, and share of segments that reached it with IoU 0.75 (how many)"]
    lines += [f"  {row['score']:.2f}  {row['right']:.2f}  ({row['count']:.0f})" for row in found["reliability"]]
    lines.append("  ms: " + ", ".join(f"{name} {spent:g}" for name, spent in found["ms"].items()))
    return "\n".join(lines) + "\n"


def _rounded(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: round(float(value), 4) for key, value in row.items()}
