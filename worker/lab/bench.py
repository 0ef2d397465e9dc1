"""`zeromask bench`: how fast the product is, as ratios within one run, so that the machine's own speed does not matter.

Each figure is a function from options to numbers; this module only knows their names. It must not know how any of them
is measured.
"""

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

from plugin_config.cli.closed_output import run_command
from plugin_config.errors import ZeromaskError
from worker.lab.benchmarks.bars import BARS, Figure, compared, read_figures, table
from worker.lab.benchmarks.codecs import region_figures
from worker.lab.benchmarks.drain import drain_figures
from worker.lab.benchmarks.engine import QUICK, EngineSize, engine_figures
from worker.lab.benchmarks.texts import text_figures
from worker.lab.benchmarks.throughput import queue_figures


@dataclass(frozen=True)
class BenchOptions:
    """How long and how often to measure.

    Attributes:
        seconds: of one measurement of the queue.
        repeats: measurements of each.
        tasks: how many wait in the queue of the `drain` figures.
        quick: small models and pictures: the same names, figures that mean nothing.
        device: of the `engine` and `text` figures: auto, cpu, cuda or cuda:N.
    """

    seconds: float
    repeats: int
    tasks: int
    quick: bool
    device: str
    console: Console

    @property
    def size(self) -> EngineSize:
        """How large the `engine` figures are."""
        return QUICK if self.quick else EngineSize()


Figures = Callable[[BenchOptions], Mapping[str, Figure]]

FIGURES: Mapping[str, Figures] = {
    "engine": lambda options: engine_figures(options.size, options.device, options.console),
    "regions": lambda options: region_figures(options.repeats, options.size.shrink, options.console),
    "text": lambda options: text_figures(options.size.model, options.repeats, options.device, options.console),
    "queue": lambda options: queue_figures(options.seconds, options.repeats, options.console),
    "drain": lambda options: drain_figures(options.tasks, options.console),
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print. Returns 0; 2 when something could not be measured."""
    found = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # open_clip warns of random weights; they are meant
    torch.set_num_threads(found.threads)
    quick = bool(found.quick)
    options = BenchOptions(
        seconds=found.seconds or (2.0 if quick else 20.0), repeats=max(1, found.repeats or (1 if quick else 3)),
        tasks=found.tasks or (500 if quick else 100_000), quick=quick, device=found.device,
        console=Console(stderr=True),
    )  # fmt: skip
    figures: dict[str, Figure] = {}
    try:
        earlier = read_figures(found.compare) if found.compare else {}
        for name in found.only or FIGURES:
            figures.update(FIGURES[name](options))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask bench: {error}\n")
        return 2
    ratios = compared(figures, earlier)
    if found.json:
        told = {**figures, "compared": ratios} if found.compare else figures
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write(table(figures, ratios, {} if quick else BARS))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zeromask bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(FIGURES), action="append", help="these figures (default: all)")
    parser.add_argument("--quick", action="store_true", help="small models and pictures: does it run at all?")
    parser.add_argument("--device", default="auto", help="of the model: auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--threads", type=int, default=1, help="torch may use (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="length of one measurement of the queue (default: 20)")
    parser.add_argument("--repeats", type=int, help="measurements of each, for medians (default: 3)")
    parser.add_argument("--tasks", type=int, help="tasks of the drain figures (default: 100000)")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier --json: also print now over then")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    return parser


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
