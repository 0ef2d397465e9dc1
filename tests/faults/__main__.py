"""`make faults`: the whole table, one row after the other; JSON=1 prints it as one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from plugin_config.errors import ZeromaskError
from plugin_config.local.supervisor import stop_on_signals
from tests.faults.fleet_rows import worker_cut_off
from tests.faults.learning_rows import finetune_killed
from tests.faults.rows import FAULTS, clock_jumped, disk_full
from tests.faults.shim import available
from tests.faults.stand import Row, label_studio


def main() -> int:
    """Run the faults named on the command line, or all. Returns 0 when all were measured and nothing was lost or
    doubled, else 1.
    """
    console = Console(stderr=True)
    every = (*FAULTS, worker_cut_off, finetune_killed)
    chosen = [fault for fault in every if not sys.argv[1:] or fault.__name__ in sys.argv[1:]]
    if not available():
        console.print("no C compiler (cc): the rows of the full disk and the clock are left out")
        chosen = [fault for fault in chosen if fault not in (disk_full, clock_jumped)]
    rows: list[Row] = []
    broken = []
    try:
        with stop_on_signals(), console.status("Label Studio starts ...") as status, label_studio() as server:
            for number, fault in enumerate(chosen, start=1):
                status.update(f"{number} of {len(chosen)}: {(fault.__doc__ or '').splitlines()[0]}")
                started = time.monotonic()
                try:
                    row = replace(fault(server, 1.0), seconds=round(time.monotonic() - started, 1))
                except (AssertionError, TimeoutError, ZeromaskError) as error:
                    broken.append(fault.__name__)
                    console.print(f"{fault.__name__}: could not be measured: {error}")
                    continue
                rows.append(row)
                console.print(
                    f"{row.fault}: {row.submitted} submitted, {row.predicted} predicted, {row.failed} failed, "
                    f"{row.duplicated} duplicated, {row.lost} lost ({row.seconds:.0f} s). {row.note}"
                )
    except KeyboardInterrupt:
        console.print("stopped")
        return 1
    console.print(_table(rows))
    if os.environ.get("JSON", "") not in ("", "0"):
        told = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "faults": [asdict(row) for row in rows]}
        sys.stdout.write(json.dumps(told) + "\n")
    return int(bool(broken) or any(row.lost or row.duplicated for row in rows))


def _table(rows: list[Row]) -> Table:
    table = Table(title="Faults")
    for name in ("fault", "submitted", "predicted", "failed", "duplicated", "lost", "s"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for row in rows:
        table.add_row(row.fault, *map(str, (row.submitted, row.predicted, row.failed, row.duplicated, row.lost,
                                            round(row.seconds))))  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
