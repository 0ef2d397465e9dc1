"""PASCAL-5i and COCO-20i: is the class that is named found in the image? Published, and with what is wrong mended.

As published, each item is one image and one class of the fold, and only that class and the background are asked for.
`--fixed` judges each line of the list once, lets every class of the fold compete, and chooses among several adapters by
the classes that training saw, never by those of the fold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.evaluation.fold_lists import (
    FOLDS,
    ITEMS,
    FoldData,
    FoldItem,
    published_items,
    read_fold,
    read_seen,
    seen_sample,
)
from worker.lab.evaluation.zeroshot import adapter_title, leak_note
from worker.learning.adapter_files import load_adapter_folder
from worker.segmentation.heads import Head
from worker.segmentation.metrics import confusion, iou_of_counts
from worker.segmentation.segmenter import Segmenter

MEANING = "PASCAL-5i and COCO-20i, class given, as published: mIoU and FB-IoU"
_SELECTED_BY = 200  # items of seen classes by which one of several adapters is chosen

Progress = Callable[[Iterable[FoldItem]], Iterable[FoldItem]]


@dataclass(frozen=True)
class FoldFigures:
    """What was measured; all in [0, 1].

    Attributes:
        ious: of each class, pixels pooled over its items.
        miou: their mean.
        fb_iou: mean of the IoU of all classes as one, and of the background.
        items: how many were judged.
    """

    ious: Mapping[str, float]
    miou: float
    fb_iou: float
    items: int


def measure(
    segmenter: Segmenter, head: Head | None, data: FoldData, items: Sequence[FoldItem], *,
    together: Sequence[int] = (), outlines: bool = True, progress: Progress = iter,
) -> FoldFigures:  # fmt: skip
    """Judge items, each on its own class; ignored pixels are not judged.

    Args:
        segmenter: the model.
        head: None = zero-shot.
        data: the set.
        items: what is judged.
        together: indices of classes that compete in every image; () = the item's class alone, as published.
        outlines: whether masks follow the outlines of the images.
        progress: wraps the items.
    """
    counts: dict[int, NDArray[np.int64]] = {k: np.zeros((2, 2), dtype=np.int64) for k in data.classes}
    judged = 0
    for item in progress(items):
        image, truth = data.read(item)
        asked = tuple(together) or (item.index,)
        words = tuple((data.names[k],) for k in asked)
        scores = segmenter.score(segmenter.embed([image])[0], words, image)
        predicted, _ = segmenter.pixel_classes(scores, head, outlines=outlines)
        found = np.where(predicted == asked.index(item.index), 0, 1)
        counts[item.index] += confusion(truth, found, 2)
        judged += 1
    ious = {data.names[k]: float(_ious(table)[0]) for k, table in counts.items() if table[0].sum()}
    everything = np.sum(list(counts.values()), axis=0)
    both = _ious(everything)
    return FoldFigures(ious, float(np.mean(list(ious.values()))) if ious else 0.0, float(np.nanmean(both)), judged)


def _ious(table: NDArray[np.int64]) -> NDArray[np.float64]:
    return iou_of_counts(np.diagonal(table), table.sum(axis=1), table.sum(axis=0))


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol."""
    add = parser.add_argument
    add("--dataset", choices=("pascal", "coco"), required=True, help="PASCAL-5i or COCO-20i")
    add("--fold", type=int, choices=range(FOLDS), required=True, help="whose classes training did not see")
    add("--root", type=Path, required=True, metavar="DIR", help="holds VOC2012/ or COCO2014/, and splits/")
    add("--fixed", action="store_true", help="each line of the list once, all classes of the fold competing; of "
        "several adapters the best on seen classes")  # fmt: skip
    add("--items", type=int, default=ITEMS, help="judged as published (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the items of COCO (default: %(default)s)")
    add("--network-alone", action="store_true", help="masks as the scores are, without the outline stage")
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--adapter", type=Path, nargs="+", default=[], metavar="DIR", help="what `zeromask train` wrote; several with "
        "--fixed (default: zero-shot)")  # fmt: skip


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure and print."""
    if len(options.adapter) > 1 and not options.fixed:
        remedy = "Give one, or --fixed, which chooses by the classes that training saw."
        raise SettingsError("--adapter", "several are given, and the fold must not choose", remedy)
    if options.items < 1:
        raise SettingsError("--items", f"{options.items} is not above 0", "Give a larger number.")
    data = read_fold(options.dataset, options.fold, options.root)
    segmenter = Segmenter.from_settings(settings)
    console = Console(stderr=True)
    outlines = not options.network_alone

    def progress(items: Iterable[FoldItem]) -> Iterable[FoldItem]:
        return track(items, "Evaluating", console=console, disable=not console.is_terminal)

    loaded = {folder: load_adapter_folder(folder, segmenter) for folder in options.adapter}
    heads = {adapter_title(folder, head): head for folder, head in loaded.items()}
    chosen, selection = next(iter(heads), ""), {}
    if len(heads) > 1:
        seen = read_seen(options.dataset, options.fold, options.root)
        sample = seen_sample(seen, _SELECTED_BY)
        selection = {
            name: measure(segmenter, head, seen, sample, outlines=outlines, progress=progress).miou
            for name, head in heads.items()
        }
        chosen = max(selection, key=lambda name: selection[name])
    items = data.items if options.fixed else list(published_items(data, count=options.items, seed=options.seed))
    found = measure(segmenter, heads.get(chosen), data, items, together=data.classes if options.fixed else (),
                    outlines=outlines, progress=progress)  # fmt: skip
    summary: dict[str, Any] = {
        "dataset": options.dataset, "fold": options.fold, "fixed": options.fixed, "miou": round(found.miou, 4),
        "fb_iou": round(found.fb_iou, 4), "items": found.items, "adapter": chosen,
        "per_class": {name: round(iou, 4) for name, iou in found.ious.items()},
    }  # fmt: skip
    if selection:
        summary["seen_miou"] = {name: round(miou, 4) for name, miou in selection.items()}
    sys.stdout.write(json.dumps(summary) + "\n" if options.json else table(summary))
    return 0


def table(summary: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    kind = "fixed" if summary["fixed"] else "as published"
    lines = [f"{summary['dataset']}, fold {summary['fold']}, {kind}, {summary['items']} items"
             f"{leak_note(summary['adapter'])}"]  # fmt: skip
    lines += [f"  {iou:.3f}  {name}" for name, iou in summary["per_class"].items()]
    lines += [f"  {miou:.3f}  mIoU on seen classes: {name}" for name, miou in summary.get("seen_miou", {}).items()]
    lines.append(f"mIoU {summary['miou']:.3f}, FB-IoU {summary['fb_iou']:.3f}")
    return "\n".join(lines) + "\n"
