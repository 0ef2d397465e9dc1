"""How long it takes to set the order of 100,000 tasks, on a real Label Studio and a real Redis.

    python -m tests.order_load --store

Two tasks, one of them annotated, are made through Label Studio's API; the others are copies of their rows in its SQLite
database, each with a prediction of another score, because importing that many takes longer than all that is measured.
No image is needed. The rest is the service's own: what it reads, chooses and writes. `--store` writes
`docs/results/order.json` and the table of `docs/guide/next_image.md`.
"""

from __future__ import annotations

import base64
import json
import os
import random
import resource
import sqlite3
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from redis import Redis

from plugin_config.demo.setup import label_studio_command
from plugin_config.files import private_folder
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.supervisor import Supervisor, free_port
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import HEAD_BELOW, ImageRecord
from tests.conftest import redis_server
from tests.house import TOKEN
from tests.order_project import CONFIG, FINGERPRINT, OrderedProject
from worker.learning.selection.vectors import VECTOR_SIZE

_ROOT = Path(__file__).parent.parent
STORED = _ROOT / "docs" / "results" / "order.json"
DOCUMENT = _ROOT / "docs" / "guide" / "next_image.md"
_FIRST, _LAST = "<!-- order_load: written by tests/order_load.py -->", "<!-- end of order_load -->"
COMMAND = "python -m tests.order_load --store"
TASKS, CORRECTED = 100_000, 1000
DATABASE = "label_studio.sqlite3"
_SEED = 1
_AT_ONCE = 5000  # rows

Row = dict[str, Any]


