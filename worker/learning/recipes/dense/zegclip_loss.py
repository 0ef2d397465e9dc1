"""ZegCLIP's loss: each label by itself, so that an unseen one is not pushed down because a seen one is there.

What differs from the authors' code: their focal term takes pixels that are to be ignored, those of unseen labels among
them, as negatives of every seen label. Here they are masked out; `as_released` takes them so, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from worker.learning.recipes.dense.batches import HIDDEN
from worker.learning.recipes.dense.lseg import cross_entropy
from worker.learning.recipes.dense.networks import DenseOutput
from worker.learning.recipes.dense.training import DenseLoss
from worker.segmentation.metrics import VOID

_ALPHA, _GAMMA = 0.25, 2.0  # of the focal term (Lin et al., ICCV 2017)
_NEVER = -1e4  # logit of a sigmoid that is 0, with no loss and no gradient


@dataclass(frozen=True)
class ZegclipLoss:
    """L = 100 focal + dice, over a sigmoid for each label.

    Attributes:
        focal: weight of the focal term.
        exclusive: whether the cross-entropy of one softmax over all labels takes their place.
        as_released: whether pixels without a class are negatives of every label in the focal term.
        unseen: rows of the labels that are known by name alone; they take part where pseudo-labels do.
        pseudo: whether pixels that are HIDDEN get the unseen label that the network itself finds likeliest there.
    """

    focal: float = 100.0
    exclusive: bool = False
    as_released: bool = False
    unseen: tuple[int, ...] = ()
    pseudo: bool = False

    def __call__(self, output: DenseOutput, truth: Tensor) -> dict[str, Tensor]:
        """Compute the terms and their "total".

        Args:
            output: of all labels, the background last.
            truth: (B, H, W) int64: a row of the label vectors, VOID, or HIDDEN.
        """
        logits = at_pixels(output.logits, truth)
        if self.pseudo:
            truth = pseudo_labelled(logits, truth, self.unseen)
        elif self.unseen:
            logits, truth = _without(logits, truth, self.unseen)
        truth = truth.masked_fill(truth == HIDDEN, VOID)
        if self.exclusive:
            align = cross_entropy(logits, truth)
            return {"align": align, "total": align}
        # One image at a time, computed again for its gradient: the inner values of many labels would fill the memory.
        each = [
            checkpoint(self._of_image, *one, use_reentrant=False, preserve_rng_state=False)
            for one in zip(torch.split(logits, 1), torch.split(truth, 1), strict=True)
        ]
        focal, dice, masks = torch.stack(each).sum(dim=0)
        focal, dice = focal / masks.clamp_min(1), dice / masks.clamp_min(1)
        return {"focal": focal, "dice": dice, "total": self.focal * focal + dice}

    def _of_image(self, logits: Tensor, truth: Tensor) -> Tensor:
        """(3,): focal and dice of (1, T, H, W) logits and (1, H, W) truth, and how many labels it shows."""
        rows = torch.arange(logits.shape[1], device=truth.device).reshape(1, -1, 1, 1)
        targets = (truth[:, None] == rows).float()  # (1, T, H, W)
        judged = torch.ones_like(truth, dtype=torch.bool) if self.as_released else truth != VOID
        masks = targets.flatten(2).amax(dim=2).sum()
        return torch.stack([focal_loss(logits, targets, judged), dice_loss(logits, targets, judged), masks])


@dataclass(frozen=True)
class SparingSigmoids:
    """The loss of sigmoids for crops with pasted cells, whose pixels are of their supplied label.

    Where no region lies and nothing was pasted, the sigmoids of supplied labels have no loss.

    Attributes:
        loss: of all labels.
        taught: how many labels are taught.
    """

    loss: DenseLoss
    taught: int

    def __call__(self, output: DenseOutput, truth: Tensor) -> Mapping[str, Tensor]:
        """Compute the terms and their "total".

        Args:
            output: of taught labels, supplied labels and background.
            truth: (B, H, W) int64, in these rows, or VOID.
        """
        logits, last = at_pixels(output.logits, truth), output.logits.shape[1] - 1
        rows = torch.arange(last + 1, device=truth.device).reshape(1, -1, 1, 1)
        spared = (truth == last)[:, None] & (rows >= self.taught) & (rows < last)
        return self.loss(replace(output, logits=logits.masked_fill(spared, _NEVER)), truth)


def at_pixels(logits: Tensor, truth: Tensor) -> Tensor:
    """(B, T, h, w) logits as float32 on the grid of the truth (B, H, W)."""
    if logits.shape[-2:] == truth.shape[-2:]:
        return logits.float()
    return F.interpolate(logits.float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)


def focal_loss(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """Focal cross-entropy of sigmoids, the mean over the judged pixels of an image, summed over labels and images.

    Args:
        logits: (B, T, H, W) float32.
        targets: the same shape, 0 or 1.
        judged: (B, H, W) bool.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probabilities = logits.sigmoid()
    wrong = torch.where(targets > 0, 1 - probabilities, probabilities)
    weight = torch.where(targets > 0, _ALPHA, 1 - _ALPHA)
    values = (weight * wrong**_GAMMA * entropy * judged[:, None]).sum(dim=(1, 2, 3))
    return (values / judged.sum(dim=(1, 2)).clamp_min(1)).sum()


def dice_loss(logits: Tensor, targets: Tensor, judged: Tensor) -> Tensor:
    """One minus the dice coefficient of a mask and its sigmoids, summed over the labels that an image shows."""
    probabilities = (logits.sigmoid() * judged[:, None]).flatten(2)
    wanted = targets.flatten(2)
    both = (probabilities * wanted).sum(dim=2)
    dice = 1 - (2 * both + 1) / (probabilities.sum(dim=2) + wanted.sum(dim=2) + 1)
    return (dice * (wanted.amax(dim=2) > 0)).sum()


def pseudo_labelled(logits: Tensor, truth: Tensor, unseen: tuple[int, ...]) -> Tensor:
    """Give pixels that are HIDDEN the likeliest of some labels, for want of anything but the network itself.

    Args:
        logits: (B, T, H, W) float32.
        truth: (B, H, W) int64.
        unseen: rows of these labels.
    """
    rows = torch.tensor(unseen, device=truth.device)
    return torch.where(truth == HIDDEN, rows[logits.detach()[:, rows].argmax(dim=1)], truth)


def _without(logits: Tensor, truth: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits and truth as if there were no such labels, which no pixel has."""
    kept = [row for row in range(logits.shape[1]) if row not in rows]
    places = truth.new_full((logits.shape[1],), VOID)
    places[kept] = torch.arange(len(kept), device=truth.device)
    return logits[:, kept], torch.where(truth >= 0, places[truth.clamp_min(0)], truth)
