"""Towers of timm inside open_clip models: read at any size, each patch as the model's own pool would read it alone."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from plugin_config.errors import ModelUnavailable
from tests.models import random_model
from worker.segmentation.encoders import convnext, timm_vit
from worker.segmentation.encoders.backbones import TimmVitBackbone, dense_backbone
from worker.segmentation.encoders.readouts import READOUTS

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}
EVA: dict[str, Any] = {**SMALL, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
NORMED: dict[str, Any] = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
PE: dict[str, Any] = {"attn_type": "rope", "use_pre_transformer_norm": True, "rope_grid_indexing": "xy",
                      "rope_grid_offset": 1.0, "attn_pool_num_heads": 4, "init_values": 0.7}  # fmt: skip
# Small members of each family, built as timm builds the real ones.
WITH_TOKEN = {
    "EVA02": lambda: Eva(**EVA, **NORMED, global_pool="token", num_classes=24),
    "EVA02-E": lambda: Eva(**EVA, use_post_norm=True, global_pool="token", num_classes=24),
    "EVA01": lambda: Eva(**SMALL, qkv_bias=True, init_values=0.7, global_pool="token", num_classes=24),
    "ViT": lambda: VisionTransformer(**SMALL, qk_norm=True, init_values=0.7, pre_norm=True, num_classes=24),
}
WITH_POOL = {
    "SigLIP": lambda: VisionTransformer(**SMALL, class_token=False, global_pool="map", num_classes=0),
    "PE-Core": lambda: Eva(**EVA, **PE, global_pool="map", num_classes=24),
}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wrapped(make: Any) -> Any:
    """What open_clip's `TimmModel` is to its users, around a trunk whose weights all matter."""
    torch.manual_seed(0)
    trunk = make().eval().requires_grad_(False)
    for name, parameter in trunk.named_parameters():
        if not name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "gamma", "gamma_1", "gamma_2")):
            nn.init.normal_(parameter, std=0.15)
    return SimpleNamespace(trunk=trunk, head=nn.Identity(), image_size=(64, 64))


