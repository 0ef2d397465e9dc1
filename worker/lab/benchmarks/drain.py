"""100,000 tasks or more through the real queue: requested at once, drained by a real worker that computes nothing.

What is measured is the queue alone: Redis, RQ, leases, posts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console

from plugin_config.local.supervisor import answers_http, inherited_environment, module_command
from plugin_config.overview.control import QueueControl
from plugin_config.queue.keys import EVERY_KEY
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import PROJECT, BenchServices, bench_services, blotches
from worker.label_studio.images import Picture
from worker.service.batching import BatchSize
from worker.service.stages import PredictionStages
from worker.service.turns import DrawnTask, EmbeddedTask, FetchedTask, ImageTurn

_STUB = "worker.lab.benchmarks.drain"
_MB = 1024 * 1024
_STILL_S = 120.0
_MOST_TASKS = 100_000  # of one request: its body then fits ZEROMASK_MAX_BODY_MB


class StubbedPixels(PredictionStages):
    """The worker's stages without fetching and without a model; leases and posts are the real ones."""

    def fetch(self, turn: ImageTurn) -> FetchedTask:
        """Return an image of one pixel."""
        return FetchedTask(turn, Picture(np.zeros((1, 1, 3), dtype=np.uint8), (1, 1)))

    def embed(self, batch: Sequence[FetchedTask], size: BatchSize) -> list[EmbeddedTask | ImageTurn | DrawnTask]:
        """Return no embeddings."""
        size.took(len(batch), 0.0)
        no_embedding: Any = None
        return [EmbeddedTask(item.turn, item.picture, no_embedding, item.classes) for item in batch]

    def draw(self, embedded: EmbeddedTask) -> ImageTurn | DrawnTask:
        """Return one small box."""
        box = {"x": 10, "y": 10, "width": 10, "height": 10, "rotation": 0, "rectanglelabels": ["red shape"]}
        region = {"id": str(embedded.leased.ref.task), "type": "rectanglelabels", "from_name": "brush",
                  "to_name": "image", "value": box}  # fmt: skip
        return embedded.turn.drawn([region], 0.5)


def enqueue_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Request `tasks` tasks, 100,000 in one /predict, without a worker.

    Returns:
        enqueue_seconds: of all requests, one after the other; enqueue_per_s: tasks over that.
        request_mb: size of the largest request; backend_mb, backend_peak_mb: resident memory of the backend before it
            and at most.
        bytes_per_task: memory of a pending task in Redis, all keys counted.
        status_seconds: median time of three runs of `zeromask status --json` while all tasks are pending.
        unqueued: tasks that were requested and are not pending.
    """
    with _services(tasks) as services:
        return _enqueue(services, tasks, console)


def drain_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Request `tasks` tasks and drain them.

    Returns:
        What `enqueue_figures` returns, and
        drain_s, drained_per_s: seconds until the queue was empty, and tasks over that.
        posted, duplicated, failed, lost: numbers of predictions and tasks.
    """
    with _services(tasks) as services:
        figures = _enqueue(services, tasks, console)
        control = QueueControl(services.redis, services.settings)
        control.pause(PROJECT)  # until the worker is up: its start is not the queue's cost
        services.start_workers(1, _STUB)
        started = time.perf_counter()
        control.resume(PROJECT)
        _wait_drained(services, tasks, console)
        drained_s = time.perf_counter() - started
        posts, counts = services.counted(), services.pending.counts(PROJECT)
    return {**figures, "drain_s": drained_s, "drained_per_s": posts["tasks"] / drained_s, "posted": posts["posts"],
            "duplicated": posts["duplicated"], "failed": counts.failed,
            "lost": tasks - posts["tasks"] - counts.failed}  # fmt: skip


def _services(tasks: int) -> AbstractContextManager[BenchServices]:
    return bench_services(tasks=tasks, picture=blotches(8, 8), model="builtin", drain_tasks=32)


def _enqueue(services: BenchServices, tasks: int, console: Console) -> Mapping[str, float]:
    url = f"http://127.0.0.1:{services.settings.port}"
    services.start("backend", "backend", ready=lambda: answers_http(f"{url}/health"))
    backend = psutil.Process(services.supervisor.pid("backend"))
    before = backend.memory_info().rss / _MB
    empty = _redis_bytes(services)
    asked_s, largest = 0.0, 0
    with console.status("requesting ..."):
        for body in _requests(tasks):
            started = time.perf_counter()
            answer = httpx.post(f"{url}/predict", content=body, headers={"Content-Type": "application/json"},
                                timeout=100, trust_env=False)  # fmt: skip
            asked_s += time.perf_counter() - started
            answer.raise_for_status()
            largest = max(largest, len(body))
    pending = services.pending.counts(PROJECT).pending
    return {
        "enqueue_seconds": asked_s, "enqueue_per_s": pending / asked_s, "request_mb": largest / _MB,
        "backend_mb": before, "backend_peak_mb": _peak_mb(backend),
        "bytes_per_task": (_redis_bytes(services) - empty) / pending,
        "status_seconds": statistics.median(_status_s(services) for _ in range(3)), "unqueued": tasks - pending,
    }  # fmt: skip


def _requests(tasks: int) -> Iterator[bytes]:
    """Bodies of /predict as Label Studio sends them: about 700 bytes per task."""
    data = {"image": "/data/upload/1/0a1b2c3d-some_picture_of_usual_name.jpg", "note": "x" * 300}
    for first in range(1, tasks + 1, _MOST_TASKS):
        rows = [{"id": task, "data": data, "meta": {}, "created_at": "2026-01-01T00:00:00Z", "is_labeled": False,
                 "updated_at": "2026-01-01T00:00:00Z", "overlap": 1, "inner_id": task, "total_annotations": 0,
                 "cancelled_annotations": 0, "total_predictions": 0, "comment_count": 0, "project": PROJECT,
                 "updated_by": [], "file_upload": task, "annotations": [], "predictions": []}
                for task in range(first, min(first + _MOST_TASKS, tasks + 1))]  # fmt: skip
        body = {"tasks": rows, "project": f"{PROJECT}.1", "label_config": CONFIG, "params": {"context": None}}
        yield json.dumps(body).encode()


def _status_s(services: BenchServices) -> float:
    """Seconds that `zeromask status --json` takes as a person calls it, with the start of Python."""
    env = {**inherited_environment(), **services.settings.environment("worker")}
    started = time.perf_counter()
    subprocess.run([*module_command("plugin_config.cli"), "status", "--json"], env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def _wait_drained(services: BenchServices, tasks: int, console: Console) -> None:
    """Wait until no task is pending or leased, or until none was done for _STILL_S seconds."""
    with console.status("draining ...") as status:
        last, moved = -1, time.monotonic()
        while time.monotonic() - moved < _STILL_S:
            counts = services.pending.counts(PROJECT)
            if counts.pending + counts.leased == 0:
                return
            if counts.done != last:
                last, moved = counts.done, time.monotonic()
            status.update(f"draining: {counts.done} of {tasks}")
            time.sleep(0.5)


def _redis_bytes(services: BenchServices) -> float:
    keys: Any = services.redis.keys(EVERY_KEY)
    return float(sum(services.redis.memory_usage(key, samples=0) or 0 for key in keys))


def _peak_mb(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:  # noqa: PTH123
        rows = dict(line.split(":", 1) for line in file)
    return int(rows["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    from worker.__main__ import main

    sys.exit(main(sys.argv[1:], stages=StubbedPixels))
