"""Composition trials: a thing of a held-out pair among distractors that each share one of its attributes.

A model that uses colour alone, texture alone or shape alone takes a distractor for the target. Areas are equal, so that
size is no clue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from worker.lab.drawn_world.scenes import Scene, draw_apart
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES, Thing, random_thing

Pair = Literal["colour_texture", "colour_shape"]
PAIRS: tuple[Pair, ...] = ("colour_texture", "colour_shape")

_AREAS = (900.0, 1900.0)  # pixels of a thing at short side 192; a crescent of the largest just fits into its quarter
_UNIT = 107 / 192  # that textures and grain are relative to, as a share of the short side


@dataclass(frozen=True)
class CompositionTrial:
    """One scene with its labels.

    Attributes:
        scene: four things of equal area on stuff.
        labels: one for each thing, in the order of `scene.objects`, all different.
        target: index of the thing whose pair training never shows.
    """

    scene: Scene
    labels: tuple[str, ...]
    target: int


def composition_trial(rng: np.random.Generator, pair: Pair, *, short_side: int) -> CompositionTrial:
    """Draw a trial: the target, then one thing that shares only its colour, one its texture, one its shape, shuffled.

    Args:
        rng: random generator.
        pair: the two attributes that the labels name, and that are held out of training for the target.
        short_side: height and width of the scene, pixels.
    """
    target = random_thing(rng, "unseen_texture" if pair == "colour_texture" else "unseen_shape")
    things = [target, *(_distractor(rng, target, kept) for kept in ("colour", "texture", "shape"))]
    order = rng.permutation(4)
    things = [things[k] for k in order]
    scale = (short_side / 192) ** 2
    area = float(rng.uniform(*_AREAS)) * scale
    scene = draw_apart(rng, (short_side, short_side), things, unit=_UNIT * short_side, area=area)
    return CompositionTrial(scene, tuple(pair_label(thing, pair) for thing in things), int(np.argmin(order)))


def pair_label(thing: Thing, pair: Pair) -> str:
    """Name a thing by two attributes: "red dotted shape" or "red star"."""
    return f"{thing.colour} {thing.texture} shape" if pair == "colour_texture" else f"{thing.colour} {thing.shape}"


def _distractor(rng: np.random.Generator, target: Thing, kept: str) -> Thing:
    """Draw a thing of seen pairs that shares one attribute with the target and no other."""
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
