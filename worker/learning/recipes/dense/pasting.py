"""Generated features of labels that nobody has corrected, pasted into the cells of a crop, and the loss of such a crop.

Rows of a crop with pasted cells: the taught labels, the supplied ones, the background last. A pasted cell is of its
supplied label. A cell without a region that nothing was pasted into may be of the background or of any supplied label
(as in "Modeling the Background": Cermelli et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.recipes.dense.lseg import cross_entropy
from worker.learning.recipes.dense.networks import DenseOutput
from worker.learning.recipes.dense.training import DenseLoss
from worker.learning.recipes.generated import GeneratedExamples
from worker.segmentation.metrics import VOID

_MOST_BLOBS = 3  # of a crop
_SIDES = (1 / 8, 1 / 2)  # of a blob, of those of the crop: a decoder's convolutions are to see regions
_MOST_SHARE = 0.5  # of the cells that may be pasted into


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Supply:
    """Generated features of the supplied labels.

    Attributes:
        vectors: (N, D) float32 like the cells of `DenseNetwork.entry`.
        labels: (N,) int64, of each a number of a supplied label, from 0; every label has some.
        texts: (S, T) float32 label vectors of the supplied labels.
    """

    vectors: Tensor
    labels: Tensor
    texts: Tensor

    @classmethod
    def of(cls, generated: GeneratedExamples, texts: Tensor) -> Supply:
        """What was generated for some of n labels with these (n, T) label vectors."""
        supplied = torch.tensor(sorted(set(generated.labels.tolist())))
        return cls(generated.vectors, torch.searchsorted(supplied, generated.labels), texts[supplied])


def paste(
    entry: Tensor, truth: Tensor, supply: Supply, background: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Paste blobs of generated features into each image of a batch, at most half of the cells where it may be done.

    These are the cells that lie wholly on pixels without a region. In a crop that has none, as where every pixel has a
    label, they are all cells without a void pixel: no loss reaches void pixels, so what lies there stays unknown.

    Args:
        entry: (B, D, h, w) map.
        truth: (B, H, W) int64: a taught row, from 0, the background after them, or VOID.
        supply: what is pasted.
        background: row of the background in the truth.
        rng: random generator.

    Returns:
        The map with the pasted cells, all others as they are; and the truth in rows of taught labels, supplied labels
        and background.
    """
    grid = (entry.shape[2], entry.shape[3])
    free, known = ~_touched(truth != background, grid), ~_touched(truth == VOID, grid)
    places = torch.where(free.flatten(1).any(dim=1)[:, None, None], free, known).cpu().numpy()
    count = len(supply.texts)
    blobs = np.stack([draw_blobs(place, count, rng) for place in places])  # (B, h, w)
    chosen = np.zeros_like(blobs)
    of_each = supply.labels.cpu().numpy()
    for label in np.unique(blobs[blobs >= 0]):
        chosen[blobs == label] = rng.choice(np.flatnonzero(of_each == label), np.count_nonzero(blobs == label))
    drawn = torch.from_numpy(blobs).to(entry.device)
    vectors = supply.vectors[torch.from_numpy(chosen)].to(entry).permute(0, 3, 1, 2)  # (B, D, h, w)
    at_pixels = _at_pixels(drawn, (truth.shape[1], truth.shape[2]))
    moved = torch.where(truth == background, background + count, truth)
    return (torch.where(drawn[:, None] >= 0, vectors, entry),
            torch.where(at_pixels >= 0, background + at_pixels, moved))  # fmt: skip


def draw_blobs(places: NDArray[np.bool_], labels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one to three rectangles around some of the places, each of one label, and cut them to the places.

    Args:
        places: (h, w) bool: cells that may be taken.
        labels: how many there are.
        rng: random generator.

    Returns:
        (h, w) int64: the number of a label in at most half of the places, -1 elsewhere.
    """
    blobs = np.full(places.shape, -1, dtype=np.int64)
    left = int(_MOST_SHARE * np.count_nonzero(places))
    for _ in range(int(rng.integers(1, _MOST_BLOBS + 1))):
        free = np.argwhere(places & (blobs < 0))
        if not left or not len(free):
            break
        part = []
        for centre, side in zip(free[rng.integers(len(free))].tolist(), places.shape, strict=True):
            length = max(1, round(side * float(rng.uniform(*_SIDES))))
            start = max(0, centre - length // 2)
            part.append(slice(start, start + length))
        inside = np.zeros_like(places)
        inside[tuple(part)] = True
        rows, columns = (found[:left] for found in np.nonzero(inside & places & (blobs < 0)))
        blobs[rows, columns] = rng.integers(labels)
        left -= len(rows)
    return blobs


@dataclass(frozen=True)
class SparingSoftmax:
    """The loss of one softmax over all labels, for crops with pasted cells.

    A pasted pixel has its cross-entropy over all labels. For all others the posteriors of supplied labels and
    background are one, so that the loss knows no difference between them. Every pixel weighs the same.

    Attributes:
        loss: of the taught labels and the background.
        taught: how many labels are taught.
    """

    loss: DenseLoss
    taught: int

    def __call__(self, output: DenseOutput, truth: Tensor) -> Mapping[str, Tensor]:
        """Compute the terms of the loss, "supplied" and their "total".

        Args:
            output: of taught labels, supplied labels and background.
            truth: (B, H, W) int64, in these rows, or VOID.
        """
        logits, last = output.logits.float(), output.logits.shape[1] - 1
        pasted = (truth >= self.taught) & (truth < last)
        rest = logits[:, self.taught :].logsumexp(dim=1, keepdim=True)
        merged = truth.masked_fill(pasted, VOID).masked_fill(truth == last, self.taught)
        terms = self.loss(replace(output, logits=torch.cat([logits[:, : self.taught], rest], dim=1)), merged)
        supplied = cross_entropy(logits, truth.masked_fill(~pasted, VOID))
        share = pasted.sum() / (truth != VOID).sum().clamp_min(1)
        return {**terms, "supplied": supplied, "total": (1 - share) * terms["total"] + share * supplied}


def _touched(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h, w) bool: cells that one of the pixels (B, H, W) lies in."""
    return F.adaptive_max_pool2d(pixels[:, None].float(), grid)[:, 0] > 0


def _at_pixels(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) values of the cells (B, h, w) that pixels lie in."""
    rows, columns = (
        torch.arange(pixels, device=cells.device) * count // pixels
        for pixels, count in zip(size, cells.shape[1:], strict=True)
    )
    return cells[:, rows[:, None], columns]
