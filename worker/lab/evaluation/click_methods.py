"""Who answers the clicks: Zeromask, and the baselines it is compared with. Nobody sees the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.lab.evaluation.click_things import Prediction
from worker.segmentation.clicks.prompts import Prompt, pixel_of, pixels_in
from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.segmentation import segment_prompt

Mask = NDArray[np.bool_]
Method = Callable[[ClickScene, Prediction, Prompt, int | None, Mask | None], Mask]
"""A prepared image, its prediction, a prompt, the class that is meant and the mask to be corrected -> a mask."""

_GRABCUT_RADIUS = 0.15  # of the short side: how far around clicks GrabCut looks for the thing at first
_GRABCUT_ROUNDS = 3


def zeromask(
    scene: ClickScene, prediction: Prediction, prompt: Prompt, index: int | None, current: Mask | None
) -> Mask:
    """The product's answer."""
    return segment_prompt(scene, prompt, class_index=index, current=current).mask


def grabcut(
    scene: ClickScene, prediction: Prediction, prompt: Prompt, index: int | None, current: Mask | None
) -> Mask:
    """GrabCut (Rother, Kolmogorov and Blake, 2004) from the clicks or the box: colours alone."""
    labels = np.full(scene.size, cv2.GC_BGD if prompt.boxes else cv2.GC_PR_BGD, dtype=np.uint8)
    for box in prompt.boxes:
        labels[pixels_in(box, scene.size)] = cv2.GC_PR_FGD
    if current is not None:
        labels[current] = cv2.GC_PR_FGD
    radius = max(2, round(_GRABCUT_RADIUS * min(scene.size)))
    for points, likely, sure in ((prompt.positive, cv2.GC_PR_FGD, cv2.GC_FGD), (prompt.negative, None, cv2.GC_BGD)):
        for point in points:
            row, column = pixel_of(point, scene.size)
            if likely is not None and current is None and not prompt.boxes:
                cv2.circle(labels, (column, row), radius, likely, thickness=-1)
        for point in points:
            row, column = pixel_of(point, scene.size)
            cv2.circle(labels, (column, row), max(2, radius // 10), sure, thickness=-1)
    if not ((labels & 1) > 0).any() or not ((labels & 1) == 0).any():
        return np.asarray((labels & 1) > 0)
    colours = np.ascontiguousarray(scene.image[..., ::-1])
    cv2.grabCut(colours, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return _with_clicks((labels & 1) > 0, prompt)


def component(
    scene: ClickScene, prediction: Prediction, prompt: Prompt, index: int | None, current: Mask | None
) -> Mask:
    """The connected components of the class mask that are clicked on, added to and taken from the mask."""
    mask = np.zeros(scene.size, dtype=np.bool_) if current is None else current.copy()
    numbered = cv2.connectedComponents((prediction.classes == index).astype(np.uint8), connectivity=8)[1]
    if prompt.boxes:
        inside = np.zeros(scene.size, dtype=np.bool_)
        for box in prompt.boxes:
            inside[pixels_in(box, scene.size)] = True
        mask |= inside & (numbered > 0)
    for points, drawn in ((prompt.positive, True), (prompt.negative, False)):
        for point in points:
            number = numbered[pixel_of(point, scene.size)]
            if number:
                mask[numbered == number] = drawn
            mask[pixel_of(point, scene.size)] = drawn
    return mask


def _with_clicks(mask: Mask, prompt: Prompt) -> Mask:
    """The pieces that are clicked on, where there are clicks inside."""
    if not prompt.positive:
        return mask
    numbered = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    clicked = {int(numbered[pixel_of(point, (mask.shape[0], mask.shape[1]))]) for point in prompt.positive} - {0}
    return np.isin(numbered, list(clicked))


METHODS: Mapping[str, Method] = {"zeromask": zeromask, "grabcut": grabcut, "component": component}
