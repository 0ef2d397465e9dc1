"""The classifier keeps offsets that prove right, and learns classes without text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worker.learning.recipes.quick.classifier import CellInputs, ClassifierConfig, ReadCells, fit_classifier
from worker.learning.recipes.quick.ensemble import EnsembleConfig

pytestmark = pytest.mark.usefixtures("one_thread")

STUFF, FRUIT, NUT, REST = range(4)
OFTEN = (0.65, 0.05, 0.25, 0.05)
CONFIG = ClassifierConfig(members=1, training=EnsembleConfig(hidden=16, steps=120, batch=128))


def drawn_cells(seed: int) -> tuple[Tensor, CellInputs]:
    """Classes of 2,000 cells and their inputs: nuts look like half of the stuff, only fruit has text."""
    chance = torch.Generator().manual_seed(seed)
    found = torch.multinomial(torch.tensor(OFTEN), 2000, replacement=True, generator=chance)
    values = 0.3 * torch.randn(3, 2000, generator=chance)
    values[0] += (found == NUT) | ((found == STUFF) & (torch.rand(2000, generator=chance) < 0.5))
    values[1] += found == REST
    offset = torch.zeros(4, 2000)
    offset[FRUIT] = torch.where(found == FRUIT, 4.0, -4.0)
    return found, CellInputs(values, offset)


def views() -> Iterator[tuple[Tensor, ReadCells]]:
    for seed in range(4):
        found, cells = drawn_cells(seed)

        def read(at: Tensor, cells: CellInputs = cells) -> CellInputs:
            return CellInputs(cells.values[:, at], cells.offset[:, at])

        yield torch.nn.functional.one_hot(found, 4).T[:, None].float(), read


def test_classes_without_text_are_learned_where_the_text_of_others_proves_right() -> None:
    has_text = torch.tensor([False, True, False, True])
    classifier = fit_classifier(
        views(), 4, CONFIG, images=4, validates_strength=True, has_text=has_text, column_dropout=[]
    ).plain
    found, cells = drawn_cells(9)
    predicted = classifier.logits(cells).argmax(dim=0)
    recall = [float((predicted[found == k] == k).float().mean()) for k in range(4)]
    assert recall[FRUIT] > 0.9
    assert min(recall[STUFF], recall[NUT]) > 0.1, "nobody can tell them well, but both are there"
    assert recall[REST] > 0.5


@pytest.mark.parametrize("shown_by", [(4,), (2, 4, 8), (1, 4)], ids=["one image", "one half of them", "both halves"])
def test_a_label_that_only_one_half_of_the_images_shows_does_not_undo_what_is_learned_of_the_others(
    shown_by: tuple[int, ...]
) -> None:
    """The other half never saw it: that it takes it for something else says nothing of a network that did."""
    stuff, fruit = 0, 1

    def views() -> Iterator[tuple[Tensor, ReadCells]]:
        for number in range(12):
            chance = torch.Generator().manual_seed(number)
            often = torch.tensor([0.4, 0.2 * (number in shown_by), 0.4])
            found = torch.multinomial(often, 1000, replacement=True, generator=chance)
            values = 0.3 * torch.randn(2, 1000, generator=chance)
            values[0] += found == stuff
            values[1] += 3.0 * (found == fruit)
            offset = torch.zeros(3, 1000)
            offset[fruit] = torch.where(found == fruit, 1.0, -1.0) + torch.randn(1000, generator=chance)

            def read(at: Tensor, values: Tensor = values, offset: Tensor = offset) -> CellInputs:
                return CellInputs(values[:, at], offset[:, at])

            yield torch.nn.functional.one_hot(found, 3).T[:, None].float(), read

    classifier = fit_classifier(
        views(), 12, CONFIG, images=12, validates_strength=True, has_text=torch.ones(3, dtype=torch.bool),
        column_dropout=[],
    ).plain  # fmt: skip
    assert classifier.strength > 0
