"""The measured part of docs/research/pading.md: what the rows say about the engine alone and about PADing's parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from worker.lab.pading_rows import FULL, ROWS, SEEN_ONLY, THINGS_SPLIT, TRAINING_FREE
from worker.lab.papers_page import MeasuredRow, Papers
from worker.lab.results import EMPTY, ROOT, write_part

PADING_PAGE = ROOT / "docs" / "research" / "pading.md"
BEGIN = "<!-- Made of docs/results/papers.json by `python -m worker.lab.papers --page`. -->"
END = "<!-- The end of what is made. -->"
_MOST_SEEN_LOSS = 0.03

_Seeds = Mapping[str, Mapping[str, Any]]


def write_pading(papers: Papers, path: Path = PADING_PAGE) -> None:
    """Write the measured part into the page.

    Raises:
        EnvironmentBroken: the page cannot be read or written, or has no place for it.
    """
    write_part(path, BEGIN, END, measured_part(papers))


def measured_part(papers: Papers) -> str:
    """What is measured, in Markdown: first whether the engine alone is better, then the bars, then the rows."""
    rows = {row.row: row for row in papers.measured if row.paper == "pading" and row.split == THINGS_SPLIT}
    return f"{_verdict(rows)}\n\n{_bars(rows)}\n\n{_table([rows[name] for name in ROWS if name in rows])}"


def _verdict(rows: Mapping[str, MeasuredRow]) -> str:
    engine, full = (_mean(rows, name, _hm_pq) for name in (TRAINING_FREE, FULL))
    if engine is None or full is None:
        return f"The engine alone against the full model: {EMPTY}."
    if engine >= full:
        return (f"**The engine alone is better: without any training HM-PQ is {engine:.3f}, with the full model "
                f"{full:.3f}.** The builtin was trained with each word of the unseen labels, if never with both "
                "together; the decoder was shown no mask of them.")  # fmt: skip
    return f"The full model is better than the engine alone: HM-PQ {full:.3f}, without any training {engine:.3f}."


def _bars(rows: Mapping[str, MeasuredRow]) -> str:
    lines = [
        _bar(rows, "HM-PQ above that of `gmmn` by more than one standard error", "gmmn", _hm_pq,
             lambda gain, error: None if error is None else gain > error),
        _bar(rows, "HM-PQ above that of `seen_only`, which finds no unseen label and so has 0: no model that finds one "
             "can miss this bar", SEEN_ONLY, _hm_pq, lambda gain, _: gain > 0),
        _bar(rows, f"seen PQ at most {_MOST_SEEN_LOSS:g} below that of `seen_only`", SEEN_ONLY,
             _seen_pq, lambda gain, _: gain >= -_MOST_SEEN_LOSS),
    ]  # fmt: skip
    return "\n".join(["Expected of the full model:", "", *lines])


def _bar(
    rows: Mapping[str, MeasuredRow], title: str, other: str, figure: Callable[[Mapping[str, Any]], float | None],
    is_reached: Callable[[float, float | None], bool | None],
) -> str:  # fmt: skip
    """One line of the list: the mean difference of the full model and another row over the seeds that both have."""
    full, beside = (_seeds(rows, name) for name in (FULL, other))
    pairs = [(figure(full[seed]), figure(beside[seed])) for seed in full if seed in beside]
    gains = [one - two for one, two in pairs if one is not None and two is not None]
    if not gains:
        return f"- {title}: {EMPTY}."
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    spread = "one seed" if error is None else f"± {error:.3f}, {len(gains)} seeds"
    said = {True: "reached", False: "missed", None: "undecided"}[is_reached(mean(gains), error)]
    return f"- {title}: {said} ({mean(gains):+.3f}, {spread})."


def _table(rows: Sequence[MeasuredRow]) -> str:
    lines = ["| row | seen PQ | unseen PQ | HM-PQ | ± | HM-AP50 | HM-mIoU |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if not row.seeds:
            lines.append(f"| `{row.row}` | {EMPTY} | | | | | |")
            continue
        found = row.summary()
        error = "" if found["stderr"] is None else f"{found['stderr']:.3f}"
        figures = [found["seen"]["pq"], found["unseen"]["pq"], found["hm"]["pq"]]
        more = [found["hm"]["ap50"], found["hm"]["miou"]]
        cells = [*map(_cell, figures), error, *map(_cell, more)]
        lines.append(f"| `{row.row}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def _hm_pq(figures: Mapping[str, Any]) -> float | None:
    return _figure(figures, "hm")


def _seen_pq(figures: Mapping[str, Any]) -> float | None:
    return _figure(figures, "seen")


def _figure(figures: Mapping[str, Any], part: str) -> float | None:
    """PQ of a part; None where no test image shows a label of it."""
    value = figures[part]["pq"]
    return None if value is None else float(value)


def _seeds(rows: Mapping[str, MeasuredRow], name: str) -> _Seeds:
    return rows[name].seeds if name in rows else {}


def _mean(
    rows: Mapping[str, MeasuredRow], name: str, figure: Callable[[Mapping[str, Any]], float | None]
) -> float | None:
    values = [value for one in _seeds(rows, name).values() if (value := figure(one)) is not None]
    return mean(values) if values else None
