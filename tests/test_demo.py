"""`make demo CHECK=1` on its own Label Studio, with its worker killed in the middle."""

from __future__ import annotations

import colorsys
import io
import json
import math
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from rich.console import Console

from plugin_config.demo import run
from plugin_config.demo.project import TaskPredictions, labeling_config, problems, reconnect_projects
from plugin_config.demo.run import LABELS, NEW_LABEL, version_of
from plugin_config.demo.setup import clear_previous_run, prepare
from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.supervisor import free_port
from plugin_config.model_version import ModelVersion
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from tests.house import PATIENCE_S, left_running
from worker.lab.drawn_world.painting import PIGMENTS, STUFF_STYLES
from worker.lab.drawn_world.world import parse_label

ROOT = Path(__file__).resolve().parent.parent


def child_running(demo: subprocess.Popen[str], module: str) -> psutil.Process | None:
    """The demo's child that runs `python -m module`."""
    for child in psutil.Process(demo.pid).children():
        with suppress(psutil.NoSuchProcess):  # another one that has just ended
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


def test_colours_of_labels_stand_out_from_the_things_and_from_each_other() -> None:
    labels = [*LABELS, NEW_LABEL]
    shown = [tuple(bytes.fromhex(label.background.removeprefix("#"))) for label in labels]
    for label, colour in zip(labels, shown, strict=True):
        assert math.dist(colour, drawn(label.value)) > 150, f"{label.value} is drawn in its own colour"
    assert min(math.dist(one, other) for one, other in combinations(shown, 2)) > 90


def drawn(words: str) -> tuple[float, ...]:
    """The middle of the colours in which a thing or stuff is drawn, as 0..255."""
    if words in STUFF_STYLES:
        return STUFF_STYLES[words].rgb
    pigment = PIGMENTS[words.split()[0]]
    hue, saturation, value = (sum(span) / 2 for span in (pigment.hue, pigment.saturation, pigment.value))
    return tuple(255 * part for part in colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value))


def test_ports_stay_the_same_from_run_to_run(tmp_path: Path) -> None:
    env = {"ZEROMASK_STATE_DIR": str(tmp_path), "PORT": str(free_port()), "ZEROMASK_PORT": str(free_port())}
    first = prepare(env).settings
    again = prepare({"ZEROMASK_STATE_DIR": str(tmp_path)}).settings
    assert (again.label_studio_url, again.port) == (first.label_studio_url, first.port)
    assert first.port == int(env["ZEROMASK_PORT"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first.port))
        taken.listen()
        other = prepare({"ZEROMASK_STATE_DIR": str(tmp_path)}).settings
    assert other.port != first.port
    assert prepare({"ZEROMASK_STATE_DIR": str(tmp_path)}).settings.port == other.port


def test_other_colours_delete_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    setup = prepare({"ZEROMASK_STATE_DIR": str(tmp_path), "PORT": str(free_port())})
    kept = setup.state / "label-studio" / "database"
    kept.parent.mkdir()
    kept.write_text("projects of a person")
    (setup.state / "content.json").write_text(json.dumps(str(LABELS[0])))
    clear_previous_run(setup, json.dumps(str(replace(LABELS[0], background=""))))
    assert kept.exists()
    clear_previous_run(setup, json.dumps(str(replace(LABELS[1], background=""))))
    assert not kept.exists()


def test_progress_is_told_while_a_step_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TOLD_EVERY_S", 0.05)
    text = io.StringIO()
    setup = replace(prepare({"CHECK": "1", "ZEROMASK_STATE_DIR": str(tmp_path)}), console=Console(file=text, width=100))
    with run._timed(setup, run.CheckReport(), "start", "Starting [all]"):
        deadline = time.monotonic() + PATIENCE_S
        while "so far" not in text.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    first, second, *_ = text.getvalue().splitlines()
    assert first == "Starting [all] ..."
    assert second.startswith("  Starting [all]: ")


