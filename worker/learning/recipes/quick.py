"""The recipe the service runs: seconds on a CPU, from the first corrected picture on, labels without one kept.

Learning starts from what the model says of the labels' words, as far as it proved right on the corrections (after LP++,
Huang et al., and CLAP, Silva-Rodriguez et al., both CVPR 2024), and adds what the pictures look like: small networks on
the encoder's features and on colour, texture and place, retrieval of alike cells, context. A label that nobody has
drawn keeps the model's words: where learning says "none of the drawn ones", the model says which of the others. It must
not know Label Studio or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.adapter import VOID, AdapterState, Example, Words
from worker.learning.appearance import PLACES, describe
from worker.learning.classifier import Classifier, Options, Picture, learn
from worker.segmentation.heads import Scene
from worker.segmentation.pictures import shrink
from worker.segmentation.segmenter import Segmenter

NAME = "quick"
PARTS = ("encoder", "appearance", "retrieval", "context")
GRID = 128  # cells along the long side
_COMPONENTS = 24  # of the encoder's features
_MOST_EXAMPLES = 60
_TRUSTS = (0.0, 0.1, 0.25, 0.5, 1.0)
_REMEDY = "Draw a label in at least one picture and accept it."


@dataclass(frozen=True)
class Taught:
    """What was learned, and of which labels.

    Attributes:
        words: the texts of each class that was drawn, in the classifier's order; the rest comes after them.
        known: (T,) float32: 1 = the model knows the label's words.
        trust: in [0, 1]: how far the model's words proved right, above chance.
        scale: what the model's logits are multiplied with before learning starts from them.
        mean: (D,) and components (D, K): of the encoder's features.
        grid: cells along the long side.
        parts: which of `PARTS` are in.
    """

    words: Words
    known: Tensor
    trust: float
    scale: float
    mean: Tensor
    components: Tensor
    grid: int
    parts: tuple[str, ...]

    def cells(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the grid over a picture of (H, W) pixels."""
        unit = min(1.0, self.grid / max(size))
        return max(1, round(size[0] * unit)), max(1, round(size[1] * unit))

    def rows(self, words: Words) -> list[int | None]:
        """Where each taught class is in the words of a scene; None = nowhere. One text in common is enough."""
        return [next((k for k, texts in enumerate(words) if set(texts) & set(mine)), None) for mine in self.words]

    def ahead(self, scene: Scene) -> Tensor:
        """(T + 1, h, w): by how much the model puts each taught class before all the others, of which it says 0."""
        rows = self.rows(scene.words)
        others = [k for k in range(len(scene.logits)) if k not in rows]
        rest = scene.logits[others].logsumexp(dim=0)
        missing = torch.zeros_like(rest)
        ahead = [known * (scene.logits[k] - rest) if k is not None else missing
                 for k, known in zip(rows, self.known.tolist(), strict=True)]  # fmt: skip
        return torch.stack([*ahead, missing]).cpu()

    def picture(self, scene: Scene, image: NDArray[np.uint8]) -> Picture:
        """What the classifier sees of a scene."""
        grid = self.cells(scene.embedding.size)
        looks = describe(shrink(image, 4 * self.grid), grid)
        ahead = grow(self.ahead(scene), grid)
        values = [looks.values[:-PLACES]] if "appearance" in self.parts else []
        if "encoder" in self.parts:
            features = (scene.embedding.features.cpu().float() - self.mean) @ self.components
            values += [grow(features.permute(2, 0, 1), grid), ahead[:-1]]
        offset = self.scale * ahead if "encoder" in self.parts else torch.zeros_like(ahead)
        return Picture(torch.cat([*values, looks.values[-PLACES:]]), looks.lab, offset)


