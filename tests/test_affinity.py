"""An affinity tower beside the model: its features decide who sees whom, travel with the embedding, and reach shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F

from plugin_config.errors import ModelUnavailable
from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from tests.models import TINY, noise, write_config
from worker.segmentation import segmenter as facade
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.self_supervised_vit import SelfSupervisedViT
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

TOWER = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real ViT of timm with random weights in a file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tower") / "weights.pt"
    torch.save(timm.create_model(TOWER, num_classes=0).state_dict(), path)
    return f"{TOWER}:{path}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    folder = write_config(tmp_path_factory.mktemp("model"), TINY)
    torch.save(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@torch.inference_mode()
def test_a_towers_features_are_its_final_tokens(tower: str) -> None:
    """What ProxyCLIP compares: the last layer's output, normed, without the class token."""
    found = SelfSupervisedViT(tower)
    pixels = torch.from_numpy(noise(48, 80)).permute(2, 0, 1)[None]
    plain: Any = timm.create_model(TOWER, num_classes=0, img_size=(48, 80)).eval()
    plain.load_state_dict({**found._model.state_dict(), "pos_embed": plain.pos_embed})
    positions = timm.layers.resample_abs_pos_embed(found._model.pos_embed, (3, 5), (14, 14), num_prefix_tokens=1)
    plain.pos_embed.copy_(positions)
    tokens = plain.forward_features((pixels.float() / 255 - 0.5) / 0.5)[0, 1:]
    wanted = F.normalize(tokens, dim=-1).reshape(3, 5, 192)
    torch.testing.assert_close(found.features(pixels)[0], wanted, rtol=0, atol=1e-4)


def test_the_features_travel_with_the_embedding(model: str, tower: str) -> None:
    """On a grid as large as that of the tower's own training, though the model has 8 patches along the short side."""
    encoder = Encoder(model, device="cpu", affinity_tower=tower)
    images = [noise(64, 64), noise(64, 110), noise(128, 128)]
    assert encoder.readout.name == "proxy"
    for image, found in zip(images, encoder.embed_images(images), strict=True):
        assert found.affinity is not None
        assert found.affinity.shape == {64: (14, 14, 192), 110: (8, 14, 192), 128: (14, 14, 192)}[image.shape[1]]
        assert found.features.shape[:2] == {64: (8, 8), 110: (8, 14), 128: (8, 8)}[image.shape[1]]
        torch.testing.assert_close(found.affinity.norm(dim=-1), torch.ones(found.affinity.shape[:2]))
        alone = encoder.embed_images([image])[0]
        assert alone.affinity is not None
        torch.testing.assert_close(alone.features, found.features, rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.affinity, found.affinity, rtol=0, atol=1e-4)


def test_a_tower_with_other_patches_sees_the_same_places(tower: str) -> None:
    """The builtin has a feature every 8 pixels, the tower every 16: the picture enters the tower twice as large."""
    encoder = Encoder("builtin", device="cpu", short_side=64, affinity_tower=tower, readout="value")
    plain = Encoder("builtin", device="cpu", short_side=64)
    found, other = (one.embed_images([noise(64, 96)])[0] for one in (encoder, plain))
    assert found.affinity is not None
    assert found.affinity.shape == (9, 14, 192)
    assert torch.equal(found.features, other.features)  # value is value, tower or not


def test_a_model_with_a_finer_grid_sets_the_towers(model: str, tower: str) -> None:
    found = Encoder(model, device="cpu", short_side=320, affinity_tower=tower).embed_images([noise(64, 64)])[0]
    assert found.affinity is not None
    assert found.features.shape[:2] == found.affinity.shape[:2] == (20, 20)


def test_the_readout_sees_the_towers_features_on_the_grid_of_the_patches(model: str, tower: str) -> None:
    """Left and right are of one colour each: on any grid a patch is averaged with its own side alone."""
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 32:] = 255
    found = Encoder(model, device="cpu", affinity_tower=tower).embed_images([image])[0]
    assert found.features.shape[:2] == (8, 8)
    torch.testing.assert_close(found.features.norm(dim=-1), torch.ones(8, 8))
    assert not torch.allclose(found.features[:, :3].mean(dim=(0, 1)), found.features[:, 5:].mean(dim=(0, 1)), atol=1e-3)