class OwnLabelStudio:
    """Projects with models and webhooks, as much as connecting asks for."""

    def __init__(self, models: dict[int, list[str]]) -> None:
        self.models: dict[int, list[dict[str, Any]]] = {
            project: [{"id": 10 * project + k, "url": url, "title": "Mine", "is_interactive": True}
                      for k, url in enumerate(urls)]
            for project, urls in models.items()
        }  # fmt: skip
        self.refused = 0  # a project whose labels the backend refuses
        self.hooks = {project: [f"{url}/webhook" for url in urls] for project, urls in models.items()}

    def request(self, method: str, path: str, **options: Any) -> Any:
        project = int((options.get("params") or options.get("json") or {}).get("project") or 0)
        if method == "POST" and "not stored" in options["json"].values():
            raise LabelStudioError("Label Studio", "{'timeout': ['A valid integer is required.']}", "", status=400)
        if path == "/api/projects/":
            return {"results": [{"id": number, "title": f"project {number}"} for number in self.models]}
        if (method, path, project) == ("POST", "/api/ml/", self.refused):
            raise LabelStudioError("POST /api/ml/", "the config names no label", "Add one.", status=400)
        if (method, path) == ("POST", "/api/ml/"):
            body = options["json"]
            self.models[project].append({"id": 10 * project + 9, **body})
            self.hooks[project].append(f"{body['url']}/webhook")
        if method == "DELETE" and path.startswith("/api/ml/"):
            gone = int(path.rpartition("/")[2])
            self.models = {key: [row for row in rows if row["id"] != gone] for key, rows in self.models.items()}
        if method == "DELETE" and path.startswith("/api/webhooks/"):
            of, gone_hook = divmod(int(path.removeprefix("/api/webhooks/").rstrip("/")), 1000)
            del self.hooks[of][gone_hook]
        if method == "GET" and path == "/api/ml/":
            return list(self.models[project])
        if method == "GET" and path == "/api/webhooks/":
            return [{"id": 1000 * project + k, "url": url, "is_active": True, "headers": {}, "actions": []}
                    for k, url in enumerate(self.hooks[project])]  # fmt: skip
        return None


def test_every_project_whose_backend_has_ended_is_connected_again() -> None:
    ended, ours, theirs = f"http://127.0.0.1:{free_port()}", "http://127.0.0.1:9999", "https://models.example.com"
    settings = Settings(port=9999)
    label_studio = OwnLabelStudio({1: [ended], 2: [ours], 3: [theirs], 4: [], 5: [theirs, ended], 6: [ended]})
    label_studio.refused = 6
    one, five, six = reconnect_projects(cast("LabelStudio", label_studio), settings)
    assert [one, five] == [f'Project "project {number}" is connected again.' for number in (1, 5)]
    assert six.startswith('Project "project 6" is not connected again. ')
    assert "names no label" in six
    urls = {project: [row["url"] for row in rows] for project, rows in label_studio.models.items()}
    assert urls == {1: [ours], 2: [ours], 3: [theirs], 4: [], 5: [theirs, ours], 6: [ended]}
    assert label_studio.hooks[5] == [f"{theirs}/webhook", f"{ours}/webhook"]
    assert label_studio.models[1][0]["title"] == "Mine"


def test_projects_leave_a_port_that_another_program_has_now(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as another:
        taken = another.getsockname()[1]
        (tmp_path / "demo").mkdir()
        ports = {"label_studio": free_port(), "backend": taken}
        (tmp_path / "demo" / "ports.json").write_text(json.dumps(ports))
        setup = prepare({"ZEROMASK_STATE_DIR": str(tmp_path)})
        assert (setup.left_port, setup.settings.port != taken) == (taken, True)
        label_studio = OwnLabelStudio({1: [f"http://127.0.0.1:{taken}"]})
        told = reconnect_projects(cast("LabelStudio", label_studio), setup.settings, left_port=setup.left_port)
        assert list(told) == ['Project "project 1" is connected again.']
    assert [row["url"] for row in label_studio.models[1]] == [setup.settings.backend_url]
    assert prepare({"ZEROMASK_STATE_DIR": str(tmp_path)}).left_port == 0


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
