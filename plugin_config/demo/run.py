"""`make demo`: a real Label Studio with masks in it, from one command.

It runs processes and talks to Label Studio; pictures, their ground truth and scores come from modules of the worker,
each run in a process of its own. `CHECK=1` waits for no person, verifies every step and prints one JSON line last.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from plugin_config.demo.project import DemoLabel, DemoProject, TaskPredictions, problems, reconnect_projects
from plugin_config.demo.setup import (
    PASSWORD,
    USER,
    DemoSetup,
    checks,
    clear_previous_run,
    prepare,
    run_worker_command,
    start_everything,
)
from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.services import Services
from plugin_config.local.supervisor import Supervisor, stop_on_signals
from plugin_config.model_version import ModelVersion
from plugin_config.queue.connection import open_redis
from plugin_config.queue.hints import ProjectHints
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary

# Masks are drawn in these colours over the things, so none is near the colour of its own things.
LABELS = (
    DemoLabel("red striped shape", "BrushLabels", "#00e5ff"),
    DemoLabel("yellow star", "BrushLabels", "#6a00ff"),
    DemoLabel("green dotted shape", "PolygonLabels", "#ff00c8"),
    DemoLabel("orange plain shape", "RectangleLabels", "#0033ff"),
    DemoLabel("grass", "BrushLabels", "#ff3b30", stuff=True),
    DemoLabel("water", "BrushLabels", "#ffa200", stuff=True),
)
# The builtin model was never trained on this combination, neither in pixels nor in words; only on its parts.
NEW_LABEL = DemoLabel("blue dotted shape", "BrushLabels", "#f4ff00")

TOLD_EVERY_S = 10.0
"""Seconds between two signs of progress."""

_PICTURES, _SIZE, _SEED = 16, (480, 360), 11
_LEAST_MEAN_IOU, _LEAST_NEW_IOU = 0.60, 0.50


@dataclass
class CheckReport:
    """The JSON line of CHECK=1, filled in step by step."""

    ok: bool = False
    tasks: int = 0
    predicted: int = 0
    duplicated: int = 0
    mean_iou: float = 0.0
    new_label: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    overlay: str = ""


@click.command(epilog="CHECK=1 in the environment verifies and prints one JSON line; PORT=8090 moves Label Studio.")
@click.pass_context
def demo(context: click.Context) -> None:
    """Run a real Label Studio with masks in it, until Ctrl-C.

    The exit status is 0; 1 when CHECK=1 found a fault; 2 when something could not start.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    check, report = checks(os.environ), CheckReport()
    try:
        setup = prepare(os.environ)
        with stop_on_signals(), Supervisor(setup.state) as supervisor:
            run_demo(setup, supervisor, report)
            if not check:
                setup.console.print(_invitation(setup), markup=False, highlight=False, soft_wrap=True)
                threading.Event().wait()
    except ZeromaskError as error:
        click.echo(f"\nzeromask demo: {error}", err=True)
        if not check:
            context.exit(2)
        report.problems.append(str(error))
    except KeyboardInterrupt:
        click.echo("\nStopped; nothing runs any more. `make demo` goes on from here.", err=True)
        context.exit(130 if check else 0)
    report.ok = not report.problems
    click.echo(json.dumps(report.__dict__))
    context.exit(0 if report.ok else 1)


def run_demo(setup: DemoSetup, supervisor: Supervisor, report: CheckReport) -> None:
    """Draw pictures, start everything, predict, add a label, predict again, verify.

    Args:
        setup: of this run.
        supervisor: starts the processes.
        report: filled in on the way.
    """
    drawn = [str(replace(label, background="")) for label in (*LABELS, NEW_LABEL)]
    content = json.dumps([drawn, _PICTURES, _SIZE, _SEED])
    clear_previous_run(setup, content)
    with _timed(setup, report, "pictures", "Drawing pictures"):
        draw_pictures(setup)
    with _timed(setup, report, "start", "Starting Redis, backend, worker and Label Studio"):
        services = start_everything(setup, supervisor)
    settings = setup.settings
    with LabelStudio(settings.label_studio_url, settings.label_studio_api_key) as label_studio:
        project = DemoProject(label_studio)
        with _timed(setup, report, "project", "Creating the project and connecting the backend"):
            project.ensure(LABELS, sorted((setup.pictures / "images").glob("*.png")))
            project.connect(settings)
            for sentence in reconnect_projects(label_studio, settings, left_port=setup.left_port):
                setup.console.print(sentence, markup=False, highlight=False)
        if _has_new_label(project):  # an earlier run came this far; a person may have edited the project since
            project.retrieve_predictions()
            return
        with _timed(setup, report, "predict"):
            project.retrieve_predictions()
            wait_predicted(setup, project, "Predicting")
        report.problems += problems(project.predictions(version_of(settings, project.config())), LABELS)
        with _timed(setup, report, "new_label"):
            project.set_labels([*LABELS, NEW_LABEL])
            wait_predicted(setup, project, f'New label "{NEW_LABEL.value}"')
        verify(setup, project, services, report)


