"""`make browser`: each kind of region in a real Label Studio, seen in a real Chromium; JSON=1 prints one JSON line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.supervisor import stop_on_signals
from tests.browser import limits, stored
from tests.browser.cases import CASES
from tests.browser.controls import Row, see
from tests.browser.editor import browser, editor
from tests.browser.edits import Edit, edit
from tests.browser_pictures import NoBrowser
from tests.faults.stand import label_studio
from tests.house import TOKEN

_COMMAND = "python -m tests.browser"


@click.command(epilog="It takes five minutes on two free cores; with --limits, twenty more.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON line at the end.")
@click.option("--store", is_flag=True, help="Write docs/results, the pictures and the tables of the documentation.")
@click.option("--only", default="", help="These kinds alone, by commas: BrushLabels; brush with --limits.")
@click.option("--url", default="", help="Of a Label Studio of the tests that runs already; one is started otherwise.")
@click.option("--limits", "of_limits", is_flag=True, help="Try how many regions the browser bears instead.")
def main(as_json: bool, store: bool, only: str, url: str, of_limits: bool) -> None:
    """See each kind of region in a browser.

    The exit status is 0 when all is as it must be, 1 when not, 2 when there is no browser.
    """
    console = Console(stderr=True)
    names = {name.strip() for name in only.split(",") if name.strip()}
    try:
        with stop_on_signals(), _address(url) as address, LabelStudio(address, TOKEN) as api:
            found = _limits(api, console, names, store) if of_limits else _kinds(api, console, names, store)
    except (NoBrowser, ZeromaskError) as reason:
        console.print(str(reason), markup=False)
        sys.exit(2)
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(int(bool(found.get("faults"))))


@contextmanager
def _address(url: str) -> Iterator[str]:
    if url:
        yield url
    else:
        with label_studio() as server:
            yield server.url


def _kinds(api: LabelStudio, console: Console, names: set[str], store: bool) -> dict[str, Any]:
    rows, made, faults = list[Row](), list[Edit](), list[str]()
    with browser() as running, editor(running, api.url) as window:
        for case in (case for case in CASES if not names or case.name in names):
            shot = stored.IMAGES / f"{case.name.lower().replace(' + ', '_')}.png" if store else None
            row = see(case, api, window, shot=shot)
            done = edit(case, api, window)
            console.print(row, done)
            rows.append(row)
            made.append(done)
            faults += [*row.faults(case), *done.faults()]
            if store:
                stored.store_controls(rows, made, command=f"{_COMMAND} --store")
    for fault in faults:
        console.print(fault, markup=False)
    return {"controls": [asdict(row) for row in rows], "edits": [asdict(row) for row in made], "faults": faults}


def _limits(api: LabelStudio, console: Console, names: set[str], store: bool) -> dict[str, Any]:
    found = []
    with browser() as running:
        kinds = [kind for kind in limits.KINDS if not names or kind in names]
        for trial in limits.trials(running, api, kinds=kinds):
            console.print(trial)
            found.append(trial)
            if store:
                stored.store_limits(found, command=f"{_COMMAND} --limits --store")
    return {"trials": [asdict(trial) for trial in found]}


if __name__ == "__main__":
    main()
