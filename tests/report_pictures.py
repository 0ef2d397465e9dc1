"""`python -m tests.report_pictures`: the picture of a report for the documentation, `docs/images/report.png`, anew.

A real Label Studio and the whole product with the builtin model. Drawn pictures get masks from the names of their
labels, one of which is a made-up word. Wrong masks are seeded, a script that knows the truth corrects some pictures,
the product learns from them and predicts the others again, and the script corrects some of these. Its lead times are
invented: what the time model says of its steps. Needs `chromium` (Debian's package of that name).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from playwright.sync_api import Browser
from rich.console import Console

from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.local.supervisor import stop_on_signals
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from tests.browser.editor import browser
from tests.browser.shots import write_small
from tests.browser_pictures import NoBrowser
from tests.faults.stand import Stand, label_studio, stand
from tests.house import House, wait_until
from tests.offered.drawn_round import ROOT, DrawnProject, drawn_pictures
from tests.status_pictures import Look, window
from worker.lab.evaluation.annotator import Annotator, DrawnRegion, Noise, SubmittedRegion
from worker.label_studio.annotation_maps import draw_region
from worker.label_studio.picture_regions import PictureRegion, picture_regions
from worker.label_studio.regions import encode_region
from worker.label_studio.seeded import is_seeded
from worker.report.__main__ import PAGE
from worker.report.time_model import TimeModel

COMMAND = "python -m tests.report_pictures"
PICTURE = ROOT / "docs" / "images" / "report.png"
LOOK = Look(900, 900, "light")

MEANINGS = {"red striped shape": "red striped shape", "yellow star": "yellow star",
            "blue dotted shape": "blue dotted shape", "wug": "green dotted shape"}  # fmt: skip
"""Label -> what it stands for in the drawn world; "wug" is no word."""
CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="red striped shape"/><Label value="blue dotted shape"/>
    <Label value="wug"/></BrushLabels>
  <PolygonLabels name="polygon" toName="image"><Label value="yellow star"/></PolygonLabels></View>"""
_TITLE = "Shapes"
_PICTURES, _ROUND = 23, (11, 10)  # pictures in all; corrected before the product learns, and, too few to learn, after
_SEEDED, _CLICKS, _SHOWN = 4, 10, 1  # wrong masks, regions clicked on, pictures of the most corrected
_SEED = 17
_FINETUNE_QUIET_S = 1.0


@dataclass(frozen=True)
class Script:
    """The annotator: knows what is drawn, draws with a hand that is not quite steady, and is never wrong otherwise.

    Attributes:
        house: where it annotates.
        drawn: the project and its truth.
        vocabulary: of the project.
    """

    house: House
    drawn: DrawnProject
    vocabulary: Vocabulary

    def correct(self, task: int, *, overlooks_seeded: bool = False) -> None:
        """Correct the prediction of a task and submit it; a seeded wrong mask is deleted where it is not overlooked."""
        (prediction,) = self.house.label_studio.predictions(task)
        image = self.drawn.images[self.drawn.ids.index(task)]
        regions = picture_regions(prediction.result, self.vocabulary)
        known = [(row, row.label) for row in regions if row.label is not None and not is_seeded(row.identity)]
        frame = (image.truth.shape[0], image.truth.shape[1])
        predicted = [DrawnRegion(self.drawn.names.index(label.key), draw_region(row, frame, frame))
                     for row, label in known]  # fmt: skip
        noise = Noise(overlooked=0.0, over_trust=0.0)
        found = Annotator(noise=noise).decide(predicted, image.truth, np.random.default_rng((_SEED, task)))
        result = [item for row in found.regions for item in self._items(row, [row for row, _ in known])]
        seeded = [row for row in regions if is_seeded(row.identity)]
        if overlooks_seeded:
            result += [dict(row.item) | {"origin": "prediction"} for row in seeded]
        seconds = found.seconds + len(seeded) * (TimeModel().look + TimeModel().click * (not overlooks_seeded))
        body = {"result": result, "parent_prediction": prediction.id, "lead_time": round(seconds, 1)}
        self.house.label_studio.request("POST", f"/api/tasks/{task}/annotations/", json=body)

    def _items(self, row: SubmittedRegion, predicted: Sequence[PictureRegion]) -> list[dict[str, Any]]:
        """The items of a region as the editor would submit them."""
        source = None if row.predicted is None else predicted[row.predicted]
        if source is not None and row.accepted:
            return [dict(source.item) | {"origin": "prediction"}]
        key = self.drawn.names[row.region.index]
        label = next(label for label in self.vocabulary.labels if label.key == key)
        made = encode_region(row.region.mask, kind=label.output, control=label.control, to_name=label.to_name,
                             label=label.key, score=1.0, region_id=source.identity if source else None)  # fmt: skip
        origin = "manual" if source is None else "prediction-changed"
        return [item | {"origin": origin} for item in made]