def draw_pictures(setup: DemoSetup) -> None:
    """Draw the demo's pictures and their ground truth, unless an earlier run did."""
    marker = setup.pictures / "truth" / "labels.json"
    if marker.exists():
        return
    names = ",".join(label.value for label in (*LABELS, NEW_LABEL))
    run_worker_command(
        "worker.lab.drawn_world.draw", "--output-dir", str(setup.pictures), "--pictures", str(_PICTURES),
        "--seed", str(_SEED), "--size", str(_SIZE[0]), str(_SIZE[1]), "--labels", names,
    )  # fmt: skip


def version_of(settings: Settings, labeling_config: str) -> str:
    """The version that workers with these settings stamp on predictions while nothing was learned."""
    return str(ModelVersion.of(settings, parse_vocabulary(labeling_config)))


def wait_predicted(setup: DemoSetup, project: DemoProject, description: str) -> None:
    """Show a progress bar until every task has a prediction for the present labeling config."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    count = ""
    with Progress(*columns, console=setup.console) as bar, _told_meanwhile(setup, lambda: f"{description}{count}"):
        line = bar.add_task(description, total=None)
        version = version_of(setup.settings, project.config())

        def show(done: int, total: int) -> None:
            nonlocal count
            count = f": {done} of {total} pictures"
            bar.update(line, completed=done, total=total)

        project.wait_for_version(version, show)


def verify(setup: DemoSetup, project: DemoProject, services: Services, report: CheckReport) -> None:
    """Read back what Label Studio stores now and score it against the ground truth."""
    predictions = project.predictions(version_of(setup.settings, project.config()))
    report.tasks = len(predictions)
    report.predicted = sum(row.count > 0 for row in predictions)
    report.duplicated = sum(max(0, row.count - 1) for row in predictions)
    report.problems += problems(predictions, [*LABELS, NEW_LABEL])
    with open_redis(services.redis_url, connect_s=5, answer_s=5) as connection:
        if ProjectHints(connection).last_webhook(project.id) is None:
            report.problems.append("no webhook of Label Studio arrived")
    score = score_predictions(setup, predictions)
    new_iou = score["per_label"][NEW_LABEL.value]["iou"] or 0.0
    report.mean_iou = score["mean_iou"]
    report.new_label = {"name": NEW_LABEL.value, "iou": new_iou}
    report.overlay = str(setup.state / "overlay.png")
    if report.mean_iou < _LEAST_MEAN_IOU:
        report.problems.append(f"mean_iou is {report.mean_iou}, at least {_LEAST_MEAN_IOU} was expected")
    if new_iou < _LEAST_NEW_IOU:
        report.problems.append(f"the new label's IoU is {new_iou}, at least {_LEAST_NEW_IOU} was expected")


def score_predictions(setup: DemoSetup, predictions: Sequence[TaskPredictions]) -> dict[str, Any]:
    """Score regions against the ground truth and paint the overlay, in a process of the worker's evaluation."""
    path = setup.state / "predictions.json"
    path.write_text(json.dumps({row.stem: list(row.regions) for row in predictions}))
    output = run_worker_command(
        "worker.lab.evaluation.score", "--truth", str(setup.pictures / "truth"), "--predictions", str(path), "--json",
        "--overlay", str(setup.state / "overlay.png"),
        "--colours", json.dumps({label.value: label.background for label in (*LABELS, NEW_LABEL)}),
    )  # fmt: skip
    return dict(json.loads(output.strip().splitlines()[-1]))


@contextmanager
def _timed(setup: DemoSetup, report: CheckReport, name: str, description: str = "") -> Iterator[None]:
    start = time.monotonic()
    if description:
        setup.console.print(f"{description} ...", markup=False, highlight=False)
    with _told_meanwhile(setup, lambda: description) if description else nullcontext():
        yield
    report.seconds[name] = round(time.monotonic() - start, 1)


@contextmanager
def _told_meanwhile(setup: DemoSetup, told: Callable[[], str]) -> Iterator[None]:
    """Print a line every ten seconds that says what is still being done, and for how long."""
    start, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(TOLD_EVERY_S):
            line = f"  {told()}: {time.monotonic() - start:.0f} s so far"
            setup.console.print(line, markup=False, highlight=False)

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=1)


def _has_new_label(project: DemoProject) -> bool:
    return f'"{NEW_LABEL.value}"' in project.config()


def _invitation(setup: DemoSetup) -> str:
    return (
        f"\nLabel Studio is at {setup.settings.label_studio_url}\n"
        f"  login     {USER}\n  password  {PASSWORD}\n"
        f"The backend is at http://{setup.settings.host}:{setup.settings.port}, for a project of your own: Settings -> "
        "Model ->\nConnect Model. Both keep their ports, and projects stay connected when the demo starts again.\n\n"
        f'Open the project "Zeromask demo", click a picture: its masks are there, "{NEW_LABEL.value}" among them,\n'
        "a label the model was never trained on. Add one of your own under Settings -> Labeling Interface, made of\n"
        "a colour, a texture (plain, striped, dotted, checkered) and a shape (circle, square, triangle, star, cross,\n"
        "ring, heart, crescent, or just the word shape); its masks follow by themselves.\n"
        f"All pictures beside their masks: {setup.state / 'overlay.png'}\n\n"
        "Correct the masks of three pictures and submit them: it learns from them in the background, and where\n"
        "that is better, the masks of all others follow. To watch it, open\n"
        f"  http://{setup.settings.host}:{setup.settings.port}/status\n\n"
        "Ctrl-C stops everything.\n"
    )

