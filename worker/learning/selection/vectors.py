"""What an image looks like, as one short vector.

It is made by a network that was trained on photographs to tell a thousand things apart, whatever the model: what an
image shows stands out in it more than colour and texture. docs/research/active.md has what that gains.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.selection.candidates import Vector

VECTOR_SOURCE = "lite0 1"
"""What the service makes vectors with. Give it another text once stored ones cannot be compared with new ones."""


def image_vector(features: Tensor) -> Vector | None:
    """The mean of an image's features, (C,) float32 of unit length; None where it is zero or not finite.

    They are stored as they are. Projected to 128 numbers by random signs they told images apart less well.

    Args:
        features: (C, h, w): of the service the deepest of `worker.segmentation.segmenter.Segmenter.photo_features`.
    """
    return unit_vector(features.float().mean(dim=(1, 2)).cpu().numpy())


def unit_vector(values: NDArray[np.float32]) -> Vector | None:
    """The vector at unit length; None where it is no vector, zero or not finite."""
    values = np.asarray(values, dtype=np.float32)
    length = float(np.linalg.norm(values)) if values.ndim == 1 else 0.0
    return values / np.float32(length) if np.isfinite(length) and length > 0 else None
