"""The measured part of docs/research/calibration.md: `python -m worker.lab.calibration_page FILE ...`.

The files are what `zeromask evaluate --protocol calibration --json` printed; their sets take the place of those of the
same name in docs/results/calibration.json, of which the page is made.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.lab.results import EMPTY, RESULTS_FOLDER, ROOT, as_json, read_json, write_file, write_part

PAGE = ROOT / "docs" / "research" / "calibration.md"
RESULTS = RESULTS_FOLDER / "calibration.json"
BEGIN = "<!-- Made of docs/results/calibration.json by `python -m worker.lab.calibration_page`. -->"
END = "<!-- The end of what is made. -->"
SETS: Mapping[str, str] = {"drawn": "drawn scenes, zero-shot", "nuts18": "dried fruit, after learning"}
"""Set -> how the page names it."""

_MOST_ERROR, _LEAST_SPEARMAN = 0.08, 0.5


def main(arguments: Sequence[str]) -> int:
    """Store the figures and write the page. Returns 0.

    Raises:
        EnvironmentBroken: a file cannot be read, or a result or the page cannot be written.
    """
    found = read_results()
    for name in arguments:
        found |= read_json(Path(name), dict)
    write_file(RESULTS, as_json(found))
    write_part(PAGE, BEGIN, END, measured_part(found))
    return 0


def read_results(path: Path = RESULTS) -> dict[str, Any]:
    """The stored figures by set; none where none are stored.

    Raises:
        EnvironmentBroken: the file cannot be read.
    """
    return read_json(path, dict) if path.is_file() else {}


def measured_part(found: Mapping[str, Any]) -> str:
    """What is measured, in Markdown: the bars, then a table of regions, two of whole predictions, one of other maps."""
    return "\n\n".join([_bars(found), _regions(found), _whole(found), _empty(found), _variants(found)])


def _bars(found: Mapping[str, Any]) -> str:
    lines = []
    for name, title in SETS.items():
        after = found[name]["after"] if name in found else {}
        ece, spearman = after.get("ece"), after.get("spearman")
        lines.append(f"- {title}, ECE at most {_MOST_ERROR}: {_met(ece, ece is not None and ece <= _MOST_ERROR)}.")
        enough = spearman is not None and spearman >= _LEAST_SPEARMAN
        lines.append(f"- {title}, Spearman at least {_LEAST_SPEARMAN}: {_met(spearman, enough)}.")
    return "\n".join(lines)


def _met(value: float | None, met: bool) -> str:
    return EMPTY if value is None else f"{value:.3f}, {'met' if met else '**missed**'}"


def _regions(found: Mapping[str, Any]) -> str:
    rows = ["| pictures | images corrected | regions seen | held out | | ECE | Spearman | mean score | accepted |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, title in SETS.items():
        if name not in found:
            rows.append(f"| {title} | {EMPTY} | | | | | | | |")
            continue
        one = found[name]
        for part in ("before", "after"):
            row = one[part]
            figures = " | ".join(_figure(row[key]) for key in ("ece", "spearman", "mean_score", "accepted"))
            counts = f"{one['images']:g} | {one['regions']:g} | {row['predictions']}" if part == "before" else "| | "
            rows.append(f"| {title if part == 'before' else ''} | {counts} | {part} | {figures} |")
    return "\n".join(rows)


def _whole(found: Mapping[str, Any]) -> str:
    rows = ["| score of a prediction with regions | " + " | ".join(f"{title}: ECE | AUC" for title in SETS.values())
            + " |", "|---|" + "---|---|" * len(SETS)]  # fmt: skip
    for way in ("least", "mean", "product"):
        cells = [found[name]["whole"][way] if name in found else {} for name in SETS]
        figures = " | ".join(f"{_figure(cell.get('ece'))} | {_figure(cell.get('auc'))}" for cell in cells)
        rows.append(f"| {way} of its regions | {figures} |")
    return "\n".join(rows)


def _empty(found: Mapping[str, Any]) -> str:
    head = ("predictions without regions", "seen", "held out", "right", "mean score", "ECE", "mean score after",
            "ECE after")  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    parts = {"empty": "", "alone": ", asked for one label alone"}
    for name, title in SETS.items():
        of_set = found.get(name, {})
        for one, told in ((of_set[part], told) for part, told in parts.items() if part in of_set):
            after = one.get("after", {})
            figures = [one["right"], one["mean_score"], one["ece"], after.get("mean_score"), after.get("ece")]
            counts = f"{one['seen']:g} | {one['images']}" if "seen" in one else f"{EMPTY} | {one['images']}"
            shown = [_figure(figure) if one["images"] else "" for figure in figures]
            rows.append(f"| {title}{told} | {counts} | {' | '.join(shown)} |")
    return "\n".join(rows)


def _variants(found: Mapping[str, Any]) -> str:
    rows = ["| map | " + " | ".join(f"{title}: ECE" for title in SETS.values()) + " |", "|---|" + "---|" * len(SETS)]
    kept = [found[name]["after"]["ece"] if name in found else None for name in SETS]
    rows.append("| as served: version by version | " + " | ".join(map(_figure, kept)) + " |")
    for other in ("one map of all versions", "isotonic", "offset of each label"):
        values = [found[name]["variants"][other] if name in found else None for name in SETS]
        rows.append(f"| {other} | " + " | ".join(map(_figure, values)) + " |")
    return "\n".join(rows)


def _figure(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
