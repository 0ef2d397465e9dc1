"""Lack of memory is told by one function, wherever it is met, and is no fault of what met it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from plugin_config.errors import LearningError
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import Head, ImageScores, head_scores
from worker.segmentation.memory import is_out_of_memory

TOLD = ("DefaultCPUAllocator: not enough memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "cannot allocate 8 GB")
IMAGE = cast(ImageScores, SimpleNamespace(zero_shot=ClassScores.from_logits(torch.zeros(3, 2, 2))))


class FailingHead:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def scores(self, image: ImageScores) -> ClassScores:
        raise self._error


def fail_with(error: Exception) -> Any:
    return head_scores(cast(Head, FailingHead(error)), IMAGE)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), *map(RuntimeError, TOLD)], ids=repr)
def test_a_learned_head_that_finds_no_memory_is_not_refused(error: Exception) -> None:
    """Else the version would be served no more, for want of memory that another process holds just now."""
    assert is_out_of_memory(error)
    with pytest.raises(type(error)):
        fail_with(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("memory"), ValueError("memory_format")],
                         ids=repr)  # fmt: skip
def test_a_damaged_head_is_refused(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(LearningError, match="does not fit the images"):
        fail_with(error)
