"""Score predicted regions against drawn truth: `python -m worker.lab.evaluation.score --truth T --predictions F`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from plugin_config.errors import EnvironmentBroken, ImageUnavailable, JobError, ZeromaskError
from worker.label_studio.regions import decode_region, region_label
from worker.overlay import Colour, Painting, draw_sheet
from worker.segmentation.metrics import iou_of_counts

BACKGROUND = "background"
_MOST_PAINTED = 24  # images
_REMEDY = "Draw it with `python -m worker.lab.drawn_world.draw`."
Mask = NDArray[np.bool_]
Predictions = Mapping[str, Sequence[Mapping[str, Any]]]
"""Stem of an image's file to the Label Studio regions predicted for the image."""


def read_truth(folder: Path) -> tuple[list[str], dict[str, NDArray[np.uint8]]]:
    """Read the labels of `labels.json` in order, and each index PNG as (H, W) uint8 by its stem; i + 1 is label i.

    Raises:
        ImageUnavailable: a file is missing or is not an index PNG.
    """
    listing = folder / "labels.json"
    if not listing.is_file():
        raise ImageUnavailable(f"truth {folder}", "it holds no labels.json", _REMEDY)
    labels = list(json.loads(listing.read_text())["labels"])
    truth = {path.stem: _read_index(path) for path in sorted(folder.glob("*.png"))}
    if not truth:
        raise ImageUnavailable(f"truth {folder}", "it holds no PNG", _REMEDY)
    return labels, truth


