"""Training of a generator and of the classifier that it supplies, as PADing does (He et al., CVPR 2023).

Two quirks of the authors' code are not copied: that generated vectors are classified among the first 156 rows whatever
the data (here: among the seen labels), and that the row of no object moves into the place of the first unseen label
when the classifier is enlarged (here: it is the last row, always).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.generator import losses
from worker.learning.generator.disentangling import Disentangler
from worker.learning.generator.feature_generator import FeatureGenerator
from worker.learning.generator.gmmn import GmmnGenerator
from worker.learning.generator.primitives import GeneratorSize, PrimitiveGenerator
from worker.learning.generator.trained import Negatives, TrainedGenerator
from worker.learning.generator.vectors import (
    NO_OBJECT,
    SUBJECT,
    RealVectors,
    Scaling,
    check_finite,
    check_real,
    check_texts,
    linear,
)

Report = Callable[[int, Mapping[str, float]], None]
"""Called after each step with its number from 1 and the terms of its losses."""

_MOMENTUM, _DECAY = 0.9, 5e-4  # of the classifier
_DROPS, _DROP = (0.7, 0.925), 0.1  # the generator's rate falls tenfold at these shares of the steps
_LOGGED = 200  # steps that are kept of a training
_KEPT = 1024  # real vectors that are kept to learn the row of a later name against


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses beside the maximum mean discrepancy, which has weight 1; the defaults are the published.

    Attributes:
        classification: of classification.
        structure: of everything below together: the paper's results depend on it most.
        alignment: of the alignment of relations.
        unrelated: of unrelated parts.
        related: of related parts.
        reconstruction: of vectors from their parts.
    """

    classification: float = 1e-3
    structure: float = 1e-4
    alignment: float = 1.0
    unrelated: float = 0.5
    related: float = 0.2
    reconstruction: float = 0.5


@dataclass(frozen=True)
class GeneratorConfig:
    """How a generator is trained; see `presets`.

    Attributes:
        steps: each of the generator, then of the classifier.
        size: of the generator.
        weights: of its losses.
        primitives: whether vectors are made of primitives; if not, by the GMMN baseline.
        alignment: whether relations are aligned.
        disentangling: whether vectors have a related and an unrelated part; then related parts alone are aligned.
        disentangling_dropout: of both parts and their decoder, in training.
        per_label: whether each label's generated vectors are compared with its own real ones, as ZS3Net does, and not
            all with all, as PADing does.
        scaled_words: whether label vectors are brought to zero mean and mean squared length T first, so that what they
            share is not most of what the generator sees; if not, they enter as they are, as in PADing.
        batch: real vectors of seen labels in a step of the generator.
        queries: real vectors in a step of the classifier.
        supplied: unseen labels that get a generated vector in a step of the classifier, drawn anew; 0 = all.
        unseen_weight: of these vectors, in place of a calibration.
        no_object_weight: of vectors of no object.
        generator_rate: learning rate of Adam.
        classifier_rate: learning rate of SGD with momentum.
        seed: of everything drawn.

    Raises:
        LearningError: a number is too small.
    """

    steps: int = 300
    size: GeneratorSize = field(default_factory=GeneratorSize)
    weights: LossWeights = field(default_factory=LossWeights)
    primitives: bool = True
    alignment: bool = True
    disentangling: bool = True
    disentangling_dropout: float = 0.1
    per_label: bool = False
    scaled_words: bool = False
    batch: int = 128
    queries: int = 512
    supplied: int = 5
    unseen_weight: float = 5.0
    no_object_weight: float = 0.1
    generator_rate: float = 5e-4
    classifier_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 2, "queries": 1, "supplied": 0, "unseen_weight": 0, "no_object_weight": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                problem = f"{name} must be {smallest} or more, got {getattr(self, name)}"
                raise LearningError(SUBJECT, problem, "Give a larger number.")


