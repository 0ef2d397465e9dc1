"""Timing in turns: contestants run one after the other in each turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track


@dataclass(frozen=True)
class Timings:
    """Seconds of each contestant, turn by turn."""

    seconds: Mapping[str, Sequence[float]]

    def ms(self, name: str) -> float:
        """Median milliseconds of a contestant."""
        return 1000 * statistics.median(self.seconds[name])

    def ratio(self, one: str, other: str) -> float:
        """Time of `one` over that of `other`: the median of the ratios within each turn."""
        return self.total_ratio([one], other)

    def total_ratio(self, several: Sequence[str], other: str) -> float:
        """Time of several contestants together over that of `other`, as in `ratio`."""
        turns = zip(*(self.seconds[name] for name in several), self.seconds[other], strict=True)
        return float(statistics.median(sum(turn[:-1]) / turn[-1] for turn in turns))


def time_in_turns(
    contestants: Mapping[str, Callable[[], object]], *, turns: int, console: Console, title: str, warm_up: bool = True
) -> Timings:
    """Run every contestant once a turn, in order.

    Args:
        contestants: what to time; work on a GPU is waited for.
        turns: how many are counted.
        console: where progress is shown.
        title: of the progress bar.
        warm_up: whether one more turn comes first, which is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    first = -1 if warm_up else 0
    steps = [(turn, name) for turn in range(first, turns) for name in contestants]
    for turn, name in track(steps, title, console=console, disable=not console.is_terminal):
        _synchronise()
        started = time.perf_counter()
        contestants[name]()
        _synchronise()
        if turn >= 0:
            seconds[name].append(time.perf_counter() - started)
    return Timings(seconds)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
