"""Pictures -> patch features, words -> embeddings, in the space an open_clip model gives both.

The costly half of segmenting: an image is embedded once, any vocabulary is compared with it later. It must not know
about labels, masks or Label Studio.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from worker.segmentation.checkpoints import load_model
from worker.segmentation.towers import read_tower

_LONGEST_ASPECT = 4.0
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class ImageEmbedding:
    """What the model saw in one image.

    Attributes:
        features: (h, w, D) float32, unit length along D, one per patch, rows from the top.
        size: (H, W) of the image they describe, pixels.
    """

    features: Tensor
    size: tuple[int, int]


class Encoder:
    """Holds one open_clip model on one device. Embedding is deterministic and does not change the object.

    Args:
        model: the MODEL setting; see `worker.segmentation.checkpoints.load_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        short_side: pixels of the short side at which images enter; 0 = twice the native size.

    Raises:
        ModelUnavailable: no such model, weights missing, or an image tower that cannot be read patch by patch.
    """

    def __init__(self, model: str, *, device: str = "auto", short_side: int = 0) -> None:
        self.name = model
        self.device = _pick_device(device, model)
        network, self._tokenizer = load_model(model)
        self._model = network.to(self.device)
        self._tower = read_tower(self._model.visual, model)
        preprocess = open_clip.get_model_preprocess_cfg(self._model)
        self._mean = torch.tensor(preprocess["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"], device=self.device).view(1, 3, 1, 1)
        self.patch, self.native_size = self._tower.patch, self._tower.native_size
        self.short_side = short_side or 2 * self.native_size
        embedding = self._model.token_embedding if hasattr(self._model, "token_embedding") else None
        self._untrained = (embedding.weight == 0).all(dim=1).cpu() if embedding is not None else None

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that tell these weights from others of the same name, by the first values of each parameter."""
        told = sha256()
        for name, values in self._model.state_dict().items():
            told.update(f"{name}{tuple(values.shape)}".encode())
            told.update(values.detach().flatten()[:64].cpu().double().numpy().tobytes())
        return told.hexdigest()[:12]

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines with."""
        return float(self._model.logit_scale.exp())

    @property
    def logit_bias(self) -> float | None:
        """What a model trained with the sigmoid loss adds, so that 0 is its own threshold; None for all others."""
        bias = getattr(self._model, "logit_bias", None)
        return None if bias is None else float(bias)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Embed images of any sizes; those that enter at the same size share a forward.

        Args:
            images: (H, W, 3) uint8 RGB each.
        """
        grids = [self._entry_grid(image.shape[0], image.shape[1]) for image in images]
        found: dict[int, ImageEmbedding] = {}
        for grid in dict.fromkeys(grids):
            rows = [index for index, other in enumerate(grids) if other == grid]
            pixels = torch.stack([self._enter(images[index], grid) for index in rows])
            features = F.normalize(self._tower(self._normalise(pixels)).float(), dim=-1)  # (B, h, w, D)
            for index, feature in zip(rows, features, strict=True):
                found[index] = ImageEmbedding(feature, (images[index].shape[0], images[index].shape[1]))
        return [found[index] for index in range(len(images))]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as they are; (n, D) float32 of unit length."""
        parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        embedded = [self._model.encode_text(self._tokenizer(list(part)).to(self.device)) for part in parts]
        return F.normalize(torch.cat(embedded).float(), dim=-1)

    def unknown_words(self, text: str) -> list[str]:
        """Words the model was never trained on: their token rows are all zero (see `worker.builtin`)."""
        if self._untrained is None or not bool(self._untrained[1:].any()):
            return []
        words = re.findall(r"[^\W_]+", text)
        return [word for word in words if any(bool(self._untrained[token]) for token in self._tokenizer.encode(word))]

    def _entry_grid(self, height: int, width: int) -> tuple[int, int]:
        short = max(1.0, self.short_side / self.patch)
        aspect = min(_LONGEST_ASPECT, max(height, width) / min(height, width))
        long = max(1, round(short * aspect))
        return (round(short), long) if height <= width else (long, round(short))

    def _enter(self, image: NDArray[np.uint8], grid: tuple[int, int]) -> Tensor:
        height, width = grid[0] * self.patch, grid[1] * self.patch
        # The filter the models were trained with; reducing_gap keeps 100-megapixel images cheap.
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.device).float() / 255 - self._mean) / self._std


def _pick_device(device: str, model: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = "Set ZEROMASK_DEVICE=cpu or auto."
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ModelUnavailable(f"model {model}", f"there is no device named {device!r}", remedy) from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(f"model {model}", f"there is no {device} on this machine", remedy)
    return found
