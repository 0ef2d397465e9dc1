"""Gradients by hand are those of autograd, and networks side by side learn what their rows show."""

from __future__ import annotations

import pytest
import torch

from worker.learning.recipes.quick.ensemble import (
    AdamW,
    Backward,
    EnsembleConfig,
    TrainingSet,
    initialised,
    train_ensemble,
)

pytestmark = pytest.mark.usefixtures("one_thread")

BOTH = torch.ones(2, dtype=torch.bool)
"""Both of two classes have text."""


def test_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    net = initialised(3, (6, 8, 8, 4))
    for parameter in (*net.weights, *net.biases):
        parameter.copy_(torch.randn_like(parameter))
    inputs, offset = torch.randn(50, 6), torch.randn(50, 4)
    shares = torch.rand(50, 4).softmax(dim=1)
    backward = Backward(net, 50)
    for _ in range(2):  # buffers are used again
        backward(inputs, offset, shares)
    leaves = [parameter.detach().clone().requires_grad_() for parameter in (*net.weights, *net.biases)]
    values = inputs.expand(3, 50, 6)
    for layer in range(3):
        values = torch.baddbmm(leaves[3 + layer], values, leaves[layer])
        values = values.relu() if layer < 2 else values
    loss = -(shares * (offset + values).log_softmax(dim=-1)).sum() / 50
    expected = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(backward.gradient, torch.cat([slope.flatten() for slope in expected]))


def test_our_adamw_is_that_of_torch() -> None:
    torch.manual_seed(0)
    net = initialised(2, (3, 4, 4, 2))
    leaves = [parameter.clone().requires_grad_() for parameter in (*net.weights, *net.biases)]
    groups = [{"params": leaves[:3], "weight_decay": 0.3}, {"params": leaves[3:], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=0.02)
    gradient = torch.zeros(sum(leaf.numel() for leaf in leaves))
    ours = AdamW(net, gradient, 0.3)
    for _ in range(5):
        gradient.copy_(torch.randn_like(gradient))
        start = 0
        for leaf in leaves:
            leaf.grad = gradient[start : start + leaf.numel()].view_as(leaf).clone()
            start += leaf.numel()
        ours.step(0.02)
        optimiser.step()
    for found, leaf in zip((*net.weights, *net.biases), leaves, strict=True):
        torch.testing.assert_close(found, leaf.detach())


def circle() -> TrainingSet:
    chance = torch.Generator().manual_seed(0)
    inputs = torch.randn(3000, 5, generator=chance)
    inside = (inputs[:, :2].square().sum(dim=1) < 1.4).float()  # not linearly separable
    return TrainingSet(inputs, torch.stack([inside, 1 - inside], dim=1), torch.zeros(3000, 2), torch.ones(3000), BOTH)


def test_a_curved_boundary_is_learned_and_randomness_is_seeded() -> None:
    shown = circle()
    training = EnsembleConfig(hidden=16, steps=150, batch=128, rate=0.03)
    net, same = (train_ensemble(shown, 2, training, column_dropout=[(slice(4, 5), 0.5)], seed=1) for _ in range(2))
    found = net.posterior(shown.inputs, shown.offset, 1.0, BOTH)
    assert (found.argmax(dim=1) == shown.shares.argmax(dim=1)).float().mean() > 0.95
    assert all(torch.equal(a, b) for a, b in zip(net.weights, same.weights, strict=True))
    assert not net.weights[0].requires_grad
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))


def test_at_strength_0_the_posterior_is_that_of_the_offsets() -> None:
    shown = circle()
    net = train_ensemble(shown, 1, EnsembleConfig(hidden=4, steps=5, batch=16), seed=0)
    offset = torch.tensor([[2.0, 0.0]]).expand(3000, 2)
    torch.testing.assert_close(net.posterior(shown.inputs, offset, 0.0, BOTH), offset.softmax(dim=1))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_classes_without_text_keep_their_learned_posterior_at_any_strength(strength: float) -> None:
    torch.manual_seed(0)
    net = initialised(3, (5, 8, 8, 4))
    net.weights[-1].mul_(200)
    inputs, offset, has_text = torch.randn(20, 5), torch.randn(20, 4), torch.tensor([True, False, False, True])
    offset[:, ~has_text] = 0
    found = net.posterior(inputs, offset, strength, has_text)
    learned = net.posterior(inputs, offset, 1.0, has_text)
    torch.testing.assert_close(found[:, ~has_text], learned[:, ~has_text])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(20))
    odds = [(posterior[:, 0] / posterior[:, 3]).log() for posterior in (found, learned)]
    if strength == 0:
        torch.testing.assert_close(odds[0], offset[:, 0] - offset[:, 3])
    assert torch.allclose(odds[0], odds[1]) == (strength == 1)
