"""Scenes of the drawn world: an image together with the truth about every pixel. It must not know about models.

The same generator state draws the same scene, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.builtin.painting import Bytes, ground, mix_tones, outline, pattern
from worker.builtin.world import BACKGROUND, STUFF, Split, Thing, caption, parse_label, random_thing


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        instances: (H, W) int32; 0 is stuff, k is the visible part of `objects[k - 1]`.
        objects: attributes of each thing, in the order they were painted (later ones lie on top).
        stuff: (H, W) uint8 index into `world.STUFF`, given under things too.
    """

    image: Bytes
    instances: NDArray[np.int32]
    objects: tuple[Thing, ...]
    stuff: Bytes

    @property
    def caption(self) -> str:
        """One sentence naming every thing and the stuff."""
        return caption(self.objects, tuple(STUFF[k] for k in np.unique(self.stuff)))


def label_mask(scene: Scene, label_text: str) -> NDArray[np.bool_]:
    """Tell which pixels a label describes.

    Args:
        scene: the picture and its truth.
        label_text: for example "red striped shape", "striped circle", "green shapes", "grass", "background".

    Returns:
        (H, W) bool in the pixels of the scene.

    Raises:
        LabelingConfigError: the label uses a word this world does not have, or contradicts itself.
    """
    concept = parse_label(label_text)
    if concept.stuff == BACKGROUND:
        return np.asarray(scene.instances == 0)
    if concept.stuff is not None:
        return np.asarray((scene.instances == 0) & (scene.stuff == STUFF.index(concept.stuff)))
    described = [False, *(concept.describes(thing) for thing in scene.objects)]
    return np.array(described)[scene.instances]


def random_scene(
    rng: np.random.Generator, size: tuple[int, int], *, unit: float, split: Split = "seen", unnamed: float = 0.15
) -> Scene:
    """Draw a scene of random things, as many as the image has room for (1 to 8).

    Args:
        rng: source of chance; its state decides every pixel.
        size: (H, W) in pixels.
        unit: pixels an object's size is relative to: things measure about 0.28 to 0.62 units.
        split: which compositions may occur; see `world.random_thing`.
        unnamed: share of things whose hue has no name.
    """
    room = size[0] * size[1] / unit**2
    count = int(np.clip(rng.integers(1, max(2, round(4.5 * room)) + 1), 1, 8))
    return draw_scene(rng, size, [random_thing(rng, split, unnamed=unnamed) for _ in range(count)], unit=unit)


def draw_scene(rng: np.random.Generator, size: tuple[int, int], things: Sequence[Thing], *, unit: float) -> Scene:
    """Draw the given things on stuff; a thing that finds no free place is left out.

    Args:
        rng: source of chance.
        size: (H, W) in pixels.
        things: what to paint, first to last.
        unit: pixels an object's size is relative to.
    """
    image, stuff = _paint_ground(rng, size, unit)
    instances = np.zeros(size, dtype=np.int32)
    placed: list[Thing] = []
    for thing in things:
        if _place(rng, thing, image, instances, len(placed) + 1, unit):
            placed.append(thing)
    return Scene(_light(rng, image), instances, tuple(placed), stuff)


def _paint_ground(rng: np.random.Generator, size: tuple[int, int], unit: float) -> tuple[Bytes, Bytes]:
    first, second = (int(k) for k in rng.choice(len(STUFF), 2, replace=False))
    image = ground(rng, STUFF[first], size, unit)
    stuff = np.full(size, first, dtype=np.uint8)
    if rng.random() < 0.5:
        return image, stuff
    angle, wave = rng.uniform(0, 2 * np.pi), unit * rng.uniform(0.3, 0.8)
    y, x = np.ogrid[: size[0], : size[1]]
    x0, y0 = size[1] * rng.uniform(0.3, 0.7), size[0] * rng.uniform(0.3, 0.7)
    across = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    along = y * np.cos(angle) - x * np.sin(angle)
    beyond = across + 0.05 * unit * np.sin(along * (2 * np.pi / wave)) > 0  # (H, W)
    np.copyto(image, ground(rng, STUFF[second], size, unit), where=beyond[..., None])
    stuff[beyond] = second
    return image, stuff


def _place(
    rng: np.random.Generator, thing: Thing, image: Bytes, instances: NDArray[np.int32], number: int, unit: float
) -> bool:
    """Paint one thing where it hides no earlier one by more than a third; False when no such place turned up."""
    for _ in range(6):
        mask, top, left = _silhouette(rng, thing.shape, instances.shape, unit)
        window = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        under = instances[window][mask]
        if under.size < 0.02 * unit**2 or np.count_nonzero(under) > 0.25 * under.size:
            continue
        if any(np.count_nonzero(under == k) > 0.33 * np.count_nonzero(instances == k) for k in np.unique(under) if k):
            continue
        tones = mix_tones(rng, thing.colour)
        skin = tones[pattern(rng, thing.texture, (mask.shape[0], mask.shape[1]), unit).astype(np.uint8)]  # (h, w, 3)
        np.copyto(image[window], skin, where=mask[..., None])
        instances[window][mask] = number
        return True
    return False


def _silhouette(
    rng: np.random.Generator, shape: str, size: tuple[int, ...], unit: float
) -> tuple[NDArray[np.bool_], int, int]:
    """Turn, stretch and place an outline; returns its (h, w) bool mask inside the image and the mask's top, left."""
    radius, angle = 0.5 * unit * rng.uniform(0.3, 0.62), rng.uniform(0, 2 * np.pi)
    stretch = np.array([1.0, rng.uniform(0.85, 1.15)])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.6 * radius, np.maximum([size[1] - 0.6 * radius, size[0] - 0.6 * radius], 0.6 * radius + 1))
    contours = [(part * stretch * radius) @ turn + centre for part in outline(shape)]
    low = np.maximum(np.floor(contours[0].min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(contours[0].max(axis=0)).astype(int) + 1, [size[1], size[0]])
    mask = np.zeros((max(int(high[1] - low[1]), 1), max(int(high[0] - low[0]), 1)), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round((part - low) * 16).astype(np.int32) for part in contours], 1, cv2.LINE_8, 4)
    return mask.astype(np.bool_), int(low[1]), int(low[0])


def _light(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Finish a picture: light from one side, soft edges half of the time, sensor noise."""
    height, width = image.shape[:2]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22)
    y, x = np.ogrid[:height, :width]
    slope = strength * (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5))
    shade = (rng.uniform(0.9, 1.08) + slope).astype(np.float32)  # (H, W)
    if rng.random() < 0.5:
        image = np.asarray(cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.7)), dtype=np.uint8)
    level = int(rng.integers(1, 8))
    noise = rng.integers(-level, level + 1, image.shape, dtype=np.int8)
    return np.asarray(np.clip(image * shade[..., None] + noise, 0, 255), dtype=np.uint8)
