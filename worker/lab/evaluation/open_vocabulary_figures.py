"""What is counted on the benchmarks of open-vocabulary segmentation: IoU of each class, pixels pooled over all images.

Predictions are judged at the size of the truth, whatever the size at which an image enters the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import LearningError
from worker.lab.evaluation.class_names import curated_words, plain_words
from worker.lab.evaluation.labelled_set import open_labelled_set
from worker.lab.evaluation.published_sets import Benchmark, PublishedSet
from worker.lab.evaluation.set_files import SetItem
from worker.lab.evaluation.zeroshot import GivenScores
from worker.learning.interfaces import Words
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID, Confusion, class_ious, confusion
from worker.segmentation.outlines.refinement import ADAPTIVE
from worker.segmentation.segmenter import Segmenter

PHOTOS = "photos"
NAMES: Mapping[str, Callable[[Sequence[str]], Words]] = {"plain": plain_words, "curated": curated_words}
"""How classes are named; see `worker.lab.evaluation.class_names`."""

_LONGEST = 2048  # pixels, of the longer side of an image as published


@dataclass(frozen=True)
class BenchmarkFigures:
    """What was measured on one benchmark with one kind of names.

    Attributes:
        benchmark: what was judged.
        names: a key of NAMES.
        ious: of each class, the background last where it is judged, in [0, 1]; NaN where the truth never shows it.
        unread: labels of which the model knows no word; they are never predicted.
    """

    benchmark: Benchmark
    names: str
    ious: tuple[float, ...]
    unread: int

    @property
    def miou(self) -> float:
        """Mean over the classes that the truth shows."""
        return float(np.nanmean(self.ious))


class _Run:
    """Counts one benchmark with one kind of names, image after image."""

    def __init__(self, segmenter: Segmenter, benchmark: Benchmark, names: str) -> None:
        self.benchmark, self.names = benchmark, names
        self._segmenter = segmenter
        self._words = NAMES[names](benchmark.labels)
        self._classes = segmenter.classes(self._words)
        self.unread = int((~self._classes.has_text[:-1]).sum())
        if self.unread == len(benchmark.labels):
            problem = f"model {segmenter.encoder.name} can read none of them"
            raise LearningError(f"labels of {benchmark.name}", problem, "Name another --model.")
        count = len(benchmark.labels) + 1
        self._confusion: Confusion = np.zeros((count, count), dtype=np.int64)

    def add(
        self, embedding: ImageEmbedding, image: NDArray[np.uint8], values: NDArray[np.int64], *, outlines: bool
    ) -> None:
        """Judge an image, whose mask has these values."""
        scores = self._segmenter.score(embedding, self._words, image, classes=self._classes)
        found = scores.zero_shot
        if not self.benchmark.has_background:  # every judged pixel has a label, so the background is no answer
            found = found.without([len(self.benchmark.labels)])
        predicted, _ = self._segmenter.pixel_classes(scores, GivenScores(found, ADAPTIVE), outlines=outlines)
        self._confusion += confusion(self.benchmark.truth(values), predicted, len(self._confusion))

    def figures(self) -> BenchmarkFigures:
        """What was counted so far."""
        ious = class_ious(self._confusion)
        judged = ious if self.benchmark.has_background else ious[:-1]
        return BenchmarkFigures(self.benchmark, self.names, tuple(float(iou) for iou in judged), self.unread)


def measure(
    segmenter: Segmenter, data: PublishedSet, items: Sequence[SetItem], *, names: Sequence[str] = tuple(NAMES),
    published_sides: bool = True, outlines: bool = True, progress: Callable[[int], None] = lambda _: None,
) -> list[BenchmarkFigures]:  # fmt: skip
    """Judge images one by one; memory does not grow with their number.

    Args:
        segmenter: the model.
        data: the set.
        items: of the set, what is judged.
        names: keys of NAMES.
        published_sides: whether images are brought to the shorter side of each benchmark; else they keep their size.
        outlines: whether masks follow the outlines of the images; papers without a refinement step do not.
        progress: told how many images are done.

    Raises:
        ImageUnavailable: an image or a mask cannot be read.
        LearningError: the model can read no label of a benchmark.
    """
    runs = [_Run(segmenter, benchmark, kind) for benchmark in data.benchmarks for kind in _kinds(benchmark, names)]
    for number, item in enumerate(items):
        image, values = data.read(item)
        embeddings: dict[int, ImageEmbedding] = {}
        for run in runs:
            side = run.benchmark.short_side if published_sides else 0
            if side not in embeddings:
                entered = segmenter.embed([brought_to(image, side)])[0]
                # Patches cover the image whatever its size, so that outlines are followed, and judged, at its own.
                embeddings[side] = replace(entered, size=(image.shape[0], image.shape[1]))
            run.add(embeddings[side], image, values, outlines=outlines)
        progress(number + 1)
    return [run.figures() for run in runs]


def _kinds(benchmark: Benchmark, names: Sequence[str]) -> list[str]:
    """The kinds of names that differ for a benchmark."""
    by_words = {NAMES[kind](benchmark.labels): kind for kind in reversed(names)}
    return [kind for kind in names if kind in by_words.values()]


def brought_to(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) with its shorter side at so many pixels, the longer at most at 2048; 0 = as it is."""
    height, width = image.shape[:2]
    scale = min(short_side / min(height, width), _LONGEST / max(height, width))
    if scale in (0, 1):
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), dtype=np.uint8)


def photographs(folder: Path, part: str) -> PublishedSet:
    """A part of a folder of photographs, as `zeromask evaluate` reads them elsewhere; labels by their own names.

    Raises:
        ImageUnavailable: the folder is no set, or it has no such part.
    """
    found = open_labelled_set(folder, [part])
    count = len(found.words)
    rest = count if found.has_background else VOID
    # VOID and UNLABELLED count from the end.
    classes = np.array([*range(count), VOID, rest], dtype=np.int16)
    labels = tuple(texts[0] for texts in found.words)
    images, masks = folder / "images", folder / "masks"
    items = tuple(SetItem(stem, images / stem, masks / f"{stem}.png") for stem in found.stems[part])

    def read(item: SetItem) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        photo = found.read(item.name)
        return photo.image, photo.truth.astype(np.int64)

    return PublishedSet(PHOTOS, (Benchmark(PHOTOS, labels, found.has_background, classes, 0),), items, read)
