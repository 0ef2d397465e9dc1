"""Do scores mean something? Held-out predictions after a number of corrections, before and after calibration.

The annotator is simulated: a region whose IoU with the truth is 0.75 or more is left as it is. What is corrected was
predicted by a version that had not learned from it, as in the service; what is judged, by the last version. The gate is
left out: it decides which version is served, not what its scores mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from plugin_config.errors import EnvironmentBroken, SettingsError
from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.charts import line_chart
from worker.lab.evaluation.calibration_figures import (
    CalibrationRun,
    JudgedImage,
    JudgedRegion,
    empty_figures,
    summarise,
)
from worker.lab.evaluation.click_things import LEAST_SHARE
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.loop import LearningLoop
from worker.lab.evaluation.panoptic_scenes import FIT_SEED, STUFF_FROM, PanopticScene, TrueSegment, panoptic_scene
from worker.lab.evaluation.photographed_things import read_things
from worker.lab.metrics import iou_table
from worker.learning.interfaces import Adapter, Example
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.segmenter import Segmentation, Segmenter

MEANING = "scores as probabilities: calibration of held-out predictions after corrections"
_MATCH_IOU = 0.5
_FEWEST_ASKED, _MOST_ASKED = 2, 5  # labels of two drawn scenes in three; the third asks for all
_ALONE = 2  # labels that a drawn scene is asked for, each alone
_DRAWN = "drawn"


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    add = parser.add_argument
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--photos", type=Path, metavar="DIR", help="photographs with instances/ instead of the drawn world")
    add("--learn", default="train", metavar="PART", help="part of the photographs that is corrected (default: "
        "%(default)s)")  # fmt: skip
    add("--test", default="test", metavar="PART", help="part that is held out (default: %(default)s)")
    add("--corrections", type=int, default=50, metavar="N", help="images corrected, all of the part where it has fewer "
        "(default: %(default)s)")  # fmt: skip
    add("--held-out", type=int, default=100, metavar="N", help="drawn scenes held out (default: %(default)s)")
    add("--every", type=int, default=settings.finetune_every, metavar="N", help="photographs after which a version is "
        "learned (default: %(default)s)")  # fmt: skip
    add("--orders", type=int, default=10, help="random orders of the photographs (default: %(default)s)")
    add("--seed", type=int, default=1, help="of the drawn scenes (default: %(default)s)")
    add("--output-dir", type=Path, help="write the figures and a reliability diagram here")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure; a table, or one JSON line, on stdout."""
    if min(options.corrections, options.held_out, options.every, options.orders) < 1:
        raise SettingsError("--corrections, --held-out, --every and --orders", "must be at least 1",
                            "Give positive numbers.")  # fmt: skip
    if options.seed == FIT_SEED:
        raise SettingsError("--seed", f"is {FIT_SEED}, that of the scenes the rules were fitted on", "Take another.")
    segmenter = Segmenter(Encoder.from_settings(settings))
    alone: list[CalibrationRun] = []
    if options.photos is None:
        name = _DRAWN
        runs, alone = [
            [run] for run in drawn_runs(segmenter, options.corrections, options.held_out, seed=options.seed)
        ]
    else:
        name = options.photos.name
        photographs = read_labelled_set(options.photos, [options.learn, options.test], None)
        loop = LearningLoop(segmenter, photographs, learn=options.learn, test=options.test)
        runs = photographed_runs(
            segmenter, loop, options.photos, corrections=options.corrections, every=options.every, orders=options.orders
        )
    found = {name: summarise(runs) | ({"alone": empty_figures(alone)} if alone else {})}
    sys.stdout.write(json.dumps(found) + "\n" if options.json else table(found))
    if options.output_dir is not None:
        write(options.output_dir, name, found[name])
    return 0


def drawn_runs(
    segmenter: Segmenter, corrections: int, held_out: int, *, seed: int
) -> tuple[CalibrationRun, CalibrationRun]:
    """Correct some drawn scenes and hold out others. The model knows their words and learns nothing from them.

    Returns:
        a run that asks each scene for several labels, and one that asks it for one label, twice: most of these
        predictions have no region.
    """

    def judged(drawn: PanopticScene, embedding: ImageEmbedding, asked: Sequence[int]) -> JudgedImage:
        labels = [_label((drawn.labels[index],), stuff=index >= STUFF_FROM) for index in asked]
        found = segmenter.segment(embedding, Vocabulary(tuple(labels)), drawn.scene.image)
        return judge_image(found, labels, _asked_truth(drawn, asked))

    several, alone = [], []
    for number in _shown(range(corrections + held_out), "drawn scenes"):
        drawn = panoptic_scene(seed, number, touching=number % 2 == 0)
        embedding = segmenter.embed([drawn.scene.image])[0]
        several.append(judged(drawn, embedding, _asked(seed, number, len(drawn.labels))))
        rng = np.random.default_rng((seed, number, _ALONE))
        chosen = rng.choice(len(drawn.labels), size=_ALONE, replace=False)
        alone.append([judged(drawn, embedding, [int(index)]) for index in chosen])
    return (
        CalibrationRun({"zeroshot": several[:corrections]}, several[corrections:]),
        CalibrationRun({"zeroshot": [*chain(*alone[:corrections])]}, [*chain(*alone[corrections:])]),
    )


