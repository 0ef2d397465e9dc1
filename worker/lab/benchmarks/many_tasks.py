"""A million tasks of ten projects through the real queue: requested of a real backend, drained without a model.

What is measured is the queue alone: the backend, Redis, RQ, leases. `queue_only` is the worker.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
from rich.console import Console

from plugin_config.local.supervisor import answers_http, inherited_environment, module_command
from plugin_config.overview.control import QueueControl
from plugin_config.queue.keys import EVERY_KEY
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import BenchServices, bench_services, blotches, wait_drained

PROJECTS = 10
_WORKERS = 4
_DRAIN_TASKS = 64  # ZEROMASK_DRAIN_TASKS: with its default of 8 the jobs of RQ cost more than the tasks
_QUEUE_ONLY = "worker.lab.benchmarks.queue_only"
_MB = 1024 * 1024
_MOST_TASKS = 100_000  # of one request: its body then fits ZEROMASK_MAX_BODY_MB
_LATE_TASKS = 100  # of the project that comes late; more than an annotator opens
_RUNS = 5


@dataclass(frozen=True)
class Fairness:
    """How evenly projects were served while all of them had tasks pending.

    Attributes:
        jain: the index of Jain, Chiu & Hawe (DEC-TR-301, 1984) of the tasks done, when the first project is through:
            1 = all have as many, 1 / number of projects = one has all.
        most_ahead: the most tasks that one project was ever ahead of another.
    """

    jain: float
    most_ahead: int


def enqueue_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Request `tasks` tasks, evenly of ten projects, at most 100,000 in one /predict, without a worker.

    Returns:
        enqueue_seconds: of all requests, one after the other; enqueue_per_s: tasks over that.
        request_mb: size of the largest request; backend_mb, backend_peak_mb: resident memory of the backend before it
            and at most.
        bytes_per_task: memory of a pending task in Redis, all keys counted.
        redis_empty_mb, redis_mb: resident memory of the Redis server before, and with all tasks pending.
        status_seconds: the least time of five runs of `zeromask status --json` while all tasks are pending, with the
            start of Python; status_cpu_seconds: the processor time of such a run; status_read_seconds: the median time
            of the part that depends on what is in Redis, reading it. page_seconds: the least time of five requests for
            the status page, each read anew.
        unqueued: tasks that were requested and are not pending.
    """
    with _services(tasks) as services:
        return _enqueue(services, _shares(tasks), console)


