"""Does learning pay? The loop on a folder of photographs, as a learning curve.

Every figure is the mean IoU over the classes that occur in truth or prediction, counted over all pixels of the test
photographs, the background included and void left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from plugin_config.errors import EnvironmentBroken, SettingsError
from plugin_config.settings import Settings
from worker.lab.charts import line_chart
from worker.lab.evaluation.beside_quick import beside_quick_table, learn_beside_quick
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.learned_things import evaluate_learned_things
from worker.lab.evaluation.learned_things import table as things_table
from worker.lab.evaluation.loop import LearningLoop, Refit, TestScores, run_loop
from worker.learning.interfaces import Recipe
from worker.learning.recipes import RECIPES, recipe_named
from worker.learning.recipes.dense.recipe import DenseRecipe
from worker.learning.recipes.quick.recipe import PARTS
from worker.overlay import Painting, draw_sheet
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

MEANING = "photographs annotated, learned from, and others pre-annotated: does learning pay?"
_COUNTS = [1, 3, 5, 9]
_ORDERS = 10
_SHOWN = 6  # photographs of the contact sheet


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="see docs/research/learning.md")
    parser.add_argument("--learn", required=True, metavar="PART", help="part of the set that is annotated")
    parser.add_argument("--test", required=True, metavar="PART", help="part of the set that is scored")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--tower", dest="affinity_tower", default=settings.affinity_tower, metavar="NAME:FILE",
                        help="as ZEROMASK_AFFINITY_TOWER (default: the same)")  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="pixels of a photograph that are "
                        "scored (default: all)")  # fmt: skip
    parser.add_argument("--counts", type=int, nargs="+", help="photographs annotated; a number "
                        "larger than the part means all of it (default: 1 3 5 9; for a recipe that learns beside quick "
                        "all, in one round of each)")  # fmt: skip
    parser.add_argument("--shots", type=int, metavar="N", help="the same as --counts N")
    parser.add_argument("--instances", action="store_true", help="score the things one by one (AP50, AP, PQ) against "
                        "the set's instances/, not the pixels")  # fmt: skip
    parser.add_argument("--recipe", default="quick", choices=tuple(RECIPES), help="what learns (default: %(default)s)")
    parser.add_argument("--order", default="random", choices=("active", "random"), help="in which photographs are "
                        "annotated: least certain first, or at random (default: %(default)s)")  # fmt: skip
    parser.add_argument("--orders", type=int, default=_ORDERS, help="random orders (default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="do not ask the gate, which learns three times more")
    parser.add_argument("--without", nargs="+", default=[], choices=(*PARTS, "shape"),
                        help="parts left out, to see what they are worth")  # fmt: skip
    parser.add_argument("--output-dir", type=Path, help="write learning.json, a chart of the learning curve and a "
                        "sheet of photographs before and after here")  # fmt: skip


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the loop; a table (or one JSON line) on stdout, progress on stderr."""
    wanted = options.counts or _COUNTS if options.shots is None else [options.shots]
    if min(wanted) < 1 or options.orders < 1 or min(options.size or [1]) < 1:
        raise SettingsError("--counts, --shots, --orders and --size", "must be at least 1", "Give positive numbers.")
    recipe = recipe_named(options.recipe, without=[part for part in options.without if part != "shape"])
    one_round = isinstance(recipe, DenseRecipe) and not (options.counts or options.shots or options.instances)
    if one_round:
        _check_one_round(options)
    photographs = read_labelled_set(options.photos, [options.learn, options.test], options.size and tuple(options.size))
    segmenter = Segmenter(Encoder.from_settings(settings))
    outlines = "shape" not in options.without
    loop = LearningLoop(segmenter, photographs, learn=options.learn, test=options.test, outlines=outlines)
    if one_round:
        found = learn_beside_quick(loop, recipe, segmenter)
        sys.stdout.write(json.dumps(found) + "\n" if options.json else beside_quick_table(found))
        return 0
    counts = sorted({min(count, len(loop.train)) for count in wanted})
    if options.instances:
        return _run_instances(options, loop, recipe, segmenter, counts)
    orders: list[int | None] = [None] if options.order == "active" else list(range(options.orders))
    refits: dict[int, list[Refit]] = {count: [] for count in counts}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("learning", total=len(orders) * len(counts))
        zero_shot = loop.evaluate(None)
        for order in orders:
            for refit in run_loop(loop, recipe, segmenter, counts, order, gate=not options.no_gate):
                refits[refit.photographs].append(refit)
                progress.advance(bar)
    summary = {"zero_shot": {"miou": round(zero_shot.miou, 4), "per_label": _rounded(zero_shot.per_label)},
               "learning_curve": {str(count): _summary(refits[count]) for count in counts}}  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n" if options.json else table(zero_shot, refits))
    if options.output_dir:
        write(options.output_dir, summary, refits, loop)
    return 0


