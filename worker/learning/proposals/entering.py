"""How an image comes to a query decoder, and its proposals out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.proposals.proposals import Proposals
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.pictures import entered_pixels
from worker.segmentation.segmenter import Segmenter


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class DecodedProposals:
    """The proposals of a decoder, and what it says of the labels that it was trained with.

    Attributes:
        proposals: Q of an image.
        logits: (Q, S + 1) float32; the row of no object is last.
    """

    proposals: Proposals
    logits: Tensor


def enter(image: NDArray[np.uint8], decoder: QueryDecoder) -> Tensor:
    """(3, h, w) uint8 pixels of an image (H, W, 3) at the size at which it enters the decoder's tower."""
    return entered_pixels(image, decoder.config.short_side, decoder.tower.multiple)


@one_thread()
@torch.no_grad()
def propose(image: NDArray[np.uint8], decoder: QueryDecoder, segmenter: Segmenter) -> DecodedProposals:
    """Propose masks and vectors in an image, (H, W, 3) uint8 RGB of any size, with a trained decoder."""
    decoder.eval()
    maps = segmenter.towers.maps(decoder.tower, enter(image, decoder))
    found = decoder(maps)
    return DecodedProposals(Proposals(found.masks[0].float(), found.vectors[0].float()), found.logits[0].float())
