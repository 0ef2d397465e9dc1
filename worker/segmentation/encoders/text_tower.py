"""Tokens -> text embeddings of an open_clip model, computed no further than the longest text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_REQUIRED_PARTS = (
    "token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection", "attn_mask",
)  # fmt: skip


def encode_tokens(model: Any, tokens: Tensor) -> Tensor:
    """Compute what `model.encode_text` returns, without the padding.

    CLIP's text tower is causal and its embedding is read at the end-of-text token, so no later position can change it;
    a label's prompt fills a tenth of the 77 positions. Text towers of other kinds run `encode_text` itself.

    Args:
        model: an open_clip model.
        tokens: (n, context) int64 as its tokenizer gives them.

    Returns:
        (n, D) float, not normalised.
    """
    if not _is_causal_clip(model):
        whole: Tensor = model.encode_text(tokens)
        return whole
    ends = tokens.argmax(dim=1)  # the end-of-text token has the largest id of all
    length = int(ends.max()) + 1
    dtype = model.transformer.get_cast_dtype()
    hidden = model.token_embedding(tokens[:, :length]).to(dtype) + model.positional_embedding[:length].to(dtype)
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = hidden[torch.arange(len(tokens), device=tokens.device), ends]  # (n, width)
    projection = model.text_projection
    if projection is None:
        return pooled
    projected: Tensor = projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
    return projected


def _is_causal_clip(model: Any) -> bool:
    """Whether the text tower is open_clip's own: causal, and pooled at the end-of-text token."""
    if getattr(model, "text_pool_type", None) != "argmax" or not all(hasattr(model, part) for part in _REQUIRED_PARTS):
        return False
    mask = model.attn_mask
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        return False
    return torch.equal(mask, torch.full_like(mask, float("-inf")).triu(1))
