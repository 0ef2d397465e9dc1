"""Trials of composing: a thing of a held-out pair among distractors that share one of its attributes each.

Whoever goes by colour alone, by texture alone or by shape alone takes a distractor for the target; areas are equal, so
that size tells nothing. It must not know about models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from worker.lab.drawn_world.scenes import Scene, draw_apart
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES, Thing, random_thing

Pair = Literal["colour_texture", "colour_shape"]
PAIRS: tuple[Pair, ...] = ("colour_texture", "colour_shape")

_AREAS = (900.0, 1900.0)  # pixels of a thing when the short side is 192, where a crescent just fits its quarter
_UNIT = 107 / 192  # of the short side: what textures and grain are relative to


@dataclass(frozen=True)
class Trial:
    """One picture with its question.

    Attributes:
        scene: four things of one area on stuff.
        labels: what to find, one label per thing in the order of `scene.objects`, all different.
        target: index of the thing whose pair training never shows.
    """

    scene: Scene
    labels: tuple[str, ...]
    target: int


def trial(rng: np.random.Generator, pair: Pair, *, short_side: int) -> Trial:
    """Draw a trial: the target, then one thing that shares only its colour, one its texture, one its shape, shuffled.

    Args:
        rng: source of chance.
        pair: which two attributes the labels name and which pair of the target is held out.
        short_side: height and width of the picture, pixels.
    """
    target = random_thing(rng, "unseen_texture" if pair == "colour_texture" else "unseen_shape")
    things = [target, *(_distractor(rng, target, kept) for kept in ("colour", "texture", "shape"))]
    order = rng.permutation(4)
    things = [things[k] for k in order]
    scale = (short_side / 192) ** 2
    area = float(rng.uniform(*_AREAS)) * scale
    scene = draw_apart(rng, (short_side, short_side), things, unit=_UNIT * short_side, area=area)
    return Trial(scene, tuple(pair_label(thing, pair) for thing in things), int(np.argmin(order)))


def pair_label(thing: Thing, pair: Pair) -> str:
    """Name a thing by two attributes: "red dotted shape" or "red star"."""
    return f"{thing.colour} {thing.texture} shape" if pair == "colour_texture" else f"{thing.colour} {thing.shape}"


def _distractor(rng: np.random.Generator, target: Thing, kept: str) -> Thing:
    """A thing of seen pairs that shares one attribute with the target and no other."""
    while True:
        other = Thing(
            target.colour if kept == "colour" else _another(rng, COLOURS, target.colour),
            target.texture if kept == "texture" else _another(rng, TEXTURES, target.texture),
            target.shape if kept == "shape" else _another(rng, SHAPES, target.shape),
        )
        if not other.is_unseen_texture and not other.is_unseen_shape:
            return other


def _another(rng: np.random.Generator, words: tuple[str, ...], avoided: str | None) -> str:
    free = [word for word in words if word != avoided]
    return free[int(rng.integers(len(free)))]