@dataclass(frozen=True)
class QuickAdapter:
    """What `QuickRecipe` learned; logits on a grid of 128 cells along the long side.

    Without the image there is nothing to learn from, and a scene keeps its own logits.
    """

    taught: Taught
    classifier: Classifier
    strength: float = 1.0
    encoder_part: str = ""

    def logits(self, scene: Scene) -> Tensor:
        """(n + 1, h', w') float32; see `worker.segmentation.heads.Head`."""
        if self.strength == 0 or scene.image is None:
            return scene.logits
        learned = self.classifier.logits(self.taught.picture(scene, scene.image)).log_softmax(dim=0)
        whole = self._with_others(scene, learned.to(scene.logits.device))
        if self.strength == 1:
            return whole
        before = grow(scene.logits, (whole.shape[1], whole.shape[2]))
        return torch.lerp(before - before.amax(dim=0), whole - whole.amax(dim=0), self.strength)

    def at_strength(self, strength: float) -> QuickAdapter:
        """See `worker.learning.adapter.Adapter`."""
        return replace(self, strength=strength)

    def state(self) -> AdapterState:
        """See `worker.learning.adapter.Adapter`."""
        taught = self.taught
        tensors = {"known": taught.known, "mean": taught.mean, "components": taught.components}
        about = {"words": [list(texts) for texts in taught.words], "trust": taught.trust, "scale": taught.scale,
                 "grid": taught.grid, "parts": list(taught.parts), "strength": self.strength}  # fmt: skip
        return AdapterState(NAME, tensors | self.classifier.tensors(), about)

    def _with_others(self, scene: Scene, learned: Tensor) -> Tensor:
        """Log-posteriors (T + 1, h, w) of the taught classes and the rest -> logits of all the scene's classes.

        Inside the rest the scene's own logits decide. Of what learning gives to a taught class, an untaught one gets
        what the model would give it, as far as the model is to be trusted. The others' rows stay the scene's.
        """
        own = grow(scene.logits, (learned.shape[1], learned.shape[2]))
        rows = self.taught.rows(scene.words)
        others = torch.tensor([k for k in range(len(own)) if k not in rows], device=own.device)
        untaught = others[:-1]
        drawn, rest = learned[:-1].exp(), learned[-1].exp()
        gone = [k for k, row in enumerate(rows) if row is None]
        rest = rest + drawn[gone].sum(dim=0)  # labels that were taken out of the config
        mass = own[others].softmax(dim=0) * rest
        claimed = self.taught.trust * own.softmax(dim=0)[untaught] * (1 - rest)
        mass[:-1] += claimed
        left = 1 - claimed.sum(dim=0) / (1 - rest).clamp_min(1e-6)
        whole = torch.empty_like(own)
        level = own[others].logsumexp(dim=0) - mass.sum(dim=0).clamp_min(1e-6).log()
        whole[others] = own[others] if not len(untaught) else mass.clamp_min(1e-9).log() + level
        for k, row in enumerate(rows):
            if row is not None:
                whole[row] = (drawn[k] * left).clamp_min(1e-9).log() + level
        return whole


@dataclass(frozen=True)
class QuickRecipe:
    """See the module.

    Attributes:
        without: which of `PARTS` are left out, for ablations.
        seed: of all chance in it.
    """

    without: tuple[str, ...] = ()
    seed: int = 0
    grid: int = GRID
    options: Options = Options()
    name: str = NAME

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> QuickAdapter:
        """See `worker.learning.adapter.Recipe`."""
        shown, taught_words = _drawn(examples, words)
        parts = tuple(part for part in PARTS if part not in self.without)
        features = torch.cat([e.embedding.features.flatten(0, 1).cpu().float() for e in shown])
        mean, components = _principal(features, _COMPONENTS)
        known = torch.tensor([float(not any(segmenter.encoder.unknown_words(t) for t in ts)) for ts in taught_words])
        taught = Taught(taught_words, known, 0.0, 0.0, mean, components, self.grid, parts)
        scenes = [segmenter.look(example.embedding, words, example.image) for example in shown]
        shares = [_shares(example, taught) for example in shown]
        trust, scale = _agreement([taught.ahead(scene) for scene in scenes], shares, known)
        taught = replace(taught, trust=trust, scale=scale)
        pictures = [taught.picture(scene, example.image) for scene, example in zip(scenes, shown, strict=True)]
        options = replace(self.options, retrieval="retrieval" in parts, context="context" in parts, seed=self.seed)
        return QuickAdapter(taught, learn(pictures, shares, options, places=PLACES))

    def load(self, state: AdapterState) -> QuickAdapter:
        """See `worker.learning.adapter.Recipe`."""
        if state.recipe != self.name:
            raise LearningError("adapter", f"was made by recipe {state.recipe!r}, not {self.name!r}", "Load it with that.")
        about: Any = state.about
        try:
            words = tuple(tuple(str(text) for text in texts) for texts in about["words"])
            taught = Taught(words, state.tensors["known"], float(about["trust"]), float(about["scale"]),
                            state.tensors["mean"], state.tensors["components"], int(about["grid"]),
                            tuple(about["parts"]))  # fmt: skip
            return QuickAdapter(taught, Classifier.of(state.tensors), float(about["strength"]))
        except (KeyError, TypeError, ValueError) as error:
            raise LearningError("adapter", f"its state is incomplete ({error!r})", "Learn it again.") from error


