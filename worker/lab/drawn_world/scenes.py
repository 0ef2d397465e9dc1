"""Scenes of the drawn world: an image together with the truth of each pixel.

The same generator state draws the same scene, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.lab.drawn_world.painting import Bytes, mix_tones, paint_stuff, pattern
from worker.lab.drawn_world.shapes import Pose, Silhouette, outline_area, random_pose, silhouette_of
from worker.lab.drawn_world.world import BACKGROUND, STUFF, Split, Thing, caption, parse_label, random_thing


@dataclass(frozen=True)
class Scene:
    """A drawn image and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        instances: (H, W) int32; 0 is stuff, k is the visible part of `objects[k - 1]`.
        objects: attributes of each thing, in the order they were painted (later ones lie on top).
        stuff: (H, W) uint8 index into `world.STUFF`, also below things.
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
    """Mask of the pixels that a label describes.

    Args:
        scene: the image and its truth.
        label_text: for example "red striped shape", "striped circle", "green shapes", "grass", "background".

    Returns:
        (H, W) bool in the pixels of the scene.

    Raises:
        LabelingConfigError: the label uses a word that this world does not have, or contradicts itself.
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
        rng: its state determines every pixel.
        size: (H, W) in pixels.
        unit: pixels that object sizes are relative to: things measure about 0.28 to 0.62 units.
        split: which compositions may occur; see `world.random_thing`.
        unnamed: share of things whose hue has no name.
    """
    room = size[0] * size[1] / unit**2
    count = int(np.clip(rng.integers(1, max(2, round(4.5 * room)) + 1), 1, 8))
    return draw_scene(rng, size, [random_thing(rng, split, unnamed=unnamed) for _ in range(count)], unit=unit)


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int], things: Sequence[Thing], *, unit: float,
    ground: Sequence[str] | None = None,
) -> Scene:  # fmt: skip
    """Draw the given things on stuff; a thing that finds no free place is left out.

    Args:
        rng: random generator.
        size: (H, W) in pixels.
        things: what to paint, first to last.
        unit: pixels that object sizes are relative to.
        ground: the stuff that covers it all, or two that share it; None = one or two by chance.
    """
    image, stuff = _paint_ground(rng, size, unit, ground)
    instances = np.zeros(size, dtype=np.int32)
    placed: list[Thing] = []
    for thing in things:
        if _place(rng, thing, image, instances, len(placed) + 1, unit):
            placed.append(thing)
    return Scene(_light(rng, image), instances, tuple(placed), stuff)


