"""`python -m worker.lab.benchmarks.windows`: what tiling gains on large drawn images, with a builtin model.

Things are small beside the image, so that one pass sees them too coarsely. Compared on the same images: one pass,
windows that are only merged, windows harmonised on one affinity graph, and windows whose last attention is one over all
of them, where the readout has such a form.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.encoders.readouts import READOUTS
from worker.segmentation.metrics import class_ious, confusion
from worker.segmentation.segmenter import Segmenter

LABELS = ("red shape", "striped circle", "blue square", "green dotted shape", "yellow star")


def main(arguments: Sequence[str]) -> int:
    """Draw the images, segment each way, print means and paired gains."""
    parser = argparse.ArgumentParser(description="One pass against windows on large drawn images.")
    parser.add_argument("--pictures", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=768, help="pixels of the square images, default %(default)s")
    parser.add_argument("--unit", type=float, default=160, help="pixels that object sizes are relative to")
    parser.add_argument("--windows", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=11, help="default: %(default)s")
    parser.add_argument("--model", default="builtin", help="as the MODEL setting, default: %(default)s")
    parser.add_argument("--readout", default="value", choices=tuple(READOUTS), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    found = parser.parse_args(arguments)
    torch.set_num_threads(1)
    encoder = partial(Encoder, found.model, device="cpu", precision="fp32")
    encoders = {
        "one pass": encoder(readout=found.readout),
        "windows": encoder(readout=found.readout, windows=found.windows, harmonised=False),
        "windows and graph": encoder(readout=found.readout, windows=found.windows),
    }
    if (stitched := f"{found.readout}-stitched") in READOUTS:
        encoders["stitched windows"] = encoder(readout=stitched, windows=found.windows)
    segmenter = Segmenter(encoders["one pass"])
    scores: dict[str, list[float]] = {method: [] for method in encoders}
    seconds: dict[str, list[float]] = {method: [] for method in encoders}
    rng = np.random.default_rng(found.seed)
    numbers = range(found.pictures)
    for number in track(numbers, "Windows", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        scene = annotation_scene(rng, LABELS, number=number, size=(found.side, found.side), unit=found.unit)
        truth = index_truth(scene, LABELS)
        for method, one in encoders.items():
            started = time.process_time()
            (embedding,) = one.embed_images([scene.image])
            seconds[method].append(time.process_time() - started)
            scores[method].append(_miou(segmenter, embedding, scene.image, truth))
    row = {method: {"miou": round(statistics.mean(scores[method]), 4), **_gain(scores, method),
                 "seconds": round(statistics.median(seconds[method]), 3)} for method in encoders}  # fmt: skip
    summary = {"model": found.model, "readout": found.readout, "pictures": found.pictures, "side": found.side,
               "unit": found.unit, "windows": found.windows, **row}  # fmt: skip
    if found.json:
        sys.stdout.write(json.dumps(summary) + "\n")
        return 0
    for method in encoders:
        sys.stdout.write("{:18} mIoU {miou:.3f}  gain {gain:+.3f} +- {error:.3f}  {seconds:.2f} s of one core\n".format(
            method, **row[method]))  # fmt: skip
    return 0


def _miou(
    segmenter: Segmenter, embedding: ImageEmbedding, image: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> float:
    """Mean IoU of the labels that the image shows, after the outline stage."""
    scene = segmenter.score(embedding, [(label,) for label in LABELS], image)
    classes, _ = segmenter.pixel_classes(scene)
    wanted = np.where(truth == 0, len(LABELS), truth.astype(np.int64) - 1)
    return float(np.nanmean(class_ious(confusion(wanted, classes, len(LABELS) + 1))[:-1]))


def _gain(scores: dict[str, list[float]], method: str) -> dict[str, float]:
    """Mean gain over one pass on the same images, and its standard error."""
    gains = [a - b for a, b in zip(scores[method], scores["one pass"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return {"gain": round(statistics.mean(gains), 4), "error": round(error, 4)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
