"""Does learning some labels drown the others? Half of the labels are corrected, all are scored.

On drawn scenes, or on photographs whose words the model may not know. Every figure is an IoU of labels, counted over
all pixels of the test pictures of a draw.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from plugin_config.errors import LearningError, SettingsError
from plugin_config.settings import Settings
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF
from worker.lab.evaluation.labelled_set import LabelledPhotograph, LabelledSet, read_labelled_set
from worker.lab.evaluation.linear_head import fit_linear
from worker.lab.evaluation.loop import FittedRecipe, LearningLoop
from worker.lab.results import store_result
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import hold_out_split
from worker.learning.interfaces import UNLABELLED, Example, fit_both
from worker.learning.recipes import recipe_named
from worker.learning.recipes.generated import GENERATOR, generate_examples
from worker.learning.recipes.quick.recipe import PARTS
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter

MEANING = "half of the labels corrected: what becomes of the other half, with and without generated examples"
ROWS = ("before", "quick", "linear", "linear_spared", "linear_generator", "quick_generator", "promoted")
"""What is scored: the zero-shot model, what is learned in each way, and what the gate serves."""

KINDS = ("corrected", "uncorrected")
_DRAWS, _LEARNED, _TESTED = 10, 8, 16
_SEED = 20  # of the drawn labels and scenes
_TEST_FROM = 1000  # number of the first test scene
_SIZE, _UNIT = (144, 192), 70.0  # pixels
_LEARN, _TEST = "learn", "test"
_WORDS = ((COLOURS, 3, " shape"), (SHAPES, 3, ""), (STUFF, 2, ""))  # how many of each kind a drawn project labels


@dataclass(frozen=True)
class Draw:
    """One project: pictures, and which of its labels are corrected.

    Attributes:
        loop: the pictures and their labels.
        examples: the corrected pictures, without the regions of the other labels.
        corrected, uncorrected: indices of labels, both shown by the pictures that are scored.
    """

    loop: LearningLoop
    examples: Sequence[Example]
    corrected: tuple[int, ...]
    uncorrected: tuple[int, ...]

    @classmethod
    def of(cls, loop: LearningLoop, chosen: Sequence[int], rng: np.random.Generator) -> Draw:
        """Correct half of the labels that some pictures show, in these pictures; the test pictures must show the rest.

        Args:
            loop: the pictures.
            chosen: numbers of those that are corrected.
            rng: chooses the labels.

        Raises:
            LearningError: there is no label to correct and one to leave out.
        """
        found = [loop.train[k] for k in chosen]
        learned, tested = (
            sorted({k for one in some for k in drawn_classes(one.truth)}) for some in (found, loop.test)
        )
        both = [k for k in learned if k in tested]
        if len(both) < 2:
            problem = f"{len(both)} labels are in both those corrected and those scored, and half of them is corrected"
            raise LearningError("pictures", problem, "Give more pictures: a larger --count, or other parts.")
        corrected = tuple(sorted(int(k) for k in rng.permutation(both)[: len(both) // 2]))
        rest = tuple(k for k in tested if k not in corrected)
        examples = [
            replace(one, truth=np.where((one.truth >= 0) & ~np.isin(one.truth, corrected), UNLABELLED, one.truth))
            for one in found
        ]
        return cls(loop, examples, corrected, rest)

    def ious(self, head: Head | None) -> dict[str, float]:
        """Mean IoU of the corrected and of the uncorrected labels."""
        per_label = self.loop.evaluate(head).per_label
        names = [" ".join(texts[:1]) for texts in self.loop.words]
        return {
            kind: float(np.mean([per_label.get(names[k], 0.0) for k in labels])) if labels else math.nan
            for kind, labels in zip(KINDS, (self.corrected, self.uncorrected), strict=True)
        }


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=_DRAWS, help="projects (default: %(default)s)")
    parser.add_argument("--count", type=int, default=_LEARNED, help="pictures corrected in each (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=_TESTED, help="drawn scenes scored in each (default: "
                        "%(default)s)")  # fmt: skip
    parser.add_argument("--photos", type=Path, metavar="DIR", help="photographs in place of drawn scenes; see "
                        "docs/research/learning.md")  # fmt: skip
    parser.add_argument("--learn", metavar="PART", help="part of the photographs that is corrected")
    parser.add_argument("--test", metavar="PART", help="part of the photographs that is scored")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="pixels of a photograph that are scored "
                        "(default: all)")  # fmt: skip
    parser.add_argument("--without", nargs="+", default=[], choices=PARTS, help="parts of quick left out")
    parser.add_argument("--store", type=Path, metavar="FILE", help="keep the figures there with date and command, as "
                        "docs/results/drown.json has them")  # fmt: skip


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the draws; a table (or one JSON line) on stdout, progress on stderr."""
    if min(options.draws, options.count, options.scenes, *(options.size or [1])) < 1:
        raise SettingsError("--draws, --count, --scenes and --size", "must be at least 1", "Give positive numbers.")
    if (options.photos is None) != (options.learn is None) or (options.photos is None) != (options.test is None):
        raise SettingsError("--photos, --learn and --test", "belong together", "Give all three, or none.")
    segmenter = Segmenter(Encoder.from_settings(settings))
    photographs = None
    if options.photos is not None:
        size = options.size and tuple(options.size)
        found = read_labelled_set(options.photos, [options.learn, options.test], size)
        photographs = LearningLoop(segmenter, found, learn=options.learn, test=options.test)
    console = Console(stderr=True)
    draws = []
    for number in track(range(options.draws), "Learning", console=console, disable=not console.is_terminal):
        draw = (
            drawn_draw(segmenter, number, count=options.count, scenes=options.scenes) if photographs is None
            else Draw.of(photographs, photographs.random_order(number)[: options.count], _rng(number))
        )  # fmt: skip
        draws.append(run_draw(draw, segmenter, without=options.without))
    summary = summarise(draws)
    if options.store is not None:
        store_result(options.store, command_of(options, settings.model), summary)
    sys.stdout.write(json.dumps(summary) + "\n" if options.json else table(summary))
    return 0


