"""ZegCLIP's recipe: its network, loss and training put together, inductive or with the names of unseen labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.interfaces import Words
from worker.learning.recipes.dense.batches import CropConfig
from worker.learning.recipes.dense.labels import BACKGROUND_TEXTS, LabelVectors
from worker.learning.recipes.dense.networks import DenseNetwork, DenseOutput
from worker.learning.recipes.dense.presets import SMALL, NetworkPreset
from worker.learning.recipes.dense.recipe import DenseRecipe, Hidden
from worker.learning.recipes.dense.training import DenseLoss, DenseTrainer, TrainingConfig, rate_factor
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.learning.recipes.dense.zegclip_adapter import LOWERED, ZegclipAdapter
from worker.learning.recipes.dense.zegclip_loss import SparingSigmoids, ZegclipLoss
from worker.learning.recipes.dense.zegclip_presets import (
    PAPER_SIDE,
    ZEGCLIP_PRESETS,
    ZegclipPreset,
    small_zegclip,
    zegclip_preset_from_json,
)
from worker.learning.recipes.dense.zegclip_released import ReleasedWeights
from worker.learning.recipes.generated import GENERATOR
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

# As released, but that crops are of any class mixture, colours stay, and the learning rate falls to 0, not to 1e-6.
_PAPER_TRAINING = TrainingConfig(
    steps=20_000, batch=16, crop=CropConfig(PAPER_SIDE, (0.5, 2.0)), optimizer="adamw", rate=2e-4, tower_share=1.0,
    weight_decay=0.01, warmup=1500,
)  # fmt: skip
_MOST_SCALE = 30.0  # of cosines at the start: beyond it, sigmoids are 0 and 1 and hardly learn
_BETWEEN = 0.2  # cosine: of CLIP's texts, one that is true of an image lies above it and others around it
PROMPTS, NON_EXCLUSIVE, DESCRIPTOR = "prompts", "non_exclusive", "descriptor"
"""The paper's three designs; each may be left out."""


