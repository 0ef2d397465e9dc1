"""`make demo`: a real Label Studio with masks in it, from one command.

Only runs processes and talks to Label Studio: pictures, truth and scores come from worker commands run as processes.
`CHECK=1` does the same without waiting for anybody, verifies every step and prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from plugin_config.cli.up import Halves
from plugin_config.demo.project import DemoLabel, DemoProject, Predicted, problems
from plugin_config.demo.stage import (
    PASSWORD,
    USER,
    Stage,
    checking,
    clear_old_run,
    prepare,
    run_worker_command,
    start_everything,
)
from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.supervisor import Supervisor, stop_on_signals
from plugin_config.model_version import ModelVersion
from plugin_config.queue.connection import open_redis
from plugin_config.queue.hints import ProjectHints
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary

log = logging.getLogger(__name__)

LABELS = (
    DemoLabel("red striped shape", "BrushLabels", "#d64545"),
    DemoLabel("yellow star", "BrushLabels", "#d9b310"),
    DemoLabel("green dotted shape", "PolygonLabels", "#2f9e5b"),
    DemoLabel("orange plain shape", "RectangleLabels", "#e08a1e"),
    DemoLabel("grass", "BrushLabels", "#6b8e23", stuff=True),
    DemoLabel("water", "BrushLabels", "#3a6fd8", stuff=True),
)
# The builtin model was never trained on it, neither in pixels nor in words: only on its parts, in other company.
NEW_LABEL = DemoLabel("blue dotted shape", "BrushLabels", "#8e44ad")

_PICTURES, _SIZE, _SEED = 16, (480, 360), 11
_LEAST_MEAN_IOU, _LEAST_NEW_IOU = 0.60, 0.50


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


def main(arguments: Sequence[str]) -> int:
    """Run the demo. Returns 0; 1 when CHECK=1 found a miss; 2 when something could not start."""
    told = "Environment: CHECK=1 verifies and prints one JSON line; PORT moves Label Studio."
    argparse.ArgumentParser(prog="zeromask demo", description=__doc__, epilog=told).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    report = Report()
    try:
        stage = prepare(os.environ)
        with stop_on_signals(), Supervisor(stage.state) as supervisor:
            play(stage, supervisor, report)
            if not stage.check:
                stage.console.print(_invitation(stage), markup=False, highlight=False, soft_wrap=True)
                threading.Event().wait()
    except ZeromaskError as error:
        sys.stderr.write(f"\nzeromask demo: {error}\n")
        report.problems.append(str(error))
        if not checking(os.environ):
            return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; nothing runs any more. `make demo` goes on from here.\n")
        return 0 if not checking(os.environ) else 130
    report.ok = not report.problems
    sys.stdout.write(json.dumps(report.__dict__) + "\n")
    return 0 if report.ok else 1


def play(stage: Stage, supervisor: Supervisor, report: Report) -> None:
    """The main job, step by step; `report` is filled in on the way."""
    clear_old_run(stage, json.dumps([[str(label) for label in (*LABELS, NEW_LABEL)], _PICTURES, _SIZE, _SEED]))
    with _timed(stage, report, "pictures", "Drawing pictures"):
        draw_pictures(stage)
    with _timed(stage, report, "start", "Starting Redis, backend, worker and Label Studio"):
        halves = start_everything(stage, supervisor)
    with LabelStudio(stage.label_studio_url, stage.token) as label_studio:
        project = DemoProject(label_studio)
        with _timed(stage, report, "project", "Creating the project and connecting the backend"):
            project.ensure(LABELS, sorted((stage.pictures / "images").glob("*.png")))
            project.connect(halves.backend_url)
        if _has_new_label(project):  # an earlier run came this far; what was labeled or edited since is left alone
            project.retrieve_predictions()
            return
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
        "worker.lab.drawn_world.draw", "--output-dir", str(stage.pictures), "--pictures", str(_PICTURES),
        "--seed", str(_SEED),
        "--size", str(_SIZE[0]), str(_SIZE[1]), "--labels", names,
    )  # fmt: skip


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
    with open_redis(halves.redis_url, connect_s=5, answer_s=5) as connection:
        if ProjectHints(connection).last_webhook(project.id) is None:
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
        "worker.lab.evaluation.score", "--truth", str(stage.pictures / "truth"), "--predictions", str(found), "--json",
        "--overlay", str(stage.state / "overlay.png"),
    )  # fmt: skip
    return dict(json.loads(output.strip().splitlines()[-1]))


@contextmanager
def _timed(stage: Stage, report: Report, name: str, told: str | None) -> Iterator[None]:
    start = time.monotonic()
    if told:
        stage.console.print(f"{told} ...", markup=False, highlight=False)
    yield
    report.seconds[name] = round(time.monotonic() - start, 1)


def _version(project: DemoProject) -> str:
    return str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(project.config())))


def _has_new_label(project: DemoProject) -> bool:
    return f'"{NEW_LABEL.value}"' in project.config()


def _invitation(stage: Stage) -> str:
    return (
        f"\nLabel Studio is at {stage.label_studio_url}\n"
        f"  login     {USER}\n  password  {PASSWORD}\n\n"
        f'Open the project "Zeromask demo", click a picture: its masks are there, "{NEW_LABEL.value}" among them,\n'
        "a label the model was never trained on. Add one of your own under Settings -> Labeling Interface, made of\n"
        "a colour, a texture (plain, striped, dotted, checkered) and a shape (circle, square, triangle, star, cross,\n"
        "ring, heart, crescent, or just the word shape); its masks follow by themselves.\n"
        f"An overlay of all pictures: {stage.state / 'overlay.png'}\n\n"
        "Correct the masks of three pictures and submit them: it learns from them in the background, and where\n"
        "that is better, the masks of all others follow. What it is at:\n"
        f"  ZEROMASK_STATE_DIR={stage.state} .venv/bin/zeromask status\n\n"
        "Ctrl-C stops everything.\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
