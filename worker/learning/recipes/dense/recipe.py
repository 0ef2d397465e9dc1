"""Dense recipes: a network of a paper, its loss and its training, put together; and adapters read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.interfaces import AdapterState, Example, Fitted, Words
from worker.learning.recipes.dense.adapter import LEARNED, NETWORK, TEXTS, DenseAdapter
from worker.learning.recipes.dense.batches import CropConfig, Sample, entered, taught_words, training_sample
from worker.learning.recipes.dense.inference import Inference
from worker.learning.recipes.dense.labels import LabelVectors, TextVectors
from worker.learning.recipes.dense.lseg import LSegNetwork, lseg_loss
from worker.learning.recipes.dense.networks import DenseNetwork
from worker.learning.recipes.dense.pasting import SparingSoftmax, Supply
from worker.learning.recipes.dense.presets import (
    LSEG_PRESETS,
    SAZS_PRESETS,
    SMALL,
    NetworkPreset,
    preset_from_json,
    small_lseg,
    small_sazs,
)
from worker.learning.recipes.dense.sazs import TERMS, SazsLoss, SazsNetwork
from worker.learning.recipes.dense.stages import (
    PSEUDO_LABELLED,
    TOWER_TRAINED,
    StagedTraining,
    SupplyingTrainer,
    entry_cells,
    second_config,
)
from worker.learning.recipes.dense.training import DenseLoss, DenseTrainer, TrainingConfig, mean_features, showing
from worker.learning.recipes.generated import (
    CONFIG,
    GENERATOR,
    LEFT_OUT,
    KnownLabels,
    generate_features,
    readable_labels,
)
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import ENCODER, TowerConfig
from worker.segmentation.segmenter import Segmenter

# As released, but for the schedule: the learning rate falls with the steps, not the epochs, and there is no rotation.
# LSeg's zero-shot models: .004 / 16 a sample for the tower, ten times that for the rest; four epochs of 2300 images,
# as its code breaks off after them.
_LSEG_TRAINING = TrainingConfig(steps=460, batch=20, crop=CropConfig(scales=(1.0, 1.0), flips=False), optimizer="sgd",
                                rate=0.05, tower_share=0.1)  # fmt: skip
# SAZS on PASCAL: 20 epochs of 2300 images for the ViT, 40 for the DRN, whose head learns ten times faster.
_SAZS_TRAINING = TrainingConfig(steps=7600, batch=6, crop=CropConfig(scales=(0.5, 2.0)), optimizer="sgd", rate=1e-3,
                                tower_share=1.0)  # fmt: skip
Hidden = Literal["ignored", "unlabelled", "unseen"]
"""Pixels that pseudo-labels are for: none, all without a class, or, leaked, those that truly show an unseen label."""

_MOST_STEPS = 1000  # unless told: 600 took 82 to 176 s on two cores, and a learner trains 600 s at most
_CROP = 0.75  # of the short side, for the small presets: few things are cut
_STRENGTH = 0.8  # where the loaded model can do the same untrained: a fifth of it keeps what training forgets
_MOST_LOOKED_AT = 16  # samples of each class whose vector is learned
_FORM = 1
_AGAIN = "Learn it again."
_ANOTHER = "Serve another version with `zeromask rollback`; other corrections make a new one."


@dataclass(frozen=True)
class DenseRecipe:
    """What the dense recipes share; each paper has a subclass.

    Attributes:
        without: parts to leave out, for ablations.
        preset: name of the network's size: SMALL, or one of the paper's.
        tower: name of another image tower for the small preset, as `TowerConfig` has it.
        changes: fields of the preset that are changed, such as `block` and `block_depth`.
        texts: take the place of the model's text tower; None = they do not.
        training: how it is trained; None = as the paper says, or, for the small preset, in a minute on a CPU.
        seed: of all randomness.
    """

    without: tuple[str, ...] = ()
    preset: str = SMALL
    tower: str = ENCODER
    changes: Mapping[str, Any] = field(default_factory=dict)
    texts: TextVectors | None = None
    training: TrainingConfig | None = None
    seed: int = 0
    name: ClassVar[str]
    form: ClassVar[int] = _FORM
    parts: ClassVar[tuple[str, ...]] = (GENERATOR,)
    presets: ClassVar[Mapping[str, NetworkPreset]]
    trainings: ClassVar[Mapping[str, TrainingConfig]]
    flips: ClassVar[bool] = False
    steps_per_label: ClassVar[int] = 0
    small: ClassVar[Callable[[Encoder, str], NetworkPreset]]
    network_of: ClassVar[Callable[[Any, Any, int], DenseNetwork]]
    preset_from_json: ClassVar[Callable[[Mapping[str, Any]], NetworkPreset]] = preset_from_json

    def __post_init__(self) -> None:
        unknown = sorted(set(self.without) - set(self.parts))
        if unknown:
            remedy = f"It has {', '.join(self.parts) or 'none'}."
            raise LearningError(f"recipe {self.name}", f"has no part {unknown[0]!r} to leave out", remedy)

    def loss(self) -> DenseLoss:
        """What is made small."""
        raise NotImplementedError

    def supplied_loss(self, taught: int) -> DenseLoss:
        """What is made small where generated features of other labels are pasted into the crops.

        Args:
            taught: how many labels have masks; `pasting` says what the rows are.
        """
        return SparingSoftmax(self.loss(), taught)

    @property
    def title(self) -> str:
        """What it is called in print: its name, and whatever of its training nobody may overlook."""
        return self.name

    @property
    def hidden(self) -> Hidden:
        """Which pixels pseudo-labels are for."""
        return "ignored"

    def told(self, unseen: Words) -> Self:
        """The same, told the texts of labels whose masks nobody shows it, where it has a use for them."""
        return self

    def settings(self) -> Mapping[str, Any]:
        """Further JSON that decides the weights, beside what all recipes have."""
        return {}

    def build(self, words: Words, segmenter: Segmenter) -> tuple[DenseNetwork, LabelVectors]:
        """Build an untrained network, and the label vectors of some classes and the background.

        Args:
            words: the texts of each class to train with.
            segmenter: the model.

        Raises:
            LearningError: there is no such preset.
            ModelUnavailable: its tower cannot be loaded.
        """
        vectors, readable = self._vectors(words, segmenter)
        torch.manual_seed(self.seed)
        network = self._network(self._chosen(segmenter), vectors.shape[1], segmenter)
        return network, LabelVectors(words, vectors.to(network.tower.device), readable).to(network.tower.device)

    @one_thread()
    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> DenseAdapter:
        """See `worker.learning.interfaces.Recipe`; from corrections alone."""
        training = self.staged(examples, words, segmenter)
        while not training.first_over:
            training.step_first()
        return training.plain()

    @one_thread()
    def fit_both(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
        """See `worker.learning.interfaces.SupplyingRecipe`."""
        training = self.staged(examples, words, segmenter)
        while not training.over:
            training.step()
        return training.fitted()

    def staged(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> StagedTraining:
        """Prepare a training from examples and, after it, one with generated examples of the labels they do not show.

        Raises:
            As `build`; LearningError: no example shows a label.
        """
        taught = taught_words(examples, words)
        samples = [training_sample(example, taught) for example in examples]
        others = tuple(texts for texts in words if texts not in taught)
        return self.staged_of(samples, taught, others, segmenter)

    def staged_of(
        self, samples: Sequence[Sample], taught: Words, others: Words, segmenter: Segmenter
    ) -> StagedTraining:
        """Prepare the same from samples.

        Args:
            samples: what is learned from: rows of the taught labels, the background after them.
            taught: the texts of each of these labels.
            others: the texts of labels without masks.
            segmenter: the model.

        Raises:
            As `build`.
        """
        network, labels = self.build(taught, segmenter)
        first = self.trainer(network, labels, samples, segmenter)
        short = self.short_side(network, segmenter)
        return StagedTraining(
            first, [entered(sample, short) for sample in samples],
            lambda network, labels: self.adapter(network, labels, segmenter),
            lambda: self._second(first, samples, others, segmenter),
        )  # fmt: skip

    def trainer(
        self, network: DenseNetwork, labels: LabelVectors, samples: Sequence[Sample], segmenter: Segmenter
    ) -> DenseTrainer:
        """Prepare a training: learned vectors start at the mean features of their classes' cells.

        Args:
            network: from `build`.
            labels: from `build`.
            samples: what is learned from; they are looked at only where some vector is learned.
            segmenter: the model.
        """
        looked_at = showing(samples, labels.unread, most=_MOST_LOOKED_AT)
        if looked_at:
            adapter = self.adapter(network, labels, segmenter)
            labels.start(mean_features(lambda image: adapter.features(image).permute(2, 0, 1), looked_at,
                                       len(labels.words) + 1))  # fmt: skip
        return self._trainer(network, labels, self.training_of(network, labels, segmenter))

    def training_of(self, network: DenseNetwork, labels: LabelVectors, segmenter: Segmenter) -> TrainingConfig:
        """How a network is trained, with the side of the crops filled in; more labels take more steps unless told."""
        many = min(max(TrainingConfig().steps, self.steps_per_label * len(labels.words)), _MOST_STEPS)
        config = self.training or self.trainings.get(self.preset, TrainingConfig(steps=many))
        short = self.short_side(network, segmenter)
        side = config.crop.side or (_CROP * short if self.preset == SMALL else short)
        multiple = network.tower.multiple
        side = max(1, round(side / multiple)) * multiple
        return replace(config, crop=replace(config.crop, side=side))

    def short_side(self, network: DenseNetwork, segmenter: Segmenter) -> int:
        """Pixels of the short side at which images enter the network."""
        preset = network.preset
        own = segmenter.encoder.short_side if preset.tower.name == ENCODER else network.tower.native_size
        return preset.short_side or own

    def adapter(self, network: DenseNetwork, labels: LabelVectors, segmenter: Segmenter) -> DenseAdapter:
        """What a network has learned, as a head. On the model's own tower it is blended with the untrained model."""
        inference = Inference(self.short_side(network, segmenter), flip=self.flips)
        own = self.preset == SMALL and self.tower == ENCODER and self.texts is None
        return DenseAdapter(
            self.name, self.form, network.eval(), segmenter.towers, inference, network.preset.fine,
            labels.vectors_learned(), self.texts, _STRENGTH if own else 1.0,
        )  # fmt: skip

    def load(self, state: AdapterState, segmenter: Segmenter) -> DenseAdapter:
        """See `worker.learning.interfaces.Recipe`."""
        if state.recipe != self.name:
            problem = f"was made by recipe {state.recipe!r}, not {self.name!r}"
            raise LearningError("adapter", problem, "Load it with that one.")
        about: Mapping[str, Any] = state.about
        if about.get("form") != self.form:
            raise LearningError("adapter", "was learned by another release, with another network", _ANOTHER)
        try:
            return self._loaded(about, state.tensors, segmenter)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
            problem = f"its state is incomplete ({type(error).__name__}: {str(error)[:200]})"
            raise LearningError("adapter", problem, _AGAIN) from error

    def _loaded(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor], segmenter: Segmenter) -> DenseAdapter:
        preset = type(self).preset_from_json(about["preset"])
        network = self._network(preset, int(about["width"]), segmenter, holds_tower=preset.trains_tower)
        if about["tower"] != ("" if preset.trains_tower else network.tower.fingerprint):
            problem = f"was learned on other weights of the tower {preset.tower.name} than those loaded"
            raise LearningError("adapter", problem, _ANOTHER)
        stored = {name.removeprefix(NETWORK): one for name, one in tensors.items() if name.startswith(NETWORK)}
        network.load_state_dict(stored, strict=True)
        names = [tuple(str(text) for text in name) for name in about["learned"]]
        learned = dict(zip(names, tensors[LEARNED], strict=True)) if names else {}
        texts = None
        if about["texts"] is not None:
            texts = TextVectors(dict(zip(map(str, about["texts"]), tensors[TEXTS], strict=True)))
        stored_inference = dict(about["inference"])
        inference = Inference(**{**stored_inference, "scales": tuple(map(float, stored_inference["scales"]))})
        strength = float(about["strength"])
        if not 0 <= strength <= 1 or any(one.shape != (network.width,) for one in learned.values()):
            raise ValueError("a strength or a learned vector")
        return DenseAdapter(
            self.name, self.form, network.eval(), segmenter.towers, inference, bool(about["follows_outlines"]),
            learned, texts, strength,
        )  # fmt: skip

    def _second(
        self, first: DenseTrainer, samples: Sequence[Sample], others: Words, segmenter: Segmenter
    ) -> SupplyingTrainer | str:
        """The training with generated features that follows another one, of a copy; or why there is none."""
        network, taught = first.network, first.labels.words
        if GENERATOR in self.without:
            return LEFT_OUT
        if network.trains_tower or self.hidden != "ignored":
            return TOWER_TRAINED if network.trains_tower else PSEUDO_LABELLED
        words = (*taught, *others)
        vectors, has_text = self._vectors(words, segmenter)
        if self.texts is None:
            readable = readable_labels(words, segmenter.encoder)
        else:
            readable = frozenset(k for k in range(len(words)) if bool(has_text[k]))
        texts = F.normalize(vectors[: len(words)].cpu().float(), dim=1)
        in_words_space = network.entry_in_words_space and self.texts is None
        generated = generate_features(
            lambda: entry_cells(network, samples, len(taught), self.short_side(network, segmenter)),
            KnownLabels(texts, readable, frozenset(range(len(taught)))),
            in_words_space=in_words_space, config=replace(CONFIG, seed=self.seed),
        )  # fmt: skip
        if not len(generated):
            return generated.reason
        with torch.random.fork_rng():  # weights are drawn, and then replaced
            copied = self._network(network.preset, network.width, segmenter)
        copied.load_state_dict(network.state_dict())
        return SupplyingTrainer(
            copied, deepcopy(first.labels), self.supplied_loss(len(taught)), second_config(first.config),
            Supply.of(generated, texts), seed=self.seed, before=first.config.steps,
        )  # fmt: skip

    def _trainer(self, network: DenseNetwork, labels: LabelVectors, config: TrainingConfig) -> DenseTrainer:
        return DenseTrainer(network, labels, self.loss(), config, seed=self.seed)

    def _vectors(self, words: Words, segmenter: Segmenter) -> tuple[Tensor, Tensor]:
        if self.texts is not None:
            return self.texts.of(words)
        classes = segmenter.classes(words)
        readable = classes.has_text.clone()
        if segmenter.encoder.logit_bias is not None:
            # Trained with a sigmoid loss, a model rates words one by one: "background" is as true of grass as "grass",
            # and would win where nothing taught it otherwise.
            readable[-1] = False
        return classes.vectors, readable

    def _chosen(self, segmenter: Segmenter) -> NetworkPreset:
        if self.preset != SMALL and self.preset not in self.presets:
            names = ", ".join((SMALL, *self.presets))
            raise LearningError(f"preset {self.preset!r}", f"is not one of {self.name}", f"Choose one of {names}.")
        if self.preset == SMALL:
            return replace(type(self).small(segmenter.encoder, self.tower), **self.changes)
        return replace(self.presets[self.preset], **self.changes)

    def _network(
        self, preset: NetworkPreset, width: int, segmenter: Segmenter, *, holds_tower: bool = False
    ) -> DenseNetwork:
        config: TowerConfig = replace(preset.tower, random=True) if holds_tower else preset.tower
        tower = segmenter.towers.get(config)
        return type(self).network_of(preset, tower, width).to(tower.device)


