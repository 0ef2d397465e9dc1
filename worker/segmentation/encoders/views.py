"""How images enter a model, as one view or as windows, and how what was seen of an image becomes its embedding.

It must not know the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.segmentation.encoders.windows import Windows, harmonise, merge, place_windows

_LONGEST_ASPECT = 4.0


@dataclass(frozen=True)
class ImageEmbedding:
    """What the model saw in one image.

    Attributes:
        features: (h, w, D) float32, unit length along D, one per patch, rows from the top.
        size: (H, W) of the image they describe, pixels.
        affinity: (h, w, P) float32 of unit length, on the same grid: what an affinity tower saw; None without one.
    """

    features: Tensor
    size: tuple[int, int]
    affinity: Tensor | None = None


def place_views(size: tuple[int, int], short_side: float, patch: int, *, windows: int) -> Windows:
    """Where an image is looked at.

    Args:
        size: (H, W) of the image, pixels.
        short_side: pixels of the short side at which it would enter in one pass.
        patch: pixels per patch.
        windows: most windows; 0 or 1 = one pass.
    """
    height, width = size
    short = max(1.0, short_side / patch)
    aspect = min(_LONGEST_ASPECT, max(height, width) / min(height, width))
    long = max(1, round(short * aspect))
    entry = (round(short), long) if height <= width else (long, round(short))
    return place_windows(entry, size, patch, most=windows)


def cut_views(images: Iterable[tuple[NDArray[np.uint8], Windows]], patch: int) -> list[Tensor]:
    """(3, H, W) uint8 pixels of every view of images, (H, W, 3) uint8 RGB each, at so many pixels per patch."""
    views = []
    for image, place in images:
        pixels = _enter(image, (place.grid[0] * patch, place.grid[1] * patch))
        height, width = place.window[0] * patch, place.window[1] * patch
        for top, left in place.corners:
            views.append(pixels[:, top * patch : top * patch + height, left * patch : left * patch + width])
    return views


def join_views(
    features: Sequence[Tensor],
    affinities: Sequence[Tensor],
    place: Windows,
    size: tuple[int, int],
    *,
    harmonised: bool = True,
) -> ImageEmbedding:
    """Make one embedding of all views of one image.

    Args:
        features: (h, w, D) float32 unit features of each view.
        affinities: (h, w, P) float32 of each view from an affinity tower; empty without one.
        place: where the views lie.
        size: (H, W) of the image, pixels.
        harmonised: whether several views are made to agree on one graph.
    """
    if len(features) == 1:
        return ImageEmbedding(features[0], size, affinities[0] if affinities else None)
    affinity = F.normalize(merge(affinities, place), dim=-1) if affinities else None
    merged = merge(features, place)
    if harmonised:
        merged = harmonise(merged, merged if affinity is None else affinity, place)
    return ImageEmbedding(F.normalize(merged, dim=-1), size, affinity)


def _enter(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    # The filter the models were trained with; reducing_gap keeps 100-megapixel images cheap.
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
