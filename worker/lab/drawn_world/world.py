"""Vocabulary of the drawn world: things and stuff, what a label means, and the compositions held out of training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plugin_config.errors import LabelingConfigError

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
STUFF = ("grass", "water", "sand", "stone")
NOUNS = ("shape", "object", "thing")
BACKGROUND = "background"

# The only list of held-out compositions: one texture and one shape of each colour, two colours of each texture, one
# colour of each shape. Training sees each word often, but never these two together, in images or texts.
UNSEEN_COLOUR_TEXTURES = frozenset(
    {
        ("red", "dotted"), ("orange", "striped"), ("yellow", "checkered"), ("green", "striped"),
        ("blue", "dotted"), ("purple", "plain"), ("pink", "plain"), ("brown", "checkered"),
    }
)  # fmt: skip
UNSEEN_COLOUR_SHAPES = frozenset(
    {
        ("red", "star"), ("orange", "heart"), ("yellow", "cross"), ("green", "circle"),
        ("blue", "triangle"), ("purple", "ring"), ("pink", "square"), ("brown", "crescent"),
    }
)  # fmt: skip

Split = Literal["seen", "unseen", "unseen_texture", "unseen_shape", "any"]

_FILLERS = frozenset(
    {"a", "an", "the", "of", "photo", "image", "picture", "drawing", "many", "is", "there", "in", "scene"}
)
# Other words with the same meaning. The exported model embeds them exactly as their word (see `export`), so each must
# have as many tokens as that word.
SYNONYMS = {
    "red": ("scarlet",),
    "blue": ("azure",),
    "purple": ("violet",),
    "pink": ("rose",),
    "plain": ("solid", "uniform"),
    "striped": ("lined",),
    "dotted": ("spotted",),
    "checkered": ("chequered",),
    "circle": ("disc",),
    "square": ("box",),
    "cross": ("plus",),
    "ring": ("donut", "doughnut", "hoop"),
    "crescent": ("moon",),
    "grass": ("lawn", "meadow"),
    "water": ("sea", "lake", "ocean"),
    "sand": ("beach", "desert"),
    "stone": ("rock", "gravel"),
    "shape": ("figure", "form"),
    "shapes": ("figures", "forms"),
    "object": ("item",),
    "objects": ("items",),
    "background": ("ground", "backdrop"),
}

_PLURALS = {noun + "s": noun for noun in (*SHAPES, *NOUNS) if not noun.endswith("s")} | {"crosses": "cross"}
_CANONICAL = _PLURALS | {
    synonym: _PLURALS.get(word, word) for word, synonyms in SYNONYMS.items() for synonym in synonyms
}
_WORDS = {
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("texture", word) for word in TEXTURES},
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("stuff", word) for word in (*STUFF, BACKGROUND)},
}


@dataclass(frozen=True)
class Thing:
    """Attributes of an object. `colour` is None for a hue without a name in this world."""

    colour: str | None
    texture: str
    shape: str

    @property
    def is_unseen_texture(self) -> bool:
        """True when training never shows this colour with this texture."""
        return (self.colour, self.texture) in UNSEEN_COLOUR_TEXTURES

    @property
    def is_unseen_shape(self) -> bool:
        """True when training never shows this colour with this shape."""
        return (self.colour, self.shape) in UNSEEN_COLOUR_SHAPES

    def __str__(self) -> str:
        return " ".join(word for word in (self.colour, self.texture, self.shape) if word)


@dataclass(frozen=True)
class Concept:
    """Meaning of a label: the attributes it names (None = any), or one kind of stuff, or all stuff ("background")."""

    colour: str | None = None
    texture: str | None = None
    shape: str | None = None
    stuff: str | None = None

    def describes(self, thing: Thing) -> bool:
        """True when the thing has every attribute that this concept names."""
        return (
            self.stuff is None
            and self.colour in (None, thing.colour)
            and self.texture in (None, thing.texture)
            and self.shape in (None, thing.shape)
        )

    def overlaps(self, other: Concept) -> bool:
        """True when both concepts can describe the same thing or stuff."""
        if self.stuff is not None or other.stuff is not None:
            return self.stuff == other.stuff
        pairs = ((self.colour, other.colour), (self.texture, other.texture), (self.shape, other.shape))
        return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)

    @property
    def is_unseen(self) -> bool:
        """True when the concept names a held-out pair."""
        return (self.colour, self.texture) in UNSEEN_COLOUR_TEXTURES or (
            self.colour,
            self.shape,
        ) in UNSEEN_COLOUR_SHAPES

    @property
    def words(self) -> tuple[str, ...]:
        """The attribute or stuff words, in the usual order."""
        return tuple(word for word in (self.colour, self.texture, self.shape, self.stuff) if word)


def parse_label(text: str) -> Concept:
    """Read a label such as "red striped shapes", "a photo of a dotted circle.", "grass" or "background".

    Plurals and synonyms mean the same pixels as their word; a bare noun ("object") means every thing.

    Raises:
        LabelingConfigError: the label has an unknown word, two words of a kind, or no word.
    """
    found: dict[str, str] = {}
    words = re.findall(r"[^\s.,]+", text.lower())
    nouns = 0
    for word in (_CANONICAL.get(word, word) for word in words):
        if word in _FILLERS:
            continue
        if word in NOUNS:
            nouns += 1
            continue
        if word not in _WORDS:
            raise _bad_label(text, f"the drawn world has no word {word!r}")
        kind, value = _WORDS[word]
        if kind in found:
            raise _bad_label(text, f"it names two {kind} words, {found[kind]!r} and {value!r}")
        found[kind] = value
    if "stuff" in found and (len(found) > 1 or nouns):
        raise _bad_label(text, f"{found['stuff']!r} is stuff and has no colour, texture, shape or noun")
    if not found and not nouns:
        raise _bad_label(text, "it names nothing")
    return Concept(**found)


def _bad_label(text: str, problem: str) -> LabelingConfigError:
    known = ", ".join((*COLOURS, *TEXTURES, *SHAPES, *NOUNS, *STUFF, BACKGROUND))
    return LabelingConfigError(f"label {text!r}", problem, f"Use the words of the drawn world: {known}.")


def random_thing(rng: np.random.Generator, split: Split = "seen", *, unnamed: float = 0.0) -> Thing:
    """Draw the attributes of one thing.

    Args:
        rng: random generator.
        split: "seen" has no held-out pair; "unseen_texture" and "unseen_shape" have that one and not the other;
            "unseen" has at least one of them; "any" may have any.
        unnamed: probability of a hue without a name; such a thing is neither seen nor unseen.
    """
    if unnamed and rng.random() < unnamed:
        return Thing(None, _pick(rng, TEXTURES), _pick(rng, SHAPES))
    while True:
        thing = Thing(_pick(rng, COLOURS), _pick(rng, TEXTURES), _pick(rng, SHAPES))
        if in_split(thing, split):
            return thing


def in_split(thing: Thing, split: Split) -> bool:
    """True when the thing belongs to the split; see `random_thing`."""
    texture, shape = thing.is_unseen_texture, thing.is_unseen_shape
    return {
        "seen": not texture and not shape,
        "unseen": texture or shape,
        "unseen_texture": texture and not shape,
        "unseen_shape": shape and not texture,
        "any": True,
    }[split]


def caption(things: tuple[Thing, ...], stuff: tuple[str, ...]) -> str:
    """Describe a scene in one sentence; hues without a name are left out."""
    named = [f"a {thing}" for thing in things]
    listed = ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else "".join(named) or "nothing"
    return f"{listed} on {' and '.join(stuff)}"


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
