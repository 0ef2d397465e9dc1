"""What `plugin_config.capacity` predicts, beside what real workers of the builtin model then take."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil
from PIL import Image
from rich.console import Console

from plugin_config.capacity import StageSeconds, seconds_for
from plugin_config.model_version import ModelVersion
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.totals import STAGE_NAMES, Totals
from plugin_config.vocabulary import parse_vocabulary
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.emulated import draw
from worker.lab.benchmarks.services import PROJECT, BenchServices, bench_services, wait_drained

_HEIGHT, _WIDTH = 240, 320
_WARM_TASKS = 24  # of each worker: its batches grow to their size meanwhile
_MOST_TASKS = 100_000


@dataclass(frozen=True)
class Run:
    """Tasks that were worked off.

    Attributes:
        seconds: from the request to the last stored prediction.
        stages: means of their times at each stage.
        cpu_s: processor time of a task, of all processes of the benchmark.
        others: cores that other programs used meanwhile.
    """

    seconds: float
    stages: StageSeconds
    cpu_s: float
    others: float


def capacity_figures(tasks: int, console: Console) -> Mapping[str, float]:
    """Measure the stages of one worker, predict what one and two workers take, and let them do it.

    Args:
        tasks: of each run; their images are scenes of the drawn world, 320 x 240 px, which differ in their last pixels.
        console: where progress is shown.

    Returns:
        fetch_seconds, embed_seconds, segment_seconds, post_seconds: stages of one worker, in a run of its own.
        cpu_seconds: processor time of a task in that run, Redis and the counting server with it.
        predicted_1_seconds, measured_1_seconds: another run of that worker; predicted_2_seconds, measured_2_seconds:
            of two workers, which share the cores. off_1, off_2: predicted over measured, minus 1.
        images_per_s: of one worker, in the second run. cores: of the machine; others_cores: how many of them other
            programs used in the first run, which are not counted on for the predictions; others_cores_2: in the last.
    """
    with (
        bench_services(tasks=_MOST_TASKS, picture=_scene(), model="builtin") as services,
        console.status("one worker ...") as status,
    ):
        numbers = itertools.count(1)
        _start_worker(services, 1)
        _work(services, numbers, _WARM_TASKS, console)
        first = _work(services, numbers, tasks, console)
        alone = _work(services, numbers, tasks, console)
        status.update("two workers ...")
        _start_worker(services, 2)
        _work(services, numbers, 2 * _WARM_TASKS, console)
        both = _work(services, numbers, tasks, console)
    cores = os.cpu_count() or 1
    shared_s = first.cpu_s / max(cores - first.others, 0.1)
    predicted = [seconds_for(tasks, count, first.stages, shared_s=shared_s) for count in (1, 2)]
    return {
        **{f"{name}_seconds": getattr(first.stages, name) for name in STAGE_NAMES}, "cpu_seconds": first.cpu_s,
        "predicted_1_seconds": predicted[0], "measured_1_seconds": alone.seconds,
        "predicted_2_seconds": predicted[1], "measured_2_seconds": both.seconds,
        "off_1": predicted[0] / alone.seconds - 1, "off_2": predicted[1] / both.seconds - 1,
        "images_per_s": tasks / alone.seconds, "cores": cores,
        "others_cores": first.others, "others_cores_2": both.others,
    }  # fmt: skip


def _start_worker(services: BenchServices, number: int) -> None:
    presence = WorkerPresence(services.redis)
    services.start(f"worker-{number}", "worker", ready=lambda: presence.count() >= number)


def _work(services: BenchServices, numbers: Iterator[int], tasks: int, console: Console) -> Run:
    """Request tasks that were never requested before, and wait until they are done."""
    totals, version = Totals(services.redis), str(ModelVersion.of(services.settings, parse_vocabulary(CONFIG)))
    refs = [TaskRef(version, number) for number in itertools.islice(numbers, tasks)]
    processes = psutil.Process().children(recursive=True)
    before, cpu_before, all_before = totals.stages(), _cpu_s(processes), _machine_cpu_s()
    started = time.perf_counter()
    services.pending.add(PROJECT, refs)
    services.pending.ensure_drains(PROJECT)
    wait_drained(services, [PROJECT], tasks, console, every_s=0.05)
    seconds, cpu_s, all_s = time.perf_counter() - started, _cpu_s(processes) - cpu_before, _machine_cpu_s() - all_before
    after = totals.stages()
    spent = {name: after[name].seconds - before[name].seconds for name in STAGE_NAMES}
    done = {name: max(1, after[name].tasks - before[name].tasks) for name in STAGE_NAMES}
    return Run(seconds, StageSeconds(**{name: spent[name] / done[name] for name in STAGE_NAMES}), cpu_s / tasks,
               max(0.0, all_s - cpu_s) / seconds)  # fmt: skip


def _cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return float(sum(row.user + row.system for row in times))


def _machine_cpu_s() -> float:
    """Processor time that anything took on this machine, other virtual machines of its host included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _scene() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw(_HEIGHT, _WIDTH).image).save(buffer, "BMP")
    return buffer.getvalue()
