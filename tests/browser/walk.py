"""`python -m tests.browser.walk`: the README's picture series, of a real Label Studio and the whole product.

Drawn pictures get masks from the names of two labels. A third label is a made-up word, so it gets none until four
pictures are corrected, by a script that knows the truth; then the other pictures are predicted again. Each picture is
of the step before, and `docs/results/walk.json` tells what was found and how long it took.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import FloatRect
from rich.console import Console

from plugin_config.errors import ZeromaskError
from plugin_config.local.supervisor import stop_on_signals
from tests.browser.editor import WINDOW, Editor, browser, editor
from tests.browser.shots import write_small
from tests.browser_pictures import NoBrowser
from tests.faults.stand import Stand, label_studio, stand
from tests.offered.drawn_round import DrawnProject, drawn_pictures
from worker.lab.dense_data import LabelledImage

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images" / "walk"
RESULTS = ROOT / "docs" / "results" / "walk.json"
README = ROOT / "README.md"
COMMAND = "python -m tests.browser.walk"

LABELS = {"red striped shape": "red striped shape", "yellow shape": "yellow shape", "wug": "green dotted shape"}
"""Label -> what it stands for in the drawn world; "wug" is no word."""
_COLOURS = ("#ff00c8", "#ff5a00", "#00e5ff")
_TITLE = "Shapes"
_VIEW: FloatRect = {"x": 240, "y": 48, "width": WINDOW[0] - 240, "height": 602}  # the window without its list of tasks
_PICTURES, _CORRECTED, _SEED = 8, 4, 5
_FINETUNE_QUIET_S = 1.0


@dataclass(frozen=True)
class Walk:
    """What came of it, on the pictures that were not corrected.

    Attributes:
        masks_s: from Retrieve Predictions to the last of all masks, seconds.
        known_iou: mean IoU of the labels that are words, zero-shot.
        made_up_iou: of the made-up word, zero-shot and once it is learned.
        learned_s: from the last correction to the last mask of the learned version, seconds.
        corrected: how many pictures were corrected.
    """

    masks_s: float
    known_iou: float
    made_up_iou: tuple[float, float]
    learned_s: float
    corrected: int


@click.command(epilog="It takes three minutes on two free cores.")
@click.option("--output-dir", type=click.Path(path_type=Path), default=IMAGES, help="for the pictures")
@click.option("--store", is_flag=True, help="keep the figures in docs/results/walk.json")
def main(output_dir: Path, store: bool) -> None:
    """Take the pictures. The exit status is 2 when there is no browser."""
    console = Console(stderr=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with stop_on_signals(), label_studio() as server, stand(
            server, learners=1, finetune_every=_CORRECTED, finetune_quiet_s=_FINETUNE_QUIET_S, order=False
        ) as it, browser() as running, editor(running, server.url) as window:  # fmt: skip
            found = walk(it, window, output_dir)
    except (NoBrowser, ZeromaskError) as reason:
        console.print(str(reason), markup=False)
        sys.exit(2)
    told = {"command": f"{COMMAND} --store", "date": f"{datetime.now(UTC):%Y-%m-%d}", **asdict(found)}
    if store:
        RESULTS.write_text(json.dumps(told, indent=1) + "\n")
        README.write_text(filled(README.read_text(encoding="utf-8"), told), encoding="utf-8")
    sys.stdout.write(json.dumps(told) + "\n")


def filled(text: str, told: Mapping[str, Any]) -> str:
    """The text of the README with the figures between their marks."""
    first, last = "<!-- walk: written by tests/browser/walk.py -->", "<!-- end of walk -->"
    before, mark, rest = text.partition(first)
    after = rest.partition(last)[2]
    zero_shot, learned = told["made_up_iou"]
    free = _PICTURES - told["corrected"]
    line = (
        f"A real Label Studio with the builtin model and {_PICTURES} drawn pictures, of which {told['corrected']} were "
        f'corrected by a script that knows the truth: on the other {free} the mean intersection over union of "wug" '
        f"went from {zero_shot:.3f} to {learned:.3f}. The first masks took {told['masks_s']:.0f} s, learning and the "
        f"new masks {told['learned_s']:.0f} s, on two cores ({told['date']}, "
        f"`{told['command']}`)."
    )
    line = textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False)
    return f"{before}{mark}\n{line}\n{last}{after}" if mark else text


def walk(it: Stand, window: Editor, folder: Path) -> Walk:
    """Go through the loop, with a picture of each step."""
    started = time.monotonic()
    drawn = DrawnProject.make(it.house, pictures(), tuple(LABELS), config())
    it.house.label_studio.request("PATCH", f"/api/projects/{drawn.project}/", json={"title": _TITLE})
    free, corrected = range(_CORRECTED, _PICTURES), range(_CORRECTED)
    zero_shot = drawn.served_version(it)
    drawn.wait_stored(it, range(_PICTURES), zero_shot)
    masks_s = time.monotonic() - started
    known = [label for label in LABELS if label != "wug"]
    before = drawn.mean_iou(it.house, free, known), drawn.mean_iou(it.house, free, ["wug"])
    show_labels(it, window, drawn, folder / "1_labels.png")
    show(window, drawn, free[0], folder / "2_masks.png")
    drawn.correct(it.house, corrected, tuple(LABELS))
    started = time.monotonic()
    show(window, drawn, 0, folder / "3_corrected.png")
    while (learned := drawn.served_version(it)) == zero_shot:
        time.sleep(0.5)
    drawn.wait_stored(it, free, learned)
    learned_s = time.monotonic() - started
    show(window, drawn, free[0], folder / "4_learned.png")
    after = drawn.mean_iou(it.house, free, ["wug"])
    figures = masks_s, before[0], before[1], after, learned_s
    masks_s, known_iou, zero, after, learned_s = (round(figure, 3) for figure in figures)
    return Walk(round(masks_s, 1), known_iou, (zero, after), round(learned_s, 1), _CORRECTED)


def config() -> str:
    """The labeling config: brush labels, in colours that the pictures do not have."""
    rows = "\n".join(f'    <Label value="{label}" background="{colour}"/>'
                     for label, colour in zip(LABELS, _COLOURS, strict=True))  # fmt: skip
    return (f'<View>\n  <Image name="image" value="$image"/>\n  <BrushLabels name="brush" toName="image">\n{rows}\n'
            "  </BrushLabels>\n</View>")  # fmt: skip


def pictures() -> list[LabelledImage]:
    """Of the walk, with their truth about LABELS."""
    return drawn_pictures(LABELS, _PICTURES, seed=_SEED)


def show(window: Editor, drawn: DrawnProject, number: int, path: Path) -> None:
    """A picture of the editor with a task and its regions."""
    window.open(drawn.project, drawn.ids[number], regions=1)
    window.page.wait_for_timeout(500)  # the canvas draws regions one after another
    picture(window, path)


def show_labels(it: Stand, window: Editor, drawn: DrawnProject, path: Path) -> None:
    """A picture of the labeling interface in the project's settings."""
    window.page.goto(f"{it.house.label_studio.url}/projects/{drawn.project}/settings/labeling")
    window.page.get_by_text("Code", exact=True).first.click()
    window.page.wait_for_timeout(1500)  # the preview is drawn later than the code
    picture(window, path)


def picture(window: Editor, path: Path) -> None:
    """Write what stands beside the list of tasks as a PNG file of 256 colours."""
    write_small(window.page.screenshot(clip=_VIEW), path)


if __name__ == "__main__":
    main()
