"""How a training shows how far it is: a bar on a terminal, and elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 20.0
"""Seconds between two lines."""


class Show(Protocol):
    """Shows how much is done of what there is to do."""

    def __call__(self, done: int, told: str = "") -> None:
        """Show a number, and a few words about the last step, such as its loss."""


@contextmanager
def shown(
    console: Console, title: str, total: int, *, done: int = 0, clock: Callable[[], float] = time.monotonic
) -> Iterator[Show]:
    """Show the progress of a piece of work.

    Args:
        console: a terminal gets a bar with the time that remains, which stays at the end; anything else a line, at most
            every `LINE_EVERY_S`.
        title: of the work.
        total: steps in all.
        done: steps that were done before, by a run that was broken off.
        clock: seconds.
    """
    if not console.is_terminal:
        yield _lines(console, title, total, clock)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done)

        def show(done: int, told: str = "") -> None:
            progress.update(task, completed=done, description=f"{title}: {told}" if told else title)

        yield show


def _lines(console: Console, title: str, total: int, clock: Callable[[], float]) -> Show:
    last = clock()

    def show(done: int, told: str = "") -> None:
        nonlocal last
        now = clock()
        if now - last >= LINE_EVERY_S:
            last = now
            line = f"{title}: {done} of {total}{', ' if told else ''}{told}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show
