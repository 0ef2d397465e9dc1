"""Keys of a ViT of timm, on weights made on the spot: the paper-faithful graph runs on a tower of true size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from plugin_config.errors import ModelUnavailable
from tests.models import noise
from tests.test_refine import write_set
from worker.lab.evaluate import main
from worker.segmentation.encoders.self_supervised_vit import SelfSupervisedViT
from worker.segmentation.outlines.refinement import SPECTRAL, refine_logits
from worker.segmentation.outlines.spectral import eigen_masks

pytestmark = pytest.mark.usefixtures("one_thread")

DINO = "vit_small_patch16_224.dino"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """DINO's own architecture at its true size with random weights, and the file with them."""
    torch.manual_seed(0)
    model = timm.create_model(DINO, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    path = tmp_path_factory.mktemp("dino") / "dino.pt"
    torch.save(model.state_dict(), path)
    save_file(model.state_dict(), path.with_suffix(".safetensors"))
    return model, path


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@torch.inference_mode()
def test_keys_are_those_of_the_last_block(ending: str, dino: tuple[Any, Path]) -> None:
    model, path = dino
    tower = SelfSupervisedViT(f"{DINO}:{path.with_suffix(ending)}")
    assert tower.keys(noise(66, 95)).shape == (4, 6, 384)
    # By hand: everything up to the last block, its norm, and the middle third of its qkv.
    pixels = (torch.from_numpy(noise(64, 96)).permute(2, 0, 1)[None].float() / 255 - tower._mean) / tower._std
    tokens = model._pos_embed(model.patch_embed(pixels))
    for block in model.blocks[:-1]:
        tokens = block(tokens)
    last = model.blocks[-1]
    keys = last.attn.qkv(last.norm1(tokens))[0, 1:, 384:768].reshape(4, 6, 384)
    torch.testing.assert_close(tower.keys(noise(64, 96)), keys, rtol=0, atol=1e-4)


def test_the_papers_graph_gives_masks_and_outlines(dino: tuple[Any, Path]) -> None:
    image = noise(80, 112)
    keys = SelfSupervisedViT(f"{DINO}:{dino[1]}").keys(image)
    assert eigen_masks(image, keys=keys).shape == (5, 80, 112)
    coarse = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    refined = refine_logits(coarse, image, keys, method=SPECTRAL)
    assert refined.shape == (3, 80, 112)
    assert bool(refined.isfinite().all())


def test_the_protocol_judges_with_a_tower(
    dino: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "set", seed=3, pictures=2)
    arguments = ["--protocol", "refine", "--photos", str(folder), "--levels", "L2", "--tower", f"{DINO}:{dino[1]}"]
    assert main([*arguments, "--json"]) == 0
    found = {row["refiner"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert {"eigenvectors of keys", "oracle (sees the truth)"} <= found


@pytest.mark.parametrize(
    "tower", ["nonsense", "resnet18:weights.pt", f"{DINO}:/nowhere/dino.pt"], ids=["name", "no ViT", "no file"]
)
def test_a_tower_that_cannot_be_had_is_named(tower: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"tower .* cannot be loaded"):
        SelfSupervisedViT(tower)


def test_weights_of_another_tower_are_refused(dino: tuple[Any, Path]) -> None:
    with pytest.raises(ModelUnavailable, match="size mismatch"):
        SelfSupervisedViT(f"vit_tiny_patch16_224:{dino[1]}")
