"""CLIP's ResNets read every 8 pixels: the plain forward's own features, and those between."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from tests.models import noise, random_model
from worker.segmentation.encoders.backbones import ConvBackbone, VitBackbone, dense_backbone
from worker.segmentation.encoders.resnet import PATCH, last_stage, project, read_features

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"image_size": 96, "layers": [1, 2, 3, 2], "width": 8, "head_width": 32}
TEXT = {"context_length": 77, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def visual() -> Any:
    """A small ResNet whose batch norms do something; `init` leaves the last of each block at zero."""
    torch.manual_seed(0)
    tower = open_clip.CLIP(embed_dim=16, vision_cfg=SMALL, text_cfg=TEXT).visual.eval().requires_grad_(False)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return tower


def test_every_fourth_place_is_the_plain_forwards(visual: Any) -> None:
    """Inside, where no border is in sight, it is the same function of the same pixels, four times as dense each way."""
    pixels = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    entered = nn.functional.pad(pixels, (4, 0, 4, 0), mode="replicate")[..., :-4, :-4]
    plain = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(entered)))))
    dense = last_stage(visual, pixels)
    assert dense.shape[-2:] == (512 // PATCH, 512 // PATCH)
    inside = slice(6, -6)

    def differs(start: int) -> float:
        others = dense[..., start::4, start::4][..., inside, inside]
        return float((others - plain[..., inside, inside]).abs().max() / plain.std(dim=(2, 3)).mean())

    assert differs(1) < 1e-4
    assert differs(0) > 0.05


def test_the_projection_is_the_pools_value_path(visual: Any) -> None:
    places = torch.randn(2, 8 * 32, 3, 5, generator=torch.Generator().manual_seed(2))
    pool = visual.attnpool
    wanted = pool.c_proj(pool.v_proj(places.permute(0, 2, 3, 1)))
    torch.testing.assert_close(project(visual, places), wanted, rtol=1e-4, atol=1e-5)


def test_a_single_place_is_what_encode_image_pools_from_it(visual: Any) -> None:
    """Attention over copies of one vector without positions gives that vector's value: the pool's special case."""
    pool = visual.attnpool
    kept = pool.positional_embedding.clone()
    pool.positional_embedding.zero_()
    place = torch.randn(1, 8 * 32, 1, 1, generator=torch.Generator().manual_seed(3))
    pooled = pool(place.expand(-1, -1, 3, 3))
    pool.positional_embedding.copy_(kept)
    torch.testing.assert_close(project(visual, place)[:, 0, 0], pooled, rtol=1e-4, atol=1e-5)


def _features(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    return read_features(visual, last_stage(visual, pixels))


@pytest.mark.parametrize("row", [5, 16, 26])
def test_a_feature_lies_where_its_pixels_do(row: int, visual: Any) -> None:
    """The change a square of four patches makes is centred on the square, within half a patch."""
    flat = torch.zeros(1, 3, 256, 256)
    spotted = flat.clone()
    spotted[..., (row - 2) * 8 : (row + 2) * 8, (row - 2) * 8 : (row + 2) * 8] = 2.0
    moved = (_features(visual, spotted) - _features(visual, flat)).norm(dim=-1)[0]
    moved = moved.square()
    centre = (moved.sum(dim=1) @ torch.arange(32.0) + 0.5 * moved.sum()) / moved.sum()
    assert float(centre) == pytest.approx(row, abs=0.75)


@pytest.mark.parametrize("size", [(8, 8), (8, 64), (96, 96), (40, 200)], ids=str)
def test_any_multiple_of_eight_is_read(size: tuple[int, int], visual: Any) -> None:
    pixels = torch.from_numpy(noise(*size)).permute(2, 0, 1)[None].float() / 255
    assert _features(visual, pixels).shape == (1, size[0] // 8, size[1] // 8, 16)


def test_the_real_architectures_are_recognised() -> None:
    """RN50 at its true size, on random weights: built, recognised and run."""
    model = random_model("RN50").eval()
    tower = dense_backbone(model.visual, "RN50")
    assert isinstance(tower, ConvBackbone)
    assert (tower.patch, tower.native_size) == (8, 224)
    with torch.inference_mode():
        assert tower(torch.zeros(1, 3, 64, 96)).shape == (1, 8, 12, 1024)
    assert isinstance(dense_backbone(random_model("ViT-B-16").visual, "ViT-B-16"), VitBackbone)
