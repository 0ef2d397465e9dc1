"""Whether an error means that memory ran out; torch says so in several ways."""

from __future__ import annotations

import torch

_TOLD = ("memory", "cannot allocate", "alloc_failed")  # the last as CUBLAS_STATUS_ALLOC_FAILED has it


def is_out_of_memory(error: Exception) -> bool:
    """Whether more memory, or less at once, would have helped."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(told in text for told in _TOLD)
