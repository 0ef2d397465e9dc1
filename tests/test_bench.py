"""`zeromask bench`: its ratios, its stand-in for Label Studio, and a small drain through the real queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_config.label_studio import LabelStudio
from worker.benchmarks.counting_server import stamped
from worker.benchmarks.stage import bench_stage, blotches
from worker.benchmarks.throughput import ratios
from worker.images import ImageLimits, decode_image

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ImageLimits(most_bytes=10_000_000, most_pixels=10_000_000, timeout_s=5, allow_private=False)


def test_ratios_leave_the_machine_out() -> None:
    """Two processes on this machine get 1.5 times the work of one done; the workers lose nothing beyond that."""
    found = ratios({"compute_1": 2.0, "compute_2": 3.0, "worker_1": 1.9, "worker_2": 2.85})
    assert found["queue_efficiency"] == pytest.approx(0.95)
    assert found["scaling_2"] == pytest.approx(2.0)
    assert found["worker_2_images_per_s"] == 2.85


def test_workers_that_do_not_share_the_work_are_told() -> None:
    found = ratios({"compute_1": 2.0, "compute_2": 4.0, "worker_1": 1.9, "worker_2": 1.9})
    assert found["scaling_2"] == pytest.approx(1.0)


def test_every_task_has_a_picture_of_its_own() -> None:
    picture = blotches(96, 128)
    one, two = (decode_image(stamped(picture, number), subject="t", limits=LIMITS) for number in (1, 2))
    assert one.shape == two.shape == (96, 128, 3)
    assert (one != two).any()


def test_the_counting_server_is_read_by_our_own_client() -> None:
    with (
        bench_stage(tasks=1200, picture=blotches(32, 32)) as stage,
        LabelStudio(stage.settings.label_studio_url, "x") as api,
    ):
        assert api.project(1).tasks == 1200
        assert [task.id for task in api.tasks(1, [3, 5, 1201])] == [3, 5]
        assert len(list(api.all_tasks(1))) == 1200
        for _ in range(2):
            assert api.create_prediction(3, [{"id": "a"}], score=0.5, version="v").version == "v"
        assert [row.version for row in api.predictions(3)] == ["v"]
        assert api.predictions(4) == []
        (task,) = api.tasks(1, [3])
        assert task.versions == {"v"}
        told = stage.counted()
        assert (told["posts"], told["tasks"], told["duplicated"]) == (2, 1, 1)


def test_a_small_drain_loses_nothing() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}
    command = [sys.executable, "-m", "plugin_config.cli", "bench", "--only", "drain", "--tasks", "500", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["posted"], told["duplicated"], told["failed"], told["lost"]) == (500, 0, 0, 0)
    assert told["bytes_per_task"] <= 300
    assert told["drained_per_s"] > 0
