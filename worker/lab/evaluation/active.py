"""Which order of annotation pays, and how many minutes do predictions save? With a simulated annotator.

Method: docs/research/active.md, which --store writes from what is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.active_charts import write_charts
from worker.lab.active_figures import SeedFigures, seed_figures, summary, table
from worker.lab.active_page import PAGE, RESULTS, MeasuredSet, read_active, write_active
from worker.lab.drawn_world.annotation_set import index_truth
from worker.lab.drawn_world.scenes import draw_scene
from worker.lab.drawn_world.world import SHAPES, Thing, random_thing
from worker.lab.evaluation.active_loop import ORDERS, ActiveLoop
from worker.lab.evaluation.annotator import PERFECT, Annotator
from worker.lab.evaluation.labelled_set import LabelledPhotograph, LabelledSet, read_labelled_set, spread
from worker.lab.evaluation.loop import LearningLoop
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.acceleration import AUTO
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

MEANING = "orders of annotation against random order, and minutes saved, by a simulated annotator"
DRAWN = "drawn world"
_COUNTS = (1, 3, 5, 9, 14, 20)
_SEEDS = 10
_POOL, _TESTED = 40, 40  # images
_LEARN, _TEST = "train", "test"

# A drawn project: shapes are labels, in words that the model does not know, and some are rare; two have no label.
_LABELLED = SHAPES[:6]
_NAMES = ("wug", "dax", "blicket", "toma", "fep", "zib")
_FREQUENCIES = np.array([1 / (rank + 1) for rank in range(len(_LABELLED))] + [0.15] * (len(SHAPES) - len(_LABELLED)))
_SIZE, _UNIT = (144, 192), 70.0  # pixels
_LARGEST_POOL = 120
_FIRST_WORLD, _WORLD = 1, 10_000  # pictures that belong to a seed: no two seeds share one


_Opened = tuple[LearningLoop, Segmenter, float]
"""Images, embedded, the model, and its zero-shot mean IoU."""


@dataclass(frozen=True)
class Measurement:
    """What is measured for each seed.

    Attributes:
        settings: the model's.
        photos: folder of a set; None = the drawn world, of which each seed has its own scenes.
        learn, test: its parts.
        size: (W, H) pixels at which predictions are scored; None = all.
        orders: names in `ORDERS`.
        counts: numbers of corrected images after which a round of training follows.
        pool: images to choose from, drawn by the seed; 0 = all.
        limit: images to test on at most, evenly from the first to the last; 0 = all.
        perfect: whether the annotator makes no mistakes.
    """

    settings: Settings
    photos: Path | None = None
    learn: str = _LEARN
    test: str = _TEST
    size: tuple[int, int] | None = None
    orders: tuple[str, ...] = tuple(ORDERS)
    counts: tuple[int, ...] = _COUNTS
    pool: int = _POOL
    limit: int = _TESTED
    perfect: bool = False

    @property
    def command(self) -> str:
        """The command that measures it, but for seeds and processes, with a word for what lies elsewhere."""
        parts = ["zeromask evaluate --protocol active --model", self.settings.model]
        if self.photos is not None:
            parts += ["--photos SET --learn", self.learn, "--test", self.test]
        for option, value, default in (
            ("--size", self.size, None), ("--orders", self.orders, tuple(ORDERS)), ("--counts", self.counts, _COUNTS),
            ("--pool", (self.pool,), (_POOL,)), ("--limit", (self.limit,), (_TESTED,)),
        ):  # fmt: skip
            if value is not None and value != default:
                parts += [option, *map(str, value)]
        return " ".join([*parts, *(["--perfect"] if self.perfect else [])])


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol; defaults come from the settings."""
    add = parser.add_argument
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--photos", type=Path, metavar="DIR", help="photographs in place of drawn scenes; see "
        "docs/research/learning.md")  # fmt: skip
    add("--learn", default=_LEARN, metavar="PART", help="part of the set that is annotated (default: %(default)s)")
    add("--test", default=_TEST, metavar="PART", help="part of the set that is scored (default: %(default)s)")
    add("--size", type=int, nargs=2, metavar=("W", "H"), help="pixels of a photograph that are scored (default: all)")
    add("--orders", nargs="+", choices=tuple(ORDERS), default=list(ORDERS), help="(default: all)")
    add("--counts", type=int, nargs="+", default=list(_COUNTS), metavar="N", help="corrected images after which a "
        "round of training follows; it begins with 1, and a number larger than there are images means all of them "
        f"(default: {' '.join(map(str, _COUNTS))})")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=list(range(_SEEDS)), metavar="SEED", help="which decide the images to "
        "choose from, the first image, the mistakes and the hold-out (default: 0 to 9)")  # fmt: skip
    add("--jobs", type=int, default=1, help="processes, each measures one seed at a time (default: %(default)s)")
    add("--pool", type=int, default=_POOL, help="images to choose from at most, 0 = all (default: %(default)s)")
    add("--limit", type=int, default=_TESTED, help="images to test on at most, spread over the part; 0 = all "
        "(default: %(default)s)")  # fmt: skip
    add("--perfect", action="store_true", help="an annotator who makes no mistakes")
    add("--output-dir", type=Path, help="write charts of the learning curves and of the minutes here")
    add("--name", default="", help="of the set in file, page and charts (default: the folder's, or "
        f"{DRAWN!r})")  # fmt: skip
    add("--store", action="store_true", help="add each seed to the file when it is measured, and write the page")
    add("--page", action="store_true", help="write the page from the file, and measure nothing")
    add("--results", type=Path, default=RESULTS, help="the file (default: docs/results/active.json)")
    add("--page-file", type=Path, default=PAGE, help="the page (default: docs/research/active.md)")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure every seed; a table (or one JSON line) on stdout, progress on stderr."""
    if options.page:
        write_active(read_active(options.results), options.results, options.page_file)
        return 0
    task, seeds = _measurement(options, settings), sorted(set(options.seeds))
    name = options.name or (task.photos.resolve().name if task.photos is not None else DRAWN)
    found: dict[int, SeedFigures] = {}
    for seed, figures in _measured(task, seeds, options.jobs):
        found[seed] = figures
        sys.stderr.write(f"{name}, seed {seed}: {figures['seconds']:.0f} s\n")
        if options.store:
            live = MeasuredSet(name, task.command, datetime.now(UTC).date().isoformat(), {str(seed): figures})
            write_active(read_active(options.results).with_seeds(live), options.results, options.page_file)
    summed = {"set": name, **summary([found[seed] for seed in seeds])}
    if options.output_dir is not None:
        write_charts(options.output_dir, name, summed)
    sys.stdout.write(json.dumps(summed) + "\n" if options.json else table(summed))
    return 0


def _measurement(options: argparse.Namespace, settings: Settings) -> Measurement:
    counts = tuple(sorted(set(options.counts)))
    if counts[0] != 1:
        raise SettingsError("--counts", f"begin with {counts[0]}", "Begin with 1: the first image is the same for all.")
    if min(options.jobs, *(options.size or [1])) < 1 or min(options.pool, options.limit, *options.seeds) < 0:
        raise SettingsError("--jobs, --size, --pool, --limit and --seeds", "have a number that is too small",
                            "Give at least 1 for --jobs and --size, and nothing negative.")  # fmt: skip
    if settings.precision == AUTO:  # which precision is the fastest may change from one start to the next
        settings = replace(settings, precision="fp32")
    return Measurement(
        settings, options.photos, options.learn, options.test, options.size and tuple(options.size),
        tuple(name for name in ORDERS if name in options.orders), counts, options.pool, options.limit, options.perfect,
    )  # fmt: skip


def _measured(task: Measurement, seeds: Sequence[int], jobs: int) -> Iterator[tuple[int, SeedFigures]]:
    """The figures of each seed, as they come. Processes are started anew: torch's threads do not survive a fork."""
    if jobs == 1 or len(seeds) == 1:
        yield from ((seed, measure(task, seed)) for seed in seeds)
        return
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(measure, task, seed): seed for seed in seeds}
        for future in as_completed(asked):
            yield asked[future], future.result()


