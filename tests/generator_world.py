"""Labels of two words each, and vectors that are put together as the labels are: what a generator can learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.learning.generator.primitives import GeneratorSize
from worker.learning.generator.training import GeneratorConfig
from worker.learning.generator.vectors import NO_OBJECT, RealVectors

TEXT_WIDTH, WIDTH = 12, 16
TINY = GeneratorSize(primitives=8, layers=2, heads=2, hidden=16)
CONFIG = GeneratorConfig(
    steps=100, size=TINY, scaled_words=True, batch=32, queries=64, supplied=0, generator_rate=5e-3, classifier_rate=3e-2
)


@dataclass(frozen=True, eq=False)
class World:
    """Nine labels of three times three words, three of them unseen, and vectors of no object.

    Attributes:
        real: 256 vectors of seen labels, and 64 of no object.
        seen, unseen: (6, TEXT_WIDTH) and (3, TEXT_WIDTH) label vectors.
        tests: (90, WIDTH) vectors of unseen labels, and (90,) which.
    """

    real: RealVectors
    seen: Tensor
    unseen: Tensor
    tests: tuple[Tensor, Tensor]


def make_world() -> World:
    """The world, the same each time; vectors are of length 1, as those of an engine."""
    chance = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=chance)

    words, looks = (normal(3, TEXT_WIDTH), normal(3, TEXT_WIDTH)), (normal(3, WIDTH), normal(3, WIDTH))
    pairs = [(first, second) for first in range(3) for second in range(3)]
    seen, unseen = [pair for pair in pairs if len(set(pair)) == 2], [pair for pair in pairs if len(set(pair)) == 1]

    def texts(rows: list[tuple[int, int]]) -> Tensor:
        return F.normalize(torch.stack([words[0][a] + words[1][b] for a, b in rows]), dim=1)

    def vectors(rows: list[tuple[int, int]], labels: Tensor) -> Tensor:
        means = torch.stack([looks[0][a] + looks[1][b] for a, b in rows])
        return F.normalize(means[labels] + 0.3 * normal(len(labels), WIDTH), dim=1)

    labels, asked = torch.arange(256) % len(seen), torch.arange(90) % len(unseen)
    found = torch.cat([vectors(seen, labels), F.normalize(normal(64, WIDTH), dim=1)])
    real = RealVectors(found, torch.cat([labels, torch.full((64,), NO_OBJECT)]))
    return World(real, texts(seen), texts(unseen), (vectors(unseen, asked), asked))
