"""`python -m tests.attack.table NOW [BEFORE]`: `make attack JSON=1` as the table of docs/research/attacks.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def render(now: list[Any], before: list[Any]) -> str:
    """Render a row for each attack of `now`; the results of `before` have a column of their own where there are any."""
    earlier = {row["attack"]: row["evidence"] for row in before}
    names = ["attack", *(["before"] if before else []), "result", "held",
             "backend, worker grew, MB", "opened task: attack, idle, s"]  # fmt: skip
    rows = [names, ["---"] * len(names)]
    for row in now:
        then = [earlier.get(row["attack"], "not tried")] if before else []
        rows.append([row["attack"], *then, row["evidence"], "yes" if row["held"] else "no", *_figures(row)])
    return "".join("| " + " | ".join(map(_cell, cells)) + " |\n" for cells in rows)


def _figures(row: Any) -> tuple[str, str]:
    grown = row["grown_mb"]
    memory = f"{grown['backend']}, {grown['worker']}" if grown else "-"
    return memory, "-" if row["opened_s"] is None else f"{row['opened_s']}, {row['peace_s']}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _rows(path: str) -> list[Any]:
    return list(json.loads(Path(path).read_text(encoding="utf-8"))["attacks"])


if __name__ == "__main__":
    sys.stdout.write(render(_rows(sys.argv[1]), [row for path in sys.argv[2:] for row in _rows(path)]))
