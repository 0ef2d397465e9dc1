"""Clicks and boxes on a picture give one mask, and do what the clicks say."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import PromptError
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, PanopticScene, TrueSegment, panoptic_scene
from worker.segmentation.clicks.prompts import Prompt, pixel_of
from worker.segmentation.clicks.robot import box_of
from worker.segmentation.clicks.scene import ClickScene, prepare
from worker.segmentation.clicks.segmentation import segment_prompt
from worker.segmentation.clicks.superpixels import superpixels
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.refiner import Prompt as RefinerPrompt
from worker.segmentation.instances.refiner import Redrawn
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]
SIZE = (240, 320)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


def scene_of(segmenter: Segmenter, image: NDArray[np.uint8], labels: tuple[str, ...]) -> ClickScene:
    words = [(label,) for label in labels]
    return prepare(segmenter, segmenter.score(segmenter.embed([image])[0], words, image))


def middle(mask: Mask) -> tuple[float, float]:
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(np.zeros(SIZE, np.uint8), (x, y), radius, 1, -1) > 0)


RED, BLUE, FAR_RED = disc(90, 120, 38), disc(160, 120, 38), disc(270, 60, 30)


@pytest.fixture(scope="module")
def discs(segmenter: Segmenter) -> ClickScene:
    """Two red discs far apart, and a blue one that touches the first, on a plain ground."""
    rng = np.random.default_rng(0)
    image = np.full((*SIZE, 3), 190, dtype=np.uint8)
    image[RED], image[FAR_RED], image[BLUE] = (200, 30, 30), (200, 30, 30), (40, 60, 200)
    noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    return scene_of(segmenter, noisy, ("red shape", "blue shape"))


@pytest.fixture(scope="module")
def drawn(segmenter: Segmenter) -> list[tuple[PanopticScene, ClickScene]]:
    """Scenes in which things of one class touch."""
    scenes = [panoptic_scene(11, number) for number in (0, 4)]
    return [(one, scene_of(segmenter, one.scene.image, one.labels)) for one in scenes]


def test_one_click_gives_one_thing_among_others_of_its_class(drawn: list[tuple[PanopticScene, ClickScene]]) -> None:
    ious, of_class = [], []
    for one, scene in drawn:
        for thing in crowded(one):
            found = segment_prompt(scene, Prompt((middle(thing.mask),)), class_index=thing.index)
            together = np.any([other.mask for other in one.truth if other.index == thing.index], axis=0)
            ious.append(mask_iou(found.mask, thing.mask))
            of_class.append(mask_iou(together, thing.mask))
    assert len(ious) >= 4
    assert np.mean(ious) > np.mean(of_class) + 0.15, (np.mean(ious), np.mean(of_class))


def crowded(one: PanopticScene) -> list[TrueSegment]:
    """Things of a scene that share their class with another one."""
    things = [segment for segment in one.truth if segment.index < STUFF_FROM and segment.mask.sum() > 200]
    return [thing for thing in things if sum(other.index == thing.index for other in things) > 1]


def test_a_click_leaves_alone_what_is_alike_but_elsewhere(discs: ClickScene) -> None:
    found = segment_prompt(discs, Prompt((middle(RED),)), class_index=0)
    assert mask_iou(found.mask, RED) > 0.85
    assert not (found.mask & FAR_RED).any()
    assert 0 < found.score <= 1


def test_a_negative_click_takes_away(discs: ClickScene) -> None:
    both = RED | BLUE
    found = segment_prompt(discs, Prompt(negative=(middle(BLUE),)), class_index=0, current=both)
    assert mask_iou(found.mask, RED) > mask_iou(both, RED) + 0.2
    assert not found.mask[pixel_of(middle(BLUE), SIZE)]


def test_a_positive_click_adds_to_what_is_corrected(discs: ClickScene) -> None:
    half = RED.copy()
    half[:, 90:] = False
    found = segment_prompt(discs, Prompt(((110.0, 120.0),)), class_index=0, current=half)
    assert mask_iou(found.mask, RED) > mask_iou(half, RED) + 0.2


def test_clicks_are_obeyed_wherever_they_are(discs: ClickScene) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        points = [(float(x), float(y)) for x, y in rng.uniform((0, 0), SIZE[::-1], (6, 2))]
        prompt = Prompt(tuple(points[:3]), tuple(points[3:]))
        mask = segment_prompt(discs, prompt, class_index=None, current=disc(200, 150, 60)).mask
        assert all(mask[pixel_of(point, SIZE)] for point in prompt.positive)
        assert not any(mask[pixel_of(point, SIZE)] for point in prompt.negative)


def test_a_box_bounds_the_mask(discs: ClickScene) -> None:
    left, top, right, bottom = box_of(BLUE)
    whole = segment_prompt(discs, Prompt(boxes=((left - 3, top - 3, right + 3, bottom + 3),)), class_index=1)
    assert mask_iou(whole.mask, BLUE) > 0.8
    half = segment_prompt(discs, Prompt(((145.0, 120.0),), boxes=((left, top, 160.0, bottom),)), class_index=1)
    assert mask_iou(half.mask[:, :160], BLUE[:, :160]) > 0.7
    assert not half.mask[:, 160:].any()


def test_a_click_outside_of_the_box_lifts_the_bound(discs: ClickScene) -> None:
    box = (60.0, 90.0, 100.0, 140.0)
    bounded, lifted = (
        segment_prompt(discs, Prompt(points, boxes=(box,)), class_index=0).mask
        for points in (((80.0, 120.0),), ((80.0, 120.0), (120.0, 120.0)))
    )
    assert not bounded[:, 100:].any()
    assert lifted[120, 120]


def test_what_is_taken_is_left_alone(discs: ClickScene) -> None:
    taken = disc(60, 120, 25)
    found = segment_prompt(discs, Prompt((middle(RED),)), class_index=0, taken=taken)
    assert not (found.mask & taken).any()
    assert found.mask.any()
    with pytest.raises(PromptError, match=r"the click at 60, 120: lies on a region that is drawn already\. Click"):
        segment_prompt(discs, Prompt(((60.0, 120.0),)), class_index=0, taken=taken)


def test_the_words_of_the_label_matter(drawn: list[tuple[PanopticScene, ClickScene]]) -> None:
    gains = []
    for one, scene in drawn:
        for thing in crowded(one):
            prompt = Prompt((middle(thing.mask),))
            named, wrong = (
                mask_iou(segment_prompt(scene, prompt, class_index=index).mask, thing.mask)
                for index in (thing.index, STUFF_FROM)
            )
            gains.append(named - wrong)
    assert np.mean(gains) > 0.02, gains


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        pytest.param(Prompt(((400.0, 10.0),)), "the click at 400, 10: is outside of the image of 320 x 240 pixels",
                     id="beyond the right edge"),
        pytest.param(Prompt(negative=((5.0, -0.1),)), "the click at 5, -0.1: is outside", id="above the image"),
        pytest.param(Prompt(((math.nan, 10.0),)), "the click at nan, 10: is outside", id="no number"),
        pytest.param(Prompt(boxes=((5.0, 5.0, 5.0, 9.0),)), "the box 5, 5, 5, 9: is of no size", id="no width"),
        pytest.param(Prompt(boxes=((9.0, 9.0, 5.0, 5.0),)), "is of no size", id="turned inside out"),
        pytest.param(Prompt(boxes=((330.0, 5.0, 340.0, 9.0),)), "is outside of the image", id="a box elsewhere"),
        pytest.param(Prompt(), "the prompt: tells nowhere what is inside", id="nothing"),
        pytest.param(Prompt(negative=((5.0, 5.0),)), "no region of this label is known there yet. Wait some seconds",
                     id="only a negative click"),
        pytest.param(Prompt(((5.2, 5.0),), ((5.7, 5.0),)), "is both inside and outside", id="contradicting"),
        pytest.param(Prompt(((5.0, 5.0),) * 500), "holds 500 clicks and boxes. Give at most 100", id="too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_sentence(discs: ClickScene, prompt: Prompt, said: str) -> None:
    with pytest.raises(PromptError) as caught:
        segment_prompt(discs, prompt, class_index=0)
    assert said in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (300, 3), (40, 40)])
def test_a_picture_of_any_size_can_be_clicked_on(segmenter: Segmenter, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scene = scene_of(segmenter, image, ("red shape",))
    for prompt in (Prompt(((0.0, 0.0),)), Prompt(((float(width), float(height)),)), Prompt(boxes=((0, 0, 1, 1),))):
        mask = segment_prompt(scene, prompt, class_index=0).mask
        assert mask.shape == (height, width)


def test_cells_cover_a_picture_and_touch() -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    cells = superpixels(image, 100)
    assert set(np.unique(cells.labels)) == set(range(cells.count))
    assert cells.area.sum() == 120 * 90
    assert (cells.ends[0] < cells.ends[1]).all()


class Circle:
    """A refiner that answers with a circle around the first click, and remembers what it was asked."""

    def __init__(self, radius: int, iou: float) -> None:
        self.radius, self.iou = radius, iou
        self.asked: list[RefinerPrompt] = []

    def look(self, image: NDArray[np.uint8]) -> Circle:
        return self

    def redraw(self, prompt: RefinerPrompt) -> Redrawn:
        self.asked.append(prompt)
        x, y = (int(value) for value in prompt.points[0])
        return Redrawn(disc(x, y, self.radius), self.iou)


def test_clicks_go_through_a_refiner_where_one_is_installed(discs: ClickScene) -> None:
    refiner = Circle(20, 0.9)
    scene = dataclasses.replace(discs, session=refiner.look(discs.image))
    box = box_of(RED)
    found = segment_prompt(scene, Prompt((middle(RED),), ((150.0, 120.0),), (box,)), class_index=0)
    (asked,) = refiner.asked
    assert np.array_equal(found.mask, disc(int(middle(RED)[0]), int(middle(RED)[1]), 20))
    assert found.score == 0.9
    assert asked.points.tolist() == [list(middle(RED))]
    assert asked.negatives.tolist() == [[150.0, 120.0]]
    assert asked.box == box
    assert (asked.logits[RED] > 0).mean() > 0.8


@pytest.mark.parametrize(
    ("refiner", "negative"),
    [
        pytest.param(Circle(20, 0.5), (300.0, 200.0), id="unsure of itself"),
        pytest.param(Circle(60, 0.9), (130.0, 140.0), id="over a negative click"),
    ],
)
def test_a_refiner_that_is_unsure_or_disobeys_is_passed_over(
    discs: ClickScene, refiner: Circle, negative: tuple[float, float]
) -> None:
    prompt = Prompt((middle(RED),), (negative,))
    scene = dataclasses.replace(discs, session=refiner)
    found, own = (segment_prompt(one, prompt, class_index=0) for one in (scene, discs))
    assert refiner.asked
    assert np.array_equal(found.mask, own.mask)


def test_prepare_lets_the_refiner_look_once(segmenter: Segmenter) -> None:
    refiner = Circle(5, 0.9)
    clicked = Segmenter(segmenter.encoder, refiner=refiner)
    scene = scene_of(clicked, np.full((40, 60, 3), 90, dtype=np.uint8), ("red shape",))
    assert scene.session is refiner
