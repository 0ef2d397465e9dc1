"""Draw scenes and their truth: `python -m worker.lab.drawn_world.draw --output-dir D --labels "red striped shape,..."`.

Also draws the contact sheet of the world (`--contact-sheet FILE`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from plugin_config.errors import EnvironmentBroken, LabelingConfigError, ZeromaskError
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.drawn_world.contact_sheet import draw_contact_sheet

DEFAULT_LABELS = "red striped shape,green dotted shape,blue checkered shape,yellow plain shape"


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) RGB or (H, W) grey uint8 as PNG.

    Raises:
        EnvironmentBroken: the file cannot be written.
    """
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    if not cv2.imwrite(str(path), stored):
        raise EnvironmentBroken(f"file {path}", "it cannot be written", "Check that its folder exists and has room.")


def draw_set(
    output_dir: Path, labels: Sequence[str], *, pictures: int, seed: int, size: tuple[int, int], unit: float
) -> dict[str, object]:
    """Write `images/`, `truth/` and `truth/labels.json`; the same arguments write the same bytes.

    Args:
        output_dir: folder, created if missing.
        labels: that the things are drawn for; label i is value i + 1 in the truth.
        pictures: how many scenes.
        seed: of all of them.
        size: (H, W) in pixels.
        unit: pixels that object sizes are relative to (things measure 0.3 to 0.62 of it).

    Returns:
        a summary as JSON values.
    """
    images, truths = output_dir / "images", output_dir / "truth"
    images.mkdir(parents=True, exist_ok=True)
    truths.mkdir(parents=True, exist_ok=True)
    shown = dict.fromkeys(labels, 0)
    for number in track(range(pictures), "Drawing", console=Console(stderr=True)):
        rng = np.random.default_rng((seed, number))
        scene = annotation_scene(rng, labels, number=number, size=size, unit=unit)
        truth = index_truth(scene, labels)
        write_png(images / f"scene_{number + 1:04d}.png", scene.image)
        write_png(truths / f"scene_{number + 1:04d}.png", truth)
        for k in np.unique(truth[truth > 0]):
            shown[labels[k - 1]] += 1
    (truths / "labels.json").write_text(json.dumps({"labels": list(labels)}, indent=2) + "\n")
    return {"pictures": pictures, "seed": seed, "width": size[1], "height": size[0], "unit": unit, "shown_in": shown}


def read_labels(text: str) -> list[str]:
    """Split a comma-separated list of labels.

    Raises:
        LabelingConfigError: there is none, more than 8 bits can number, or the same one twice.
    """
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not 1 <= len(labels) <= 255 or len(set(labels)) != len(labels):
        raise LabelingConfigError(
            "--labels", f"must be 1 to 255 different labels, got {text!r}", "Separate with commas."
        )
    return labels


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw scenes, or the contact sheet; one JSON line on stdout, progress and errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.drawn_world.draw", description=main.__doc__)
    parser.add_argument("--output-dir", type=Path, help="where images/ and truth/ go")
    parser.add_argument("--contact-sheet", type=Path, help="draw the contact sheet to this file instead")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 360), metavar=("W", "H"), help="pixels")
    parser.add_argument("--unit", type=float, help="pixels that object sizes are relative to; default: H / 1.8")
    parser.add_argument("--labels", default=DEFAULT_LABELS, help="comma-separated")
    options = parser.parse_args(arguments)
    if options.output_dir is None and options.contact_sheet is None:
        parser.error("one of --output-dir and --contact-sheet is needed")
    width, height = options.size
    if options.pictures < 1 or min(width, height) < 32:
        parser.error("--pictures must be at least 1, --size at least 32 by 32")
    unit = options.unit or height / 1.8
    try:
        if options.contact_sheet is not None:
            write_png(options.contact_sheet, draw_contact_sheet(options.seed))
            summary: dict[str, object] = {"contact_sheet": str(options.contact_sheet)}
        else:
            summary = draw_set(
                options.output_dir,
                read_labels(options.labels),
                pictures=options.pictures,
                seed=options.seed,
                size=(height, width),
                unit=unit,
            )
    except ZeromaskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
