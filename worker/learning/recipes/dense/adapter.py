"""What a dense recipe has learned, as a head: it looks at the image with its own tower and scores any labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.interfaces import AdapterState, Words
from worker.learning.recipes.dense.inference import Inference, average_views
from worker.learning.recipes.dense.labels import BACKGROUND_TEXTS, TextVectors, label_rows
from worker.learning.recipes.dense.networks import DenseNetwork, PixelFeatures
from worker.learning.recipes.dense.presets import preset_to_json
from worker.segmentation.class_scores import ClassScores, blend
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.encoders.towers import Towers
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, POSTERIORS, Method

NETWORK, LEARNED, TEXTS = "network.", "learned", "texts"
"""Names of stored tensors: the network's begin with the first; vectors learned for labels; vectors of given texts."""

_Read = Callable[[PixelFeatures], Tensor]
_MOST_VALUES = 64_000_000  # logits of one image held at once, 256 MB


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class DenseAdapter:
    """A trained network and the label vectors that it learned.

    Attributes:
        recipe: name of the recipe that made it.
        form: number of the format of its state.
        network: trained, in evaluation mode.
        towers: where the maps of shared towers are cached.
        inference: how images enter.
        follows_outlines: whether its logits do; see `worker.segmentation.heads.Head.refinement`.
        learned: (D,) vectors of labels whose words the model cannot read, by their texts.
        texts: take the place of the model's text tower; None = they do not.
        strength: see `worker.learning.interfaces.Adapter`.
    """

    recipe: str
    form: int
    network: DenseNetwork
    towers: Towers
    inference: Inference
    follows_outlines: bool
    learned: Mapping[tuple[str, ...], Tensor] = field(default_factory=dict)
    texts: TextVectors | None = None
    strength: float = 1.0

    @property
    def refinement(self) -> Method:
        """See `worker.segmentation.heads.Head`; at strength 0 the scores are the zero-shot ones."""
        if self.strength == 0:
            return ADAPTIVE
        return FINE if self.follows_outlines else POSTERIORS

    @one_thread()
    @torch.no_grad()
    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`. Without the image it keeps the zero-shot scores."""
        if self.strength == 0 or image.image is None:
            return image.zero_shot
        vectors, known = label_rows(image, self.learned, self.texts)
        labels = vectors[known].to(self.network.tower.device)
        names = [name for name, one in zip((*image.words, BACKGROUND_TEXTS), known.tolist(), strict=True) if one]
        found = self._label_logits(image.image, labels, names)
        logits = found.new_full((len(known), *found.shape[1:]), -torch.inf)
        logits[known.to(found.device)] = found
        scored = known.to(image.zero_shot.scored.device)
        learned = ClassScores(logits.to(image.zero_shot.logits.device), scored)
        if self.strength == 1:
            return learned
        silent = [row for row, name in enumerate(image.words) if name in self.learned or not bool(scored[row])]
        zero_shot = image.zero_shot.without(silent).resized(learned.grid)
        return blend(zero_shot, learned, self.strength)

    @one_thread()
    @torch.no_grad()
    def features(self, image: NDArray[np.uint8], *, at_pixels: bool = False) -> Tensor:
        """Compute features in the space of the label vectors, which need no label.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            at_pixels: whether they are brought to the pixels of the image.

        Returns:
            (h, w, D) float32 of unit length on the network's grid, or (H, W, D).
        """
        found = self._averaged(image, lambda features: F.normalize(features.embedding.float(), dim=1))
        if at_pixels:
            found = F.interpolate(found[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
        return F.normalize(found, dim=0).permute(1, 2, 0)

    def taught(self, words: Words) -> Words:
        """See `worker.learning.interfaces.Adapter`."""
        return tuple(texts for texts in words if texts in self.learned) if self.strength else ()

    def at_strength(self, strength: float) -> Self:
        """See `worker.learning.interfaces.Adapter`."""
        return replace(self, strength=strength)

    def with_inference(self, inference: Inference) -> Self:
        """The same with other views of each image."""
        return replace(self, inference=inference)

    def with_outlines(self, *, followed: bool) -> Self:
        """The same, whose logits are taken to follow outlines already, or to be posteriors of patches."""
        return replace(self, follows_outlines=followed)

    def state(self) -> AdapterState:
        """See `worker.learning.interfaces.Adapter`. Weights of a frozen tower are not part of it."""
        tensors = {f"{NETWORK}{name}": values.detach().cpu() for name, values in self.network.state_dict().items()}
        if self.learned:
            tensors[LEARNED] = torch.stack([one.cpu() for one in self.learned.values()])
        if self.texts is not None:
            tensors[TEXTS] = torch.stack([one.cpu().float() for one in self.texts.by_text.values()])
        about: dict[str, Any] = {
            "form": self.form, "preset": preset_to_json(self.network.preset), "width": self.network.width,
            "tower": "" if self.network.trains_tower else self.network.tower.fingerprint,
            "inference": asdict(self.inference), "follows_outlines": self.follows_outlines,
            "learned": [list(name) for name in self.learned], "strength": self.strength,
            "texts": None if self.texts is None else list(self.texts.by_text),
        }  # fmt: skip
        return AdapterState(self.recipe, tensors, about)

    def _label_logits(self, image: NDArray[np.uint8], labels: Tensor, names: Sequence[tuple[str, ...]]) -> Tensor:
        """(T, h, w) logits of labels (T, D), whose texts are the names, averaged over the views of an image."""
        return self._averaged(image, lambda features: self._logits(features, labels))

    def _averaged(self, image: NDArray[np.uint8], read: _Read) -> Tensor:
        multiple = self.network.tower.multiple
        return average_views(image, self.inference, multiple, lambda pixels: read(self._see(pixels))[0])

    def _see(self, pixels: Tensor) -> PixelFeatures:
        """Features of (3, H, W) uint8 pixels; the maps of a shared tower come from the cache where they are there."""
        network = self.network.eval()
        if not network.shares_maps:
            return network.encode(network.tower.normalise(pixels[None]))
        return network.read(self.towers.maps(network.tower, pixels))

    def _logits(self, features: PixelFeatures, labels: Tensor) -> Tensor:
        """(1, T, h, w); with very many labels on a coarser grid, so that memory is bounded."""
        height, width = features.embedding.shape[-2:]
        shrink = (len(labels) * height * width / _MOST_VALUES) ** 0.5
        if shrink > 1:
            grid = (max(1, int(height / shrink)), max(1, int(width / shrink)))
            features = replace(features, embedding=F.adaptive_avg_pool2d(features.embedding, grid))
        return self.network.decode(features, labels).logits
