"""Drawn scenes in which things of one class touch, with the truth as panoptic segments. It must not know about models.

The seeds are none of training's: a scene is a function of (seed, number, 10^9 + 1).
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
"""Of the scenes on which `fit_assembly` fits; the protocol takes no scenes of it."""

STUFF_FROM = 8
"""The labels from here on are stuff."""

_SIZES = ((192, 256), (288, 384), (448, 592))  # (H, W) pixels
_GROUPS = (0.4, 0.4, 0.2)  # chance of one, two, three things in a group
_TWINS = 0.4  # chance that the things of a group are the very same: shape, tones and texture
_SALT = 10**9 + 1


@dataclass(frozen=True)
class TrueSegment:
    """One thing, or all of one stuff: `index` in the crowd's labels, `mask` (H, W) bool."""

    index: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Crowd:
    """A scene and what is asked about it.

    Attributes:
        scene: the picture and its truth, pixel by pixel.
        labels: eight names of things, then four of stuff; not all are there.
        truth: every segment that is there.
    """

    scene: Scene
    labels: tuple[str, ...]
    truth: tuple[TrueSegment, ...]


def labels_of(words: Words) -> tuple[str, ...]:
    """The twelve labels asked: "red shape" or "circle" for things, "grass" for stuff."""
    things = tuple(f"{colour} shape" for colour in COLOURS) if words == "colours" else SHAPES
    return (*things, *STUFF)


def words_of(number: int) -> Words:
    """What scene `number` of any set is asked by: the two take turns."""
    return WORDS[number % len(WORDS)]


def crowd(seed: int, number: int, *, touching: bool = True) -> Crowd:
    """Scene `number` of a set: two to four groups of up to three touching things each that share the attribute asked.

    In two groups of five they share everything but place, size and angle, so that only outlines tell them apart.
    Sizes are mixed, 192 to 448 pixels on the short side. Without `touching` there is one thing to a group, and groups
    hide nothing of each other.
    """
    rng = np.random.default_rng((seed, number, _SALT))
    words = words_of(number)
    size = _SIZES[int(rng.integers(len(_SIZES)))]
    counts = [1 + int(rng.choice(3, p=_GROUPS)) for _ in range(int(rng.integers(2, 5)))]
    groups = [_group(rng, words, count if touching else 1) for count in counts]
    alike = [len(set(group)) == 1 for group in groups]
    scene = draw_touching(rng, size, groups, alike, unit=float(rng.uniform(0.45, 0.65)) * size[0])
    return Crowd(scene, labels_of(words), tuple(_truth(scene, words)))


def _group(rng: np.random.Generator, words: Words, count: int) -> list[Thing]:
    shared = str(rng.choice(COLOURS if words == "colours" else SHAPES))
    things = []
    for _ in range(count):
        colour, texture, shape = (str(rng.choice(kind)) for kind in (COLOURS, TEXTURES, SHAPES))
        things.append(Thing(shared, texture, shape) if words == "colours" else Thing(colour, texture, shared))
    return [things[0]] * count if rng.random() < _TWINS else things


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
