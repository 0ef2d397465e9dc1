"""Training batches: scenes, texts, and which patches each text describes.

A batch is a function of (seed, step) alone, which makes training resumable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.lab.drawn_world.phrases import batch_concepts, compact, concept_codes, phrase, tokenize
from worker.lab.drawn_world.scenes import Scene, random_scene
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF, TEXTURES, Split, Thing

PATCH = 8
MAX_THINGS = 8
MEAN, STD = 0.5, 0.5
UNNAMED_SHARE = 0.5  # things of a hue without a name teach texture and shape for any colour

# (height, width) in pixels and share of the steps. Small scenes come first: objects fill more of them.
EARLY_SIZES = (((64, 64), 0.3), ((96, 96), 0.6), ((128, 128), 0.1))
LATE_SIZES = (
    ((96, 96), 0.45), ((96, 128), 0.15), ((128, 96), 0.12), ((128, 128), 0.1),
    ((160, 160), 0.08), ((144, 192), 0.05), ((192, 256), 0.05),
)  # fmt: skip


@dataclass(frozen=True)
class TrainingBatch:
    """One batch of B scenes with P patches each, and T texts.

    Attributes:
        pixels: (B, 3, H, W) float32, normalised.
        shares: (B, P, 8 + 4) float32, share of each patch that each thing covers, then each stuff.
        attributes: (B, 8, 3) int64 colour, texture, shape of each thing; -2 for no thing, or a hue without a name.
        present: (B, 8) bool, whether there is such a thing.
        concepts: (T, 4) int64, see `phrases.concept_codes`.
        tokens: (T, L) int64 rows of `phrases.known_tokens`, cut after the longest text.
    """

    pixels: NDArray[np.float32]
    shares: NDArray[np.float32]
    attributes: NDArray[np.int64]
    present: NDArray[np.bool_]
    concepts: NDArray[np.int64]
    tokens: NDArray[np.int64]


def draw_batch(seed: int, step: int, *, progress: float, patches: int, compositions: int = 72) -> TrainingBatch:
    """Draw the batch of one step.

    Args:
        seed: of the whole training.
        step: number of the step.
        progress: share of the training done, in [0, 1]; later steps have larger scenes.
        patches: in the batch, for any size of the scenes.
        compositions: texts of two or three attributes, beside each single word.
    """
    rng = np.random.default_rng((seed, step))
    sizes = EARLY_SIZES if progress < 0.25 else LATE_SIZES
    height, width = sizes[int(rng.choice(len(sizes), p=[share for _, share in sizes]))][0]
    count = max(2, round(patches / (height * width / PATCH**2)))
    largest = 2.5 * min(height, width)  # close up, so that textures are coarse enough to be learned from the start
    scenes = []
    for _ in range(count):
        unit = float(np.exp(rng.uniform(np.log(72), np.log(min(240.0, largest)))))
        scenes.append(random_scene(rng, (height, width), unit=unit, split="seen", unnamed=UNNAMED_SHARE))
    things = [thing for scene in scenes for thing in scene.objects]
    concepts = batch_concepts(rng, things, compositions)
    tokens = compact(tokenize([phrase(rng, concept) for concept in concepts]))
    longest = int(tokens.argmax(axis=1).max()) + 1  # the end mark has the highest number
    return TrainingBatch(
        pixels=preprocess(np.stack([scene.image for scene in scenes])),
        shares=np.stack([patch_shares(scene) for scene in scenes]),
        attributes=np.stack([thing_codes(scene.objects) for scene in scenes]),
        present=np.array([[k < len(scene.objects) for k in range(MAX_THINGS)] for scene in scenes]),
        concepts=concept_codes(concepts),
        tokens=tokens[:, :longest],
    )


def preprocess(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert (B, H, W, 3) uint8 RGB to the model's (B, 3, H, W) float32."""
    scaled = (images.astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def patch_shares(scene: Scene, patch: int = PATCH) -> NDArray[np.float32]:
    """Share of each patch that each thing and each stuff covers: (P, 8 + 4) float32, patches in row-major order.

    `patch` is the side of a patch in pixels; the scene's sides are multiples of it.
    """
    height, width = scene.instances.shape
    owner = np.where(scene.instances > 0, scene.instances - 1, MAX_THINGS + scene.stuff)  # (H, W) in 0..11
    kinds = MAX_THINGS + len(STUFF)
    row, column = np.arange(height) // patch, np.arange(width) // patch
    place = row[:, None] * (width // patch) + column
    counts = np.bincount((place * kinds + owner).ravel(), minlength=height * width // patch**2 * kinds)
    return (counts.reshape(-1, kinds) / patch**2).astype(np.float32)


def thing_codes(things: Sequence[Thing]) -> NDArray[np.int64]:
    """Encode things as (8, 3) int64 of colour, texture, shape; -2 for a hue without a name and in empty rows."""
    codes = np.full((MAX_THINGS, 3), -2, dtype=np.int64)
    for k, thing in enumerate(things):
        colour = -2 if thing.colour is None else COLOURS.index(thing.colour)
        codes[k] = (colour, TEXTURES.index(thing.texture), SHAPES.index(thing.shape))
    return codes


def evaluation_scenes(seed: int, count: int, size: tuple[int, int], *, unit: float, split: Split) -> tuple[Scene, ...]:
    """Draw scenes to evaluate on; no training step has their seeds."""
    return tuple(
        random_scene(np.random.default_rng((seed, 10**9, k)), size, unit=unit, split=split, unnamed=0.0)
        for k in range(count)
    )