@dataclass(frozen=True)
class LSegRecipe(DenseRecipe):
    """LSeg (Li et al., ICLR 2022)."""

    name: ClassVar[str] = "lseg"
    presets: ClassVar[Mapping[str, NetworkPreset]] = LSEG_PRESETS
    trainings: ClassVar[Mapping[str, TrainingConfig]] = dict.fromkeys(LSEG_PRESETS, _LSEG_TRAINING)
    flips: ClassVar[bool] = True  # each image is seen mirrored too, as in the paper's evaluation
    steps_per_label: ClassVar[int] = 20  # 500 steps: more for 24 pairs, less for 9 words
    small: ClassVar[Callable[[Encoder, str], NetworkPreset]] = small_lseg
    network_of: ClassVar[Callable[[Any, Any, int], DenseNetwork]] = LSegNetwork

    def loss(self) -> DenseLoss:
        """See `DenseRecipe`."""
        return lseg_loss


@dataclass(frozen=True)
class SazsRecipe(DenseRecipe):
    """SAZS (Liu et al., CVPR 2023).

    Attributes:
        weights: of the losses on boundaries; `without` sets some of them to 0.
    """

    weights: SazsLoss = field(default_factory=SazsLoss)
    name: ClassVar[str] = "sazs"
    parts: ClassVar[tuple[str, ...]] = (*TERMS, GENERATOR)
    presets: ClassVar[Mapping[str, NetworkPreset]] = SAZS_PRESETS
    trainings: ClassVar[Mapping[str, TrainingConfig]] = {
        "vit_l16": _SAZS_TRAINING, "drn": replace(_SAZS_TRAINING, steps=15200, rate=1e-2, tower_share=0.1),
    }  # fmt: skip
    small: ClassVar[Callable[[Encoder, str], NetworkPreset]] = small_sazs
    network_of: ClassVar[Callable[[Any, Any, int], DenseNetwork]] = SazsNetwork

    def loss(self) -> DenseLoss:
        """See `DenseRecipe`."""
        left_out: Any = dict.fromkeys((term for term in TERMS if term in self.without), 0.0)
        return replace(self.weights, **left_out)
