"""Proposals without any training: what the model itself takes for objects, cut into things, and the rest of the image
in regions of like features.

Things are the pixels that "object" describes better than "background" does, cut where things touch. The rest is
clustered by the eigenvectors of the image's graph (`worker.segmentation.outlines.spectral`); clusters whose mean
features are nearly the same become one, because a stuff is one segment however its parts lie. A model that cannot read
"object" proposes no things.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.proposals.proposals import Proposals
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.outlines.spectral import eigen_segments
from worker.segmentation.segmenter import Segmenter

OBJECT = ("object",)
"""Texts of what things are found by."""

_CLUSTERS = 12  # of the whole image, things among them
# Cosine of the mean features of two clusters above which they are one. Of the 30 stuffs of 20 training scenes of
# drawn:things, 29 are proposed with IoU 0.5 at 0.9, 28 at 0.8 and at 0.95, 20 at 0.5, and 27 where none are joined.
_SAME_STUFF = 0.9
_LEAST_SHARE = 0.01  # of the image: smaller clusters are rims of things
_FINER = 2  # cells of the masks' grid to a side of a patch
_SUREST = 0.98  # share that counts as all of a cell: its logit is finite


@torch.no_grad()
def engine_proposals(
    image: NDArray[np.uint8], segmenter: Segmenter, embedding: ImageEmbedding | None = None
) -> Proposals:
    """Propose things one by one and regions of stuff.

    Args:
        image: (H, W, 3) uint8 RGB.
        segmenter: the model.
        embedding: of the image; None = it is made now.

    Returns:
        Proposals whose vectors are mean patch features of unit length, in the space that the model shares with the
        text; none for a picture of one colour.
    """
    embedding = segmenter.embed([image])[0] if embedding is None else embedding
    masks = [] if _is_blank(image) else _regions(image, segmenter, embedding)
    patches = (embedding.features.shape[0], embedding.features.shape[1])
    grid = (_FINER * patches[0], _FINER * patches[1])
    if not masks:
        return Proposals(torch.zeros(0, *grid), torch.zeros(0, embedding.features.shape[2]))
    drawn = torch.from_numpy(np.stack(masks)).float()[None]
    logits = torch.logit(F.adaptive_avg_pool2d(drawn, grid)[0], eps=1 - _SUREST)
    return Proposals(logits, mean_features(embedding.features.cpu(), F.adaptive_avg_pool2d(drawn, patches)[0]))


def mean_features(features: Tensor, shares: Tensor) -> Tensor:
    """Average patch features (h, w, D) over masks: (Q, D) of unit length, of (Q, h, w) shares of each patch."""
    return F.normalize(torch.einsum("qhw,hwd->qd", shares, features.float()), dim=1)


def _regions(image: NDArray[np.uint8], segmenter: Segmenter, embedding: ImageEmbedding) -> list[NDArray[np.bool_]]:
    classes, confidence = segmenter.pixel_classes(segmenter.score(embedding, (OBJECT,), image))
    things = [found.mask for found in assemble(classes, confidence, [SegmentRequest(0, stuff=False)], image)]
    ground = ~np.any(things, axis=0) if things else np.ones(image.shape[:2], dtype=np.bool_)
    return things + _stuff(image, embedding.features, ground)


def _stuff(image: NDArray[np.uint8], features: Tensor, ground: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The regions of the ground, largest first: two clusters at a time become one while any are alike enough."""
    clusters = eigen_segments(image, features, count=_CLUSTERS)
    masks = [(clusters == k) & ground for k in range(int(clusters.max()) + 1)]
    masks = [mask for mask in masks if np.count_nonzero(mask) >= _LEAST_SHARE * mask.size]
    while len(masks) > 1:
        drawn = torch.from_numpy(np.stack(masks)).float()[None]
        means = mean_features(features.cpu(), F.adaptive_avg_pool2d(drawn, (features.shape[0], features.shape[1]))[0])
        alike = (means @ means.T).fill_diagonal_(-1)
        one, other = divmod(int(alike.argmax()), len(masks))
        if float(alike[one, other]) < _SAME_STUFF:
            break
        joined = masks[one] | masks[other]
        masks = [mask for place, mask in enumerate(masks) if place not in (one, other)] + [joined]
    return sorted(masks, key=lambda mask: -np.count_nonzero(mask))


def _is_blank(image: NDArray[np.uint8]) -> bool:
    return bool((image == image[0, 0]).all())
