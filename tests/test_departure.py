"""A worker that is asked to stop: what has not been in the model is back in the queue at once, whatever it is at."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from tests.house import PATIENCE_S, wait_until
from tests.stand_ins import PROJECT, version
from worker.service import departure

ROOT = Path(__file__).resolve().parent.parent

# A whole worker in a process of its own. Images of tasks above 8 never come; a reconcile takes a minute, and so does
# each drawing where that is asked for.
WORKER = """
import sys, threading, time
from dataclasses import replace
from types import SimpleNamespace
import numpy as np
from redis import Redis
from plugin_config.queue.presence import WorkerPresence
from tests.stand_ins import StandInContext
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import Picture
from worker.service import worker
from worker.service.stages import PredictionStages

redis_url, draw_s = sys.argv[1], float(sys.argv[2])

def load(self, url, *, task, **_):
    if task > 8:
        time.sleep(60)
    return Picture(np.full((8, 8, 3), 200, dtype=np.uint8), (8, 8))

def reconcile(*_):
    if context.pending.counts(1).pending:  # the periodic one, before the tasks are leased
        return
    print("reconciles", flush=True)
    time.sleep(60)

ImageLoader.load = load
worker.reconcile = reconcile
redis = Redis.from_url(redis_url)
context = StandInContext(redis, 40)
context.settings = replace(context.settings, interactive=False, lease_s=30.0)
context.presence, context.about = WorkerPresence(redis), dict
context.segmenter.encoder = SimpleNamespace(name="stand-in", device="cpu", short_side=8)
plain = context.segmenter.segment
context.segmenter.segment = lambda *args, **more: time.sleep(draw_s) or plain(*args, **more)
worker.run_worker(context, PredictionStages(context), Redis.from_url(redis_url))
print("ended", flush=True)
"""


@contextmanager
def busy_worker(redis: Redis, redis_url: str, *, draw_s: float) -> Iterator[subprocess.Popen[str]]:
    """A worker whose main thread reconciles, with 16 tasks in its pipeline, of which eight wait for their images."""
    pending = PendingTasks(redis, drain_tasks=8, lease_s=30)
    ProjectLedger(redis).start_rollout(PROJECT, version())
    ProjectLedger(redis).finish_rollout(PROJECT, version())
    pending.add(PROJECT, [TaskRef(version(), task) for task in range(1, 17)])
    pending.confirm_project(PROJECT)
    pending.ensure_drains(PROJECT)
    command = [sys.executable, "-c", WORKER, redis_url, str(draw_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: pending.counts(PROJECT).pending == 0, told="the lease of every task")
            ProjectHints(redis).request_refresh(PROJECT)
            assert process.stdout is not None
            assert process.stdout.readline() == "reconciles\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("draw_s", [pytest.param(0.0, id="idle model"), pytest.param(60.0, id="model at work")])
def test_a_signal_gives_back_at_once_what_has_not_been_in_the_model(
    redis: Redis, redis_url: str, draw_s: float
) -> None:
    pending, presence = PendingTasks(redis, drain_tasks=8, lease_s=30), WorkerPresence(redis)
    with busy_worker(redis, redis_url, draw_s=draw_s) as process:
        if not draw_s:
            wait_until(lambda: pending.counts(PROJECT).done == 8, told="the tasks whose images came")
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: pending.counts(PROJECT).pending >= 8, told="what waited for its image")
        assert time.monotonic() - asked < departure._GRACE_S, "an image that hangs, or a reconcile, holds up nothing"
        assert process.wait(PATIENCE_S) == 0
    counts = pending.counts(PROJECT)
    assert (counts.pending + counts.done, counts.leased, counts.failed) == (16, 0, 0)
    assert presence.count() == 0, "it is seen to be gone"
    assert redis.hlen(f"zeromask:{PROJECT}:deaths") == redis.hlen(f"zeromask:{PROJECT}:tries") == 0


def test_a_second_signal_ends_it_without_finishing_anything(redis: Redis, redis_url: str) -> None:
    pending = PendingTasks(redis, drain_tasks=8, lease_s=30)
    with busy_worker(redis, redis_url, draw_s=60) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)  # one that comes sooner is the same Ctrl-C, told by a shell and by a supervisor
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert time.monotonic() - asked < 6
    counts = pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (16, 0, 0)
