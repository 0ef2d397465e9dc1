"""`make papers`: train and judge every row of docs/research/papers.md that this project measures itself.

One seed is measured live; the seeds that docs/results/papers.json holds are read from it, but for the one that is live.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from plugin_config.closed_output import run_command
from plugin_config.errors import ModelUnavailable, SettingsError, ZeromaskError
from plugin_config.settings import Settings
from worker.lab.dense_data import SCENES, ZeroShotSet, drawn_set, photo_set, read_text_vectors, training_set
from worker.lab.evaluation.zeroshot import SPLITS, ZeroShotEvaluator, ZeroShotFigures, as_json
from worker.lab.pading_page import PADING_PAGE, write_pading
from worker.lab.pading_rows import ROWS, STORED_DECODER, THINGS_SPLIT, PadingMeasurement, measure_pading
from worker.lab.paper_figures import kind_of
from worker.lab.paper_variants import OF_LSEG, ONE_VIEW, UNBLENDED, VARIANTS, Variant
from worker.lab.papers_page import MeasuredRow, Papers, read_papers, table, write_papers
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.recipe import DenseRecipe
from worker.learning.recipes.dense.stages import StagedTraining
from worker.learning.recipes.dense.training import TrainingConfig
from worker.segmentation.encoders.towers import ENCODER
from worker.segmentation.segmenter import Segmenter

PHOTOGRAPHS, PADING = "photographs", "pading"
_LIVE_MINUTES, _PADING_MINUTES = 13.5, 8.5
_LOWERED = (1.0, 2.0, 4.0)  # logits, on photographs


@dataclass(frozen=True)
class Measurement:
    """What one process measures.

    Attributes:
        papers: whose rows.
        split: words, pairs or photographs.
        seed: of the trainings.
        scenes: drawn to train with and to judge each.
        steps: of each training; None = the recipe's.
        minutes: no training is begun that would most likely not end within them.
        names: of the trainings; none = all.
        photos, unseen, tower, text_vectors: of photographs.
        short_side: pixels at which they enter the tower; 0 = as it was trained.
        device: as the setting.
    """

    papers: tuple[str, ...]
    split: str
    seed: int
    scenes: int = SCENES
    steps: int | None = None
    minutes: float = math.inf
    names: tuple[str, ...] = ()
    photos: Path | None = None
    unseen: tuple[str, ...] = ()
    tower: str = ENCODER
    text_vectors: Path | None = None
    short_side: int = 0
    device: str = "auto"

    @property
    def test(self) -> Measurement:
        """The same for every training: what is judged on."""
        return replace(self, papers=(), seed=0, steps=None, minutes=math.inf, names=())

    def data(self) -> ZeroShotSet:
        """The images."""
        if self.photos is not None:
            return photo_set(self.photos, self.unseen)
        return drawn_set(SPLITS[self.split], scenes=self.scenes, seed=self.seed)

    def variants(self) -> tuple[Variant, ...]:
        """The trainings."""
        fitting = [one for one in VARIANTS if one.paper in self.papers]
        fitting = [one for one in fitting if not self.names or one.name in self.names]
        if self.photos is not None:
            return tuple(one for one in fitting if one.on_photographs)
        return tuple(one for one in fitting if self.split in one.splits)

    @property
    def halves(self) -> list[Measurement]:
        """Two that measure the same side by side; of a single training there is one."""
        names = [one.name for one in self.variants()]
        return [replace(self, names=tuple(names[half::2])) for half in range(min(2, len(names)))]


_Task = Measurement | PadingMeasurement


def measure(task: Measurement) -> list[tuple[str, str, dict[str, Any]]]:
    """Measure the rows of a split with one seed, as many as there is time for: (paper, row, figures)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.set_num_threads(1)
    started = time.monotonic()
    data, trainings = task.data(), _Trainings(task)
    found: list[tuple[str, str, dict[str, Any]]] = []
    longest = 0.0
    for variant in task.variants():
        begun = time.monotonic()
        if begun - started + longest > task.minutes * 60:
            sys.stderr.write(f"{task.split}: no time is left for {variant.paper}: {variant.name}\n")
            continue
        try:
            segmenter, evaluator = _judging(task.test, variant.model if task.photos is None else "builtin")
        except ModelUnavailable as error:
            sys.stderr.write(f"{task.split}: {variant.paper}: {variant.name}: {error}\n")
            continue
        adapter = None
        if variant.recipe is not None:
            training = trainings.taken(variant, variant.recipe, data, segmenter)
            adapter = training.supplied() if variant.generates else training.plain()
            if adapter is None:
                sys.stderr.write(f"{task.split}: {variant.paper}: {variant.name}: {training.reason}\n")
                continue
        found += _judge(task, variant, data, adapter, evaluator, begun)
        longest = max(longest, time.monotonic() - begun)
    return found


