"""Drawn scenes in which things of one class touch, with their truth as panoptic segments.

A scene is a function of (seed, number, 10^9 + 1), seeds that no training step uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.lab.drawn_world.scenes import Scene, draw_touching
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF, TEXTURES, Thing

Words = Literal["colours", "shapes"]
WORDS: tuple[Words, ...] = ("colours", "shapes")

FIT_SEED = 100
"""Seed of the scenes on which `fit_assembly` fits; the protocol refuses it."""

STUFF_FROM = 8
"""Index of the first label that is stuff."""

_SIZES = ((192, 256), (288, 384), (448, 592))  # (H, W) pixels
_GROUPS = (0.4, 0.4, 0.2)  # probability of one, two, three things in a group
_IDENTICAL = 0.4  # probability that the things of a group share shape, tones and texture
_SALT = 10**9 + 1


@dataclass(frozen=True)
class TrueSegment:
    """One thing, or all of one stuff: `index` in the scene's labels, `mask` (H, W) bool."""

    index: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class PanopticScene:
    """A drawn scene, its labels and its true segments.

    Attributes:
        scene: the image and its truth pixel by pixel.
        labels: eight of things, then four of stuff; the scene does not show all of them.
        truth: every segment of the scene.
    """

    scene: Scene
    labels: tuple[str, ...]
    truth: tuple[TrueSegment, ...]


def labels_of(words: Words) -> tuple[str, ...]:
    """The twelve labels: "red shape" or "circle" for things, "grass" for stuff."""
    things = tuple(f"{colour} shape" for colour in COLOURS) if words == "colours" else SHAPES
    return (*things, *STUFF)


def words_of(number: int) -> Words:
    """Whether the labels of scene `number` name colours or shapes: the two alternate."""
    return WORDS[number % len(WORDS)]


def panoptic_scene(seed: int, number: int, *, touching: bool = True) -> PanopticScene:
    """Draw scene `number` of a set: two to four groups of up to three touching things with the same label.

    In two groups of five the things differ in place, size and angle only, so that nothing but outlines separates them.
    The short side is 192 to 448 pixels.

    Args:
        seed: of the set.
        number: of the scene in the set.
        touching: False draws one thing per group, and no group hides another.
    """
    rng = np.random.default_rng((seed, number, _SALT))
    words = words_of(number)
    size = _SIZES[int(rng.integers(len(_SIZES)))]
    counts = [1 + int(rng.choice(3, p=_GROUPS)) for _ in range(int(rng.integers(2, 5)))]
    groups = [_group(rng, words, count if touching else 1) for count in counts]
    alike = [len(set(group)) == 1 for group in groups]
    scene = draw_touching(rng, size, groups, alike, unit=float(rng.uniform(0.45, 0.65)) * size[0])
    return PanopticScene(scene, labels_of(words), tuple(_truth(scene, words)))


def _group(rng: np.random.Generator, words: Words, count: int) -> list[Thing]:
    shared = str(rng.choice(COLOURS if words == "colours" else SHAPES))
    things = []
    for _ in range(count):
        colour, texture, shape = (str(rng.choice(kind)) for kind in (COLOURS, TEXTURES, SHAPES))
        things.append(Thing(shared, texture, shape) if words == "colours" else Thing(colour, texture, shared))
    return [things[0]] * count if rng.random() < _IDENTICAL else things


def _truth(scene: Scene, words: Words) -> list[TrueSegment]:
    found = []
    for number, thing in enumerate(scene.objects, start=1):
        index = COLOURS.index(str(thing.colour)) if words == "colours" else SHAPES.index(thing.shape)
        found.append(TrueSegment(index, scene.instances == number))
    for k in np.unique(scene.stuff):
        mask = (scene.instances == 0) & (scene.stuff == k)
        if mask.any():
            found.append(TrueSegment(STUFF_FROM + int(k), mask))
    return found
