"""Image embeddings kept by content, so that a new label never pays for pixels again. It must not know about tasks."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.recent import Recent
from worker.segmentation.segmenter import Segmenter


class EmbeddingCache:
    """Holds the most recently used embeddings of one segmenter, up to a number of bytes.

    Args:
        segmenter: what embeds what is not here yet.
        most_bytes: size at which the least recently used leave.
    """

    def __init__(self, segmenter: Segmenter, *, most_bytes: int = 512_000_000) -> None:
        self._segmenter = segmenter
        self._kept: Recent[ImageEmbedding] = Recent(most_bytes)

    def embed(self, images: Sequence[NDArray[np.uint8]], *, part: str = "") -> list[ImageEmbedding]:
        """Embed images, (H, W, 3) uint8 RGB each; those seen before cost a hash.

        Args:
            images: the images.
            part: what an adapter changes in the encoder (`Adapter.encoder_part`): such embeddings are kept apart.
        """
        keys = [f"{part}{image.shape}{sha256(np.ascontiguousarray(image).data).hexdigest()}" for image in images]
        found = {key: kept for key in keys if (kept := self._kept.get(key)) is not None}
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in found}
        made = dict(zip(missing, self._segmenter.embed(list(missing.values())), strict=True)) if missing else {}
        for key, embedding in made.items():
            self._kept.keep(key, embedding, _bytes(embedding))
        found |= made
        return [found[key] for key in keys]


def _bytes(embedding: ImageEmbedding) -> int:
    held = [embedding.features] if embedding.affinity is None else [embedding.features, embedding.affinity]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
