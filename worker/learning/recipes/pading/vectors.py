"""What a query decoder proposes in annotated images: the real vectors that a classifier and a generator learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import ClassMap, drawn_classes
from worker.learning.generator.vectors import RealVectors
from worker.learning.interfaces import UNLABELLED
from worker.learning.proposals.entering import DecodedProposals, propose
from worker.learning.proposals.matching import NO_OBJECT, label_proposals
from worker.learning.proposals.proposals import SegmentedImage
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.segmentation.instances.class_map import class_components
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

Report = Callable[[int, int], None]
"""(images done, images in all)"""

_MOST_UNKNOWN = 0.5  # of a proposal, from which nobody can say that it is of no object
_LEAST_AREA = 0.0005  # of the image: smaller components are slips of the pen


def real_vectors(
    decoder: QueryDecoder, samples: Sequence[SegmentedImage], segmenter: Segmenter, report: Report | None = None
) -> RealVectors:
    """Collect the vectors that a decoder proposes in images, with the labels of the segments that they match.

    Proposals that match none are examples of no object, but for those that lie on pixels of which nothing is known.

    Args:
        decoder: trained.
        samples: images and their segments, whose classes are rows of its labels.
        segmenter: the model.
        report: told of every image.

    Raises:
        LearningError: nothing is proposed in any image.
    """
    vectors, labels = [], []
    for number, sample in enumerate(samples):
        found = propose(sample.image, decoder, segmenter)
        named = label_proposals(found.proposals, sample, found.logits)
        kept = (named != NO_OBJECT) | ~_on_unknown(found, sample)
        vectors.append(found.proposals.vectors[kept.to(found.proposals.vectors.device)])
        labels.append(named[kept])
        if report is not None:
            report(number + 1, len(samples))
    if not sum(map(len, vectors)):
        raise LearningError("proposals", "no picture has any", "Train the query decoder longer, or on more pictures.")
    return RealVectors(torch.cat(vectors), torch.cat(labels).to(vectors[0].device))


def segmented(image: NDArray[np.uint8], truth: ClassMap) -> SegmentedImage:
    """Find the segments of an annotated image: each connected component of a class is one.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) classes; pixels that are UNLABELLED belong to none, and of VOID ones nothing is known.
    """
    numbers = np.where(truth == VOID, np.int16(VOID), np.int16(UNLABELLED))
    classes: list[int] = []
    least = max(1, round(_LEAST_AREA * truth.size))
    for k in sorted(drawn_classes(truth)):
        for mask, crop, _ in class_components(truth, k, min_area=1):
            large = int(np.count_nonzero(mask)) >= least
            numbers[crop][mask] = len(classes) if large else VOID
            classes += [k] if large else []
    return SegmentedImage(image, numbers, tuple(classes))


def _on_unknown(found: DecodedProposals, sample: SegmentedImage) -> Tensor:
    """(Q,) bool: proposals that lie mostly on pixels of which nothing is known."""
    masks = found.proposals.masks
    _, known = sample.shares((masks.shape[1], masks.shape[2]))
    inside = masks.sigmoid().cpu()
    unknown = (inside * (1 - known)).flatten(1).sum(dim=1)
    return unknown > _MOST_UNKNOWN * inside.flatten(1).sum(dim=1)
