"""Patch logits + image -> logits or classes for every pixel that follow the outline.

SAZS (Liu et al., CVPR 2023) showed that the Laplacian's eigenvectors carry shape; its released fusion picks them by IoU
with the ground truth. Here nothing but the evidence and the picture is looked at; docs/research/outlines.md tells the method.
Memory stays bounded whatever the image and the number of classes. It must not know about labels or regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.outlines.evidence import Evidence, nearest_shares, read_evidence, spoken, sure_by
from worker.segmentation.outlines.guided import LocalLines, fit_local_lines, grow_rows
from worker.segmentation.outlines.propagation import CELLS, propagate
from worker.segmentation.outlines.spectral import low_pass
from worker.segmentation.pictures import rgb_picture, rgb_rows, shrink

_STRIP_VALUES = 16_000_000  # floats held at once, 64 MB
_CPU_STRIP_VALUES = 4_000_000  # more leave the processor's cache
_WORKING_SIDE = 512  # pixels of the picture that the graphs are made from
_CHANCE = 0.1  # a class that reaches this share in no patch is not there
_MOST_REFINED = 24
_RADIUS, _SMOOTHNESS = 4, 3e-4  # of the guided step: cells, variance of colour in [0, 1]
_QUIET, _LOUD = 0.20, 0.23  # noise from which, and with full strength from which, the eigenvectors come in
_FREE = 0.1  # trust above which they stay out
_BLEND = 0.4  # how far they then pull the evidence


@dataclass(frozen=True)
class Method:
    """How outlines are found; only ablations use another than ADAPTIVE.

    Attributes:
        eigenvectors: at most how many; 0 = none.
        eigen_strength: how far they pull the evidence, 0 to 1; None = read off the scene, most often not at all.
        propagation: whether evidence is spread along the picture's graph.
        guided: whether the last step follows the pixels' colours.
        trust: weight of the evidence against smoothness; None = read off the scene.
        fine: the evidence is posteriors on a grid fine enough to need the guided step alone, at its own cells.
    """

    eigenvectors: int = 30
    eigen_strength: float | None = None
    propagation: bool = True
    guided: bool = True
    trust: float | None = None
    fine: bool = False


ADAPTIVE = Method()
FINE = Method(fine=True)  # for heads that have learned and answer on a grid finer than the patches
SPECTRAL = Method(eigen_strength=_BLEND)  # the slow setting: eigenvectors for every picture


def refine_logits(
    coarse: Tensor, image: NDArray[np.uint8], features: Tensor | None = None, *, method: Method = ADAPTIVE
) -> Tensor:
    """Carry patch logits to the pixels along the outlines that the picture shows.

    Args:
        coarse: (C, h, w) float32 patch logits; softmax over C is the class posterior. A class that is -inf everywhere
            is not spoken of and stays so.
        image: (H, W, 3) uint8 RGB, any size.
        features: (h', w', D) float dense features (a DINO's keys, say) that refine the eigenvectors' graph, or None.

    Returns:
        (C, H, W) float32 logits on the same scale, on the device of `coarse`.
    """
    size = (image.shape[0], image.shape[1])
    told = spoken(coarse)
    if not bool(told.all()):
        among_all = coarse.new_full((len(coarse), *size), -torch.inf)
        among_all[told] = refine_logits(coarse[told], image, features, method=method)
        return among_all
    if len(coarse) == 1:
        return _bilinear(coarse, size)
    refined = _Refined.of(coarse, image, features, method)
    logits = refined.rows(image, slice(0, size[0]))
    if len(refined.classes) == len(coarse):
        return logits
    # The others keep their distance to the winner.
    whole = _bilinear(coarse, size)
    whole += logits.amax(dim=0) - whole.amax(dim=0)
    whole[refined.classes] = logits
    return whole


def pixel_classes(
    coarse: Tensor,
    size: tuple[int, int],
    image: NDArray[np.uint8] | None = None,
    features: Tensor | None = None,
    *,
    method: Method = ADAPTIVE,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """The best class of each pixel and its posterior, in strips of rows: no (C, H, W) array is ever made.

    Args:
        coarse: (C, h, w) float32 patch logits; softmax over C is the class posterior. A class that is -inf everywhere
            gets no pixel.
        size: (H, W) of the image, pixels.
        image: (H, W, 3) uint8 RGB, whose outlines are followed; None = bilinear.
        features: as for `refine_logits`.

    Returns:
        (H, W) int16 class of each pixel, and (H, W) float32 posterior of that class in (0, 1].
    """
    classes = np.empty(size, dtype=np.int16)
    confidence = np.empty(size, dtype=np.float32)
    told = spoken(coarse).nonzero()[:, 0]
    coarse = coarse[told]
    if image is None or len(coarse) == 1:
        names, strips = torch.arange(len(coarse), device=coarse.device), _plain_strips(coarse, size)
    else:
        refined = _Refined.of(coarse, image, features, method)
        names, strips = refined.classes, refined.strips(image)
    names = told[names]
    for part, logits in strips:
        best, index = logits.max(dim=0)
        classes[part] = names[index].to(torch.int16).cpu().numpy()
        confidence[part] = logits.sub_(best).exp_().sum(dim=0).reciprocal_().cpu().numpy()
    return classes, confidence


@dataclass(frozen=True)
class _Refined:
    """Refined logits of the classes refined.

    Attributes:
        classes: (n,) int64 index of each refined class.
        values: (n, h', w') float32 logits of cells.
        lines: the same as lines of the pixels' colours, or None.
        size: (H, W) of the image.
    """

    classes: Tensor
    values: Tensor
    lines: LocalLines | None
    size: tuple[int, int]

    @classmethod
    def of(cls, coarse: Tensor, image: NDArray[np.uint8], features: Tensor | None, method: Method) -> _Refined:
        small = shrink(image, _WORKING_SIDE)
        if method.fine:
            return cls._of_fine(coarse, small, (image.shape[0], image.shape[1]))
        evidence = read_evidence(coarse)
        classes = _with_a_chance(nearest_shares(evidence.shares))
        evidence = evidence.of(classes)
        trust = evidence.trust if method.trust is None else method.trust
        shares = evidence.shares[:-1]
        strength = _eigen_strength(evidence, trust) if method.eigen_strength is None else method.eigen_strength
        if method.eigenvectors and strength > 0:
            shares = torch.lerp(shares, low_pass(shares, small, features, count=method.eigenvectors), strength)
        grid = (CELLS * shares.shape[1], CELLS * shares.shape[2])
        values = propagate(evidence, shares, small, trust=trust) if method.propagation else _bilinear(shares, grid)
        lines = None
        if method.guided:
            guide = rgb_picture(small, grid).to(coarse.device)
            lines = fit_local_lines(values, guide, radius=_RADIUS, smoothness=_SMOOTHNESS)
        return cls._in_logits(classes, values, lines, (image.shape[0], image.shape[1]), evidence.sureness)

    @classmethod
    def _of_fine(cls, logits: Tensor, small: NDArray[np.uint8], size: tuple[int, int]) -> _Refined:
        posterior = logits.softmax(dim=0)
        classes = _with_a_chance(posterior)
        values = posterior[classes[:-1]]
        guide = rgb_picture(small, (logits.shape[1], logits.shape[2])).to(logits.device)
        lines = fit_local_lines(values, guide, radius=_RADIUS, smoothness=_SMOOTHNESS)
        return cls._in_logits(classes, values, lines, size, sure_by(logits.topk(2, dim=0).values))

    @classmethod
    def _in_logits(
        cls, classes: Tensor, values: Tensor, lines: LocalLines | None, size: tuple[int, int], sureness: float
    ) -> _Refined:
        """Of the last class too, which is what the others leave: all that follows is linear, and here cells are few."""
        if lines is not None:
            rest = -lines.coefficients.sum(dim=1, keepdim=True)
            rest[-1] += 1  # of the offset: shares sum to 1 whatever the colour
            lines = LocalLines(torch.cat([lines.coefficients, rest], dim=1).mul_(sureness))
        return cls(classes, _with_the_rest(values).mul_(sureness), lines, size)

    def rows(self, image: NDArray[np.uint8], part: slice) -> Tensor:
        """(n, rows, W) float32 logits of a strip of rows."""
        if self.lines is None:
            return grow_rows(self.values, part, self.size)
        return self.lines.at(rgb_rows(image[part]).to(self.values.device), part, self.size[0])

    def strips(self, image: NDArray[np.uint8]) -> Iterator[tuple[slice, Tensor]]:
        """All rows in strips of bounded size."""
        floats = 6 * len(self.classes) + 3  # per pixel: slopes, offset, shares, posterior; colour
        for part in _parts(self.size, floats, self.values.device):
            yield part, self.rows(image, part)


def _with_the_rest(shares: Tensor) -> Tensor:
    """(n, ...) shares of all classes out of those (n - 1, ...) of all but the last."""
    return torch.cat([shares, 1 - shares.sum(dim=0, keepdim=True)])


def _with_a_chance(likely: Tensor) -> Tensor:
    """(n,) int64 classes to refine, in order: of (C, h, w) shares those plausible somewhere, 2 to 24, the largest."""
    area = likely.mean(dim=(1, 2))
    there = (likely.amax(dim=(1, 2)) >= _CHANCE).nonzero()[:, 0]
    if len(there) < 2 or len(there) > _MOST_REFINED:
        there = area.topk(min(len(area), max(2, min(len(there), _MOST_REFINED)))).indices
    return there.sort().values


def _eigen_strength(evidence: Evidence, trust: float) -> float:
    """0 unless the evidence is noisy and few classes share the scene: there averaging far and wide helps."""
    loud = min(1.0, max(0.0, (evidence.noise - _QUIET) / (_LOUD - _QUIET)))
    return _BLEND * loud * max(0.0, 1 - trust / _FREE)


def _plain_strips(coarse: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    for part in _parts(size, len(coarse), coarse.device):
        yield part, grow_rows(coarse, part, size)


def _parts(size: tuple[int, int], floats: int, device: torch.device) -> Iterator[slice]:
    values = min(_STRIP_VALUES, _CPU_STRIP_VALUES) if device.type == "cpu" else _STRIP_VALUES
    strip = max(1, values // (floats * size[1]))
    for start in range(0, size[0], strip):
        yield slice(start, min(start + strip, size[0]))


def _bilinear(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]
