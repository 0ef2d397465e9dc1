"""`make demo`: a real Label Studio with masks in it, from one command.

Only runs processes and talks to Label Studio: pictures, truth and scores come from worker commands run as processes.
`CHECK=1` does the same without waiting for anybody, verifies every step and prints one JSON line last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from plugin_config.demo_project import DemoLabel, DemoProject, Predicted, problems
from plugin_config.environments import label_studio_environment
from plugin_config.errors import EnvironmentBroken, ZeromaskError
from plugin_config.label_studio import LabelStudio
from plugin_config.pending import PendingTasks
from plugin_config.processes import Command, Supervisor, free_port, port_is_free, stop_on_signals
from plugin_config.settings import Settings
from plugin_config.up import Halves, start_halves
from plugin_config.vocabulary import parse_vocabulary, version_name

log = logging.getLogger(__name__)

LABELS = (
    DemoLabel("red striped shape", "BrushLabels", "#d64545"),
    DemoLabel("blue plain shape", "BrushLabels", "#3a6fd8"),
    DemoLabel("green dotted shape", "PolygonLabels", "#2f9e5b"),
    DemoLabel("yellow checkered shape", "RectangleLabels", "#d9b310"),
)
# Neither its pixels nor its words were in the training of the builtin model: only its parts were.
NEW_LABEL = DemoLabel("purple striped shape", "BrushLabels", "#8e44ad")

USER, PASSWORD = "demo@example.com", "zeromask-demo"
_PICTURES, _SIZE, _SEED = 16, (480, 360), 11
_PORT = 8080
_LEAST_MEAN_IOU, _LEAST_NEW_IOU = 0.50, 0.40


@dataclass
class Report:
    """The JSON line of CHECK=1, filled in as the demo goes."""

    ok: bool = False
    tasks: int = 0
    predicted: int = 0
    duplicated: int = 0
    mean_iou: float = 0.0
    new_label: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    overlay: str = ""


@dataclass(frozen=True)
class Stage:
    """Where this run of the demo lives: its settings, its Label Studio, its pictures."""

    settings: Settings
    label_studio_url: str
    token: str
    check: bool
    console: Console

    @property
    def state(self) -> Path:
        """Folder of everything the demo writes."""
        return self.settings.state_path

    @property
    def pictures(self) -> Path:
        """Folder of the drawn pictures and their truth."""
        return self.state / "pictures"


def main() -> int:
    """Run the demo. Returns 0; 1 when CHECK=1 found a miss; 2 when something could not start."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    report = Report()
    try:
        stage = prepare(os.environ)
        with stop_on_signals(), Supervisor(stage.state) as supervisor:
            play(stage, supervisor, report)
            if not stage.check:
                stage.console.print(_invitation(stage), markup=False)
                threading.Event().wait()
    except ZeromaskError as error:
        sys.stderr.write(f"\nzeromask demo: {error}\n")
        report.problems.append(str(error))
        if not _checking(os.environ):
            return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; nothing runs any more. `make demo` goes on from here.\n")
        return 0 if not _checking(os.environ) else 130
    report.ok = not report.problems
    sys.stdout.write(json.dumps(report.__dict__) + "\n")
    return 0 if report.ok else 1


def prepare(environ: Mapping[str, str]) -> Stage:
    """Choose folder, ports and tokens.

    Raises:
        EnvironmentBroken: Label Studio's port is taken.
    """
    check = _checking(environ)
    settings = Settings.from_env(environ)
    state = settings.state_path / ("check" if check else "demo")
    if check:  # a check tells what a fresh start does
        shutil.rmtree(state, ignore_errors=True)
    asked = environ.get("PORT", "").strip()
    port = int(asked) if asked.isdecimal() else (free_port() if check else _PORT)
    if not port_is_free(port):
        remedy = f"Stop the other program (an earlier demo?), or choose another port: make demo PORT={port + 10}"
        raise EnvironmentBroken(f"port {port}", "is taken", remedy)
    url = f"http://localhost:{port}"
    token = _kept_secret(state / "token")
    mine = replace(
        settings, model="builtin", state_dir=str(state), redis_url="", host="127.0.0.1", port=free_port(),
        label_studio_url=url, label_studio_api_key=token, short_side=0,
    )  # fmt: skip
    return Stage(mine, url, token, check, Console(stderr=True))


def play(stage: Stage, supervisor: Supervisor, report: Report) -> None:
    """The main job, step by step; `report` is filled in on the way."""
    with _timed(stage, report, "pictures", "Drawing pictures"):
        draw_pictures(stage)
    with _timed(stage, report, "start", "Starting Redis, backend, worker and Label Studio"):
        halves = start_everything(stage, supervisor)
    with LabelStudio(stage.label_studio_url, stage.token) as label_studio:
        project = DemoProject(label_studio)
        with _timed(stage, report, "project", "Creating the project and connecting the backend"):
            project.ensure(LABELS, sorted((stage.pictures / "images").glob("*.png")))
            project.connect(halves.backend_url)
        if not _has_new_label(project):
            with _timed(stage, report, "predict", None):
                project.retrieve_predictions()
                follow(stage, project, "Predicting")
            report.problems += problems(project.predictions(_version(project)), LABELS)
        with _timed(stage, report, "new_label", None):
            project.set_labels([*LABELS, NEW_LABEL])
            follow(stage, project, f'New label "{NEW_LABEL.value}"')
        verify(stage, project, halves, report)


