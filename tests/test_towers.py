"""Image towers read at several depths: every family, any size, the depths of the papers, and a cache by content."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from plugin_config.errors import ModelUnavailable
from tests.dense_world import TIMM, builtin, pixels_of, tiny_segmenter
from tests.models import noise
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import Tower, TowerConfig, Towers, _evenly, for_autograd
from worker.segmentation.encoders.vit import token_features
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("vit"), layers=4)


def test_blocks_at_even_depths_are_those_of_the_papers() -> None:
    assert _evenly(24) == (5, 11, 17, 23)
    assert _evenly(12) == (2, 5, 8, 11)
    assert _evenly(2) == (0, 0, 1, 1)


def test_a_native_vit_is_read_after_the_named_blocks(vit: Segmenter) -> None:
    tower = vit.towers.get(TowerConfig(hooks=(1, 3)))
    assert [level.stride for level in tower.levels] == [16, 16]
    assert all(level.has_class_token for level in tower.levels)
    pixels = pixels_of(tower)
    seen: list[torch.Tensor] = []
    blocks = vit.encoder.visual.transformer.resblocks
    hooks = [blocks[k].register_forward_hook(lambda _m, _i, output: seen.append(output)) for k in (1, 3)]
    vit.encoder.visual(torch.zeros(1, 3, 64, 64))  # the tower itself, as open_clip runs it
    for hook in hooks:
        hook.remove()
    maps = tower(torch.zeros(1, 3, 64, 64))
    for level, token, wanted in zip(maps.levels, maps.class_tokens, seen, strict=True):
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), wanted[:, 1:], rtol=0, atol=1e-5)
        torch.testing.assert_close(token, wanted[:, 0], rtol=0, atol=1e-5)
    assert tower(pixels).levels[0].shape == (2, 32, 4, 5)


def test_collecting_changes_nothing_about_the_patch_features(vit: Segmenter) -> None:
    visual, pixels = vit.encoder.visual, torch.randn(1, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    collected = {1: pixels, 3: pixels}
    assert torch.equal(token_features(visual, pixels, collected=collected), token_features(visual, pixels))
    assert all(tokens.shape == (1, 16, 32) for tokens in collected.values())


@pytest.mark.parametrize(("dilated", "strides"), [(False, [4, 8, 16, 32]), (True, [4, 8, 8, 8])], ids=["plain", "drn"])
def test_an_open_clip_resnet_is_read_stage_by_stage(dilated: bool, strides: list[int]) -> None:
    tower = builtin().towers.get(TowerConfig(dilated=dilated))
    assert [level.stride for level in tower.levels] == strides
    assert [level.channels for level in tower.levels] == [64, 128, 256, 512]
    assert [values.shape[0] for values in tower(pixels_of(tower)).levels] == [2] * 4


def test_levels_of_a_dilated_resnet_lie_above_their_pixels() -> None:
    """An edge of the picture is at the same place in every level, as it is in the plain stages."""
    towers = [builtin().towers.get(TowerConfig(hooks=(1,), dilated=dilated)) for dilated in (False, True)]
    pixels = torch.zeros(1, 3, 64, 64)
    pixels[..., 24:] = 1
    plain, moved = (tower(pixels).levels[0][..., 4:-4, 4:-4] for tower in towers)
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dilated", [False, True], ids=["plain", "dilated"])
def test_what_is_aligned_is_what_the_training_free_scores_are_made_of(dilated: bool, vit: Segmenter) -> None:
    segmenter = builtin() if dilated else vit
    tower = segmenter.towers.get(TowerConfig(dilated=dilated))
    side = 6 * tower.multiple
    image = noise(side, side)
    encoder = segmenter.encoder
    wanted = Encoder(encoder.name, device="cpu", short_side=side).embed_images([image])[0].features
    maps = segmenter.towers.maps(tower, torch.from_numpy(image).permute(2, 0, 1))
    assert maps.aligned is not None
    found = torch.nn.functional.normalize(maps.aligned[0], dim=0).permute(1, 2, 0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert tower.aligned_width == wanted.shape[-1]


def test_a_timm_vit_is_read_at_any_size() -> None:
    tower = builtin().towers.get(TIMM)
    assert tower.levels[0].has_class_token
    assert tower.aligned_width == 0
    for shape in ((2, 2), (3, 5)):
        pixels = torch.zeros(1, 3, *(side * tower.multiple for side in shape))
        assert {values.shape[-2:] for values in tower(pixels).levels} == {torch.Size(shape)}


def test_a_trunk_of_timm_inside_an_open_clip_model(tmp_path: Path) -> None:
    changes = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    segmenter = tiny_segmenter(tmp_path, **changes)
    tower = segmenter.towers.get(TowerConfig())
    maps = tower(pixels_of(tower))
    assert maps.aligned is not None
    assert maps.aligned.shape == (2, 16, 4, 5)
    assert {values.shape[-2:] for values in maps.levels} == {torch.Size((4, 5))}


def test_weights_of_a_file_are_loaded_and_told_apart(tmp_path: Path) -> None:
    torch.manual_seed(1)
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), file)
    one = builtin().towers.get(TowerConfig(f"test_vit:{file}"))
    other = builtin().towers.get(TIMM)
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Towers(builtin().encoder).get(TowerConfig(f"test_vit:{file}")).fingerprint


@pytest.mark.parametrize("name", ["no_such_tower", "test_vit:/nowhere/weights.pt"], ids=["name", "file"])
def test_a_tower_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="tower"):
        builtin().towers.get(TowerConfig(name))


def test_a_block_that_is_not_there_is_an_error(vit: Segmenter) -> None:
    with pytest.raises(ModelUnavailable, match="tower encoder"):
        vit.towers.get(TowerConfig(hooks=(9,)))


def test_maps_are_cached_by_what_they_were_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    towers = Towers(builtin().encoder)
    tower = towers.get(TowerConfig(hooks=(1,), dilated=True))
    calls: list[int] = []
    run = Tower.__call__

    def counted(self: Tower, pixels: torch.Tensor) -> object:
        calls.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(Tower, "__call__", counted)
    image = torch.from_numpy(noise(16, 24)).permute(2, 0, 1)
    first = towers.maps(tower, image)
    assert towers.maps(tower, image.clone()) is first
    assert towers.maps(tower, image.reshape(3, 24, 16)) is not first
    other = towers.get(TowerConfig(hooks=(2,), dilated=True))
    assert towers.maps(other, image) is not first
    assert len(calls) == 3


def test_maps_made_in_inference_mode_may_be_learned_from() -> None:
    towers = Towers(builtin().encoder)
    tower = towers.get(TowerConfig(hooks=(1,), dilated=True))
    with torch.inference_mode():
        maps = towers.maps(tower, torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert maps.levels[0].is_inference()
    weight = torch.ones(64, requires_grad=True)
    (maps.for_autograd().levels[0] * weight[None, :, None, None]).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    plain = torch.zeros(2)
    assert for_autograd(plain) is plain


def test_a_copy_to_train_leaves_the_shared_tower_alone() -> None:
    tower = builtin().towers.get(TIMM)
    copied, before = tower.trainable_copy(), tower.fingerprint
    with torch.no_grad():
        next(copied.module.parameters()).add_(1)
    assert tower.fingerprint == before
    assert copied.fingerprint != before
    assert all(one.requires_grad for one in copied.module.parameters())
    assert not any(one.requires_grad for one in tower.module.parameters())