class CountedLabelStudio(LabelStudio):
    """Counts requests, and how long their answers took, by method and path with ids left out."""

    def __init__(self, url: str, api_key: str) -> None:
        super().__init__(url, api_key)
        self.asked: dict[str, list[float]] = {}

    def request(self, method: str, path: str, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return super().request(method, path, **options)
        finally:
            name = f"{method} " + "/".join("N" if part.isdigit() else part for part in path.split("/"))
            self.asked.setdefault(name, []).append(time.perf_counter() - began)

    @property
    def requests(self) -> int:
        """How many were made since `asked` was cleared."""
        return sum(map(len, self.asked.values()))


@click.command()
@click.option("--store", is_flag=True, help="Write docs/results/order.json, and the table of the guide.")
@click.option("--tasks", default=TASKS, show_default=True, help="Tasks of the project.")
@click.option("--corrected", default=CORRECTED, show_default=True, help="Of them annotated.")
def main(*, store: bool, tasks: int, corrected: int) -> None:
    """Measure, and print one JSON line."""
    with tempfile.TemporaryDirectory(prefix="zm-") as folder, redis_server() as redis_url:
        url = f"http://localhost:{free_port()}"
        data = private_folder(Path(folder) / "label-studio")
        with Supervisor(Path(folder)) as supervisor, Redis.from_url(redis_url) as redis:
            supervisor.start(label_studio_command(url, TOKEN, data))
            with CountedLabelStudio(url, TOKEN) as label_studio:
                ordered = load(label_studio, redis, Path(folder), data / DATABASE, tasks=tasks, corrected=corrected)
                figures = measure(ordered)
    found = {"tasks": tasks, "corrected": corrected, "cores": os.cpu_count(),
             "load": round(os.getloadavg()[0], 1), **figures}  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")
    if store:
        about = {"command": COMMAND, "date": datetime.now(UTC).date().isoformat()}
        STORED.write_text(json.dumps({**about, **found}, indent=1) + "\n")
        DOCUMENT.write_text(filled(DOCUMENT.read_text()))


def load(
    label_studio: LabelStudio, redis: Redis, folder: Path, database: Path, *, tasks: int, corrected: int
) -> OrderedProject:
    """Make a project of many tasks whose predictions are shown and recorded, and none of them in order."""
    body = {"title": f"{tasks} tasks", "label_config": CONFIG}
    project = int(label_studio.request("POST", "/api/projects/", json=body)["id"])
    ordered = OrderedProject(label_studio, redis, folder, project=project)
    rows = [{"data": {"image": f"http://localhost/{number}.png"}} for number in range(2)]
    label_studio.request("POST", f"/api/projects/{project}/import", json=rows)
    for task in label_studio.all_tasks(project):
        label_studio.create_prediction(task.id, [], score=0.5, version=ordered.version)
    label_studio.request("POST", f"/api/tasks/{task.id}/annotations/", json={"result": []})
    predictions = _copy_rows(database, project, opened=tasks - corrected, annotated=corrected)
    _record(ordered, predictions)
    label_studio.show_version(project, ordered.version)
    ProjectLedger(redis).set_shown_version(project, ordered.version)
    return ordered


def measure(ordered: OrderedProject) -> dict[str, Any]:
    """Set the order at first, again after an annotation, and with nothing to do; ask for tasks as annotators do."""
    steps, before = {}, _peak_mb()
    steps["first"] = _timed(ordered)
    first, placed = ordered.head(), _placed(ordered)
    got, seconds = [], []
    for _ in range(3):
        began = time.perf_counter()
        got.append(next_task(ordered))
        seconds.append(time.perf_counter() - began)
        ordered.label_studio.request("POST", f"/api/tasks/{got[-1]}/annotations/", json={"result": []})
    steps["after_annotations"] = _timed(ordered)
    orders = 1 + (placed < len(first))
    while _placed(ordered) < len(ordered.head()):
        ordered.keep()
        orders += 1
    steps["nothing_new"] = _timed(ordered)
    return {
        **steps, "placed_at_first": placed, "orders_until_all": orders,
        "next_task_s": round(sorted(seconds)[1], 2), "is_ours": got == first[:3],
        "memory_mb": round(_peak_mb() - before),
    }  # fmt: skip


def _placed(ordered: OrderedProject) -> int:
    """How many of the tasks at the head have their place in Label Studio."""
    records = ordered.order.some_records(ordered.project, ordered.head())
    return sum(record.shown < HEAD_BELOW for record in records.values())


def next_task(ordered: OrderedProject) -> int:
    """What the page asks for at "Label All Tasks"."""
    params = {"id": "next_task", "project": ordered.project}
    return int(ordered.label_studio.request("POST", "/api/dm/actions/", params=params, json={})["id"])


def filled(text: str) -> str:
    """The text of the documentation with the figures that are stored."""
    found = json.loads(STORED.read_text())
    names = {"first": "the first order", "after_annotations": "after three annotations",
             "nothing_new": "nothing has changed"}  # fmt: skip
    rows = [
        f"| {meaning} | {found[name]['seconds']:.1f} s | {found[name]['cpu_seconds']:.1f} s | {found[name]['requests']}"
        f" | {found[name]['label_studio_seconds']:.1f} s | {found[name]['servers_cpu_seconds']:.1f} s |"
        for name, meaning in names.items()
    ]
    about = f"{found['tasks']:,} tasks, {found['corrected']:,} of them annotated"
    all_at = "" if found["orders_until_all"] == 1 else f"; all had theirs after {found['orders_until_all']} orders"
    told = [f"| {about} | it took | processor, worker | requests | waiting for Label Studio | processor, Label Studio "
            "and Redis |", "|---|---|---|---|---|---|", *rows, "",
            *textwrap.wrap(
                f"Measured on {found['cores']} cores with a load of {found['load']:g}, Label Studio on SQLite beside "
                f"it ({found['date']}, `{found['command']}`). The first order gave {found['placed_at_first']} tasks "
                f"their places{all_at}. The worker's memory grew by {found['memory_mb']} MB. Label Studio took "
                f"{found['next_task_s']:.1f} s to answer *Label All Tasks*.", 120, break_on_hyphens=False)]  # fmt: skip
    before, _, rest = text.partition(_FIRST)
    return "\n".join([before + _FIRST, *told, _LAST]) + rest.partition(_LAST)[2]


def _timed(ordered: OrderedProject) -> dict[str, Any]:
    ordered.label_studio.asked.clear()
    began, processor, servers = time.perf_counter(), time.process_time(), _servers_cpu_s()
    ordered.keep()
    seconds, cpu = time.perf_counter() - began, time.process_time() - processor
    asked = ordered.label_studio.asked
    return {
        "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "requests": ordered.label_studio.requests,
        "servers_cpu_seconds": round(_servers_cpu_s() - servers, 2),
        "label_studio_seconds": round(sum(map(sum, asked.values())), 2),
        "by_request": {name: [len(times), round(sum(times), 2)] for name, times in asked.items()},
    }  # fmt: skip


def _servers_cpu_s() -> float:
    """Seconds of processor that the processes started from here have taken: Label Studio and Redis."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def _peak_mb() -> float:
    """Most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _copy_rows(database: Path, project: int, *, opened: int, annotated: int) -> list[tuple[int, int, float]]:
    """Copy the open task and the annotated one until there are so many of each, with their predictions.

    Returns:
        (task, prediction, score of it) of every task.
    """
    chance, made = random.Random(_SEED), []
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.row_factory = sqlite3.Row
        tasks = _rows(connection, "task", "project_id", project)
        predictions = {row["task_id"]: row for row in _rows(connection, "prediction", "project_id", project)}
        annotations = {row["task_id"]: row for row in _rows(connection, "task_completion", "project_id", project)}
        made += [(task["id"], predictions[task["id"]]["id"], 0.5) for task in tasks]
        free = {table: _last_id(connection, table) + 1 for table in ("task", "prediction", "task_completion")}
        copies: dict[str, list[Row]] = {"task": [], "prediction": [], "task_completion": []}
        for number in range(opened + annotated - len(tasks)):
            pattern = tasks[0] if number < opened - 1 else tasks[1]
            score = 0.2 + 0.7 * chance.random()
            task, prediction = free["task"] + number, free["prediction"] + number
            copies["task"].append({**pattern, "id": task, "inner_id": len(tasks) + number + 1})
            copies["prediction"].append(
                {**predictions[pattern["id"]], "id": prediction, "task_id": task, "score": score}
            )
            if pattern["id"] in annotations:
                one = {**annotations[pattern["id"]], "id": free["task_completion"] + number, "task_id": task}
                copies["task_completion"].append(one | ({"unique_id": None} if "unique_id" in one else {}))
            made.append((task, prediction, score))
        for table, rows in copies.items():
            _insert(connection, table, rows)
        connection.commit()
    return made


def _rows(connection: sqlite3.Connection, table: str, column: str, value: int) -> list[Row]:
    return [dict(row) for row in connection.execute(f"SELECT * FROM {table} WHERE {column} = ? ORDER BY id", [value])]


def _last_id(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}").fetchone()[0])


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Row]) -> None:
    if rows:
        columns = list(rows[0])
        places = ", ".join("?" * len(columns))
        names = ", ".join(f'"{column}"' for column in columns)
        connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", map(tuple, map(dict.values, rows)))


def _record(ordered: OrderedProject, predictions: Sequence[tuple[int, int, float]]) -> None:
    """Keep a record of each prediction, as the worker that stored it did."""
    rng = np.random.default_rng(_SEED)
    key = ProjectKeys(ordered.project).images
    for start in range(0, len(predictions), _AT_ONCE):
        rows: Any = {}
        for task, prediction, score in predictions[start : start + _AT_ONCE]:
            looks = base64.b64encode(rng.integers(-127, 128, VECTOR_SIZE, dtype=np.int8).tobytes()).decode()
            labels = {("cat", "dog")[task % 2]: score}
            found = ImageRecord(ordered.version, prediction, score, score, labels, FINGERPRINT[:8], looks, score)
            rows[str(task)] = found.encode()
        ordered.redis.hset(key, mapping=rows)
    ordered.order.put(ordered.project, task, found)


if __name__ == "__main__":
    main()