def drain_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Request `tasks` tasks, and drain them by four workers that do to the queue what a worker does and no more.

    Returns:
        What `enqueue_figures` returns, and
        drain_seconds, drained_per_s: seconds until the queue was empty, and tasks over that.
        drain_cpu_seconds, redis_cpu_seconds: processor time of the workers and of the Redis server meanwhile.
        redis_drained_mb: resident memory of the Redis server at the end.
        posted, duplicated, failed, lost: numbers of predictions that there would be, and of tasks.
        fairness, most_ahead_tasks: see `Fairness`. late_seconds: until 100 tasks of one more project were done, which
            were requested right after the drain began. longest_lease_seconds: the longest time from a lease to its
            task's end.
    """
    with _services(tasks) as services:
        shares = _shares(tasks)
        figures = _enqueue(services, shares, console)
        return {**figures, **_drain(services, shares, console)}


def _services(tasks: int) -> AbstractContextManager[BenchServices]:
    return bench_services(tasks=tasks, picture=blotches(8, 8), model="builtin", drain_tasks=_DRAIN_TASKS)


def _shares(tasks: int) -> Mapping[int, int]:
    """Project -> how many of the tasks it has."""
    most = min(PROJECTS, tasks)
    return {project: tasks // most + (project <= tasks % most) for project in range(1, most + 1)}


def _enqueue(services: BenchServices, shares: Mapping[int, int], console: Console) -> Mapping[str, float]:
    services.start("backend", "backend", ready=lambda: answers_http(f"{_backend_url(services)}/health"))
    backend, redis = _process(services, "backend"), _process(services, "redis")
    before, empty_mb = backend.memory_info().rss / _MB, redis.memory_info().rss / _MB
    for project in shares:  # as a worker does that has found it in Label Studio
        services.pending.confirm_project(project)
    empty = _redis_bytes(services)
    asked_s, largest = 0.0, 0
    with console.status("requesting ..."):
        for body in _requests(shares):
            asked_s += _timed(lambda body=body: _ask(services, body))  # type: ignore[misc]
            largest = max(largest, len(body))
    tasks, pending = sum(shares.values()), _total(services, shares, "pending")
    return {
        "enqueue_seconds": asked_s, "enqueue_per_s": pending / asked_s, "request_mb": largest / _MB,
        "backend_mb": before, "backend_peak_mb": _peak_mb(backend),
        "bytes_per_task": (_redis_bytes(services) - empty) / pending,
        "redis_empty_mb": empty_mb, "redis_mb": redis.memory_info().rss / _MB,
        **_status_figures(services), "unqueued": tasks - pending,
    }  # fmt: skip


def _drain(services: BenchServices, shares: Mapping[int, int], console: Console) -> Mapping[str, float]:
    control, late, tasks = QueueControl(services.redis, services.settings), max(shares) + 1, sum(shares.values())
    for project in shares:  # until the worker is up: its start is not the queue's cost
        control.pause(project)
    services.pending.confirm_project(late)
    folder = services.settings.state_path / "summaries"
    folder.mkdir()
    services.start_workers(_WORKERS, _QUEUE_ONLY, "--summaries", str(folder))
    names = [f"worker-{number}" for number in range(1, _WORKERS + 1)]
    workers, redis = [_process(services, name) for name in names], _process(services, "redis")
    before, started = (_cpu_s(*workers), _cpu_s(redis)), time.perf_counter()
    for project in shares:
        control.resume(project)
    for body in _requests({late: _LATE_TASKS}):
        _ask(services, body)
    asked = time.perf_counter()
    wait_drained(services, [late], _LATE_TASKS, console, every_s=0.05)
    late_s = time.perf_counter() - asked
    wait_drained(services, list(shares), tasks, console)
    drained_s = time.perf_counter() - started
    workers_s, redis_s = _cpu_s(*workers) - before[0], _cpu_s(redis) - before[1]
    services.supervisor.end(*names)
    did, everyone = [json.loads(path.read_text()) for path in folder.iterdir()], [*shares, late]
    posted = sum(row["posted"] for row in did)
    done, failed = (_total(services, everyone, state) for state in ("done", "failed"))
    fair = fairness([batch[1:] for batch in sorted(batch for row in did for batch in row["batches"])], shares)
    return {
        "drain_seconds": drained_s, "drained_per_s": posted / drained_s,
        "drain_cpu_seconds": workers_s, "redis_cpu_seconds": redis_s,
        "redis_drained_mb": redis.memory_info().rss / _MB,
        "posted": posted, "duplicated": posted - done, "failed": failed, "lost": tasks + _LATE_TASKS - done - failed,
        "fairness": fair.jain, "most_ahead_tasks": fair.most_ahead,
        "late_seconds": late_s, "longest_lease_seconds": max(row["longest_s"] for row in did),
    }  # fmt: skip


def fairness(batches: Sequence[tuple[int, int]], shares: Mapping[int, int]) -> Fairness:
    """How evenly projects were served.

    Args:
        batches: (project, tasks) of each, in the order of their ends.
        shares: project -> how many tasks it had; batches of other projects do not count.
    """
    done, ahead = dict.fromkeys(shares, 0), 0
    for project, count in batches:
        if project in done:
            done[project] += count
            ahead = max(ahead, max(done.values()) - min(done.values()))
            if done[project] >= shares[project]:
                break
    squares = sum(count**2 for count in done.values())
    return Fairness(sum(done.values()) ** 2 / (len(done) * squares) if squares else 1.0, ahead)


def _requests(shares: Mapping[int, int]) -> Iterator[bytes]:
    """Bodies of /predict as Label Studio sends them: about 700 bytes per task."""
    data = {"image": "/data/upload/1/0a1b2c3d-some_picture_of_usual_name.jpg", "note": "x" * 300}
    for project, tasks in shares.items():
        for first in range(1, tasks + 1, _MOST_TASKS):
            rows = [{"id": task, "data": data, "meta": {}, "created_at": "2026-01-01T00:00:00Z", "is_labeled": False,
                     "updated_at": "2026-01-01T00:00:00Z", "overlap": 1, "inner_id": task, "total_annotations": 0,
                     "cancelled_annotations": 0, "total_predictions": 0, "comment_count": 0, "project": project,
                     "updated_by": [], "file_upload": task, "annotations": [], "predictions": []}
                    for task in range(first, min(first + _MOST_TASKS, tasks + 1))]  # fmt: skip
            body = {"tasks": rows, "project": f"{project}.1", "label_config": CONFIG, "params": {"context": None}}
            yield json.dumps(body).encode()


def _ask(services: BenchServices, body: bytes) -> None:
    answer = httpx.post(f"{_backend_url(services)}/predict", content=body, timeout=100, trust_env=False,
                        headers={"Content-Type": "application/json"})  # fmt: skip
    answer.raise_for_status()


def _status_figures(services: BenchServices) -> dict[str, float]:
    control = QueueControl(services.redis, services.settings)
    runs = [_status_run(services) for _ in range(_RUNS)]
    pages = []
    for _ in range(_RUNS):
        time.sleep(1.05)  # the backend keeps what it read for a second
        pages.append(_timed(lambda: httpx.get(f"{_backend_url(services)}/status", timeout=30, trust_env=False)))
    return {
        "status_seconds": min(seconds for seconds, _ in runs),
        "status_cpu_seconds": min(cpu_s for _, cpu_s in runs),
        "status_read_seconds": statistics.median(_timed(control.state) for _ in range(_RUNS)),
        "page_seconds": min(pages),
    }


def _status_run(services: BenchServices) -> tuple[float, float]:
    """Seconds that `zeromask status --json` takes as a person calls it, and its processor time."""
    env = {**inherited_environment(), **services.settings.environment("worker")}
    command = [*module_command("plugin_config.cli"), "status", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = _timed(lambda: subprocess.run(command, env=env, check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _total(services: BenchServices, projects: Sequence[int] | Mapping[int, int], state: str) -> int:
    return sum(int(getattr(services.pending.counts(project), state)) for project in projects)


def _backend_url(services: BenchServices) -> str:
    return f"http://127.0.0.1:{services.settings.port}"


def _process(services: BenchServices, name: str) -> psutil.Process:
    return psutil.Process(services.supervisor.pid(name))


def _cpu_s(*processes: psutil.Process) -> float:
    times = [process.cpu_times() for process in processes]
    return float(sum(row.user + row.system for row in times))


def _redis_bytes(services: BenchServices) -> float:
    keys: Any = services.redis.keys(EVERY_KEY)
    return float(sum(services.redis.memory_usage(key, samples=0) or 0 for key in keys))


def _peak_mb(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status", encoding="ascii") as file:  # noqa: PTH123
        rows = dict(line.split(":", 1) for line in file)
    return int(rows["VmHWM"].split()[0]) / 1024
