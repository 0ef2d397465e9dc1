"""The recipe of the service: trained in seconds on a CPU, from the first corrected image on.

Training starts from the zero-shot scores, as far as they proved right on the corrections (after LP++, Huang et al., and
CLAP, Silva-Rodriguez et al., both CVPR 2024), and adds what the images look like: small networks on features of the
encoder, of a network trained on photographs and of the affinity tower, where one is set, on colour, texture and
position; and retrieval of similar cells. Labels without corrections keep their zero-shot scores: where the networks say
"none of the taught classes", the zero-shot scores decide which of the others.

Where there are labels without corrections in words that the model can read, the networks are trained a second time,
with examples of them (`worker.learning.recipes.generated`), as cells of none of the taught classes; the gate keeps the
better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.corrections.balance import balanced
from worker.learning.interfaces import AFFINITY_TOWER, UNLABELLED, AdapterState, Example, Fitted, Words
from worker.learning.recipes.generated import GENERATOR, LEFT_OUT, GeneratedExamples, generate_examples
from worker.learning.recipes.quick.augmentation import Augmentation
from worker.learning.recipes.quick.classifier import (
    CellInputs,
    Classifier,
    ClassifierConfig,
    ReadCells,
    fit_classifier,
)
from worker.learning.recipes.quick.features import (
    AFFINITY_COMPONENTS,
    ENCODER_COMPONENTS,
    TOWER_COMPONENTS,
    AffinityInput,
    FeatureExtractor,
    affinity_map,
    match_classes,
    measure_zero_shot,
)
from worker.learning.recipes.quick.pca import PCA
from worker.segmentation.class_scores import ClassScores, blend
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, Method
from worker.segmentation.segmenter import Segmenter

NAME = "quick"
PARTS = ("encoder", "tower", "affinity", "appearance", "retrieval", GENERATOR)
_VIEWS = 32  # images and augmentations of them that are learned from, where there are not as many images
_MANY_IMAGES, _FACTOR = 12, 2  # from so many images on, there are so many times more views and hidden units
_MOST_EXAMPLES = 60
_MOST_STEPS_FACTOR = 2.0  # how many times more steps many images get at most
_SMALLEST = 1e-9  # posterior
_FORM = 4  # of the features that a stored adapter was trained on
_ENCODER, _TOWER, _AFFINITY = "encoder", "tower", "affinity"  # in names of stored tensors
_AGAIN = "Learn it again."
_ANOTHER = "Serve another version with `zeromask rollback`; other corrections make a new one."
_WORDS_ALONE = "the words alone are better than what the networks learn from the corrections"
_REMEDY = "Submit an annotation with a region of one of the project's labels."


class _LastImage:
    """Holds what was learned of the image that was scored last, for the next strength. Threads may share it."""

    def __init__(self) -> None:
        self._held: tuple[ref[ImageScores], tuple[ClassScores, ClassScores]] | None = None

    def scores_of(
        self, image: ImageScores, compute: Callable[[ImageScores], tuple[ClassScores, ClassScores]]
    ) -> tuple[ClassScores, ClassScores]:
        """What `compute` returns for the image, or returned for it just before."""
        held = self._held
        if held is None or held[0]() is not image:
            held = self._held = ref(image), compute(image)
        return held[1]


@dataclass(frozen=True)
class QuickAdapter:
    """What `QuickRecipe` learned; its scores come on a grid of 128 cells along the long side.

    Without the image it keeps the zero-shot scores.
    """

    extractor: FeatureExtractor
    classifier: Classifier
    strength: float = 1.0
    _last: _LastImage = field(default_factory=_LastImage, repr=False, compare=False)

    @property
    def refinement(self) -> Method:
        """See `worker.segmentation.heads.Head`; at strength 0 the scores are the zero-shot ones."""
        return FINE if self.strength > 0 else ADAPTIVE

    @one_thread()
    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`."""
        if self.strength == 0 or image.image is None:
            return image.zero_shot
        zero_shot, learned = self._last.scores_of(image, partial(self._learned, pixels=image.image))
        return learned if self.strength == 1 else blend(zero_shot, learned, self.strength)

    def _learned(self, image: ImageScores, pixels: NDArray[np.uint8]) -> tuple[ClassScores, ClassScores]:
        """What is blended: zero-shot scores on the grid, of labels with words, and what was learned."""
        features = self.extractor.extract(image, pixels)
        cells = self.extractor.cells(features, Augmentation.identity(features.patches))
        taught = self.classifier.logits(cells).reshape(-1, *features.grid).to(features.zero_shot.logits.device)
        rows = self.extractor.rows_in(features.words)
        learned = _with_untaught(features.zero_shot, rows, self.extractor.trust, taught)
        has_text = self.extractor.has_text.tolist()
        unread = [row for row, known in zip(rows, has_text, strict=False) if row is not None and not known]
        return features.zero_shot.without(unread), learned

    def taught(self, words: Words) -> Words:
        """See `worker.learning.interfaces.Adapter`."""
        return tuple(words[k] for k in self.extractor.rows_in(words) if k is not None) if self.strength else ()

    def at_strength(self, strength: float) -> QuickAdapter:
        """See `worker.learning.interfaces.Adapter`."""
        return replace(self, strength=strength)

    def state(self) -> AdapterState:
        """See `worker.learning.interfaces.Adapter`."""
        extractor = self.extractor
        tensors = {"known": extractor.known, **self.classifier.tensors()}
        projections = {f"{_TOWER}{k}": pca for k, pca in enumerate(extractor.tower)}
        if extractor.encoder is not None:
            projections[_ENCODER] = extractor.encoder
        towers = {}
        if extractor.affinity is not None:
            projections[_AFFINITY] = extractor.affinity.pca
            towers[AFFINITY_TOWER] = [extractor.affinity.architecture, extractor.affinity.weights]
        for name, pca in projections.items():
            tensors |= pca.tensors(name)
        about = {"words": [list(texts) for texts in extractor.words], "trust": extractor.trust,
                 "scale": extractor.scale, "axes": sorted(projections), "appearance": extractor.appearance,
                 "retrieval": self.classifier.retrieval, "learned_strength": self.classifier.strength,
                 "strength": self.strength, "form": _FORM, **towers}  # fmt: skip
        return AdapterState(NAME, tensors, about)


