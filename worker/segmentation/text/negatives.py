"""Words for what nobody labels: they speak for the background, unless they mean what a label means.

With plain label names a model that must choose among the labels gives every pixel to one of them. Naming what else is
in pictures is what published figures do by hand, with 20 to 30 words for "background". It must not know about models or
images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Surroundings, surfaces and fixtures: what pictures are full of and projects seldom label. No animals, vehicles,
# people, food or tools, which projects do label, often by a wider word ("animal") than the negative ("cat").
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

_SAME_MEANING = 0.5


def free_negatives(negatives: Tensor, labels: Tensor) -> Tensor:
    """Tell which negatives no label means.

    All texts of a model lie close together, how close differs from model to model. So what the negatives have in common
    is taken out of both sides before their cosine is looked at.

    Args:
        negatives: (n, D) float32 of unit length, n at least 1.
        labels: (m, D) float32 of unit length, every text of every label.

    Returns:
        (n,) bool; a label more can only make fewer of them true.
    """
    common = negatives.mean(dim=0)
    one, other = F.normalize(negatives - common, dim=-1), F.normalize(labels - common, dim=-1)
    return (one @ other.T).amax(dim=1) < _SAME_MEANING if len(labels) else torch.ones(len(negatives), dtype=torch.bool)


def named_by(text: str) -> frozenset[str]:
    """The words that a label's text names as its thing: all of it, and its last word ("oak tree" is a tree).

    Plain plurals count as the singular, in labels and in negatives alike.
    """
    words = [_singular(word) for word in text.lower().split()]
    return frozenset({" ".join(words), *words[-1:]})


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