@lru_cache(maxsize=2 * len(SPLITS))
def _judging(test: Measurement, model: str) -> tuple[Segmenter, ZeroShotEvaluator]:
    """The model and the test images, which are the same for every seed."""
    segmenter = Segmenter.from_settings(replace(Settings.from_env({}), device=test.device), model=model)
    return segmenter, ZeroShotEvaluator(segmenter, test.data())


@lru_cache
def _training_free(test: Measurement, inference: str, lowered: tuple[float, ...]) -> ZeroShotFigures:
    return _judging(test, "builtin")[1].figures(None, inference=inference, lowered=lowered, unseen_alone=bool(lowered))


def _judge(
    task: Measurement, variant: Variant, data: ZeroShotSet, adapter: DenseAdapter | None, evaluator: ZeroShotEvaluator,
    started: float,
) -> Iterator[tuple[str, str, dict[str, Any]]]:  # fmt: skip
    photographs = task.photos is not None
    for inference in variant.judged(photographs=photographs):
        lowered = _LOWERED if photographs and inference == "outlines" else ()
        if adapter is None:
            found = _training_free(task.test, inference, lowered)
        else:
            head = adapter.at_strength(1) if variant.paper == "sazs" or inference == UNBLENDED else adapter
            if inference == ONE_VIEW:
                head = head.with_inference(replace(head.inference, flip=False))
            asked = "outlines" if inference in OF_LSEG else inference
            found = evaluator.figures(head, inference=asked, lowered=lowered, unseen_alone=bool(lowered))
        summary = as_json(found, data)
        kept = (*kind_of(variant.paper).names, "lowered", "unseen_alone", "scenes")
        figures = {name: value for name, value in summary.items() if name in kept}
        seconds = time.monotonic() - started
        sys.stderr.write(f"{task.split}, seed {task.seed}: {variant.paper}: {variant.row(inference)}: "
                         f"hIoU {figures['hiou']:.3f}, {seconds:.0f} s\n")  # fmt: skip
        yield variant.paper, variant.row(inference), figures


class _Trainings:
    """Holds the training that was begun last: variants of the same recipe share it.

    Args:
        task: whose trainings these are.
    """

    def __init__(self, task: Measurement) -> None:
        self._task = task
        self._begun: tuple[DenseRecipe, Segmenter, StagedTraining] | None = None

    def taken(
        self, variant: Variant, recipe: DenseRecipe, data: ZeroShotSet, segmenter: Segmenter
    ) -> StagedTraining:
        """Train a recipe on the seen labels of the data and, where the variant generates, with generated features."""
        if self._begun is None or self._begun[0] != recipe or self._begun[1] is not segmenter:
            self._begun = recipe, segmenter, begin_training(self._task, recipe, data, segmenter)
        training = self._begun[2]
        while not training.first_over:
            training.step_first()
        while variant.generates and not training.over:
            training.step()
        return training


