"""MODEL -> the model with its weights, or an error that says what to do; never a random or another model."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from plugin_config.errors import ModelUnavailable
from tests.house import PATIENCE_S
from tests.models import TINY, random_model, write_config
from worker.segmentation.encoders import checkpoints
from worker.segmentation.encoders.checkpoints import load_model, resolve
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.readouts import READOUTS
from worker.segmentation.encoders.vit import interpolate_positions, token_features

VIT = "ViT-B-16"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A real ViT-B-16 with random weights, and the folder with its file in all the shapes users have."""
    folder = tmp_path_factory.mktemp("vit")
    model = random_model(VIT).eval()
    state = model.state_dict()
    torch.save(state, folder / "weights.pt")
    (folder / "trained.pth").symlink_to(folder / "weights.pt")
    save_file({key: value.clone() for key, value in state.items()}, folder / "weights.safetensors")
    local = write_config(folder / "local", open_clip.get_model_config(VIT))
    (local / "open_clip_pytorch_model.bin").symlink_to(folder / "weights.pt")
    return model, folder


MODELS = {
    "name and file": "ViT-B-16:{folder}/weights.pt",
    "file alone": "{folder}/trained.pth",
    "safetensors": "{folder}/weights.safetensors",
    "folder": "local-dir:{folder}/local",
}


