"""Progress of a training: a bar on a terminal, lines elsewhere, and not too many of them."""

from __future__ import annotations

import io

from rich.console import Console

from worker.lab.progress import LINE_EVERY_S, shown


def lines(*times: float, told: str = "loss 0.5") -> list[str]:
    """What a log gets of steps that end at some seconds."""
    text, clock = io.StringIO(), iter((0.0, *times))
    with shown(Console(file=text), "Query [red] decoder", 100, clock=lambda: next(clock)) as show:
        for done in range(1, len(times) + 1):
            show(done, told)
    return text.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then() -> None:
    soon, late = LINE_EVERY_S / 2, LINE_EVERY_S + 1
    assert lines(soon, late, late + 1, 3 * late) == [
        "Query [red] decoder: 2 of 100, loss 0.5", "Query [red] decoder: 4 of 100, loss 0.5",
    ]  # fmt: skip
    assert lines(soon) == []
    assert lines(late, told="") == ["Query [red] decoder: 1 of 100"]
    assert len(lines(late, told="x" * 300)) == 1


def test_a_terminal_gets_a_bar_that_begins_where_a_run_was_broken_off() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with shown(console, "Query [red] decoder", 100, done=40) as show:
        show(41, "loss 0.5")
    drawn = text.getvalue()
    assert "Query [red] decoder" in drawn
    assert "40/100" in drawn
    assert "Query [red] decoder: loss 0.5" in drawn
    assert "41/100" in drawn
    assert "of 100" not in drawn