def photographed_runs(
    segmenter: Segmenter, loop: LearningLoop, folder: Path, *, corrections: int, every: int, orders: int
) -> list[CalibrationRun]:
    """Correct photographs in random orders; after every few of them a version is learned from all so far.

    Args:
        segmenter: the model.
        loop: the photographs.
        folder: of the set; it holds instances/.
        corrections: photographs corrected, all of the part where it has fewer.
        every: photographs between two versions.
        orders: how many.

    Raises:
        ImageUnavailable: the set has no instances.
        LearningError: nothing can be learned from the photographs.
    """
    recipe, labels = recipe_named("quick"), [_label(texts, stuff=False) for texts in loop.words]
    truths = {example.key: read_things(folder, example.key, example.truth) for example in [*loop.train, *loop.test]}

    def judged(example: Example, head: Adapter | None) -> JudgedImage:
        found = segmenter.segment(example.embedding, Vocabulary(tuple(labels)), example.image, head=head)
        return judge_image(found, labels, truths[example.key])

    runs = []
    for order in _shown(range(orders), "orders"):
        chosen = [loop.train[index] for index in loop.random_order(order)[:corrections]]
        head: Adapter | None = None
        history: dict[str, list[JudgedImage]] = {}
        for start in range(0, len(chosen), every):
            history[f"a{start}"] = [judged(example, head) for example in chosen[start : start + every]]
            head = recipe.fit(chosen[: start + every], loop.words, segmenter)
        runs.append(CalibrationRun(history, [judged(example, head) for example in loop.test]))
    return runs


def judge_image(found: Segmentation, labels: Sequence[Label], truth: Sequence[TrueSegment]) -> JudgedImage:
    """Judge what was found in an image by its true segments, whose `index` is that of a label."""
    predicted = [TrueSegment(labels.index(segment.label), segment.mask) for segment in found.segments]
    ious = iou_table(predicted, truth)
    regions = tuple(
        JudgedRegion(segment.label.key, segment.score, float(row.max(initial=0.0)))
        for segment, row in zip(found.segments, ious, strict=True)
    )
    missed = int(np.count_nonzero(ious.max(axis=0, initial=0.0) < _MATCH_IOU)) if len(truth) else 0
    return JudgedImage(regions, missed, found.score)


def _label(texts: tuple[str, ...], *, stuff: bool) -> Label:
    return Label(texts[0], texts, "label", "image", "$image", "brush", stuff=stuff)


def _asked(seed: int, number: int, count: int) -> list[int]:
    """The labels that a drawn scene is asked for: of many scenes so few that some show none of them."""
    if number % 3 == 0:
        return list(range(count))
    rng = np.random.default_rng((seed, number))
    size = int(rng.integers(_FEWEST_ASKED, _MOST_ASKED + 1))
    return sorted(int(index) for index in rng.choice(count, size=size, replace=False))


def _asked_truth(drawn: PanopticScene, asked: Sequence[int]) -> list[TrueSegment]:
    """The true segments of those labels, but specks."""
    return [
        TrueSegment(asked.index(segment.index), segment.mask)
        for segment in drawn.truth
        if segment.index in asked and np.count_nonzero(segment.mask) >= LEAST_SHARE * segment.mask.size
    ]


def _shown(numbers: range, what: str) -> Iterable[int]:
    console = Console(stderr=True)
    return track(numbers, what, console=console, disable=not console.is_terminal)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the figures for a person."""
    lines = []
    for name, of_set in found.items():
        lines.append(f"{name}: {of_set['regions']:g} regions seen in {of_set['images']:g} images corrected, "
                     f"{of_set['after']['predictions']} regions held out")  # fmt: skip
        lines.append(f"  {'':<28}{'ECE':>8}{'Spearman':>10}{'score':>8}{'accepted':>10}")
        for part in ("before", "after"):
            row = of_set[part]
            figures = [_shown_figure(row[key]) for key in ("ece", "spearman", "mean_score", "accepted")]
            lines.append(f"  {part:<28}{figures[0]:>8}{figures[1]:>10}{figures[2]:>8}{figures[3]:>10}")
        lines += [f"  {other:<28}{_shown_figure(ece):>8}" for other, ece in of_set["variants"].items()]
        lines += [f"  all of it, {way:<17}{_shown_figure(row['ece']):>8}  AUC {_shown_figure(row['auc'])}"
                  for way, row in of_set["whole"].items()]  # fmt: skip
        for empty in (of_set[part] for part in ("empty", "alone") if part in of_set):
            told = "of one label" if empty is not of_set["empty"] else "of several labels"
            right, before, after = (_shown_figure(one) for one in (empty["right"], empty["ece"], empty["after"]["ece"]))
            lines.append(f"  {empty['images']} predictions of nothing, {told}: right {right}; ECE {before} before, "
                         f"{after} after {_shown_figure(empty['seen'])} seen")  # fmt: skip
    return "\n".join(lines) + "\n"


def write(folder: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Write calibration_NAME.json and calibration_NAME.svg, a reliability diagram before and after.

    Raises:
        EnvironmentBroken: the folder cannot be written to, or the diagram cannot be drawn; the JSON is written by then.
    """
    lines = {part: [(row["score"], row["right"]) for row in figures[part]["reliability"]]
             for part in ("before", "after")}  # fmt: skip
    title = f"{name}: share of regions accepted as they are, by score"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"calibration_{name}.json").write_text(json.dumps({name: figures}, indent=1) + "\n")
        if any(lines.values()):
            ideal = {"as it should be": [(0.0, 0.0), (1.0, 1.0)]}
            chart = line_chart(ideal | lines, title=title, x_label="score", y_range=(0.0, 1.0))
            (folder / f"calibration_{name}.svg").write_text(chart)
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", "Name another.") from error


def _shown_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
