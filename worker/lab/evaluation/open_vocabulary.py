"""Training-free open-vocabulary segmentation on the eight benchmarks that papers compare, beside what they published.

Images enter at the published shorter side and are read in windows of the published size, as the engine has them:
overlapping by a quarter (papers: by half), on one graph. Predictions are judged at the size of the truth; mIoU is over
pixels pooled over all images.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.lab.evaluation.labelled_set import spread
from worker.lab.evaluation.open_vocabulary_figures import NAMES, PHOTOS, BenchmarkFigures, measure, photographs
from worker.lab.evaluation.published_figures import EIGHT, PUBLISHED
from worker.lab.evaluation.published_sets import SETS, published_set
from worker.lab.progress import shown
from worker.segmentation.segmenter import Segmenter

MEANING = "the eight published benchmarks of open-vocabulary segmentation, beside published figures"

WINDOW_SIDE = 224
"""Side of a window as published, pixels, for models that take 224."""

_BOTH = "both"
_MOST_WINDOWS = 64  # all that the published shorter sides need: 21 for Cityscapes, 30 for a panorama of COCO
_BACKGROUND = "a class, judged too: the word itself and the engine's negative words; no threshold"


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="holds the set as its archives unpack; a missing part is named")
    add("--data", choices=(*SETS, PHOTOS), required=True, help="voc: VOC21 and VOC20; context: Context60 and "
        "Context59; coco-stuff: COCO-Object and COCO-Stuff; photos: a folder with split.json")  # fmt: skip
    add("--part", default="test", help="of photos (default: %(default)s)")
    add("--names", choices=(*NAMES, _BOTH), default=_BOTH, help="plain: as published by the set; curated: what they "
        "mean, with synonyms (default: %(default)s)")  # fmt: skip
    add("--limit", type=int, default=0, metavar="N", help="judge N images spread over the set (default: all)")
    add("--as-served", action="store_true", help="images, short side and windows as workers have them")
    add("--network-alone", action="store_true", help="masks as the scores are, without the outline stage")
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure and print."""
    if options.limit < 0:
        raise SettingsError("--limit", f"{options.limit} is below 0", "Give the number of images, or 0 for all.")
    photos = options.data == PHOTOS
    data = photographs(options.folder, options.part) if photos else published_set(options.data, options.folder)
    if not options.as_served:
        short_side, windows = settings.short_side or WINDOW_SIDE, settings.windows or _MOST_WINDOWS
        settings = replace(settings, short_side=short_side, windows=windows)
    items = spread(data.items, options.limit)
    names = tuple(NAMES) if options.names == _BOTH else (options.names,)
    segmenter = Segmenter.from_settings(settings)
    with shown(Console(stderr=True), f"Evaluating {options.data}", len(items)) as show:
        found = measure(segmenter, data, items, names=names, published_sides=not options.as_served,
                        outlines=not options.network_alone, progress=show)  # fmt: skip
    summary: dict[str, Any] = {
        "data": options.data, "images": len(items), "of": len(data.items), "model": settings.model,
        "readout": segmenter.encoder.readout.name, "affinity_tower": settings.affinity_tower,
        "window_side": segmenter.encoder.short_side, "most_windows": settings.windows,
        "as_served": options.as_served, "outlines": not options.network_alone,
        "measured": [as_json(one, as_served=options.as_served) for one in found],
        "published": [] if photos else published([one.benchmark.name for one in found]),
    }  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n" if options.json else table(summary))
    return 0


def as_json(found: BenchmarkFigures, *, as_served: bool) -> dict[str, Any]:
    """One measured row, its IoUs in [0, 1]."""
    benchmark = found.benchmark
    labels = (*benchmark.labels, *["background"] * benchmark.has_background)
    return {
        "benchmark": benchmark.name, "names": found.names, "miou": round(found.miou, 4),
        "background": _BACKGROUND if benchmark.has_background else "no answer, and its pixels are not judged",
        "short_side": 0 if as_served else benchmark.short_side, "unread": found.unread,
        "per_class": {
            label: None if np.isnan(iou) else round(iou, 4) for label, iou in zip(labels, found.ious, strict=True)
        },
    }  # fmt: skip


def published(benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """The published rows, mIoU in [0, 1], for some benchmarks."""
    return [
        {
            "method": row.method, "source": row.source, "beside": row.beside,
            "mious": {name: round(row.mious[name] / 100, 4) for name in EIGHT if name in {*benchmarks} & {*row.mious}},
            "average_of_eight": round(row.average / 100, 4),
        }
        for row in PUBLISHED
    ]  # fmt: skip


def table(summary: Mapping[str, Any]) -> str:
    """Format the figures for a person: measured and published mIoU side by side, in percent."""
    measured, stated = summary["measured"], summary["published"]
    by_benchmark = {row["benchmark"]: row for row in measured}
    sides = ", ".join(f"{row['short_side']} px" if row["short_side"] else "as it is" for row in by_benchmark.values())
    lines = [
        f"{summary['data']}: {summary['images']} of {summary['of']} images, model {summary['model']}, readout "
        f"{summary['readout']}, affinity tower {summary['affinity_tower'] or 'none'}",
        f"images {'as served' if summary['as_served'] else f'with their shorter side {sides}'}; windows of "
        f"{summary['window_side']} px, at most {summary['most_windows'] or 1}; "
        f"outline stage {'on' if summary['outlines'] else 'off'}",
        *(f"{name}: background is {row['background']}" for name, row in by_benchmark.items()),
        *(f"{row['benchmark']}, {row['names']} names: {row['unread']} labels in words that the model does not know"
          for row in measured if row["unread"]),
        "",
        _line("mIoU in percent", [*by_benchmark, *["mean of 8"] * bool(stated)]),
    ]  # fmt: skip
    for names in dict.fromkeys(row["names"] for row in measured):
        mious = {row["benchmark"]: row["miou"] for row in measured if row["names"] == names}
        lines.append(_line(f"measured   Zeromask, {names} names", _percent(mious, by_benchmark)))
    for row in stated:
        title = f"published  {row['method']}" + (f" ({row['beside']})" if row["beside"] else "")
        mean = {"mean": row["average_of_eight"]}
        lines.append(_line(title, [*_percent(row["mious"], by_benchmark), *_percent(mean, mean)]))
    if stated:
        lines += ["", "Published: training-free, CLIP ViT-B/16 with OpenAI's weights but for SAM 3, names most often",
                  "curated by each paper, protocols that differ in details. --json has the sources."]  # fmt: skip
    if stated and summary["images"] < summary["of"]:
        lines.append("Measured on a part of the set: not to be compared with published figures.")
    return "\n".join(lines) + "\n"


def _percent(mious: Mapping[str, float], benchmarks: Iterable[str]) -> list[str]:
    return [f"{100 * mious[name]:.1f}" if name in mious else "" for name in benchmarks]


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:<54}" + "".join(f"{cell:>13}" for cell in cells)
