"""What a classifier goes by: the offsets where they prove right, what was learned of all they say nothing of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worker.learning.recipes.quick.classifier import Look, Options, Picture, learn
from worker.learning.recipes.quick.ensemble import Training

pytestmark = pytest.mark.usefixtures("one_thread")

STUFF, FRUIT, NUT, REST = range(4)
OFTEN = (0.65, 0.05, 0.25, 0.05)
OPTIONS = Options(members=1, training=Training(hidden=16, steps=120, batch=128))


def cells(seed: int) -> tuple[Tensor, Picture]:
    """Classes of 2,000 cells, and what is seen of them: nuts look like half of the stuff, offsets know fruit alone."""
    chance = torch.Generator().manual_seed(seed)
    found = torch.multinomial(torch.tensor(OFTEN), 2000, replacement=True, generator=chance)
    values = 0.3 * torch.randn(3, 2000, generator=chance)
    values[0] += (found == NUT) | ((found == STUFF) & (torch.rand(2000, generator=chance) < 0.5))
    values[1] += found == REST
    offset = torch.zeros(4, 2000)
    offset[FRUIT] = torch.where(found == FRUIT, 4.0, -4.0)
    return found, Picture(values, offset)


def pictures() -> Iterator[tuple[Tensor, Look]]:
    for seed in range(4):
        found, picture = cells(seed)

        def look(at: Tensor, picture: Picture = picture) -> Picture:
            return Picture(picture.values[:, at], picture.offset[:, at])

        yield torch.nn.functional.one_hot(found, 4).T[:, None].float(), look


def test_where_words_prove_right_labels_without_known_words_are_learned_all_the_same() -> None:
    untold = torch.tensor([True, False, True, False])
    classifier, _ = learn(pictures(), 4, OPTIONS, photographs=4, wary=True, untold=untold, blinded=[])
    found, picture = cells(9)
    said = classifier.logits(picture).argmax(dim=0)
    recall = [float((said[found == k] == k).float().mean()) for k in range(4)]
    assert recall[FRUIT] > 0.9
    assert min(recall[STUFF], recall[NUT]) > 0.1, "nobody can tell them well, but both are there"
    assert recall[REST] > 0.5
