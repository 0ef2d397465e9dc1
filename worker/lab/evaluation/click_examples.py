"""Examples to fit the click model on: prompts of a simulated annotator, with masks to be corrected, and the truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.lab.evaluation.click_things import Picture, Prediction
from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.segmentation.clicks.evidence import describe_cells, read_marks
from worker.segmentation.clicks.model import ClickModel
from worker.segmentation.clicks.prompts import Prompt
from worker.segmentation.clicks.robot import Robot, box_of
from worker.segmentation.clicks.scene import ClickScene
from worker.segmentation.clicks.second_look import describe_again
from worker.segmentation.clicks.segmentation import cell_probabilities
from worker.segmentation.clicks.superpixels import Floats

Mask = NDArray[np.bool_]

_NO_LABEL = 0.2  # of the prompts
_PREDICTED, _SPOILED, _BOXED = 0.25, 0.25, 0.15  # of the prompts begin with the prediction, a spoiled mask, a box
_ONE_CLICK, _MORE = 0.5, 0.5  # prompts of one click; parameter of the geometric number of the others
_BOX_ERROR = 0.06  # standard deviation of a box's sides, relative to its size
_ACCUMULATED = 0.8  # of the later clicks correct what the earlier ones gave
_EMULATED = 0.6  # of the prompts on photographs: the builtin model reads no words of photographs, others do
_PATCH, _SHORT_SIDE = 16, 448  # pixels, of the emulated model


@dataclass(frozen=True)
class ClickExample:
    """A described prompt.

    Attributes:
        described: (n, f) float16, as `describe_cells` or `describe_again` gives it.
        truth: (n,) float32 share of each cell that belongs to the thing.
        area: (n,) float32 pixels.
    """

    described: NDArray[np.float16]
    truth: Floats
    area: Floats


@dataclass(frozen=True)
class ReadyPicture:
    """A picture with all that prompts on it need; of photographs, the model that predicted has read no words."""

    picture: Picture
    scene: ClickScene
    prediction: Prediction
    is_photograph: bool


def click_examples(
    ready: Sequence[ReadyPicture], count: int, rng: np.random.Generator, model: ClickModel | None
) -> Iterator[ClickExample]:
    """Make examples on random things of random pictures.

    Args:
        ready: the pictures.
        count: of the examples.
        rng: decides everything.
        model: whose first look answers the earlier clicks of a prompt, and is described; None = earlier clicks are
            answered by spoiled masks, and the first look itself is described.
    """
    ready = [one for one in ready if one.picture.things]
    while count:
        one = ready[rng.integers(len(ready))]
        thing = one.picture.things[rng.integers(len(one.picture.things))]
        if one.is_photograph and rng.random() < _EMULATED:
            one = replace(one, scene=_with_emulated_words(one, thing.index, rng))
        index = None if rng.random() < _NO_LABEL else thing.index
        prompt, current = _prompt(one, thing, index, rng, model)
        if not prompt.positive and not prompt.boxes and current is None:
            continue
        cells = one.scene.cells
        marks = read_marks(one.scene, prompt, current)
        if model is None:
            described = describe_cells(one.scene, marks, index)
        else:
            guess = cell_probabilities(one.scene, prompt, index, current, model)
            described = describe_again(one.scene, marks, index, guess)
        small = cv2.resize(thing.mask.astype(np.float32), cells.labels.shape[::-1], interpolation=cv2.INTER_AREA)
        yield ClickExample(described.astype(np.float16), cells.mean(small), cells.area)
        count -= 1


def _prompt(
    one: ReadyPicture, thing: TrueSegment, index: int | None, rng: np.random.Generator, model: ClickModel | None
) -> tuple[Prompt, Mask | None]:
    prompt, chance, truth = Prompt(), rng.random(), thing.mask
    clicks = 1 if rng.random() < _ONE_CLICK else 1 + int(rng.geometric(_MORE))
    current = None
    if chance < _PREDICTED:
        current = one.prediction.best_of(thing)
    elif chance < _PREDICTED + _SPOILED:
        current = _spoiled(one, truth, rng)
    elif chance < _PREDICTED + _SPOILED + _BOXED:
        prompt, clicks = _boxed(truth, rng), int(rng.integers(3))
    current = current if current is not None and current.any() else None
    mask = np.zeros_like(truth) if current is None else current
    for number in range(clicks):
        if np.array_equal(mask, truth):
            break
        robot = Robot(float(rng.choice([0.1, 0.5])), 0)
        point, inside = robot.click(mask, truth, rng)
        side = "positive" if inside else "negative"
        prompt = replace(prompt, **{side: (*getattr(prompt, side), point)})
        if number + 1 < clicks:
            mask = _spoiled(one, truth, rng) if model is None else _answered(one.scene, prompt, index, current, model)
            current = mask if rng.random() < _ACCUMULATED and mask.any() else current
    return prompt, current


def _with_emulated_words(one: ReadyPicture, index: int, rng: np.random.Generator) -> ClickScene:
    """The scene with a posterior of one class as a patch model might give it: shares of patches, and smooth noise."""
    truth = np.any([thing.mask for thing in one.picture.things if thing.index == index], axis=0)
    scale = _SHORT_SIDE / min(truth.shape) / _PATCH
    grid = (max(4, round(truth.shape[1] * scale)), max(4, round(truth.shape[0] * scale)))
    small = cv2.resize(truth.astype(np.float32), grid, interpolation=cv2.INTER_AREA)
    share = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.5, 1.2), borderType=cv2.BORDER_REPLICATE)
    noise = cv2.GaussianBlur(rng.standard_normal(share.shape).astype(np.float32), (0, 0), 1.5)
    logits = (share + rng.uniform(0.05, 0.4) * noise / (noise.std() + 1e-6) - 0.5) * rng.uniform(4, 10)
    cells = one.scene.cells
    grown = cv2.resize(logits, cells.labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return replace(one.scene, posterior=cells.mean(1 / (1 + np.exp(-grown)))[None], rows={index: 0})


def _boxed(truth: Mask, rng: np.random.Generator) -> Prompt:
    left, top, right, bottom = box_of(truth)
    error = _BOX_ERROR * (right - left + bottom - top) / 2
    left, top, right, bottom = np.array([left, top, right, bottom]) + rng.normal(0, error, 4)
    return Prompt(boxes=((left, top, right, bottom),)) if right > left + 2 and bottom > top + 2 else Prompt()


def _answered(
    scene: ClickScene, prompt: Prompt, index: int | None, current: Mask | None, model: ClickModel
) -> Mask:
    likely = cell_probabilities(scene, prompt, index, current, model)
    cells = (likely > 0.5)[scene.cells.labels].astype(np.uint8)
    return np.asarray(cv2.resize(cells, scene.size[::-1], interpolation=cv2.INTER_NEAREST) > 0)


def _spoiled(one: ReadyPicture, truth: Mask, rng: np.random.Generator) -> Mask:
    """A mask as wrong as predictions are: too large or small, half of it, moved, with its neighbours, a box."""
    kind = int(rng.integers(7))
    radius = max(1, int(np.count_nonzero(truth) ** 0.5 * rng.uniform(0.1, 0.5)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    if kind == 0:
        return np.asarray(cv2.dilate(truth.astype(np.uint8), kernel) > 0)
    if kind == 1:
        return np.asarray(cv2.erode(truth.astype(np.uint8), kernel) > 0)
    if kind == 2:
        rows, columns = np.indices(truth.shape)
        angle = rng.uniform(0, 2 * np.pi)
        across = rows * np.sin(angle) + columns * np.cos(angle)
        return np.asarray(truth & (across > across[truth].mean()))
    if kind == 3:
        return np.roll(truth, tuple(int(value) for value in rng.normal(0, radius, 2)), (0, 1))
    if kind == 4:
        left, top, right, bottom = (int(value) for value in box_of(truth))
        box = np.zeros_like(truth)
        box[top:bottom, left:right] = True
        return box
    near = cv2.dilate(truth.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    beside = [thing.mask for thing in one.picture.things if (thing.mask & near).any() and rng.random() < 0.8]
    return np.asarray(np.any([truth, *beside], axis=0))
