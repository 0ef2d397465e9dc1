"""Thousands of webhooks at once, about ten projects: what they cost the backend, Redis and the workers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from rich.console import Console

from plugin_config.local.supervisor import answers_http
from plugin_config.queue.jobs import refresh_queue
from worker.lab.benchmarks.services import BenchServices, bench_services, blotches

_PROJECTS = 10
_SENDERS = 8
_STILL_S, _LONGEST_S = 2.0, 300.0


def burst_figures(webhooks: int, console: Console) -> Mapping[str, float]:
    """Send webhooks about ten projects in turn, eight at a time, once while no worker runs, and once beside one.

    Args:
        webhooks: how many in each burst; every other one says that labels or settings changed, the others that a task
            was deleted.
        console: where progress is shown.

    Returns:
        webhooks: how many; webhooks_per_s: answered by the backend. webhooks_refused: answered with an error.
        looks_queued: jobs that wait for a worker after the first burst. looks_beside: how often a worker that ran
            meanwhile read a project from Label Studio during and after the second burst; burst_seconds: how long that
            burst took.
    """
    with bench_services(tasks=1, picture=blotches(8, 8), model="builtin") as services, console.status("") as status:
        url = f"http://127.0.0.1:{services.settings.port}"
        services.start("backend", "backend", ready=lambda: answers_http(f"{url}/health"))
        for project in range(1, _PROJECTS + 1):
            services.pending.confirm_project(project)
        status.update(f"{webhooks} webhooks without a worker ...")
        first_s, first_refused = _send(f"{url}/webhook", webhooks)
        queued = refresh_queue(services.redis).count
        services.start_workers(1, "worker")
        before = _settled_looks(services)
        status.update(f"{webhooks} webhooks beside a worker ...")
        second_s, second_refused = _send(f"{url}/webhook", webhooks)
        beside = _settled_looks(services) - before
    return {
        "webhooks": webhooks, "webhooks_per_s": webhooks / first_s, "webhooks_refused": first_refused + second_refused,
        "looks_queued": queued, "looks_beside": beside, "burst_seconds": second_s,
    }  # fmt: skip


def _send(url: str, webhooks: int) -> tuple[float, int]:
    """Send them all; returns seconds, and how many were answered with an error."""
    numbers = itertools.count()  # whose `next` is safe between threads

    def send(_: int) -> int:
        refused = 0
        with httpx.Client(timeout=60, trust_env=False) as client:
            while (number := next(numbers)) < webhooks:
                refused += client.post(url, json=_webhook(number)).status_code >= 400
        return refused

    started = time.perf_counter()
    with ThreadPoolExecutor(_SENDERS) as senders:
        refused = sum(senders.map(send, range(_SENDERS)))
    return time.perf_counter() - started, refused


def _webhook(number: int) -> dict[str, Any]:
    project = {"id": 1 + number // 2 % _PROJECTS}
    if number % 2:
        return {"action": "TASKS_DELETED", "project": project, "tasks": [{"id": 1 + number}]}
    return {"action": "PROJECT_UPDATED", "project": project}


def _looks(services: BenchServices) -> int:
    return int(services.counted()["looks"])


def _settled_looks(services: BenchServices) -> int:
    """How often projects were read from Label Studio, once none waits and none was read for two seconds."""
    queue, seen, since = refresh_queue(services.redis), -1, time.monotonic()
    started = since
    while time.monotonic() - since < _STILL_S and time.monotonic() - started < _LONGEST_S:
        if queue.count or _looks(services) != seen:
            seen, since = _looks(services), time.monotonic()
        time.sleep(0.1)
    return seen
