"""Examples of labels that nobody has corrected, generated from their words.

A generator (PADing: He et al., "Primitive Generation and Semantic-related Alignment for Universal Zero-Shot
Segmentation", CVPR 2023) learns from the cells of the corrected labels how patch features lie around the vector of
their words, and makes features for the words of the others. Recipes learn from them beside the corrections, so that
these do not drown the other labels.

The paper generates whole features. From the few labels of a project that fails: a label gets the features of the
corrected one with the nearest words. Where features lie in the space of the words, a cell is its label's vector times
one factor, plus a rest. Only the rest is generated. Where it points away from the words, it is turned until a feature
reaches as far along its label's vector as some cell of a corrected label does. Features of other towers are generated
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.corrections.class_maps import ClassMap, drawn_classes, shrink_nearest
from worker.learning.corrections.examples import with_words
from worker.learning.generator.presets import PRESETS
from worker.learning.generator.training import GeneratorConfig, train_generator
from worker.learning.generator.vectors import EQUAL, RealVectors
from worker.learning.interfaces import Example, Words
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

GENERATOR = "generator"
"""Name of the part of a recipe that learns from generated examples."""

LEFT_OUT = "it is left out"
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
_WHOLE = 3  # times as many steps where features are generated whole: there is more to learn
# The classifier that the generator trains beside itself is not used: it gets the smallest batches.
CONFIG = replace(PRESETS["small"], steps=100, queries=64, supplied=1)
"""How the generator is trained."""


@dataclass(frozen=True)
class GeneratedExamples:
    """Generated patch features.

    Attributes:
        vectors: (N, D) float32, of unit length in the space of the words; none where nothing could be generated.
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


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class KnownLabels:
    """What is known of n labels before anything is generated.

    Attributes:
        texts: (n, T) float32 label vectors; they mean nothing where the words cannot be read.
        readable: labels in words that can be read.
        corrected: labels that at least one pixel of a correction shows: a thin one may have no cell, and must not count
            as one that nobody corrected.
    """

    texts: Tensor
    readable: frozenset[int]
    corrected: frozenset[int]


Cells = tuple[Tensor, Tensor]
"""(N, D) float32 features of cells, and the (N,) int64 class of each: a label's index, or UNLABELLED."""


def readable_labels(words: Words, encoder: Encoder) -> frozenset[int]:
    """Labels one of whose texts has no word that the model was not trained on."""
    return frozenset(k for k, texts in enumerate(words) if not all(map(encoder.unknown_words, texts)))


def generate_examples(
    examples: Sequence[Example], words: Words, segmenter: Segmenter, *, config: GeneratorConfig = CONFIG
) -> GeneratedExamples:
    """Generate patch features of the labels that no example shows, as the model itself has them.

    See `generate_features`.

    Args:
        examples: corrected images.
        words: the texts of each label of the project.
        segmenter: the model.
        config: of the generator.
    """
    drawn = frozenset[int]().union(*(drawn_classes(with_words(example, words).truth) for example in examples))
    texts = segmenter.classes(words).vectors.cpu().float()
    known = KnownLabels(texts[: len(words)], readable_labels(words, segmenter.encoder), drawn)
    return generate_features(lambda: labelled_cells(examples, words), known, config=config)


def generate_features(
    read_cells: Callable[[], Cells], known: KnownLabels, *, in_words_space: bool = True,
    config: GeneratorConfig = CONFIG,
) -> GeneratedExamples:  # fmt: skip
    """Generate features of the labels that no correction shows.

    Only labels in words that can be read take part, on both sides. Of labels with the very same vector as another one
    nothing is generated. Of more than `MOST_LABELS` labels so many are drawn at random, the same each time. Where
    nothing can be generated, also for lack of memory, the reason says why.

    Args:
        read_cells: reads the cells of corrected images; not called where no label can be supplied.
        known: the labels.
        in_words_space: whether features have unit length and lie in the space of the label vectors; else they are
            generated whole, in three times as many steps.
        config: of the generator.
    """
    try:
        return _generate(read_cells, known, in_words_space, config)
    except (LearningError, MemoryError, RuntimeError) as error:
        return GeneratedExamples.none(reason_of(error))


def reason_of(error: Exception) -> str:
    """Why there is nothing generated, where an error broke it off: the corrections are learned from all the same.

    Args:
        error: that was caught.

    Raises:
        The error, if it is neither a `LearningError`, such as a loss that is no number, nor a lack of memory.
    """
    if isinstance(error, LearningError):
        return str(error).rstrip(".")
    if is_out_of_memory(error):
        return NO_MEMORY
    raise error


