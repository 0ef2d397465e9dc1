"""Patch features x text embeddings -> patch logits. It must not know where either came from."""

from __future__ import annotations

import torch
from torch import Tensor

from worker.segmentation.text import TextClasses


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
