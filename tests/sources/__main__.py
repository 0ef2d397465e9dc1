"""`make sources`: every cell of the table on a real Label Studio; JSON=1 prints it as one JSON line at the end."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.supervisor import stop_on_signals
from tests.house import TOKEN, personal_token
from tests.sources.gain import cache_gain
from tests.sources.stand import ACCESS_TOKEN_S, WAYS, label_studio
from tests.sources.table import Cell, Sources, Way, read, read_in_threads, sources
from tests.tls import authority

_EXPIRY_S = 3.0 * ACCESS_TOKEN_S


def main() -> int:
    """Fetch all. Returns 0 when every image was fetched and no expiry cost one, else 1."""
    console, cells = Console(stderr=True), list[Cell]()
    expiry: dict[str, Any] = {}
    gain: Mapping[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="zm-s-") as name, stop_on_signals():
        folder = Path(name)
        own = authority(folder)
        for number, way_name in enumerate(WAYS):
            console.print(f"{way_name}: Label Studio starts ...")
            with label_studio(way_name, folder, own) as way, way.client(TOKEN) as api:
                tokens = {"personal": personal_token(api), "legacy": TOKEN}
                with sources(api, way, []) as found:
                    cells += read(found, way, tokens, folder / "cache")
                    expiry[way_name] = _expiry(found, way, tokens["personal"])
                if not number:
                    gain = cache_gain(api, way, folder / "gain")
    console.print(_table(cells))
    console.print(f"expiry: {expiry}; cache: {gain}")
    if os.environ.get("JSON", "") not in ("", "0"):
        told = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "command": "make sources JSON=1",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores", "cells": [asdict(cell) for cell in cells],
                "token_expiry": expiry, "cache": gain}  # fmt: skip
        sys.stdout.write(json.dumps(told) + "\n")
    return int(not all(cell.fetched for cell in cells) or any(row["error"] for row in expiry.values()))


def _expiry(found: Sources, way: Way, token: str) -> dict[str, Any]:
    """Eight threads fetch while access tokens, which live 5 s, end: once traded in time, and once with a clock that
    stands still, as after a machine slept, so that Label Studio itself refuses them.
    """
    row: dict[str, Any] = {"seconds": 2 * _EXPIRY_S, "access_token_s": ACCESS_TOKEN_S, "fetched": 0, "error": ""}
    for stands_still in (False, True):
        fetched, error, trades = _fetch_meanwhile(found, way, token, stands_still=stands_still)
        row["fetched"] += fetched
        row["error"] = row["error"] or error
        row["refused and traded" if stands_still else "traded in time"] = trades
    return row


def _fetch_meanwhile(found: Sources, way: Way, token: str, *, stands_still: bool) -> tuple[int, str, int]:
    now = time.monotonic()
    end = now + _EXPIRY_S
    with way.client(token) as client, pytest.MonkeyPatch.context() as patch:
        trades = _count_trades(client, patch)
        if stands_still:
            patch.setattr("plugin_config.label_studio.auth.time", SimpleNamespace(monotonic=lambda: now))
        fetched, error = read_in_threads(client, found, way, until=lambda: time.monotonic() > end)
    return fetched, error, len(trades)


def _count_trades(client: LabelStudio, patch: pytest.MonkeyPatch) -> list[float]:
    auth, trades = client._auth, list[float]()
    trade = auth._trade

    def counted(*arguments: Any) -> Any:
        trades.append(time.time())
        return trade(*arguments)

    patch.setattr(auth, "_trade", counted)
    return trades


def _table(cells: list[Cell]) -> Table:
    table = Table(title="Image sources")
    for name in ("source", "token", "way", "fetched", "the second time", ""):
        table.add_column(name)
    for cell in cells:
        table.add_row(cell.source, cell.token, cell.way, "yes" if cell.fetched else "NO", cell.again, cell.note)
    return table


if __name__ == "__main__":
    sys.exit(main())
