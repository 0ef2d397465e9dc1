"""Models that have learned nothing, for measuring what costs the same whatever was learned."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch

TINY = "tiny"
_TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def random_weights(folder: Path, architecture: str = "ViT-B-16") -> str:
    """Write a checkpoint of an open_clip architecture, or of one that is as good as nothing (`TINY`).

    Returns:
        the MODEL setting that names it.
    """
    torch.manual_seed(0)
    if architecture == TINY:
        torch.save(open_clip.CLIP(**_TINY_CONFIG).state_dict(), folder / "open_clip_pytorch_model.bin")
        told = {"model_cfg": _TINY_CONFIG, "preprocess_cfg": _PREPROCESS}
        (folder / "open_clip_config.json").write_text(json.dumps(told))
        return f"local-dir:{folder}"
    path = folder / "random.pt"
    torch.save(open_clip.create_model(architecture, pretrained=None, load_weights=False).state_dict(), path)
    return f"{architecture}:{path}"
