"""Results that are kept: docs/results/*.json, and the tables that are written from them into the documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugin_config.local.environments import LABEL_STUDIO
from tests.browser.controls import Row
from tests.browser.edits import Edit
from tests.browser.limits import KINDS, Trial
from tests.browser.summary import summary_table
from tests.browser_pictures import chromium, version

ROOT = Path(__file__).resolve().parents[2]
CONTROLS = ROOT / "docs" / "results" / "controls.json"
LIMITS = ROOT / "docs" / "results" / "browser_limits.json"
IMAGES = ROOT / "docs" / "images" / "controls"
PAGE = ROOT / "docs" / "reference" / "controls.md"
README = ROOT / "README.md"
_MARKS = "<!-- {name}: written by tests/browser/stored.py -->", "<!-- end of {name} -->"


def read(path: Path) -> dict[str, Any]:
    """What was stored; nothing where there is no file."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def store_controls(rows: Sequence[Row], edits: Sequence[Edit], *, command: str) -> None:
    """Keep what came of kinds of regions and write the pages' tables; kinds that were not tried keep their rows."""
    before = read(CONTROLS)
    found = {
        "controls": _merged(before.get("controls", []), rows, key=lambda row: row["control"]),
        "edits": _merged(before.get("edits", []), edits, key=lambda row: row["control"]),
    }
    _write(CONTROLS, command, found)


def store_limits(found: Sequence[Trial], *, command: str) -> None:
    """Keep what came of trials; those that were not tried now keep their rows."""
    before = read(LIMITS).get("trials", [])
    rows = _merged(before, found, key=lambda row: (row["kind"], list(row["size"]), row["count"]))
    _write(LIMITS, command, {"trials": rows})


def filled(text: str) -> str:
    """The text of a page with what is stored in its tables."""
    found = read(CONTROLS)
    tables = {
        "controls": _controls_table(found), "summary": f"{summary_table(found)}\n\n{_when(found)}",
        "limits": _limits_table(read(LIMITS)),
    }  # fmt: skip
    for name, table in tables.items():
        first, last = _MARKS[0].format(name=name), _MARKS[1].format(name=name)
        before, mark, rest = text.partition(first)
        if mark:
            text = f"{before}{first}\n{table}\n{last}{rest.partition(last)[2]}"
    return text


def _controls_table(found: Mapping[str, Any]) -> str:
    edits = {row["control"]: row for row in found.get("edits", [])}
    rows = ["| control | stored | valid | drawn | edited with the mouse, and read back |", "|---|---|---|---|---|"]
    for row in found.get("controls", []):
        edited = edits.get(row["control"])
        read_back = f"{edited['what']}: {edited['read']:.3f}" if edited else ""
        drawn = f"{row['iou']:.3f} of its {row['against']}"
        stored = f"{row['stored']} of {row['regions']}"
        name = " + ".join(f"`{tag}`" for tag in row["control"].split(" + "))
        rows.append(f"| {name} | {stored} | {'yes' if row['valid'] else 'no'} | {drawn} | {read_back} |")
    return "\n".join([*rows, "", _when(found)])


def _limits_table(found: Mapping[str, Any]) -> str:
    names = ("image", "regions", "kind", "open, s", "select, s", "submit, s", "memory, GB")
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in sorted(found.get("trials", []), key=lambda row: (row["size"], _kind(row["kind"]), row["count"])):
        seconds = [_seconds(row[f"{part}_cpu_s"]) for part in ("open", "select", "submit")]
        memory = f"{row['memory_gb']:.1f}" + (f", {row['ended']}" if row["ended"] else "")
        size = "{} x {}".format(*row["size"])
        rows.append(f"| {size} | {row['count']} | {row['kind']} | {' | '.join(seconds)} | {memory} |")
    return "\n".join([*rows, "", _when(found)])


def _kind(name: str) -> int:
    return [str(kind) for kind in KINDS].index(name)


def _seconds(value: float | None) -> str:
    return "more" if value is None else f"{value:.1f}"


def _when(found: Mapping[str, Any]) -> str:
    if not found:
        return "Not measured yet."
    browser = " ".join(str(found["browser"]).split()[:2])
    return f"{found['date']}, Label Studio {found['label_studio']}, {browser}, `{found['command']}`."


def _merged(before: Sequence[Any], rows: Sequence[Any], *, key: Callable[[Any], Any]) -> list[Any]:
    new = {json.dumps(key(row)): row for row in (json.loads(json.dumps(asdict(row))) for row in rows)}
    kept = {json.dumps(key(row)): row for row in before}
    return list((kept | new).values())


def _write(path: Path, command: str, found: Mapping[str, Any]) -> None:
    head = {"command": command, "date": datetime.now(UTC).date().isoformat(), "browser": version(chromium()),
            "label_studio": LABEL_STUDIO[0].partition("==")[2]}  # fmt: skip
    lines = [json.dumps(head, indent=1).removesuffix("\n}")]
    for name, rows in found.items():
        lines.append(f',\n "{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]")
    path.write_text("".join(lines) + "\n}\n")
    for page in (PAGE, README):
        if page.exists():
            page.write_text(filled(page.read_text()))
