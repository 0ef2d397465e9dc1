"""Hashes that identify a model by its parameters: of the whole encoder, and of its text half.

Both are stored: the encoder's in the manifest of every learned version, the text half's in the names of the files of
text embeddings. A change here makes those versions unusable and those embeddings be computed again.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

_SAMPLED_VALUES = 64  # of each parameter
_IMAGE_PREFIX = "visual."


def encoder_fingerprint(model: Any, *, readout: str, affinity_tower: str, windows: int, short_side: int) -> str:
    """Hash what decides the patch features: the first values of each parameter, and the settings.

    Args:
        model: an open_clip model.
        readout: name of the readout.
        affinity_tower: fingerprint of the self-supervised ViT; empty without one.
        windows: most windows per image.
        short_side: pixels of the short side at which images enter.

    Returns:
        12 hex digits.
    """
    return weights_fingerprint(model, f"{readout} {affinity_tower} {windows} {short_side}")


def weights_fingerprint(model: Any, settings: str) -> str:
    """Hash the first values of each parameter of a network, and what else decides what it gives; 12 hex digits."""
    digest = hashlib.sha256(settings.encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().flatten()[:_SAMPLED_VALUES].cpu().double().numpy().tobytes())
    return digest.hexdigest()[:12]


def text_fingerprint(model: Any) -> str:
    """Hash every parameter of an open_clip model outside its image tower; 64 hex digits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(_IMAGE_PREFIX):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
