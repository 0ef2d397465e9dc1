"""Results that are kept: docs/results/*.json, and the tables that are written from them into the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugin_config.local.environments import LABEL_STUDIO
from tests.browser.controls import Row
from tests.browser.limits import Trial
from tests.browser_pictures import chromium, version

ROOT = Path(__file__).resolve().parents[2]
CONTROLS = ROOT / "docs" / "results" / "controls.json"
LIMITS = ROOT / "docs" / "results" / "browser_limits.json"
IMAGES = ROOT / "docs" / "images" / "controls"
PAGE = ROOT / "docs" / "reference" / "controls.md"
_MARKS = "<!-- {name}: written by `{command}` -->", "<!-- end of {name} -->"


def read(path: Path) -> dict[str, Any]:
    """What was stored; nothing where there is no file."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def store_controls(rows: Sequence[Row], parts: Mapping[str, Sequence[Any]], *, command: str) -> None:
    """Keep what came of kinds of regions; kinds that were not tried now keep their rows.

    Args:
        rows: of `controls`.
        parts: further lists of dataclasses, by their name in the file.
        command: that made them.
    """
    before = read(CONTROLS)
    found = {"controls": _merged(before.get("controls", []), rows, key=lambda row: row["control"])}
    names = {*before, *parts} - {"command", "date", "browser", "label_studio", "controls"}
    for name in sorted(names):
        found[name] = _merged(before.get(name, []), parts.get(name, ()), key=lambda row: (row["control"], row["what"]))
    _write(CONTROLS, command, found)


def store_limits(found: Sequence[Trial], *, command: str) -> None:
    """Keep what came of trials; those that were not tried now keep their rows."""
    before = read(LIMITS).get("trials", [])
    rows = _merged(before, found, key=lambda row: (row["kind"], list(row["size"]), row["count"]))
    _write(LIMITS, command, {"trials": rows})


def fill(text: str, name: str, table: str, *, command: str) -> str:
    """The text of a page with a table between the marks of its name."""
    first, last = (mark.format(name=name, command=command) for mark in _MARKS)
    between = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
    return between.sub(lambda _: f"{first}\n{table}\n{last}", text)


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
