"""What a recipe learns from, and what it makes: the contract between corrections, recipes, the gate and the store.

It must not know Label Studio, files or any recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter

UNLABELLED = -1
"""No region lies there: background, or a label that nobody has drawn in this project yet."""
Words = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Example:
    """One annotated image.

    Attributes:
        key: what tells it apart for ever, such as a task's id; splits hash it.
        image: (H, W, 3) uint8 RGB.
        embedding: of the image.
        words: the texts of each class that `truth` speaks of.
        truth: (H, W) int16: index in `words`, UNLABELLED or VOID.
    """

    key: str
    image: NDArray[np.uint8]
    embedding: ImageEmbedding
    words: Words
    truth: NDArray[np.int16]


@dataclass(frozen=True)
class AdapterState:
    """An adapter as it is stored: named tensors, and JSON that says what they are. Tensors are on the CPU."""

    recipe: str
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Head, Protocol):
    """A head with a way to storage and back."""

    @property
    def encoder_part(self) -> str:
        """Names what it changes in the encoder, so that embeddings made with it are kept apart; "" = none."""
        ...

    def taught(self, words: Words) -> Words:
        """Those of these classes that it has learned something of, so that it need not read their texts."""
        ...

    def at_strength(self, strength: float) -> Self:
        """The same pulled back towards what was before: 1 = all that was learned, 0 = exactly the zero-shot logits."""
        ...

    def state(self) -> AdapterState:
        """Everything needed to make it again."""
        ...


class Recipe(Protocol):
    """A way to learn. Seconds on a CPU for the recipe that the service runs."""

    @property
    def name(self) -> str:
        """What states it made are stored under."""
        ...

    @property
    def form(self) -> int:
        """Another number when states it made before cannot be loaded any more: their corrections are learned anew."""
        ...

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Adapter:
        """Learn from examples. Words without any example keep what the model says of them.

        Raises:
            LearningError: nothing can be learned from these examples; the reason says why.
        """
        ...

    def load(self, state: AdapterState) -> Adapter:
        """Make an adapter again from what `Adapter.state` gave.

        Raises:
            LearningError: the state is not one of this recipe's.
        """
        ...
