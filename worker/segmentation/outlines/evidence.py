"""What coarse class scores say, and how far they are to be trusted: shares, scale, noise, crowding.

Nothing here looks at pixels. It must not know about labels or graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

_PURE = 0.7  # quantile of the patches at which the margin is that of a patch with one class in it
_QUIETEST = 0.02  # a noise below this is not told from none
_FEW = 64  # classes among which a patch's are sought first
_SMOOTHEST, _STIFFEST = 0.003, 1.0
# Fitted on training parts of photographs; docs/research/outlines.md has the figures.
_TRUST, _NOISE_UNIT, _NOISE_POWER, _CROWD_POWER = 0.06, 0.1, 4, 3
_BLURRED, _SHARP = 0.55, 0.65  # steps at class borders, in scales: of blurred shares, and of posteriors


@dataclass(frozen=True)
class Evidence:
    """Patch logits read as area shares: a patch half sky, half tree looks half like each.

    The logit of a patch feature is linear in the share of the patch that a class covers, a posterior is not: it drops
    the smaller class of a mixed patch, and with it everything thin. So shares are what is refined.

    Attributes:
        shares: (C, h, w) float32; their sum over C is 1; noise takes some below 0 and above 1.
        scale: what a share is worth in logits.
        noise: standard deviation of the noise in the shares, read off what is impossible in them.
        crowding: effective number of classes in the picture, the perplexity of their total areas.
        sureness: by how many logits a patch with one class in it is ahead of the next.
    """

    shares: Tensor
    scale: float
    noise: float
    crowding: float
    sureness: float

    @property
    def trust(self) -> float:
        """Weight of the evidence against smoothness: high where it is clean, and where many classes share the scene."""
        fitted = _TRUST * (_NOISE_UNIT / max(self.noise, _QUIETEST)) ** _NOISE_POWER * self.crowding**_CROWD_POWER
        return min(_STIFFEST, max(_SMOOTHEST, fitted))

    def of(self, classes: Tensor) -> Evidence:
        """The same about some of the classes, (n,) int64, which share among them what the others leave."""
        if len(classes) == len(self.shares):
            return self
        kept = self.shares[classes]
        return replace(self, shares=kept + (1 - kept.sum(dim=0)) / len(kept))


def read_evidence(coarse: Tensor) -> Evidence:
    """Turn patch logits (C, h, w), C at least 2, on a scale where softmax gives the posterior, into shares."""
    count = coarse.shape[0]
    ahead = coarse.topk(2, dim=0).values
    best = ahead[0]
    margin = best - (coarse.sum(dim=0) - best) / (count - 1)
    scale = max(float(torch.quantile(margin.flatten(), _PURE)), 1e-6)
    shares = (coarse - coarse.mean(dim=0)) / scale + 1 / count
    impossible = shares.clamp_max(0.0).square().sum() / (shares < 0).sum().clamp_min(1)
    area = nearest_shares(shares).mean(dim=(1, 2))
    crowding = float(torch.exp(-(area * area.clamp_min(1e-9).log()).sum()))
    # A model may also have been trained to give shares as posteriors. Its logits then leap at borders.
    saturated = min(1.0, max(0.0, (_border_step(coarse) / scale - _BLURRED) / (_SHARP - _BLURRED)))
    shares = torch.lerp(shares, coarse.softmax(dim=0), saturated)
    return Evidence(shares, scale, float(impossible.sqrt()), crowding, sure_by(ahead))


def spoken(logits: Tensor) -> Tensor:
    """(C,) bool: classes of (C, ...) of which anything is said; of the others every logit is -inf."""
    return ~logits.isneginf().flatten(1).all(dim=1)


def enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, h, w) to (C, *size), bilinear; averaged where the size is the smaller. Classes not spoken of stay so."""
    smaller = size[0] < logits.shape[1] or size[1] < logits.shape[2]
    found = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]
    found[~spoken(logits)] = -torch.inf  # between them there is no number
    return found


def sure_by(ahead: Tensor) -> float:
    """By how many logits a patch with one class in it is ahead, of the (2, h, w) best and second best of all."""
    return max(float(torch.quantile((ahead[0] - ahead[1]).flatten(), _PURE)), 1e-6)


def nearest_shares(shares: Tensor) -> Tensor:
    """The possible shares (none negative, sum 1) nearest to noisy ones; sparsemax (Martins and Astudillo, 2016)."""
    above, support = _support(shares, min(len(shares), _FEW))
    if len(shares) > _FEW and int(support.max()) >= _FEW:  # of thousands of classes a patch has a handful
        above, support = _support(shares, len(shares))
    return (shares - above.gather(0, support - 1) / support).clamp_min(0.0)


def _support(shares: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Sums of the largest shares less 1, (most, ...), and how many classes have a part, (1, ...), at most `most`."""
    falling = shares.topk(most, dim=0).values
    above = falling.cumsum(dim=0) - 1
    rank = torch.arange(1, most + 1, device=shares.device).view(-1, *[1] * (shares.dim() - 1))
    return above, (falling * rank > above).sum(dim=0, keepdim=True)


def _border_step(coarse: Tensor) -> float:
    """Median change, from one patch to the next, of the margin between the two classes that meet there; 0 if none."""
    winner = coarse.argmax(dim=0)
    steps = []
    for here, there in (((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
                        ((slice(None), slice(None, -1)), (slice(None), slice(1, None)))):  # fmt: skip
        meeting = winner[here] != winner[there]
        first, second = winner[here][meeting], winner[there][meeting]  # (n,)
        one, other = coarse[:, *here][:, meeting], coarse[:, *there][:, meeting]  # (C, n)
        before = one.gather(0, first[None]) - one.gather(0, second[None])
        after = other.gather(0, first[None]) - other.gather(0, second[None])
        steps.append((before - after)[0])
    found = torch.cat(steps)
    return float(found.median()) if found.numel() else 0.0