def command_of(options: argparse.Namespace, model: str) -> str:
    """The command that measures the same, with a word for the folder of photographs."""
    asked = ["zeromask", "evaluate", "--protocol", "drown", "--model", model, "--draws", str(options.draws), "--count",
             str(options.count)]  # fmt: skip
    if options.photos is None:
        asked += ["--scenes", str(options.scenes)]
    else:
        asked += ["--photos", "SET", "--learn", options.learn, "--test", options.test]
    if options.size:
        asked += ["--size", *map(str, options.size)]
    if options.without:
        asked += ["--without", *options.without]
    return shlex.join([*asked, "--json"])


def drawn_draw(segmenter: Segmenter, number: int, *, count: int, scenes: int) -> Draw:
    """Draw project `number`: eight labels of the drawn world, of which four are corrected.

    Args:
        segmenter: the model.
        number: of the project; the same number gives the same project.
        count: scenes that are corrected.
        scenes: that are scored.
    """
    rng = _rng(number)
    labels = [
        f"{word}{noun}" for words, many, noun in _WORDS for word in rng.choice(words, many, replace=False).tolist()
    ]
    parts = {
        part: tuple(_drawn_picture(number, first + k, labels) for k in range(many))
        for part, first, many in ((_LEARN, 0, count), (_TEST, _TEST_FROM, scenes))
    }
    pictures = LabelledSet(tuple((label,) for label in labels), True, parts)
    return Draw.of(LearningLoop(segmenter, pictures, learn=_LEARN, test=_TEST), range(count), rng)


