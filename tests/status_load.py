"""How fast the status page is with 100,000 tasks in 50 projects, on a real backend process and a real Redis.

    python -m tests.status_load --store

Each request is for something that is read anew: the backend keeps what it read for a second. `--store` writes
`docs/results/status_page.json`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
from redis import Redis

from plugin_config.local.supervisor import answers_http, free_port, module_command
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.conftest import redis_server
from tests.house import wait_until
from tests.status_projects import PROJECT, VERSION, fill, keep_alive, learn_versions

_ROOT = Path(__file__).parent.parent
STORED = _ROOT / "docs" / "results" / "status_page.json"
DOCUMENT = _ROOT / "docs" / "guide" / "status_page.md"
_FIRST, _LAST = "<!-- status_load: written by tests/status_load.py -->", "<!-- end of status_load -->"
COMMAND = "python -m tests.status_load --store"
PROJECTS, TASKS, REQUESTS = 50, 100_000, 60
_READ_ANEW_S = 1.05
_CHANGED = 200  # tasks done between two updates


@click.command()
@click.option("--store", is_flag=True, help="Write docs/results/status_page.json.")
@click.option("--tasks", default=TASKS, show_default=True, help="Tasks in all.")
@click.option("--requests", default=REQUESTS, show_default=True, help="Requests for each page.")
def main(*, store: bool, tasks: int, requests: int) -> None:
    """Measure, and print one JSON line."""
    with tempfile.TemporaryDirectory(prefix="zm-") as folder, redis_server() as url:
        redis = Redis.from_url(url)
        fill(redis, projects=PROJECTS, tasks=tasks)
        learn_versions(redis, Path(folder) / "versions")
        with _backend(Settings(redis_url=url, model="builtin", state_dir=folder, port=free_port())) as port:
            figures = _measure(redis, port, requests)
    found = {"projects": PROJECTS, "tasks": tasks, "requests": requests, "cores": os.cpu_count(),
             "load": round(os.getloadavg()[0], 1), **figures}  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    if store:
        about = {"command": COMMAND, "date": datetime.now(UTC).date().isoformat()}
        STORED.write_text(json.dumps({**about, **found}, indent=1) + "\n")
        DOCUMENT.write_text(filled(DOCUMENT.read_text()))


def filled(text: str) -> str:
    """The text of the documentation with the figures that are stored."""
    found = json.loads(STORED.read_text())
    names = {"projects": "the page of all projects", "project": "the page of one project", "update": "an update"}
    rows = []
    for name, meaning in names.items():
        ms, size = found[f"{name}_first_byte_ms"], found[f"{name}_kb"]
        size = f"{size['median']:.1f} kB, at most {size['most']:.1f}" if isinstance(size, dict) else f"{size:.1f} kB"
        rows.append(f"| {meaning} | {ms['median']:.0f} ms | {ms['p95']:.0f} ms | {size} |")
    about = f"{found['requests']} requests each, on {found['cores']} cores with a load of {found['load']:g}"
    told = [f"| {about} | first byte, median | 95 % | size |", "|---|---|---|---|", *rows]
    before, _, rest = text.partition(_FIRST)
    return "\n".join([before + _FIRST, *told, _LAST]) + rest.partition(_LAST)[2]


@contextmanager
def _backend(settings: Settings) -> Iterator[int]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    environment = {**kept, **settings.environment("backend")}
    process = subprocess.Popen(module_command("backend"), env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers_http(f"http://127.0.0.1:{settings.port}/health"), told="the backend")
        yield settings.port
    finally:
        process.terminate()
        process.wait()


def _measure(redis: Redis, port: int, requests: int) -> dict[str, Any]:
    pages = {"projects": "/status", "project": f"/status/project?id={PROJECT}"}
    figures: dict[str, Any] = {}
    for name, path in pages.items():
        rows = [_ask(redis, port, path) for _ in range(requests)]
        figures[f"{name}_first_byte_ms"] = _spread([ms for ms, _ in rows])
        figures[f"{name}_kb"] = round(max(len(body) for _, body in rows) / 1000, 1)
    had: dict[str, str] = {}
    rows = []
    for number in range(requests):
        _work(redis, number)
        known = ",".join(f"{key}.{digest}" for key, digest in had.items())
        ms, body = _ask(redis, port, f"/status/update?have={known}")
        rows.append((ms, body))
        parts = json.loads(body)["parts"]
        had |= {key: html.partition('data-v="')[2][:8] for key, html in parts.items()}
    figures["update_first_byte_ms"] = _spread([ms for ms, _ in rows])
    figures["update_kb"] = _spread([len(body) / 1000 for _, body in rows[2:]])  # the first ones bring the whole page
    return figures


def _ask(redis: Redis, port: int, path: str) -> tuple[float, bytes]:
    """Milliseconds to the first byte of an answer, and the answer."""
    time.sleep(_READ_ANEW_S)
    keep_alive(redis)
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    ms = (time.perf_counter() - began) * 1000
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: HTTP {answer.status}, {body[:300]!r}")
    return ms, body


def _work(redis: Redis, seed: int) -> None:
    """Tasks are done in many projects, as a few busy workers do them."""
    pending, chance = PendingTasks(redis, drain_tasks=8, lease_s=3600), random.Random(seed)
    for _ in range(_CHANGED // 8):
        project = PROJECT + chance.randrange(PROJECTS)
        leases = pending.take(project, "worker-1")
        for lease in leases:
            pending.done(project, "worker-1", lease.ref)
        if not leases:
            pending.add(project, [TaskRef(VERSION, 10**9 + seed)])


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered), 1), "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 1),
            "most": round(ordered[-1], 1)}  # fmt: skip


if __name__ == "__main__":
    main()
