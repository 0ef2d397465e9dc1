"""Negative words: further texts of the background class, except those that mean what a label means.

With plain label names, a model that must choose among the labels gives every pixel to one of them. Published results
name the rest of the image by hand, with 20 to 30 words for "background".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Surroundings, surfaces and fixtures: common in images and seldom labelled. No animals, vehicles, people, food or
# tools, which projects do label, often by a wider word ("animal") than the negative ("cat").
NEGATIVE_WORDS = (
    "sky", "clouds", "sun", "horizon", "fog", "smoke", "darkness", "shadow", "reflection", "glare",
    "ground", "soil", "mud", "sand", "gravel", "rock", "stone", "hill", "mountain", "snow", "ice",
    "water", "sea", "river", "puddle", "waves", "foam", "beach",
    "grass", "leaves", "bush", "tree", "branch", "forest", "straw", "moss", "field",
    "road", "asphalt", "pavement", "curb", "path", "bridge", "tunnel", "railway track", "parking lot",
    "building", "roof", "brick wall", "wall", "ceiling", "floor", "tiles", "carpet", "stairs", "column",
    "window", "door", "fence", "railing", "pole", "wire", "pipe", "sign",
    "table", "desk", "shelf", "cupboard", "counter", "curtain", "cushion", "blanket", "mirror", "lamp",
    "fabric", "paper", "cardboard", "plastic", "metal surface", "wooden surface", "concrete", "glass",
    "text", "watermark", "frame", "blurred background",
)  # fmt: skip

_SAME_MEANING = 0.5  # cosine


def unrelated_negatives(negatives: Tensor, labels: Tensor) -> Tensor:
    """Find the negatives that no label is close to in meaning.

    All text embeddings of a model lie close together, how close differs from model to model. Therefore the mean of the
    negatives is subtracted from both sides before their cosine is taken.

    Args:
        negatives: (n, D) float32 of unit length, n at least 1.
        labels: (m, D) float32 of unit length, every text of every label.

    Returns:
        (n,) bool; further labels can only make fewer of them true.
    """
    mean = negatives.mean(dim=0)
    one, other = F.normalize(negatives - mean, dim=-1), F.normalize(labels - mean, dim=-1)
    return (one @ other.T).amax(dim=1) < _SAME_MEANING if len(labels) else torch.ones(len(negatives), dtype=torch.bool)


def head_words(text: str) -> frozenset[str]:
    """Return the words by which a text names its thing: all of it, and its last word ("oak tree" is a tree).

    Regular plurals become singular, in labels and negatives alike.
    """
    words = [_singular(word) for word in text.lower().split()]
    return frozenset({" ".join(words), *words[-1:]})


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