def begin_training(
    task: Measurement, recipe: DenseRecipe, data: ZeroShotSet, segmenter: Segmenter
) -> StagedTraining:
    """Prepare a training of a recipe on the seen labels of the data."""
    texts = read_text_vectors(task.text_vectors, data.labels) if task.text_vectors is not None else None
    entering = {"short_side": task.short_side} if task.short_side else {}
    recipe = replace(recipe, seed=task.seed, tower=task.tower, texts=texts, changes={**recipe.changes, **entering})
    if task.steps is not None:
        recipe = replace(recipe, training=TrainingConfig(steps=task.steps))
    recipe = recipe.told(data.unseen_words)
    words, samples = training_set(data, recipe.hidden)
    others = tuple(name for name in data.unseen_words if name not in words)
    return recipe.staged_of(samples, words, others, segmenter)


def main(arguments: Sequence[str]) -> int:
    """Measure and print. Returns 0; 2 when something could not be measured."""
    options = _parser().parse_args(arguments)
    try:
        papers = read_papers(options.results)
        if options.page:
            _write(papers, options)
            return 0
        with ProcessPoolExecutor(min(len(SPLITS), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
            for tasks in _tasks(options):
                papers = papers.with_rows(_merged(papers.measured, _measured(tasks, pool)))
                if options.store:  # after each seed: the next one takes as long again
                    _write(papers, options)
        asked, splits = _papers(options), {PHOTOGRAPHS} if options.photos is not None else set(options.splits)
        shown = [row for row in papers.measured if row.paper in asked and row.split in splits]
        summaries = [row.summary() for row in shown]
    except ZeromaskError as error:
        sys.stderr.write(f"papers: {error}\n")
        return 2
    sys.stdout.write(json.dumps({"rows": summaries}) + "\n" if options.json else table(summaries))
    return 0


def _write(papers: Papers, options: argparse.Namespace) -> None:
    write_papers(papers, options.results, options.page_file)
    beside = options.page_file.with_name(PADING_PAGE.name)
    if beside.is_file():
        write_pading(papers, beside)


def _papers(options: argparse.Namespace) -> tuple[str, ...]:
    """The papers that were asked for.

    Raises:
        SettingsError: one of them has no rows that are measured here.
    """
    known = (*dict.fromkeys(variant.paper for variant in VARIANTS), PADING)
    papers = tuple(name.strip() for name in options.only.split(",") if name.strip()) or known
    strange = [name for name in papers if name not in known]
    if strange:
        problem = f"{strange[0]!r} is no paper with rows measured here"
        raise SettingsError("--only", problem, f"Choose {', '.join(known)}.")
    return papers


def _tasks(options: argparse.Namespace) -> Iterator[list[_Task]]:
    """What is measured side by side, one list for each seed."""
    papers = tuple(paper for paper in _papers(options) if paper != PADING)
    minutes = options.minutes or (math.inf if options.store else _LIVE_MINUTES)
    for seed in options.seeds:
        plain = Measurement(papers, "", seed, options.scenes, options.steps, minutes, tuple(options.names),
                            device=options.device)  # fmt: skip
        if options.photos is not None:
            yield [replace(plain, split=PHOTOGRAPHS, photos=options.photos, unseen=tuple(options.unseen.split(",")),
                           tower=options.tower, text_vectors=options.text_vectors,
                           short_side=options.short_side)]  # fmt: skip
        else:
            measured = [replace(plain, split=split) for split in options.splits if papers and split != THINGS_SPLIT]
            measured = [task for task in measured if task.variants()]
            tasks: list[_Task] = [*(measured[0].halves if len(measured) == 1 else measured)]
            if PADING in _papers(options) and THINGS_SPLIT in options.splits:
                tasks += _pading(options, seed).halves
            yield tasks


def _pading(options: argparse.Namespace, seed: int) -> PadingMeasurement:
    minutes = options.minutes or (math.inf if options.store else _PADING_MINUTES)
    whole = PadingMeasurement(seed, options.query_decoder, scenes=options.scenes, steps=options.steps, minutes=minutes,
                              device=options.device)  # fmt: skip
    names = tuple(name for name in whole.names if not options.names or name in options.names)
    return replace(whole, names=names)


def _measured(tasks: Sequence[_Task], pool: Executor) -> list[MeasuredRow]:
    """The rows of one seed."""
    today = datetime.now(UTC).date().isoformat()
    return [
        MeasuredRow(paper, name, task.split, command_of(task, paper), today, {str(task.seed): figures})
        for task, found in zip(tasks, _side_by_side(tasks, pool), strict=True)
        for paper, name, figures in found
    ]


def _merged(stored: Sequence[MeasuredRow], live: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """The rows that were measured live, with the seeds of all; a seed that is stored too is the live one."""
    found: dict[tuple[str, str, str], MeasuredRow] = {row.key: row for row in stored}
    for row in live:
        before = found.get(row.key)
        found[row.key] = row if before is None else replace(row, seeds={**before.seeds, **row.seeds})
    return [found[key] for key in dict.fromkeys(row.key for row in live)]


def _side_by_side(tasks: Sequence[_Task], pool: Executor) -> list[list[tuple[str, str, dict[str, Any]]]]:
    """A process for each task; processes are started anew, since torch's threads do not survive a fork."""
    return [_carried_out(task) for task in tasks] if len(tasks) == 1 else list(pool.map(_carried_out, tasks))


def _carried_out(task: _Task) -> list[tuple[str, str, dict[str, Any]]]:
    return measure_pading(task) if isinstance(task, PadingMeasurement) else measure(task)


def command_of(task: _Task, paper: str) -> str:
    """The command that measures a row, with words for what lies elsewhere on each machine."""
    if isinstance(task, PadingMeasurement) or task.photos is None:
        return f"make papers ONLY={'lseg,sazs' if paper in ('lseg', 'sazs') else paper}"
    tower = task.tower.partition(":")[0] + (":WEIGHTS" if ":" in task.tower else "")
    return ("python -m worker.lab.papers --photos SET --unseen "
            f"{','.join(task.unseen)} --tower {tower} --text-vectors VECTORS --short-side {task.short_side}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.lab.papers", description=__doc__.split("\n", 1)[0]
                                     if __doc__ else "")  # fmt: skip
    add = parser.add_argument
    add("--only", default="", metavar="A,B", help="papers (default: all that are trained here)")
    splits = (*SPLITS, THINGS_SPLIT)
    add("--splits", nargs="+", choices=splits, default=list(splits), help=f"of the drawn world; {THINGS_SPLIT}: pading")
    add("--seeds", nargs="+", type=int, default=[0], help="measured live (default: 0)")
    add("--scenes", type=int, default=SCENES, help="drawn to learn from and to judge (default: %(default)s)")
    add("--query-decoder", type=Path, default=STORED_DECODER, metavar="FILE", help="of pading (default: the stored)")
    add("--names", nargs="+", default=[], metavar="NAME",
        choices=sorted({*(variant.name for variant in VARIANTS), *ROWS}), help="of the trainings (default: all)")
    add("--steps", type=int, help="of each training (default: the recipe's)")
    add("--minutes", type=float, help=f"begin no training that would not end within them (default: {_LIVE_MINUTES:g}, "
        "or all with --store); the other rows are read from the file")  # fmt: skip
    add("--photos", type=Path, metavar="SET", help="a folder of photographs instead of drawn scenes")
    add("--unseen", default="", metavar="A,B", help="labels of --photos that training must not see")
    add("--tower", default=ENCODER, help="image tower of --photos: NAME or NAME:FILE")
    add("--text-vectors", type=Path, metavar="FILE", help="NPZ of label -> vector")
    add("--short-side", type=int, default=0, metavar="PIXELS", help="at which photographs enter the tower")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--store", action="store_true", help="write what was measured to the file, and the page")
    add("--page", action="store_true", help="write the page from the file, and measure nothing")
    add("--results", type=Path, default=Path("docs/results/papers.json"), help="the file (default: %(default)s)")
    add("--page-file", type=Path, default=Path("docs/research/papers.md"), help="the page (default: %(default)s)")
    add("--json", action="store_true", help="one JSON line on the standard output, last")
    return parser


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
