"""The authors' checkpoints of ZegCLIP, read into the network here.

A checkpoint is what mmcv writes: `state_dict` with the whole segmentor, the frozen CLIP among it. What is trained is
taken; what is frozen is compared with the loaded model, because no adapter holds frozen weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.recipes.dense.networks import DenseNetwork
from worker.learning.recipes.dense.zegclip_presets import ZEGCLIP_PRESETS, ZegclipPreset
from worker.segmentation.encoders.token_towers import bilinear_positions

_BACKBONE, _HEAD, _LAYERS = "backbone.", "decode_head.", "decode_head.decoder_1.layers."
_POSITIONS = "positional_embedding"
_PARTS = {
    "prompts.project": "backbone.prompt_proj", "prompts.norm": "backbone.prompt_norm", "query": "decode_head.q_proj",
}  # fmt: skip
_LAYER_PARTS = {
    "query": "multihead_attn.q", "key": "multihead_attn.k", "value": "multihead_attn.v", "out": "multihead_attn.proj",
    "norm": "norm2", "widen": "linear1", "narrow": "linear2", "last_norm": "norm3",
}  # fmt: skip
_CLOSE = 2e-3  # CLIP's weights were published in half precision
_INTACT = "Check that the file is whole; store it with torch.save({'state_dict': state}, FILE) if it holds more."
_OTHER_MODEL = "Load the model it was trained on: MODEL=ViT-B-16-quickgelu/openai for the published ones."


@dataclass(frozen=True)
class ReleasedWeights:
    """A checkpoint of the authors.

    Attributes:
        path: of the file.
        width: D of the label vectors.
        preset: of the network.
        tensors: everything in it, by the authors' names.
    """

    path: Path
    width: int
    preset: ZegclipPreset
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> ReleasedWeights:
        """Read a file.

        Raises:
            LearningError: it cannot be read, or is no checkpoint of ZegCLIP.
        """
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            state = found.get("state_dict", found)
            tensors = {str(name).removeprefix("module."): value.float() for name, value in state.items()}
            width = int(tensors[f"{_HEAD}q_proj.weight"].shape[0])
            _, prompts, _ = tensors["backbone.deep_prompt_embeddings"].shape
            side = round((len(tensors[f"{_BACKBONE}{_POSITIONS}"]) - 1) ** 0.5)
            pixels = side * int(tensors[f"{_BACKBONE}conv1.weight"].shape[-1])
        except (OSError, UnpicklingError, RuntimeError, EOFError) as error:
            problem = f"cannot be read ({' '.join(str(error).split())[:200]})"
            raise LearningError(f"checkpoint {path}", problem, _INTACT) from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            problem = f"is none of ZegCLIP ({type(error).__name__}: {str(error)[:200]})"
            raise LearningError(f"checkpoint {path}", problem, _INTACT) from error
        layers = {name.removeprefix(_LAYERS).split(".")[0] for name in tensors if name.startswith(_LAYERS)}
        if not layers or not prompts:
            problem = f"is none of ZegCLIP: it has {len(layers)} layers and {prompts} prompts"
            raise LearningError(f"checkpoint {path}", problem, _INTACT)
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise LearningError(f"checkpoint {path}", "holds weights that are no numbers", _INTACT)
        preset = replace(ZEGCLIP_PRESETS["voc"], prompts=prompts, layers=len(layers), short_side=pixels, window=pixels,
                         released_grid=side)  # fmt: skip
        return cls(path, width, preset, tensors)

    def check(self, visual: Any, width: int) -> None:
        """Compare it with the loaded model.

        Args:
            visual: the image tower.
            width: of the label vectors.

        Raises:
            LearningError: it was trained on another.
        """
        if width != self.width:
            problem = f"is of width {self.width}, and the label vectors are of width {width}"
            raise LearningError(f"checkpoint {self.path}", problem, _OTHER_MODEL)
        for name, value in visual.state_dict().items():
            theirs = self.tensors.get(f"{_BACKBONE}{name}")
            ours = bilinear_positions(value, (self.preset.released_grid,) * 2) if name == _POSITIONS else value
            if theirs is None or theirs.shape != ours.shape or not bool((theirs - ours.cpu()).abs().max() < _CLOSE):
                problem = f"was trained on another image tower than the one loaded: {name} is not the same"
                raise LearningError(f"checkpoint {self.path}", problem, _OTHER_MODEL)

    def load_into(self, network: DenseNetwork) -> None:
        """Give a network of the preset what was trained.

        Raises:
            LearningError: something is missing, or of another shape.
        """
        try:
            first, deep = (self.tensors[f"{_BACKBONE}{name}"] for name in
                           ("prompt_embeddings", "deep_prompt_embeddings"))  # fmt: skip
            state = {"prompts.tokens": torch.cat([first, deep])}
            for name in network.state_dict().keys() - state.keys():
                state[name] = self.tensors[_name_of(name)]
            network.load_state_dict(state, strict=True)
        except (KeyError, RuntimeError) as error:
            problem = f"does not fit the network ({' '.join(str(error).split())[:200]})"
            raise LearningError(f"checkpoint {self.path}", problem, _INTACT) from error


def _name_of(name: str) -> str:
    """The authors' name of a tensor: "decoder.layers.0.query.weight" is "...multihead_attn.q.weight"."""
    part, _, kind = name.rpartition(".")
    if part in _PARTS:
        return f"{_PARTS[part]}.{kind}"
    _, _, layer, inner = part.split(".")
    return f"{_LAYERS}{layer}.{_LAYER_PARTS[inner]}.{kind}"
