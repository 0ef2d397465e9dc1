"""PADing as a recipe: a query decoder learns masks of seen labels, a generator and a classifier learn all labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError, ModelUnavailable
from worker.learning.corrections.class_maps import drawn_classes
from worker.learning.corrections.examples import with_words
from worker.learning.generator.baselines import without_unseen
from worker.learning.generator.presets import PRESETS
from worker.learning.generator.storing import from_state
from worker.learning.generator.training import GeneratorConfig, Report, train_generator
from worker.learning.generator.vectors import EQUAL, RealVectors, linear
from worker.learning.interfaces import AdapterState, Example, Words
from worker.learning.proposals.query_decoder import QueryDecoder, QueryDecoderConfig
from worker.learning.proposals.query_training import QueryTrainingConfig, train_query_decoder
from worker.learning.recipes.pading.adapter import CLASSIFIER, DECODER, GENERATOR, PadingAdapter, check_decoder
from worker.learning.recipes.pading.vectors import real_vectors, segmented
from worker.segmentation.encoders.towers import TowerConfig
from worker.segmentation.segmenter import Segmenter

SMALL = "small"
GENERATED = "generator"
PRIMITIVES, ALIGNMENT, DISENTANGLING = "primitives", "alignment", "disentangling"
_REMEDY = "Submit an annotation with a region of one of the project's labels."
_AGAIN = "Learn it again."
_ANOTHER = "Serve another version with `zeromask rollback`; other corrections make a new one."


@dataclass(frozen=True)
class KnownWords:
    """Label vectors that a generator can use.

    Attributes:
        seen: (S, T) float32; a label whose words cannot be read has a random direction, so that its real vectors count.
        unseen: (U, T) float32 of the unseen labels that are left.
        names: of these.
        left_out: unseen labels for which nothing is generated, with the reason.
    """

    seen: Tensor
    unseen: Tensor
    names: Words
    left_out: Mapping[tuple[str, ...], str]


@dataclass(frozen=True)
class PadingRecipe:
    """PADing (He et al., CVPR 2023) on a query decoder on the model's own tower.

    Attributes:
        without: parts to leave out: `generator` leaves the decoder's own classifier of seen labels; without
            `primitives` the generator is the GMMN baseline; `alignment` and `disentangling` are losses.
        preset: of the generator, in `worker.learning.generator.presets.PRESETS`.
        generator: how it is trained; None = as the preset says.
        decoder_training: of the query decoder.
        decoder: its form; None = the small one.
        seed: of all randomness.
    """

    without: tuple[str, ...] = ()
    preset: str = SMALL
    generator: GeneratorConfig | None = None
    decoder_training: QueryTrainingConfig = field(default_factory=QueryTrainingConfig)
    decoder: QueryDecoderConfig | None = None
    seed: int = 0
    name: ClassVar[str] = "pading"
    form: ClassVar[int] = 1
    parts: ClassVar[tuple[str, ...]] = (GENERATED, PRIMITIVES, ALIGNMENT, DISENTANGLING)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.without) - set(self.parts))
        if unknown:
            problem = f"has no part {unknown[0]!r} to leave out"
            raise LearningError(f"recipe {self.name}", problem, f"It has {', '.join(self.parts)}.")
        if self.preset not in PRESETS:
            problem = f"is not one of {self.name}"
            raise LearningError(f"preset {self.preset!r}", problem, f"Choose one of {', '.join(PRESETS)}.")

    @property
    def config(self) -> GeneratorConfig:
        """How the generator is trained."""
        return replace(
            self.generator or PRESETS[self.preset], primitives=PRIMITIVES not in self.without,
            alignment=ALIGNMENT not in self.without, disentangling=DISENTANGLING not in self.without, seed=self.seed,
        )  # fmt: skip

    def classify(
        self, decoder: QueryDecoder, real: RealVectors, seen: Words, unseen: Words, segmenter: Segmenter,
        report: Report | None = None,
    ) -> PadingAdapter:  # fmt: skip
        """Run the second stage: a generator, and a classifier of seen and unseen labels. The decoder stays as it is.

        Args:
            decoder: trained with the seen labels.
            real: what it proposes, with the rows of the seen labels.
            seen: the texts of the labels that it was trained with, in their order.
            unseen: the texts of labels that it was not; those in unreadable words, and those with the vector of another
                label, are left out. With none left, the classifier is the decoder's own, of seen labels.
            segmenter: the model.
            report: is told of each step.

        Raises:
            LearningError: there is no seen label, the decoder has others, or a loss is no number.
        """
        check_decoder(decoder, seen)
        known = known_words(seen, unseen, segmenter)
        parts = (self.name, self.form, segmenter, decoder)
        if GENERATED in self.without or not known.names:
            return PadingAdapter(*parts, without_unseen(decoder.classify, 0), seen)
        place = real.vectors.device
        trained = train_generator(
            real, known.seen.to(place), known.unseen.to(place), self.config, initial=decoder.classify, report=report
        )
        return PadingAdapter(*parts, trained.classifier, seen, known.names, trained)

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> PadingAdapter:
        """See `worker.learning.interfaces.Recipe`. Each connected component of a class is a segment."""
        shown = {example.words[k] for example in examples for k in drawn_classes(example.truth)}
        seen = tuple(texts for texts in words if texts in shown)
        if not seen:
            raise LearningError("corrections", "no label of the project is drawn in any of them", _REMEDY)
        samples = [segmented(example.image, with_words(example, seen).truth) for example in examples]
        names = [texts[0] for texts in seen]
        config = replace(self.decoder_training, seed=self.seed)
        decoder = train_query_decoder(samples, names, segmenter, config, form=self.decoder)
        unseen = tuple(texts for texts in words if texts not in shown)
        return self.classify(decoder, real_vectors(decoder, samples, segmenter), seen, unseen, segmenter)

    def load(self, state: AdapterState, segmenter: Segmenter) -> PadingAdapter:
        """See `worker.learning.interfaces.Recipe`."""
        if state.recipe != self.name:
            problem = f"was made by recipe {state.recipe!r}, not {self.name!r}"
            raise LearningError("adapter", problem, "Load it with that one.")
        if state.about.get("form") != self.form:
            raise LearningError("adapter", "was learned by another release, with another network", _ANOTHER)
        try:
            return self._loaded(state.about, state.tensors, segmenter)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
            problem = f"its state is incomplete ({type(error).__name__}: {str(error)[:200]})"
            raise LearningError("adapter", problem, _AGAIN) from error

    def _loaded(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor], segmenter: Segmenter) -> PadingAdapter:
        stored = dict(about["decoder"])
        tower_config = dict(stored.pop("tower"))
        problem = "its query decoder was trained on another image tower than the one loaded"
        try:
            hooks = tuple(map(int, tower_config["hooks"]))
            tower = segmenter.towers.get(TowerConfig(**{**tower_config, "hooks": hooks}))
        except ModelUnavailable as error:
            raise LearningError("adapter", problem, _ANOTHER) from error
        if about["tower"] != tower.fingerprint:
            raise LearningError("adapter", problem, _ANOTHER)
        decoder = QueryDecoder(QueryDecoderConfig(tower=tower.config, **stored), tower, list(map(str, about["labels"])))
        decoder.load_state_dict(_part(tensors, DECODER, tower.device))
        strength = float(about["strength"])
        if not 0 <= strength <= 1:
            raise ValueError("a strength")
        seen, unseen = (tuple(tuple(map(str, texts)) for texts in about[kind]) for kind in ("seen", "unseen"))
        trained = None
        if about["generator"] is not None:
            trained = from_state(_part(tensors, GENERATOR, tower.device), about["generator"])
            classifier = trained.classifier
        else:
            found = _part(tensors, CLASSIFIER, tower.device)
            classifier = linear(found["weight"], found["bias"])
        decoder.to(tower.device).eval()
        return PadingAdapter(self.name, self.form, segmenter, decoder, classifier, seen, unseen, trained, strength)


def known_words(seen: Words, unseen: Words, segmenter: Segmenter) -> KnownWords:
    """Find the label vectors that a generator can use.

    Args:
        seen: the texts of labels with masks.
        unseen: the texts of the others.
        segmenter: the model.
    """
    classes = segmenter.classes((*seen, *unseen))
    vectors, readable = classes.vectors[:-1].float().clone(), classes.has_text[:-1].tolist()
    source = torch.Generator().manual_seed(0)
    for row in range(len(seen)):
        direction = F.normalize(torch.randn(vectors.shape[1], generator=source), dim=0)
        if not readable[row]:
            vectors[row] = direction.to(vectors)
    rows, names, left_out = list(range(len(seen))), [], {}
    for row, texts in enumerate(unseen, start=len(seen)):
        if not readable[row]:
            left_out[texts] = "its words are unreadable, so no vectors are generated"
        elif _nearest(vectors, rows, row) > EQUAL:
            left_out[texts] = "its label vector is that of another label, whose row it shares"
        else:
            rows.append(row)
            names.append(texts)
    return KnownWords(vectors[: len(seen)], vectors[rows[len(seen) :]], tuple(names), left_out)


def _nearest(vectors: Tensor, rows: Sequence[int], row: int) -> float:
    """Largest cosine of a row with some others, of unit length; -1 without any."""
    return float((vectors[list(rows)] @ vectors[row]).max()) if rows else -1.0


def _part(tensors: Mapping[str, Tensor], beginning: str, device: torch.device) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): one.to(device) for name, one in tensors.items() if name.startswith(beginning)}
