"""A tiny query decoder of drawn things, with random weights, and what is trained on it in a blink."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from tests.dense_world import builtin
from worker.lab.things_data import PanopticSet, segmented_images, things_set
from worker.learning.generator.presets import PRESETS
from worker.learning.generator.primitives import GeneratorSize
from worker.learning.generator.training import GeneratorConfig
from worker.learning.generator.vectors import RealVectors
from worker.learning.proposals.query_decoder import QueryDecoder, QueryDecoderConfig, small_decoder
from worker.learning.proposals.query_training import QueryTrainingConfig
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.learning.recipes.pading.recipe import PadingRecipe
from worker.learning.recipes.pading.vectors import real_vectors
from worker.segmentation.heads import ImageScores

SCENES = 2


def tiny_config() -> QueryDecoderConfig:
    """Of a decoder that takes no time."""
    form = small_decoder(builtin().encoder)
    return replace(form, queries=12, width=32, mask_width=16, layers=1, heads=4, feedforward=32)


def tiny_generator() -> GeneratorConfig:
    """Of a generator that takes no time."""
    size = GeneratorSize(primitives=8, layers=1, heads=4, hidden=16)
    return replace(PRESETS["small"], steps=3, size=size, batch=16, queries=16)


RECIPE = PadingRecipe(generator=tiny_generator(), decoder_training=QueryTrainingConfig(steps=1, batch=1))


@cache
def things() -> PanopticSet:
    """Few scenes."""
    return things_set(scenes=SCENES)


@cache
def decoder() -> QueryDecoder:
    """Untrained, of the seen labels of `things`."""
    torch.manual_seed(0)
    form = tiny_config()
    data = things()
    made = QueryDecoder(form, builtin().towers.get(form.tower), [data.labels[k] for k in data.seen])
    return made.eval().requires_grad_(False)


@cache
def real() -> RealVectors:
    """What it proposes in the training scenes."""
    return real_vectors(decoder(), segmented_images(things()), builtin())


def adapter(*without: str) -> PadingAdapter:
    """The second stage on it."""
    recipe = replace(RECIPE, without=without)
    return recipe.classify(decoder(), real(), things().seen_words, things().unseen_words, builtin())


def scores_of(*labels: str, number: int = 0) -> ImageScores:
    """Zero-shot scores of a test scene."""
    image = things().test[number].image
    return builtin().score(builtin().embed([image])[0], [(label,) for label in labels], image)