@pytest.mark.parametrize("shape", MODELS.values(), ids=MODELS)
@torch.inference_mode()
def test_tokens_are_those_of_the_model_as_users_load_it(shape: str, vit: tuple[Any, Path]) -> None:
    """With the standard readout, token 0 is what `encode_image` answers; the value readout is another thing."""
    loaded, tokenizer = load_model(shape.format(folder=vit[1]))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert tokenizer(["a"]).shape[0] == 1
    side = loaded.visual.conv1.kernel_size[0] * round((loaded.visual.positional_embedding.shape[0] - 1) ** 0.5)
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    wanted = loaded.encode_image(pixels)
    found = token_features(loaded.visual, pixels, readout=READOUTS["standard"])[:, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    value = token_features(loaded.visual, pixels)
    assert value.shape[1:] == (loaded.visual.positional_embedding.shape[0], wanted.shape[1])
    assert not torch.allclose(value[:, 0], wanted, atol=1e-2)
    torch.testing.assert_close(wanted, vit[0].encode_image(pixels), rtol=0, atol=1e-4)  # and it is this very model


def test_positions_of_the_native_grid_are_the_models_own() -> None:
    positions = torch.randn(1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    assert interpolate_positions(positions, (14, 14)) is positions


@pytest.mark.parametrize("grid", [(28, 28), (1, 1), (7, 40), (40, 7), (3, 14), (14, 15)], ids=str)
def test_positions_fit_any_grid(grid: tuple[int, int]) -> None:
    positions = torch.cat([torch.full((1, 8), 9.0), torch.full((14 * 14, 8), 2.0)])
    found = interpolate_positions(positions, grid)
    assert found.shape == (1 + grid[0] * grid[1], 8)
    assert torch.equal(found[0], positions[0])
    torch.testing.assert_close(found[1:], torch.full_like(found[1:], 2.0))


def test_positions_keep_rows_and_columns_apart() -> None:
    rows = torch.arange(14.0).repeat_interleave(14)[:, None]
    found = interpolate_positions(torch.cat([torch.zeros(1, 1), rows]), (28, 14))[1:].reshape(28, 14)
    assert float((found - found[:, :1]).abs().max()) < 1e-4
    assert bool((found[1:, 0] > found[:-1, 0]).all())


@pytest.fixture(scope="module")
def tiny_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny architecture that open_clip knows by name."""
    path = tmp_path_factory.mktemp("architectures") / "zeromask-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return path.stem


def broken_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.pt" for name in ("empty", "text", "numbers", "object", "nested", "cut", "other")}
    files["empty"].write_bytes(b"")
    files["text"].write_text("hello there, this is no checkpoint")
    torch.save([1, 2, 3], files["numbers"])
    files["object"].write_bytes(pickle.dumps(Path("x")))
    torch.save({"state_dict": 5}, files["nested"])
    torch.save({"x": torch.zeros(3)}, files["other"])
    files["cut"].write_bytes(files["other"].read_bytes()[:-200])
    for name, content in (("empty", b""), ("garbage", b"\x10\0\0\0\0\0\0\0garbage")):
        files[f"{name} safetensors"] = folder / f"{name}.safetensors"
        files[f"{name} safetensors"].write_bytes(content)
    return files


BROKEN = ("empty", "text", "numbers", "object", "nested", "cut", "other", "empty safetensors", "garbage safetensors")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("named", [True, False], ids=["name and file", "file alone"])
@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_are_no_checkpoint_are_short_errors(kind: str, named: bool, tiny_name: str, tmp_path: Path) -> None:
    path = broken_files(tmp_path)[kind]
    with pytest.raises(ModelUnavailable) as caught:
        load_model(f"{tiny_name}:{path}" if named else str(path))
    assert "weights_only" not in str(caught.value)
    assert "MODEL=" in caught.value.remedy or "torch.save" in caught.value.remedy
    assert len(caught.value.problem) < 400
    assert "\n" not in str(caught.value)


FOLDERS: dict[str, str | None] = {
    "no folder": None,
    "no json": "{nope",
    "no model": "{}",
    "no text tower": json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {}}, "preprocess_cfg": {}}),
    "list": "[1]",
    "no weights": json.dumps({"model_cfg": dict(TINY), "preprocess_cfg": {}}),
}


@pytest.mark.parametrize("config", FOLDERS.values(), ids=FOLDERS)
def test_folders_without_a_whole_model_are_errors(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(ModelUnavailable) as caught:
        load_model(f"local-dir:{tmp_path if config is not None else tmp_path / 'missing'}")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param("nonsense", "knows no architecture 'nonsense'", id="name"),
        pytest.param("", "knows no architecture", id="empty"),
        pytest.param("ViT-B-16/nonsense", "datacomp_xl_s13b_b90k", id="tag, with the tags there are"),
        pytest.param("ViT-B-16", "one of: openai", id="no tag"),
        pytest.param("ViT-B-16:/nowhere/weights.pt", "there is no file /nowhere/weights.pt", id="missing file"),
        pytest.param("/nowhere/weights.safetensors", "there is no file", id="missing bare file"),
        pytest.param("nonsense:/nowhere/weights.pt", "knows no architecture 'nonsense'", id="name of a file"),
    ],
)
def test_settings_that_lead_nowhere_list_the_choices(model: str, message: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"model {model}") as caught:
        load_model(model)
    assert message in str(caught.value)


def test_weights_of_another_architecture_are_refused(tiny_name: str, tmp_path: Path) -> None:
    wider = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "width": 48}}
    torch.save(open_clip.CLIP(**wider).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelUnavailable, match="size mismatch"):
        load_model(f"{tiny_name}:{tmp_path}/weights.pt")


def test_a_tokenizer_that_lacks_a_package_fails_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SigLIP's tokenizers come from transformers, which is no dependency."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    write_config(tmp_path, {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "some/tokenizer"}})
    with pytest.raises(ModelUnavailable, match="tokenizer needs the package transformers") as caught:
        load_model(f"local-dir:{tmp_path}")
    assert "pip install transformers" in caught.value.remedy


TOWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "average pool": lambda vision: {**vision, "pool_type": "avg"},
    "attention pool": lambda vision: {**vision, "attentional_pool": True, "attn_pooler_queries": 4},
}


@pytest.mark.parametrize("change", TOWERS.values(), ids=TOWERS)
def test_unsupported_image_towers_are_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    config = {**TINY, "vision_cfg": change(dict(TINY["vision_cfg"]))}
    model = open_clip.CLIP(**config)
    torch.save(model.state_dict(), write_config(tmp_path, config) / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="native"):
        Encoder(f"local-dir:{tmp_path}", device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "cuda", "gpu", "cuda:x"])
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ModelUnavailable, match="ZEROMASK_DEVICE=cpu"):
        Encoder("builtin", device=device)


def test_tags_trained_with_openais_activation_get_it() -> None:
    """open_clip itself only warns, and its features are then quietly worse."""
    assert resolve("ViT-B-16/openai").quick_gelu
    assert not resolve("ViT-B-16/datacomp_xl_s13b_b90k").quick_gelu


def test_weights_that_cannot_be_fetched_stop_the_start_and_do_not_flood_the_terminal(tmp_path: Path) -> None:
    script = "import sys; from worker.segmentation.encoders.checkpoints import load_model; load_model(sys.argv[1])"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script, "ViT-B-16/datacomp_xl_s13b_b90k"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "ModelUnavailable: model ViT-B-16/datacomp_xl_s13b_b90k: its weights cannot be loaded" in last
    assert "set MODEL to the file or to local-dir:FOLDER" in last
    assert "Retrying" not in done.stderr
    assert "ERROR:root" not in done.stderr


@pytest.fixture
def hub_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model hub is a port where nothing listens, and its cache is empty."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("hub_away")
def test_a_missing_network_is_told_within_seconds_with_what_to_do() -> None:
    started = time.monotonic()
    with pytest.raises(ModelUnavailable) as caught:
        load_model("ViT-B-32/laion2b_s34b_b79k")
    assert time.monotonic() - started < 15
    assert "http://127.0.0.1:9 does not answer" in str(caught.value)
    assert "MODEL=builtin needs none" in caught.value.remedy
    assert not hub.HF_HUB_OFFLINE, "the next try asks the hub again"


def test_a_name_that_is_looked_up_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Hangs:
        def head(self, url: str, **_: Any) -> None:
            over.wait(30)

    monkeypatch.setattr(checkpoints, "get_session", Hangs)
    monkeypatch.setattr(checkpoints, "_HUB_S", 0.1)
    started = time.monotonic()
    try:
        assert checkpoints.hub_trouble().startswith("no answer within")
    finally:
        over.set()
    assert time.monotonic() - started < 25, "less than it hangs"
