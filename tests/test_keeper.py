"""The watchdog: a worker whose model never comes back ends itself, and its tasks go to another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from redis import Redis

from plugin_config.jobs import TaskRef
from plugin_config.pending import PendingTasks
from tests.house import PATIENCE_S
from tests.queue_states import time_passes
from tests.stand_ins import PROJECT, version

ROOT = Path(__file__).resolve().parent.parent

# A process of its own, because the watchdog ends it. The model is stuck in its first forward, or lives but is slow.
WORKER = """
import sys, threading, time
import numpy as np
from redis import Redis
from plugin_config.presence import WorkerPresence
from tests.stand_ins import StandInResident
from worker import keeper
from worker.images import Picture
from worker.intake import Intake

redis_url, patience_s, forward_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
Intake.read = lambda *_, **__: Picture(np.full((8, 8, 3), 200, dtype=np.uint8), (8, 8))
keeper._STUCK_S = patience_s
resident = StandInResident(Redis.from_url(redis_url))
resident.presence, resident.about = WorkerPresence(Redis.from_url(redis_url)), dict
plain = resident.segmenter.embed
resident.segmenter.embed = lambda images, **part: time.sleep(forward_s) or plain(images)
keeper._LONGEST_BEAT_S = 0.1
keeper.Keeper(resident, resident.pipeline).start()
resident.begin()
sys.exit(0 if resident.pipeline.wait_empty(30) else 3)
"""


def run_worker(redis_url: str, *, patience_s: float, forward_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WORKER, redis_url, str(patience_s), str(forward_s)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_model_that_never_comes_back_ends_its_worker_and_not_its_tasks(
    redis: Redis, redis_url: str, pending: PendingTasks
) -> None:
    refs = [TaskRef(version(), task) for task in (1, 2)]
    pending.add(PROJECT, refs)
    ended = run_worker(redis_url, patience_s=0.5, forward_s=600)
    assert ended.returncode == 70, ended.stderr
    assert "so that the tasks go to another worker" in ended.stderr
    assert pending.take(PROJECT, "another", limit=2) == []
    time_passes(redis, 31)
    assert sorted(pending.sweep()) == refs


def test_a_slow_model_is_left_alone(redis: Redis, redis_url: str, pending: PendingTasks) -> None:
    pending.add(PROJECT, [TaskRef(version(), 1)])
    ended = run_worker(redis_url, patience_s=10, forward_s=1)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert pending.open_refs(PROJECT) == []