def draw_pictures(stage: Stage) -> None:
    """Draw the demo's pictures and their truth, unless an earlier run did."""
    marker = stage.pictures / "truth" / "labels.json"
    if marker.exists():
        return
    names = ",".join(label.value for label in (*LABELS, NEW_LABEL))
    run_worker_command(
        "worker.builtin.draw", "--output-dir", str(stage.pictures), "--pictures", str(_PICTURES), "--seed", str(_SEED),
        "--size", str(_SIZE[0]), str(_SIZE[1]), "--labels", names,
    )  # fmt: skip


def start_everything(stage: Stage, supervisor: Supervisor) -> Halves:
    """Start the halves and Label Studio; returns where the halves are."""
    data = stage.state / "label-studio"
    data.mkdir(parents=True, exist_ok=True)
    supervisor.start(label_studio_command(stage.label_studio_url, stage.token, data))
    return start_halves(supervisor, stage.settings)


def label_studio_command(url: str, token: str, data: Path) -> Command:
    """Label Studio on SQLite, open for a backend on a private address and for its webhook."""
    port = url.rsplit(":", 1)[-1]
    env = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data), "DJANGO_DB": "sqlite", "LABEL_STUDIO_HOST": url,
        "LABEL_STUDIO_USERNAME": USER, "LABEL_STUDIO_PASSWORD": PASSWORD, "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Since 1.23.1 both must be off, or a backend on this machine gets no webhook.
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    program = label_studio_environment().path / "bin" / "label-studio"
    argv = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port]
    return Command("label-studio", argv, env, ready=lambda: _is_up(url), ready_s=240)


def follow(stage: Stage, project: DemoProject, told: str) -> None:
    """Show a progress bar until every task is stored at the version of the present labeling config."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stage.console) as bar:
        line = bar.add_task(told, total=None)
        project.wait_for_version(_version(project), lambda done, total: bar.update(line, completed=done, total=total))


def verify(stage: Stage, project: DemoProject, halves: Halves, report: Report) -> None:
    """Look at what Label Studio stores now and score it against the drawn truth."""
    predictions = project.predictions(_version(project))
    report.tasks = len(predictions)
    report.predicted = sum(row.count > 0 for row in predictions)
    report.duplicated = sum(max(0, row.count - 1) for row in predictions)
    report.problems += problems(predictions, [*LABELS, NEW_LABEL])
    with redis.from_url(halves.redis_url) as connection:
        settings = stage.settings
        pending = PendingTasks(connection, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        if pending.last_webhook(project.id) is None:
            report.problems.append("no webhook of Label Studio arrived")
    score = score_predictions(stage, predictions)
    per_label = score["per_label"]
    report.mean_iou = score["mean_iou"]
    report.new_label = {"name": NEW_LABEL.value, "iou": per_label[NEW_LABEL.value]["iou"] or 0.0}
    report.overlay = str(stage.state / "overlay.png")
    if report.mean_iou < _LEAST_MEAN_IOU:
        report.problems.append(f"mean_iou is {report.mean_iou}, at least {_LEAST_MEAN_IOU} was expected")
    new_iou = report.new_label["iou"]
    if new_iou < _LEAST_NEW_IOU:
        report.problems.append(f"the new label's IoU is {new_iou}, at least {_LEAST_NEW_IOU} was expected")


def score_predictions(stage: Stage, predictions: Sequence[Predicted]) -> dict[str, Any]:
    """Score regions against the drawn truth and paint the overlay, in a worker process."""
    found = stage.state / "predictions.json"
    found.write_text(json.dumps({row.stem: list(row.regions) for row in predictions}))
    output = run_worker_command(
        "worker.evaluation.score", "--truth", str(stage.pictures / "truth"), "--predictions", str(found), "--json",
        "--overlay", str(stage.state / "overlay.png"),
    )  # fmt: skip
    return dict(json.loads(output.strip().splitlines()[-1]))


def run_worker_command(module: str, *arguments: str) -> str:
    """Run a command of the worker half in its own process and return its standard output.

    Raises:
        EnvironmentBroken: it failed; the message quotes its last line.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        problem = f"ended with status {done.returncode}: {said[:300]}"
        raise EnvironmentBroken(module, problem, "Run it by hand to see more.")
    return done.stdout


@contextmanager
def _timed(stage: Stage, report: Report, name: str, told: str | None) -> Iterator[None]:
    start = time.monotonic()
    if told:
        stage.console.print(f"{told} ...", markup=False, highlight=False)
    yield
    report.seconds[name] = round(time.monotonic() - start, 1)


def _version(project: DemoProject) -> str:
    return version_name("builtin", parse_vocabulary(project.config()))


def _has_new_label(project: DemoProject) -> bool:
    return f'"{NEW_LABEL.value}"' in project.config()


def _checking(environ: Mapping[str, str]) -> bool:
    return environ.get("CHECK", "").strip().lower() not in ("", "0", "no", "false")


def _kept_secret(path: Path) -> str:
    if path.exists() and path.read_text().strip():
        return path.read_text().strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(20))
    return path.read_text()


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _invitation(stage: Stage) -> str:
    return (
        f"\nLabel Studio is at {stage.label_studio_url}\n"
        f"  login     {USER}\n  password  {PASSWORD}\n\n"
        f'Open the project "Zeromask demo", click a picture: its masks are there, "{NEW_LABEL.value}" among them,\n'
        "a label the model was never trained on. Add one of your own under Settings -> Labeling Interface, made of\n"
        "a colour, a texture (plain, striped, dotted, checkered) and the word shape; its masks follow by themselves.\n"
        f"An overlay of all pictures: {stage.state / 'overlay.png'}\n"
        "Ctrl-C stops everything.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
