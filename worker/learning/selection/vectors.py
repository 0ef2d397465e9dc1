"""What an image looks like, as one short vector."""

from __future__ import annotations

from functools import lru_cache
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from worker.learning.selection.candidates import Vector
from worker.segmentation.encoders.encoder import ImageEmbedding

VECTOR_SIZE = 128
"""Numbers of a vector at most."""


def image_vector(embedding: ImageEmbedding) -> Vector | None:
    """The mean of an image's patch features, (D,) float32 of unit length; None where it is zero or not finite.

    More than VECTOR_SIZE features are projected to VECTOR_SIZE by random signs (Achlioptas, JCSS 2003), which keeps
    distances to about a tenth. The signs depend on nothing but the number of features, so that vectors that are stored
    stay comparable.
    """
    mean = embedding.features.float().mean(dim=(0, 1)).cpu().numpy()
    projected = mean if len(mean) <= VECTOR_SIZE else mean @ _signs(len(mean))
    return unit_vector(projected)


def unit_vector(values: NDArray[np.float32]) -> Vector | None:
    """The vector at unit length; None where it is no vector, zero or not finite."""
    values = np.asarray(values, dtype=np.float32)
    length = float(np.linalg.norm(values)) if values.ndim == 1 else 0.0
    return values / np.float32(length) if np.isfinite(length) and length > 0 else None


@lru_cache(maxsize=2)
def _signs(features: int) -> NDArray[np.float32]:
    """(features, VECTOR_SIZE) of -1 and 1."""
    drawn = shake_256(f"image vector {features}".encode()).digest(features * VECTOR_SIZE // 8)
    bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).reshape(features, VECTOR_SIZE)
    return bits.astype(np.float32) * 2 - 1