def _read_index(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2:
        raise ImageUnavailable(f"truth {path}", "it is not an 8-bit index PNG", _REMEDY)
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
    """Union of the regions of each label, and which labels have rectangles.

    Args:
        regions: Label Studio regions of one image.
        size: (H, W) of the masks in pixels.

    Returns:
        (H, W) bool mask by label, and the labels of rectangles.
    """
    masks: dict[str, Mask] = {}
    boxed: set[str] = set()
    for region in regions:
        if not str(region.get("type", "")).endswith("labels"):
            continue  # a comment or a relation has no pixels
        label, mask = region_label(region), decode_region(region, size[1], size[0])
        masks[label] = masks[label] | mask if label in masks else mask
        if region["type"] == "rectanglelabels":
            boxed.add(label)
    return masks, boxed


def component_boxes(mask: Mask) -> Mask:
    """Fill the bounding box of each 8-connected component of an (H, W) bool mask."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = np.zeros_like(mask)
    for left, top, width, height in stats[1:count, :4]:
        boxes[top : top + height, left : left + width] = True
    return boxes


def score(labels: Sequence[str], truth: Mapping[str, NDArray[np.uint8]], predictions: Predictions) -> dict[str, object]:
    """IoU of each label, pixels pooled over all images; an image without predictions counts as empty.

    Of labels predicted as rectangles the truth is the bounding boxes of its components.

    Args:
        labels: in the order of the truth's values.
        truth: (H, W) uint8 index image by stem.
        predictions: regions by stem; labels that the truth does not have are listed and otherwise ignored.

    Returns:
        `mean_iou` over the labels that occur, without the background; `per_label`, whose `iou` is None for a label in
        neither truth nor predictions; `pictures`, `ignored_labels`.

    Raises:
        JobError: predictions name an image that the truth does not have.
        RegionError: a region cannot be decoded.
    """
    unknown = sorted(set(predictions) - set(truth))
    if unknown:
        raise JobError("predictions", f"no truth for {', '.join(unknown[:3])}", "Use the stems of the drawn images.")
    decoded = {stem: label_masks(predictions.get(stem, ()), (*index.shape,)) for stem, index in truth.items()}  # type: ignore[arg-type]
    boxed = {label for _, names in decoded.values() for label in names}
    pixels = np.zeros((4, len(labels)), dtype=np.int64)  # in common, true, predicted, true before boxes are filled
    for stem, index in truth.items():
        for k, label in enumerate(labels):
            wanted = drawn = index == k + 1
            if label in boxed:
                wanted = component_boxes(drawn)
            predicted = decoded[stem][0].get(label, np.zeros_like(wanted))
            pixels[:, k] += [np.count_nonzero(mask) for mask in (wanted & predicted, wanted, predicted, drawn)]
    occurs = pixels[1] + pixels[2] > 0
    ious = np.nan_to_num(iou_of_counts(*pixels[:3]))  # 0 where only the predictions have the label
    judged = [ious[k] for k, label in enumerate(labels) if occurs[k] and label != BACKGROUND]
    named = {label for masks, _ in decoded.values() for label in masks}
    return {
        "mean_iou": round(float(np.mean(judged)), 4) if judged else None,
        "per_label": {
            label: {"iou": round(float(ious[k]), 4) if occurs[k] else None,
                    "kind": "rectangle" if label in boxed else "mask", "pixels": int(pixels[3, k])}
            for k, label in enumerate(labels)
        },
        "pictures": len(truth),
        "ignored_labels": sorted(named - set(labels)),
    }  # fmt: skip


def overlay_sheet(
    images: Path, labels: Sequence[str], predictions: Predictions, colours: Mapping[str, Colour] | None = None
) -> NDArray[np.uint8]:
    """The first images, each beside itself with the predicted regions painted over it, and one legend below:
    (H, W, 3) uint8 RGB.

    Args:
        images: folder of the images, PNG files.
        labels: in the order of the legend.
        predictions: regions by stem.
        colours: RGB of labels; the others get those of `worker.overlay`.

    Raises:
        ImageUnavailable: there are no predictions, or an image is missing.
    """
    paintings: list[Painting] = []
    for stem in sorted(predictions)[:_MOST_PAINTED]:
        stored = cv2.imread(str(images / f"{stem}.png"), cv2.IMREAD_COLOR)
        if stored is None:
            raise ImageUnavailable(f"picture {images / stem}.png", "it cannot be read", "Name its folder by --images.")
        image = np.asarray(stored[..., ::-1], dtype=np.uint8)
        masks, _ = label_masks(predictions[stem], (image.shape[0], image.shape[1]))
        painted = [(label, masks[label]) for label in labels if label in masks]
        paintings += [Painting(image, []), Painting(image, painted)]
    if not paintings:
        raise ImageUnavailable("overlay", "no picture has predictions", "Predict something first.")
    columns = min(4, len(paintings))
    titles = ("picture", "masks") * (columns // 2)
    sheet = draw_sheet(paintings, labels, columns=columns, titles=titles, colours=colours)
    return np.asarray(sheet, dtype=np.uint8)


def write_overlay(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Write an RGB sheet.

    Raises:
        EnvironmentBroken: the file cannot be written.
    """
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise EnvironmentBroken(f"file {path}", "it cannot be written", "Check that its folder exists and has room.")


def _colours(text: str) -> dict[str, Colour]:
    try:
        return {str(label): ImageColor.getrgb(colour)[:3] for label, colour in dict(json.loads(text)).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"give a JSON object of CSS colours ({error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Score and print the result on stdout, errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.evaluation.score", description=main.__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="folder with labels.json and index PNGs")
    parser.add_argument("--predictions", type=Path, required=True, help="JSON: image stem to Label Studio regions")
    parser.add_argument("--images", type=Path, help="pictures for --overlay; default: images/ beside the truth")
    parser.add_argument("--overlay", type=Path, help="write the overlay of the regions on the images")
    parser.add_argument("--colours", type=_colours, help="of its labels: a JSON object of CSS colours")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    options = parser.parse_args(arguments)
    try:
        labels, truth = read_truth(options.truth)
        predictions = read_predictions(options.predictions)
        result = score(labels, truth, predictions)
        if options.overlay is not None:
            images = options.images or options.truth.parent / "images"
            write_overlay(options.overlay, overlay_sheet(images, labels, predictions, options.colours))
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
