"""`make fuzz`: every kind of malformed input, thousands of each; JSON=1 prints the run as one JSON line at the end.

SEED=n tries others than the usual ones. `python -m tests.fuzz "labeling configs" images` tries these kinds alone.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from plugin_config.errors import ZeromaskError
from plugin_config.local.supervisor import stop_on_signals
from tests.faults.stand import LabelStudioServer
from tests.fuzz import whole
from tests.fuzz.kinds import KINDS
from tests.fuzz.trial import SEED, failed, run
from tests.fuzz.verdicts import FAILURES, ROOT, Failure, Tally

_WHOLE = 24  # malformed tasks of the whole product, each beside a healthy one


def main() -> int:
    """Try all kinds, or those named on the command line. Returns 0 when nothing happened that must not, 2 when a kind
    is unknown, else 1.
    """
    console = Console(stderr=True)
    names = [kind.name for kind in KINDS] + [whole.NAME]
    unknown = set(sys.argv[1:]) - set(names)
    if unknown:
        console.print(f"no kind is called {', '.join(sorted(unknown))}; there are {', '.join(names)}", markup=False)
        return 2
    chosen = set(sys.argv[1:]) or set(names)
    number = int(os.environ.get("SEED") or SEED)
    tallies: list[Tally] = []
    try:
        with stop_on_signals(), _starting(whole.NAME in chosen) as server, _progress(console) as progress:
            for kind in (kind for kind in KINDS if kind.name in chosen):
                line = progress.add_task(kind.name, total=kind.full)

                def told(tally: Tally, line: TaskID = line) -> None:
                    progress.update(line, completed=tally.tried)

                tallies.append(run(kind, number=number, count=kind.full, progress=told))
            if server is not None:
                line = progress.add_task(whole.NAME, total=2 * _WHOLE)
                tallies.append(_try_whole(server, number))
                progress.update(line, completed=tallies[-1].tried)
    except KeyboardInterrupt:
        console.print("stopped; what was tried so far:")
    console.print(_table(tallies))
    for failure in (failure for tally in tallies for failure in tally.failures):
        console.print(f"{failure.kind}: {failure.cause}, {failure.count} x. {failure.evidence}\n    {failure.example}",
                      markup=False, highlight=False)  # fmt: skip
    if os.environ.get("JSON", "") not in ("", "0"):
        sys.stdout.write(json.dumps(report(tallies, number)) + "\n")
    return int(len(tallies) < len(chosen) or failed(tallies))


class _Starting:
    """A Label Studio that starts while other kinds are tried."""

    def __init__(self, folder: Path) -> None:
        self._server = LabelStudioServer(folder)
        self._error: TimeoutError | None = None
        self._thread = threading.Thread(target=self._start, name="Label Studio starts", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            self._server.start()
        except TimeoutError as error:
            self._error = error

    def ready(self) -> LabelStudioServer:
        """Wait until it answers.

        Raises:
            TimeoutError: it does not.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._server

    def stop(self) -> None:
        """End it, whatever it is at."""
        self._server.stop()


@contextmanager
def _starting(wanted: bool) -> Iterator[_Starting | None]:
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="zm-ls-", ignore_cleanup_errors=True) as folder:
        starting = _Starting(Path(folder))
        try:
            yield starting
        finally:
            starting.stop()


def _try_whole(starting: _Starting, number: int) -> Tally:
    try:
        return whole.run_whole(starting.ready(), number=number, count=_WHOLE)
    except (AssertionError, TimeoutError, ZeromaskError, httpx.HTTPError, RedisError, OSError) as error:
        told = f"{type(error).__name__}: {error}"[:400]
        return Tally(whole.NAME, failures=[Failure(whole.NAME, "could not be tried", 1, told, "")])


def report(tallies: Sequence[Tally], number: int) -> dict[str, Any]:
    """The run as JSON: the sums first, then each kind, then the smallest example of each failure."""
    sums: dict[str, int] = {fate: sum(tally.fates[fate] for tally in tallies) for fate in FAILURES}
    return {
        "tried": sum(tally.tried for tally in tallies), **sums,
        "told": sum(tally.fates["told"] for tally in tallies), "taken": sum(tally.fates["taken"] for tally in tallies),
        "most_growth_mb": round(max((tally.growth_mb for tally in tallies), default=0.0), 1),
        "slowest_s": round(max((tally.slowest_s for tally in tallies if tally.kind != whole.NAME), default=0.0), 2),
        "seed": number, "seconds": round(sum(tally.seconds for tally in tallies)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "kinds": {tally.kind: tally.figures() for tally in tallies},
        "failures": [asdict(failure) for tally in tallies for failure in tally.failures],
    }  # fmt: skip


def _commit() -> str:
    """The commit that was tried, with "+" where files differ from it; "" where there is no git."""
    try:
        told = [subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
                for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain",
                                                                    "--untracked-files=no"))]  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told[0] + "+" * bool(told[1])


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def _table(tallies: Sequence[Tally]) -> Table:
    """One column per kind: that many rows fit a terminal, that many columns do not."""
    table = Table(title="Generated input")
    table.add_column("")
    for tally in tallies:
        table.add_column(tally.kind, justify="right")
    table.add_row("tried", *(str(tally.tried) for tally in tallies))
    for fate in ("taken", "told", *FAILURES):
        table.add_row(fate, *(str(tally.fates[fate]) for tally in tallies))
    table.add_row("grown by, MB", *(f"{tally.growth_mb:.0f}" for tally in tallies))
    table.add_row("slowest, s", *(f"{tally.slowest_s:.2f}" for tally in tallies))
    table.add_row("took, s", *(f"{tally.seconds:.0f}" for tally in tallies))
    return table


if __name__ == "__main__":
    sys.exit(main())