def _generate(
    read_cells: Callable[[], Cells], known: KnownLabels, in_words_space: bool, config: GeneratorConfig
) -> GeneratedExamples:
    texts, drawn = known.texts, sorted(known.corrected)
    others = [k for k in range(len(texts)) if k not in known.corrected]
    if not others:
        return GeneratedExamples.none(EVERY_LABEL_CORRECTED)
    read, unseen = ([k for k in some if k in known.readable] for some in (drawn, others))
    if not unseen or not read:
        return GeneratedExamples.none(CORRECTED_UNREADABLE if unseen else UNREADABLE)
    equal = _has_equal(texts, unseen, [*drawn, *unseen])
    unseen = [k for k, has_equal in zip(unseen, equal, strict=True) if not has_equal]
    if not unseen:
        return GeneratedExamples.none(EQUAL_VECTORS)
    vectors, labels = read_cells()
    with_cells = set(labels.tolist())
    seen = [k for k in read if k in with_cells]
    if not seen:
        return GeneratedExamples.none(CORRECTED_TOO_SMALL)
    if len(unseen) > MOST_LABELS:
        kept = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(config.seed))[:MOST_LABELS]
        unseen = [unseen[k] for k in sorted(kept.tolist())]
    rows = torch.full((len(texts) + 1,), -1)
    rows[seen] = torch.arange(len(seen))
    taught = rows[labels] >= 0
    real = RealVectors(vectors[taught], rows[labels[taught]])
    count = min(VECTORS_PER_LABEL, MOST_VECTORS // len(unseen))
    of_label = torch.tensor(unseen).repeat_interleave(count)
    if in_words_space:
        made = _towards_words(real, texts[seen], texts[unseen], count, config)
        return GeneratedExamples.none(NOT_TOWARDS_WORDS) if made is None else GeneratedExamples(made, of_label)
    trained = train_generator(real, texts[seen], texts[unseen], replace(config, steps=_WHOLE * config.steps))
    return GeneratedExamples(trained.sample(texts[unseen], count, seed=config.seed).flatten(0, 1), of_label)


def _towards_words(
    real: RealVectors, seen: Tensor, unseen: Tensor, count: int, config: GeneratorConfig
) -> Tensor | None:
    """Generate the rests of features beside their words.

    Args:
        real: features in the space of the words.
        seen: (S, D) their label vectors.
        unseen: (U, D) label vectors.
        count: how many features of each of these.
        config: of the generator.

    Returns:
        (U * count, D) float32 of unit length; None where the real ones do not lie towards their words.
    """
    own = seen[real.labels]
    along = (real.vectors * own).sum(dim=1)  # (N,)
    factor = _factor(real.vectors, own)
    if not (factor > 0 and float(along.mean()) > 0):
        return None
    trained = train_generator(replace(real, vectors=real.vectors - factor * own), seen, unseen, config)
    towards = unseen.repeat_interleave(count, dim=0)
    made = trained.sample(unseen, count, seed=config.seed).flatten(0, 1) + factor * towards
    sampled = torch.randint(len(along), (len(made),), generator=torch.Generator().manual_seed(config.seed))
    missing = (along[sampled] - (made * towards).sum(dim=1)).clamp_min(0)
    return F.normalize(made + missing[:, None] * towards, dim=1)


def labelled_cells(examples: Sequence[Example], words: Words) -> Cells:
    """Read the patch features of corrected images, and the class of each; see `sampled_cells`.

    Args:
        examples: corrected images.
        words: the texts of each of n classes.
    """
    maps = ((example.embedding.features.cpu().float(), with_words(example, words).truth) for example in examples)
    return sampled_cells(maps, len(examples))


def sampled_cells(maps: Iterable[tuple[Tensor, ClassMap]], images: int) -> Cells:
    """Draw cells that are not void at random, at most so many of each image that all together are 20,000.

    Args:
        maps: (h, w, D) float32 features of each image, and its class map.
        images: how many there are.
    """
    vectors, labels = [], []
    generator = torch.Generator().manual_seed(0)
    for features, class_map in maps:
        truth = shrink_nearest(class_map, (features.shape[0], features.shape[1]))
        classes = torch.from_numpy(truth.astype(np.int64)).flatten()
        known = (classes != VOID).nonzero()[:, 0]
        drawn = known[torch.randperm(len(known), generator=generator)[: _MOST_CELLS // images]]
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
