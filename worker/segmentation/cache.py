"""Image embeddings cached by content, so that a new label never costs another image embedding."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from worker.segmentation.embedding_store import OFF, EmbeddingStore
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.segmenter import Segmenter


class EmbeddingCache:
    """Holds the most recently used embeddings of one segmenter, up to a number of bytes. Thread-safe: the model embeds
    for one thread at a time, and what is cached waits for nobody.

    Args:
        segmenter: embeds images that are not in the cache.
        most_bytes: size at which the least recently used embeddings are dropped.
        store: keeps embeddings beyond this process, and those of other processes.
    """

    def __init__(self, segmenter: Segmenter, *, most_bytes: int = 512_000_000, store: EmbeddingStore = OFF) -> None:
        self._segmenter = segmenter
        self._store = store
        self._kept: LRUCache[str, ImageEmbedding] = LRUCache(most_bytes, getsizeof=_bytes)
        self._lock = threading.Lock()
        self._model = threading.Lock()

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Embed images, (H, W, 3) uint8 RGB each; one that is in the cache costs a hash."""
        keys = [f"{image.shape}{sha256(np.ascontiguousarray(image).data).hexdigest()}" for image in images]
        by_key = dict(zip(keys, images, strict=True))
        found = self._recall(by_key)
        missing = [key for key in by_key if key not in found]
        if missing and self._store is not OFF:
            found |= self._load(missing)
            missing = [key for key in missing if key not in found]
        if missing:
            with self._model:
                found |= self._recall(missing)  # another thread may have embedded it meanwhile
                missing = [key for key in missing if key not in found]
                embedded = self._segmenter.embed([by_key[key] for key in missing]) if missing else []
            made = dict(zip(missing, embedded, strict=True))
            self._remember(made)
            found |= made
            for key, embedding in made.items() if self._store is not OFF else ():
                self._store.save(self._name(key), embedding)
        return [found[key] for key in keys]

    def _recall(self, keys: Sequence[str] | dict[str, NDArray[np.uint8]]) -> dict[str, ImageEmbedding]:
        with self._lock:
            return {key: kept for key in keys if (kept := self._kept.get(key)) is not None}

    def _remember(self, made: dict[str, ImageEmbedding]) -> None:
        with self._lock:
            for key, embedding in made.items():
                if _bytes(embedding) <= self._kept.maxsize:  # a larger one is refused with ValueError
                    self._kept[key] = embedding

    def _load(self, keys: Sequence[str]) -> dict[str, ImageEmbedding]:
        device, found = self._segmenter.encoder.device, dict[str, ImageEmbedding]()
        for key in keys:
            kept = self._store.load(self._name(key))
            if kept is not None:
                affinity = None if kept.affinity is None else kept.affinity.to(device)
                found[key] = replace(kept, features=kept.features.to(device), affinity=affinity)
        self._remember(found)
        return found

    def _name(self, key: str) -> str:
        encoder = self._segmenter.encoder
        return sha256(f"{encoder.fingerprint} {encoder.precision} {key}".encode()).hexdigest()


def _bytes(embedding: ImageEmbedding) -> int:
    held = [embedding.features] if embedding.affinity is None else [embedding.features, embedding.affinity]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)
