"""Pictures -> patch features, words -> embeddings, in the space an open_clip model gives both.

The costly half of segmenting: an image is embedded once, any vocabulary is compared with it later. It must not know
about labels, masks or Label Studio.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from hashlib import sha256

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from plugin_config.settings import Settings
from worker.segmentation.encoders.acceleration import AUTO, check_precision, compiled, pick_precision
from worker.segmentation.encoders.affinity_tower import KeyTower
from worker.segmentation.encoders.checkpoints import load_model
from worker.segmentation.encoders.readouts import Readout
from worker.segmentation.encoders.towers import read_tower
from worker.segmentation.encoders.views import ImageEmbedding, cut_views, join_views, place_views
from worker.segmentation.encoders.windows import Windows
from worker.segmentation.text.tower import encode_tokens, text_fingerprint

__all__ = ["Encoder", "ImageEmbedding"]

_TEXTS_AT_ONCE = 256
_VIEWS_AT_ONCE = 8
_WORDS_REMEMBERED = 20_000
_PROBES = {"cuda": 8, "cpu": 1}  # pictures to measure with: as many as keep the device busy


class Encoder:
    """Holds one open_clip model on one device, for one thread at a time. Embedding the same again gives the same.

    Args:
        model: the MODEL setting; see `worker.segmentation.encoders.checkpoints.load_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        short_side: pixels of the short side at which images enter; 0 = twice the native size.
        readout: "auto" or a name of `worker.segmentation.encoders.readouts.READOUTS`.
        affinity_tower: as `worker.segmentation.encoders.affinity_tower.KeyTower` takes it; empty = none.
        precision: "auto", "fp32", "bf16" or "fp16", of the image tower; "auto" is measured at the first image.
        compiles: whether the image tower goes through torch.compile.
        windows: most windows in which an image of more pixels than enter is read; 0 = one pass.
        harmonised: whether windows are made to agree on one graph; only ablations turn it off.

    Raises:
        ModelUnavailable: no such model, weights missing, an image tower that cannot be read patch by patch or not as
            told, no such precision, or nothing on this machine that compiles.
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
        compiles: bool = False,
        windows: int = 0,
        harmonised: bool = True,
    ) -> None:
        self.name = model
        self.device = _pick_device(device, model)
        self._wanted_precision = check_precision(precision, model)
        self._precision: torch.dtype | None = None
        network, self._tokenizer = load_model(model)
        self._model = network.to(self.device)
        self._affinity = KeyTower(affinity_tower, device=self.device) if affinity_tower else None
        self._tower = read_tower(self._model.visual, model, readout=readout, proxies=self._affinity is not None)
        self._windows, self._harmonised = windows, harmonised
        preprocess = open_clip.get_model_preprocess_cfg(self._model)
        self._mean = torch.tensor(preprocess["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"], device=self.device).view(1, 3, 1, 1)
        self.patch, self.native_size = self._tower.patch, self._tower.native_size
        self.short_side = short_side or 2 * self.native_size
        embedding = self._model.token_embedding if hasattr(self._model, "token_embedding") else None
        self._is_unknown = lru_cache(_WORDS_REMEMBERED)(self._has_untrained)
        self._untrained = _untrained_tokens(embedding.weight) if embedding is not None else None
        if compiles:
            self._compile()

    @classmethod
    def from_settings(cls, settings: Settings, *, model: str = "") -> Encoder:
        """The encoder that the settings ask for, or another model under the same settings."""
        return cls(
            model or settings.model,
            device=settings.device,
            short_side=settings.short_side,
            readout=settings.readout,
            affinity_tower=settings.affinity_tower,
            precision=settings.precision,
            compiles=settings.compile,
            windows=settings.windows,
        )

    @property
    def readout(self) -> Readout:
        """How patches are read."""
        return self._tower.readout

    @property
    def precision(self) -> torch.dtype:
        """What the image tower computes in; measured when it is first asked for."""
        if self._precision is None:
            self._precision = pick_precision(self._wanted_precision, self._probe, self._noise())
        return self._precision

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits that tell these weights, read this way, from others of the same name: by the first values of
        each parameter, and by what else makes features differ.
        """
        tower = self._affinity.name if self._affinity is not None else ""
        told = sha256(f"{self.readout.name} {tower} {self._windows} {self.short_side}".encode())
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
        """Embed images of any sizes; those that enter at the same size share a forward, windows of large ones too.

        Args:
            images: (H, W, 3) uint8 RGB each.
        """
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        places = [place_views(size, self.short_side, self.patch, windows=self._windows) for size in sizes]
        found: dict[int, ImageEmbedding] = {}
        for window in dict.fromkeys(place.window for place in places):
            rows = [index for index, place in enumerate(places) if place.window == window]
            features, affinities = self._look([(images[index], places[index]) for index in rows])
            for index in rows:
                number = len(places[index].corners)
                mine, features = features[:number], features[number:]
                seen, affinities = affinities[:number], affinities[number:]
                found[index] = join_views(mine, seen, places[index], sizes[index], harmonised=self._harmonised)
        return [found[index] for index in range(len(images))]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as they are; (n, D) float32 of unit length."""
        parts = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        embedded = [encode_tokens(self._model, self._tokenizer(list(part)).to(self.device)) for part in parts]
        return F.normalize(torch.cat(embedded).float(), dim=-1)

    def text_fingerprint(self) -> str:
        """What tells the text half of this model from any other: a hash of its parameters."""
        return text_fingerprint(self._model)

    def unknown_words(self, text: str) -> list[str]:
        """Words the model was never trained on: their token rows are all zero (see `worker.builtin`)."""
        if self._untrained is None:
            return []
        return [word for word in _words(text) if self._is_unknown(word)]

    def _has_untrained(self, word: str) -> bool:
        return self._untrained is not None and bool(self._untrained[self._tokenizer.encode(word)].any())

    def reads_some(self, text: str, *, apart_from: frozenset[str] = frozenset()) -> bool:
        """Whether the model was trained on any word of a text other than these; one without words counts as read."""
        words = [word for word in _words(text) if word.lower() not in apart_from]
        return not words or len(self.unknown_words(" ".join(words))) < len(words)

    def _look(self, images: Sequence[tuple[NDArray[np.uint8], Windows]]) -> tuple[list[Tensor], list[Tensor]]:
        """Unit features of every window of images whose windows are of one size, and the affinity tower's, if any."""
        views = guides = cut_views(images, self.patch)
        if self._affinity is not None and self._affinity.patch != self.patch:
            guides = cut_views(images, self._affinity.patch)
        features: list[Tensor] = []
        affinities: list[Tensor] = []
        at_once = max(len(images), _VIEWS_AT_ONCE)
        for start in range(0, len(views), at_once):
            part = slice(start, start + at_once)
            proxies = None
            if self._affinity is not None:
                proxies = self._affinity.features(torch.stack(guides[part]))
                affinities.extend(proxies)
            features.extend(self._forward(self._normalise(torch.stack(views[part])), proxies))
        return features, affinities

    def _forward(self, pixels: Tensor, proxies: Tensor | None) -> Tensor:
        """(B, h, w, D) float32 unit features in the chosen precision."""
        precision = self.precision
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            features = self._tower(pixels, proxies)
        return F.normalize(features.float(), dim=-1)

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels.to(self.device).float() / 255 - self._mean) / self._std

    def _noise(self) -> Tensor:
        """Pictures to measure with: as large as images enter."""
        side = max(1, round(self.short_side / self.patch)) * self.patch
        shape = (_PROBES.get(self.device.type, 1), 3, side, side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

    def _probe(self, pixels: Tensor) -> Tensor:
        """What is measured: the tower on pixels alone."""
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        alike = torch.ones(len(pixels), *grid, 1, device=self.device) if self._affinity is not None else None
        return self._tower(pixels, alike)

    @torch.inference_mode()
    def _compile(self) -> None:
        """Compile now, so that a machine without a compiler says so at the start."""
        self._tower.run = compiled(self._tower.run)
        try:
            self._probe(self._noise()[:1])
        except RuntimeError as error:
            problem = f"torch cannot compile it here ({' '.join(str(error).split())[:200]})"
            raise ModelUnavailable(f"model {self.name}", problem, "Install g++, or set ZEROMASK_COMPILE=0.") from error


def _untrained_tokens(weights: Tensor) -> NDArray[np.bool_] | None:
    """(n,) bool: tokens whose rows are all zero; None where there are none but the first, which pads."""
    found: NDArray[np.bool_] = (weights == 0).all(dim=1).cpu().numpy()
    return found if found[1:].any() else None


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
