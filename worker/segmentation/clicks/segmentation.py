"""A prompt on a prepared image -> one mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worker.segmentation.clicks.prompts import Prompt, PromptedMask, pixel_of
from worker.segmentation.clicks.scene import ClickScene


def segment_prompt(
    scene: ClickScene,
    prompt: Prompt,
    *,
    class_index: int | None = None,
    taken: NDArray[np.bool_] | None = None,
    current: NDArray[np.bool_] | None = None,
) -> PromptedMask:
    """Draw the one thing that is clicked on.

    The mask holds every positive click and no negative one, stays within the boxes, unless a click is outside of all of
    them, and leaves alone what is taken.

    Args:
        scene: of the image, from `prepare`.
        prompt: where the thing is.
        class_index: index of its label in the words that were scored; None = any thing.
        taken: (H, W) bool, pixels of other regions.
        current: (H, W) bool, the mask that is being corrected; positive and negative clicks say what is wrong with it.

    Raises:
        PromptError: the prompt cannot be meant: see `Prompt.check`; it holds neither a positive click nor a box and
            there is no mask to correct; or it clicks on what is taken.
        ValueError: `taken` or `current` is not of the size of the image, or there is no such class.
    """
    prompt.check(scene.size)
    mask = np.zeros(scene.size, dtype=np.bool_) if current is None else current.copy()
    for point in prompt.positive:
        mask[pixel_of(point, scene.size)] = True
    for point in prompt.negative:
        mask[pixel_of(point, scene.size)] = False
    return PromptedMask(mask, 0.0)
