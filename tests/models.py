"""Small and real models for tests, made on the spot with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

TINY: Mapping[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def random_model(name: str, *, seed: int = 0) -> Any:
    """An open_clip model with random weights, large enough in the last block that readouts differ."""
    torch.manual_seed(seed)
    return open_clip.create_model(name, pretrained=None, load_weights=False)


def write_config(folder: Path, model_cfg: Mapping[str, Any]) -> Path:
    """A `local-dir:` folder without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def noise(height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """A picture, (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
