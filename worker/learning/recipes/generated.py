"""Examples of labels that nobody has corrected, generated from their words.

A generator (PADing: He et al., "Primitive Generation and Semantic-related Alignment for Universal Zero-Shot
Segmentation", CVPR 2023) learns from the cells of the corrected labels how patch features lie around the vector of
their words, and makes features for the words of the others. Recipes learn from them beside the corrections, so that
these do not drown the other labels.

The paper generates whole features. From the few labels of a project that fails: a label gets the features of the
corrected one with the nearest words. Here features lie in the space of the words, so a cell is its label's vector times
one factor, plus a rest. Only the rest is generated. Where it points away from the words, it is turned until a feature
reaches as far along its label's vector as some cell of a corrected label does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import drawn_classes, shrink_nearest
from worker.learning.corrections.examples import with_words
from worker.learning.generator.presets import PRESETS
from worker.learning.generator.training import GeneratorConfig, train_generator
from worker.learning.generator.vectors import EQUAL, RealVectors
from worker.learning.interfaces import Example, Words
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

GENERATOR = "generator"
"""Name of the part of a recipe that learns from generated examples."""

EVERY_LABEL_CORRECTED = "every label is corrected"
UNREADABLE = "the model cannot read the words of a label without corrections"
CORRECTED_UNREADABLE = "the model cannot read the words of a corrected label"
CORRECTED_TOO_SMALL = "no patch of the corrected images shows a corrected label in words the model can read"
EQUAL_VECTORS = "each label without corrections means the same as another one"
NOT_TOWARDS_WORDS = "the patch features of the corrected labels do not lie towards their words"
NO_MEMORY = "the memory is too small for so many labels"
"""Why nothing is generated."""

VECTORS_PER_LABEL = 200
"""Generated for each label, or fewer so that all together are at most `MOST_VECTORS`."""

MOST_VECTORS = 10_000
"""Generated in all."""

MOST_LABELS = 64
"""Labels that vectors are generated for, at most: the generator compares each with each."""

_MOST_CELLS = 20_000  # read of all images together
_LEAST_SPREAD = 1e-6  # of label vectors: below, all are the same
# The classifier that the generator trains beside itself is not used: it gets the smallest batches.
_CONFIG = replace(PRESETS["small"], steps=100, queries=64, supplied=1)


@dataclass(frozen=True)
class GeneratedExamples:
    """Generated patch features.

    Attributes:
        vectors: (N, D) float32 of unit length; none where nothing could be generated.
        labels: (N,) int64: index of the label of each among the words they were generated for.
        reason: why there are none; "" where there are some.
    """

    vectors: Tensor
    labels: Tensor
    reason: str = ""

    @classmethod
    def none(cls, reason: str) -> GeneratedExamples:
        """Nothing was generated."""
        return cls(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), reason)

    def __len__(self) -> int:
        return len(self.labels)


def generate_examples(
    examples: Sequence[Example], words: Words, segmenter: Segmenter, *, config: GeneratorConfig = _CONFIG
) -> GeneratedExamples:
    """Generate patch features of the labels that no example shows.

    Only labels in words that the model can read take part, on both sides. Of labels with the very same vector as
    another one nothing is generated. Of more than `MOST_LABELS` labels so many are drawn at random, the same each time.
    Where nothing can be generated, also for lack of memory, the reason says why.

    Args:
        examples: corrected images.
        words: the texts of each label of the project.
        segmenter: the model.
        config: of the generator.
    """
    try:
        return _generate(examples, words, segmenter, config)
    except LearningError as error:  # such as a loss that is no number: the corrections are learned from all the same
        return GeneratedExamples.none(str(error).rstrip("."))
    except (MemoryError, RuntimeError) as error:  # torch's lack of memory is a RuntimeError
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        return GeneratedExamples.none(NO_MEMORY)


def _generate(
    examples: Sequence[Example], words: Words, segmenter: Segmenter, config: GeneratorConfig
) -> GeneratedExamples:
    # Of the pixels, not of the cells: a thin label may have no cell, and must not count as one that nobody corrected.
    drawn = sorted(set().union(*(drawn_classes(with_words(example, words).truth) for example in examples)))
    others = [k for k in range(len(words)) if k not in drawn]
    if not others:
        return GeneratedExamples.none(EVERY_LABEL_CORRECTED)
    readable = {k for k, texts in enumerate(words) if not all(map(segmenter.encoder.unknown_words, texts))}
    read, unseen = ([k for k in some if k in readable] for some in (drawn, others))
    if not unseen or not read:
        return GeneratedExamples.none(CORRECTED_UNREADABLE if unseen else UNREADABLE)
    vectors, labels = labelled_cells(examples, words)
    with_cells = set(labels.tolist())
    seen = [k for k in read if k in with_cells]
    if not seen:
        return GeneratedExamples.none(CORRECTED_TOO_SMALL)
    texts = segmenter.classes(words).vectors.cpu().float()
    equal = _has_equal(texts, unseen, [*drawn, *unseen])
    unseen = [k for k, has_equal in zip(unseen, equal, strict=True) if not has_equal]
    if not unseen:
        return GeneratedExamples.none(EQUAL_VECTORS)
    if len(unseen) > MOST_LABELS:
        kept = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(config.seed))[:MOST_LABELS]
        unseen = [unseen[k] for k in sorted(kept.tolist())]
    rows = torch.full((len(words) + 1,), -1)
    rows[seen] = torch.arange(len(seen))
    taught = rows[labels] >= 0
    vectors, place = vectors[taught], rows[labels[taught]]
    own = texts[seen][place]
    along = (vectors * own).sum(dim=1)  # (N,)
    factor = _factor(vectors, own)
    if not (factor > 0 and float(along.mean()) > 0):
        return GeneratedExamples.none(NOT_TOWARDS_WORDS)
    trained = train_generator(RealVectors(vectors - factor * own, place), texts[seen], texts[unseen], config)
    count = min(VECTORS_PER_LABEL, MOST_VECTORS // len(unseen))
    of_label = torch.tensor(unseen).repeat_interleave(count)
    towards = texts[of_label]
    made = trained.sample(texts[unseen], count, seed=config.seed).flatten(0, 1) + factor * towards
    sampled = torch.randint(len(along), (len(made),), generator=torch.Generator().manual_seed(config.seed))
    missing = (along[sampled] - (made * towards).sum(dim=1)).clamp_min(0)
    return GeneratedExamples(F.normalize(made + missing[:, None] * towards, dim=1), of_label)


def labelled_cells(examples: Sequence[Example], words: Words) -> tuple[Tensor, Tensor]:
    """Read the patch features of corrected images, and the class of each, at most so many of each image that all
    together are 20,000.

    Args:
        examples: corrected images.
        words: the texts of each of n classes.

    Returns:
        (N, D) float32 features of patches that are not void, and (N,) int64 classes: an index in `words`, or
        UNLABELLED.
    """
    vectors, labels = [], []
    generator = torch.Generator().manual_seed(0)
    for example in examples:
        features = example.embedding.features.cpu().float()
        truth = shrink_nearest(with_words(example, words).truth, (features.shape[0], features.shape[1]))
        classes = torch.from_numpy(truth.astype(np.int64)).flatten()
        known = (classes != VOID).nonzero()[:, 0]
        drawn = known[torch.randperm(len(known), generator=generator)[: _MOST_CELLS // len(examples)]]
        vectors.append(features.flatten(0, 1)[drawn])
        labels.append(classes[drawn])
    if not vectors:
        return torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    return torch.cat(vectors), torch.cat(labels)


def _has_equal(texts: Tensor, labels: Sequence[int], others: Sequence[int]) -> list[bool]:
    """Of each of the labels, whether one of the others, itself left out, has the same vector. (n, D) texts."""
    unit = F.normalize(texts, dim=1)
    same = unit[labels] @ unit[others].T > EQUAL
    same &= torch.tensor(labels)[:, None] != torch.tensor(others)[None]
    return [bool(found) for found in same.any(dim=1)]


def _factor(vectors: Tensor, own: Tensor) -> float:
    """The factor of the label vector in a cell: least squares about the means; of one label, their mean product.

    Args:
        vectors: (N, D) features.
        own: (N, D) vector of the label of each.
    """
    centred, spread = vectors - vectors.mean(dim=0), own - own.mean(dim=0)
    total = float(spread.square().sum())
    if total < _LEAST_SPREAD * len(own):
        return float((vectors * own).sum(dim=1).mean())
    return float((centred * spread).sum()) / total
