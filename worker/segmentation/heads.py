"""Patch features and text embeddings -> zero-shot scores, and what a head makes of them after learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.outlines.refinement import Method
from worker.segmentation.text.encoder import TextClasses

_REMEDY = "Serve another version with `zeromask rollback`; the next corrections make a new one."
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class ImageScores:
    """One image and its zero-shot scores: the input of every head.

    Attributes:
        embedding: of the image.
        image: (H, W, 3) uint8 RGB; None when only the embedding is at hand.
        words: the texts of each of n classes; the background, which has none, comes after them.
        zero_shot: n + 1 classes on the (h, w) grid of patches. Classes without a readable word have no score.
        classes: the same n + 1 classes as text embeddings; `classes.vectors` has one label vector for each.
        photo_features: gives the feature maps of a network trained on photographs, for heads that learn from them; see
            `worker.segmentation.encoders.efficientnet.EfficientNetExtractor.features`.
    """

    embedding: ImageEmbedding
    image: NDArray[np.uint8] | None
    words: tuple[tuple[str, ...], ...]
    zero_shot: ClassScores
    classes: TextClasses
    photo_features: Callable[[NDArray[np.uint8]], tuple[Tensor, ...]]

    @property
    def features(self) -> Tensor:
        """(D, h, w) float32 patch features of the model, channels first."""
        return self.embedding.features.permute(2, 0, 1)


class Head(Protocol):
    """A classifier of an image's cells that has learned from corrections."""

    @property
    def refinement(self) -> Method:
        """How its scores come to the pixels: FINE where they follow the outlines of the image already, so that they are
        only guided; POSTERIORS or ADAPTIVE where they are coarse and go through the whole outline stage, as a cell's
        posteriors or as patch logits. The size of its grid says nothing about that.
        """
        ...

    def scores(self, image: ImageScores) -> ClassScores:
        """Score n + 1 classes, in the order of the image's, on an (h', w') grid of any size. Of many, it may leave
        out those that can hardly win; see `ClassScores.classes`.

        Classes that the head has never learned keep the zero-shot scores among themselves, or are scored by their
        label vectors. A class that can be scored neither way has no score.
        """
        ...


@runtime_checkable
class ThingHead(Head, Protocol):
    """A head that also tells apart things of one class that touch."""

    def things(self, image: ImageScores) -> NDArray[np.int32]:
        """Number the things of an image: (H, W) int32 in its pixels, 0 where nothing is known."""
        ...


def zero_shot_logits(features: Tensor, classes: TextClasses, *, scale: float, bias: float | None) -> Tensor:
    """Compare every patch with every class; training-free, as in MaskCLIP (Zhou et al., ECCV 2022).

    Args:
        features: (h, w, D) float32 of unit length.
        classes: the classes; the last one is the background.
        scale: the model's logit scale.
        bias: the model's logit bias when it was trained with a sigmoid loss, else None.

    Returns:
        (count, h, w) float32 on a scale where softmax over the classes gives their posterior.
    """
    cosines = torch.einsum("hwd,nd->nhw", features, classes.embeddings)
    best = torch.full((classes.count, *cosines.shape[1:]), -1.0, dtype=cosines.dtype, device=cosines.device)
    owner = classes.owner[:, None, None].expand_as(cosines)
    logits = scale * best.scatter_reduce(0, owner, cosines, reduce="amax")
    if bias is None:
        return logits
    # A sigmoid model decides for each class by itself whether it is there; where it rejects all, it is background. The
    # word for background stays out: of grass both "grass" and "background" are true, and the label must win.
    logits = logits + bias
    return torch.cat([logits[:-1], torch.zeros_like(logits[-1:])])


def head_scores(head: Head, image: ImageScores) -> ClassScores:
    """Score an image with a head and check the result: a stored head can load without error and still be damaged.

    Raises:
        LearningError: the head fails, or its scores are not finite or of another number of classes.
    """
    classes = len(image.zero_shot.logits)  # (n + 1, h, w)
    found = _asked(lambda: head.scores(image))
    logits = found.logits
    expected = classes if found.classes is None else len(found.classes)
    if logits.ndim != 3 or len(logits) != expected:
        problem = f"gives scores of shape {tuple(logits.shape)} for an image with {classes} classes"
        raise LearningError("what was learned", problem, _REMEDY)
    if bool(logits.isnan().any()) or bool((logits == torch.inf).any()):
        raise LearningError("what was learned", "gives no numbers (NaN or infinite)", _REMEDY)
    return found


def head_things(head: Head | None, image: ImageScores) -> NDArray[np.int32] | None:
    """The things that a head tells apart, (H, W) int32 numbers in the image's pixels; None where it is no such head.

    Raises:
        LearningError: the head fails, or its map is of another size.
    """
    if not isinstance(head, ThingHead):
        return None
    numbers = _asked(lambda: head.things(image))
    if numbers.shape != image.embedding.size:
        problem = f"numbers the things of {numbers.shape} pixels in an image of {image.embedding.size}"
        raise LearningError("what was learned", problem, _REMEDY)
    return numbers


def _asked(ask: Callable[[], _Answer]) -> _Answer:
    """What a head answers; that it fails is an error of what was learned, that memory runs out is not."""
    try:
        return ask()
    except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        problem = f"does not fit the images ({type(error).__name__}: {str(error)[:200]})"
        raise LearningError("what was learned", problem, _REMEDY) from error