def grow(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """(C, h, w) to (C, *grid), bilinear; averaged where the grid is the coarser."""
    smaller = grid[0] < values.shape[1]
    return F.interpolate(values[None], size=grid, mode="bilinear", align_corners=False, antialias=smaller)[0]


def _drawn(examples: Sequence[Example], words: Words) -> tuple[list[Example], Words]:
    """The examples to learn from, at most 60, those with the rarest labels first, and the words drawn in them."""
    def drawn_in(example: Example) -> set[int]:
        texts = [set(example.words[k]) for k in np.unique(example.truth).tolist() if k >= 0]
        return {k for k, mine in enumerate(words) if any(set(mine) & other for other in texts)}

    found = [drawn_in(example) for example in examples]
    often = [sum(k in some for some in found) for k in range(len(words))]
    if not any(often):
        raise LearningError("corrections", "no label of the project is drawn in any of them", _REMEDY)
    rarest = [min((often[k] for k in some), default=len(examples)) for some in found]
    kept = sorted(sorted(range(len(examples)), key=lambda k: rarest[k])[:_MOST_EXAMPLES])
    return [examples[k] for k in kept], tuple(texts for texts, times in zip(words, often, strict=True) if times)


def _shares(example: Example, taught: Taught) -> Tensor:
    """(T + 1, h, w) share of each taught class, then of the rest, in the cells of an example; void is in none."""
    grid = taught.cells((example.truth.shape[0], example.truth.shape[1]))
    rows = taught.rows(example.words)
    layers = [example.truth == row if row is not None else np.zeros_like(example.truth, dtype=bool) for row in rows]
    drawn = torch.from_numpy(np.stack(layers)).float()
    void = torch.from_numpy(example.truth == VOID).float()
    whole = torch.cat([drawn, (1 - drawn.sum(dim=0) - void)[None]])
    return F.interpolate(whole[None], size=grid, mode="area")[0]


def _principal(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the first principal axes (D, K) of (N, D) rows."""
    mean = rows.mean(dim=0)
    _, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))
    return mean, axes.flip(1)[:, :most].contiguous()


def _agreement(ahead: Sequence[Tensor], shares: Sequence[Tensor], known: Tensor) -> tuple[float, float]:
    """How far the model's words prove right, above chance, in [0, 1]; and the scale at which they fit best."""
    said = torch.cat([grow(one, tuple(share.shape[1:])).flatten(1).T for one, share in zip(ahead, shares, strict=True)])
    truth = torch.cat([share.flatten(1).T for share in shares])
    judged = torch.tensor([*known.tolist(), 1.0]) * (truth.sum(dim=0) > 0)
    count = int(judged.sum())
    if count < 2 or not bool(known.any()):
        return 0.0, 0.0
    even = truth * judged / truth.sum(dim=0).clamp_min(1e-6) / count
    right = (even * F.one_hot(said.argmax(dim=1), truth.shape[1])).sum()
    trust = max(0.0, (float(right) - 1 / count) / (1 - 1 / count))
    costs = {scale: -float((even * (scale * said).log_softmax(dim=1)).sum()) for scale in _TRUSTS}
    return trust, min(costs, key=lambda scale: costs[scale])