def measure(task: Measurement, seed: int) -> SeedFigures:
    """Run every order of a seed; a line on stderr for each.

    Raises:
        SettingsError: there is only one image to choose from.
    """
    torch.set_num_threads(1)
    if task.photos is None:
        first = _WORLD * (_FIRST_WORLD + seed)
        pictures = drawn_project(task.pool or _LARGEST_POOL, task.limit or _TESTED, first=first)
        opened = _opened(task.settings, pictures, _LEARN, _TEST, task.limit)
    else:
        opened = _opened_photos(task.settings, task.photos, task.learn, task.test, task.size, task.limit)
    loop, segmenter, zero_shot = opened
    started = time.perf_counter()
    noise = PERFECT if task.perfect else None
    annotator = Annotator(noise=noise, has_background=loop.has_background)
    active = ActiveLoop(
        loop, segmenter, task.settings, recipe_named("quick"), annotator, pool=task.pool, seed=seed
    )  # fmt: skip
    counts = sorted({min(count, active.size) for count in task.counts})
    if len(counts) < 2:
        raise SettingsError("images", f"there is {active.size} to choose from after {counts[-1]} is corrected",
                            "Give more images, or larger --counts.")  # fmt: skip
    runs = {}
    for name, run in active.run(task.orders, counts, zero_shot):
        runs[name] = run
        sys.stderr.write(f"seed {seed}, {name}: {run.rounds[-1].miou:.3f} after {counts[-1]} images, "
                         f"{time.perf_counter() - started:.0f} s\n")  # fmt: skip
    return seed_figures(runs, active.size, time.perf_counter() - started)


