"""Images -> patch features and texts -> embeddings in the common space of an open_clip model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from plugin_config.settings import Settings
from worker.segmentation.encoders.acceleration import AUTO, check_precision, compiled, pick_precision
from worker.segmentation.encoders.backbones import Backbone, dense_backbone
from worker.segmentation.encoders.checkpoints import load_model
from worker.segmentation.encoders.fingerprints import encoder_fingerprint, text_fingerprint
from worker.segmentation.encoders.readouts import Readout
from worker.segmentation.encoders.self_supervised_vit import SelfSupervisedViT
from worker.segmentation.encoders.text_tower import encode_tokens
from worker.segmentation.encoders.tiling import Tiling, cut_windows, merge_windows, plan_tiling

_TEXT_BATCH = 256
_WINDOW_BATCH = 8
_CACHED_WORDS = 20_000
_PROBE_BATCH = {"cuda": 8, "cpu": 1}  # images to measure a precision with: enough to keep the device busy


@dataclass(frozen=True)
class ImageEmbedding:
    """Patch features of one image.

    Attributes:
        features: (h, w, D) float32, unit length along D, one per patch, rows from the top.
        size: (H, W) of the image, pixels.
        affinity: (h', w', P) float32 of unit length from a self-supervised ViT, on a grid of the same image that may be
            finer; None without one.
    """

    features: Tensor
    size: tuple[int, int]
    affinity: Tensor | None = None


class Encoder:
    """Holds one open_clip model on one device, for one thread at a time. Equal inputs give equal embeddings.

    Args:
        model: the MODEL setting; see `worker.segmentation.encoders.checkpoints.load_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        short_side: pixels of the short side at which images enter; 0 = twice the native size.
        readout: "auto" or a name in `worker.segmentation.encoders.readouts.READOUTS`.
        affinity_tower: name of a `SelfSupervisedViT`; empty = none.
        precision: "auto", "fp32", "bf16" or "fp16", of the image tower; "auto" is measured at the first image.
        compile_backbone: whether the image tower goes through torch.compile.
        windows: most windows for an image with more pixels than the entry size; 0 = one pass.
        harmonised: whether windows are made to agree on one graph; only ablations turn it off.

    Attributes:
        name: the MODEL setting.
        device: where it computes.
        patch: pixels from one feature to the next.
        native_size: side in pixels of the squares that the image tower was trained on.
        short_side: pixels of the short side at which images enter.

    Raises:
        ModelUnavailable: there is no such model, readout, device or precision, the weights are missing, the image tower
            is of no supported family, or torch cannot compile on this machine.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        short_side: int = 0,
        readout: str = AUTO,
        affinity_tower: str = "",
        precision: str = AUTO,
        compile_backbone: bool = False,
        windows: int = 0,
        harmonised: bool = True,
    ) -> None:
        self.name = model
        self.device = _pick_device(device, model)
        self._precision_setting = check_precision(precision, model)
        self._precision: torch.dtype | None = None
        network, self._tokenizer = load_model(model)
        self._model = network.to(self.device)
        self._affinity = SelfSupervisedViT(affinity_tower, device=self.device) if affinity_tower else None
        self._backbone = dense_backbone(
            self._model.visual, model, readout=readout, proxies=self._affinity is not None
        )
        self._windows, self._harmonised = windows, harmonised
        preprocess = open_clip.get_model_preprocess_cfg(self._model)
        self._mean = torch.tensor(preprocess["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"], device=self.device).view(1, 3, 1, 1)
        self.patch, self.native_size = self._backbone.patch, self._backbone.native_size
        self.short_side = short_side or 2 * self.native_size
        embedding = self._model.token_embedding if hasattr(self._model, "token_embedding") else None
        self._is_unknown = lru_cache(_CACHED_WORDS)(self._has_untrained_token)
        self._untrained = _untrained_tokens(embedding.weight) if embedding is not None else None
        if compile_backbone:
            self._compile()

    @classmethod
    def from_settings(cls, settings: Settings, *, model: str = "") -> Encoder:
        """Build the encoder that the settings describe; `model` replaces theirs."""
        return cls(
            model or settings.model,
            device=settings.device,
            short_side=settings.short_side,
            readout=settings.readout,
            affinity_tower=settings.affinity_tower,
            precision=settings.precision,
            compile_backbone=settings.compile,
            windows=settings.windows,
        )

    @property
    def visual(self) -> Any:
        """The image tower itself, frozen."""
        return self._model.visual

    @property
    def affinity_tower(self) -> SelfSupervisedViT | None:
        """The self-supervised ViT beside it; None without one."""
        return self._affinity

    @property
    def backbone(self) -> Backbone:
        """The image tower read patch by patch."""
        return self._backbone

    @property
    def pixel_mean(self) -> Tensor:
        """(1, 3, 1, 1) float32 mean of the pixels in [0, 1] that the image tower was trained with."""
        return self._mean

    @property
    def pixel_std(self) -> Tensor:
        """(1, 3, 1, 1) float32 standard deviation of the same."""
        return self._std

    @property
    def readout(self) -> Readout:
        """How patch features are read out."""
        return self._backbone.readout

    @property
    def precision(self) -> torch.dtype:
        """What the image tower computes in; "auto" is measured at first use."""
        if self._precision is None:
            self._precision = pick_precision(self._precision_setting, self._run_probe, self._probe_pixels())
        return self._precision

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that identify the weights and what else decides the patch features; see `fingerprints`."""
        return encoder_fingerprint(
            self._model,
            readout=self.readout.name,
            affinity_tower=self._affinity.fingerprint if self._affinity is not None else "",
            windows=self._windows,
            short_side=self.short_side,
        )

    def text_fingerprint(self) -> str:
        """64 hex digits that identify the text half of the model; see `fingerprints`."""
        return text_fingerprint(self._model)

    @property
    def logit_scale(self) -> float:
        """The model's factor from cosines to logits."""
        return float(self._model.logit_scale.exp())

    @property
    def logit_bias(self) -> float | None:
        """What a model trained with the sigmoid loss adds to its logits, so that 0 is the threshold; else None."""
        bias = getattr(self._model, "logit_bias", None)
        return None if bias is None else float(bias)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Embed images of any sizes; images and windows of one size share a forward, of one image where it is stitched.

        Args:
            images: (H, W, 3) uint8 RGB each.

        Returns:
            Their embeddings, in order.
        """
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        tilings = [plan_tiling(size, self.short_side, self.patch, max_windows=self._windows) for size in sizes]
        found: dict[int, ImageEmbedding] = {}
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, tiling in enumerate(tilings):
            alone = index if self._is_stitched(tiling) else None
            groups.setdefault((tiling.window, self._affinity_grid(tiling), alone), []).append(index)
        for group in groups.values():
            inputs = [(images[index], tilings[index]) for index in group]
            features, affinities = self._embed_windows(inputs, self._affinity_grid(tilings[group[0]]))
            for index in group:
                count = len(tilings[index].corners)
                harmonised = self._harmonised and not self.readout.stitched  # what is stitched has no seam
                merged, affinity = merge_windows(
                    features[:count], affinities[:count], tilings[index], harmonised=harmonised
                )
                features, affinities = features[count:], affinities[count:]
                found[index] = ImageEmbedding(merged, sizes[index], affinity)
        return [found[index] for index in range(len(images))]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts without templates: (n, D) float32 of unit length."""
        batches = [texts[start : start + _TEXT_BATCH] for start in range(0, len(texts), _TEXT_BATCH)]
        embedded = [encode_tokens(self._model, self._tokenizer(list(batch)).to(self.device)) for batch in batches]
        return F.normalize(torch.cat(embedded).float(), dim=-1)

    def unknown_words(self, text: str) -> list[str]:
        """List the words that the model was not trained on, whose token rows are all zero (see `worker.builtin`)."""
        if self._untrained is None:
            return []
        return [word for word in _words(text) if self._is_unknown(word)]

    def has_known_words(self, text: str, *, ignoring: frozenset[str] = frozenset()) -> bool:
        """Whether the model was trained on any word of a text; also true for a text without words.

        Args:
            text: the text.
            ignoring: words in lower case that do not count.
        """
        words = [word for word in _words(text) if word.lower() not in ignoring]
        return not words or len(self.unknown_words(" ".join(words))) < len(words)

    def _has_untrained_token(self, word: str) -> bool:
        return self._untrained is not None and bool(self._untrained[self._tokenizer.encode(word)].any())

    def _affinity_grid(self, tiling: Tiling) -> tuple[int, int] | None:
        """(h', w') features of the self-supervised ViT for each window; None without one.

        Several windows make the image large enough for it, and their features are merged on the grid of the patches.
        """
        if self._affinity is None:
            return None
        return self._affinity.grid(tiling.window) if len(tiling.corners) == 1 else tiling.window

    def _embed_windows(
        self, images: Sequence[tuple[NDArray[np.uint8], Tiling]], affinity_grid: tuple[int, int] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Compute unit features of all windows of images whose windows are of one size.

        Args:
            images: with their tilings.
            affinity_grid: see `_affinity_grid`.

        Returns:
            (h, w, D) float32 features of each window, and (h', w', P) float32 features of the self-supervised ViT, an
            empty list without one.
        """
        windows = affinity_windows = cut_windows(images, self.patch)
        if self._affinity is not None and affinity_grid is not None:
            finer = [(image, Tiling.single_pass(affinity_grid)) if len(tiling.corners) == 1 else (image, tiling)
                     for image, tiling in images]  # fmt: skip
            affinity_windows = cut_windows(finer, self._affinity.patch)
        tiling = images[0][1]
        together = tiling if self._is_stitched(tiling) else None
        deep: list[Tensor] = []
        features: list[Tensor] = []
        affinities: list[Tensor] = []
        batch_size = max(len(images), _WINDOW_BATCH)
        for start in range(0, len(windows), batch_size):
            batch = slice(start, start + batch_size)
            if self._affinity is not None:
                affinities.extend(self._affinity.features(torch.stack(affinity_windows[batch])))
            deep.append(self._forward(self._backbone.deepen, self._normalise(torch.stack(windows[batch]))))
            if together is None or len(deep) * batch_size >= len(windows):
                proxies = None
                if affinities and self.readout.proxy is not None:
                    proxies = _on_grid(torch.stack(affinities[-sum(map(len, deep)) :]), tiling.window)
                read = self._forward(self._backbone.read, torch.cat(deep), tiling.window, proxies, together)
                features.extend(F.normalize(read.float(), dim=-1))
                deep.clear()
        return features, affinities

    def _is_stitched(self, tiling: Tiling) -> bool:
        """Whether the windows of an image are read at once."""
        return self.readout.stitched and len(tiling.corners) > 1

    def _forward(self, step: Callable[..., Tensor], *inputs: object) -> Tensor:
        """Run a step of the backbone in the chosen precision."""
        precision = self.precision
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            return step(*inputs)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.device).float() / 255 - self._mean) / self._std

    def _probe_pixels(self) -> Tensor:
        """(B, 3, side, side) float32 noise of the entry size, to measure with."""
        side = max(1, round(self.short_side / self.patch)) * self.patch
        shape = (_PROBE_BATCH.get(self.device.type, 1), 3, side, side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def _run_probe(self, pixels: Tensor) -> Tensor:
        """Run the image tower by itself, with constant proxies where it needs any."""
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        proxies = torch.ones(len(pixels), *grid, 1, device=self.device) if self._affinity is not None else None
        return self._backbone(pixels, proxies)

    @torch.inference_mode()
    def _compile(self) -> None:
        """Compile now, so that a machine without a compiler fails at the start."""
        self._backbone.run = compiled(self._backbone.run)
        try:
            self._run_probe(self._probe_pixels()[:1])
        except RuntimeError as error:
            problem = f"torch cannot compile it here ({' '.join(str(error).split())[:200]})"
            raise ModelUnavailable(f"model {self.name}", problem, "Install g++, or set ZEROMASK_COMPILE=0.") from error


def _on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate unit features (B, h', w', P) on another grid, as ProxyCLIP does: (B, h, w, P) of unit length."""
    if features.shape[1:3] == grid:
        return features
    channels = features.permute(0, 3, 1, 2)
    found = F.interpolate(channels, grid, mode="bilinear", align_corners=False, antialias=True)
    return F.normalize(found.permute(0, 2, 3, 1), dim=-1)


def _untrained_tokens(weights: Tensor) -> NDArray[np.bool_] | None:
    """(n,) bool: tokens whose rows of (n, width) are all zero; None if that is at most the first, the padding."""
    untrained: NDArray[np.bool_] = (weights == 0).all(dim=1).cpu().numpy()
    return untrained if untrained[1:].any() else None


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


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
