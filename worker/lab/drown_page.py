"""The part of docs/research/learning.md about labels that nobody corrected, made of the stored results of the protocol
`drown`.

    python -m worker.lab.drown_page
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError
from worker.lab.evaluation.drown import KINDS, ROWS
from worker.lab.results import EMPTY, RESULTS_FOLDER, ROOT, StoredResult, read_result, write_part

PAGE = ROOT / "docs" / "research" / "learning.md"
BEGIN = "<!-- Made of docs/results/drown.json and drown_camvid.json by `python -m worker.lab.drown_page`. -->"
END = "<!-- The end of what is made. -->"
RESULTS: Mapping[str, str] = {
    "drown.json": "Drawn scenes, in words that the model knows",
    "drown_camvid.json": "Photographs of streets (camvid), in words that it does not know",
}
"""File of docs/results -> what it was measured on."""

_MOST_AT_RISK, _RIVAL, _GENERATED = "linear", "linear_spared", "linear_generator"


def main(page: Path = PAGE, folder: Path = RESULTS_FOLDER) -> int:
    """Write the part. Returns 0; 2 when it cannot be written."""
    try:
        write_part(page, BEGIN, END, drown_part(stored_results(folder)))
    except ZeromaskError as error:
        sys.stderr.write(f"drown_page: {error}\n")
        return 2
    return 0


def stored_results(folder: Path = RESULTS_FOLDER) -> Mapping[str, StoredResult | None]:
    """The results by file; None = not measured yet.

    Raises:
        EnvironmentBroken: a file is no result.
    """
    return {name: read_result(folder / name) for name in RESULTS}


def drown_part(results: Mapping[str, StoredResult | None]) -> str:
    """What is measured, in Markdown: for each file its table and what it says."""
    return "\n\n".join(_section(title, results[name]) for name, title in RESULTS.items())


def _section(title: str, stored: StoredResult | None) -> str:
    if stored is None:
        return f"**{title}**: {EMPTY}."
    figures = stored.figures
    lines = [
        f"**{title}**, {len(figures['draws'])} draws, {stored.date}:", "",
        "| row | corrected | change | worst draw | uncorrected | change | worst draw |", "|" + 7 * "---|",
        *(_row(name, figures) for name in ROWS), "", _said(figures), "", "```", stored.command, "```",
    ]  # fmt: skip
    return "\n".join(lines)


def _row(name: str, figures: Mapping[str, Any]) -> str:
    cells = []
    for kind in KINDS:
        change = figures["change"].get(name, {}).get(kind)  # `before` has none
        told = [f"{change['mean']:+.3f} ± {change['se']:.3f}", f"{change['worst']:+.3f}"] if change else ["", ""]
        cells += [f"{figures[name][kind]:.3f}", *told]
    return f"| `{name}` | {' | '.join(cells)} |"


def _said(figures: Mapping[str, Any]) -> str:
    """What becomes of the labels that nobody corrected, in words; one line for each sentence."""
    draws = figures["draws"]
    promoted = sum(bool(one["gate"]["promoted"]) for one in draws)
    lines = [_won_back(figures), f"The gate promoted in {promoted} of {len(draws)} draws."]
    for reason in figures["stood_aside"]:
        count = sum(one["generator"] == reason for one in draws)
        lines.append(f"In {count} of {len(draws)} draws no example is generated, as {reason}: there `{_RIVAL}` and the "
                     "rows with a generator are the rows without.")  # fmt: skip
    return "\n".join(lines)


def _won_back(figures: Mapping[str, Any]) -> str:
    won = figures["won_back"]
    if won["share"] is None:
        return f"`{_MOST_AT_RISK}` loses nothing of the uncorrected labels, so that there is nothing to win back."
    saved = figures[_RIVAL]["uncorrected"] - figures[_MOST_AT_RISK]["uncorrected"]
    return (
        f"`{_MOST_AT_RISK}` loses {won['lost']:.3f} of the uncorrected labels; `{_GENERATED}` wins back "
        f"{won['share']:.0%} of that, and `{_RIVAL}`, which generates nothing, {saved / won['lost']:.0%}."
    )


if __name__ == "__main__":
    run_command(main)
