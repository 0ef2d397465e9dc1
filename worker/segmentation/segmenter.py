"""Embed an image once, segment it with any vocabulary: the facade of this package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.settings import Settings
from plugin_config.vocabulary import Choice, Choices, Label, Vocabulary
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.checkpoints import is_builtin
from worker.segmentation.encoders.efficientnet import EfficientNetExtractor
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.encoders.towers import Towers
from worker.segmentation.heads import Head, ImageScores, head_scores, head_things, zero_shot_logits
from worker.segmentation.image_choices import ChoiceAnswer, answer_choices
from worker.segmentation.instances.acceptance import chance_of_nothing, whole_score
from worker.segmentation.instances.assembly import LEAST_SCORE, SegmentRequest, assemble
from worker.segmentation.instances.refiner import MaskRefiner, load_refiner, refine_things
from worker.segmentation.outlines.refinement import ADAPTIVE, pixel_classes
from worker.segmentation.text.encoder import TextClasses, TextEncoder
from worker.segmentation.text.store import TEXTS_FOLDER, TextStore

CHOICE_SCORE = 0.2
"""Least score of a choice that is chosen. In 24 drawn scenes the builtin model was right about 99.0 % of twelve choices
and 99.5 % of eight, and about 98.3 % or more with any bound from 0.1 to 0.5 (2026-11-29)."""
_MOST_NAMES = 5  # in a sentence


@dataclass(frozen=True)
class LabelSegment:
    """A segment and the label it was found for.

    Attributes:
        label: it was found for.
        mask: (H, W) bool, pixels of the image.
        score: how likely it is accepted as it is, in [0, 1].
        raw_score: the score before it was calibrated on a project; None = it was not.
    """

    label: Label
    mask: NDArray[np.bool_]
    score: float
    raw_score: float | None = None


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image.

    Attributes:
        segments: of its labels.
        score: of the segment least likely to be accepted as it is, in [0, 1]; without segments the chance that
            nothing is there, 0 where the model can read none of the labels and has learned none; without labels how
            sure it is of the answers. Low scores are annotated first.
        answers: to the questions about it, those that have one.
        raw_nothing: without segments the chance that nothing is there, before it is calibrated on a project; None where
            that is not known: with segments, without labels, and where the model can read none of them.
    """

    segments: tuple[LabelSegment, ...]
    score: float
    answers: tuple[ChoiceAnswer, ...] = ()
    raw_nothing: float | None = None


