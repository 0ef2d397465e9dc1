"""`zeromask bench`: speed of the product as ratios within one run, which do not depend on the machine's own speed."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError
from worker.lab.benchmarks.brush_encoding import region_figures
from worker.lab.benchmarks.bursts import burst_figures
from worker.lab.benchmarks.capacity_check import capacity_figures
from worker.lab.benchmarks.clicks import click_figures
from worker.lab.benchmarks.drain import post_figures
from worker.lab.benchmarks.engine import QUICK, EngineSize, engine_figures
from worker.lab.benchmarks.gpu import QUICK_GPU, GpuSize, gpu_figures
from worker.lab.benchmarks.labels import label_figures
from worker.lab.benchmarks.many_tasks import drain_figures, enqueue_figures
from worker.lab.benchmarks.targets import TARGETS, Figure, compared, read_figures, table
from worker.lab.benchmarks.text_encoding import text_figures
from worker.lab.benchmarks.throughput import queue_figures


@dataclass(frozen=True)
class BenchOptions:
    """How long and how often to measure.

    Attributes:
        seconds: length of one measurement of the queue.
        repeats: measurements of each figure.
        tasks: in the queue of the `drain`, `enqueue` and `posts` figures; of the `clicks` figures, 10,000 at most; of
            each run of the `capacity` figures, 300 at most.
        quick: use small models and images; the figures then mean nothing.
        device: of the `engine`, `labels`, `text` and `gpu` figures: auto, cpu, cuda or cuda:N.
        console: where progress is shown.
        affinity_tower: of the `engine` figures, as ZEROMASK_AFFINITY_TOWER; "" = without one.
    """

    seconds: float
    repeats: int
    tasks: int
    quick: bool
    device: str
    console: Console
    affinity_tower: str = ""

    @property
    def size(self) -> EngineSize:
        """Sizes of the `engine` figures."""
        return QUICK if self.quick else EngineSize()


Measurement = Callable[[BenchOptions], Mapping[str, Figure]]

FIGURES: Mapping[str, Measurement] = {
    "engine": lambda options: engine_figures(
        options.size, options.device, options.console, affinity_tower=options.affinity_tower
    ),
    "labels": lambda options: label_figures(options.repeats, options.device, options.console, quick=options.quick),
    "regions": lambda options: region_figures(options.repeats, options.size.shrink, options.console),
    "text": lambda options: text_figures(options.size.model, options.repeats, options.device, options.console),
    "queue": lambda options: queue_figures(options.seconds, options.repeats, options.console),
    "clicks": lambda options: click_figures(min(options.tasks, 10_000), 20 if options.quick else 100, options.console),
    "drain": lambda options: drain_figures(options.tasks, options.console),
    "enqueue": lambda options: enqueue_figures(options.tasks, options.console),
    "bursts": lambda options: burst_figures(200 if options.quick else 10_000, options.console),
    "capacity": lambda options: capacity_figures(min(options.tasks, 300), options.console),
    "gpu": lambda options: gpu_figures(QUICK_GPU if options.quick else GpuSize(), options.device, options.console),
    "posts": lambda options: post_figures(options.tasks, options.console),
}
_ASKED_FOR = {"enqueue", "gpu"}  # the first is contained in another one; the second takes hours without a GPU


def main(arguments: Sequence[str]) -> int:
    """Measure and print the figures. Returns 0; 2 when something could not be measured."""
    found = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # open_clip warns of random weights
    torch.set_num_threads(found.threads)
    quick = bool(found.quick)
    options = BenchOptions(
        seconds=found.seconds or (2.0 if quick else 20.0), repeats=max(1, found.repeats or (1 if quick else 3)),
        tasks=found.tasks or (500 if quick else 100_000), quick=quick, device=found.device,
        console=Console(stderr=True), affinity_tower=found.tower,
    )  # fmt: skip
    figures: dict[str, Figure] = {}
    try:
        earlier = read_figures(found.compare) if found.compare else {}
        for name in found.only or [name for name in FIGURES if name not in _ASKED_FOR]:
            figures.update(FIGURES[name](options))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask bench: {error}\n")
        return 2
    ratios = compared(figures, earlier)
    if found.json:
        printed = {**figures, "compared": ratios} if found.compare else figures
        sys.stdout.write(json.dumps(printed) + "\n")
    else:
        sys.stdout.write(table(figures, ratios, {} if quick else TARGETS))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeromask bench", description=__doc__.splitlines()[0] if __doc__ else "")
    only_help = "these figures (default: all but gpu; those of enqueue are in drain)"
    parser.add_argument("--only", choices=sorted(FIGURES), action="append", help=only_help)
    parser.add_argument("--quick", action="store_true", help="small models and images, to see that everything runs")
    parser.add_argument("--device", default="auto", help="of the model: auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--tower", default="", metavar="NAME:FILE", help="also the engine with this affinity tower")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="length of one measurement of the queue (default: 20)")
    parser.add_argument("--repeats", type=int, help="measurements of each, for medians (default: 3)")
    parser.add_argument("--tasks", type=int, help="tasks of the drain, enqueue and posts figures (default: 100000)")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier --json: also print now over then")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    return parser


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
