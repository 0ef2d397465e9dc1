"""Patch logits + image -> logits or classes for every pixel that follow the outline.

SAZS (Liu et al., CVPR 2023) showed that the Laplacian's eigenvectors carry shape; its released fusion selects them by
IoU with the ground truth. Here only the scores and the image are used; docs/research/outlines.md describes the method.
Memory is bounded for any image size and number of classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.class_scores import OTHERS, ClassScores
from worker.segmentation.outlines.evidence import check_logits, pure_margin, read_evidence, read_posteriors, spread_rest
from worker.segmentation.outlines.guided import LocalLines, RowEnlarger, evaluate, fit_local_lines, grow_rows
from worker.segmentation.outlines.propagation import CELLS, propagate
from worker.segmentation.outlines.regions import CROWDED, NOISY, Regions, read_regions
from worker.segmentation.outlines.spectral import low_pass
from worker.segmentation.pictures import rgb_picture, rgb_rows, shrink

_STRIP_VALUES = 16_000_000  # floats held at once, 64 MB
_CPU_STRIP_VALUES = 4_000_000  # more do not fit in the processor's cache
_WORKING_SIDE = 512  # pixels, of the long side of the image that graphs are built from
_PLAUSIBLE = 0.1  # a class whose share is lower in every patch is taken as absent
_MOST_REFINED = 24  # classes
_MANY = 64  # classes; of more, most are put together where each would cost as much as one that is there
_NEAREST = 32  # classes that come nearest to winning a patch have logits of their own all the same
_RADIUS, _SMOOTHNESS = 4, 3e-4  # of the guided step: cells, variance of colour in [0, 1]
_SPECTRAL_NOISE = (NOISY, 0.23)  # noise from which eigenvectors are used, and from which with full strength
_SPECTRAL_TRUST = (0.1, CROWDED)  # trust above which they are not used, and where regions are few and large
_SPECTRAL_STRENGTH = 0.4  # share of the low-passed evidence at full strength


@dataclass(frozen=True)
class Method:
    """The steps of the refinement; only ablations use another than ADAPTIVE or FINE.

    Attributes:
        eigenvectors: most eigenvectors; 0 = none.
        eigen_strength: weight of the evidence low-passed by them, 0 to 1; None = from the evidence, most often 0.
        propagation: whether evidence is propagated along the image's graph.
        guided: whether the guided filter follows the pixels' colours at the end.
        trust: weight of the evidence against smoothness; None = from the evidence.
        fine: the logits are posteriors on a grid so fine that the guided filter alone is needed.
        posteriors: the softmax of a cell is the share of it that each class covers; else its logits are linear in that.
    """

    eigenvectors: int = 30
    eigen_strength: float | None = None
    propagation: bool = True
    guided: bool = True
    trust: float | None = None
    fine: bool = False
    posteriors: bool = False

    @property
    def linear(self) -> bool:
        """Whether logits are read as linear in the shares."""
        return not (self.fine or self.posteriors)


ADAPTIVE = Method()
FINE = Method(fine=True)  # for learned heads with a grid finer than the patches
POSTERIORS = Method(posteriors=True, eigen_strength=0.0, trust=0.1)  # for networks trained with a cross-entropy
SPECTRAL = Method(eigen_strength=_SPECTRAL_STRENGTH)  # slow: eigenvectors for every image


def refine_logits(
    coarse: Tensor, image: NDArray[np.uint8], features: Tensor | None = None, *, method: Method = ADAPTIVE
) -> Tensor:
    """Upsample patch logits to pixels along the outlines of the image.

    Args:
        coarse: (C, h, w) float32 patch logits; softmax over C is the class posterior. A class that is -inf everywhere
            has no score (see `ClassScores`) and stays -inf.
        image: (H, W, 3) uint8 RGB, any size.
        features: (h', w', D) float dense features (a DINO's keys, say) that refine the eigenvectors' graph, or None.

    Returns:
        (C, H, W) float32 logits on the same scale, on the device of `coarse`.

    Raises:
        ValueError: the logits are NaN or +inf somewhere; see `check_logits`.
    """
    check_logits(coarse, linear=method.linear and len(coarse) > 1)
    size = (image.shape[0], image.shape[1])
    scored = ClassScores.from_logits(coarse).scored
    if not bool(scored.all()):
        all_classes = coarse.new_full((len(coarse), *size), -torch.inf)
        all_classes[scored] = refine_logits(coarse[scored], image, features, method=method)
        return all_classes
    if len(coarse) == 1:
        return _bilinear(coarse, size)
    refined = _Refined.of(coarse, image, features, method)
    logits = refined.rows(image, slice(0, size[0]))
    if len(refined.classes) == len(coarse):
        return logits
    # Classes that are not refined keep their distance to the best one.
    whole = _bilinear(coarse, size)
    whole += logits.amax(dim=0) - whole.amax(dim=0)
    whole[refined.classes] = logits
    return whole


def refine_scores(
    coarse: ClassScores, image: NDArray[np.uint8], features: Tensor | None = None, *, keep: Collection[int] = ()
) -> ClassScores:
    """Upsample the scores of patches to pixels, as `refine_logits`; of many classes only those that may win.

    Up to 64 classes all have logits of their own. Of more, these have: the classes that are refined, the 32 that come
    nearest to winning a patch, `keep`, and the background. All others are put together in the patches, and their one
    logit is interpolated. So time and memory do not grow with the vocabulary times the pixels.

    Args:
        coarse: (C, h, w) of patches.
        image: (H, W, 3) uint8 RGB, any size.
        features: as for `refine_logits`.
        keep: classes that have logits of their own in any case.

    Returns:
        On (H, W); see `ClassScores.classes`.

    Raises:
        ValueError: as `refine_logits`.
    """
    if len(coarse.logits) <= _MANY:
        return ClassScores(refine_logits(coarse.logits, image, features), coarse.scored)
    check_logits(coarse.logits, linear=True)
    size = (image.shape[0], image.shape[1])
    scored = coarse.scored.nonzero()[:, 0]
    logits = coarse.logits[scored]
    result = _Refined.of(logits, image, features, ADAPTIVE) if len(logits) > 1 else None
    refined = scored if result is None else scored[result.classes]
    behind = (logits - logits.amax(dim=0)).flatten(1).amax(dim=1)
    nearest = scored[behind.topk(min(len(scored), _NEAREST)).indices]
    own = sorted({*refined.tolist(), *nearest.tolist(), *keep, len(coarse.logits) - 1})
    has_score = coarse.scored[own]
    whole = _bilinear(coarse.logits[own], size).masked_fill_(~has_score[:, None, None], -torch.inf)
    others = sorted(set(scored.tolist()) - set(own))
    together = _bilinear(coarse.logits[others].logsumexp(dim=0, keepdim=True), size)
    if result is not None:  # classes that are not refined keep their distance to the best one
        fine = result.rows(image, slice(0, size[0]))
        shift = fine.amax(dim=0) - whole.amax(dim=0)
        whole += shift
        together += shift
        place = {k: row for row, k in enumerate(own)}
        whole[[place[k] for k in refined.tolist()]] = fine
    if not others:
        return ClassScores(whole, has_score, tuple(own))
    one = torch.ones_like(has_score[:1])
    return ClassScores(
        torch.cat([whole[:-1], together, whole[-1:]]),
        torch.cat([has_score[:-1], one, has_score[-1:]]),
        (*own[:-1], OTHERS, own[-1]),
    )


def pixel_classes(
    coarse: Tensor,
    size: tuple[int, int],
    image: NDArray[np.uint8] | None = None,
    features: Tensor | None = None,
    *,
    method: Method = ADAPTIVE,
    without: int | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Find the best class of each pixel and its posterior, in strips of rows: no (C, H, W) array is ever allocated.

    Args:
        coarse: (C, h, w) float32 patch logits; softmax over C is the class posterior. A class that is -inf everywhere
            has no score and gets no pixel.
        size: (H, W) of the image, pixels.
        image: (H, W, 3) uint8 RGB, whose outlines are followed; None = bilinear.
        features: as for `refine_logits`.
        without: a class that takes its share of the posterior and gets no pixel (`ClassScores.others`).

    Returns:
        (H, W) int16 class of each pixel, and (H, W) float32 posterior of that class in (0, 1].

    Raises:
        ValueError: as `refine_logits`.
    """
    check_logits(coarse, linear=method.linear and image is not None)
    classes = np.empty(size, dtype=np.int16)
    confidence = np.empty(size, dtype=np.float32)
    rows = ClassScores.from_logits(coarse).scored.nonzero()[:, 0]
    logits = coarse[rows]
    if without is not None:
        rows = rows[rows != without]
        logits = torch.cat([coarse[rows], coarse[without : without + 1]])
    if image is None or len(rows) == 1:
        strips = _plain_strips(logits, size)
    else:
        refined = _Refined.of(logits, image, features, method, own=len(rows))
        rows, strips = rows[refined.classes], refined.strips(image)
    for part, values in strips:
        best, index = values[: len(rows)].max(dim=0)
        classes[part] = rows[index].to(torch.int16).cpu().numpy()
        confidence[part] = values.sub_(best).exp_().sum(dim=0).reciprocal_().cpu().numpy()
    return classes, confidence


@dataclass(frozen=True)
class _Refined:
    """Logits of the plausible classes after all steps that work on cells.

    Attributes:
        classes: (n,) int64 index of each refined class.
        values: (n, h', w') float32 logits of cells.
        lines: the same as local linear functions of the pixels' colours, or None.
        size: (H, W) of the image.
    """

    classes: Tensor
    values: Tensor
    lines: LocalLines | None
    size: tuple[int, int]

    @classmethod
    def of(
        cls,
        coarse: Tensor,
        image: NDArray[np.uint8],
        features: Tensor | None,
        method: Method,
        *,
        own: int | None = None,
    ) -> _Refined:
        """Refine the first `own` of some classes (None = all); what comes after them only takes its share."""
        small = shrink(image, _WORKING_SIDE)
        if method.fine:
            return cls._of_fine(coarse, small, (image.shape[0], image.shape[1]), own)
        evidence = read_posteriors(coarse, own) if method.posteriors else read_evidence(coarse[:own])
        coarse = coarse[:own]
        classes = _plausible(evidence.valid_shares())
        evidence = evidence.of(classes)
        fit = partial(low_pass, evidence.shares, small, features, count=method.eigenvectors)
        regions = read_regions(evidence, small, fit if method.eigenvectors else None)
        trust = regions.trust if method.trust is None else method.trust
        shares = evidence.shares[:-1]
        strength = _eigen_strength(regions, trust) if method.eigen_strength is None else method.eigen_strength
        if method.eigenvectors and strength > 0:
            fitted = fit() if regions.low_passed is None else regions.low_passed
            shares = torch.lerp(shares, fitted[:-1], strength)
        grid = (CELLS * shares.shape[1], CELLS * shares.shape[2])
        values = (
            propagate(evidence, shares, small, trust=trust, there=regions.there)
            if method.propagation
            else _bilinear(shares, grid)
        )
        lines = None
        if method.guided:
            guide = rgb_picture(small, grid).to(coarse.device)
            lines = fit_local_lines(values, guide, radius=_RADIUS, smoothness=_SMOOTHNESS)
        return cls._in_logits(classes, values, lines, (image.shape[0], image.shape[1]), evidence.margin)

    @classmethod
    def _of_fine(cls, logits: Tensor, small: NDArray[np.uint8], size: tuple[int, int], own: int | None) -> _Refined:
        posterior = logits.softmax(dim=0)[:own]
        classes = _plausible(posterior)
        values = spread_rest(posterior[classes])[:-1]
        guide = rgb_picture(small, (logits.shape[1], logits.shape[2])).to(logits.device)
        lines = fit_local_lines(values, guide, radius=_RADIUS, smoothness=_SMOOTHNESS)
        return cls._in_logits(classes, values, lines, size, pure_margin(logits[:own].topk(2, dim=0).values))

    @classmethod
    def _in_logits(
        cls, classes: Tensor, values: Tensor, lines: LocalLines | None, size: tuple[int, int], margin: float
    ) -> _Refined:
        """Add the last class, the complement of the others, and scale shares to logits.

        Both are linear, so they are done on the few cells instead of on pixels.
        """
        if lines is not None:
            rest = -lines.coefficients.sum(dim=1, keepdim=True)
            rest[-1] += 1  # of the offset: shares sum to 1 at any colour
            lines = LocalLines(torch.cat([lines.coefficients, rest], dim=1).mul_(margin))
        return cls(classes, _with_complement(values).mul_(margin), lines, size)

    def rows(self, image: NDArray[np.uint8], part: slice) -> Tensor:
        """(n, rows, W) float32 logits of a strip of rows."""
        if self.lines is None:
            return grow_rows(self.values, part, self.size)
        return self.lines.at(rgb_rows(image[part]).to(self.values.device), part, self.size[0])

    def strips(self, image: NDArray[np.uint8]) -> Iterator[tuple[slice, Tensor]]:
        """All rows in strips of bounded size."""
        floats = 6 * len(self.classes) + 3  # per pixel: slopes, offset, shares, posterior; colour
        enlarger = RowEnlarger(self.values if self.lines is None else self.lines.coefficients.flatten(0, 1), self.size)
        for part in _parts(self.size, floats, self.values.device):
            grown = enlarger(part)
            yield part, grown if self.lines is None else evaluate(grown, rgb_rows(image[part]).to(grown.device))


def _with_complement(shares: Tensor) -> Tensor:
    """(n, ...) shares of all classes out of those (n - 1, ...) of all but the last."""
    return torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)])