@pytest.mark.parametrize("family", [*WITH_TOKEN, *WITH_POOL])
@torch.inference_mode()
def test_a_trunk_for_any_size_is_the_trunk_at_its_own_size_and_the_resized_one_at_others(family: str) -> None:
    """Interpolated positions and rotations are those timm itself makes for a trunk built for that size."""
    make = {**WITH_TOKEN, **WITH_POOL}[family]
    own, other = drawn(2, 3, 64, 64, seed=1), drawn(2, 3, 48, 80, seed=2)
    plain, resized, freed = (wrapped(make).trunk for _ in range(3))
    resized.set_input_size((48, 80))
    timm_vit.allow_any_size(freed)
    for pixels, wanted in ((own, plain(own)), (other, resized(other)), (own, plain(own))):
        timm_vit.set_grid(freed, (pixels.shape[2] // 16, pixels.shape[3] // 16))
        torch.testing.assert_close(freed(pixels), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [*WITH_TOKEN, *WITH_POOL])
@torch.inference_mode()
def test_threads_with_images_of_other_sizes_read_the_same_as_one_alone(family: str) -> None:
    """timm keeps the rotary embedding of one grid, and a worker embeds in one thread and draws in another."""
    tower = dense_backbone(wrapped({**WITH_TOKEN, **WITH_POOL}[family]), family)
    images = [drawn(1, 3, 64, 64, seed=1), drawn(1, 3, 48, 80, seed=2)]
    wanted = [tower(pixels) for pixels in images]

    def read(which: int) -> list[Tensor]:
        with torch.inference_mode():
            return [tower(images[which]) for _ in range(100)]

    with ThreadPoolExecutor(2) as threads:
        for features, expected in zip(threads.map(read, range(2)), wanted, strict=True):
            for found in features:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", WITH_TOKEN)
@torch.inference_mode()
def test_read_as_trained_the_tokens_are_the_trunks(family: str) -> None:
    visual, pixels = wrapped(WITH_TOKEN[family]), drawn(2, 3, 48, 80, seed=2)
    tower = dense_backbone(visual, family, readout="standard")
    found = tower(pixels)
    wanted = visual.trunk.head(visual.trunk.forward_features(pixels)[:, 1:]).reshape(2, 3, 5, 24)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", WITH_TOKEN)
@torch.inference_mode()
def test_the_value_path_is_the_last_attention_where_each_token_sees_only_itself(family: str) -> None:
    """Asked of the block's own attention module, one token at a time, so that its softmax is over one."""
    visual, pixels = wrapped(WITH_TOKEN[family]), drawn(1, 3, 48, 80, seed=2)
    found = dense_backbone(visual, family)(pixels)[0].flatten(0, 1)
    trunk, seen = visual.trunk, list[Tensor]()
    hook = trunk.blocks[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    trunk(pixels)
    hook.remove()
    block = trunk.blocks[-1]
    alone = seen[0][0, 1:, None]  # (15, 1, width): 15 sequences of one token
    if family == "EVA02-E":
        mixed = block.norm1(block.attn(alone))
    else:
        scale = block.ls1 if family == "ViT" else (lambda x: x if block.gamma_1 is None else x * block.gamma_1)
        mixed = scale(block.attn(block.norm1(alone)))
    torch.testing.assert_close(found, trunk.head(trunk.norm(mixed))[:, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", WITH_POOL)
@torch.inference_mode()
def test_a_patch_is_read_as_if_the_pool_had_looked_at_it_alone(family: str) -> None:
    visual, pixels = wrapped(WITH_POOL[family]), drawn(1, 3, 48, 80, seed=2)
    found = dense_backbone(visual, family)(pixels)[0].flatten(0, 1)
    trunk = visual.trunk
    tokens = trunk.forward_features(pixels)[0, -15:, None]  # (15, 1, width): 15 pictures of one patch
    torch.testing.assert_close(found, trunk.forward_head(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", WITH_POOL)
@torch.inference_mode()
def test_a_pools_own_keys_can_be_compared(family: str) -> None:
    visual, pixels = wrapped(WITH_POOL[family]), drawn(1, 3, 48, 80, seed=2)
    value = dense_backbone(visual, family)(pixels)
    compared = dense_backbone(visual, family, readout="naclip")(pixels)
    assert compared.shape == value.shape
    assert not torch.allclose(compared, value, atol=1e-3)
    with pytest.raises(ModelUnavailable, match="compares q of patches"):
        dense_backbone(visual, family, readout="clearclip")


@pytest.mark.parametrize("family", [*WITH_TOKEN, *WITH_POOL])
@torch.inference_mode()
def test_a_proxy_that_tells_all_patches_apart_leaves_the_value_path(family: str) -> None:
    visual, pixels = wrapped({**WITH_TOKEN, **WITH_POOL}[family]), drawn(1, 3, 48, 80, seed=2)
    value = dense_backbone(visual, family)(pixels)
    tower = dense_backbone(visual, family, proxies=True)
    assert tower.readout is READOUTS["proxy"]
    torch.testing.assert_close(tower(pixels, torch.eye(15).reshape(1, 3, 5, 15)), value, rtol=0, atol=1e-5)
    assert not torch.allclose(tower(pixels, drawn(1, 3, 5, 15, seed=4)), value, atol=1e-3)


@pytest.fixture(scope="module")
def conv() -> Any:
    """A small ConvNeXt with open_clip's kind of head, whose layer scales do something."""
    torch.manual_seed(0)
    make = {"depths": (1, 1, 2, 2), "dims": (8, 16, 24, 32), "ls_init_value": 0.5, "num_classes": 0}
    trunk = timm.models.convnext.ConvNeXt(**make).eval().requires_grad_(False)
    return SimpleNamespace(trunk=trunk, head=nn.Linear(32, 20, bias=False).requires_grad_(False), image_size=(64, 64))


@torch.inference_mode()
def test_every_second_place_is_the_plain_forwards(conv: Any) -> None:
    pixels = drawn(1, 3, 128, 192, seed=1)
    entered = nn.functional.pad(pixels, (8, 0, 8, 0), mode="replicate")[..., :-8, :-8]
    plain, dense = conv.trunk.forward_features(entered), convnext.last_stage(conv, pixels)
    assert dense.shape == (1, 32, 8, 12)
    torch.testing.assert_close(dense[..., ::2, ::2], plain, rtol=0, atol=1e-5)
    assert not torch.allclose(dense[..., 1::2, 1::2], plain, atol=1e-2)


@torch.inference_mode()
def test_a_place_is_read_by_the_models_head(conv: Any) -> None:
    """A picture of one place is what the model itself makes of it."""
    pixels = drawn(1, 3, 32, 32, seed=1)
    entered = nn.functional.pad(pixels, (8, 0, 8, 0), mode="replicate")[..., :-8, :-8]
    found = dense_backbone(conv, "convnext")(pixels)
    torch.testing.assert_close(found[0, 0, 0], conv.head(conv.trunk(entered))[0], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_places_all_alike_to_a_proxy_are_pooled_as_the_model_pools(conv: Any) -> None:
    pixels = drawn(1, 3, 64, 64, seed=1)
    flat = convnext.last_stage(conv, pixels)
    proxies = torch.cat([torch.ones(1, 4, 3, 1), -torch.ones(1, 4, 1, 1)], dim=2)  # two kinds of place
    found = dense_backbone(conv, "convnext", proxies=True)(pixels, proxies)
    wanted = conv.head(conv.trunk.head(flat[..., :3]))
    torch.testing.assert_close(found[0, :, :3], wanted.expand(4, 3, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("row", [3, 8, 12])
@torch.inference_mode()
def test_a_feature_lies_where_its_pixels_do(row: int, conv: Any) -> None:
    """What a square of two patches changes is centred on it, where only the steps that shrink the grid mix places."""
    visual = SimpleNamespace(trunk=copy.deepcopy(conv.trunk), head=conv.head)
    for module in visual.trunk.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7):
            module.weight.mul_(0.0)[..., 3, 3] = 1.0
    flat = drawn(1, 3, 1, 1, seed=6).expand(1, 3, 256, 256)
    spotted = flat.clone()
    spotted[..., (row - 1) * 16 : (row + 1) * 16, 96:160] = drawn(1, 3, 1, 1, seed=7)
    spots, none = (convnext.read_features(visual, convnext.last_stage(visual, one)) for one in (spotted, flat))
    moved = (spots - none).norm(dim=-1)[0]
    rows = moved.sum(dim=1)
    assert set(rows.gt(1e-4).nonzero()[:, 0].tolist()) == {row - 2, row - 1, row, row + 1}
    centre = float((rows @ torch.arange(16.0) + 0.5 * rows.sum()) / rows.sum())
    assert centre == pytest.approx(row, abs=0.3)


TRUE_SIZE = {  # the smallest of each family that open_clip lists, its patch and native size
    "ViT-B-16-SigLIP2": (16, 224),
    "PE-Core-T-16-384": (16, 384),
    "EVA02-B-16": (16, 224),
    "convnext_base": (16, 224),
}


@pytest.fixture
def swept() -> Iterator[None]:
    """Hundreds of millions of weights leave before the next ones come."""
    yield
    gc.collect()


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("name", TRUE_SIZE)
@torch.inference_mode()
def test_every_family_is_built_at_its_true_size_and_run(name: str) -> None:
    """On random weights; a picture twice as wide as high, of no size the model knows."""
    model = random_model(name).eval()
    tower = dense_backbone(model.visual, name)
    assert (tower.patch, tower.native_size) == TRUE_SIZE[name]
    found = tower(drawn(1, 3, 64, 128, seed=1))
    words = model.text_projection.shape[1] if hasattr(model, "text_projection") else model.text.output_dim
    assert found.shape == (1, 4, 8, words)
    assert bool(found.isfinite().all())
    assert float(found.std(dim=(1, 2)).mean()) > 0


@pytest.mark.parametrize("make", ["vit_medium_patch16_gap_256", "swin_base_patch4_window7_224", "vitamin_small_224"])
def test_other_trunks_are_refused_by_name(make: str) -> None:
    with torch.device("meta"):
        visual = SimpleNamespace(trunk=timm.create_model(make, num_classes=0), image_size=(224, 224))
    with pytest.raises(ModelUnavailable, match=f"around {type(visual.trunk).__name__}.* cannot be read patch by patch"):
        dense_backbone(visual, make)


def test_a_vit_of_timm_is_recognised_by_its_parts() -> None:
    assert isinstance(dense_backbone(wrapped(WITH_POOL["SigLIP"]), "SigLIP"), TimmVitBackbone)


@pytest.mark.parametrize("family", [*WITH_TOKEN, *WITH_POOL])
@torch.inference_mode()
def test_every_family_gives_the_same_features_in_bfloat16(family: str) -> None:
    visual, pixels = wrapped({**WITH_TOKEN, **WITH_POOL}[family]), drawn(1, 3, 48, 80, seed=2)
    tower = dense_backbone(visual, family, readout="naclip")
    plain = tower(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        low = tower(pixels)
    assert float(nn.functional.cosine_similarity(plain, low.float(), dim=-1).min()) > 0.95
