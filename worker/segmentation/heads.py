"""Patch features x text embeddings -> patch logits, and what a head that has learned may make of them.

It must not know where either came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.text.encoder import TextClasses

_REMEDY = "Serve another version with `zeromask rollback`; the next corrections make a new one."


@dataclass(frozen=True)
class Scene:
    """One image and what the model says of it before anything was learned.

    Attributes:
        embedding: of the image.
        image: (H, W, 3) uint8 RGB, the very image; None when only its embedding is at hand.
        words: the texts of each class, n of them; the background comes after them and has none.
        logits: (n + 1, h, w) float32 zero-shot patch logits; softmax over the classes gives the posterior. Of a class
            whose words tell the model nothing they are -inf: it gets no pixel until somebody draws it.
        look_again: what a network trained on photographs sees of an image, for heads that have learned; see
            `worker.segmentation.encoders.efficientnet.EfficientNetExtractor.features`.
    """

    embedding: ImageEmbedding
    image: NDArray[np.uint8] | None
    words: tuple[tuple[str, ...], ...]
    logits: Tensor
    look_again: Callable[[NDArray[np.uint8]], tuple[Tensor, ...]]

    @property
    def features(self) -> Tensor:
        """(D, h, w) float32 features of the model, channels first."""
        return self.embedding.features.permute(2, 0, 1)


class Head(Protocol):
    """Something that has learned from corrections and says better what is where."""

    def logits(self, scene: Scene) -> Tensor:
        """Give (n + 1, h', w') float32 logits on the scale of the scene's, in the same order. On another grid than the
        scene's they are taken for posteriors that follow the picture already, on the same for what patches say.

        Classes it has never been taught keep the scene's logits among themselves.
        """
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
    # A sigmoid model says of each class by itself whether it is there; where it says no to all, it is background. The
    # word for background stays out: of grass both "grass" and "background" are true, and the label must win.
    logits = logits + bias
    return torch.cat([logits[:-1], torch.zeros_like(logits[-1:])])


def learned_logits(head: Head, scene: Scene) -> Tensor:
    """What a head says of a scene, looked over: its file may be whole and hold nonsense all the same.

    Raises:
        LearningError: it says nothing, no numbers, or something of another number of classes.
    """
    try:
        found = head.logits(scene)
    except (IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error).lower():
            raise
        problem = f"does not fit the pictures ({type(error).__name__}: {str(error)[:200]})"
        raise LearningError("what was learned", problem, _REMEDY) from error
    if found.ndim != 3 or len(found) != len(scene.logits):
        problem = f"speaks of {tuple(found.shape)} classes and cells, of a picture with {len(scene.logits)} classes"
        raise LearningError("what was learned", problem, _REMEDY)
    if bool(found.isnan().any()) or bool((found == torch.inf).any()):
        raise LearningError("what was learned", "gives no numbers (NaN or infinite)", _REMEDY)
    return found
