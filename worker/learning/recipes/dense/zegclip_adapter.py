"""What ZegCLIP has learned, as a head: masks of each label by itself, made one posterior over all labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worker.learning.interfaces import AdapterState, Words
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.inference import Inference, average_views, window_starts
from worker.learning.recipes.dense.networks import PixelFeatures
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.segmentation.encoders.tiling import Tiling, average_windows, harmonise_scores

LOWERED = 0.1
"""What is taken from the probabilities of labels whose masks training showed."""

_MOST_SCORES = 32_000_000  # of labels, heads and cells held at once, 128 MB
_LEAST = 1e-4  # probabilities nearer than this to 0 or 1 are taken for this near
_SLOPE = 10.0  # of what goes on beyond, so that even there a larger number has a larger logit

_Look = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class ZegclipAdapter(DenseAdapter):
    """A trained ZegCLIP network.

    Attributes:
        network: trained, in evaluation mode.
        seen: texts of the labels whose masks training showed, the background among them.
        lowered: taken from their probabilities, so that unseen labels are not drowned out; see `posterior_logits`.
        leaked: whether training was told which pixels show unseen labels.
    """

    network: ZegclipNetwork
    seen: Words = ()
    lowered: float = LOWERED
    leaked: bool = False

    @classmethod
    def of(cls, adapter: DenseAdapter, *, seen: Words, lowered: float, leaked: bool) -> Self:
        """Make one of what all dense adapters have.

        Raises:
            TypeError: the network is another.
        """
        if not isinstance(adapter.network, ZegclipNetwork):
            raise TypeError(f"network must be ZegCLIP's, got {type(adapter.network).__name__}")
        common = {field.name: getattr(adapter, field.name) for field in fields(DenseAdapter)}
        return cls(**common, seen=seen, lowered=lowered, leaked=leaked)

    def has_seen(self, texts: Sequence[str]) -> bool:
        """Whether training showed masks of a label: one of its texts is enough, so that a synonym more changes nothing.

        Args:
            texts: its words.
        """
        return not {text for known in self.seen for text in known}.isdisjoint(texts)

    def state(self) -> AdapterState:
        """See `worker.learning.interfaces.Adapter`."""
        state = super().state()
        own = {"seen": [list(texts) for texts in self.seen], "lowered": self.lowered, "leaked": self.leaked}
        return replace(state, about={**state.about, **own})

    def _label_logits(self, image: NDArray[np.uint8], labels: Tensor, names: Sequence[tuple[str, ...]]) -> Tensor:
        exclusive, tower = self.network.preset.exclusive, self.network.tower
        seen = torch.tensor([self.has_seen(texts) for texts in names], device=tower.device)

        def look(pixels: Tensor) -> tuple[Tensor, Tensor]:
            found = self._see(pixels)
            scores = probabilities(self._logits(found, labels)[0].float(), exclusive=exclusive)
            return scores, F.normalize(found.embedding[0].float(), dim=0)

        whole = replace(self.inference, window=0)
        scores = average_views(
            image, whole, tower.multiple, lambda pixels: window_scores(pixels, self.inference, tower.multiple, look)
        )
        return posterior_logits(scores, exclusive=exclusive, seen=seen, lowered=self.lowered)

    def _logits(self, features: PixelFeatures, labels: Tensor) -> Tensor:
        """See `DenseAdapter`; labels never see each other, so that of very many some at a time are scored."""
        cells = features.embedding.shape[2] * features.embedding.shape[3]
        parts = torch.split(labels, max(1, _MOST_SCORES // (self.network.preset.heads * cells)))
        return torch.cat([self.network.decode(features, part).logits for part in parts], dim=1)


def probabilities(logits: Tensor, *, exclusive: bool) -> Tensor:
    """(T, h, w) logits to the probability of each label: by itself, or among all of them where they are exclusive."""
    return logits.softmax(dim=0) if exclusive else logits.sigmoid()


def posterior_logits(
    scores: Tensor, *, exclusive: bool, seen: Tensor | None = None, lowered: float = 0.0
) -> Tensor:
    """Turn probabilities of labels into logits whose softmax is their posterior.

    Of labels that are there or not each by itself, given that a cell has exactly one, the posterior of each is
    proportional to its odds, so the logits are those of the sigmoids; of exclusive labels they are logarithms.

    Seen labels are lowered together, so that the posterior among themselves stays what it is: in every cell by as many
    logits as put the likeliest of them where its lowered probability would be. The likeliest label of all is then that
    of the lowered probabilities, as in the paper.

    Args:
        scores: (T, ...) float32 probabilities; a little beyond 0 and 1 is allowed.
        exclusive: whether they come from one softmax.
        seen: (T,) bool, labels to lower; None = none.
        lowered: what is taken from the probabilities of these.
    """
    logits = _logits_of(scores, exclusive=exclusive)
    if seen is None or not lowered or not bool(seen.any()):
        return logits
    best = scores[seen].amax(dim=0)
    shift = _logits_of(best, exclusive=exclusive) - _logits_of(best - lowered, exclusive=exclusive)
    return torch.where(seen.reshape(-1, *(1,) * best.dim()), logits - shift, logits)


def _logits_of(scores: Tensor, *, exclusive: bool) -> Tensor:
    """Logit or logarithm of any numbers, rising everywhere."""
    kept = scores.clamp(_LEAST, 1 if exclusive else 1 - _LEAST)
    return (kept.log() if exclusive else kept.logit()) + _SLOPE * (scores - kept)


def window_scores(pixels: Tensor, inference: Inference, multiple: int, look: _Look) -> Tensor:
    """Average what is seen in overlapping windows, and let cells that are alike agree across their borders.

    Args:
        pixels: (3, H, W) uint8 RGB; H and W multiples of `multiple`.
        inference: the side and the overlap of the windows.
        multiple: pixels of the side of a cell.
        look: (3, h, w) pixels -> (T, h', w') float32 scores and (D, h', w') float32 features of unit length.

    Returns:
        (T, H / multiple, W / multiple) float32.
    """
    height, width = pixels.shape[1:]
    window = round(inference.window / multiple) * multiple
    if not window or (height <= window and width <= window):
        return look(pixels)[0]
    side = (min(window, height), min(window, width))
    tops, lefts = (
        window_starts(length, part, inference.overlap, multiple)
        for length, part in zip((height, width), side, strict=True)
    )
    seen = [look(pixels[:, top : top + side[0], left : left + side[1]]) for top in tops for left in lefts]
    tiling = Tiling(
        (height // multiple, width // multiple), (side[0] // multiple, side[1] // multiple),
        tuple((top // multiple, left // multiple) for top in tops for left in lefts),
    )  # fmt: skip
    scores, features = (average_windows([one[k].permute(1, 2, 0) for one in seen], tiling) for k in (0, 1))
    return harmonise_scores(scores, features, tiling).permute(2, 0, 1)
