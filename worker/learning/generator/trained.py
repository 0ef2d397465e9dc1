"""A trained generator: a classifier of all labels, new vectors of any label, and rows for names that come later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.generator.feature_generator import FeatureGenerator
from worker.learning.generator.vectors import EQUAL, SUBJECT, Scaling, check_known, linear

_ROW_VECTORS = 256  # generated vectors of a later name, and of each other label without real ones
_ROW_STEPS = 100
_DECAY = 5e-4


@dataclass(frozen=True, eq=False)
class Negatives:
    """Real vectors that the row of a later name is learned against.

    Attributes:
        vectors: (M, D) float32, a sample of those of the training.
        weights: (M,) float32, what each counts.
        share: what the generated vectors of one unseen label counted in the training, where the real ones counted 1.
    """

    vectors: Tensor
    weights: Tensor
    share: float


@dataclass(frozen=True, eq=False)
class TrainedGenerator:
    """What `train_generator` makes.

    Attributes:
        generator: in evaluation mode, on the scale of `scaling`; `sample` gives the segmenter's.
        classifier: (D -> S + U + 1) of the segmenter's vectors: seen labels, unseen labels, no object last.
        scaling: between both scales.
        word_scaling: of the label vectors that enter the generator.
        texts: (S + U, T) float32 label vectors in the order of the rows.
        seen: S.
        negatives: for `with_label`.
        log: terms of the losses at some steps, and their "step" from 1.
    """

    generator: FeatureGenerator
    classifier: nn.Linear
    scaling: Scaling
    word_scaling: Scaling
    texts: Tensor
    seen: int
    negatives: Negatives
    log: tuple[Mapping[str, float], ...] = ()

    @property
    def unseen(self) -> int:
        """U, with the names that came later."""
        return len(self.texts) - self.seen

    @torch.no_grad()
    def sample(self, texts: Tensor, count: int, *, seed: int = 0) -> Tensor:
        """Generate vectors like the segmenter's.

        Args:
            texts: (C, T) float32 label vectors, of any labels whose words were read.
            count: how many of each.
            seed: of the noise.

        Returns:
            (C, count, D) float32.
        """
        place = self.texts.device
        words = self.word_scaling.scaled(texts.to(place, torch.float32))
        repeated = words.repeat_interleave(count, dim=0)
        drawn = self.generator(repeated, generator=torch.Generator().manual_seed(seed))
        return self.scaling.restored(drawn).reshape(len(texts), count, -1)

    def with_label(self, text: Tensor, *, seed: int = 0) -> TrainedGenerator:
        """Add a row for a label that was not known in training, after the unseen ones.

        The generator and the other rows stay as they are. The new row is a logistic regression of vectors generated for
        the label against kept real ones and those generated for the unseen labels, weighted as in the training.

        Args:
            text: (T,) float32 label vector.
            seed: of the noise.

        Raises:
            LearningError: the vector is none, or another label has the same one.
        """
        text = text.to(self.texts)[None]
        check_known(text, ["new"])
        if text.shape[1] != self.texts.shape[1]:
            problem = f"a label vector must have {self.texts.shape[1]} numbers, got {text.shape[1]}"
            raise LearningError(SUBJECT, problem, "Make it with the same text tower.")
        if bool((F.cosine_similarity(text, self.texts) > EQUAL).any()):
            problem = "the new label has the same vector as one that is known"
            raise LearningError(SUBJECT, problem, "Use that label's row.")
        weight, bias = self._row(text, seed)
        old = self.classifier
        weights = torch.cat([old.weight[:-1], weight[None], old.weight[-1:]]).detach()
        biases = torch.cat([old.bias[:-1], bias[None], old.bias[-1:]]).detach()
        return replace(self, classifier=linear(weights, biases), texts=torch.cat([self.texts, text]))

    def _row(self, text: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(D,) weights and () bias of a new row."""
        negatives = self.negatives
        wanted = self.sample(text, _ROW_VECTORS, seed=seed)[0]
        others = self.sample(self.texts[self.seen :], _ROW_VECTORS, seed=seed).flatten(0, 1)
        # Real ones count 1, and each label's generated ones `share`.
        parts = (
            negatives.weights / negatives.weights.sum(),
            wanted.new_full((len(others),), negatives.share / _ROW_VECTORS),
            wanted.new_full((_ROW_VECTORS,), negatives.share / _ROW_VECTORS),
        )
        vectors = torch.cat([negatives.vectors, others, wanted])
        # A softmax with one more row, the others fixed, is a sigmoid of how far the new logit is above all others.
        rivals = torch.logsumexp(self.classifier(vectors).detach(), dim=1)
        targets = torch.arange(len(vectors), device=vectors.device) >= len(vectors) - _ROW_VECTORS
        return _logistic(self.scaling, vectors, rivals, targets.float(), torch.cat(parts))


def _logistic(
    scaling: Scaling, vectors: Tensor, rivals: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights and bias whose logits, less those of the rivals, tell the targets apart."""
    scaled = scaling.scaled(vectors)
    with torch.inference_mode(False), torch.enable_grad():
        scaled, rivals, targets, weights = (one.clone() for one in (scaled, rivals, targets, weights))
        row = torch.zeros(1, scaled.shape[1] + 1, device=scaled.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([row], max_iter=_ROW_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = scaled @ row[0, :-1] + row[0, -1] - rivals
            entropy = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / weights.sum()
            total = entropy + 0.5 * _DECAY * row.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    made = scaling.restored_classifier(linear(row.detach()[:, :-1], row.detach()[:, -1]))
    return made.weight.detach()[0], made.bias.detach()[0]
