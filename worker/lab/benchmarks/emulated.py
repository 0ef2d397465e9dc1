"""Stand-ins for a trained model in benchmarks: random weights, and emulated patch logits.

The cost of a forward does not depend on the weights, so they may be random. The cost of what follows depends on the
masks, so the patch logits of random weights are replaced by those that a model with usual errors would predict for a
drawn image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.drawn_world.scenes import draw_scene
from worker.lab.drawn_world.world import random_thing
from worker.lab.evaluation.photographs import Photograph, emulate_evidence
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, Method

PRESENT = 5
"""Things in a drawn image, and labels that it shows."""

TINY = "tiny"
_TINY_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_NOISE = 0.15  # of area shares: bilinear upsampling then has mIoU 0.8, see `worker.lab.evaluation.refine`
_THING = 0.5  # unit of the drawn things, as a share of the short side


@dataclass(frozen=True)
class EmulatedHead:
    """A head that returns given (n + 1, h, w) float32 logits for any scene, coarse as patch scores are."""

    patch_logits: Tensor
    refinement: ClassVar[Method] = ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        """Return the given logits."""
        return ClassScores.from_logits(self.patch_logits)


@dataclass(frozen=True)
class EmulatedPicture:
    """A drawn image with five things, a vocabulary, and a head that emulates predictions for it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        vocabulary: brush labels; the image shows the first five.
        head: returns the emulated patch logits.
        truth: (H, W) int64, label of each pixel; their number is the background.
    """

    image: NDArray[np.uint8]
    vocabulary: Vocabulary
    head: EmulatedHead
    truth: NDArray[np.int64]


@dataclass(frozen=True)
class Drawing:
    """A drawn image with five things.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        things: (H, W) int32, number of the thing at each pixel; 0 = none.
    """

    image: NDArray[np.uint8]
    things: NDArray[np.int32]


def draw(height: int, width: int) -> Drawing:
    """Draw five things of the drawn world; the same size gives the same image."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        things = [random_thing(rng, "any") for _ in range(PRESENT)]
        scene = draw_scene(rng, (height, width), things, unit=_THING * min(height, width))
        if len(scene.objects) == PRESENT:
            return Drawing(scene.image, scene.instances)
    raise RuntimeError(f"five things do not fit into {width} x {height} pixels")


def emulate(drawing: Drawing, labels: int, device: object = "cpu") -> EmulatedPicture:
    """Emulate a model's predictions of `labels` labels, at least five, for a drawn image."""
    things = drawing.things.astype(np.int64)
    truth = np.where(things > 0, things - 1, labels)
    photo = Photograph("drawn", drawing.image, truth, tuple(range(labels + 1)))
    logits = emulate_evidence(photo, seed=0).logits(_NOISE)
    words = tuple(
        Label(f"thing {k}", (f"thing {k}",), control="brush", to_name="image", image_value="$image", output="brush")
        for k in range(labels)
    )
    return EmulatedPicture(drawing.image, Vocabulary(words), EmulatedHead(logits.to(device)), truth)  # type: ignore[call-overload]


def random_weights(folder: Path, architecture: str = "ViT-B-16") -> str:
    """Write a checkpoint with random weights of an open_clip architecture, or of a tiny one (`TINY`).

    Returns:
        the MODEL setting that names the checkpoint.
    """
    torch.manual_seed(0)
    if architecture == TINY:
        torch.save(open_clip.CLIP(**_TINY_CONFIG).state_dict(), folder / "open_clip_pytorch_model.bin")
        config = {"model_cfg": _TINY_CONFIG, "preprocess_cfg": _PREPROCESS}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        return f"local-dir:{folder}"
    path = folder / "random.pt"
    torch.save(open_clip.create_model(architecture, pretrained=None, load_weights=False).state_dict(), path)
    return f"{architecture}:{path}"
