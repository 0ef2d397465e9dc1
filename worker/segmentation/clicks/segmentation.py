"""A prompt on a prepared image -> one mask."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import PromptError
from worker.segmentation.clicks.evidence import Marks, describe_cells, read_marks
from worker.segmentation.clicks.model import ClickModel
from worker.segmentation.clicks.outline import look_closer
from worker.segmentation.clicks.prompts import Prompt, PromptedMask, pixel_of, pixels_in
from worker.segmentation.clicks.redrawing import redraw
from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.second_look import describe_again
from worker.segmentation.clicks.superpixels import Floats

Mask = NDArray[np.bool_]

_SPECK = 0.02  # share of the mask: smaller pieces without a click, and smaller holes, are noise
_SURE = 6.0  # log-odds of cells that are clicked on
_MOST_LOGIT = 15.0


def segment_prompt(
    scene: ClickScene,
    prompt: Prompt,
    *,
    class_index: int | None = None,
    taken: Mask | None = None,
    current: Mask | None = None,
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
        ValueError: `taken` or `current` is not of the size of the image.
    """
    _check(scene, prompt, taken, current)
    bound = _bound(scene, prompt)
    forbidden = np.zeros(scene.size, dtype=np.bool_) if taken is None else taken.copy()
    if bound is not None:
        forbidden |= ~bound
    likely = cell_probabilities(scene, prompt, class_index, current)
    window = look_closer(scene, likely)
    probability = np.zeros(scene.size, dtype=np.float32)
    probability[window.rows, window.columns] = window.likely
    mask = (probability > 0.5) & ~forbidden
    mask = _tidied(mask, prompt, scene.size, current)
    mask = _obeying(mask & ~forbidden, prompt, scene, forbidden)
    if scene.session is not None and mask.any():
        redrawn = redraw(scene.session, prompt, mask, probability, forbidden)
        if redrawn is not None:
            return PromptedMask(*redrawn)
    return PromptedMask(mask, _expected_iou(mask, probability))


def cell_probabilities(
    scene: ClickScene,
    prompt: Prompt,
    class_index: int | None,
    current: Mask | None,
    model: ClickModel | None = None,
) -> Floats:
    """How likely each cell belongs to what is clicked on, (n,) float32; see `segment_prompt`."""
    model = model or ClickModel.shipped()
    marks = read_marks(scene, prompt, current)
    likely = _sure(marks, model.first.logits(describe_cells(scene, marks, class_index)))
    if model.second is not None:
        likely = _sure(marks, model.second.logits(describe_again(scene, marks, class_index, likely)))
    return likely


def _sure(marks: Marks, logits: Floats) -> Floats:
    """Log-odds to probabilities; those of the cells that are clicked on are known."""
    logits[marks.positive] = np.maximum(logits[marks.positive], _SURE)
    logits[marks.negative] = np.minimum(logits[marks.negative], -_SURE)
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -_MOST_LOGIT, _MOST_LOGIT))))


def _check(scene: ClickScene, prompt: Prompt, taken: Mask | None, current: Mask | None) -> None:
    prompt.check(scene.size)
    for name, mask in (("taken", taken), ("current", current)):
        if mask is not None and mask.shape != scene.size:
            raise ValueError(f"{name} must be of size {scene.size} as the image, got {mask.shape}")
    if not prompt.positive and not prompt.boxes and (current is None or not current.any()):
        raise PromptError("the prompt", "tells nowhere what is inside", "Click inside the thing, or draw a box.")
    for point in prompt.positive:
        if taken is not None and taken[pixel_of(point, scene.size)]:
            x, y = point
            raise PromptError(f"the click at {x:g}, {y:g}", "lies on a region that is drawn already",
                              "Click beside it, or delete that region first.")  # fmt: skip


def _bound(scene: ClickScene, prompt: Prompt) -> Mask | None:
    """(H, W) bool pixels of the boxes; None where nothing is bounded."""
    if not prompt.boxes:
        return None
    inside = np.zeros(scene.size, dtype=np.bool_)
    for box in prompt.boxes:
        inside[pixels_in(box, scene.size)] = True
    return inside if all(inside[pixel_of(point, scene.size)] for point in prompt.positive) else None


def _tidied(mask: Mask, prompt: Prompt, size: tuple[int, int], current: Mask | None) -> Mask:
    """Keep the pieces that are clicked on, or the large ones where there is no click, and close small holes."""
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    clicked = {int(numbered[pixel_of(point, size)]) for point in prompt.positive} - {0}
    keep = np.zeros(count, dtype=np.bool_)
    if clicked:
        keep[list(clicked)] = True
        if current is not None and current.any():  # a mask that is corrected keeps its other large pieces
            kept_area = np.bincount(numbered.ravel(), (current & mask).ravel(), minlength=count)
            keep |= (kept_area > 0.5 * areas) & (areas > _SPECK * areas.sum())
    else:
        keep = areas >= 0.25 * areas.max()
    keep[0] = False
    found = keep[numbered]
    return _without_pinholes(found, prompt, size)


def _without_pinholes(mask: Mask, prompt: Prompt, size: tuple[int, int]) -> Mask:
    _, numbered, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < _SPECK * max(1, np.count_nonzero(mask))
    small[0] = False
    for point in prompt.negative:
        small[numbered[pixel_of(point, size)]] = False
    return mask | small[numbered]


def _obeying(mask: Mask, prompt: Prompt, scene: ClickScene, forbidden: Mask) -> Mask:
    """Add the cells of positive clicks that are left out, take away those of negative ones that are not."""
    mask = mask.copy()
    for points, inside in ((prompt.negative, False), (prompt.positive, True)):
        for point in points:
            pixel = pixel_of(point, scene.size)
            if mask[pixel] != inside:
                cell = _cell_at(scene, pixel)
                mask[cell] = inside
    mask &= ~forbidden
    for points, inside in ((prompt.negative, False), (prompt.positive, True)):
        for point in points:
            mask[pixel_of(point, scene.size)] = inside
    return mask


def _cell_at(scene: ClickScene, pixel: tuple[int, int]) -> Mask:
    """(H, W) bool pixels of the cell that a pixel belongs to."""
    labels = scene.cells.labels
    scale = np.array(labels.shape) / scene.size
    row, column = ((np.array(pixel) + 0.5) * scale).astype(int)
    cell = (labels == labels[row, column]).astype(np.uint8)
    grown = cv2.resize(cell, scene.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    grown[pixel] = True
    return grown


def _expected_iou(mask: Mask, probability: Floats) -> float:
    """IoU to be expected if each pixel belongs to the thing with its probability."""
    inside = float(probability[mask].sum())
    union = np.count_nonzero(mask) + float(probability.sum()) - inside
    return float(np.clip(inside / union, 0, 1)) if union > 0 else 0.0
