"""`make demo CHECK=1` on its own Label Studio, with its worker killed in the middle."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from plugin_config.demo.project import TaskPredictions, labeling_config, problems
from plugin_config.demo.run import LABELS, NEW_LABEL, version_of
from plugin_config.demo.setup import prepare
from plugin_config.model_version import ModelVersion
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from tests.house import PATIENCE_S, left_running
from worker.lab.drawn_world.world import parse_label

ROOT = Path(__file__).resolve().parent.parent


def child_running(demo: subprocess.Popen[str], module: str) -> psutil.Process | None:
    """The demo's child that runs `python -m module`."""
    for child in psutil.Process(demo.pid).children():
        if child.cmdline()[-2:] == ["-m", module]:
            return child
    return None


def test_check_passes_although_the_worker_is_killed_on_the_way(tmp_path: Path) -> None:
    env = {**os.environ, "CHECK": "1", "ZEROMASK_STATE_DIR": str(tmp_path)}
    demo = subprocess.Popen([sys.executable, "-m", "plugin_config.demo"], cwd=ROOT, env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    log = tmp_path / "check" / "logs" / "worker.log"
    try:
        deadline = time.monotonic() + 2 * PATIENCE_S
        while not (log.exists() and "regions, version" in log.read_text()):
            assert demo.poll() is None, demo.communicate()[1]
            assert time.monotonic() < deadline, "no task was predicted"
            time.sleep(0.05)
        worker = child_running(demo, "worker")
        assert worker is not None
        family = [demo.pid, *(child.pid for child in psutil.Process(demo.pid).children(recursive=True))]
        worker.kill()
        output, errors = demo.communicate(timeout=2 * PATIENCE_S)
    finally:
        if demo.poll() is None:
            demo.terminate()  # it ends what it started
            demo.communicate(timeout=PATIENCE_S)
    report = json.loads(output.strip().splitlines()[-1])
    assert demo.returncode == 0, (report, errors)
    assert report["ok"] is True
    assert (report["tasks"], report["predicted"], report["duplicated"]) == (16, 16, 0)
    assert report["mean_iou"] >= 0.60
    assert report["new_label"]["name"] == NEW_LABEL.value
    assert report["new_label"]["iou"] >= 0.50
    assert Path(report["overlay"]).stat().st_size > 10_000
    assert log.read_text().count("ready: model") == 2, "the supervisor started another worker"
    assert not left_running(family), "the demo left processes behind"


def test_new_label_was_never_trained_on_and_the_others_were() -> None:
    assert parse_label(NEW_LABEL.value).is_unseen
    assert not any(parse_label(label.value).is_unseen for label in LABELS)


def test_the_demo_shows_things_and_stuff() -> None:
    vocabulary = parse_vocabulary(labeling_config(LABELS))
    assert {label.key for label in vocabulary.labels if label.stuff} == {"grass", "water"}
    assert {parse_label(label.key).shape for label in vocabulary.labels} == {None, "star"}


def test_config_gives_each_label_to_its_control() -> None:
    vocabulary = parse_vocabulary(labeling_config([*LABELS, NEW_LABEL]))
    kinds = {label.key: label.output for label in vocabulary.labels}
    assert kinds == {label.value: label.control.removesuffix("Labels").lower() for label in (*LABELS, NEW_LABEL)}


GOOD = {
    "id": "a", "type": "brushlabels", "value": {"brushlabels": ["red striped shape"], "rle": [1]},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"ZEROMASK_WINDOWS": "9"}, id="windows"),
        pytest.param({"ZEROMASK_LEAST_SCORE": "0.2", "ZEROMASK_REFINER": "none"}, id="several"),
    ],
)
def test_the_version_waited_for_is_the_one_the_workers_stamp(changed: dict[str, str], tmp_path: Path) -> None:
    """The settings that change masks are part of a version, and the demo's workers get those of the environment."""
    setup = prepare({"CHECK": "1", "ZEROMASK_STATE_DIR": str(tmp_path), **changed})
    config = labeling_config(LABELS)
    stamped = ModelVersion.of(Settings.from_env(setup.settings.environment("worker")), parse_vocabulary(config))
    assert version_of(setup.settings, config) == str(stamped)
    assert stamped.model.startswith("builtin")
    assert (stamped.model == "builtin") is (not changed)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([TaskPredictions(1, "a", (GOOD,), 2)], "has 2 predictions", id="doubled"),
        pytest.param([TaskPredictions(1, "a", (), 0)], "has 0 predictions", id="missing"),
        pytest.param([TaskPredictions(1, "a", (GOOD, GOOD), 1)], "region id twice", id="same id"),
        pytest.param(
            [TaskPredictions(1, "a", ({**GOOD, "type": "polygonlabels"},), 1)], "came as polygonlabels", id="type"
        ),
        pytest.param(
            [TaskPredictions(1, "a", ({**GOOD, "value": {"brushlabels": ["red striped shape"], "rle": []}},), 1)],
            "empty region", id="empty",
        ),
    ],
)  # fmt: skip
def test_a_miss_is_named(rows: list[TaskPredictions], message: str) -> None:
    assert any(message in problem for problem in problems(rows, LABELS[:1]))


def test_nothing_is_said_of_good_predictions() -> None:
    assert problems([TaskPredictions(1, "a", (GOOD,), 1)], LABELS[:1]) == []


def test_a_taken_port_names_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = {**os.environ, "CHECK": "", "PORT": str(port), "ZEROMASK_STATE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-m", "plugin_config.demo"], cwd=ROOT, env=env, text=True,
                              capture_output=True, timeout=PATIENCE_S, check=False)  # fmt: skip
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "PORT=" in done.stderr
    assert "Traceback" not in done.stderr
