"""`make attack`: the whole table, one row after the other; JSON=1 prints it as one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from plugin_config.errors import ZeromaskError
from plugin_config.local.supervisor import stop_on_signals
from tests.attack.ground import Row
from tests.attack.rows import ATTACKS, Attack
from tests.faults.stand import LabelStudioServer, label_studio


def main() -> int:
    """Run the attacks named on the command line, or all. Returns 0 when each was measured and held, 2
    when one named is unknown, else 1."""
    console = Console(stderr=True)
    unknown = set(sys.argv[1:]) - {attack.__name__ for attack in ATTACKS}
    if unknown:
        console.print(f"no attack is called {', '.join(sorted(unknown))}; there are "
                      f"{', '.join(attack.__name__ for attack in ATTACKS)}", markup=False)  # fmt: skip
        return 2
    chosen = [attack for attack in ATTACKS if not sys.argv[1:] or attack.__name__ in sys.argv[1:]]
    rows: list[Row] = []
    try:
        with stop_on_signals(), console.status("Label Studio starts ...") as status, label_studio() as server:
            for number, attack in enumerate(chosen, start=1):
                status.update(f"{number} of {len(chosen)}: {(attack.__doc__ or '').splitlines()[0]}")
                row = _row(attack, server)
                rows.append(row)
                held = "held" if row.held else "NOT HELD"
                console.print(f"{row.attack}: {held} ({row.seconds:.0f} s). {row.evidence}", markup=False)
    except KeyboardInterrupt:
        console.print("stopped; what was measured so far:")
    console.print(_table(rows))
    if os.environ.get("JSON", "") not in ("", "0"):
        told = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "attacks": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(told) + "\n")
    return int(len(rows) < len(chosen) or not rows or not all(row.held for row in rows))


def _row(attack: Attack, server: LabelStudioServer) -> Row:
    started = time.monotonic()
    try:
        row = attack(server, 1.0)
    except (AssertionError, TimeoutError, ZeromaskError, httpx.HTTPError, RedisError, OSError) as error:
        row = Row(attack.__name__, False, f"Could not be measured: {type(error).__name__}: {error}"[:400])
    return replace(row, seconds=round(time.monotonic() - started, 1))


def _table(rows: list[Row]) -> Table:
    table = Table(title="Attacks")
    table.add_column("attack", min_width=30)
    for name in ("held", "backend MB", "worker MB", "opened s", "peace s", "health s", "lost", "s"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (row.grown_mb.get("backend"), row.grown_mb.get("worker"), row.opened_s, row.peace_s, row.health_s,
                   row.lost, round(row.seconds))  # fmt: skip
        told = ("-" if figure is None else str(figure) for figure in figures)
        table.add_row(row.attack, "yes" if row.held else "NO", *told)
    return table


if __name__ == "__main__":
    sys.exit(main())
