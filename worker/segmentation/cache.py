"""Image embeddings kept by content, so that a new label never pays for pixels again. It must not know about tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.encoder import ImageEmbedding
from worker.segmentation.segmenter import Segmenter


class EmbeddingCache:
    """Holds the most recently used embeddings of one segmenter, up to a number of bytes.

    Args:
        segmenter: what embeds what is not here yet.
        most_bytes: size at which the least recently used leave.
    """

    def __init__(self, segmenter: Segmenter, *, most_bytes: int = 512_000_000) -> None:
        self._segmenter = segmenter
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, ImageEmbedding] = OrderedDict()
        self._bytes = 0

    def embed(self, images: Sequence[NDArray[np.uint8]], *, part: str = "") -> list[ImageEmbedding]:
        """Embed images, (H, W, 3) uint8 RGB each; those seen before cost a hash.

        Args:
            images: the images.
            part: what an adapter changes in the encoder (`Adapter.encoder_part`): such embeddings are kept apart.
        """
        keys = [f"{part}{image.shape}{sha256(np.ascontiguousarray(image).data).hexdigest()}" for image in images]
        missing = {key: image for key, image in zip(keys, images, strict=True) if key not in self._kept}
        found = dict(zip(missing, self._segmenter.embed(list(missing.values())), strict=True)) if missing else {}
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
                found[key] = self._kept[key]
        for key in missing:
            self._keep(key, found[key])
        return [found[key] for key in keys]

    def _keep(self, key: str, embedding: ImageEmbedding) -> None:
        self._kept[key] = embedding
        self._bytes += _bytes(embedding)
        while self._bytes > self._most_bytes and self._kept:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(embedding: ImageEmbedding) -> int:
    held = [embedding.features] if embedding.affinity is None else [embedding.features, embedding.affinity]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
