"""Noisy shares + image -> the classes an image really shows, and whether its regions are few and large.

A vocabulary says what may be there. Noise gives each of its classes some patches, so that a few large regions look like
a crowd of small ones. Two things tell them apart: noise goes below 0 as far as above, and what smoothing along the
image takes away is noise alone, which is Gaussian, unless small things went with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.outlines.evidence import LEAST_NOISE, Evidence, nearest_shares, negative_noise
from worker.segmentation.outlines.guided import fit_local_lines
from worker.segmentation.outlines.propagation import average_matrix
from worker.segmentation.pictures import rgb_picture

NOISY = 0.2
"""Standard deviation of the noise in shares, below which small things are seen and no class is in doubt."""

CROWDED = 0.3
"""Trust that marks a crowd: where the classes that are there for certain give it, regions are not few."""

# These, and how trust depends on noise and crowding, were fitted on photographs; see docs/research/outlines.md.
_TAILS = (0.28, 0.15)  # excess kurtosis of what smoothing removed: small things were among it; it was noise alone
_NEARBY = 8.0  # patches: noise may change over the image, but hardly within this distance
_RADIUS, _SMOOTHNESS = 2, 3e-3  # of the guided filter: patches, variance of colour in [0, 1]
_BLURS = (0.0, 1.0, 2.0, 4.0)  # patches: a class is looked for in regions of about these sizes
_INDEPENDENT = 0.4  # part of the values whose noise is their own: neighbouring patches share some
_LEAST_TRUST, _MOST_TRUST = 0.003, 1.0
_TRUST, _NOISE_UNIT, _NOISE_POWER, _CROWD_POWER = 0.06, 0.1, 4, 3


@dataclass(frozen=True)
class Regions:
    """What shares and image tell of the image's regions.

    Attributes:
        there: (C,) bool the classes that must be kept; all, unless the regions are few and large: else a class that
            noise explains may still be a small thing.
        crowding: effective number of classes in the image: perplexity of their total areas.
        noise: standard deviation of the noise in the shares.
        few: 1 where the regions were found to be few and large, down to 0.
        low_passed: (C, h, w) float32 the shares fitted by eigenvectors, where they had to be.
    """

    there: Tensor
    crowding: float
    noise: float
    few: float = 0.0
    low_passed: Tensor | None = None

    @property
    def trust(self) -> float:
        """Weight of the evidence against smoothness: high for clean evidence and for images with many classes."""
        clean = (_NOISE_UNIT / max(self.noise, LEAST_NOISE)) ** _NOISE_POWER
        return min(_MOST_TRUST, max(_LEAST_TRUST, _TRUST * clean * self.crowding**_CROWD_POWER))


def read_regions(evidence: Evidence, image: NDArray[np.uint8], low_pass: Callable[[], Tensor] | None) -> Regions:
    """Tell few large regions from a crowd of small ones, and with few, the classes that are there from those of noise.

    Regions are few and large if what smoothing removes from the shares looks Gaussian, smoothed in small windows (a
    guided filter, which is cheap and comes first) and over the whole image (eigenvectors): small things among it make
    the tails of its distribution heavy. Then crowding counts only the classes that are there; in between it is weighed.

    Args:
        evidence: of the plausible classes.
        image: (H, W, 3) uint8 RGB.
        low_pass: computes the shares (C, h, w) fitted by eigenvectors, which takes time; None = not to be used.
    """
    shares = evidence.shares
    every = torch.ones(len(shares), dtype=torch.bool, device=shares.device)
    crowding = _perplexity(evidence.valid_shares())
    crowd = Regions(every, crowding, evidence.noise)
    few = 0.0
    if evidence.noise > NOISY:
        few = _ramp(_excess_kurtosis(shares - _guided(shares, image)), *_TAILS)
    there = beyond_noise(shares) if few else every
    if not few or not bool(there.any()):
        return crowd
    sure = _perplexity(nearest_shares(evidence.of(there.nonzero()[:, 0]).shares))
    if replace(crowd, crowding=sure).trust >= CROWDED:
        return crowd
    low_passed = None
    if low_pass is not None:
        low_passed = low_pass()
        few = min(few, _ramp(_excess_kurtosis(shares - low_passed), *_TAILS))
    kept = there if few > 0.5 else every
    return Regions(kept, crowding + few * (sure - crowding), evidence.noise, few, low_passed)


def beyond_noise(shares: Tensor) -> Tensor:
    """(C,) bool whether noise alone does not explain a class of the shares (C, h, w).

    A blur leaves regions and removes noise, and how much noise is left shows in the negative shares. At some blur the
    class must somewhere be above all that noise reaches in so many independent values: the universal threshold, noise *
    sqrt(2 log n) (Donoho and Johnstone, 1994).
    """
    found, unblurred = torch.zeros(len(shares), dtype=torch.bool, device=shares.device), LEAST_NOISE
    for blur in _BLURS:
        blurred = _blurred(shares, blur)
        noise = max(negative_noise(blurred), LEAST_NOISE)
        unblurred = unblurred if blur else noise
        independent = max(2.0, _INDEPENDENT * shares.numel() * min(1.0, (noise / unblurred) ** 2))
        found |= blurred.amax(dim=(1, 2)) > noise * math.sqrt(2 * math.log(independent))
    return found


def _guided(shares: Tensor, image: NDArray[np.uint8]) -> Tensor:
    guide = rgb_picture(image, (shares.shape[1], shares.shape[2])).to(shares.device)
    return fit_local_lines(shares, guide, radius=_RADIUS, smoothness=_SMOOTHNESS).at(guide)


def _excess_kurtosis(values: Tensor) -> float:
    """Fourth moment over the square of the second, minus that of a Gaussian: 0 of noise, more with heavy tails.

    Values (C, h, w) are scaled by the second moment around them: noise that is stronger in places has no heavy tails.
    """
    square = values.square()
    scaled = square / _blurred(square.mean(dim=0, keepdim=True), _NEARBY).clamp_min(1e-12)
    return float(scaled.square().mean() / scaled.mean().square().clamp_min(1e-12)) - 3


def _blurred(shares: Tensor, blur: float) -> Tensor:
    if not blur:
        return shares
    rows, columns = (average_matrix(side, side, blur).to(shares) for side in shares.shape[1:])
    return rows @ shares @ columns.T


def _perplexity(shares: Tensor) -> float:
    area = shares.mean(dim=(1, 2))
    return float(torch.exp(-(area * area.clamp_min(1e-9).log()).sum()))


def _ramp(value: float, start: float, end: float) -> float:
    """0 from `start` up, 1 below `end`, which is less."""
    return min(1.0, max(0.0, (start - value) / (start - end)))
