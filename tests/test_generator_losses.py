"""Losses of the generator: 0 where nothing is wrong, and gradients where they shall be and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.generator_world import CONFIG, make_world
from worker.learning.generator import losses
from worker.learning.generator.training import Training
from worker.learning.generator.vectors import RealVectors

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_have_no_discrepancy_and_shifted_ones_do() -> None:
    vectors = drawn(20, 8)
    assert float(losses.mmd(vectors, vectors.clone())) == 0
    assert float(losses.mmd(vectors, vectors[torch.randperm(20, generator=torch.Generator().manual_seed(1))])) < 2e-3
    near, far = (float(losses.mmd(vectors, vectors + shift)) for shift in (0.5, 1.0))
    assert 0.05 < near < far


def test_the_discrepancy_is_that_of_the_six_kernels() -> None:
    real, generated = drawn(3, 4), drawn(5, 4, seed=1)

    def among(left: Tensor, right: Tensor) -> float:
        values = [
            float(torch.exp(-(a - b).square().sum() / (2 * sigma)))
            for a in left for b in right for sigma in (2, 5, 10, 20, 40, 80)
        ]  # fmt: skip
        return sum(values) / (len(left) * len(right))

    expected = among(real, real) + among(generated, generated) - 2 * among(real, generated)
    assert float(losses.mmd(real, generated)) == pytest.approx(expected**0.5, abs=1e-4)


def test_labels_are_compared_by_themselves_where_they_are_given() -> None:
    labels = torch.arange(20) % 2
    real = drawn(20, 8) + 4 * labels[:, None]
    exchanged = real.roll(1, dims=0)  # the same set, each vector under the other label
    assert float(losses.mmd(real, exchanged)) < 2e-3
    assert float(losses.mmd(real, exchanged, labels)) > 0.5
    assert float(losses.mmd(real, real.roll(2, dims=0), labels)) < 2e-3
    one_label = losses.mmd(real, exchanged + 1, torch.zeros(20, dtype=torch.int64))
    torch.testing.assert_close(one_label, losses.mmd(real, exchanged + 1), rtol=1e-4, atol=1e-4)


def test_equal_sets_give_no_broken_gradient() -> None:
    vectors = drawn(6, 4)
    generated = vectors.clone().requires_grad_()
    losses.mmd(vectors, generated).backward()  # type: ignore[no-untyped-call]
    assert generated.grad is not None
    assert not bool(generated.grad.any())


def test_equal_relations_are_aligned_and_the_targets_get_no_gradient() -> None:
    seen, unseen = drawn(4, 6), drawn(3, 6, seed=1)
    turned = torch.linalg.qr(drawn(6, 6, seed=2))[0]  # cosines stay
    same = (3 * seen @ turned, 0.5 * unseen @ turned)
    assert float(losses.alignment(same, (seen, unseen))) == pytest.approx(0, abs=1e-6)
    words, visual = (seen.clone().requires_grad_(), unseen), (drawn(4, 6, seed=3).requires_grad_(), unseen)
    value = losses.alignment(visual, words)
    assert float(value.detach()) > 0.05
    value.backward()  # type: ignore[no-untyped-call]
    assert words[0].grad is None
    assert visual[0].grad is not None
    assert bool(visual[0].grad.any())


def test_alignment_is_the_mean_divergence_of_three_relations() -> None:
    visual, semantic = (drawn(4, 6), drawn(3, 6, seed=1)), (drawn(4, 6, seed=2), drawn(3, 6, seed=3))

    def divergence(rows: int, columns: int) -> float:
        wanted = (losses.relations(semantic[rows], semantic[columns]) / 0.1).softmax(dim=1)
        found = (losses.relations(visual[rows], visual[columns]) / 0.1).softmax(dim=1)
        return float((wanted * (wanted / found).log()).sum()) / wanted.numel()

    expected = (divergence(0, 0) + divergence(1, 1) + divergence(0, 1)) / 3
    assert float(losses.alignment(visual, semantic)) == pytest.approx(expected, rel=1e-4)


def test_unrelated_parts_shall_be_noise_and_related_ones_their_label() -> None:
    noise = drawn(4, 6)
    assert float(losses.unrelatedness(noise, noise)) == 0
    assert float(losses.unrelatedness(drawn(4, 6, seed=1), noise)) > 0.1
    labels = torch.arange(3)
    assert float(losses.relatedness(torch.eye(3), labels)) < float(losses.relatedness(1 - torch.eye(3), labels))


_ALL = {"projection", "generator", "related", "unrelated", "decoder", "relation", "classifier"}
_REACHED = {
    "mmd": {"projection", "generator"},
    "classification": {"projection", "generator"},
    "related": {"projection", "generator", "related", "relation"},
    "unrelated": {"projection", "generator", "unrelated"},
    "reconstruction": {"projection", "generator", "related", "unrelated", "decoder"},
    "alignment": {"projection", "generator", "related"},
}  # fmt: skip


@pytest.fixture
def training() -> tuple[Training, Tensor]:
    """A training whose classifier has learned something, and the vectors of the segmenter, which want gradients."""
    torch.manual_seed(0)
    world = make_world()
    vectors = world.real.vectors.clone().requires_grad_()
    made = Training(RealVectors(vectors, world.real.labels), world.seen, world.unseen, CONFIG, None)
    made.step(0)
    made.generator.zero_grad()
    made.disentangler.zero_grad()
    made.classifier.zero_grad()
    return made, vectors


def reached(training: Training) -> set[str]:
    """Parts with a gradient that is not 0."""
    parts: dict[str, nn.Module] = {
        "projection": training.generator.projection, "related": training.disentangler.related,
        "unrelated": training.disentangler.unrelated, "decoder": training.disentangler.decoder,
        "relation": training.disentangler.relation, "classifier": training.classifier,
    }  # fmt: skip
    inner = [one for name, one in training.generator.named_parameters() if not name.startswith("projection")]
    found = {name for name, part in parts.items() if any(map(_moves, part.parameters()))}
    return found | ({"generator"} if any(map(_moves, inner)) else set())


def _moves(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


@pytest.mark.parametrize("term", sorted(_REACHED))
def test_a_loss_reaches_what_it_trains_and_nothing_else(training: tuple[Training, Tensor], term: str) -> None:
    made, vectors = training
    made.generator_terms()[term].backward()  # type: ignore[no-untyped-call]
    assert reached(made) == _REACHED[term]
    assert vectors.grad is None


def test_every_trained_number_of_the_generator_moves(training: tuple[Training, Tensor]) -> None:
    """All tensors; queries and keys of attention to oneself change nothing, so that their halves do not."""
    made, _ = training
    made.generator_terms()["generator"].backward()  # type: ignore[no-untyped-call]
    still = {name for name, one in made.generator.named_parameters() if not _moves(one)}
    assert still == set()
    for name, one in made.generator.named_parameters():
        if name.endswith("self_attention.in_proj_weight"):
            assert one.grad is not None
            queries_and_keys = one.grad[: 2 * made.generator.width]
            assert float(queries_and_keys.abs().max()) < 1e-6


def test_the_classifier_step_trains_the_classifier_alone(training: tuple[Training, Tensor]) -> None:
    made, vectors = training
    made.classifier_loss().backward()  # type: ignore[no-untyped-call]
    assert reached(made) == {"classifier"}
    assert vectors.grad is None
    assert made.classifier.weight.grad is not None
    assert bool(made.classifier.weight.grad.any(dim=1).all())  # rows of unseen labels and of no object, too


def test_an_ablation_leaves_its_losses_out() -> None:
    world = make_world()
    names = {
        config: set(Training(world.real, world.seen, world.unseen, config, None).generator_terms()) - {"generator"}
        for config in (
            replace(CONFIG, alignment=False, disentangling=False), replace(CONFIG, disentangling=False), CONFIG
        )
    }  # fmt: skip
    assert list(names.values()) == [
        {"mmd", "classification"}, {"mmd", "classification", "alignment"}, _REACHED.keys()
    ]  # fmt: skip


def test_the_parts_of_the_sum_have_their_weights(training: tuple[Training, Tensor]) -> None:
    terms = {name: float(value.detach()) for name, value in training[0].generator_terms().items()}
    inner = terms["alignment"] + 0.5 * terms["unrelated"] + 0.2 * terms["related"] + 0.5 * terms["reconstruction"]
    expected = terms["mmd"] + 0.001 * terms["classification"] + 0.0001 * inner
    assert terms["generator"] == pytest.approx(expected, rel=1e-5)
