"""Training texts of the drawn world: the concepts of a batch, their phrases, their tokens.

Held-out compositions never occur in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import open_clip
from numpy.typing import NDArray

from worker.lab.drawn_world.world import (
    BACKGROUND,
    COLOURS,
    NOUNS,
    SHAPES,
    STUFF,
    TEXTURES,
    Concept,
    Thing,
    random_thing,
)

CONTEXT_LENGTH = 16
TEMPLATES = (
    "{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}.", "a photo of {}", "an image of a {}",
    "a picture of a {}.", "a drawing of a {}", "there is a {} in the scene.", "a photo of many {}.",
)  # fmt: skip
SINGLES = (
    *(Concept(colour=word) for word in COLOURS),
    *(Concept(texture=word) for word in TEXTURES),
    *(Concept(shape=word) for word in SHAPES),
    *(Concept(stuff=word) for word in (*STUFF, BACKGROUND)),
    Concept(),
)
"""One concept per word, in this order, then "any thing"; part of every batch."""


def phrase(rng: np.random.Generator, concept: Concept) -> str:
    """Phrase a concept at random: order of adjectives, noun, sometimes plural, template."""
    if concept.stuff is not None:
        return _frame(rng, concept.stuff)
    adjectives = [word for word in (concept.colour, concept.texture) if word]
    if len(adjectives) == 2 and rng.random() < 0.3:
        adjectives.reverse()
    noun = concept.shape or NOUNS[int(rng.integers(len(NOUNS)))]
    if rng.random() < 0.15:
        noun += "es" if noun.endswith("s") else "s"
    bare = concept.shape is None and adjectives and rng.random() < 0.2
    return _frame(rng, " ".join(adjectives if bare else [*adjectives, noun]))


def _frame(rng: np.random.Generator, words: str) -> str:
    plain = rng.random() < 0.35
    return TEMPLATES[0 if plain else int(rng.integers(len(TEMPLATES)))].format(words)


def batch_concepts(rng: np.random.Generator, things: Sequence[Thing], count: int) -> tuple[Concept, ...]:
    """Choose the concepts of a batch: each single word, then `count` compositions of two or three attributes.

    Sixty per cent describe a thing in the batch. The rest are random seen compositions: most describe nothing in the
    batch, but share a word with something in it.

    Args:
        rng: random generator.
        things: every thing in the batch's scenes, none of them held out.
        count: of the compositions.
    """
    composed = []
    for k in range(count):
        present = k < 0.6 * count and len(things) > 0
        thing = things[int(rng.integers(len(things)))] if present else random_thing(rng, "seen")
        composed.append(_partial(rng, thing))
    return (*SINGLES, *composed)


def _partial(rng: np.random.Generator, thing: Thing) -> Concept:
    if thing.colour is None:
        return Concept(texture=thing.texture, shape=thing.shape)
    dropped = int(rng.integers(4))
    return Concept(
        colour=None if dropped == 0 else thing.colour,
        texture=None if dropped == 1 else thing.texture,
        shape=None if dropped == 2 else thing.shape,
    )


def concept_codes(concepts: Sequence[Concept]) -> NDArray[np.int64]:
    """Encode concepts as (T, 4) int64 of colour, texture, shape, stuff; -1 means any (or, for stuff, a thing).

    `len(STUFF)` in the last column is "background".
    """
    grounds = (*STUFF, BACKGROUND)
    rows = [
        (_index(COLOURS, c.colour), _index(TEXTURES, c.texture), _index(SHAPES, c.shape), _index(grounds, c.stuff))
        for c in concepts
    ]
    return np.array(rows, dtype=np.int64)


def _index(words: Sequence[str], word: str | None) -> int:
    return -1 if word is None else words.index(word)


@cache
def tokenizer() -> Any:
    """open_clip's own tokenizer at this model's context length."""
    return open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)


def tokenize(texts: Sequence[str]) -> NDArray[np.int64]:
    """Tokenize T texts into (T, 16) int64 of open_clip's vocabulary."""
    return np.asarray(tokenizer()(list(texts)).numpy(), dtype=np.int64)


@cache
def known_tokens() -> NDArray[np.int64]:
    """Every token that can occur in training, ascending; open_clip's start and end marks come last."""
    plurals = [noun + ("es" if noun.endswith("s") else "s") for noun in (*SHAPES, *NOUNS)]
    words = [*COLOURS, *TEXTURES, *SHAPES, *NOUNS, *plurals, *STUFF, BACKGROUND]
    texts = [*words, *(template.format(word) for template in TEMPLATES for word in words)]
    return np.unique(tokenize(texts))


def compact(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber tokens to their rows in `known_tokens`, so that training needs no table of 49408 rows."""
    return np.searchsorted(known_tokens(), tokens).astype(np.int64)
