"""Networks of dense recipes: blocks of 10 parameters, logits that follow the labels, any size, and only what is trained
in the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.dense_world import TIMM, builtin, pixels_of, small, squares, tiny_segmenter, unit_rows
from worker.learning.recipes.dense.blocks import BLOCKS, BottleneckBlock, DepthwiseBlock, Regularisation
from worker.learning.recipes.dense.decoders import Decoder, DecoderConfig
from worker.learning.recipes.dense.lseg import LSegNetwork, lseg_loss
from worker.learning.recipes.dense.networks import EDGES, DenseNetwork, PixelFeatures
from worker.learning.recipes.dense.presets import (
    LSEG_PRESETS,
    SAZS_PRESETS,
    Preset,
    preset_from_json,
    preset_to_json,
    small_lseg,
    small_sazs,
)
from worker.learning.recipes.dense.sazs import SazsLoss, SazsNetwork
from worker.learning.recipes.dense.training import DenseLoss
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import Level, Tower, TowerMaps

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 128  # of the builtin model


def lseg(**changes: Any) -> LSegNetwork:
    preset, tower = small(builtin(), **changes)
    torch.manual_seed(0)
    return LSegNetwork(preset, tower, WIDTH)


@pytest.mark.parametrize("block", [*BLOCKS])
def test_a_block_has_10_parameters_at_any_depth(block: str) -> None:
    assert sum(one.numel() for one in BLOCKS[block]().parameters()) == 10
    assert sum(one.numel() for one in Regularisation(block, depth=4).parameters()) == 10


@pytest.mark.parametrize("block", [*BLOCKS])
def test_a_block_treats_every_label_alike(block: str) -> None:
    torch.manual_seed(0)
    made = Regularisation(block, depth=3)
    nn.init.normal_(made.block.conv.weight)
    logits, order = torch.randn(2, 5, 4, 6), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(made(logits[:, order]), made(logits)[:, order])


def test_what_the_blocks_compute() -> None:
    logits = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(DepthwiseBlock()(logits), logits)
    torch.testing.assert_close(BottleneckBlock()(logits), logits + logits.amax(dim=1, keepdim=True))
    thrice = Regularisation("depthwise", depth=3, activation="relu")
    torch.testing.assert_close(thrice(logits), logits.relu())


@pytest.mark.parametrize("block", ["", "bottleneck", "depthwise"])
def test_logits_follow_the_order_of_the_labels(block: str) -> None:
    network = lseg(block=block, block_depth=2).eval()
    pixels, labels = pixels_of(network.tower), unit_rows(5, WIDTH)
    order = torch.tensor([4, 2, 0, 1, 3])
    with torch.no_grad():
        torch.testing.assert_close(network(pixels, labels[order]).logits, network(pixels, labels).logits[:, order])
    assert network(pixels, labels[:2]).logits.shape[:2] == (2, 2)


def test_without_blocks_a_further_label_changes_no_logit() -> None:
    network = lseg().eval()
    pixels, labels = pixels_of(network.tower), unit_rows(5, WIDTH)
    torch.testing.assert_close(network(pixels, labels[:3]).logits, network(pixels, labels).logits[:, :3])


def test_a_small_network_starts_at_the_training_free_features() -> None:
    network = lseg().eval()
    pixels, labels = pixels_of(network.tower), unit_rows(3, WIDTH)
    with torch.no_grad():
        maps = network.tower(pixels)
        assert maps.aligned is not None
        plain = nn.functional.interpolate(nn.functional.normalize(maps.aligned, dim=1), scale_factor=2, mode="bilinear")
        wanted = network.decode(PixelFeatures(plain), labels).logits
        found = network(pixels, labels).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 4)], ids=str)
def test_any_size_is_taken(shape: tuple[int, int]) -> None:
    network = lseg().eval()
    pixels = torch.zeros(1, 3, *(side * network.tower.multiple for side in shape))
    assert network(pixels, unit_rows(2, WIDTH)).logits.shape == (1, 2, 2 * shape[0], 2 * shape[1])


class FromLevels(Tower):
    """A tower of given levels, without weights."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        def run(module: Any, pixels: Tensor) -> TowerMaps:
            size = pixels.shape[2:]
            maps = [torch.ones(len(pixels), one.channels, -(-size[0] // one.stride), -(-size[1] // one.stride))
                    for one in levels]  # fmt: skip
            tokens = [torch.ones(len(pixels), one.channels) for one in levels if one.has_class_token]
            return TowerMaps(tuple(maps), tuple(tokens))

        multiple = max(one.stride for one in levels)
        super().__init__(TIMM, nn.Identity(), run, mean=torch.zeros(3), std=torch.ones(3), native_size=64,
                         multiple=multiple)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "levels", "factors", "stride"),
    [
        pytest.param("dpt", (Level(4, 16, True),) * 4, (4, 2, 1, 0.5), 2, id="LSeg, ViT-L/16"),
        pytest.param("dpt", (Level(4, 32, True),) * 4, (8, 4, 2, 1), 2, id="LSeg, ViT-B/32"),
        pytest.param("dpt", tuple(Level(4, side, False) for side in (4, 8, 16, 32)), (), 2, id="LSeg, RN101"),
        pytest.param("reassemble", (Level(4, 16, True),), (2,), 8, id="SAZS, ViT-L/16"),
        pytest.param("pyramid", (Level(4, 8, False),), (), 8, id="SAZS, DRN"),
    ],
)
def test_decoders_of_the_papers_have_their_strides(
    kind: Any, levels: tuple[Level, ...], factors: tuple[float, ...], stride: int
) -> None:
    config = DecoderConfig(kind, (8,) * len(factors), factors, features=8)
    decoder = Decoder(config, levels, aligned_width=0, width=8).eval()
    for size in ((96, 96), (64, 160)):
        found = decoder(FromLevels(levels)(torch.zeros(1, 3, *size)))
        assert found.shape == (1, 8, size[0] // stride, size[1] // stride)


def test_presets_of_the_papers_say_what_they_are() -> None:
    assert LSEG_PRESETS["vit_l16"].tower.hooks == (5, 11, 17, 23)
    assert LSEG_PRESETS["vit_l16"].decoder.features == 256
    assert SAZS_PRESETS["vit_l16"].tower.hooks == (11,)
    assert SAZS_PRESETS["drn"].tower.dilated
    assert all(preset.trains_tower for preset in (*LSEG_PRESETS.values(), *SAZS_PRESETS.values()))
    of_builtin = (small_lseg(builtin().encoder), small_sazs(builtin().encoder))
    for preset in (*LSEG_PRESETS.values(), *SAZS_PRESETS.values(), *of_builtin):
        assert preset_from_json(preset_to_json(preset)) == preset


def trained(network: DenseNetwork, loss: DenseLoss) -> dict[str, Tensor]:
    """Gradients after one batch, by name."""
    pixels = pixels_of(network.tower, side=8)
    truth = squares((pixels.shape[2], pixels.shape[3]), count=2)
    for one in network.parameters():
        if one.requires_grad and not bool(one.any()):
            nn.init.normal_(one, std=0.01)
    loss(network.train()(pixels, unit_rows(3, WIDTH)), truth)["total"].backward()  # type: ignore[no-untyped-call]
    return {name: torch.zeros(1) if one.grad is None else one.grad for name, one in network.named_parameters()}


@pytest.mark.parametrize(
    ("network_of", "of", "loss", "changes"),
    [
        pytest.param(LSegNetwork, small_lseg, lseg_loss, {"block": "bottleneck", "block_depth": 2}, id="lseg"),
        pytest.param(SazsNetwork, small_sazs, SazsLoss(attention_from=-9.0), {}, id="sazs"),
    ],
)
def test_every_tensor_that_is_trained_has_a_gradient(
    network_of: Callable[[Preset, Tower, int], DenseNetwork], of: Callable[[Encoder], Preset], loss: DenseLoss,
    changes: dict[str, Any],
) -> None:
    preset, tower = small(builtin(), of, **changes)
    torch.manual_seed(0)
    gradients = trained(network_of(preset, tower, WIDTH), loss)
    assert gradients
    assert [name for name, gradient in gradients.items() if not bool(gradient.any())] == []


def test_a_frozen_tower_is_no_part_of_the_state_and_gets_no_gradient() -> None:
    network = lseg()
    names = set(network.state_dict())
    assert names
    assert all(name.startswith("decoder.") for name in names)
    trained(network, lseg_loss)
    assert all(one.grad is None for one in network.tower.module.parameters())


def test_a_trained_tower_is_its_own_and_is_trained(tmp_path: Any) -> None:
    segmenter = tiny_segmenter(tmp_path)
    preset, tower = small(segmenter, trains_tower=True)
    network = LSegNetwork(preset, tower, 16)
    assert any(name.startswith("tower_module.") for name in network.state_dict())
    pixels = pixels_of(tower)
    loss = lseg_loss(network(pixels, unit_rows(3, 16)), squares((pixels.shape[2], pixels.shape[3]), count=2))
    loss["total"].backward()  # type: ignore[no-untyped-call]
    assert network.tower.module.conv1.weight.grad.any()
    assert tower.module.conv1.weight.grad is None


@pytest.mark.parametrize("family", ["vit", "timm"])
def test_vits_are_decoded_too(family: str, tmp_path: Any) -> None:
    segmenter = builtin() if family == "timm" else tiny_segmenter(tmp_path)
    preset, tower = small(segmenter)
    if family == "timm":
        preset = replace(small_lseg(segmenter.encoder, "test_vit"), tower=TIMM)
        tower = segmenter.towers.get(TIMM)
    network = LSegNetwork(preset, tower, 16)
    pixels = pixels_of(tower)
    with torch.no_grad():
        logits = network(pixels, unit_rows(3, 16)).logits
    assert logits.shape == (2, 3, 8, 10)
    assert bool(logits.isfinite().all())


def test_what_was_made_in_inference_mode_may_be_learned_from() -> None:
    network = lseg()
    with torch.inference_mode():
        pixels, labels = pixels_of(network.tower), unit_rows(3, WIDTH)
        maps = network.tower(pixels)
    network.decode(network.read(maps), labels).logits.sum().backward()  # type: ignore[no-untyped-call]
    network(pixels.clone(), labels).logits.sum().backward()


def test_sazs_has_a_boundary_logit_beside_the_labels() -> None:
    preset, tower = small(builtin())
    output = SazsNetwork(preset, tower, WIDTH)(pixels_of(tower), unit_rows(3, WIDTH))
    assert output.maps[EDGES].shape == (2, 1, *output.logits.shape[2:])
