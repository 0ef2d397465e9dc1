"""The generators: sizes as published, noise that stays on, and labels that have no influence on each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from plugin_config.errors import LearningError
from tests.generator_world import TEXT_WIDTH, TINY, WIDTH
from worker.learning.generator.feature_generator import FeatureGenerator
from worker.learning.generator.gmmn import GmmnGenerator
from worker.learning.generator.presets import PUBLISHED
from worker.learning.generator.primitives import PrimitiveGenerator

pytestmark = pytest.mark.usefixtures("one_thread")


def numbers(*modules: nn.Module) -> int:
    return sum(one.numel() for module in modules for one in module.parameters())


def texts(count: int) -> Tensor:
    return torch.randn(count, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["primitives", "gmmn"])
def generator(request: pytest.FixtureRequest) -> FeatureGenerator:
    torch.manual_seed(0)
    made = GmmnGenerator(TEXT_WIDTH, WIDTH) if request.param == "gmmn" else None
    return (made or PrimitiveGenerator(TEXT_WIDTH, WIDTH, TINY)).eval()


def test_the_published_generator_has_its_published_size() -> None:
    published = PrimitiveGenerator(512, 256, PUBLISHED)
    assert numbers(published.layers, published.norm) == 3_160_832
    assert published.bank.numel() == 102_400
    assert numbers(published.projection) == 131_328
    assert numbers(published) == 3_160_832 + 102_400 + 131_328


def test_other_labels_change_nothing_where_the_noise_is_the_same(generator: FeatureGenerator) -> None:
    labels = texts(5)
    noise = generator.draw_noise(5, torch.Generator().manual_seed(2))
    alone = generator(labels, noise)
    assert alone.shape == (5, WIDTH)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(generator(labels[order], noise[order]), alone[order])
    more = torch.cat([10 * texts(7), labels])
    drawn = torch.cat([generator.draw_noise(7), noise])
    torch.testing.assert_close(generator(more, drawn)[7:], alone)
    assert not torch.allclose(generator(labels[order], noise), alone)


def test_noise_stays_on_and_can_be_repeated(generator: FeatureGenerator) -> None:
    labels = texts(4)
    assert not torch.allclose(generator(labels), generator(labels))
    first, second = (generator(labels, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_every_layer_adds_noise_of_its_own() -> None:
    generator = PrimitiveGenerator(TEXT_WIDTH, WIDTH, TINY).eval()
    noise = generator.draw_noise(3)
    assert noise.shape == (3, TINY.layers, WIDTH)
    base = generator(texts(3), noise)
    for layer in range(TINY.layers):
        changed = noise.clone()
        changed[:, layer] += 1 + torch.arange(WIDTH)
        assert not torch.allclose(generator(texts(3), changed), base)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(LearningError, match="2 attention heads do not divide vectors of 15 numbers"):
        PrimitiveGenerator(TEXT_WIDTH, 15, TINY)
