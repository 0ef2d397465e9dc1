"""Scenes to annotate and to evaluate on: things of given labels, distractors that no label describes, and the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import LabelingConfigError
from worker.lab.drawn_world.scenes import Scene, draw_scene, label_mask
from worker.lab.drawn_world.world import BACKGROUND, Concept, Thing, parse_label, random_thing

_TRIES = 400


def annotation_scene(
    rng: np.random.Generator, labels: Sequence[str], *, number: int, size: tuple[int, int], unit: float
) -> Scene:
    """Draw scene `number` of a set: three to six things that the labels describe, and one or two distractors.

    Each thing is described by exactly one label. Scenes alternate in which labels they must show, so that each label
    occurs in at least a third of the scenes. Things of a label without a held-out pair have no held-out pair.

    Args:
        rng: random generator.
        labels: as `world.parse_label` reads them; no two may name the same word set.
        number: position in the set, from 0.
        size: (H, W) in pixels.
        unit: pixels that object sizes are relative to.

    Raises:
        LabelingConfigError: a label is not of this world, no thing can have it alone, or no distractor is left.
    """
    concepts = [parse_label(label) for label in labels]
    turn = max(min(len(labels), 3), -(-len(labels) // 3))
    due = [(number * turn + k) % len(labels) for k in range(turn)]
    for _ in range(_TRIES):
        wanted = [k for k in due if concepts[k].stuff is None]
        paintable = [k for k, concept in enumerate(concepts) if concept.stuff is None]
        extra = max(0, int(rng.integers(3, 7)) - len(wanted)) if paintable else 0
        wanted += [paintable[int(rng.integers(len(paintable)))] for _ in range(extra)]
        things = [_thing_of(rng, labels[k], concepts[k], concepts) for k in wanted]
        distractors = [_distractor(rng, concepts) for _ in range(int(rng.integers(1, 3)))]
        things += distractors
        rng.shuffle(things)  # type: ignore[arg-type]
        scene = draw_scene(rng, size, things, unit=unit)
        has_distractor = any(thing in scene.objects for thing in distractors)
        if has_distractor and all(label_mask(scene, labels[k]).any() for k in due):
            return scene
    raise LabelingConfigError(
        "labels " + ", ".join(labels),
        f"no scene of {size[1]}x{size[0]} px with unit {unit:g} could show {turn} of them",
        "Ask for fewer labels, a larger --size or a smaller --unit.",
    )


def index_truth(scene: Scene, labels: Sequence[str]) -> NDArray[np.uint8]:
    """(H, W) uint8: i + 1 where label i applies, 0 where none does; other labels come before "background"."""
    truth = np.zeros(scene.instances.shape, dtype=np.uint8)
    order = sorted(range(len(labels)), key=lambda k: parse_label(labels[k]).stuff != BACKGROUND)
    for k in order:
        truth[label_mask(scene, labels[k])] = k + 1
    return truth


def _thing_of(rng: np.random.Generator, label: str, concept: Concept, all_concepts: Sequence[Concept]) -> Thing:
    for _ in range(_TRIES):
        free = random_thing(rng, "any")
        thing = Thing(concept.colour or free.colour, concept.texture or free.texture, concept.shape or free.shape)
        held_out = thing.is_unseen_texture or thing.is_unseen_shape
        if sum(other.describes(thing) for other in all_concepts) == 1 and (concept.is_unseen or not held_out):
            return thing
    raise LabelingConfigError(
        f"label {label!r}", "every thing it describes is described by another label too", "Choose labels that differ."
    )


def _distractor(rng: np.random.Generator, concepts: Sequence[Concept]) -> Thing:
    """Draw a thing of no label, which mostly shares a word with one: a model of one attribute confuses them."""
    words = {word for concept in concepts for word in concept.words}
    near = rng.random() < 0.8
    for attempt in range(_TRIES):
        thing = random_thing(rng, "seen")
        shares = bool(words & {thing.colour, thing.texture, thing.shape})
        if not any(concept.describes(thing) for concept in concepts) and (shares or not near or attempt > _TRIES // 2):
            return thing
    raise LabelingConfigError(
        "labels",
        "together they describe every thing, so that nothing is left over",
        "Ask for fewer or narrower labels.",
    )
