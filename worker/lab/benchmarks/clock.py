"""Times of things that take turns, so that a busy machine is busy for all of them. It must not know what is timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track


@dataclass(frozen=True)
class Times:
    """Seconds of every contestant in every turn, in the order of the turns."""

    seconds: Mapping[str, Sequence[float]]

    def ms(self, name: str) -> float:
        """Median milliseconds of a contestant."""
        return 1000 * statistics.median(self.seconds[name])

    def ratio(self, one: str, other: str) -> float:
        """How many times as long as `other` `one` takes: the median of the ratios within each turn."""
        return self.total_ratio([one], other)

    def total_ratio(self, several: Sequence[str], other: str) -> float:
        """The same for several contestants together."""
        turns = zip(*(self.seconds[name] for name in several), self.seconds[other], strict=True)
        return float(statistics.median(sum(turn[:-1]) / turn[-1] for turn in turns))


def take_turns(
    contestants: Mapping[str, Callable[[], object]], *, turns: int, console: Console, told: str, warm_up: bool = True
) -> Times:
    """Run every contestant once a turn, in order.

    Args:
        contestants: what to time; with a GPU, until it has done what it was told.
        turns: how many count; a first turn is not counted when `warm_up`.
        console: where progress is shown.
        told: what is being measured, for the progress bar.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    first = -1 if warm_up else 0
    steps = [(turn, name) for turn in range(first, turns) for name in contestants]
    for turn, name in track(steps, told, console=console, disable=not console.is_terminal):
        _settle()
        started = time.perf_counter()
        contestants[name]()
        _settle()
        if turn >= 0:
            seconds[name].append(time.perf_counter() - started)
    return Times(seconds)


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