def train_generator(
    real: RealVectors,
    seen_texts: Tensor,
    unseen_texts: Tensor,
    config: GeneratorConfig,
    *,
    initial: nn.Linear | None = None,
    report: Report | None = None,
) -> TrainedGenerator:
    """Train a generator on vectors of seen labels, and a classifier of all labels on these and on generated ones.

    A seen label without any real vector is supplied with generated ones, like an unseen one.

    Args:
        real: vectors of seen labels and of no object, on the device to train on.
        seen_texts: (S, T) float32 label vectors.
        unseen_texts: (U, T) float32 label vectors.
        config: how.
        initial: a classifier to start at: its rows are the seen labels and, last, no object, with or without the
            unseen labels between them; None = zero everywhere.
        report: is told of each step.

    Raises:
        LearningError: there is no seen or no unseen label, a vector is none, an unseen label has the vector of another
            one, the initial classifier does not fit, or a loss is no number.
    """
    check_real(real, len(seen_texts))
    check_texts(seen_texts, unseen_texts)
    devices = [real.vectors.device] if real.vectors.is_cuda else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(config.seed)
        training = Training(real, seen_texts, unseen_texts, config, initial)
        log = []
        every = max(1, config.steps // _LOGGED)
        for step in range(config.steps):
            terms = training.step(step)
            if step % every == 0 or step == config.steps - 1:
                log.append({"step": step + 1, **terms})
            if report is not None:
                report(step + 1, terms)
        return training.trained(log)


class Training:
    """Holds what is trained, and its optimizers. Draws from the global generator of random numbers."""

    def __init__(
        self, real: RealVectors, seen_texts: Tensor, unseen_texts: Tensor, config: GeneratorConfig,
        initial: nn.Linear | None,
    ) -> None:  # fmt: skip
        device = real.vectors.device
        self.config, self.seen, self.unseen = config, len(seen_texts), len(unseen_texts)
        self.texts = torch.cat([seen_texts, unseen_texts]).detach().to(device, torch.float32).clone()  # (S + U, T)
        vectors = real.vectors.detach().float().clone()  # nothing reaches the segmenter
        self.scaling = Scaling.of(vectors)
        unscaled = Scaling(torch.zeros_like(self.texts[0]), 1.0)
        self.word_scaling = Scaling.of(self.texts) if config.scaled_words else unscaled
        self._words = self.word_scaling.scaled(self.texts)
        self.vectors = self.scaling.scaled(vectors)
        rows = self.seen + self.unseen
        self.labels = torch.where(real.labels == NO_OBJECT, rows, real.labels)  # no object is the last row
        self._found = (self.labels < rows).nonzero()[:, 0]
        shown = torch.bincount(self.labels, minlength=rows)[:rows] > 0
        self._supplied = (~shown).nonzero()[:, 0]
        width, text_width = vectors.shape[1], self.texts.shape[1]
        self.generator: FeatureGenerator = (
            PrimitiveGenerator(text_width, width, config.size) if config.primitives
            else GmmnGenerator(text_width, width)
        ).to(device)  # fmt: skip
        self.disentangler = Disentangler(width, config.disentangling_dropout).to(device)
        self.classifier = self._start(initial)
        self._weights = torch.ones(rows + 1, device=device)
        self._weights[self._supplied], self._weights[rows] = config.unseen_weight, config.no_object_weight
        trained = chain(self.generator.parameters(), self.disentangler.parameters())
        self._adam = torch.optim.Adam(trained, config.generator_rate, fused=True)
        self._sgd = torch.optim.SGD(
            self.classifier.parameters(), config.classifier_rate, momentum=_MOMENTUM, weight_decay=_DECAY
        )

    def step(self, step: int) -> dict[str, float]:
        """Take one step of the generator, then one of the classifier.

        Returns:
            The terms of both losses, before the step.

        Raises:
            LearningError: one is no number; then its step is not taken.
        """
        for group in self._adam.param_groups:
            passed = sum(step >= share * self.config.steps for share in _DROPS)
            group["lr"] = self.config.generator_rate * _DROP**passed
        terms = self.generator_terms()
        found = _take(self._adam, terms["generator"], terms, step)
        terms = {"classifier": self.classifier_loss()}
        return found | _take(self._sgd, terms["classifier"], terms, step)

    def generator_terms(self) -> dict[str, Tensor]:
        """Losses of the generator on new draws, and their weighted sum as "generator"."""
        config, weights = self.config, self.config.weights
        drawn = self._found[torch.randint(len(self._found), (config.batch,), device=self._found.device)]
        labels = self.labels[drawn]
        # One vector for each label, beside as many of each seen label as were drawn.
        structured = config.alignment or config.disentangling
        one_each = torch.arange(len(self.texts), device=labels.device)[: None if structured else 0]
        words = self.generator.projection(self._words)
        wanted = torch.cat([labels, one_each])
        generated = self.generator.generate(words[wanted], self.generator.draw_noise(len(wanted)))
        fakes, each = generated[: len(labels)], generated[len(labels) :]
        terms = {
            "mmd": losses.mmd(self.vectors[drawn], fakes, labels if config.per_label else None),
            "classification": losses.classification(fakes, labels, self.classifier, self.seen),
        }
        terms |= self._structure_terms(each, words)
        weighted = terms["mmd"] + weights.classification * terms["classification"]
        for name in terms.keys() - {"mmd", "classification"}:
            weighted = weighted + weights.structure * float(getattr(weights, name)) * terms[name]
        return {**terms, "generator": weighted}

    def _structure_terms(self, each: Tensor, words: Tensor) -> dict[str, Tensor]:
        """Losses of one vector (S + U, D) for each label, and projected label vectors (S + U, D)."""
        terms, aligned = {}, each
        if self.config.disentangling:
            parts = self.disentangler
            aligned, unrelated = parts.related(each), parts.unrelated(each)
            places = torch.arange(len(each), device=each.device)
            terms["related"] = losses.relatedness(parts.scores(aligned, words), places)
            terms["unrelated"] = losses.unrelatedness(unrelated, torch.randn_like(unrelated))
            terms["reconstruction"] = losses.reconstruction(parts.decoded(aligned, unrelated), each)
        if self.config.alignment:
            halves = [self.seen, self.unseen]
            visual, semantic = torch.split(aligned, halves), torch.split(words, halves)
            terms["alignment"] = losses.alignment((visual[0], visual[1]), (semantic[0], semantic[1]))
        return terms

    def classifier_loss(self) -> Tensor:
        """Weighted cross-entropy of real vectors and, detached, of generated ones, on new draws."""
        drawn = torch.randint(len(self.labels), (self.config.queries,), device=self.labels.device)
        supplied = self._supplied
        if 0 < self.config.supplied < len(supplied):
            supplied = supplied[torch.randperm(len(supplied), device=supplied.device)[: self.config.supplied]]
        with torch.no_grad():
            fakes = self.generator(self._words[supplied])
        vectors, labels = torch.cat([self.vectors[drawn], fakes]), torch.cat([self.labels[drawn], supplied])
        return F.cross_entropy(self.classifier(vectors), labels, self._weights)

    def trained(self, log: list[dict[str, float]]) -> TrainedGenerator:
        """What was trained, ready to be used."""
        kept = torch.randperm(len(self.vectors), device=self.vectors.device)[:_KEPT]
        config, count = self.config, len(self._supplied)
        share = self.config.supplied / count if 0 < self.config.supplied < count else 1.0
        real_weight = float(self._weights[self.labels].mean()) * config.queries
        negatives = Negatives(
            self.scaling.restored(self.vectors[kept]), self._weights[self.labels[kept]],
            share=share * config.unseen_weight / real_weight,
        )  # fmt: skip
        return TrainedGenerator(
            generator=self.generator.eval().requires_grad_(False),
            classifier=self.scaling.restored_classifier(self.classifier),
            scaling=self.scaling, word_scaling=self.word_scaling, texts=self.texts, seen=self.seen,
            negatives=negatives, log=tuple(log),
        )  # fmt: skip

    def _start(self, initial: nn.Linear | None) -> nn.Linear:
        """The classifier at the start, for scaled vectors."""
        width, rows = self.vectors.shape[1], self.seen + self.unseen + 1
        started = linear(self.vectors.new_zeros(rows, width), self.vectors.new_zeros(rows))
        if initial is None:
            return started
        if initial.bias is None or initial.in_features != width or initial.out_features not in (self.seen + 1, rows):
            problem = (
                f"a classifier to start at must have {self.seen + 1} or {rows} rows of {width} numbers and a bias, got "
                f"{initial.out_features} rows of {initial.in_features}"
            )
            raise LearningError(SUBJECT, problem, "Give that of the same segmenter and the same labels.")
        given = self.scaling.scaled_classifier(initial)
        places = torch.arange(rows) if initial.out_features == rows else torch.tensor([*range(self.seen), rows - 1])
        with torch.no_grad():
            started.weight[places], started.bias[places] = given.weight, given.bias
        return started


def _take(optimizer: torch.optim.Optimizer, loss: Tensor, terms: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """Take a step of an optimizer, and return the terms as numbers."""
    values = {name: float(value.detach()) for name, value in terms.items()}
    check_finite(values, step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return values
