"""Class maps and images -> examples to learn from, and a digest of what a set of examples says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plugin_config.vocabulary import Vocabulary
from worker.learning.corrections.class_maps import ClassMap, drawn_classes, merge_class_maps, renumber
from worker.learning.interfaces import Example, Words
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID
from worker.segmentation.pictures import resize

LONGEST_SIDE = 640
"""Pixels of the longer side at which examples are kept: hundreds of them fit the memory."""


def example_frame(size: tuple[int, int], embedded: tuple[int, int], *, longest_side: int) -> tuple[int, int]:
    """The (h, w) at which an example is kept.

    Args:
        size: (H, W) of the annotated image, pixels.
        embedded: (H, W) of the copy of it that was embedded; the example is no larger.
        longest_side: pixels that the example's longer side has at most.
    """
    scale = min(1.0, min(longest_side, max(embedded)) / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def make_example(
    key: str, maps: Sequence[ClassMap], words: Words, image: NDArray[np.uint8], embedding: ImageEmbedding
) -> Example:
    """Merge the annotators' class maps of one image, and reduce the image to their size.

    Args:
        key: of the example.
        maps: one per annotator, one or more, of one size, no larger than the image.
        words: the texts of each class in `maps`.
        image: (H, W, 3) uint8 RGB, upright.
        embedding: of the image.
    """
    truth = merge_class_maps(maps)
    frame = (truth.shape[0], truth.shape[1])
    return Example(key, resize(image, frame), replace(embedding, size=frame), words, truth)


def with_words(example: Example, words: Words) -> Example:
    """Renumber an example's classes for other words; pixels of classes that are not among them become VOID."""
    if example.words == words:
        return example
    index = {texts: number for number, texts in enumerate(words)}
    truth = renumber(example.truth, [index.get(texts, VOID) for texts in example.words])
    return replace(example, words=words, truth=truth)


def content_digest(examples: Iterable[Example], vocabulary: Vocabulary) -> str:
    """16 hex digits that change when what is learned from does: which images, and which label lies where in them.

    The order of the examples does not change it, nor do labels that none of them shows, nor other texts (synonyms,
    hints) under the same labels.

    Args:
        examples: all there are, with the vocabulary's words.
        vocabulary: of the project.
    """
    names = [" ".join(sorted({repr(label.key) for label in vocabulary.labels if label.texts == texts}))
             for texts in vocabulary.words]  # fmt: skip
    rows = []
    for example in examples:
        drawn = sorted(drawn_classes(example.truth), key=lambda number: (names[number], number))
        places = {number: place for place, number in enumerate(drawn)}
        truth = np.ascontiguousarray(renumber(example.truth, [places.get(k, VOID) for k in range(len(names))]))
        header = f"{example.key} {truth.shape} {[names[number] for number in drawn]} "
        rows.append(hashlib.sha256(header.encode() + truth.tobytes()).hexdigest())
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]
