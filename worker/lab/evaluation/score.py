"""Judge predicted regions against drawn truth: `python -m worker.evaluation.score --truth T --predictions F --json`.

It must not know which model made the predictions, nor talk to Label Studio: it reads files only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import EnvironmentBroken, ImageUnavailable, JobError, ZeromaskError
from worker.label_studio.regions import decode_region, region_label
from worker.overlay import Painting, draw_sheet

BACKGROUND = "background"
Mask = NDArray[np.bool_]
Predictions = Mapping[str, Sequence[Mapping[str, Any]]]
"""Image stem to the Label Studio regions predicted for it."""


@dataclass
class Tally:
    """Pixels of one label summed over all pictures."""

    intersection: int = 0
    union: int = 0
    truth: int = 0
    kinds: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, object]:
        """`iou` is None for a label that neither truth nor prediction holds."""
        iou = round(self.intersection / self.union, 4) if self.union else None
        return {"iou": iou, "kind": "rectangle" if "rectangle" in self.kinds else "mask", "pixels": self.truth}


def read_truth(folder: Path) -> tuple[list[str], dict[str, NDArray[np.uint8]]]:
    """Read `labels.json` and every index PNG: labels in order, and (H, W) uint8 per stem, value i + 1 = label i.

    Raises:
        ImageUnavailable: a file is missing or is not an index PNG.
    """
    listing = folder / "labels.json"
    if not listing.is_file():
        raise ImageUnavailable(f"truth {folder}", "it holds no labels.json", "Draw it with worker.builtin.draw.")
    labels = list(json.loads(listing.read_text())["labels"])
    truth = {path.stem: _read_index(path) for path in sorted(folder.glob("*.png"))}
    if not truth:
        raise ImageUnavailable(f"truth {folder}", "it holds no PNG", "Draw it with worker.builtin.draw.")
    return labels, truth


def _read_index(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2:
        raise ImageUnavailable(f"truth {path}", "it is not an 8-bit index PNG", "Draw it with worker.builtin.draw.")
    return np.asarray(image, dtype=np.uint8)


def read_predictions(path: Path) -> Predictions:
    """Read the file of predicted regions.

    Raises:
        JobError: it is missing, not JSON, or not a mapping of lists.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise JobError(f"predictions {path}", f"they cannot be read ({error})", "Give a JSON file.") from error
    if not isinstance(found, dict) or not all(isinstance(regions, list) for regions in found.values()):
        raise JobError(f"predictions {path}", "they are not a mapping", 'Map image stems to lists: {"scene_0001": []}.')
    return found