@dataclass(frozen=True)
class ZegclipRecipe(DenseRecipe):
    """ZegCLIP (Zhou et al., CVPR 2023).

    Attributes:
        unseen: texts of labels that are known in training by name alone; they need `transductive`.
        transductive: whether the second half of the training gives them pseudo-labels.
        leaked: whether these go to pixels that truly show an unseen label, and to no other: as in the released
            configuration, and no fair setting.
        as_released: whether ignored pixels are negatives of every label.
    """

    unseen: Words = ()
    transductive: bool = False
    leaked: bool = False
    as_released: bool = False
    name: ClassVar[str] = "zegclip"
    parts: ClassVar[tuple[str, ...]] = (PROMPTS, NON_EXCLUSIVE, DESCRIPTOR, GENERATOR)
    presets: ClassVar[Mapping[str, NetworkPreset]] = ZEGCLIP_PRESETS
    trainings: ClassVar[Mapping[str, TrainingConfig]] = {
        SMALL: TrainingConfig(rate=5e-4), "voc": _PAPER_TRAINING, "coco": replace(_PAPER_TRAINING, steps=80_000),
    }  # fmt: skip
    small: ClassVar[Callable[[Encoder, str], NetworkPreset]] = small_zegclip
    network_of: ClassVar[Callable[[Any, Any, int], DenseNetwork]] = ZegclipNetwork
    preset_from_json: ClassVar[Callable[[Mapping[str, Any]], NetworkPreset]] = zegclip_preset_from_json

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leaked and not self.transductive:
            raise LearningError("recipe zegclip", "has no pseudo-labels to leak", "Give --transductive with --leaked.")

    @property
    def title(self) -> str:
        """See `DenseRecipe`."""
        kinds = [name for name, is_so in (("transductive", self.transductive), ("leaked", self.leaked)) if is_so]
        return ", ".join((self.name, *kinds))

    @property
    def hidden(self) -> Hidden:
        """See `DenseRecipe`."""
        if not self.transductive:
            return "ignored"
        return "unseen" if self.leaked else "unlabelled"

    def told(self, unseen: Words) -> Self:
        """See `DenseRecipe`."""
        return replace(self, unseen=unseen) if self.transductive else self

    def settings(self) -> Mapping[str, Any]:
        """See `DenseRecipe`."""
        return {"transductive": self.transductive, "leaked": self.leaked, "as_released": self.as_released}

    def loss(self) -> ZegclipLoss:
        """See `DenseRecipe`; without pseudo-labels."""
        return self._loss_of()

    def supplied_loss(self, taught: int) -> DenseLoss:
        """See `DenseRecipe`."""
        return super().supplied_loss(taught) if self.exclusive else SparingSigmoids(self.loss(), taught)

    @property
    def exclusive(self) -> bool:
        """Whether one softmax over all labels takes the place of a sigmoid for each, in the network and in the loss."""
        return NON_EXCLUSIVE in self.without or bool(self.changes.get("exclusive", False))

    def build(self, words: Words, segmenter: Segmenter) -> tuple[DenseNetwork, LabelVectors]:
        """See `DenseRecipe`.

        Args:
            words: the texts of each label, where it is transductive the unseen ones among them.
            segmenter: the model.

        Raises:
            LearningError: there is no such preset; the labels are none, or one is there twice; it is transductive and
                none is unseen, or the other way round.
            ModelUnavailable: the tower cannot be loaded, or has no class token.
        """
        if not words:
            raise LearningError("labels", "there are none to learn", "Name at least one.")
        twice = [texts for number, texts in enumerate(words) if texts in words[:number]]
        if twice:
            kind = "both seen and unseen" if twice[0] in self.unseen else "there twice"
            raise LearningError(f"label {twice[0][0]!r}", f"is {kind}", "Name each label once.")
        if self.transductive and not self.unseen:
            remedy = "Name unseen labels, or train without --transductive."
            raise LearningError("recipe zegclip", "is transductive, and no unseen label is named", remedy)
        if self.unseen and not self.transductive:
            remedy = "Give --transductive, or leave their names away: any label has masks once it is trained."
            raise LearningError("recipe zegclip", "is given names of unseen labels that it has no use for", remedy)
        network, labels = super().build(words, segmenter)
        if isinstance(network, ZegclipNetwork) and network.preset.aligned:
            scale, bias = _sigmoid_of(segmenter.encoder)
            network.start_as_cosines(scale=scale, bias=bias)
        return network, labels

    def adapter(self, network: DenseNetwork, labels: LabelVectors, segmenter: Segmenter) -> ZegclipAdapter:
        """See `DenseRecipe`. Nothing is blended; once pseudo-labels were given, seen labels need no lowering."""
        found = super().adapter(network, labels, segmenter)
        seen = (*(texts for texts in labels.words if texts not in self.unseen), BACKGROUND_TEXTS)
        whole = ZegclipAdapter.of(replace(found, strength=1.0), seen=seen, lowered=LOWERED, leaked=self.leaked)
        preset, lowered = whole.network.preset, 0.0 if whole.network.pseudo_labelled else LOWERED
        inference = replace(found.inference, window=preset.window, overlap=preset.overlap)
        return replace(whole, inference=inference, lowered=lowered)

    def released(self, path: Path, seen: Words, segmenter: Segmenter) -> ZegclipAdapter:
        """Make an adapter of a checkpoint of the authors, on the model it was trained on.

        Args:
            path: of the checkpoint.
            seen: texts of the labels whose masks its training showed.
            segmenter: the model.

        Raises:
            LearningError: it cannot be read, is of another width, or was trained on another image tower.
            ModelUnavailable: the loaded model has no class token.
        """
        if not seen:
            raise LearningError("labels", "there are none that the checkpoint was trained with", "Name at least one.")
        found = ReleasedWeights.read(path)
        vectors, readable = self._vectors(seen, segmenter)
        network = self._network(found.preset, found.width, segmenter)
        found.check(network.tower.module, vectors.shape[1])
        found.load_into(network)
        adapter = self.adapter(network, LabelVectors(seen, vectors, readable), segmenter)
        return replace(adapter, seen=seen, learned={}, lowered=0.0 if self.transductive else LOWERED)

    def _loaded(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor], segmenter: Segmenter) -> ZegclipAdapter:
        seen = tuple(tuple(str(text) for text in texts) for texts in about["seen"])
        found = super()._loaded(about, tensors, segmenter)
        return ZegclipAdapter.of(found, seen=seen, lowered=float(about["lowered"]), leaked=bool(about["leaked"]))

    def _chosen(self, segmenter: Segmenter) -> NetworkPreset:
        preset = super()._chosen(segmenter)
        if not isinstance(preset, ZegclipPreset):
            raise TypeError(f"preset must be ZegCLIP's, got {type(preset).__name__}")
        prompts = 0 if PROMPTS in self.without else preset.prompts
        descriptor = preset.descriptor and DESCRIPTOR not in self.without
        return replace(preset, prompts=prompts, exclusive=self.exclusive, descriptor=descriptor)

    def _loss_of(self, unseen: tuple[int, ...] = ()) -> ZegclipLoss:
        return ZegclipLoss(exclusive=self.exclusive, as_released=self.as_released, unseen=unseen)

    def _trainer(self, network: DenseNetwork, labels: LabelVectors, config: TrainingConfig) -> DenseTrainer:
        rows = tuple(row for row, texts in enumerate(labels.words) if texts in self.unseen)
        return ZegclipTrainer(network, labels, self._loss_of(rows), config, seed=self.seed)


