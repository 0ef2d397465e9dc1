"""`zeromask report PROJECT`: what predictions saved in a project, as one HTML page with its charts and tables."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from plugin_config.closed_output import run_command
from plugin_config.errors import SettingsError, ZeromaskError
from plugin_config.label_studio.client import LabelStudio, Project
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.printable import one_line, printable
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.image_cache import ImageCache
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits
from worker.report.charts import as_image
from worker.report.clicks import ClickMeasures, ClickSample, measure_clicks
from worker.report.examples import ExamplePicture, MostCorrected, draw_examples
from worker.report.history import History
from worker.report.measures import LONGEST_LEAD_TIME_S, Measures
from worker.report.page import Heading, draw_charts, percent, render_page
from worker.report.reading import HistoryReader, UnreadTask
from worker.report.tables import RecordTables, write_labels
from worker.report.time_model import TimeModel
from worker.report.versions import load_version
from worker.segmentation.segmenter import Segmenter

PAGE = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """The parsed command line.

    Attributes:
        project: id of the project.
        output: folder of the files; made where there is none.
        json: whether to print one JSON line.
        model: how long annotators take.
        pictures: how many of the most corrected images are shown.
        longest_s: lead times above it are left out, seconds.
        clicks: how many regions a simulated annotator clicks on; 0 = none, and no model is loaded.
        version: name of the version that answers; "" = the one that is served.
    """

    project: int
    output: Path
    json: bool
    model: TimeModel
    pictures: int
    longest_s: float
    clicks: int
    version: str


def main(arguments: Sequence[str]) -> int:
    """Write the report. Returns 0; 2 when it could not be made."""
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        options = _parse(arguments)  # first: --help needs no settings
        settings = Settings.from_env(os.environ).require("label_studio_url", "label_studio_api_key")
        with label_studio_of(settings) as label_studio:
            measures, clicks = _write(label_studio, settings, options, console)
    except (ZeromaskError, OSError) as error:
        console.print(f"zeromask report: {printable(error)}", style="red", markup=False)
        return 2
    _tell(measures, clicks, options)
    return 0


def _write(
    label_studio: LabelStudio, settings: Settings, options: ReportOptions, console: Console
) -> tuple[Measures, ClickMeasures | None]:
    """Read the project and write every file.

    Raises:
        ModelUnavailable, LearningError, VersionsUnavailable: regions are to be clicked on, and the model or the version
            cannot be loaded.
        LabelStudioError: Label Studio does not answer, or refuses the project.
        LabelingConfigError: the project has no labels that Zeromask draws.
        OSError: a file cannot be written.
    """
    project = label_studio.project(options.project)
    vocabulary = parse_vocabulary(project.label_config)
    options.output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_settings(settings) if options.clicks else None  # what is missing is told before
    version = None if segmenter is None else load_version(settings, project, segmenter, options.version)
    history = History(options.model, longest_s=options.longest_s)
    corrected, clicked = MostCorrected(options.pictures), ClickSample(options.clicks, version.name if version else "")
    reader = HistoryReader(label_studio, project.id, vocabulary, control_share=settings.control_share)
    tasks = reader.tasks()
    found = track(reader.read(tasks), "Reading", total=len(tasks), console=console, disable=not console.is_terminal)
    with RecordTables(options.output) as tables:
        for records in found:
            for record in (records,) if isinstance(records, UnreadTask) else records:
                history.add(record)
                if not isinstance(record, UnreadTask):
                    tables.add(record)
                    corrected.add(record)
                    clicked.add(record)
    measures = history.measures()
    write_labels(options.output, measures)
    images = ImageLoader(
        ImageLimits.from_settings(settings),
        ImageCache(settings.state_path / "images", settings.image_cache_mb * 1_000_000),
    )
    clicks = None
    if segmenter is not None and version is not None:
        sample = track(clicked.chosen(), "Clicking", console=console, disable=not console.is_terminal)
        clicks = measure_clicks(label_studio, project.id, vocabulary, images, segmenter, sample, version)
    examples = draw_examples(label_studio, project.id, vocabulary, images, corrected.chosen())
    _write_page(settings, options, project, measures, clicks, examples)
    return measures, clicks


def _write_page(
    settings: Settings, options: ReportOptions, project: Project, measures: Measures, clicks: ClickMeasures | None,
    drawn: tuple[Sequence[ExamplePicture], Sequence[str]],
) -> None:  # fmt: skip
    examples, left_out = drawn
    charts = draw_charts(measures)
    for name, drawing in charts.items():
        as_image(drawing).save(options.output / f"{name}.png")
    for number, example in enumerate(examples, start=1):
        (options.output / f"corrected_{number}.png").write_bytes(example.png)
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    heading = Heading(project.id, project.title, at, settings.control_share)
    page = render_page(heading, measures, options.model, charts, examples, left_out, clicks)
    (options.output / PAGE).write_text(page, encoding="utf-8", errors="replace")


def _tell(measures: Measures, clicks: ClickMeasures | None, options: ReportOptions) -> None:
    if options.json:
        told: dict[str, Any] = {"project": options.project, "page": printable(options.output / PAGE)}
        told |= asdict(measures) | {"clicks": None if clicks is None else asdict(clicks)}
        sys.stdout.write(json.dumps(told) + "\n")
        return
    for row in measures.regions:
        if not row.label and not row.version:
            sys.stdout.write(f"{percent(row.accepted_share)} of {row.accepted_share.n} predicted regions accepted as "
                             f"they were; {measures.saved_minutes:.1f} minutes saved by the time model\n")  # fmt: skip
    remarks = [*measures.remarks, *([clicks.remark] if clicks is not None and clicks.remark else [])]
    sys.stdout.writelines(f"{one_line(remark)}\n" for remark in remarks)
    sys.stdout.write(f"{printable(options.output / PAGE)}\n")


def _parse(arguments: Sequence[str]) -> ReportOptions:
    parser = argparse.ArgumentParser(prog="zeromask report", description="What predictions saved in a project.")
    parser.add_argument("project", type=int, help="the project's number, as in the address of its page")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the files (default: zeromask-report-N)")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    parser.add_argument("--seconds", default="", metavar="NAME=S,...", help="other times of the time model, such as "
                        "outline=40,look=3 (docs/guide/report.md)")  # fmt: skip
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="how many of the most corrected images "
                        "are shown (default: %(default)s)")  # fmt: skip
    parser.add_argument("--longest", type=float, default=LONGEST_LEAD_TIME_S / 60, metavar="MINUTES", help="lead times "
                        "above it are left out: the page was left open (default: %(default)g)")  # fmt: skip
    parser.add_argument("--clicks", type=int, default=0, metavar="N", help="click on a region of N images, from the "
                        "prediction and from nothing; loads the model (default: %(default)s)")  # fmt: skip
    parser.add_argument("--version", default="", metavar="NAME", help="the version that answers clicks, as `zeromask "
                        "versions` names it, or zeroshot (default: the one that is served)")  # fmt: skip
    found = parser.parse_args(arguments)
    if found.pictures < 0 or found.clicks < 0 or not 0 < found.longest < float("inf"):
        problem = "must be at least 0, and the last above 0"
        raise SettingsError("--pictures, --clicks and --longest", problem, "Give other numbers.")
    output = found.output or Path(f"zeromask-report-{found.project}")
    return ReportOptions(found.project, output, found.json, TimeModel.parse(found.seconds), found.pictures,
                         60 * found.longest, found.clicks, found.version)  # fmt: skip


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
