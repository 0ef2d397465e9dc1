"""Label words -> embeddings: prompt templates, several texts per label, the background, a cache.

It must not know about images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoder import Encoder

# Averaging over phrasings steadies an embedding (Radford et al. 2021, section 3.1.4); a handful is most of the gain.
TEMPLATES = ("{}", "a photo of a {}.", "a photo of the {}.", "a photo of many {}.", "there is a {} in the scene.")
BACKGROUND = "background"
_CACHE_LIMIT = 10_000


@dataclass(frozen=True)
class TextClasses:
    """The classes an image is compared with.

    Attributes:
        embeddings: (n, D) float32, unit length, one per text.
        owner: (n,) int64: the class each text speaks for.
        count: number of classes.
    """

    embeddings: Tensor
    owner: Tensor
    count: int


class TextEncoder:
    """Holds the embeddings of every text seen, so that a label costs one encoding in its life."""

    def __init__(self, encoder: Encoder, *, templates: Sequence[str] = TEMPLATES) -> None:
        self._encoder = encoder
        self._templates = tuple(templates)
        self._cache: dict[str, Tensor] = {}

    def classes(self, texts_by_class: Sequence[Sequence[str]]) -> TextClasses:
        """Embed the texts of each class; a class scores as the best of its texts."""
        owner = [index for index, texts in enumerate(texts_by_class) for _ in texts]
        texts = [text for texts in texts_by_class for text in texts]
        self._encode_missing(texts)
        embeddings = torch.stack([self._cache[text] for text in texts])
        return TextClasses(embeddings, torch.tensor(owner, device=embeddings.device), len(texts_by_class))

    def _encode_missing(self, texts: Sequence[str]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if not missing:
            return
        if len(self._cache) + len(missing) > _CACHE_LIMIT:
            self._cache = {text: self._cache[text] for text in texts if text in self._cache}
        prompts = [template.format(text) for text in missing for template in self._templates]
        embedded = self._encoder.embed_texts(prompts).reshape(len(missing), len(self._templates), -1)
        for text, rows in zip(missing, embedded, strict=True):
            self._cache[text] = F.normalize(rows.mean(dim=0), dim=0)
