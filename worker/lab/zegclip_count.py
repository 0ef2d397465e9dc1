"""How large ZegCLIP is and what a window costs, counted on the real network without any weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from plugin_config.errors import LearningError
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.learning.recipes.dense.zegclip_presets import PAPER_LABELS, PAPER_SIDE, ZEGCLIP_PRESETS
from worker.segmentation.encoders.towers import Tower, TowerConfig, TowerMaps

_VIT_B16 = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "heads": 12, "mlp_ratio": 4.0,
            "output_dim": 512}  # fmt: skip


@dataclass(frozen=True)
class NetworkCount:
    """What was counted.

    Attributes:
        recipe, preset: which network.
        labels: scored in the window.
        pixels: of the side of the window.
        parameters: how many numbers are trained or, though no mask depends on them, held, as the paper counts them.
        live_parameters: those of them that masks depend on.
        gmacs: billions of multiplications with additions of one window, the text tower not counted.
    """

    recipe: str
    preset: str
    labels: int
    pixels: int
    parameters: int
    live_parameters: int
    gmacs: float

    def as_json(self) -> dict[str, Any]:
        """The line that `zeromask train --count --json` prints."""
        return {**asdict(self), "gmacs": round(self.gmacs, 1)}


def count_zegclip(preset: str) -> NetworkCount:
    """Count the network of a preset of the paper, on the ViT-B/16 of CLIP.

    Args:
        preset: voc or coco.

    Raises:
        LearningError: there is no such preset.
    """
    if preset not in ZEGCLIP_PRESETS:
        known = ", ".join(ZEGCLIP_PRESETS)
        raise LearningError(f"preset {preset!r}", "is of no fixed size to count", f"Choose one of {known}.")
    network, labels = _network(preset, counting=True), PAPER_LABELS[preset]
    parameters, live = _trained(network), _trained(_network(preset, counting=False))
    network.requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        network.eval()(torch.zeros(1, 3, PAPER_SIDE, PAPER_SIDE), torch.zeros(labels, network.width))
    operations = counter.get_total_flops()
    return NetworkCount("zegclip", preset, labels, PAPER_SIDE, parameters, live, operations / 2e9)


def _network(preset: str, *, counting: bool) -> ZegclipNetwork:
    """A network of shapes alone."""
    with torch.device("meta"):
        visual = VisionTransformer(**_VIT_B16).requires_grad_(False)
        tower = Tower(TowerConfig(), visual, _maps, mean=torch.zeros(3), std=torch.ones(3), native_size=224,
                      multiple=16)  # fmt: skip
        return ZegclipNetwork(replace(ZEGCLIP_PRESETS[preset], counting=counting), tower, 512)


def _maps(visual: Any, pixels: Tensor) -> TowerMaps:
    return TowerMaps((visual.conv1(pixels),))


def _trained(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters() if one.requires_grad)
