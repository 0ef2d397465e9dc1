"""The contract between corrections, recipes, the gate and the store: examples in, adapters out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.heads import Head
from worker.segmentation.segmenter import Segmenter

UNLABELLED = -1
"""Class map value where no region was drawn: background, or a label that nobody has drawn in this project yet."""

AFFINITY_TOWER = "affinity_tower"
"""Key of `AdapterState.about`: timm name and fingerprint of the affinity tower that an adapter needs; not there where
it needs none.
"""

Words = tuple[tuple[str, ...], ...]
"""The texts of each class: its name and its synonyms."""


@dataclass(frozen=True)
class Example:
    """One annotated image.

    Attributes:
        key: identifies it for ever, such as a task's id; the hold-out split hashes what is before a "/", so that the
            images of a task, "7/left/0" and "7/right/0", stay together.
        image: (H, W, 3) uint8 RGB.
        embedding: of the image.
        words: the texts of each class in `truth`.
        truth: (H, W) int16 class map: index in `words`, UNLABELLED or VOID (`worker.segmentation.metrics`).
    """

    key: str
    image: NDArray[np.uint8]
    embedding: ImageEmbedding
    words: Words
    truth: NDArray[np.int16]


@dataclass(frozen=True)
class AdapterState:
    """An adapter as it is stored.

    Attributes:
        recipe: name of the recipe that made it and can load it.
        tensors: what was trained, by name, on the CPU.
        about: JSON that the recipe needs to load them.
    """

    recipe: str
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any] = field(default_factory=dict)


class Adapter(Head, Protocol):
    """A trained head that can be stored and loaded."""

    def taught(self, words: Words) -> Words:
        """Those of these classes that it was trained on, so that it does not depend on their texts."""
        ...

    def at_strength(self, strength: float) -> Self:
        """Interpolate with the zero-shot model: 1 = all that was learned, 0 = exactly the zero-shot logits."""
        ...

    def state(self) -> AdapterState:
        """Everything needed to load it again."""
        ...


@dataclass(frozen=True)
class Fitted:
    """What a recipe made of the same corrections: two adapters that the gate compares, or one.

    Attributes:
        plain: learned from corrections alone.
        supplied: learned from generated examples of uncorrected labels too; None = without these.
        reason: why there is none; "" where there is one, or where the recipe generates none.
    """

    plain: Adapter
    supplied: Adapter | None = None
    reason: str = ""


class Recipe(Protocol):
    """A way to train an adapter; the recipe that the service runs takes seconds on a CPU."""

    @property
    def name(self) -> str:
        """Stored with the adapters it makes."""
        ...

    @property
    def form(self) -> int:
        """Number of the format of its adapters. A new number when old ones cannot be loaded: then the same corrections
        are learned from again.
        """
        ...

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Adapter:
        """Train an adapter. Classes without any example keep their zero-shot logits.

        Raises:
            LearningError: nothing can be learned from these examples; the reason says why.
        """
        ...

    def load(self, state: AdapterState, segmenter: Segmenter) -> Adapter:
        """Make an adapter from what `Adapter.state` returned.

        Args:
            state: of an adapter.
            segmenter: holds the frozen weights, which are never part of a state.

        Raises:
            LearningError: the state is not one of this recipe's, or was learned on other frozen weights.
        """
        ...


@runtime_checkable
class SupplyingRecipe(Protocol):
    """A recipe that can also learn from generated examples of labels that no correction shows."""

    def fit_both(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
        """Train an adapter without generated examples and, where there can be some, one with them.

        Raises:
            LearningError: as `Recipe.fit`.
        """
        ...


def fit_both(recipe: Recipe, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
    """Train with a recipe, without and with generated examples where it can be trained with them.

    Raises:
        LearningError: as `Recipe.fit`.
    """
    if isinstance(recipe, SupplyingRecipe):
        return recipe.fit_both(examples, words, segmenter)
    return Fitted(recipe.fit(examples, words, segmenter))
