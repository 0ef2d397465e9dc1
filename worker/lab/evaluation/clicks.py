"""How many clicks does a thing take? From nothing, and from what the model predicts without clicks.

The annotator is simulated and knows the truth; what answers the clicks does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.evaluation.click_methods import METHODS
from worker.lab.evaluation.click_things import Picture, drawn_pictures, predict, read_photographs
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.loop import LearningLoop
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.learning.recipes import recipe_named
from worker.segmentation.clicks.prompts import Prompt
from worker.segmentation.clicks.robot import GOAL, MOST_CLICKS, Robot
from worker.segmentation.clicks.scene import prepare
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import Head
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

MEANING = "clicks: how many a thing takes, from nothing and from the prediction"
_WRONG = 0.5  # IoU below which a prediction is wrong


@dataclass
class Sessions:
    """What was measured, thing by thing.

    Attributes:
        before: IoU of the best predicted region.
        first: IoU after one click on that region.
        clicked: IoU after one click from nothing.
        boxed: IoU after one box and no click.
        from_nothing: clicks until the goal, from nothing; the most if never.
        from_prediction: the same from the predicted region.
        preparing: milliseconds per picture.
    """

    before: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    clicked: list[float] = field(default_factory=list)
    boxed: list[float] = field(default_factory=list)
    from_nothing: list[int] = field(default_factory=list)
    from_prediction: list[int] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)

    def figures(self, spent: Sequence[float]) -> dict[str, object]:
        """Means over the things; of those predicted wrong besides. Milliseconds of every answer are given."""
        before, first = np.array(self.before), np.array(self.first)
        wrong = before < _WRONG
        found: dict[str, object] = {
            "noc85": _mean(self.from_nothing), "noc85_from_prediction": _mean(self.from_prediction),
            "iou_before": _mean(before), "iou_after_1": _mean(first), "n": len(before),
            "wrong_iou_before": _mean(before[wrong]), "wrong_iou_after_1": _mean(first[wrong]),
            "wrong_gain": _mean((first - before)[wrong]), "wrong_n": int(wrong.sum()),
            "iou_1_from_nothing": _mean(self.clicked), "iou_box": _mean(self.boxed),
        }  # fmt: skip
        times = {"p50_ms": (spent, 50), "p95_ms": (spent, 95), "prepare_p50_ms": (self.preparing, 50)}
        return found | {name: round(float(np.percentile(ms, q)), 1) if len(ms) else None
                        for name, (ms, q) in times.items()}  # fmt: skip


def evaluate_clicks(
    segmenter: Segmenter,
    pictures: Sequence[Picture],
    *,
    method: str,
    robot: Robot,
    head: Head | None = None,
    most_things: int | None = None,
) -> dict[str, object]:
    """Let the robot click on every thing of some pictures; see `Sessions` for what is measured."""
    sessions, console = Sessions(), Console(stderr=True)
    answer_with = METHODS[method]
    for picture in track(pictures, "Clicking", console=console, disable=not console.is_terminal):
        scores, prediction = predict(segmenter, picture, head)
        scores.photo_features(picture.image)  # loads the network before the clock runs
        started = time.perf_counter()
        scene = prepare(segmenter, scores, head)
        sessions.preparing.append(1000 * (time.perf_counter() - started))
        for thing in _spread(picture.things, most_things):

            def answer(
                prompt: Prompt, current: Any, scene: Any = scene, prediction: Any = prediction, index: int = thing.index
            ) -> Any:
                return answer_with(scene, prediction, prompt, index, current)

            predicted = prediction.best_of(thing)
            begun = 0.0 if predicted is None else mask_iou(predicted, thing.mask)
            fresh = robot.correct(answer, thing.mask, None)
            corrected = fresh if predicted is None else robot.correct(answer, thing.mask, predicted)
            sessions.before.append(begun)
            sessions.first.append(corrected[min(1, len(corrected) - 1)])
            sessions.clicked.append(fresh[1])
            sessions.boxed.append(robot.box(answer, thing.mask))
            sessions.from_nothing.append(_clicks(fresh, robot.most_clicks))
            sessions.from_prediction.append(_clicks(corrected, robot.most_clicks))
    return sessions.figures(robot.spent)


def _spread(things: Sequence[TrueSegment], most: int | None) -> Sequence[TrueSegment]:
    """At most some things, every so many from the first one."""
    return things if not most else things[:: max(1, -(-len(things) // most))]


def _clicks(ious: Sequence[float], most: int) -> int:
    return len(ious) - 1 if ious[-1] >= GOAL else most


def _mean(values: Any) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    add = parser.add_argument
    add("--photos", type=Path, metavar="DIR", help="photographs with instances/; see docs/research/clicks.md")
    add("--drawn", action="store_true", help="drawn scenes instead of photographs, or besides")
    add("--part", default="", help="of the photographs (default: all of the set)")
    add("--learn", default="", metavar="PART", help="learn from photographs of this part first")
    add("--count", type=int, default=3, help="how many photographs are learned from (default: %(default)s)")
    add("--method", choices=METHODS, default="zeromask", help="who answers (default: %(default)s)")
    add("--jitter", type=float, default=0.1, help="0 = clicks in the very middle of the largest error, 0.5 = anywhere "
        "in its inner half (default: %(default)s)")  # fmt: skip
    add("--clicks", type=int, default=MOST_CLICKS, help="most clicks on a thing (default: %(default)s)")
    add("--limit", type=int, default=0, metavar="N", help="pictures (default: all photographs, 40 drawn scenes)")
    add("--things", type=int, default=0, metavar="N", help="most things of a picture, evenly from its list (default: "
        "all)")  # fmt: skip
    add("--seed", type=int, default=1, help="of the clicks and the drawn scenes (default: %(default)s)")
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure; a table, or one JSON line, on stdout."""
    if options.photos is None and not options.drawn:
        raise SettingsError("--photos", "is missing", "Give a folder of photographs, or --drawn.")
    if not 0 <= options.jitter < 1 or options.clicks < 1:
        raise SettingsError("--jitter and --clicks", "must be from 0 to below 1, and at least 1", "Give other numbers.")
    segmenter = Segmenter(Encoder.from_settings(settings))
    head = _learned(segmenter, options) if options.learn else None
    results = {}
    for name, pictures, learned in _sets(options, head):
        robot = Robot(options.jitter, options.seed, options.clicks)
        results[name] = evaluate_clicks(
            segmenter, pictures, method=options.method, robot=robot, head=learned, most_things=options.things or None
        )
    shown: Mapping[str, Any] = next(iter(results.values())) if len(results) == 1 else results
    sys.stdout.write(json.dumps(shown) + "\n" if options.json else table(results))
    return 0


def _sets(options: argparse.Namespace, head: Head | None) -> Iterator[tuple[str, list[Picture], Head | None]]:
    if options.photos is not None:
        yield options.photos.name, list(read_photographs(options.photos, options.part))[: options.limit or None], head
    if options.drawn:
        yield "drawn", list(drawn_pictures(options.limit or 40, seed=options.seed)), None


def _learned(segmenter: Segmenter, options: argparse.Namespace) -> Head:
    """Learn from the first photographs of a part, in an order that does not depend on the model."""
    if options.photos is None:
        raise SettingsError("--learn", "needs photographs", "Give --photos.")
    read = read_labelled_set(options.photos, [options.learn], None)
    loop = LearningLoop(segmenter, read, learn=options.learn, test=options.learn)
    chosen = [loop.train[index] for index in loop.random_order(options.seed)[: options.count]]
    return recipe_named("quick").fit(chosen, loop.words, segmenter)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the figures for a person."""
    lines = []
    for name, found in results.items():
        lines.append(f"{name}: {found['n']} things")
        lines += [f"  {key:<24}{value}" for key, value in found.items() if key != "n"]
    return "\n".join(lines) + "\n"
