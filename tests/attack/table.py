"""`python -m tests.attack.table BEFORE NOW`: two answers of `make attack JSON=1` as the table of docs/security.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_HEAD = """| attack | before | now | held | backend, worker MB | opened, in peace s |
|---|---|---|---|---|---|
"""


def render(before: list[Any], now: list[Any]) -> str:
    """The table: a row for each attack of `now`."""
    earlier = {row["attack"]: row["evidence"] for row in before}
    return _HEAD + "".join(_line(row, earlier.get(row["attack"], "not tried")) for row in now)


def _line(row: Any, earlier: str) -> str:
    grown, held = row["grown_mb"], "yes" if row["held"] else "no"
    memory = f"{grown['backend']}, {grown['worker']}" if grown else "-"
    waits = f"{row['opened_s']}, {row['peace_s']}" if row["opened_s"] is not None else "-"
    cells = (row["attack"], earlier, row["evidence"], held, memory, waits)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _rows(path: str) -> list[Any]:
    return list(json.loads(Path(path).read_text())["attacks"])


if __name__ == "__main__":
    sys.stdout.write(render(_rows(sys.argv[1]), _rows(sys.argv[2])))
