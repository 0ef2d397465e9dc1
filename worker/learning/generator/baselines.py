"""Classifiers of the same vectors without a generator: what PADing (He et al., CVPR 2023) is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.learning.generator.training import GeneratorConfig
from worker.learning.generator.vectors import (
    NO_OBJECT,
    RealVectors,
    Scaling,
    check_finite,
    check_known,
    check_real,
    check_texts,
    linear,
)

_NEVER = -1e4  # bias of a row that no vector wins


@dataclass(frozen=True, eq=False)
class Projection:
    """A classifier whose rows are label vectors, projected.

    Attributes:
        classifier: (D -> S + U + 1): seen labels, unseen labels, no object last.
        matrix: (D, T) float32, on the scale of `scaling`.
        scaling: of the vectors.
    """

    classifier: nn.Linear
    matrix: Tensor
    scaling: Scaling

    def with_label(self, text: Tensor) -> Projection:
        """Add the row of a (T,) label vector after the unseen ones.

        Raises:
            LearningError: the vector is none.
        """
        check_known(text[None], ["new"])
        row = _rows(self.scaling, self.matrix, F.normalize(text.to(self.matrix)[None], dim=1))
        old = self.classifier
        weights = torch.cat([old.weight[:-1], row.weight, old.weight[-1:]]).detach()
        biases = torch.cat([old.bias[:-1], row.bias, old.bias[-1:]]).detach()
        return replace(self, classifier=linear(weights, biases))


def train_projection(
    real: RealVectors, seen_texts: Tensor, unseen_texts: Tensor, config: GeneratorConfig
) -> Projection:
    """Train a linear map of vectors onto label vectors: a label's logit is their product, and no object has a row.

    Unseen labels take no part in the training.

    Args:
        real: vectors of seen labels and of no object.
        seen_texts: (S, T) float32 label vectors.
        unseen_texts: (U, T) float32 label vectors.
        config: its steps, queries, generator_rate, no_object_weight and seed.

    Raises:
        LearningError: as `train_generator`.
    """
    check_real(real, len(seen_texts))
    check_texts(seen_texts, unseen_texts)
    device = real.vectors.device
    with _training(config, device):
        seen, unseen = (F.normalize(texts.to(device).float(), dim=1).clone() for texts in (seen_texts, unseen_texts))
        scaling = Scaling.of(real.vectors.detach().float())
        projection = nn.Linear(real.vectors.shape[1], seen.shape[1], bias=False, device=device)
        no_object = nn.Linear(real.vectors.shape[1], 1, device=device)
        _train(
            real, scaling, config, [*projection.parameters(), *no_object.parameters()],
            lambda vectors: torch.cat([projection(vectors) @ seen.T, no_object(vectors)], dim=1), len(seen),
        )  # fmt: skip
        matrix = projection.weight.detach().T.clone()  # (D, T)
        labels = _rows(scaling, matrix, torch.cat([seen, unseen]))
        last = scaling.restored_classifier(no_object)
        weights, biases = torch.cat([labels.weight, last.weight]), torch.cat([labels.bias, last.bias])
        return Projection(linear(weights.detach(), biases.detach()), matrix, scaling)


def without_unseen(classifier: nn.Linear, unseen: int) -> nn.Linear:
    """Copy a classifier of seen labels, and add unseen labels that no vector wins, before no object.

    Args:
        classifier: (D -> S + 1): seen labels, no object last; it stays as it is.
        unseen: U; 0 = none is added.

    Returns:
        (D -> S + U + 1).
    """
    weight, bias = classifier.weight.detach(), classifier.bias.detach()
    weights = torch.cat([weight[:-1], weight.new_zeros(unseen, weight.shape[1]), weight[-1:]])
    return linear(weights, torch.cat([bias[:-1], bias.new_full((unseen,), _NEVER), bias[-1:]]))


@contextmanager
def _training(config: GeneratorConfig, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        with torch.inference_mode(False), torch.enable_grad():
            yield


def _train(
    real: RealVectors,
    scaling: Scaling,
    config: GeneratorConfig,
    parameters: list[nn.Parameter],
    logits: Callable[[Tensor], Tensor],
    seen: int,
) -> None:
    """Make the cross-entropy small of (N, S + 1) logits of scaled vectors, no object last."""
    vectors = scaling.scaled(real.vectors.detach().float()).clone()
    labels = torch.where(real.labels == NO_OBJECT, seen, real.labels)
    weights = vectors.new_ones(seen + 1)
    weights[seen] = config.no_object_weight
    optimizer = torch.optim.Adam(parameters, config.generator_rate, fused=True)
    for step in range(config.steps):
        drawn = torch.randint(len(labels), (config.queries,), device=labels.device)
        # Not `weight=` and "mean": a draw of nothing but no object, whose weight may be 0, would be no number.
        entropy = F.cross_entropy(logits(vectors[drawn]), labels[drawn], reduction="none")
        loss = (weights[labels[drawn]] * entropy).mean()
        check_finite({"classifier": float(loss.detach())}, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _rows(scaling: Scaling, matrix: Tensor, texts: Tensor) -> nn.Linear:
    """Rows of (C, T) label vectors of unit length, for the segmenter's vectors."""
    weight = texts @ matrix.T  # (C, D)
    return scaling.restored_classifier(linear(weight, weight.new_zeros(len(weight))))
