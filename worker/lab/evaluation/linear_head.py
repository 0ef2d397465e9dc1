"""A plain linear classifier on patch features: what is most often put on a frozen model, and what it forgets.

It starts at the zero-shot scores. Cells without a region count as background, those of labels that nobody has corrected
among them, so that training drives these labels out. With generated examples of such a label, a cell without a region
may be of it, too. No service has this head: the laboratory shows with it what generated examples are worth
(`worker.lab.evaluation.drown`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.interfaces import Example, Words
from worker.learning.recipes.generated import GeneratedExamples, labelled_cells
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.segmenter import Segmenter


@dataclass(frozen=True)
class LinearConfig:
    """How a linear head is trained: AdamW, with a learning rate that falls to 0.

    Attributes:
        steps: of AdamW.
        batch: real cells of a step, and a quarter as many generated vectors.
        rate: learning rate of the first step.
        generated_weight: weight of the mean loss of generated vectors, where that of real cells has 1.
        seed: of the batches.
    """

    steps: int = 300
    batch: int = 512
    rate: float = 0.01
    generated_weight: float = 0.2
    seed: int = 0


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class LinearHead:
    """A trained linear classifier.

    Attributes:
        weight: (n + 1, D) float32, the background last.
        bias: (n + 1,) float32.
        scored: (n + 1,) bool: classes with a score.
    """

    weight: Tensor
    bias: Tensor
    scored: Tensor
    refinement: ClassVar[Method] = ADAPTIVE

    @torch.no_grad()
    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`; the image's classes must be those it was trained with."""
        logits = F.linear(image.embedding.features.cpu(), self.weight, self.bias).permute(2, 0, 1)
        like = image.zero_shot
        return ClassScores.of(logits.to(like.logits.device), self.scored.to(like.scored.device))


@one_thread()
def fit_linear(
    examples: Sequence[Example], words: Words, segmenter: Segmenter, *, generated: GeneratedExamples | None = None,
    spared: Sequence[int] = (), config: LinearConfig | None = None,
) -> LinearHead:  # fmt: skip
    """Train a linear head by cross-entropy over all labels and the background.

    Args:
        examples: corrected images.
        words: the texts of each of n classes.
        segmenter: the model.
        generated: further examples, of labels that no correction shows; None = none.
        spared: labels that a cell without a region may have, beside the background: the loss of such a cell is of the
            sum of their posteriors (as "Modeling the Background" has it: Cermelli et al., CVPR 2020).
        config: how; None = as it is.

    Raises:
        LearningError: all cells are void.
    """
    config = config or LinearConfig()
    vectors, labels = labelled_cells(examples, words)
    if not len(vectors):
        raise LearningError("corrections", "all of them is void", "Accept a picture with a label in it.")
    labels = torch.where(labels < 0, len(words), labels)
    layer, scored = _zero_shot_layer(words, segmenter)
    scored[labels] = True
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(layer.parameters(), config.rate)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * (1 - step / config.steps)
        drawn = torch.randint(len(vectors), (config.batch,), generator=generator)
        loss = _loss(layer(vectors[drawn]), labels[drawn], [*spared, len(words)])
        if generated is not None and len(generated):
            drawn = torch.randint(len(generated), (max(1, config.batch // 4),), generator=generator)
            supplied = F.cross_entropy(layer(generated.vectors[drawn]), generated.labels[drawn])
            loss = loss + config.generated_weight * supplied
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return LinearHead(layer.weight.detach(), layer.bias.detach(), scored)


def _loss(logits: Tensor, labels: Tensor, unlabelled: Sequence[int]) -> Tensor:
    """Mean cross-entropy of (N, C) logits; cells of the last class may be of any of the `unlabelled`."""
    posterior = logits.log_softmax(dim=1)
    own = posterior.gather(1, labels[:, None])[:, 0]
    any_of_them = posterior[:, list(unlabelled)].logsumexp(dim=1)
    return -torch.where(labels == logits.shape[1] - 1, any_of_them, own).mean()


def _zero_shot_layer(words: Words, segmenter: Segmenter) -> tuple[nn.Linear, Tensor]:
    """The zero-shot scores as a linear layer, one vector for each class, and which classes have a score."""
    classes, encoder = segmenter.classes(words), segmenter.encoder
    rows = torch.where(classes.has_text[:, None], encoder.logit_scale * classes.vectors, 0.0).cpu().clone()
    bias = torch.zeros(len(rows))
    if encoder.logit_bias is not None:  # a sigmoid for each label: none of them is the background
        rows[-1], bias[:-1] = 0.0, encoder.logit_bias
    layer = nn.Linear(rows.shape[1], len(rows))
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(bias)
    return layer, classes.has_text.cpu().clone()