def _check_one_round(options: argparse.Namespace) -> None:
    given = {"--output-dir": options.output_dir, "--no-gate": options.no_gate, "--order": options.order == "active",
             "--orders": options.orders != _ORDERS}  # fmt: skip
    unused = [option for option, is_given in given.items() if is_given]
    if unused:
        problem = f"recipe {options.recipe} learns beside quick in one round, from all photographs, through the gate"
        raise SettingsError(unused[0], problem, "Leave it away, or give --counts for a learning curve.")


def _run_instances(
    options: argparse.Namespace, loop: LearningLoop, recipe: Recipe, segmenter: Segmenter, counts: Sequence[int]
) -> int:
    """Find things one by one after learning from one number of photographs; a table or one JSON line on stdout."""
    if len(counts) > 1 or options.order == "active" or options.output_dir or "shape" in options.without:
        problem = "learns from one number of photographs in random orders, along outlines, and writes no folder"
        raise SettingsError("--instances", problem, "Give --shots N and none of --order active, --output-dir, "
                            "--without shape.")  # fmt: skip
    orders = range(options.orders)
    found = evaluate_learned_things(loop, recipe, segmenter, options.photos, shots=counts[0], orders=orders)
    sys.stdout.write(json.dumps(found) + "\n" if options.json else things_table(found))
    return 0


def write(
    folder: Path, summary: Mapping[str, Any], refits: Mapping[int, Sequence[Refit]], loop: LearningLoop
) -> None:
    """Write learning.json, learning.png and learning.svg.

    The PNG shows test photographs in rows of three: as the zero-shot model segments them, as the last order's adapter
    does after all its photographs, and their truth.

    Raises:
        EnvironmentBroken: the folder cannot be written to, or the chart cannot be drawn; the rest is written by then.
    """
    names = [texts[0] for texts in loop.words]
    last = refits[max(refits)][-1].adapter
    paintings = [
        Painting(example.image, [(name, classes == k) for k, name in enumerate(names) if (classes == k).any()])
        for example in loop.test[:_SHOWN]
        for classes in (loop.predict(example, None), loop.predict(example, last), example.truth)
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "learning.json").write_text(json.dumps(summary, indent=1) + "\n")
        draw_sheet(paintings, names).save(folder / "learning.png")
        (folder / "learning.svg").write_text(learning_chart(summary))
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", "Name another.") from error


def learning_chart(summary: Mapping[str, Any]) -> str:
    """Draw the learning curve of a learning.json as SVG: best, mean and worst order.

    Raises:
        EnvironmentBroken: matplotlib is not installed.
    """
    orders = {float(count): row["orders"] for count, row in summary["learning_curve"].items()}
    start = (0.0, summary["zero_shot"]["miou"])
    lines = {
        name: [start, *((count, float(reduce(mious))) for count, mious in orders.items())]
        for name, reduce in (("best order", max), ("mean", mean), ("worst order", min))
    }
    return line_chart(lines, title="Mean IoU of photographs never seen", x_label="photographs annotated",
                      y_range=(0.0, 1.0), x_ticks=[0.0, *orders])  # fmt: skip


def table(zero_shot: TestScores, refits: Mapping[int, Sequence[Refit]]) -> str:
    """Format the learning curve for a person."""
    lines = ["photographs  mIoU   std    refit s", f"{'none':>11}  {zero_shot.miou:.3f}"]
    for count, some in refits.items():
        mious = [refit.test.miou for refit in some]
        seconds = median(refit.seconds for refit in some)
        lines.append(f"{count:>11}  {np.mean(mious):.3f}  {np.std(mious):.3f}  {seconds:>7.2f}")
    return "\n".join(lines) + "\n"


def _summary(refits: Sequence[Refit]) -> dict[str, object]:
    mious = [refit.test.miou for refit in refits]
    names = dict.fromkeys(name for refit in refits for name in refit.test.per_label)
    per_label = {
        name: float(np.mean([o.test.per_label[name] for o in refits if name in o.test.per_label]))
        for name in names
    }
    promoted = [refit.promoted for refit in refits if refit.promoted is not None]
    return {
        "miou": round(float(np.mean(mious)), 4),
        "orders": [round(miou, 4) for miou in mious],
        **({"promoted": promoted} if promoted else {}),
        "per_label": _rounded(per_label),
        "refit_seconds": round(median(refit.seconds for refit in refits), 3),
    }


def _rounded(ious: Mapping[str, float]) -> dict[str, float]:
    return {name: round(iou, 4) for name, iou in ious.items()}