def _sigmoid_of(encoder: Encoder) -> tuple[float, float]:
    """Scale, at most _MOST_SCALE, and bias with which a sigmoid of the cosine says whether a label is there."""
    scale = min(encoder.logit_scale, _MOST_SCALE)
    if encoder.logit_bias is None:  # trained with a softmax, a model has no threshold
        return scale, -scale * _BETWEEN
    return scale, encoder.logit_bias * scale / encoder.logit_scale


class ZegclipTrainer(DenseTrainer):
    """Trains ZegCLIP. Where names of unseen labels are known, the first half of the steps knows nothing of them; the
    second half begins with a new optimizer and has its own rise and fall of the learning rate.
    """

    def __init__(
        self, network: DenseNetwork, labels: LabelVectors, loss: ZegclipLoss, config: TrainingConfig, *, seed: int = 0
    ) -> None:
        super().__init__(network, labels, loss, config, seed=seed)
        self._own_loss = loss
        self._half = config.steps // 2

    @property
    def gives_pseudo_labels(self) -> bool:
        """Whether the next step does."""
        return bool(self._own_loss.unseen) and self.steps_done >= self._half

    def step(self, pixels: Tensor, truth: Tensor) -> dict[str, float]:
        """See `DenseTrainer`."""
        if self.gives_pseudo_labels and self.steps_done == self._half:
            self._optimizer.state.clear()
        terms = super().step(pixels, truth)
        self._tell_network()
        return terms

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `DenseTrainer`."""
        super().restore(state)
        self._tell_network()

    def _tell_network(self) -> None:
        if isinstance(self.network, ZegclipNetwork):
            self.network.pseudo_labelled = bool(self._own_loss.unseen) and self.steps_done > self._half

    def _rate_factor(self) -> float:
        if not self._own_loss.unseen:
            return super()._rate_factor()
        if not self.gives_pseudo_labels:
            return rate_factor(replace(self.config, steps=self._half), self.steps_done)
        rest = replace(self.config, steps=self.config.steps - self._half)
        return rate_factor(rest, self.steps_done - self._half)

    def _terms(self, output: DenseOutput, truth: Tensor) -> Mapping[str, Tensor]:
        return replace(self._own_loss, pseudo=self.gives_pseudo_labels)(output, truth)
