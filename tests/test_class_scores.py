"""Scores of classes some of which have none, and the blend of zero-shot and learned scores."""

from __future__ import annotations

import pytest
import torch

from worker.segmentation.class_scores import ClassScores, blend

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = 4
"""Classes of the fixtures, the background last: the second has no zero-shot score, the third has no score at all."""


@pytest.fixture
def zero_shot() -> ClassScores:
    logits = 3 * torch.randn(LABELS, 5, 7, generator=torch.Generator().manual_seed(0))
    return ClassScores.of(logits, torch.tensor([True, False, False, True]))


@pytest.fixture
def learned() -> ClassScores:
    logits = 3 * torch.randn(LABELS, 5, 7, generator=torch.Generator().manual_seed(1))
    return ClassScores.of(logits, torch.tensor([True, True, False, True]))


def test_classes_without_a_score_are_found_in_plain_logits(zero_shot: ClassScores) -> None:
    assert ClassScores.from_logits(zero_shot.logits).scored.tolist() == [True, False, False, True]
    once = torch.zeros(2, 3, 3)
    once[0, 1, 1] = -torch.inf  # in one cell only
    assert ClassScores.from_logits(once).scored.all()


def test_classes_without_a_score_take_no_share(zero_shot: ClassScores) -> None:
    posterior = zero_shot.posterior()
    assert not posterior[1:3].any()
    torch.testing.assert_close(posterior[[0, 3]], zero_shot.logits[[0, 3]].softmax(dim=0))


def test_a_score_can_be_taken_away(learned: ClassScores) -> None:
    fewer = learned.without([0])
    assert fewer.scored.tolist() == [False, True, False, True]
    assert fewer.logits[0].isneginf().all()
    assert learned.scored[0], "the scores it was made from stay as they are"


@pytest.mark.parametrize("size", [(5, 7), (11, 13), (2, 3)], ids=str)
def test_on_another_grid_the_same_classes_have_a_score(size: tuple[int, int], zero_shot: ClassScores) -> None:
    found = zero_shot.resized(size)
    assert found.grid == size
    assert found.logits[1:3].isneginf().all()
    assert found.logits[[0, 3]].isfinite().all()
    assert found.scored.tolist() == zero_shot.scored.tolist()


def test_a_coarser_grid_averages() -> None:
    values = torch.arange(64.0).reshape(1, 8, 8)
    small = ClassScores.from_logits(values).resized((2, 2)).logits
    assert float(small.mean()) == pytest.approx(float(values.mean()), rel=1e-5)


def test_cells_are_put_together_by_their_posteriors(zero_shot: ClassScores) -> None:
    """An average of logits would give a cell to the class that is surest of its part."""
    sure = torch.tensor([[9.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])[:, None]
    found = ClassScores.from_logits(sure).averaged((1, 1))
    torch.testing.assert_close(found.posterior()[:, 0, 0], sure.softmax(dim=0).mean(dim=(1, 2)))
    assert zero_shot.averaged((2, 9)).grid == (2, 7)
    assert zero_shot.averaged((2, 9)).scored.tolist() == [True, False, False, True]
    assert zero_shot.averaged((5, 7)) is zero_shot


def test_a_crop_keeps_the_classes(zero_shot: ClassScores) -> None:
    found = zero_shot.cropped((slice(1, 3), slice(2, 6)))
    assert found.grid == (2, 4)
    assert torch.equal(found.logits, zero_shot.logits[:, 1:3, 2:6])
    assert torch.equal(found.scored, zero_shot.scored)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_class_without_text_keeps_its_learned_posterior(
    strength: float, zero_shot: ClassScores, learned: ClassScores
) -> None:
    found = blend(zero_shot, learned, strength)
    assert found.scored.tolist() == [True, True, False, True]
    torch.testing.assert_close(found.posterior()[1], learned.posterior()[1])
    torch.testing.assert_close(found.logits.exp().sum(dim=0), torch.ones(5, 7))
    assert found.logits[2].isneginf().all()
    assert not found.logits.isnan().any()


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_between_classes_with_text_logits_are_interpolated(
    strength: float, zero_shot: ClassScores, learned: ClassScores
) -> None:
    odds = [scores.logits[0] - scores.logits[3] for scores in (zero_shot, learned, blend(zero_shot, learned, strength))]
    torch.testing.assert_close(odds[2], (1 - strength) * odds[0] + strength * odds[1])


def test_where_learning_is_sure_of_a_class_without_text_nothing_is_infinite(zero_shot: ClassScores) -> None:
    logits = torch.zeros(LABELS, 5, 7)
    logits[1] = 200.0
    found = blend(zero_shot, ClassScores.from_logits(logits), 0.5)
    assert found.logits.isfinite().all()
