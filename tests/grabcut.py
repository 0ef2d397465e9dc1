"""A mask refiner that is no stand-in: GrabCut (Rother, Kolmogorov and Blake, 2004), prompted as a SAM would be."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.segmentation.instances.refiner import Prompt, Redrawn

_MARGIN = 0.25  # of the box, on each side
_SURE = 3.0  # logit
_ROUNDS = 3


class GrabCut:
    """Colour models of a thing and of what is around it. `looked` counts images."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.looked = 0

    def look(self, image: NDArray[np.uint8]) -> GrabCutSession:
        self.looked += 1
        return GrabCutSession(image)


class GrabCutSession:
    """One image."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = np.ascontiguousarray(image[..., ::-1])

    def redraw(self, prompt: Prompt) -> Redrawn | None:
        window = self._window(prompt)
        labels = np.where(prompt.logits[window] > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        depth = cv2.distanceTransform((prompt.logits[window] > 0).astype(np.uint8), cv2.DIST_L2, 5)
        far = cv2.distanceTransform((prompt.logits[window] <= 0).astype(np.uint8), cv2.DIST_L2, 5)
        labels[depth > 0.4 * depth.max()] = cv2.GC_FGD
        labels[far > 0.6 * max(1.0, depth.max())] = cv2.GC_BGD
        if not (labels == cv2.GC_BGD).any():
            return None
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cut = np.ascontiguousarray(self._image[window])
        cv2.grabCut(cut, labels, None, *models, 1, cv2.GC_INIT_WITH_MASK)
        before = (labels & 1) > 0
        cv2.grabCut(cut, labels, None, *models, _ROUNDS, cv2.GC_EVAL)
        after = (labels & 1) > 0
        whole = np.zeros(prompt.logits.shape, dtype=np.bool_)
        whole[window] = after
        # How little more rounds change says how sure it is, as SAM's stability score does.
        return Redrawn(whole, float((before & after).sum() / max(1, (before | after).sum())))

    @staticmethod
    def _window(prompt: Prompt) -> tuple[slice, slice]:
        left, top, right, bottom = prompt.box
        aside, above = _MARGIN * (right - left) + 4, _MARGIN * (bottom - top) + 4
        height, width = prompt.logits.shape
        rows = slice(max(0, int(top - above)), min(height, int(bottom + above) + 1))
        return rows, slice(max(0, int(left - aside)), min(width, int(right + aside) + 1))