def _plausible(likely: Tensor) -> Tensor:
    """(n,) int64 classes to refine, in order: of (C, h, w) shares those plausible somewhere; the largest 2 to 24."""
    area = likely.mean(dim=(1, 2))
    there = (likely.amax(dim=(1, 2)) >= _PLAUSIBLE).nonzero()[:, 0]
    if len(there) < 2 or len(there) > _MOST_REFINED:
        there = area.topk(min(len(area), max(2, min(len(there), _MOST_REFINED)))).indices
    return there.sort().values


def _eigen_strength(regions: Regions, trust: float) -> float:
    """0 unless the evidence is noisy and the image shows few classes: there averaging over long distances helps."""
    start, full = _SPECTRAL_NOISE
    noisy = min(1.0, max(0.0, (regions.noise - start) / (full - start)))
    least, most = _SPECTRAL_TRUST
    return _SPECTRAL_STRENGTH * noisy * max(0.0, 1 - trust / (least + regions.few * (most - least)))


def _plain_strips(coarse: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    enlarger = RowEnlarger(coarse, size)
    for part in _parts(size, len(coarse), coarse.device):
        yield part, enlarger(part)


def _parts(size: tuple[int, int], floats: int, device: torch.device) -> Iterator[slice]:
    values = min(_STRIP_VALUES, _CPU_STRIP_VALUES) if device.type == "cpu" else _STRIP_VALUES
    strip = max(1, values // (floats * size[1]))
    for start in range(0, size[0], strip):
        yield slice(start, min(start + strip, size[0]))


def _bilinear(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
