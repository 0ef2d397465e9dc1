"""Dense features of a self-supervised ViT (DINO), which tell what belongs together.

Its last block's keys are what SAZS and Deep Spectral Methods make their graph of; its final tokens are what ProxyCLIP
lets CLIP's values follow. No weights come with the project. The tower is any ViT of timm, which open_clip brings along.
It must not know about text or classes.
"""

from __future__ import annotations

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


class KeyTower:
    """Holds one ViT of timm.

    Args:
        tower: a name of timm's (`vit_small_patch16_224.dino`; its weights are fetched), or `name:file` with a file of
            weights (.safetensors, or what `torch.save(model.state_dict(), FILE)` writes).
        device: where it computes.

    Raises:
        ModelUnavailable: timm has no ViT of that name, or its weights are missing or of another architecture.
    """

    def __init__(self, tower: str, *, device: torch.device | str = "cpu") -> None:
        self.name = tower
        name, _, file = tower.partition(":")
        try:
            model = timm.create_model(name, pretrained=not file, num_classes=0, dynamic_img_size=True)
            if file:
                model.load_state_dict(_weights(Path(file).expanduser()), strict=True)
            self._attention = model.blocks[-1].attn
            self._size = int(self._attention.qkv.out_features) // 3
        except LOADING_ERRORS as error:
            remedy = "Name a ViT of timm, for example vit_small_patch16_224.dino, or NAME:FILE with its weights."
            raise ModelUnavailable(f"tower {tower}", f"cannot be loaded ({loading_problem(error)})", remedy) from error
        self._model: Any = model.eval().requires_grad_(False).to(device)
        self.patch = int(model.patch_embed.patch_size[0])
        config = resolve_model_data_config(model)
        self._mean = torch.tensor(config["mean"], device=device).view(3, 1, 1)
        self._std = torch.tensor(config["std"], device=device).view(3, 1, 1)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Read the final tokens of pictures of one size.

        Args:
            pixels: (B, 3, H, W) uint8 RGB; H and W multiples of the patch.

        Returns:
            (B, H / patch, W / patch, D) float32, of unit length along D, rows from the top, on the tower's device.
        """
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = self._model.forward_features(self._normalised(pixels))[:, self._model.num_prefix_tokens :]
        return F.normalize(tokens.float(), dim=-1).reshape(len(pixels), *grid, -1)

    @torch.inference_mode()
    def keys(self, image: NDArray[np.uint8]) -> Tensor:
        """Read the last block's keys, all heads side by side, each side at the multiple of the patch nearest to it.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (h, w, D) float32, one per patch, rows from the top.
        """
        rows, columns = (max(1, round(side / self.patch)) for side in image.shape[:2])
        sized = Image.fromarray(image).resize((columns * self.patch, rows * self.patch), Image.Resampling.BICUBIC)
        pixels = self._normalised(torch.from_numpy(np.array(sized)).permute(2, 0, 1)[None])
        seen: list[Tensor] = []
        hook = self._attention.qkv.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            self._model.forward_features(pixels)
        finally:
            hook.remove()
        tokens = seen[0][0, self._model.num_prefix_tokens :, self._size : 2 * self._size]
        return tokens.reshape(rows, columns, self._size).clone()

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self._mean.device).float() / 255 - self._mean) / self._std


def _weights(path: Path) -> dict[str, Tensor]:
    """The weights in a file, without those of a classifier."""
    packed = path.suffix == ".safetensors"
    state = load_file(path) if packed else torch.load(path, map_location="cpu", weights_only=True)
    return {name: value for name, value in state.items() if not name.startswith(("head.", "fc_norm."))}
