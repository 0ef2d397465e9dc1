"""A plain linear classifier on patch features: what is most often put on a frozen model, and what it forgets.

It starts at the zero-shot scores. Cells without a region count as background, those of labels that nobody has corrected
among them, so that training drives these labels out. No service has it: the laboratory shows with it what generated
examples are worth (`worker.lab.evaluation.drown`).
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
        batch: real cells of a step, and at most as many generated vectors.
        rate: learning rate of the first step.
        generated_weight: weight of generated vectors in the cross-entropy, PADing's for unseen classes.
        seed: of the batches.
    """

    steps: int = 300
    batch: int = 512
    rate: float = 0.05
    generated_weight: float = 5.0
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
    config: LinearConfig | None = None,
) -> LinearHead:  # fmt: skip
    """Train a linear head by cross-entropy over all labels and the background.

    Args:
        examples: corrected images.
        words: the texts of each of n classes.
        segmenter: the model.
        generated: further examples, of labels that no correction shows; None = none.
        config: how; None = as it is.

    Raises:
        LearningError: no cell has a label or is background.
    """
    config = config or LinearConfig()
    vectors, labels = labelled_cells(examples, words)
    if not len(vectors):
        raise LearningError("corrections", "all of them is void", "Accept a picture with a label in it.")
    labels = torch.where(labels < 0, len(words), labels)
    layer, scored = _zero_shot_layer(words, segmenter)
    scored[labels.unique()] = True
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(layer.parameters(), config.rate)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * (1 - step / config.steps)
        loss = _loss(layer, vectors, labels, config.batch, generator)
        if generated is not None:
            count = min(config.batch, len(generated.vectors))
            loss = loss + config.generated_weight * count / config.batch * _loss(
                layer, generated.vectors, generated.labels, count, generator
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return LinearHead(layer.weight.detach(), layer.bias.detach(), scored)


def _loss(layer: nn.Linear, vectors: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(len(vectors), (count,), generator=generator)
    return F.cross_entropy(layer(vectors[drawn]), labels[drawn])


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
