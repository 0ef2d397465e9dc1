"""Clicks through the real backend and a real worker: how long an annotator waits, idle and under a full queue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from plugin_config.errors import EnvironmentBroken
from plugin_config.local.supervisor import answers_http
from plugin_config.queue.presence import WorkerPresence
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import PROJECT, BenchServices, bench_services, blotches

_IMAGES = 5  # that are clicked on, in turns
_READY_S = 60.0


def click_figures(
    tasks: int, clicks: int, console: Console, *, size: tuple[int, int] = (480, 640)
) -> Mapping[str, float]:
    """Click on a few images, first with nothing else to do, then while a worker predicts many others.

    Args:
        tasks: pending in the queue during the second part.
        clicks: in each part, after the first on each image.
        console: where progress is shown.
        size: (H, W) of the images, pixels.

    Returns:
        click_first_ms: median of the first click on an image, which is fetched and embedded for it;
        click_idle_p50_ms, click_idle_p95_ms, click_busy_p50_ms, click_busy_p95_ms: of the clicks that follow;
        click_busy_p95_over_idle: one over the other; click_pending: tasks that still waited at the end.
    """
    with bench_services(tasks=tasks, picture=blotches(*size), model="builtin", image_cache_mb=0) as services:
        url = f"http://127.0.0.1:{services.settings.port}"
        services.start("backend", "backend", ready=lambda: answers_http(f"{url}/health"))
        services.start_workers(1, "worker")
        presence = WorkerPresence(services.redis, clickers=True)
        services.wait(lambda: presence.count() > 0, within_s=_READY_S, what="a worker that answers clicks")
        with httpx.Client(base_url=url, timeout=100, trust_env=False) as client:
            rng = np.random.default_rng(0)
            images = range(tasks - _IMAGES + 1, tasks + 1)
            first = [_click(client, task, rng) for task in images]
            with console.status("clicks, idle ..."):
                idle = [_click(client, images[number % _IMAGES], rng) for number in range(clicks)]
            _fill_queue(client, services, tasks - _IMAGES)
            with console.status(f"clicks, {tasks} tasks pending ..."):
                busy = [_click(client, images[number % _IMAGES], rng) for number in range(clicks)]
            pending = services.pending.counts(PROJECT).pending
    if not pending:
        problem = "ran empty before the clicks were answered: the figures say nothing"
        raise EnvironmentBroken("benchmark", f"the queue {problem}", "Measure with more --tasks.")
    idle_p95, busy_p95 = (1000 * float(np.quantile(times, 0.95)) for times in (idle, busy))
    return {
        "click_first_ms": 1000 * float(np.median(first)), "click_idle_p50_ms": 1000 * float(np.median(idle)),
        "click_idle_p95_ms": idle_p95, "click_busy_p50_ms": 1000 * float(np.median(busy)),
        "click_busy_p95_ms": busy_p95, "click_busy_p95_over_idle": busy_p95 / idle_p95, "click_pending": pending,
    }  # fmt: skip


def _click(client: httpx.Client, task: int, rng: np.random.Generator) -> float:
    """Click somewhere on the image of a task. Returns seconds until the mask was there.

    Raises:
        EnvironmentBroken: the click got no answer.
    """
    x, y = rng.uniform(5, 95, 2)
    value = {"x": x, "y": y, "width": 1, "keypointlabels": ["red shape"], "labels": ["red shape"]}
    region = {"id": "click", "type": "keypointlabels", "from_name": "point", "to_name": "image", "is_positive": True,
              "value": value}  # fmt: skip
    started = time.perf_counter()
    answer = client.post("/predict", json=_body([task], {"result": [region]}))
    seconds = time.perf_counter() - started
    found = answer.json()["results"][0]
    if not found["result"] and not found.get("reason", "").startswith("nothing"):
        raise EnvironmentBroken("benchmark", f"a click got no mask ({found.get('reason')})", "See the worker's log.")
    return seconds


def _fill_queue(client: httpx.Client, services: BenchServices, tasks: int) -> None:
    """Request many tasks, and wait until the worker is in the midst of them."""
    client.post("/setup", json={"project": PROJECT, "schema": CONFIG})
    client.post("/predict", json=_body(range(1, tasks + 1), None)).raise_for_status()
    services.wait(lambda: services.counted()["posts"] > 0, within_s=_READY_S, what="the first prediction")


def _body(tasks: Any, context: Any) -> dict[str, Any]:
    rows = [{"id": task, "data": {"image": f"/data/upload/1/{task}"}, "drafts": [], "predictions": []}
            for task in tasks]  # fmt: skip
    return {"tasks": rows, "project": f"{PROJECT}.1", "label_config": CONFIG, "params": {"context": context}}
