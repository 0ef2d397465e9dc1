"""The README's short table of controls, from the stored results of the browser and the table of all controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugin_config.control_tags import CONTROL_ROWS

GROUPS: tuple[tuple[str, ...], ...] = (
    ("BrushLabels", "BitmaskLabels"),
    ("PolygonLabels", "VectorLabels"),
    ("RectangleLabels", "EllipseLabels"),
    ("KeyPointLabels",),
    ("Labels + Brush", "Labels + Polygon", "Labels + Rectangle", "Labels + Ellipse"),
)
"""The kinds of `tests.browser.cases`, one row each."""

_HEAD = ("control tag", "pre-annotates", "learns from corrections", "drawn by the editor", "edit, as read")
_LEARNED = {row.tags.split(" ")[0].strip("`"): row.read for row in CONTROL_ROWS}


def summary_table(found: Mapping[str, Any]) -> str:
    """The Markdown table; of several kinds in a row, the worst figure counts.

    Args:
        found: docs/results/controls.json; kinds that it does not have are left out.
    """
    controls = {row["control"]: row for row in found.get("controls", [])}
    edits = {row["control"]: row for row in found.get("edits", [])}
    rows = [_row([controls[name] for name in names], [edits[name] for name in names if name in edits])
            for names in ([name for name in group if name in controls] for group in GROUPS) if names]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in (_HEAD, ("---",) * len(_HEAD), *rows)).replace(" --- ", "---")


def _row(controls: Sequence[Mapping[str, Any]], edits: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    whole = all(row["valid"] and row["stored"] == row["regions"] for row in controls)
    of = " or ".join(sorted({str(row["against"]) for row in controls}))
    drawn = f"{min(row['iou'] for row in controls):.3f} of the {of}"
    read = f"{min(row['read'] for row in edits):.3f}" if edits else ""
    return _named([row["control"] for row in controls]), _yes(whole), _learns(controls[0]["control"]), drawn, read


def _named(controls: Sequence[str]) -> str:
    alone = [f"`{name}`" for name in controls if " + " not in name]
    shapes = [f"`{name.partition(' + ')[2]}`" for name in controls if " + " in name]
    return ", ".join(alone) if alone else f"`Labels` beside {', '.join(shapes)}"


def _learns(control: str) -> str:
    read = _LEARNED[control.partition(" + ")[0]]
    return read if read.startswith("as of") else _yes(not read.startswith("nothing"))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
