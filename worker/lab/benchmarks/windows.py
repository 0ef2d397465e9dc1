"""`python -m worker.benchmarks.windows`: what windows and their graph bring on large drawn pictures, with the builtin.

Things are small beside the picture, so that one pass sees them too coarsely. Paired over the same pictures: one pass,
windows merged alone, windows harmonised on one graph. It must not know Redis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.segmenter import Segmenter

LABELS = ("red shape", "striped circle", "blue square", "green dotted shape", "yellow star")
_WAYS = ("one pass", "windows", "windows and graph")


def main(arguments: Sequence[str]) -> int:
    """Draw, segment each way, report means and the paired gains."""
    parser = argparse.ArgumentParser(description="One pass against windows on large drawn pictures.")
    parser.add_argument("--pictures", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--side", type=int, default=768, help="pixels of the square pictures, default %(default)s")
    parser.add_argument("--unit", type=float, default=160, help="pixels things are drawn relative to")
    parser.add_argument("--windows", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=11, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON line on the standard output")
    found = parser.parse_args(arguments)
    torch.set_num_threads(1)
    encoders = {
        way: Encoder("builtin", device="cpu", precision="fp32", windows=0 if way == _WAYS[0] else found.windows,
                     harmonised=way == _WAYS[2])
        for way in _WAYS
    }  # fmt: skip
    segmenter = Segmenter(encoders[_WAYS[0]])
    scores: dict[str, list[float]] = {way: [] for way in _WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    rng = np.random.default_rng(found.seed)
    numbers = range(found.pictures)
    for number in track(numbers, "Windows", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        scene = annotation_scene(rng, LABELS, number=number, size=(found.side, found.side), unit=found.unit)
        truth = index_truth(scene, LABELS)
        for way in _WAYS:
            started = time.perf_counter()
            (embedding,) = encoders[way].embed_images([scene.image])
            seconds[way].append(time.perf_counter() - started)
            scores[way].append(_miou(segmenter, embedding, scene.image, truth))
    row = {way: {"miou": round(statistics.mean(scores[way]), 4), **_gain(scores, way),
                 "seconds": round(statistics.median(seconds[way]), 3)} for way in _WAYS}  # fmt: skip
    told = {"pictures": found.pictures, "side": found.side, "unit": found.unit, "windows": found.windows, **row}
    if found.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return 0
    for way in _WAYS:
        sys.stdout.write("{:18} mIoU {miou:.3f}  gain {gain:+.3f} +- {error:.3f}  {seconds:.2f} s\n".format(
            way, **row[way]))  # fmt: skip
    return 0


def _miou(
    segmenter: Segmenter, embedding: ImageEmbedding, image: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> float:
    """Mean IoU of the labels that the picture shows, after the shape stage."""
    scene = segmenter.score(embedding, [(label,) for label in LABELS], image)
    classes, _ = segmenter.pixel_classes(scene)
    ious = []
    for index in range(len(LABELS)):
        found, real = classes == index, truth == index + 1
        if real.any():
            ious.append(float((found & real).sum() / (found | real).sum()))
    return statistics.mean(ious)


def _gain(scores: dict[str, list[float]], way: str) -> dict[str, float]:
    """Mean gain over one pass on the same pictures, and its standard error."""
    gains = [a - b for a, b in zip(scores[way], scores[_WAYS[0]], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return {"gain": round(statistics.mean(gains), 4), "error": round(error, 4)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
