"""Image embeddings cached by content, so that a new label never costs another image embedding."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.segmenter import Segmenter


class EmbeddingCache:
    """Holds the most recently used embeddings of one segmenter, up to a number of bytes. For one thread.

    Args:
        segmenter: embeds images that are not in the cache.
        most_bytes: size at which the least recently used embeddings are dropped.
    """

    def __init__(self, segmenter: Segmenter, *, most_bytes: int = 512_000_000) -> None:
        self._segmenter = segmenter
        self._kept: LRUCache[str, ImageEmbedding] = LRUCache(most_bytes, getsizeof=_bytes)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Embed images, (H, W, 3) uint8 RGB each; one that is in the cache costs a hash."""
        keys = [f"{image.shape}{sha256(np.ascontiguousarray(image).data).hexdigest()}" for image in images]
        found = {key: kept for key in keys if (kept := self._kept.get(key)) is not None}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        made = dict(zip(missing, self._segmenter.embed(list(missing.values())), strict=True)) if missing else {}
        for key, embedding in made.items():
            if _bytes(embedding) <= self._kept.maxsize:  # a larger one is refused with ValueError
                self._kept[key] = embedding
        found |= made
        return [found[key] for key in keys]


def _bytes(embedding: ImageEmbedding) -> int:
    held = [embedding.features] if embedding.affinity is None else [embedding.features, embedding.affinity]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