def label_masks(regions: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> tuple[dict[str, Mask], set[str]]:
    """Union of the regions of each label, (H, W) bool, and the labels that were given as rectangles."""
    masks: dict[str, Mask] = {}
    boxed: set[str] = set()
    for region in regions:
        if not str(region.get("type", "")).endswith("labels"):
            continue  # a comment or a relation paints nothing
        label, mask = region_label(region), decode_region(region, size[1], size[0])
        masks[label] = masks[label] | mask if label in masks else mask
        if region["type"] == "rectanglelabels":
            boxed.add(label)
    return masks, boxed


def component_boxes(mask: Mask) -> Mask:
    """(H, W) bool: the filled bounding box of every 8-connected component of a mask."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = np.zeros_like(mask)
    for left, top, width, height in stats[1:count, :4]:
        boxes[top : top + height, left : left + width] = True
    return boxes


def score(labels: Sequence[str], truth: Mapping[str, NDArray[np.uint8]], predictions: Predictions) -> dict[str, object]:
    """IoU of every label, pixels pooled over all pictures; a picture without prediction counts as empty.

    Args:
        labels: in the order of the truth's values.
        truth: (H, W) uint8 per stem.
        predictions: regions per stem; labels the truth does not have are listed and otherwise ignored.

    Returns:
        `mean_iou` over the labels without background, `per_label`, `pictures`, `ignored_labels`.

    Raises:
        JobError: predictions name a picture that the truth does not have.
        RegionError: a region cannot be decoded.
    """
    strangers = sorted(set(predictions) - set(truth))
    if strangers:
        raise JobError("predictions", f"no truth for {', '.join(strangers[:3])}", "Use the stems of the drawn images.")
    decoded = {stem: label_masks(predictions.get(stem, ()), (*index.shape,)) for stem, index in truth.items()}  # type: ignore[arg-type]
    boxed = {label for _, names in decoded.values() for label in names}
    tallies = {label: Tally(kinds={"rectangle"} if label in boxed else {"mask"}) for label in labels}
    for stem, index in truth.items():
        for value, label in enumerate(labels, start=1):
            _add(tallies[label], index == value, decoded[stem][0].get(label), boxes=label in boxed)
    judged = [t.intersection / t.union for label, t in tallies.items() if t.union and label != BACKGROUND]
    found = {label for masks, _ in decoded.values() for label in masks}
    return {
        "mean_iou": round(float(np.mean(judged)), 4) if judged else None,
        "per_label": {label: tally.as_json() for label, tally in tallies.items()},
        "pictures": len(truth),
        "ignored_labels": sorted(found - set(labels)),
    }


def _add(tally: Tally, wanted: Mask, found: Mask | None, *, boxes: bool) -> None:
    tally.truth += int(wanted.sum())
    if boxes:
        wanted = component_boxes(wanted)
    found = np.zeros_like(wanted) if found is None else found
    tally.intersection += int((wanted & found).sum())
    tally.union += int((wanted | found).sum())


def overlay_sheet(images: Path, labels: Sequence[str], predictions: Predictions) -> NDArray[np.uint8]:
    """Paint the predicted regions over up to 12 pictures, under one legend: (H, W, 3) uint8 RGB.

    Raises:
        ImageUnavailable: there is nothing to paint, or a picture is missing.
    """
    paintings: list[Painting] = []
    for stem in sorted(predictions)[:12]:
        stored = cv2.imread(str(images / f"{stem}.png"), cv2.IMREAD_COLOR)
        if stored is None:
            raise ImageUnavailable(f"picture {images / stem}.png", "it cannot be read", "Name its folder by --images.")
        image = np.asarray(stored[..., ::-1], dtype=np.uint8)
        masks, _ = label_masks(predictions[stem], (image.shape[0], image.shape[1]))
        paintings.append(Painting(image, [(label, masks[label]) for label in labels if label in masks]))
    if not paintings:
        raise ImageUnavailable("overlay", "no picture has predictions", "Predict something first.")
    return np.asarray(draw_sheet(paintings, labels), dtype=np.uint8)


def write_overlay(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write an RGB sheet.

    Raises:
        EnvironmentBroken: the file cannot be written.
    """
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise EnvironmentBroken(f"file {path}", "it cannot be written", "Check that its folder exists and has room.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the result on stdout, errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m worker.evaluation.score", description=main.__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="folder with labels.json and index PNGs")
    parser.add_argument("--predictions", type=Path, required=True, help="JSON: image stem to Label Studio regions")
    parser.add_argument("--images", type=Path, help="pictures for --overlay; default: images/ beside the truth")
    parser.add_argument("--overlay", type=Path, help="write a picture of the regions over the images")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)
    try:
        labels, truth = read_truth(options.truth)
        predictions = read_predictions(options.predictions)
        result = score(labels, truth, predictions)
        if options.overlay is not None:
            images = options.images or options.truth.parent / "images"
            write_overlay(options.overlay, overlay_sheet(images, labels, predictions))
    except ZeromaskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n" if options.json else _table(result))
    return 0


def _table(result: Mapping[str, Any]) -> str:
    rows = [f"{line['iou']!s:>7}  {line['kind']:<9}  {name}" for name, line in result["per_label"].items()]
    return "\n".join([*rows, f"{result['mean_iou']!s:>7}  mean over {result['pictures']} pictures"]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
