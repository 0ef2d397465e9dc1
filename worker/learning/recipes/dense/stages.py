"""Two trainings of a dense recipe, after PADing (He et al., CVPR 2023): from corrections alone, and then a copy of the
trained network with generated features of labels that nobody has corrected. The first ends as it would by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.interfaces import UNLABELLED, Fitted
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.batches import Sample
from worker.learning.recipes.dense.labels import LabelVectors
from worker.learning.recipes.dense.networks import DenseNetwork, DenseOutput
from worker.learning.recipes.dense.pasting import Supply, paste
from worker.learning.recipes.dense.training import DenseLoss, DenseTrainer, TrainingConfig, showing
from worker.learning.recipes.generated import Cells, reason_of, sampled_cells
from worker.segmentation.pictures import entered_pixels

log = logging.getLogger(__name__)

TOWER_TRAINED = "the image tower is trained, too"
PSEUDO_LABELLED = "labels without corrections are given pseudo-labels already"
NO_TIME = "the time for training was over"
"""Why a dense recipe learns from no generated examples, beside the reasons of `worker.learning.recipes.generated`."""

_STEPS, _RATE = 0.25, 0.5  # of those of the first training
_WARMUP = 0.25  # of the steps, at most
_MOST_LOOKED_AT = 16  # samples of each label whose cells the generator learns from
_PASTED = 1  # what tells the draws of pasting from those of the crops


def second_config(config: TrainingConfig) -> TrainingConfig:
    """How the second training goes on after one of this kind: a quarter of the steps, at half the learning rate."""
    steps = max(1, round(_STEPS * config.steps))
    return replace(config, steps=steps, rate=_RATE * config.rate, warmup=min(config.warmup, round(_WARMUP * steps)))


def entry_cells(network: DenseNetwork, samples: Sequence[Sample], taught: int, short_side: int) -> Cells:
    """Read cells of the map that generated features are pasted into; a cell's class is a taught row, or UNLABELLED.

    Args:
        network: trained; it is in evaluation mode afterwards.
        samples: of which at most 16 that show it are looked at for each taught label.
        taught: how many labels are; the row after theirs is the background.
        short_side: pixels of the short side at which images enter the network.
    """
    network.eval()
    looked_at, tower = showing(samples, range(taught), most=_MOST_LOOKED_AT), network.tower

    def entry(sample: Sample) -> Tensor:
        pixels = entered_pixels(sample.image, short_side, tower.multiple)
        return network.entry(tower.normalise(pixels[None]))[0].permute(1, 2, 0).cpu().float()

    maps = ((entry(one), np.where(one.truth == taught, np.int16(UNLABELLED), one.truth)) for one in looked_at)
    return sampled_cells(maps, len(looked_at))


class SupplyingTrainer(DenseTrainer):
    """Trains a network further, on crops that generated features are pasted into.

    Args:
        network: to train: a copy, if what was learned before is to stay.
        labels: the taught labels; the supplied ones are constants and no part of them.
        loss: of taught labels, supplied labels and background.
        config: how.
        supply: what is pasted.
        seed: of dropout, batches and pasting.
        before: steps of the training that this one follows.
    """

    def __init__(
        self, network: DenseNetwork, labels: LabelVectors, loss: DenseLoss, config: TrainingConfig, supply: Supply, *,
        seed: int = 0, before: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(network, labels, loss, config, seed=seed, before=before)
        self._supply = supply

    def _forward(self, pixels: Tensor, truth: Tensor) -> tuple[DenseOutput, Tensor]:
        background, rng = len(self.labels.words), np.random.default_rng([self._seed, self._number, _PASTED])
        pasted: list[Tensor] = []

        def change(entry: Tensor) -> Tensor:
            changed, now = paste(entry, truth, self._supply, background, rng)
            pasted.append(now)
            return changed

        rows = self.labels()
        rows = torch.cat([rows[:background], self._supply.texts.to(rows), rows[background:]])
        return self.network(pixels, rows, change), pasted[0]


class StagedTraining:
    """Holds both trainings, which are taken step by step.

    Args:
        first: from corrections alone.
        samples: what is learned from, at the size at which they enter the network.
        adapter: makes a head of a network and its label vectors.
        second: makes the second training when the first has ended, or tells why there is none.

    Attributes:
        first, second: as they are; second = None before it begins and where there is none.
        reason: why there is none; "" where there is one, or may be.
    """

    def __init__(
        self, first: DenseTrainer, samples: Sequence[Sample],
        adapter: Callable[[DenseNetwork, LabelVectors], DenseAdapter], second: Callable[[], SupplyingTrainer | str],
    ) -> None:  # fmt: skip
        self.first, self.reason = first, ""
        self.second: SupplyingTrainer | None = None
        self._samples, self._adapter, self._begin = samples, adapter, second

    @property
    def first_over(self) -> bool:
        """Whether the first training has taken all its steps."""
        return self.first.steps_done >= self.first.config.steps

    @property
    def over(self) -> bool:
        """Whether both have, or there is no second one."""
        if not self.first_over:
            return False
        return bool(self.reason) or (self.second is not None and self.second.steps_done >= self.second.config.steps)

    @property
    def told(self) -> str:
        """How far it is, for people."""
        if self.second is None:
            return f"{self.first.steps_done} of {self.first.config.steps} steps"
        return f"{self.second.steps_done} of {self.second.config.steps} steps with generated examples"

    def step(self) -> None:
        """Take a step of the training in progress; after the last one of the first, the second is made ready, which
        takes seconds.

        Raises:
            As `step_first`. An error of the second one is its reason.
        """
        if not self.first_over:
            self.step_first()
        elif self.second is not None:
            self._step_second(self.second)
        if self.first_over and self.second is None and not self.reason:
            self._begin_second()

    def step_first(self) -> None:
        """Take a step of the first training, and nothing else.

        Raises:
            LearningError: its loss is no number.
        """
        self.first.step(*self.first.draw(self._samples))

    def _begin_second(self) -> None:
        try:
            begun = self._begin()
        except (LearningError, MemoryError, RuntimeError) as error:
            begun = _reason(error)
        if isinstance(begun, str):
            self.reason = begun
        else:
            self.second = begun

    def _step_second(self, second: SupplyingTrainer) -> None:
        try:
            second.step(*second.draw(self._samples))
        except (LearningError, MemoryError, RuntimeError) as error:
            self.second, self.reason = None, _reason(error)

    def plain(self) -> DenseAdapter:
        """What has been learned from corrections alone so far."""
        return self._adapter(self.first.network, self.first.labels)

    def supplied(self) -> DenseAdapter | None:
        """What has been learned with generated features so far; None before the first step with these."""
        if self.second is None or not self.second.steps_done:
            return None
        return self._adapter(self.second.network, self.second.labels)

    def fitted(self) -> Fitted:
        """What has been learned so far."""
        supplied = self.supplied()
        return Fitted(self.plain(), supplied, "" if supplied is not None else self.reason or NO_TIME)


def _reason(error: Exception) -> str:
    """Why the second training broke off: no error of its may cost the first one, which is finished."""
    try:
        return reason_of(error)
    except RuntimeError:
        log.warning("training with generated examples: unexpected", exc_info=True)
        return f"the training with them broke off ({type(error).__name__}: {error!s:.200})"