@dataclass(frozen=True)
class QuickRecipe:
    """The recipe of this module.

    Attributes:
        without: which of `PARTS` are left out, for ablations.
        config: of the classifier.
        views: images and augmentations of them that are learned from, where there are not as many images.
        seed: of all randomness.
    """

    without: tuple[str, ...] = ()
    config: ClassifierConfig = field(default_factory=ClassifierConfig)
    views: int = _VIEWS
    seed: int = 0
    name: ClassVar[str] = NAME
    form: ClassVar[int] = _FORM

    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> QuickAdapter:
        """See `worker.learning.interfaces.Recipe`; from corrections alone."""
        return self._fit(examples, words, segmenter, None)[0]

    @one_thread()
    def fit_both(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> Fitted:
        """See `worker.learning.interfaces.SupplyingRecipe`."""
        left_out = {GENERATOR: LEFT_OUT, _ENCODER: "it needs the features of the encoder, which are left out"}
        for part, reason in left_out.items():
            if part in self.without:
                return Fitted(self.fit(examples, words, segmenter), reason=reason)
        reasons = [_WORDS_ALONE]

        def generate(chosen: Sequence[Example]) -> GeneratedExamples:
            generated = generate_examples(chosen, words, segmenter)
            reasons.append(generated.reason)
            return generated

        plain, supplied = self._fit(examples, words, segmenter, generate)
        return Fitted(plain, supplied, reasons[-1])

    @one_thread()
    def _fit(
        self, examples: Sequence[Example], words: Words, segmenter: Segmenter,
        generate: Callable[[Sequence[Example]], GeneratedExamples] | None,
    ) -> tuple[QuickAdapter, QuickAdapter | None]:  # fmt: skip
        """Train an adapter from corrections alone and, where examples can be generated, one from these too."""
        chosen, taught = _choose_examples(examples, words)
        known = [float(not all(segmenter.encoder.unknown_words(text) for text in texts)) for texts in taught]
        # Without the image: the embedding may be of a larger one than the example keeps.
        scores = [segmenter.score(example.embedding, words) for example in chosen]
        encoder, tower = self._fit_pca(scores, chosen)
        affinity = self._fit_affinity(scores, segmenter)
        appearance = "appearance" not in self.without
        extractor = FeatureExtractor(taught, torch.tensor(known), encoder, tower, 0.0, 0.0, appearance, affinity)
        trust, scale = measure_zero_shot(extractor, scores, chosen)
        extractor = replace(extractor, trust=trust, scale=scale)

        def generated_cells() -> CellInputs | None:
            generated = generate(chosen) if generate is not None else GeneratedExamples.none("")
            if not len(generated):
                return None
            zero_shot = segmenter.score_vectors(generated.vectors, words)
            return extractor.generated_cells(generated.vectors, words, zero_shot)

        fitted = fit_classifier(
            self._views(extractor, scores, chosen),
            self._count_views(len(chosen)),
            self._config(len(chosen)),
            images=len(chosen),
            validates_strength=scale > 0,
            has_text=extractor.has_text,
            column_dropout=extractor.column_dropout,
            optional_columns=extractor.tower_columns,
            optional_dropout=extractor.tower_dropout,
            generate=generated_cells,
        )
        extractor = extractor if fitted.uses_optional else replace(extractor, tower=(), affinity=None)
        supplied = QuickAdapter(extractor, fitted.supplied) if fitted.supplied else None
        return QuickAdapter(extractor, fitted.plain), supplied

    def load(self, state: AdapterState, segmenter: Segmenter) -> QuickAdapter:
        """See `worker.learning.interfaces.Recipe`."""
        if state.recipe != self.name:
            problem = f"was made by recipe {state.recipe!r}, not {self.name!r}"
            raise LearningError("adapter", problem, "Load it with that one.")
        about: Any = state.about
        tensors = state.tensors
        if about.get("form") != _FORM:
            raise LearningError("adapter", "was learned by another release, with other features", _ANOTHER)
        try:
            words = tuple(tuple(str(text) for text in texts) for texts in about["words"])
            projections = {name: PCA.from_tensors(tensors, name) for name in about["axes"]}
            tower = tuple(pca for name, pca in projections.items() if name not in (_ENCODER, _AFFINITY))
            affinity = None
            if _AFFINITY in projections:
                architecture, weights = map(str, about[AFFINITY_TOWER])
                affinity = AffinityInput(projections[_AFFINITY], architecture, weights)
            extractor = FeatureExtractor(words, tensors["known"], projections.get(_ENCODER), tower,
                                         float(about["trust"]), float(about["scale"]),
                                         bool(about["appearance"]), affinity)  # fmt: skip
            retrieval, strength = float(about["retrieval"]), float(about["learned_strength"])
            finite = math.isfinite(extractor.trust) and math.isfinite(extractor.scale)
            if extractor.known.shape != (len(words),) or not finite:
                raise ValueError("known words, trust or scale")
            if not all(0 <= part <= 1 for part in (retrieval, strength, float(about["strength"]))):
                raise ValueError("a strength")
            classifier = Classifier.from_tensors(tensors, retrieval, strength, extractor.has_text)
            return QuickAdapter(extractor, classifier, float(about["strength"]))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise LearningError("adapter", f"its state is incomplete ({error!r})", _AGAIN) from error

    def _fit_pca(
        self, scores: Sequence[ImageScores], examples: Sequence[Example]
    ) -> tuple[PCA | None, tuple[PCA, ...]]:
        """PCA of the encoder's features, and of each map of the photograph network; none of parts that are left out."""
        encoder, tower = None, []
        if "encoder" not in self.without:
            encoder = PCA.fit([image.features for image in scores], ENCODER_COMPONENTS)
        if "tower" not in self.without:
            found = [image.photo_features(example.image) for image, example in zip(scores, examples, strict=True)]
            tower = [PCA.fit(maps, most) for maps, most in zip(zip(*found, strict=True), TOWER_COMPONENTS, strict=True)]
        return encoder, tuple(tower)

    def _fit_affinity(self, scores: Sequence[ImageScores], segmenter: Segmenter) -> AffinityInput | None:
        """PCA of the affinity tower's features, which come with the embeddings; None without one."""
        tower = segmenter.encoder.affinity_tower
        if tower is None or _AFFINITY in self.without:
            return None
        pca = PCA.fit([affinity_map(image) for image in scores], AFFINITY_COMPONENTS)
        return AffinityInput(pca, tower.architecture, tower.fingerprint)

    def _config(self, images: int) -> ClassifierConfig:
        """The classifier's, with more steps and units for many images."""
        training = self.config.training
        steps = round(training.steps * min(_MOST_STEPS_FACTOR, max(1.0, images / _MANY_IMAGES)))
        hidden = training.hidden * (_FACTOR if images >= _MANY_IMAGES else 1)
        retrieval = 0.0 if "retrieval" in self.without else self.config.retrieval
        training = replace(training, steps=steps, hidden=hidden)
        return replace(self.config, seed=self.seed, training=training, retrieval=retrieval)

    def _count_views(self, images: int) -> int:
        return max(self.views * _FACTOR, 2 * images) if images >= _MANY_IMAGES else max(self.views, images)

    def _views(
        self, extractor: FeatureExtractor, scores: Sequence[ImageScores], examples: Sequence[Example]
    ) -> Iterator[tuple[Tensor, ReadCells]]:
        """Every image as it is, then augmentations of them in turn."""
        rng = np.random.default_rng(self.seed)
        extracted = [extractor.extract(image, example.image) for image, example in zip(scores, examples, strict=True)]
        for number in range(self._count_views(len(examples))):
            turn = number % len(examples)
            features = extracted[turn]
            if number < len(examples):
                augmentation = Augmentation.identity(features.patches)
            else:
                augmentation = Augmentation.random(features.patches, rng)
            shares = extractor.class_shares(examples[turn], augmentation, features.patches)
            yield shares, partial(extractor.cells, features, augmentation)


def _choose_examples(examples: Sequence[Example], words: Words) -> tuple[list[Example], Words]:
    """The examples to learn from, at most 60 that show each label as often as can be, and the words drawn in them.

    Raises:
        LearningError: no label is drawn in any.
    """
    found = []
    for example in examples:
        shown = set(np.unique(example.truth).tolist()) - {VOID, UNLABELLED}
        found.append({k for k, place in enumerate(match_classes(words, example.words)) if place in shown})
    if not any(found):
        raise LearningError("corrections", "no label of the project is drawn in any of them", _REMEDY)
    kept = balanced(found, [example.key for example in examples], _MOST_EXAMPLES)
    drawn = set[int]().union(*(found[k] for k in kept))
    return [examples[k] for k in kept], tuple(texts for k, texts in enumerate(words) if k in drawn)


def _with_untaught(zero_shot: ClassScores, rows: Sequence[int | None], trust: float, taught: Tensor) -> ClassScores:
    """Extend log-posteriors of the taught classes and the rest, (T + 1, h, w), to all n + 1 classes of an image.

    The zero-shot scores divide the rest among the untaught classes. They also claim a part of what was given to taught
    classes: the posterior of untaught classes there, times the trust. Logits of untaught classes keep their distances.

    Args:
        zero_shot: n + 1 classes, the background last.
        rows: index of each taught class in them; None = it is not there any more.
        trust: of the zero-shot scores, see `FeatureExtractor`.
        taught: what was learned.
    """
    own = zero_shot.logits
    scored = zero_shot.scored.tolist()
    others = torch.tensor([k for k, has_score in enumerate(scored) if k not in rows and has_score], device=own.device)
    removed = [k for k, row in enumerate(rows) if row is None]  # drawn once, but no label of the project any more
    posterior = taught.exp()
    rest = posterior[-1] + posterior[removed].sum(dim=0)
    drawn = 1 - rest
    claimed = trust * zero_shot.posterior()[others[:-1]].sum(dim=0) * drawn  # by all untaught labels together
    inside = own[others].softmax(dim=0) * rest
    untaught = inside[:-1].sum(dim=0) + claimed
    level = own[others[:-1]].logsumexp(dim=0) - untaught.clamp_min(_SMALLEST).log() if len(others) > 1 else 0.0
    logits = torch.full_like(own, -torch.inf)
    logits[others[:-1]] = own[others[:-1]]
    logits[others[-1]] = inside[-1].clamp_min(_SMALLEST).log() + level
    kept = (1 - claimed / drawn.clamp_min(_SMALLEST)).clamp(0.0, 1.0)
    now_scored = zero_shot.scored.clone()
    for row in {row for row in rows if row is not None}:
        mine = posterior[[k for k, other in enumerate(rows) if other == row]].sum(dim=0)  # several, if merged since
        logits[row] = (mine * kept).clamp_min(_SMALLEST).log() + level
        now_scored[row] = True
    return replace(zero_shot, logits=logits, scored=now_scored)