def test_a_tower_is_known_by_its_weights_not_by_its_file(model: str, tower: str, tmp_path: Path) -> None:
    """What was learned is not lost when the file moves, and not used with other weights."""
    name, _, file = tower.partition(":")
    moved, other = tmp_path / "moved.pt", tmp_path / "other.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state, moved)
    torch.save({key: value + 0.01 for key, value in state.items()}, other)
    first, same, changed = (Encoder(model, device="cpu", affinity_tower=f"{name}:{path}").fingerprint
                            for path in (file, moved, other))  # fmt: skip
    assert first == same
    assert first != changed
    assert first != Encoder(model, device="cpu").fingerprint


def test_windows_have_the_towers_features_too(model: str, tower: str) -> None:
    encoder = Encoder(model, device="cpu", short_side=64, affinity_tower=tower, windows=9)
    found = encoder.embed_images([noise(256, 256)])[0]
    assert found.affinity is not None
    assert found.affinity.shape[:2] == found.features.shape[:2]
    assert found.features.shape[0] > 4
    torch.testing.assert_close(found.affinity.norm(dim=-1), torch.ones(found.affinity.shape[:2]))


def test_the_cache_counts_them(model: str, tower: str) -> None:
    encoder = Encoder(model, device="cpu", affinity_tower=tower)
    images = [noise(64, 64, seed=seed) for seed in range(2)]
    one = encoder.embed_images(images[:1])[0]
    assert one.affinity is not None
    features, affinity = one.features.numel() * 4, one.affinity.numel() * 4
    for room, kept in ((features + affinity, True), (features + affinity - 1, False)):
        cache = EmbeddingCache(Segmenter(encoder), most_bytes=room)
        first, second = cache.embed(images)
        assert (cache.embed(images[1:])[0] is second) == kept
        assert cache.embed(images[:1])[0] is not first


def test_they_reach_the_shape_stage(model: str, tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def note(coarse: Any, size: Any, image: Any, features: Any, **method: Any) -> Any:
        handed.append(features)
        return pixel_classes(coarse, size, image, features, **method)

    monkeypatch.setattr(facade, "pixel_classes", note)
    words = Vocabulary((Label("cat", ("cat",), control="b", to_name="image", image_value="$image", output="brush"),))
    image = noise(64, 96)
    for encoder in (Encoder(model, device="cpu", affinity_tower=tower), Encoder(model, device="cpu")):
        segmenter = Segmenter(encoder)
        embedding = segmenter.embed([image])[0]
        segmenter.segment(embedding, words, image)
        assert handed[-1] is embedding.affinity
    assert handed[0] is not None
    assert handed[1] is None


def test_settings_reach_the_encoder(model: str, tower: str) -> None:
    environ = {"MODEL": model, "ZEROMASK_DEVICE": "cpu", "ZEROMASK_READOUT": "naclip", "ZEROMASK_PRECISION": "fp32",
               "ZEROMASK_AFFINITY_TOWER": tower, "ZEROMASK_WINDOWS": "4", "ZEROMASK_SHORT_SIDE": "64"}  # fmt: skip
    encoder = Encoder.from_settings(Settings.from_env(environ))
    assert (encoder.readout.name, encoder.precision, encoder.short_side) == ("naclip", torch.float32, 64)
    found = encoder.embed_images([noise(256, 256)])[0]
    assert found.features.shape[0] > 4
    assert found.affinity is not None
    assert Encoder.from_settings(Settings(device="cpu"), model="builtin").readout.name == "value"


def test_a_tower_that_cannot_be_had_stops_the_start(model: str) -> None:
    with pytest.raises(ModelUnavailable, match="tower nonsense"):
        Encoder(model, device="cpu", affinity_tower="nonsense")
