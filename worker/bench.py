"""`zeromask bench`: how fast the product is, as ratios within one run, so that the machine's own speed does not matter.

Each figure is a function from options to numbers; this module only knows their names. It must not know how any of them
is measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from plugin_config.errors import ZeromaskError
from worker.benchmarks.drain import drain_figures
from worker.benchmarks.throughput import queue_figures


@dataclass(frozen=True)
class BenchOptions:
    """How long and how often to measure; `tasks` is how many wait in the queue of the `drain` figures."""

    seconds: float
    repeats: int
    tasks: int
    console: Console


Figures = Callable[[BenchOptions], Mapping[str, float]]

FIGURES: Mapping[str, Figures] = {
    "queue": lambda options: queue_figures(options.seconds, options.repeats, options.console),
    "drain": lambda options: drain_figures(options.tasks, options.console),
}


def main(arguments: Sequence[str]) -> int:
    """Measure and print. Returns 0; 2 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="zeromask bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=sorted(FIGURES), action="append", help="these figures (default: all)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each, for medians (default: 3)")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks of the drain figures (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON line on standard output")
    found = parser.parse_args(arguments)
    options = BenchOptions(found.seconds, max(1, found.repeats), found.tasks, Console(stderr=True))
    figures: dict[str, float] = {}
    try:
        for name in found.only or FIGURES:
            figures.update(FIGURES[name](options))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask bench: {error}\n")
        return 2
    if found.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        sys.stdout.writelines(f"{name:<28} {value:g}\n" for name, value in figures.items())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
