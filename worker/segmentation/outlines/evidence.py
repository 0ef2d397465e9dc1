"""Patch logits read as area shares of the classes, with estimates of their scale and noise. No pixels are used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_PURE = 0.7  # quantile of the patches at which the margin is that of a patch with one class in it
LEAST_NOISE = 0.02
"""Standard deviation of shares; lower estimates are not distinguishable from no noise."""

_FEW_CLASSES = (16, 64)  # the classes of a patch are searched among so many first
_SHARE_STEP, _POSTERIOR_STEP = 0.55, 0.65  # at class borders, in scales: steps of blurred shares, and of posteriors


@dataclass(frozen=True)
class Evidence:
    """Area shares of the classes in each patch: half sky, half tree is 0.5 of each.

    The logit of a patch feature is linear in the share of the patch that a class covers. A posterior is not: it drops
    the smaller class of a mixed patch, and with it everything thin. Therefore shares are refined, not posteriors.

    Attributes:
        shares: (C, h, w) float32 with sum 1 over C; noise takes some below 0 and above 1.
        scale: logits per unit of share.
        noise: standard deviation of the noise in the shares, estimated from the negative ones.
        margin: logits between the best and the second-best class of a patch that shows one class.
        valid: (C, h, w) float32 the nearest shares that are possible; None = they are computed where they are needed.
    """

    shares: Tensor
    scale: float
    noise: float
    margin: float
    valid: Tensor | None = None

    def of(self, classes: Tensor) -> Evidence:
        """Keep some of the classes, (n,) int64; what the others had is divided evenly among them."""
        if len(classes) == len(self.shares):
            return self
        return replace(self, shares=spread_rest(self.shares[classes]), valid=None)

    def valid_shares(self) -> Tensor:
        """(C, h, w) float32 nearest shares that are possible: none negative, with sum 1."""
        return nearest_shares(self.shares) if self.valid is None else self.valid


def check_logits(coarse: Tensor, *, linear: bool) -> None:
    """Refuse patch logits (C, h, w) from which no outline can come, before they become an index that does not exist.

    Args:
        coarse: a class that is -inf everywhere has no score.
        linear: the logits are read as linear in the shares: a class with a score is above -inf in every patch.

    Raises:
        ValueError: they hold NaN or +inf, or -inf where that cannot be; or no class has a score.
    """
    best = coarse.flatten(1).amax(dim=1)
    if bool(best.isneginf().all()):
        raise ValueError(f"patch logits: no class of {len(coarse)} has a score. Give one a number in every patch.")
    wrong, got = best.isnan() | best.isposinf(), "NaN or +inf"  # `amax` is NaN where any patch is
    if linear and not bool(wrong.any()):
        wrong, got = ~best.isneginf() & coarse.flatten(1).amin(dim=1).isneginf(), "-inf in some patches"
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0, 0])
        remedy = "Compute them in float32 (ZEROMASK_PRECISION=fp32): half precision overflows"
        raise ValueError(f"patch logits: class {first} of {len(coarse)} is {got}, which is no score. {remedy}.")


def read_evidence(coarse: Tensor) -> Evidence:
    """Turn patch logits (C, h, w), C at least 2, on a scale where softmax gives the posterior, into shares.

    There may be thousands of classes on some thousand patches: each step here is one pass over all of them.
    """
    count = coarse.shape[0]
    top_two = coarse.topk(2, dim=0).values
    best = top_two[0]
    margin = best - (coarse.sum(dim=0) - best) / (count - 1)
    scale = max(float(torch.quantile(margin.flatten(), _PURE)), 1e-6)
    shares = (coarse - coarse.mean(dim=0)) / scale + 1 / count
    noise = negative_noise(shares)
    # A model may also have been trained to give shares as posteriors. Then its logits jump at borders.
    saturated = min(1.0, max(0.0, (_border_step(coarse) / scale - _SHARE_STEP) / (_POSTERIOR_STEP - _SHARE_STEP)))
    if saturated:
        shares = torch.lerp(shares, coarse.softmax(dim=0), saturated)
    return Evidence(shares, scale, noise, pure_margin(top_two), nearest_shares(shares))


def read_posteriors(coarse: Tensor, own: int | None = None) -> Evidence:
    """Take the softmax of patch logits (C, h, w), C at least 2, as shares: what a cross-entropy on pixels trains.

    Args:
        coarse: logits.
        own: classes after the first `own` are not wanted, see `spread_rest`; None = all are.
    """
    shares = spread_rest(coarse.softmax(dim=0)[:own])
    margin = pure_margin(coarse[:own].topk(2, dim=0).values)
    return Evidence(shares, margin, LEAST_NOISE, margin, shares)


def spread_rest(shares: Tensor) -> Tensor:
    """Divide what is missing from a sum of 1 evenly among some classes.

    So the differences between the classes, which decide a pixel's class and its posterior, stay as they were.

    Args:
        shares: (n, h, w) of some of the classes.

    Returns:
        (n, h, w) with sum 1 over n.
    """
    return shares + (1 - shares.sum(dim=0)) / len(shares)


def pure_margin(top_two: Tensor) -> float:
    """Estimate `Evidence.margin` from the (2, h, w) best and second-best logits of each patch."""
    return max(float(torch.quantile((top_two[0] - top_two[1]).flatten(), _PURE)), 1e-6)


def negative_noise(shares: Tensor) -> float:
    """Estimate the standard deviation of the noise in shares (C, h, w) from those below 0, which are impossible."""
    impossible = shares.clamp_max(0.0).square().sum() / (shares < 0).sum().clamp_min(1)
    return float(impossible.sqrt())


def nearest_shares(shares: Tensor) -> Tensor:
    """Project shares to the nearest valid ones (none negative, sum 1): sparsemax (Martins and Astudillo, 2016)."""
    flat = shares.flatten(1)
    level, rows = torch.empty_like(flat[0]), torch.arange(flat.shape[1], device=flat.device)
    for most in (*_FEW_CLASSES, len(flat)):  # a patch shows few of thousands of classes, and few patches show more
        level[rows], support = _level(flat if len(rows) == flat.shape[1] else flat[:, rows], min(most, len(flat)))
        rows = rows[support >= most]
        if most >= len(flat) or not len(rows):
            break
    return (flat - level).clamp_min_(0.0).reshape(shares.shape)


def _level(shares: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """What sparsemax subtracts from (C, n) shares, (n,), and how many classes keep a share, (n,), at most `most`."""
    falling = shares.topk(most, dim=0).values
    above = falling.cumsum(dim=0) - 1
    rank = torch.arange(1, most + 1, device=shares.device)[:, None]
    support = (falling * rank > above).sum(dim=0)
    return above.gather(0, support[None] - 1)[0] / support, support


def _border_step(coarse: Tensor) -> float:
    """Median change, from one patch to the next, of the margin between the two classes that meet there; 0 if none."""
    winner = coarse.max(dim=0).indices  # the same as `argmax`, which takes twice as long
    steps = []
    for here, there in (((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
                        ((slice(None), slice(None, -1)), (slice(None), slice(1, None)))):  # fmt: skip
        meeting = winner[here] != winner[there]
        first, second = winner[here][meeting], winner[there][meeting]  # (n,)
        (row, column), (next_row, next_column) = _places(winner, here)[:, meeting], _places(winner, there)[:, meeting]
        before = coarse[first, row, column] - coarse[second, row, column]
        after = coarse[first, next_row, next_column] - coarse[second, next_row, next_column]
        steps.append(before - after)
    found = torch.cat(steps)
    return float(found.median()) if found.numel() else 0.0


def _places(winner: Tensor, part: tuple[slice, slice]) -> Tensor:
    """(2, h', w') int64 row and column of each patch in a part of the grid."""
    rows, columns = (torch.arange(side, device=winner.device) for side in winner.shape)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[:, *part]