def draw_apart(
    rng: np.random.Generator, size: tuple[int, int], things: Sequence[Thing], *, unit: float, area: float
) -> Scene:
    """Draw up to four things of the same area, one in each quarter of the image, none hiding another.

    Args:
        rng: random generator.
        size: (H, W) in pixels.
        things: what to paint; `objects` of the scene has them in this order.
        unit: pixels a texture's period and the stuff's grain are relative to.
        area: pixels of each thing, before rounding to whole pixels; a quarter must have room for it.
    """
    image, stuff = _paint_ground(rng, size, unit)
    instances = np.zeros(size, dtype=np.int32)
    quarters = rng.permutation(4)[: len(things)]
    for number, (thing, quarter) in enumerate(zip(things, quarters, strict=True), start=1):
        stretch = rng.uniform(0.85, 1.15)
        radius = float(np.sqrt(area / (outline_area(thing.shape) * stretch)))
        room = np.maximum(np.array(size[::-1]) / 4 - 1.1 * radius * max(1.0, stretch), 0.0)
        centre = (np.array([quarter % 2, quarter // 2]) + 0.5) * np.array(size[::-1]) / 2 + rng.uniform(-room, room)
        pose = Pose(radius, stretch, rng.uniform(0, 2 * np.pi), centre)
        _paint(rng, thing, image, instances, number, unit, silhouette_of(thing.shape, instances.shape, pose))
    return Scene(_light(rng, image), instances, tuple(things), stuff)


def draw_touching(
    rng: np.random.Generator, size: tuple[int, int], groups: Sequence[Sequence[Thing]], alike: Sequence[bool], *,
    unit: float,
) -> Scene:  # fmt: skip
    """Draw groups of things: each but the first of a group borders one before it, or hides up to a quarter of it.

    A thing that finds no such place is left out.

    Args:
        rng: random generator.
        size: (H, W) in pixels.
        groups: what to paint, first to last.
        alike: for each group whether its things have the same tones; else each has its own of its colour.
        unit: pixels that object sizes are relative to.
    """
    image, stuff = _paint_ground(rng, size, unit)
    instances = np.zeros(size, dtype=np.int32)
    placed: list[Thing] = []
    for group, same in zip(groups, alike, strict=True):
        tones = mix_tones(rng, group[0].colour) if same else None
        poses: list[Pose] = []
        for thing in group:
            for _ in range(12):
                pose = random_pose(rng, size, unit)
                if poses:
                    moved = _move_to_touch(rng, thing, pose, poses[int(rng.integers(len(poses)))], instances)
                    if moved is None:
                        continue
                    pose = moved
                silhouette = silhouette_of(thing.shape, size, pose)
                if _has_room(silhouette, instances, unit, others=0.25 if poses else 0.0):
                    placed.append(thing)
                    poses.append(pose)
                    _paint(rng, thing, image, instances, len(placed), unit, silhouette, tones)
                    break
    return Scene(_light(rng, image), instances, tuple(placed), stuff)


def _paint_ground(
    rng: np.random.Generator, size: tuple[int, int], unit: float, ground: Sequence[str] | None = None
) -> tuple[Bytes, Bytes]:
    first, second = (int(k) for k in rng.choice(len(STUFF), 2, replace=False))
    if ground is not None:
        first, second = STUFF.index(ground[0]), STUFF.index(ground[-1])
    image = paint_stuff(rng, STUFF[first], size, unit)
    stuff = np.full(size, first, dtype=np.uint8)
    if rng.random() < 0.5 if ground is None else len(ground) == 1:
        return image, stuff
    angle, wave = rng.uniform(0, 2 * np.pi), unit * rng.uniform(0.3, 0.8)
    y, x = np.ogrid[: size[0], : size[1]]
    x0, y0 = size[1] * rng.uniform(0.3, 0.7), size[0] * rng.uniform(0.3, 0.7)
    across = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    along = y * np.cos(angle) - x * np.sin(angle)
    beyond = across + 0.05 * unit * np.sin(along * (2 * np.pi / wave)) > 0  # (H, W)
    np.copyto(image, paint_stuff(rng, STUFF[second], size, unit), where=beyond[..., None])
    stuff[beyond] = second
    return image, stuff


def _place(
    rng: np.random.Generator, thing: Thing, image: Bytes, instances: NDArray[np.int32], number: int, unit: float
) -> bool:
    """Paint one thing where it hides no earlier one by more than a third; False when no such place was found."""
    for _ in range(6):
        mask, window = silhouette_of(thing.shape, instances.shape, random_pose(rng, instances.shape, unit))
        under = instances[window][mask]
        if under.size < 0.02 * unit**2 or np.count_nonzero(under) > 0.25 * under.size:
            continue
        if any(np.count_nonzero(under == k) > 0.33 * np.count_nonzero(instances == k) for k in np.unique(under) if k):
            continue
        _paint(rng, thing, image, instances, number, unit, (mask, window))
        return True
    return False


def _move_to_touch(
    rng: np.random.Generator, thing: Thing, pose: Pose, mate: Pose, instances: NDArray[np.int32]
) -> Pose | None:
    """Move a thing towards its mate from a random side until it touches something, then up to 0.3 radii further."""
    angle = rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    reach, further = pose.radius + mate.radius, rng.uniform(0, 0.3) * pose.radius
    for distance in np.linspace(1.3 * reach, 0, 40):
        there = replace(pose, centre=mate.centre + distance * way)
        if not ((there.centre > 0) & (there.centre < instances.shape[::-1])).all():
            continue
        mask, window = silhouette_of(thing.shape, instances.shape, there)
        if instances[window][mask].any():
            return replace(pose, centre=mate.centre + max(0.0, distance - further) * way)
    return None


def _has_room(silhouette: Silhouette, instances: NDArray[np.int32], unit: float, *, others: float) -> bool:
    """Whether a thing shows enough of itself and hides no earlier one by more than the share `others`."""
    mask, window = silhouette
    under = instances[window][mask]
    if under.size < 0.05 * unit**2:
        return False
    return all(np.count_nonzero(under == k) <= others * np.count_nonzero(instances == k) for k in np.unique(under) if k)


def _paint(
    rng: np.random.Generator, thing: Thing, image: Bytes, instances: NDArray[np.int32], number: int, unit: float,
    silhouette: Silhouette, tones: Bytes | None = None,
) -> None:  # fmt: skip
    mask, window = silhouette
    tones = mix_tones(rng, thing.colour) if tones is None else tones
    skin = tones[pattern(rng, thing.texture, (mask.shape[0], mask.shape[1]), unit).astype(np.uint8)]  # (h, w, 3)
    np.copyto(image[window], skin, where=mask[..., None])
    instances[window][mask] = number


def _light(rng: np.random.Generator, image: Bytes) -> Bytes:
    """Finish an image: light from one side, soft edges half of the time, sensor noise."""
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
