"""Training of a query decoder on a frozen tower, step by step, so that it can be broken off and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.proposals.entering import enter
from worker.learning.proposals.matching import LossWeights, TrueMasks, query_losses
from worker.learning.proposals.proposals import SegmentedImage
from worker.learning.proposals.query_decoder import QueryDecoder, QueryDecoderConfig, frozen_maps, small_decoder
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.encoders.towers import TowerMaps
from worker.segmentation.segmenter import Segmenter

Report = Callable[[int, int, float], None]
"""(steps done, steps in all, loss of the last step)"""

_RESUME = "Resume with the settings it was begun with, or begin anew in another folder."


@dataclass(frozen=True)
class QueryTrainingConfig:
    """How a decoder is trained.

    Attributes:
        steps: in all; the learning rate falls to 0 over them.
        batch: images per step.
        rate: learning rate of AdamW.
        weight_decay: of weights; not of biases, norms and queries.
        warmup: steps over which the learning rate rises first.
        largest_gradient: norm that gradients are clipped to.
        flips: whether half of the images are mirrored.
        weights: of the losses.
        seed: of weights and batches.
    """

    steps: int = 1500
    batch: int = 8
    rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 50
    largest_gradient: float = 1.0
    flips: bool = True
    weights: LossWeights = field(default_factory=LossWeights)
    seed: int = 0


class QueryDecoderTrainer:
    """Holds a decoder, its optimizer, and the maps of the images that it has seen, in half precision: the tower is
    frozen, so each image goes through it once, and mirrored once more.

    Args:
        decoder: to train, on the device of its tower.
        samples: what is learned from; at least one has a segment.
        config: how.

    Raises:
        LearningError: no image shows a segment.
    """

    def __init__(self, decoder: QueryDecoder, samples: Sequence[SegmentedImage], config: QueryTrainingConfig) -> None:
        if not any(sample.classes for sample in samples):
            raise LearningError("query decoder", "no image shows a segment to learn", "Name fewer labels as unseen.")
        self.decoder, self.config, self.steps_done = decoder, config, 0
        self._samples = samples
        self._seen: dict[tuple[int, bool], tuple[TowerMaps, TrueMasks]] = {}
        self._optimizer = torch.optim.AdamW(_parameter_groups(decoder, config), config.rate)

    @one_thread()
    def step(self) -> dict[str, float]:
        """Take one step, and return the terms of the loss before it.

        Raises:
            LearningError: the loss is no number; the weights are as they were.
        """
        config = self.config
        self.decoder.train()
        rng = np.random.default_rng([config.seed, self.steps_done])
        rounds = [rng.permutation(len(self._samples)) for _ in range(-(-config.batch // len(self._samples)))]
        drawn = [(int(k), config.flips and rng.random() < 0.5) for k in np.concatenate(rounds)[: config.batch]]
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate * self._rate_factor()
        entered = [self._entered(number, flipped) for number, flipped in drawn]
        terms = _batch_losses(self.decoder, entered, config.weights)
        values = {name: float(value.detach()) for name, value in terms.items()}
        if not all(map(math.isfinite, values.values())):
            problem = f"the loss of step {self.steps_done + 1} is no number"
            raise LearningError("query decoder", problem, "Lower the learning rate.")
        self._optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), config.largest_gradient)
        self._optimizer.step()
        self.steps_done += 1
        return values

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, for `torch.save`; loads with `weights_only=True`."""
        return {"decoder": self.decoder.state_dict(), "optimizer": self._optimizer.state_dict(),
                "steps_done": self.steps_done, "seed": self.config.seed}  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            LearningError: it is of another decoder or another seed.
        """
        if state.get("seed") != self.config.seed:
            problem = f"its training was begun with seed {state.get('seed')}, not {self.config.seed}"
            raise LearningError("query decoder", problem, _RESUME)
        try:
            self.decoder.load_state_dict(state["decoder"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.steps_done = int(state["steps_done"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            problem = f"its training was begun with another decoder or optimizer ({str(error)[:200]})"
            raise LearningError("query decoder", problem, _RESUME) from error

    def _rate_factor(self) -> float:
        """Share of the learning rate at this step: a linear rise, times half a cosine."""
        warmup = min(1.0, (self.steps_done + 1) / self.config.warmup) if self.config.warmup else 1.0
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, self.steps_done / self.config.steps)))

    def _entered(self, number: int, flipped: bool) -> tuple[TowerMaps, TrueMasks]:
        """The maps and true masks of an image."""
        key = (number, flipped)
        if key not in self._seen:
            decoder, sample = self.decoder, self._samples[number]
            pixels = enter(sample.image, decoder)
            pixels = pixels.flip(-1) if flipped else pixels
            maps = frozen_maps(decoder.tower, pixels[None])
            truth = TrueMasks.of(sample, decoder.grid_of(maps))
            truth = truth.flipped() if flipped else truth
            self._seen[key] = _as_type(maps, torch.float16), truth.to(decoder.tower.device)
        maps, truth = self._seen[key]
        return _as_type(maps, torch.float32), truth


def _batch_losses(
    decoder: QueryDecoder, entered: Sequence[tuple[TowerMaps, TrueMasks]], weights: LossWeights
) -> Mapping[str, Tensor]:
    """Losses of a batch. Images of one size go through the decoder together; of several sizes, size by size."""
    groups: dict[tuple[int, ...], list[tuple[TowerMaps, TrueMasks]]] = {}
    for maps, truth in entered:
        groups.setdefault(tuple(maps.levels[0].shape), []).append((maps, truth))
    terms: dict[str, Tensor] = {}
    for group in groups.values():
        found = query_losses(decoder.predictions(_joined([maps for maps, _ in group])), [one for _, one in group],
                             weights)  # fmt: skip
        share = len(group) / len(entered)
        terms = {name: terms.get(name, 0) + share * value for name, value in found.items()}
    return terms


def train_query_decoder(
    samples: Sequence[SegmentedImage], labels: Sequence[str], segmenter: Segmenter, config: QueryTrainingConfig,
    report: Report | None = None, *, form: QueryDecoderConfig | None = None,
) -> QueryDecoder:  # fmt: skip
    """Train a decoder from the start.

    Args:
        samples: images with their segments, whose classes are places in `labels`.
        labels: names of the seen labels.
        segmenter: the model.
        config: how.
        report: told of every step.
        form: of the decoder; None = `small_decoder`.

    Raises:
        LearningError: there is no label or no segment to learn, or the loss is no number.
        ModelUnavailable: the tower cannot be loaded.
    """
    trainer = query_decoder_trainer(samples, labels, segmenter, config, form=form)
    while trainer.steps_done < config.steps:
        terms = trainer.step()
        if report is not None:
            report(trainer.steps_done, config.steps, terms["total"])
    return trainer.decoder.eval()


def query_decoder_trainer(
    samples: Sequence[SegmentedImage], labels: Sequence[str], segmenter: Segmenter, config: QueryTrainingConfig, *,
    form: QueryDecoderConfig | None = None,
) -> QueryDecoderTrainer:  # fmt: skip
    """Prepare the same training, to be taken step by step."""
    if not labels:
        raise LearningError("query decoder", "no seen label is left to learn", "Name fewer labels as unseen.")
    form = form or small_decoder(segmenter.encoder)
    tower = segmenter.towers.get(form.tower)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        decoder = QueryDecoder(form, tower, labels).to(tower.device)
    return QueryDecoderTrainer(decoder, samples, config)


def _as_type(maps: TowerMaps, kind: torch.dtype) -> TowerMaps:
    aligned = None if maps.aligned is None else maps.aligned.to(kind)
    return TowerMaps(tuple(one.to(kind) for one in maps.levels), (), aligned)


def _joined(maps: Sequence[TowerMaps]) -> TowerMaps:
    levels = tuple(torch.cat(depth) for depth in zip(*(one.levels for one in maps), strict=True))
    aligned = [one.aligned for one in maps if one.aligned is not None]
    return TowerMaps(levels, (), torch.cat(aligned) if aligned else None)


def _parameter_groups(decoder: QueryDecoder, config: QueryTrainingConfig) -> list[dict[str, Any]]:
    queries = {id(decoder.queries), id(decoder.query_places)}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for one in decoder.parameters():
        groups[one.dim() > 1 and id(one) not in queries].append(one)
    return [{"params": found, "weight_decay": config.weight_decay if decays else 0.0}
            for decays, found in groups.items()]  # fmt: skip
