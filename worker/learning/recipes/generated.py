"""Examples of labels that nobody has corrected, generated from their words.

A generator (PADing: He et al., CVPR 2023) learns from the cells of the corrected labels what patch features look like
that belong to a word, and makes features for the words of the other labels. Recipes learn from them beside the
corrections, so that these do not drown the other labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.learning.corrections.class_maps import drawn_classes, shrink_nearest
from worker.learning.corrections.examples import with_words
from worker.learning.interfaces import UNLABELLED, Example, Words
from worker.segmentation.metrics import VOID


@dataclass(frozen=True)
class GeneratedExamples:
    """Generated patch features.

    Attributes:
        vectors: (N, D) float32 of unit length.
        labels: (N,) int64: index of the label of each among the words they were generated for.
    """

    vectors: Tensor
    labels: Tensor


def labelled_cells(examples: Sequence[Example], words: Words) -> tuple[Tensor, Tensor]:
    """Read the patch features of corrected images, and the class of each.

    Args:
        examples: corrected images.
        words: the texts of each of n classes.

    Returns:
        (N, D) float32 features of the patches that are not void, and (N,) int64 classes: an index in `words`, or
        UNLABELLED.
    """
    vectors, labels = [], []
    for example in examples:
        features = example.embedding.features.cpu().float()
        truth = shrink_nearest(with_words(example, words).truth, (features.shape[0], features.shape[1]))
        found = torch.from_numpy(truth.astype(np.int64))
        known = found != VOID
        vectors.append(features[known])
        labels.append(found[known])
    if not vectors:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    return torch.cat(vectors), torch.cat(labels)
