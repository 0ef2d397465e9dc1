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
from worker.segmentation.instances.class_map import Crop
from worker.segmentation.instances.splitting import split_component

Mask = NDArray[np.bool_]

_SPECK = 0.02  # share of the mask: smaller pieces without a click, and smaller holes, are noise
_PIECE = 0.25  # share of the largest piece from which another one is kept where there is no click
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
            there is no mask to correct, which is told of a negative click in its own words; or it clicks on what is
            taken.
        ValueError: `taken` or `current` is not of the size of the image.
    """
    _check(scene, prompt, taken, current)
    bound = _bound(scene, prompt)
    forbidden = np.zeros(scene.size, dtype=np.bool_) if taken is None else taken.copy()
    if bound is not None:
        forbidden |= ~bound
    likely = cell_probabilities(scene, prompt, class_index, current)
    if current is not None and _is_elsewhere(current, prompt):
        fresh = cell_probabilities(scene, prompt, class_index, None)
        if _certainty(scene, fresh) > _certainty(scene, likely):
            likely, current = fresh, None
    window = look_closer(scene, likely)
    probability = np.zeros(scene.size, dtype=np.float32)
    probability[window.rows, window.columns] = window.likely
    mask = (probability > 0.5) & ~forbidden
    if current is not None and prompt.negative:
        mask &= ~_rejected(scene, prompt, current)
    mask = _tidied(mask, prompt, scene, current)
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


def _is_elsewhere(current: Mask, prompt: Prompt) -> bool:
    """Whether a mask may be that of another thing: no click is in it."""
    size = (current.shape[0], current.shape[1])
    return bool(prompt.positive) and not any(current[pixel_of(p, size)] for p in (*prompt.positive, *prompt.negative))


def _certainty(scene: ClickScene, likely: Floats) -> float:
    """IoU to be expected of the cells that are likelier than not."""
    share = scene.cells.area * likely
    inside = likely > 0.5
    return float(share[inside].sum() / (scene.cells.area[inside].sum() + share[~inside].sum()))


def _check(scene: ClickScene, prompt: Prompt, taken: Mask | None, current: Mask | None) -> None:
    prompt.check(scene.size)
    for name, mask in (("taken", taken), ("current", current)):
        if mask is not None and mask.shape != scene.size:
            raise ValueError(f"{name} must be of size {scene.size} as the image, got {mask.shape}")
    if not prompt.positive and not prompt.boxes and (current is None or not current.any()):
        if prompt.negative:  # meant for a region that nobody has told of yet
            problem = "lies outside of a thing, and no region of this label is known there yet"
            remedy = "Wait some seconds, until the draft is saved, or begin with a click inside the thing."
            raise PromptError("the click", problem, remedy)
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


def _tidied(mask: Mask, prompt: Prompt, scene: ClickScene, current: Mask | None) -> Mask:
    """Keep the things that are clicked on, or the large pieces where nothing is, and close small holes."""
    size = scene.size
    count, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    clicked = {int(numbered[pixel_of(point, size)]) for point in prompt.positive} - {0}
    keep = areas >= (_SPECK if current is not None else _PIECE) * areas.max()
    if clicked:
        # A mask that is corrected keeps its other large pieces.
        old = np.zeros(count) if current is None else np.bincount(numbered[current], minlength=count)
        keep &= old > areas / 2
        keep[list(clicked)] = True
    keep[0] = False
    found: Mask = keep[numbered]
    for number in sorted(clicked):
        left, top, width, height = (int(value) for value in stats[number, :4])
        crop = (slice(top, top + height), slice(left, left + width))
        found[crop] &= ~_others(numbered[crop] == number, crop, prompt, scene, current)
    return _without_pinholes(found, prompt, size)


def _rejected(scene: ClickScene, prompt: Prompt, current: Mask) -> Mask:
    """(H, W) bool things in the mask that is corrected which have a click outside, and none inside."""
    found = np.zeros(scene.size, dtype=np.bool_)
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(current.astype(np.uint8), connectivity=8)
    negative, positive = ({pixel_of(p, scene.size) for p in points} for points in (prompt.negative, prompt.positive))
    for number in {int(numbered[pixel]) for pixel in negative} - {0}:
        left, top, width, height = (int(value) for value in stats[number, :4])
        crop = (slice(top, top + height), slice(left, left + width))
        parts = split_component(numbered[crop] == number, scene.image[crop])
        for part in parts if len(parts) > 1 else []:
            whole = np.zeros(scene.size, dtype=np.bool_)
            whole[crop] = part.mask
            if any(whole[pixel] for pixel in negative) and not any(whole[pixel] for pixel in positive):
                found |= whole
    return found


def _others(piece: Mask, crop: Crop, prompt: Prompt, scene: ClickScene, current: Mask | None) -> Mask:
    """(h, w) bool parts of a piece that are other things than the one that is clicked on: nobody clicked on them, and
    most of them was not in the mask that is corrected."""
    found = np.zeros(piece.shape, dtype=np.bool_)
    if prompt.boxes:
        return found
    parts = split_component(piece, scene.image[crop])
    for part in parts if len(parts) > 1 else []:
        whole = np.zeros(scene.size, dtype=np.bool_)
        whole[crop] = part.mask
        corrected = current is not None and np.count_nonzero(whole & current) > np.count_nonzero(whole) / 2
        rejected = any(whole[pixel_of(point, scene.size)] for point in prompt.negative)
        if any(whole[pixel_of(point, scene.size)] for point in prompt.positive) or (corrected and not rejected):
            continue
        found |= part.mask
    return found


def _without_pinholes(mask: Mask, prompt: Prompt, size: tuple[int, int]) -> Mask:
    _, numbered, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < _SPECK * max(1, np.count_nonzero(mask))
    small[0] = False
    for point in prompt.negative:
        small[numbered[pixel_of(point, size)]] = False
    return np.asarray(mask | small[numbered])


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
    grown: Mask = cv2.resize(cell, scene.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
    grown[pixel] = True
    return grown


def _expected_iou(mask: Mask, probability: Floats) -> float:
    """IoU to be expected if each pixel belongs to the thing with its probability."""
    inside = float(probability[mask].sum())
    union = np.count_nonzero(mask) + float(probability.sum()) - inside
    return float(np.clip(inside / union, 0, 1)) if union > 0 else 0.0
