"""How many images enter the model at once: as many as fit its memory and take a second at most."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from worker.segmentation.memory import is_out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")

# An annotator may open a task while a batch is in the model: it must not take long.
_SLOW_S, _QUICK_S = 1.0, 0.3
_CALM = 50


class BatchSize:
    """Adapts how many images enter the model at once. Used by one thread.

    Args:
        most: never more than this.
    """

    def __init__(self, most: int) -> None:
        self.size = 1
        self._most = most
        self._fits = most
        self._calm = 0

    def took(self, count: int, seconds: float) -> None:
        """Note a batch that went through: grow after a quick full one, shrink after a slow one."""
        self._calm += 1
        if self._calm >= _CALM:  # whatever else filled the memory may be gone
            self._fits, self._calm = min(self._most, self._fits * 2), 0
        if seconds > _SLOW_S:
            self.size = max(1, self.size // 2)
        elif count >= self.size and seconds < _QUICK_S:
            self.size = min(self._fits, self.size * 2)

    def ran_out(self, count: int) -> None:
        """Note that `count` images did not fit: half as many from now on, and no more for a while."""
        self.size = self._fits = max(1, count // 2)
        self._calm = 0


def embed_batch(
    images: Sequence[NDArray[np.uint8]], embed: Callable[[Sequence[NDArray[np.uint8]]], Sequence[T]], size: BatchSize
) -> list[T | Exception]:
    """Embed images together; after an error in halves, so that only images that fail by themselves are lost.

    Returns:
        for each image its embedding, or the error it fails with by itself.
    """
    started = time.perf_counter()
    try:
        found = list(embed(images))
    except (RuntimeError, MemoryError, ValueError) as error:  # torch's out-of-memory is a RuntimeError
        if is_out_of_memory(error):
            size.ran_out(len(images))
            free_memory()
        if len(images) == 1:
            return [error]
        log.warning("%d images did not go through the model together (%s); in halves", len(images), error)
    else:
        size.took(len(images), time.perf_counter() - started)
        return list(found)
    half = len(images) // 2
    return embed_batch(images[:half], embed, size) + embed_batch(images[half:], embed, size)


def free_memory() -> None:
    """Return the memory that torch has cached on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
