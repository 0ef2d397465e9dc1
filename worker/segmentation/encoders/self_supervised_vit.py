"""Dense features of a self-supervised ViT such as DINO, the affinity tower of ZEROMASK_AFFINITY_TOWER.

The keys of its last block are the features of the graph in SAZS and in Deep Spectral Methods (Melas-Kyriazi et al.,
CVPR 2022); its final tokens are the proxies that weight CLIP's values in ProxyCLIP (Lan et al., ECCV 2024), and inputs
of the recipe `quick`. No weights come with the project; any ViT of timm, a dependency of open_clip, will do.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.checkpoints import LOADING_ERRORS, loading_problem
from worker.segmentation.encoders.fingerprints import weights_fingerprint


class SelfSupervisedViT:
    """Holds one ViT of timm.

    Args:
        name: a timm model name (`vit_small_patch16_224.dino`, whose weights are downloaded), or `NAME:FILE` with a file
            of weights (.safetensors, or what `torch.save(model.state_dict(), FILE)` writes).
        device: where it computes.

    Attributes:
        name: as given.
        architecture: the timm model name.
        patch: pixels from one feature to the next.
        trained_side: features along a side of the images that it was trained on.

    Raises:
        ModelUnavailable: timm has no ViT of that name, or its weights are missing or of another architecture.
    """

    def __init__(self, name: str, *, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.architecture, _, file = name.partition(":")
        try:
            model = timm.create_model(self.architecture, pretrained=not file, num_classes=0, dynamic_img_size=True)
            if file:
                model.load_state_dict(load_tower_weights(Path(file).expanduser()), strict=True)
            self._attention = model.blocks[-1].attn
            self._width = int(self._attention.qkv.out_features) // 3
            self.trained_side = int(max(model.patch_embed.grid_size))
        except LOADING_ERRORS as error:
            remedy = "Name a ViT of timm, for example vit_small_patch16_224.dino, or NAME:FILE with its weights."
            raise ModelUnavailable(f"tower {name}", f"cannot be loaded ({loading_problem(error)})", remedy) from error
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self.patch = int(model.patch_embed.patch_size[0])
        config = resolve_model_data_config(model)
        self._mean = torch.tensor(config["mean"], device=device).view(3, 1, 1)
        self._std = torch.tensor(config["std"], device=device).view(3, 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that identify architecture and weights, wherever they come from."""
        return weights_fingerprint(self._model, self.architecture.partition(".")[0])

    def grid(self, patches: tuple[int, int]) -> tuple[int, int]:
        """Choose the grid of its features for an image that enters the model in one pass.

        Args:
            patches: (h, w) of the model.

        Returns:
            (h', w') of the same shape, with at least as many along the long side as the images it was trained on have:
            below that its features blur.
        """
        scale = max(1.0, self.trained_side / max(patches))
        return max(1, round(patches[0] * scale)), max(1, round(patches[1] * scale))

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the final tokens of images of one size.

        Args:
            pixels: (B, 3, H, W) uint8 RGB; H and W multiples of `patch`.

        Returns:
            (B, H / patch, W / patch, D) float32, unit length along D, rows from the top, on the model's device.
        """
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = self._model.forward_features(self._normalised(pixels))[:, self._model.num_prefix_tokens :]
        return F.normalize(tokens.float(), dim=-1).reshape(len(pixels), *grid, -1)

    @torch.inference_mode()
    def keys(self, image: NDArray[np.uint8]) -> Tensor:
        """Compute the keys of the last block, heads concatenated; each side is resized to the nearest patch multiple.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, D) float32, one per patch, rows from the top.
        """
        rows, columns = (max(1, round(side / self.patch)) for side in image.shape[:2])
        resized = Image.fromarray(image).resize((columns * self.patch, rows * self.patch), Image.Resampling.BICUBIC)
        pixels = self._normalised(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])
        captured: list[Tensor] = []
        hook = self._attention.qkv.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
        try:
            self._model.forward_features(pixels)
        finally:
            hook.remove()
        tokens = captured[0][0, self._model.num_prefix_tokens :, self._width : 2 * self._width]
        return tokens.reshape(rows, columns, self._width).clone()

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self._mean.device).float() / 255 - self._mean) / self._std


def load_tower_weights(path: Path) -> dict[str, Tensor]:
    """Load the weights in a file, without those of a classification head."""
    is_safetensors = path.suffix == ".safetensors"
    state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    return {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