@click.command(epilog="It takes two minutes on two free cores, ten on busy ones.")
@click.option("--output", type=click.Path(path_type=Path), default=PICTURE, help="for the picture")
def main(output: Path) -> None:
    """Take the picture. The exit status is 2 when there is no browser."""
    console = Console(stderr=True)
    try:
        with browser() as running, tempfile.TemporaryDirectory(prefix="zm-") as folder:
            with stop_on_signals(), label_studio() as server, stand(
                server, learners=1, finetune_every=_ROUND[0], finetune_quiet_s=_FINETUNE_QUIET_S, order=False
            ) as it:  # fmt: skip
                page = make_report(it, Path(folder))
            take_picture(running, page, output)
    except (NoBrowser, ZeromaskError) as reason:
        console.print(str(reason), markup=False)
        sys.exit(2)


def make_report(it: Stand, folder: Path) -> Path:
    """Go through the project's history and write its report into a folder; returns its page."""
    house = it.house
    drawn = DrawnProject.make(house, drawn_pictures(MEANINGS, _PICTURES, seed=_SEED), tuple(MEANINGS), CONFIG)
    house.label_studio.request("PATCH", f"/api/projects/{drawn.project}/", json={"title": _TITLE})
    script = Script(house, drawn, parse_vocabulary(CONFIG))
    zero_shot = drawn.served_version(it)
    drawn.wait_stored(it, range(_PICTURES), zero_shot)
    wait_until(lambda: house.label_studio.project(drawn.project).model_version == zero_shot, told="a shown version")
    run(it, "seed-wrong", str(drawn.project), "--count", str(_SEEDED))
    seeded = [task for task in drawn.ids if _holds_seeded(house.label_studio.predictions(task))]
    others = [task for task in drawn.ids if task not in seeded]
    first, rest = [*seeded, *others][: _ROUND[0]], [*seeded, *others][_ROUND[0] :]
    for task in first:
        script.correct(task, overlooks_seeded=task == seeded[-1])
    while (learned := drawn.served_version(it)) == zero_shot:
        time.sleep(0.5)
    drawn.wait_stored(it, [drawn.ids.index(task) for task in rest], learned)
    for task in rest[: _ROUND[1]]:
        script.correct(task)
    output = folder / "report"
    run(it, "report", str(drawn.project), "--output", str(output), "--clicks", str(_CLICKS), "--pictures", str(_SHOWN))
    return output / PAGE


def run(it: Stand, *arguments: str) -> None:
    """Run `zeromask ARGUMENTS` with the settings of the worker.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    settings = replace(it.settings, redis_url=it.house.services.redis_url)
    env: Mapping[str, str] = {**os.environ, **settings.environment("worker")}
    subprocess.run([sys.executable, "-m", "plugin_config.cli", *arguments], env=env, cwd=ROOT, check=True)


def take_picture(running: Browser, page: Path, to: Path) -> None:
    """Write all of a page as a PNG file of 256 colours."""
    with window(running, LOOK) as opened:
        opened.goto(page.as_uri())
        write_small(opened.screenshot(full_page=True), to)


def _holds_seeded(predictions: Sequence[StoredPrediction]) -> bool:
    return any(is_seeded(str(item.get("id"))) for row in predictions for item in row.result)


if __name__ == "__main__":
    main()
