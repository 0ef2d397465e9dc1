"""Tokens -> text embeddings of an open_clip model, read no further than the longest text; what tells models apart.

It must not know about words, labels or images.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

_PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection", "attn_mask")
_SEEN = "visual."


def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """What `model.encode_text` gives, without its padding.

    CLIP's text tower reads from left to right and answers at the end-of-text token, so nothing behind that token can
    change the answer; a label's prompt fills a tenth of the 77 places. Towers of another make are asked as they are.

    Args:
        model: an open_clip model.
        tokens: (n, context) int64 as its tokenizer gives them.

    Returns:
        (n, D) float, not normalised.
    """
    if not _reads_to_the_end_token(model):
        whole: Tensor = model.encode_text(tokens)
        return whole
    ends = tokens.argmax(dim=1)  # the end-of-text token has the largest number of all
    length = int(ends.max()) + 1
    dtype = model.transformer.get_cast_dtype()
    read = model.token_embedding(tokens[:, :length]).to(dtype) + model.positional_embedding[:length].to(dtype)
    read = model.ln_final(model.transformer(read, attn_mask=model.attn_mask[:length, :length]))
    said: Tensor = read[torch.arange(len(tokens), device=tokens.device), ends]
    projection = model.text_projection
    if projection is None:
        return said
    projected: Tensor = projection(said) if isinstance(projection, torch.nn.Linear) else said @ projection
    return projected


def text_fingerprint(model: Any) -> str:
    """Sixty-four hex digits that differ when any parameter outside the image tower does."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(_SEEN):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _reads_to_the_end_token(model: Any) -> bool:
    """Whether the tower is open_clip's own: causal, and pooled at the end-of-text token."""
    if getattr(model, "text_pool_type", None) != "argmax" or not all(hasattr(model, part) for part in _PARTS):
        return False
    mask = model.attn_mask
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return False
    return torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1))
