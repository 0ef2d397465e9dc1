"""Cost of the queue: throughput of a worker over that of bare computation, and how throughput scales to two workers.

Both are ratios of measurements taken in turn within one run.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from plugin_config.errors import EnvironmentBroken
from plugin_config.local.supervisor import module_command
from plugin_config.model_version import ModelVersion
from plugin_config.queue.jobs import TaskRef
from plugin_config.vocabulary import parse_vocabulary
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.emulated import random_weights
from worker.lab.benchmarks.services import PROJECT, BenchServices, bench_services, blotches

_SIDE = 336
_TASKS = 1_000_000
_AT_ONCE = 400
_LEAST_POSTS = 5


def queue_figures(seconds: float, repeats: int, console: Console) -> Mapping[str, float]:
    """Measure one and two workers and one and two processes of bare computation in turn.

    Args:
        seconds: of each measurement.
        repeats: measurements of each.
        console: where progress is shown.

    Returns:
        queue_efficiency: images per second of a worker over those of bare computation; ViT-B-16 with random weights,
            336 pixels, one thread, posts to a counting server.
        scaling_2: 2 x (two workers over one) / (two processes of bare computation over one): losses of the machine
            itself cancel out.
        *_images_per_s: the medians behind them.
    """
    with tempfile.TemporaryDirectory(prefix="zm-w-") as folder, console.status("model ...") as status:
        model, picture = random_weights(Path(folder)), blotches(_SIDE, _SIDE)
        path = Path(folder) / "picture.bmp"
        path.write_bytes(picture)
        runs: dict[str, list[float]] = {"compute_1": [], "worker_1": [], "compute_2": [], "worker_2": []}
        with bench_services(tasks=_TASKS, picture=picture, model=model, short_side=_SIDE) as services:
            numbers = itertools.count(1)
            for turn, count in itertools.product(range(repeats), (1, 2)):
                status.update(f"turn {turn + 1} of {repeats}: {count} process(es)")
                runs[f"compute_{count}"].append(_bare(count, model, path, seconds))
                runs[f"worker_{count}"].append(_workers(services, count, seconds, numbers))
    return ratios({name: statistics.median(rates) for name, rates in runs.items()})


def ratios(medians: Mapping[str, float]) -> dict[str, float]:
    """Compute the figures from images per second of one and two workers and processes of bare computation."""
    workers = medians["worker_2"] / medians["worker_1"]
    bare = medians["compute_2"] / medians["compute_1"]
    found = {"queue_efficiency": medians["worker_1"] / medians["compute_1"], "scaling_2": 2 * workers / bare}
    return {**found, **{f"{name}_images_per_s": rate for name, rate in medians.items()}}


def _bare(count: int, model: str, picture: Path, seconds: float) -> float:
    """Images per second of `count` processes of bare computation together."""
    argv = [*module_command("worker.lab.benchmarks.compute"), "--model", model, "--short-side", str(_SIDE), "--picture",
            str(picture)]  # fmt: skip
    processes = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True) for _ in range(count)]  # fmt: skip
    try:
        for process in processes:
            _read_line(process)
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
        return sum(float(_read_line(process)) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _workers(services: BenchServices, count: int, seconds: float, numbers: Iterator[int]) -> float:
    """Images per second of `count` workers together, from the first posts on."""
    version = str(ModelVersion.of(services.settings, parse_vocabulary(CONFIG)))
    with _running(services, count):
        before = int(services.counted()["posts"])
        services.pending.add(PROJECT, [TaskRef(version, next(numbers)) for _ in range(_AT_ONCE)])
        services.pending.ensure_drains(PROJECT)
        enough = before + 4 * count
        services.wait(lambda: int(services.counted()["posts"]) >= enough, within_s=120, what="the first posts")
        started = float(services.counted()["now"])
        time.sleep(seconds)
        counts = services.counted()
        moments = [moment for moment in counts["moments"] if moment >= started]
        services.pending.cancel(PROJECT, services.pending.open_refs(PROJECT))  # the next measurement starts with none
    if len(moments) < _LEAST_POSTS:
        problem = f"only {len(moments)} posts came within {seconds:.0f} s"
        raise EnvironmentBroken("benchmark", problem, "Raise --seconds, or run it when the machine is less busy.")
    return (len(moments) - 1) / float(moments[-1] - moments[0])


@contextmanager
def _running(services: BenchServices, count: int) -> Iterator[None]:
    services.start_workers(count, "worker")
    try:
        yield
    finally:
        services.supervisor.end(*(f"worker-{number}" for number in range(1, count + 1)))


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""