class Segmenter:
    """Holds a model and its text embeddings. Adding a label costs one text embedding and no image embedding.

    Args:
        encoder: the model.
        store: keeps text embeddings beyond this process; None = in memory alone.
        refiner: a model of the SAM family that may redraw things; None = none.
        least_score: segments below this raw score are left out; where nothing else is found, something may be there.

    Attributes:
        encoder: the model.
        towers: image towers at several depths, for heads that look at the image themselves.
        refiner: a model of the SAM family that may redraw things; None = none.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        store: TextStore | None = None,
        refiner: MaskRefiner | None = None,
        least_score: float = LEAST_SCORE,
    ) -> None:
        self.encoder = encoder
        self.refiner = refiner
        self._least_score = least_score
        self._texts = TextEncoder(encoder, store=store)
        self._photo_extractor = EfficientNetExtractor(encoder.device)
        self.towers = Towers(encoder)

    @classmethod
    def from_settings(cls, settings: Settings, *, model: str = "") -> Segmenter:
        """Load the model of the settings, or `model` where it is given.

        Raises:
            ModelUnavailable: the model, its tower or the refiner cannot be loaded.
        """
        encoder = Encoder.from_settings(settings, model=model)
        store = TextStore(settings.state_path / TEXTS_FOLDER)
        refiner = load_refiner(settings.refiner, device=settings.device)
        # Raw scores of other models mean nothing yet, so that nothing is left out by them.
        least = min(LEAST_SCORE, settings.least_score) if is_builtin(model or settings.model) else 0.0
        return cls(encoder, store=store, refiner=refiner, least_score=least)

    def prepare(self) -> None:
        """Load the photograph network now instead of when a head first needs it, so that a missing one stops the start.

        Raises:
            ModelUnavailable: its weights are missing.
        """
        self._photo_extractor.load()

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """Embed images, (H, W, 3) uint8 RGB each: the costly half, once per image."""
        return self.encoder.embed_images(images)

    def segment(
        self,
        embedding: ImageEmbedding,
        vocabulary: Vocabulary,
        image: NDArray[np.uint8] | None = None,
        *,
        head: Head | None = None,
        classes: TextClasses | None = None,
        size: tuple[int, int] | None = None,
    ) -> Segmentation:
        """Segment an embedded image: the cheap half, once per vocabulary. Masks are in the pixels of the image.

        Args:
            embedding: of the image, from `embed`.
            vocabulary: the labels to segment.
            image: (H, W, 3) uint8 RGB, whose outlines the masks follow. It is not part of the embedding, so that caches
                hold embeddings alone. None = masks as smooth as the patches.
            head: what was learned from corrections; None = zero-shot.
            classes: text embeddings of the vocabulary from `read_words`; None = they are made now.
            size: (H, W) of the image as it is stored, pixels, where `image` is a reduced copy: least areas of labels
                are in its pixels.

        Raises:
            ValueError: the image is not of the size that was embedded.
            LearningError: the head gives no usable scores; see `head_scores`.
        """
        # A picture of one colour, as one that is transparent all over, shows nothing, whatever is nearest to it.
        blank = image is not None and all(bool((rows == image[0, 0]).all()) for rows in (image[0], image))
        found = Segmentation((), 0.0)
        if vocabulary.labels:
            scores = self.score(embedding, vocabulary.words, image, classes=classes or self.read_words(vocabulary))
            found = self._find_segments(scores, vocabulary, head, blank=blank, size=size)
        answers = () if blank else self._answers(embedding, vocabulary, found.segments)
        if not vocabulary.labels and answers:
            found = Segmentation((), float(np.mean([answer.score for answer in answers])))
        return replace(found, answers=answers)

    def _find_segments(
        self, scores: ImageScores, vocabulary: Vocabulary, head: Head | None, *, blank: bool,
        size: tuple[int, int] | None,
    ) -> Segmentation:  # fmt: skip
        """The segments of an image, without answers; a `blank` one has none."""
        image = scores.image
        class_scores = _class_scores(scores, head)
        pixels, confidence = self._pixel_classes(class_scores, scores, head, outlines=True)
        index = {texts: number for number, texts in enumerate(scores.words)}
        labels_of: dict[SegmentRequest, list[Label]] = {}  # labels of several controls may ask for the same
        for label in vocabulary.drawn:
            labels_of.setdefault(SegmentRequest(index[label.texts], label.stuff), []).append(label)
        things = None if blank else head_things(head, scores)
        assembled = [] if blank else assemble(pixels, confidence, list(labels_of), image, things=things)
        least = min((self._least(label) for label in vocabulary.drawn), default=self._least_score)
        found = [segment for segment in assembled if segment.score >= least]
        if self.refiner is not None and image is not None:
            found = refine_things(found, confidence, image, self.refiner)
        area = None if size is None else size[0] * size[1]
        certain = [
            LabelSegment(label, segment.mask, segment.score)
            for segment in found
            for label in labels_of[SegmentRequest(segment.index, segment.stuff)]
            if segment.score >= self._least(label)
        ]
        segments = [segment for segment in certain if _is_large_enough(segment.mask, segment.label, area)]
        if segments:
            return Segmentation(tuple(segments), whole_score([segment.score for segment in segments]))
        if not bool(class_scores.scored[:-1].any()):  # it can read none of the labels, and has learned none
            return Segmentation((), 0.0)
        if blank:
            return Segmentation((), 1.0, raw_nothing=1.0)
        is_asked = np.zeros(len(scores.words) + 1, dtype=np.bool_)
        is_asked[[request.index for request in labels_of]] = True
        background = np.where(is_asked[pixels], 1 - confidence, confidence)
        for segment in certain:  # too small for their labels: nobody wants them
            background[segment.mask] = 1.0
        nothing = chance_of_nothing(background)
        return Segmentation((), nothing, raw_nothing=nothing)

    def _answers(
        self, embedding: ImageEmbedding, vocabulary: Vocabulary, segments: Sequence[LabelSegment]
    ) -> tuple[ChoiceAnswer, ...]:
        """Answer the questions about an image; see `worker.segmentation.image_choices`."""
        labels = dict.fromkeys((label.texts for label in vocabulary.drawn), 0.0)
        for segment in segments:
            labels[segment.label.texts] = max(labels[segment.label.texts], segment.score)
        answers = []
        for choices in vocabulary.choices:
            words = _choice_words(choices)
            scores = {} if labels.keys() >= set(words) else self._presence(embedding, words)
            answers.append(answer_choices(choices, scores | labels, least_score=CHOICE_SCORE))
        return tuple(answer for answer in answers if answer is not None)

    def _presence(self, embedding: ImageEmbedding, words: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        """How sure it is that each class is in an image: the score of all that is its own, were it one segment."""
        classes, confidence = self.pixel_classes(self.score(embedding, words))
        found = assemble(classes, confidence, [SegmentRequest(index, stuff=True) for index in range(len(words))])
        return {words[segment.index]: segment.score for segment in found}

    def _least(self, label: Label) -> float:
        return self._least_score if label.least_score is None else label.least_score

    def read_words(self, vocabulary: Vocabulary) -> TextClasses:
        """Embed the texts of a vocabulary for `segment`: of its labels and choices, and the labels' negative words.

        New labels are embedded in this thread, which takes a minute for thousands; other threads take turns with it.
        """
        for choices in vocabulary.choices:  # remembered until they are asked for
            self._texts.with_background(_choice_words(choices))
        return self._texts.with_background(vocabulary.words, vocabulary.negatives)

    def classes(self, words: Sequence[tuple[str, ...]]) -> TextClasses:
        """Embed the texts of classes and, as the last class, the background."""
        return self._texts.with_background(words)

    def score(
        self,
        embedding: ImageEmbedding,
        words: Sequence[tuple[str, ...]],
        image: NDArray[np.uint8] | None = None,
        *,
        classes: TextClasses | None = None,
    ) -> ImageScores:
        """Compute the zero-shot scores of an embedded image.

        Args:
            embedding: of the image, from `embed`.
            words: the texts of each class.
            image: (H, W, 3) uint8 RGB, or None.
            classes: text embeddings of the words from `read_words`; None = they are made now.

        Raises:
            ValueError: the image is not of the size that was embedded.
        """
        if image is not None and image.shape[:2] != embedding.size:
            raise ValueError(f"image must be of size {embedding.size} as it was embedded, got {image.shape[:2]}")
        classes = classes or self._texts.with_background(words)
        zero_shot = self._zero_shot(embedding.features, classes)
        return ImageScores(embedding, image, tuple(words), zero_shot, classes, self._photo_extractor.features)

    def score_vectors(self, vectors: Tensor, words: Sequence[tuple[str, ...]]) -> ClassScores:
        """Compute the zero-shot scores of patch features that are of no image: (n + 1, 1, N), the background last.

        Args:
            vectors: (N, D) float32 of unit length.
            words: the texts of each of n classes.
        """
        return self._zero_shot(vectors[None].to(self.encoder.device), self._texts.with_background(words))

    def _zero_shot(self, features: Tensor, classes: TextClasses) -> ClassScores:
        """Scores of (h, w, D) patch features."""
        encoder = self.encoder
        logits = zero_shot_logits(features, classes, scale=encoder.logit_scale, bias=encoder.logit_bias)
        return ClassScores.of(logits, classes.has_text)

    def pixel_classes(
        self, scores: ImageScores, head: Head | None = None, *, outlines: bool = True
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Find the class of each pixel, an index in the scores' words (their number = background), and its posterior.

        Args:
            scores: zero-shot scores of the image.
            head: what was learned from corrections; None = zero-shot.
            outlines: whether the classes follow the outlines of the image, where the scores come with one.

        Returns:
            (H, W) int16 classes and (H, W) float32 posteriors.

        Raises:
            LearningError: the head gives no usable scores; see `head_scores`.
        """
        return self._pixel_classes(_class_scores(scores, head), scores, head, outlines=outlines)

    def _pixel_classes(
        self, found: ClassScores, scores: ImageScores, head: Head | None, *, outlines: bool
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        method = ADAPTIVE if head is None else head.refinement
        embedding = scores.embedding
        image = scores.image if outlines else None
        if image is not None and method.posteriors:
            found = found.averaged(scores.zero_shot.grid)
        classes, confidence = pixel_classes(
            found.logits, embedding.size, image, embedding.affinity, method=method, without=found.others
        )
        return classes if found.classes is None else np.array(found.classes, np.int16)[classes], confidence

    def remarks(self, vocabulary: Vocabulary, taught: Collection[tuple[str, ...]] = ()) -> list[str]:
        """Warn about labels in words that the model cannot read: at most three sentences, each naming a few labels.

        Args:
            vocabulary: the labels.
            taught: texts of labels that were learned from corrections: these need no words.
        """
        unread: dict[str, list[str]] = {}
        partly: dict[str, list[str]] = {}
        never: dict[str, list[str]] = {}
        of_choices = [choice for choices in vocabulary.choices for choice in choices.choices]
        rows: list[Label | Choice] = [*vocabulary.labels, *of_choices]
        for row in rows:
            words = [] if row.texts in taught else self._unknown_of(row.texts)
            if words and self._texts.has_known_words(row.texts):
                partly[row.key] = words
            elif words:
                (unread if isinstance(row, Label) else never)[row.key] = words
        found = (
            (unread, "no masks until learned from corrections"), (partly, "only the other words are used"),
            (never, "never chosen"),
        )  # fmt: skip
        return [f"{self._unknown(labels)}; {effect}" for labels, effect in found if labels]

    def _unknown(self, words_by_label: Mapping[str, Sequence[str]]) -> str:
        words = dict.fromkeys(word for words in words_by_label.values() for word in words)
        labels = f"label{'s' if len(words_by_label) > 1 else ''} {_listed(list(words_by_label))}"
        return f"{labels}: model {self.encoder.name} does not know {_listed(list(words))}"

    def can_read(self, vocabulary: Vocabulary, taught: Collection[tuple[str, ...]] = ()) -> bool:
        """Whether the model can find anything of a vocabulary: it knows a word of a label or choice, or learned one.

        Args:
            vocabulary: the labels.
            taught: texts of labels that were learned from corrections: these need no words.
        """
        texts = [label.texts for label in vocabulary.labels]
        texts += [choice.texts for choices in vocabulary.choices for choice in choices.choices]
        return any(row in taught or self._texts.has_known_words(row) for row in texts)

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Find the labels each of whose texts has a word that the model was never trained on: these words, by key."""
        found = {label.key: self._unknown_of(label.texts) for label in vocabulary.labels}
        return {key: words for key, words in found.items() if words}

    def _unknown_of(self, texts: tuple[str, ...]) -> list[str]:
        """The unknown words of texts that have one each."""
        if any(map(self._texts.knows_all_words, texts)):
            return []
        return [word for text in texts for word in self.encoder.unknown_words(text)]


def _class_scores(scores: ImageScores, head: Head | None) -> ClassScores:
    return scores.zero_shot if head is None else head_scores(head, scores)


def _choice_words(choices: Choices) -> tuple[tuple[str, ...], ...]:
    """The texts of each class among choices."""
    return tuple(dict.fromkeys(choice.texts for choice in choices.choices))


def _listed(names: Sequence[str]) -> str:
    """The first names for a sentence, and how many more there are."""
    shown = [repr(name) for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        shown.append(f"{len(names) - _MOST_NAMES} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _is_large_enough(mask: NDArray[np.bool_], label: Label, area: int | None) -> bool:
    """Whether a segment has the least area of a label. `area`: of the stored image, pixels; None = the mask's."""
    if not label.least_pixels and not label.least_share:
        return True
    share = float(mask.mean())
    return share >= label.least_share and share * (area or mask.size) >= label.least_pixels