def run_draw(draw: Draw, segmenter: Segmenter, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Learn in each way and score; JSON values.

    Args:
        draw: the project.
        segmenter: the model.
        without: parts of quick that are left out.

    Raises:
        LearningError: nothing can be learned.
    """
    started = time.perf_counter()
    words, examples = draw.loop.words, draw.examples
    recipe = recipe_named("quick", without=without)
    generated = generate_examples(examples, words, segmenter)
    fitted = fit_both(recipe, examples, words, segmenter)
    train, held_out = hold_out_split(examples)
    verdict = judge(FittedRecipe(recipe, examples, fitted), train, held_out, None, words, segmenter)
    linear = fit_linear(examples, words, segmenter)
    supplied = sorted(set(generated.labels.tolist())) if GENERATOR not in without else []
    heads: dict[str, Head | None] = {
        "before": None, "quick": fitted.plain, "linear": linear,
        "linear_spared": fit_linear(examples, words, segmenter, spared=supplied) if supplied else linear,
        "linear_generator": (
            fit_linear(examples, words, segmenter, spared=supplied, generated=generated) if supplied else linear
        ),
        "quick_generator": fitted.supplied or fitted.plain, "promoted": verdict.adapter,
    }  # fmt: skip
    scored: dict[int, dict[str, float]] = {}
    for head in heads.values():
        if id(head) not in scored:
            scored[id(head)] = draw.ious(head)
    names = [" ".join(texts[:1]) for texts in words]
    rows = {name: {kind: _rounded(iou) for kind, iou in scored[id(head)].items()} for name, head in heads.items()}
    return {
        **rows, "labels": {kind: [names[k] for k in some]
                           for kind, some in zip(KINDS, (draw.corrected, draw.uncorrected), strict=True)},
        "generated_for": [names[k] for k in supplied], "generator": generated.reason,
        "gate": {"promoted": verdict.promoted, "reason": verdict.reason, **{
            key: value for key, value in verdict.figures.items() if key == GENERATOR}},
        "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip


def summarise(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over draws, and paired standard errors of differences.

    Returns:
        by row its mean `corrected` and `uncorrected` IoU; `change`, by row the mean change from `before`, its standard
        error and the worst draw; `won_back`, the share of what `linear` loses of uncorrected labels that
        `linear_generator` wins back, and the gain itself; and the draws.
    """
    means = {name: {kind: _rounded(np.mean([one[name][kind] for one in draws])) for kind in KINDS} for name in ROWS}
    change = {
        name: {kind: _paired([one[name][kind] - one["before"][kind] for one in draws]) for kind in KINDS}
        for name in ROWS[1:]
    }
    lost = means["before"]["uncorrected"] - means["linear"]["uncorrected"]
    gains = [one["linear_generator"]["uncorrected"] - one["linear"]["uncorrected"] for one in draws]
    share = _rounded(np.mean(gains) / lost) if lost > 0 else None
    won_back = {"share": share, "lost": _rounded(lost), **_paired(gains)}
    reasons = sorted({str(one["generator"]) for one in draws} - {""})
    return {**means, "change": change, "won_back": won_back, "stood_aside": reasons, "draws": list(draws)}


def table(summary: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    draws = summary["draws"]
    lines = [f"{len(draws)} draws, mean IoU; in brackets the change from before, its standard error, the worst draw",
             f"{'':<17}  {'corrected':<31}  uncorrected"]  # fmt: skip
    for name in ROWS:
        cells = [f"{summary[name][kind]:.3f}{_told(summary['change'].get(name, {}).get(kind))}" for kind in KINDS]
        lines.append(f"{name:<17}  {cells[0]:<31}  {cells[1]}")
    won = summary["won_back"]
    if won["share"] is not None:
        lines.append(f"linear_generator wins back {won['share']:.0%} of the {won['lost']:.3f} that linear loses")
    lines += [f"no feature is generated: {reason}" for reason in summary["stood_aside"]]
    return "\n".join(lines) + "\n"


def _told(change: Mapping[str, float] | None) -> str:
    return "" if change is None else f" ({change['mean']:+.3f} ± {change['se']:.3f}, {change['worst']:+.3f})"


def _paired(differences: Sequence[float]) -> dict[str, float]:
    """Mean, its standard error (0 of a single draw) and the smallest."""
    count = len(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return {"mean": _rounded(np.mean(differences)), "se": _rounded(error), "worst": _rounded(min(differences))}


def _drawn_picture(number: int, scene: int, labels: Sequence[str]) -> LabelledPhotograph:
    rng = np.random.default_rng((_SEED, number, scene))
    drawn = annotation_scene(rng, labels, number=scene, size=_SIZE, unit=_UNIT)
    truth = index_truth(drawn, labels).astype(np.int16) - 1  # UNLABELLED is -1
    return LabelledPhotograph(f"{number}-{scene}", drawn.image, truth, truth)


def _rng(number: int) -> np.random.Generator:
    return np.random.default_rng((_SEED, number))


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)
