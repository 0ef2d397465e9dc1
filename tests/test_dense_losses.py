"""Losses of dense recipes: what is ignored changes nothing, no edge of an unseen class is learned from, and the shape
loss has a gradient.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.dense_world import output_of, squares
from worker.learning.recipes.dense.edges import edge_target
from worker.learning.recipes.dense.inverse_form import TILE, InverseForm, Regressor, drawn_pairs, train_regressor
from worker.learning.recipes.dense.lseg import cross_entropy, lseg_loss
from worker.learning.recipes.dense.networks import EDGES, DenseOutput, correlate
from worker.learning.recipes.dense.sazs import SazsLoss, balanced_bce, edge_attention
from worker.segmentation.metrics import VOID

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, GRID = (48, 64), (24, 32)
CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sazs_output(seed: int = 0) -> DenseOutput:
    logits, edges = drawn(1, 3, *GRID, seed=seed), drawn(1, 1, *GRID, seed=seed + 1)
    return output_of(logits.requires_grad_(), **{EDGES: edges.requires_grad_()})


def test_cross_entropy_is_that_of_the_pixels_with_a_class() -> None:
    logits, truth = drawn(1, 3, *SIZE), squares(SIZE)
    wanted = F.cross_entropy(logits.permute(0, 2, 3, 1)[truth != VOID], truth[truth != VOID])
    torch.testing.assert_close(cross_entropy(logits, truth), wanted)
    assert float(cross_entropy(logits, torch.full_like(truth, VOID))) == 0


@pytest.mark.parametrize("loss", [lseg_loss, SazsLoss(attention_from=-9.0)], ids=["lseg", "sazs"])
def test_ignored_pixels_get_no_gradient(loss: object) -> None:
    output, truth = sazs_output(), squares(SIZE)
    loss(output, truth)["total"].backward()  # type: ignore[operator]
    assert output.logits.grad is not None
    inside = F.max_pool2d((truth[:, None] != VOID).float(), 5, stride=2, padding=2)[:, 0] == 0
    assert bool(inside.any())
    assert not bool(output.logits.grad.permute(0, 2, 3, 1)[inside].any())
    assert bool(output.logits.grad.any())


def test_nothing_known_is_no_loss() -> None:
    output = sazs_output()
    terms = SazsLoss(attention_from=-9.0)(output, torch.full((1, *SIZE), VOID))
    assert {name: float(value.detach()) for name, value in terms.items()} == dict.fromkeys(terms, 0.0)
    terms["total"].backward()  # type: ignore[no-untyped-call]


def test_an_edge_lies_between_two_known_classes() -> None:
    truth = torch.full((1, 12, 16), 1)
    truth[..., 8:] = 0
    target = edge_target(truth, (12, 16), radius=2)
    assert target.edges[0, 0, 5].nonzero().flatten().tolist() == [6, 7, 8, 9]
    assert bool(target.known.all())
    coarse = edge_target(truth, (3, 4), radius=2)
    assert coarse.edges[0, 0, 1].tolist() == [0, 1, 1, 0]


def test_what_is_void_has_no_edge_and_none_is_judged_around_it() -> None:
    truth = torch.zeros(1, 12, 16, dtype=torch.int64)
    truth[..., 8:] = VOID
    target = edge_target(truth, (12, 16), radius=2)
    assert not bool(target.edges.any())
    assert target.known[0, 0, 5].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert target.classes[0, 5].tolist() == [0] * 6 + [VOID] * 10


@pytest.mark.parametrize("term", ["bce", "attention", "shape"])
def test_no_edge_of_an_unseen_class_reaches_a_loss(term: str) -> None:
    """Pixels of an unseen class are VOID. Boundary logits on its outline, or within it, get no gradient at all."""
    truth = torch.full((1, *SIZE), 2)
    truth[:, 4:20, 4:20] = 0
    truth[:, 24:44, 30:60] = VOID  # an unseen thing
    output = sazs_output()
    SazsLoss(attention_from=-9.0)(output, truth)[term].backward()  # type: ignore[no-untyped-call]
    near = F.max_pool2d((truth[:, None] == VOID).float(), 5, stride=1, padding=2)
    near = F.adaptive_max_pool2d(near, GRID) > 0
    changed = output.logits.grad if term == "attention" else output.maps[EDGES].grad
    assert changed is not None
    assert bool(changed.any())
    assert not bool((changed * near).any())


def test_edges_and_the_rest_weigh_the_same() -> None:
    truth = torch.zeros(1, 16, 16, dtype=torch.int64)
    truth[..., 8:] = 1
    target = edge_target(truth, (16, 16), radius=1)
    edges = torch.zeros(1, 1, 16, 16, requires_grad=True)
    balanced_bce(edges, target).backward()  # type: ignore[no-untyped-call]
    assert edges.grad is not None
    on, off = edges.grad[target.edges > 0].sum(), edges.grad[target.edges == 0].sum()
    torch.testing.assert_close(on, -off)
    assert float(on) < 0


def test_attention_looks_where_an_edge_is_predicted() -> None:
    truth = squares(SIZE)
    target, logits = edge_target(truth, GRID), drawn(1, 3, *GRID).requires_grad_()
    edges = torch.full((1, 1, *GRID), -1.0)
    edges[..., :4] = 1.0
    edge_attention(logits, edges, target, 0.8).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(logits.grad[..., :4].any())
    assert not bool(logits.grad[..., 4:].any())
    assert float(edge_attention(logits, edges - 5, target, 0.8)) == 0


def test_a_weight_of_0_leaves_a_term_out() -> None:
    output, truth = sazs_output(), squares(SIZE)
    assert set(SazsLoss(bce=0, attention=0, shape=0)(output, truth)) == {"align", "total"}
    terms = SazsLoss()(output, truth)
    weights = {"align": 1.0, "bce": 0.3, "attention": 0.1, "shape": 0.3}
    torch.testing.assert_close(terms["total"], sum(weight * terms[name] for name, weight in weights.items()))


def test_the_shape_loss_has_a_gradient_and_is_0_for_the_same_edges() -> None:
    """The released one is a softmax over one channel: constant, whatever is predicted."""
    true = edge_target(squares(SIZE), GRID).edges
    measure = InverseForm.shipped(CPU)
    assert float(measure(true, true)) < 1e-3
    predicted = true.roll(3, dims=3).requires_grad_()
    measure(predicted, true).backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    assert float(predicted.grad.abs().max()) > 1e-3


def test_the_further_edges_are_moved_the_larger_the_shape_loss() -> None:
    measure = InverseForm.shipped(CPU)
    true = torch.zeros(1, 1, TILE, TILE)
    true[..., 8, 8:25] = true[..., 24, 8:25] = true[..., 8:25, 8] = true[..., 8:25, 24] = 1
    lengths = [float(measure(true.roll(cells, dims=2), true)) for cells in range(4)]
    assert lengths == sorted(lengths)
    assert lengths[3] == pytest.approx(3 / (TILE / 2), abs=0.08)


def test_the_shipped_regressor_names_transformations_it_never_saw() -> None:
    pairs, moves = drawn_pairs(np.random.default_rng(99), 200)
    told = InverseForm.shipped(CPU)._regressor(pairs)
    error = float((told - moves).norm(dim=1).mean())
    assert error < 0.6 * float(moves.norm(dim=1).mean())


def test_a_regressor_that_is_trained_gets_better() -> None:
    pairs, moves = drawn_pairs(np.random.default_rng(7), 32)
    regressor, error = train_regressor(steps=8)
    assert np.isfinite(error)
    fresh = F.smooth_l1_loss(Regressor()(pairs), moves, beta=0.1)
    assert float(F.smooth_l1_loss(regressor(pairs), moves, beta=0.1)) < float(fresh)


@pytest.mark.parametrize("loss", [lseg_loss, SazsLoss(attention_from=-9.0)], ids=["lseg", "sazs"])
def test_a_loss_at_low_precision_is_computed_in_full(loss: object) -> None:
    """The network runs under autocast, and the loss outside of it."""
    embedding, labels, truth = drawn(1, 8, *GRID), drawn(3, 8, seed=1), squares(SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        logits, edges = correlate(embedding, labels), drawn(1, 1, *GRID, seed=2)
    assert logits.dtype == torch.float32
    for held in (logits, logits.bfloat16()):  # as blocks of convolutions give them
        total = loss(output_of(held, **{EDGES: edges}), truth)["total"]  # type: ignore[operator]
        assert total.dtype == torch.float32 and bool(total.isfinite())
