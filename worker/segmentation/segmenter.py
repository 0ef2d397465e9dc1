"""Embed an image once, segment it with any vocabulary: the facade of this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.vocabulary import Label, Vocabulary
from worker.segmentation.assembly import Segment, assemble
from worker.segmentation.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import Head, Scene, zero_shot_logits
from worker.segmentation.shape import ADAPTIVE, FINE, pixel_classes
from worker.segmentation.text import BACKGROUND, TextEncoder


@dataclass(frozen=True)
class LabelSegment:
    """A segment and the label it was found for."""

    label: Label
    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image; `score` in [0, 1] is how sure the model is of the whole of it, low = look here."""

    segments: tuple[LabelSegment, ...]
    score: float


class Segmenter:
    """Holds a model and the text embeddings it has made. Adding a label costs one text embedding, no pixels.

    Args:
        encoder: the model.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._texts = TextEncoder(encoder)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """The costly half, once per image: (H, W, 3) uint8 RGB each."""
        return self.encoder.embed_images(images)

    def segment(
        self,
        embedding: ImageEmbedding,
        vocabulary: Vocabulary,
        image: NDArray[np.uint8] | None = None,
        *,
        head: Head | None = None,
    ) -> Segmentation:
        """The cheap half, once per vocabulary. Masks are in the pixels of the embedded image.

        Args:
            embedding: what `embed` made of the image.
            vocabulary: what to look for.
            image: the very image, (H, W, 3) uint8 RGB, whose outlines the masks follow. It stays with its owner, so
                that embeddings alone are cached. None = masks as smooth as the patches.
            head: what was learned from corrections; None = zero-shot.

        Raises:
            ValueError: the image is not of the size that was embedded.
        """
        scene = self.look(embedding, vocabulary.words, image)
        pixels, confidence = self.pixel_classes(scene, head)
        words = scene.words
        stuff = [any(label.stuff for label in vocabulary.labels if label.texts == texts) for texts in words]
        found = assemble(pixels, confidence, stuff)
        segments = [
            LabelSegment(label, segment.mask, segment.score)
            for segment in found
            for label in vocabulary.labels
            if label.texts == words[segment.index]
        ]
        return Segmentation(tuple(segments), _overall_score(found, confidence))

    def look(
        self, embedding: ImageEmbedding, words: Sequence[tuple[str, ...]], image: NDArray[np.uint8] | None = None
    ) -> Scene:
        """What the model says of an image, class by class of `words`, before anything was learned.

        Raises:
            ValueError: the image is not of the size that was embedded.
        """
        if image is not None and image.shape[:2] != embedding.size:
            raise ValueError(f"image must be of size {embedding.size} as it was embedded, got {image.shape[:2]}")
        classes = self._texts.classes([*words, (BACKGROUND,)])
        logits = zero_shot_logits(
            embedding.features, classes, scale=self.encoder.logit_scale, bias=self.encoder.logit_bias
        )
        return Scene(embedding, image, tuple(words), logits)

    def pixel_classes(
        self, scene: Scene, head: Head | None = None, *, outlines: bool = True
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """The class of each pixel of a scene, an index in its words (their number = background), and its posterior.

        Both (H, W), along the image's outlines where the scene has its image, unless `outlines` is off.
        """
        logits = _logits(scene, head)
        method = FINE if logits.shape[1] > scene.logits.shape[1] else ADAPTIVE
        return pixel_classes(logits, scene.embedding.size, scene.image if outlines else None, method=method)

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Labels whose texts hold words the model was never trained on, with those words."""
        unknown = {label.key: [w for text in label.texts for w in self.encoder.unknown_words(text)]
                   for label in vocabulary.labels}  # fmt: skip
        return {key: words for key, words in unknown.items() if words}


def _logits(scene: Scene, head: Head | None) -> Tensor:
    return scene.logits if head is None else head.logits(scene)


def _overall_score(found: Sequence[Segment], confidence: NDArray[np.float32]) -> float:
    return float(np.mean([segment.score for segment in found])) if found else float(confidence.mean())