@lru_cache(maxsize=1)
def _opened_photos(
    settings: Settings, photos: Path, learn: str, test: str, size: tuple[int, int] | None, limit: int
) -> _Opened:
    """The same for every seed."""
    return _opened(settings, read_labelled_set(photos, [learn, test], size), learn, test, limit)


def _opened(settings: Settings, pictures: LabelledSet, learn: str, test: str, limit: int) -> _Opened:
    segmenter = Segmenter(Encoder.from_settings(settings))
    pictures = replace(pictures, parts={**pictures.parts, test: tuple(spread(pictures.parts[test], limit))})
    loop = LearningLoop(segmenter, pictures, learn=learn, test=test)
    return loop, segmenter, loop.evaluate(None).miou


def drawn_project(pool: int, tested: int, *, first: int = 0) -> LabelledSet:
    """Drawn scenes of two to five things. Six shapes are labels, the first six times as frequent as the sixth.

    Args:
        pool, tested: number of scenes of the parts "train" and "test".
        first: number of the first scene, of endlessly many; the others follow it.
    """
    scenes = {_LEARN: range(first, first + pool), _TEST: range(first + pool, first + pool + tested)}
    parts = {part: tuple(_drawn_picture(number) for number in numbers) for part, numbers in scenes.items()}
    return LabelledSet(tuple((name,) for name in _NAMES), True, parts)


def _drawn_picture(number: int) -> LabelledPhotograph:
    rng = np.random.default_rng((7, number))
    shapes = rng.choice(SHAPES, size=int(rng.integers(2, 6)), p=_FREQUENCIES / _FREQUENCIES.sum())
    looks = [(random_thing(rng, "any"), str(shape)) for shape in shapes]
    drawn = draw_scene(rng, _SIZE, [Thing(one.colour, one.texture, shape) for one, shape in looks], unit=_UNIT)
    truth = index_truth(drawn, _LABELLED).astype(np.int16) - 1  # UNLABELLED is -1
    return LabelledPhotograph(f"scene{number}", drawn.image, truth, truth)
