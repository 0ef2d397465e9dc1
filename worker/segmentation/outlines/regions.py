"""Which classes an image really shows, and whether its regions are few and large, read off noisy shares, not pixels.

A vocabulary says what may be there. Noise gives each of its classes some patches, so that a few large regions look like
a crowd of small ones, unless what noise alone does is known: it goes below 0 as far as above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.segmentation.outlines.evidence import LEAST_NOISE, Evidence, nearest_shares, negative_noise
from worker.segmentation.outlines.propagation import average_matrix

_BLURS = (0.0, 1.0, 2.0, 4.0)  # patches: a class is looked for in regions of about these sizes
_LEAST_VARIANCE = 0.02  # of shares over an image; with less, one class covers nearly all of it
# These, and how trust depends on noise and crowding, were fitted on photographs; see docs/research/outlines.md.
_SMALL, _LARGE = 0.86, 0.90  # part of the variance that a blur of one patch leaves: regions are small; large
_FEW, _MANY = 3.0, 4.25  # effective number of classes
_LEAST_TRUST, _MOST_TRUST = 0.003, 1.0
_TRUST, _NOISE_UNIT, _NOISE_POWER, _CROWD_POWER = 0.06, 0.1, 4, 3


@dataclass(frozen=True)
class Regions:
    """What the shares tell of an image's regions.

    Attributes:
        there: (C,) bool the classes that an outline stage must keep; all, unless the regions are few and large: else
            one that noise explains may still be a small thing.
        crowding: effective number of classes in the image: perplexity of their total areas.
        noise: standard deviation of the noise in the shares.
        few: 1 where regions were found to be few and large although the vocabulary is larger, else down to 0.
    """

    there: Tensor
    crowding: float
    noise: float
    few: float = 0.0

    @property
    def trust(self) -> float:
        """Weight of the evidence against smoothness: high for clean evidence and for images with many classes."""
        clean = (_NOISE_UNIT / max(self.noise, LEAST_NOISE)) ** _NOISE_POWER
        return min(_MOST_TRUST, max(_LEAST_TRUST, _TRUST * clean * self.crowding**_CROWD_POWER))


def read_regions(evidence: Evidence) -> Regions:
    """Tell the classes that are there from those of noise, and with them how crowded the image is.

    A blur leaves regions and removes noise, and what is left of the noise shows in the negative shares. A class is
    there if at some blur it is anywhere above all that noise reaches in so many patches: above the universal threshold,
    noise * sqrt(2 log n) (Donoho and Johnstone, 1994).

    Small things do not pass it where the noise is high. So only where regions are few and large does the crowding leave
    out what does not pass; with small or many regions it is that of all classes, and in between, in between.
    """
    shares, count = evidence.shares, len(evidence.shares)
    there, variances, unblurred = torch.zeros(count, dtype=torch.bool, device=shares.device), [], LEAST_NOISE
    for blur in _BLURS:
        blurred = _blurred(shares, blur)
        noise = negative_noise(blurred)
        variances.append(float(blurred.var(dim=(1, 2), correction=0).sum()) - count * noise**2)
        noise = max(noise, LEAST_NOISE)
        unblurred = unblurred if blur else noise
        independent = max(2.0, shares.numel() * min(1.0, (noise / unblurred) ** 2))  # of the values, once blurred
        there |= blurred.amax(dim=(1, 2)) > noise * math.sqrt(2 * math.log(independent))
    crowding = _perplexity(evidence.valid_shares())
    if bool(there.all()) or not bool(there.any()):
        return Regions(torch.ones_like(there), crowding, evidence.noise)
    sure = _perplexity(nearest_shares(evidence.of(there.nonzero()[:, 0]).shares))
    left = variances[1] / variances[0] if variances[0] > _LEAST_VARIANCE else 1.0
    crowded = max(_ramp(left, _LARGE, _SMALL), _ramp(sure, _FEW, _MANY))
    if crowded >= 0.5:
        there = torch.ones_like(there)
    return Regions(there, sure + crowded * (crowding - sure), evidence.noise, 1 - crowded)


def _blurred(shares: Tensor, blur: float) -> Tensor:
    if not blur:
        return shares
    rows, columns = (average_matrix(side, side, blur).to(shares) for side in shares.shape[1:])
    return rows @ shares @ columns.T


def _perplexity(shares: Tensor) -> float:
    area = shares.mean(dim=(1, 2))
    return float(torch.exp(-(area * area.clamp_min(1e-9).log()).sum()))


def _ramp(value: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end` on (or the other way round where `end` is less)."""
    return min(1.0, max(0.0, (value - start) / (end - start)))
