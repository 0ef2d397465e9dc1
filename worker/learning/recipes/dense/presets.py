"""Sizes of the dense networks: those of the papers, and small ones that train in a minute on a CPU.

A preset is data. Adapters store theirs, so that the network can be built again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, replace
from typing import Any, ClassVar, Protocol

from worker.learning.recipes.dense.decoders import DecoderConfig
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import ENCODER, TowerConfig

SMALL = "small"
"""Name of the preset for whatever tower there is; every paper has one of this name."""


class NetworkPreset(Protocol):
    """What the presets of all networks, which are frozen dataclasses, have in common; see `Preset`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def tower(self) -> TowerConfig:
        """The image tower, and where it is read."""
        ...

    @property
    def trains_tower(self) -> bool:
        """Whether the tower's weights are trained too."""
        ...

    @property
    def fine(self) -> bool:
        """Whether the logits follow outlines."""
        ...

    @property
    def short_side(self) -> int:
        """Pixels of the short side at which images enter; 0 = as they enter the loaded model."""
        ...


@dataclass(frozen=True)
class Preset:
    """Everything that decides the form of a network, apart from the width of the label vectors.

    Attributes:
        tower: the image tower, and where it is read.
        decoder: on top of it.
        trains_tower: whether the tower's weights are trained too, as the papers do.
        block: of LSeg's spatial regularisation, a name in `blocks.BLOCKS`; "" = none.
        block_depth: how often the block is applied.
        activation: between two of them, a name in `blocks.ACTIVATIONS`.
        fine: whether its logits follow outlines so closely that the outline stage only guides them to the pixels; see
            `worker.segmentation.heads.Head.refinement`.
        short_side: pixels of the short side at which images enter; 0 = as they enter the loaded model.
    """

    tower: TowerConfig
    decoder: DecoderConfig
    trains_tower: bool = True
    block: str = ""
    block_depth: int = 0
    activation: str = "lrelu"
    fine: bool = True
    short_side: int = 0


_VIT_B32 = TowerConfig("vit_base_patch32_384", (2, 5, 8, 11))
_VIT_L16 = TowerConfig("vit_large_patch16_384", (5, 11, 17, 23))

LSEG_PRESETS: Mapping[str, Preset] = {
    # Li et al., ICLR 2022: DPT with 256 features; images of 480 pixels.
    "vit_l16": Preset(_VIT_L16, DecoderConfig("dpt", (256, 512, 1024, 1024), (4, 2, 1, 0.5)), short_side=480),
    "vit_b32": Preset(_VIT_B32, DecoderConfig("dpt", (96, 192, 384, 768), (8, 4, 2, 1)), short_side=480),
    "rn101": Preset(TowerConfig("resnet101", (1, 2, 3, 4)), DecoderConfig("dpt"), short_side=480),
}
SAZS_PRESETS: Mapping[str, Preset] = {
    # Liu et al., CVPR 2023, as released: block 12 of a ViT-L alone, twice as fine; images of 512 pixels.
    "vit_l16": Preset(
        replace(_VIT_L16, hooks=(11,)), DecoderConfig("reassemble", (512,), (2,)), fine=False, short_side=512
    ),
    # The paper's drn_d_105 is in no dependency of this project. ResNet-101 with the last two stages dilated is the same
    # idea and stride, and close in depth. The released dropout is .95 on PASCAL and .9 on COCO.
    "drn": Preset(
        TowerConfig("resnet101", (4,), dilated=True), DecoderConfig("pyramid", features=512, dropout=0.95), fine=False,
        short_side=512,
    ),
}  # fmt: skip


def small_lseg(encoder: Encoder, tower: str = ENCODER) -> Preset:
    """LSeg on a frozen tower: a DPT of few levels and channels.

    Args:
        encoder: the loaded model.
        tower: name of the tower, as `TowerConfig` has it.
    """
    decoder = DecoderConfig("dpt", features=32, norm="group", final_upsampling=False, aligned=True)
    if _is_resnet(encoder, tower):
        return Preset(TowerConfig(hooks=(1, 4), dilated=True), decoder, trains_tower=False, fine=False)
    # The levels of a ViT have one stride; one of them becomes twice as fine.
    decoder = replace(decoder, features=64, channels=(64, 64, 64, 64), factors=(2, 1, 1, 1))
    return Preset(TowerConfig(tower), decoder, trains_tower=False, fine=False)


def small_sazs(encoder: Encoder, tower: str = ENCODER) -> Preset:
    """SAZS on a frozen tower: its deepest level, pooled as on the paper's DRN, with few channels."""
    decoder = DecoderConfig("pyramid", features=32, norm="group", aligned=True)
    chosen = TowerConfig(hooks=(4,), dilated=True) if _is_resnet(encoder, tower) else TowerConfig(tower)
    return Preset(chosen, decoder, trains_tower=False, fine=False)


def _is_resnet(encoder: Encoder, tower: str) -> bool:
    return tower == ENCODER and hasattr(encoder.visual, "layer4")


def preset_to_json(preset: NetworkPreset) -> dict[str, Any]:
    """The preset as JSON."""
    return asdict(preset)


def preset_from_json(stored: Mapping[str, Any]) -> Preset:
    """Read a preset again.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    fields = dict(stored)
    tower, decoder = dict(fields.pop("tower")), dict(fields.pop("decoder"))
    tower["hooks"] = tuple(int(k) for k in tower["hooks"])
    decoder["channels"] = tuple(int(k) for k in decoder["channels"])
    decoder["factors"] = tuple(float(k) for k in decoder["factors"])
    return Preset(tower=TowerConfig(**tower), decoder=DecoderConfig(**decoder), **fields)
