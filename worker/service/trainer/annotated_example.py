"""The annotations of one image, with the image -> an example to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.annotation_maps import draw_class_map
from worker.learning.corrections.examples import LONGEST_SIDE, example_frame, make_example
from worker.learning.interfaces import Example
from worker.segmentation.encoders.encoder import ImageEmbedding


def annotated_example(
    key: str,
    annotations: Sequence[Annotation],
    vocabulary: Vocabulary,
    image: NDArray[np.uint8],
    embedding: ImageEmbedding,
    *,
    longest_side: int = LONGEST_SIDE,
    size: tuple[int, int] | None = None,
) -> Example:
    """Draw and merge the annotations of one image.

    Args:
        key: of the example.
        annotations: those that count, one or more.
        vocabulary: of the project.
        image: (H, W, 3) uint8 RGB, upright.
        embedding: of the image.
        longest_side: pixels to which the example's image and class map are reduced where the image is larger.
        size: (H, W) of the image that was annotated, where `image` is a reduced copy of it.

    Raises:
        RegionError: an annotation is malformed, or a region cannot be decoded.
    """
    require_lists(annotations)
    embedded = (image.shape[0], image.shape[1])
    frame = example_frame(size or embedded, embedded, longest_side=longest_side)
    maps = [draw_class_map(row.result, vocabulary, size or embedded, frame) for row in annotations]
    return make_example(key, maps, vocabulary.words, image, embedding)


def require_lists(annotations: Sequence[Annotation]) -> None:
    """Raise RegionError where an annotation is malformed: not even its regions are known then."""
    for row in annotations:
        if row.malformed:
            remedy = "Submit it again in Label Studio, or delete it."
            raise RegionError(f"annotation {row.id}", f"cannot be read: {row.malformed} and no list", remedy)
