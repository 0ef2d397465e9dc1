"""Embed an image once, segment it with any vocabulary: the facade of this package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.efficientnet import EfficientNetExtractor
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.encoders.towers import Towers
from worker.segmentation.heads import Head, ImageScores, head_scores, zero_shot_logits
from worker.segmentation.instances.assembly import LEAST_SCORE, Segment, SegmentRequest, assemble
from worker.segmentation.instances.refiner import MaskRefiner, load_refiner, refine_things
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, pixel_classes
from worker.segmentation.text.encoder import TextClasses, TextEncoder
from worker.segmentation.text.store import TEXTS_FOLDER, TextStore

_MOST_NAMES = 5  # in a sentence


@dataclass(frozen=True)
class LabelSegment:
    """A segment and the label it was found for."""

    label: Label
    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class Segmentation:
    """Segments of one image, and how sure the model is of all of them, in [0, 1]: low scores are annotated first."""

    segments: tuple[LabelSegment, ...]
    score: float


class Segmenter:
    """Holds a model and its text embeddings. Adding a label costs one text embedding and no image embedding.

    Args:
        encoder: the model.
        store: keeps text embeddings beyond this process; None = in memory alone.
        refiner: a model of the SAM family that may redraw things; None = none.
        least_score: segments below this score are left out; they still count in the score of the image.

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
        return cls(encoder, store=store, refiner=refiner, least_score=settings.least_score)

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
        scores = self.score(embedding, vocabulary.words, image, classes=classes or self.read_words(vocabulary))
        pixels, confidence = self.pixel_classes(scores, head)
        index = {texts: number for number, texts in enumerate(scores.words)}
        labels_of: dict[SegmentRequest, list[Label]] = {}  # labels of several controls may ask for the same
        for label in vocabulary.drawn:
            labels_of.setdefault(SegmentRequest(index[label.texts], label.stuff), []).append(label)
        # A picture of one colour, as one that is transparent all over, shows nothing, whatever is nearest to it.
        blank = image is not None and all(bool((rows == image[0, 0]).all()) for rows in (image[0], image))
        assembled = [] if blank else assemble(pixels, confidence, list(labels_of), image)
        least = min((self._least(label) for label in vocabulary.drawn), default=self._least_score)
        found = [segment for segment in assembled if segment.score >= least]
        faint = [segment for segment in assembled if segment.score < least]
        if self.refiner is not None and image is not None:
            found = refine_things(found, confidence, image, self.refiner)
        area = None if size is None else size[0] * size[1]
        segments = [
            LabelSegment(label, segment.mask, segment.score)
            for segment in found
            for label in labels_of[SegmentRequest(segment.index, segment.stuff)]
            if segment.score >= self._least(label) and _is_large_enough(segment.mask, label, area)
        ]
        no_label_scored = head is None and not bool(scores.zero_shot.scored[:-1].any())
        return Segmentation(tuple(segments), 0.0 if no_label_scored else _image_score([*found, *faint], confidence))

    def _least(self, label: Label) -> float:
        return self._least_score if label.least_score is None else label.least_score

    def read_words(self, vocabulary: Vocabulary) -> TextClasses:
        """Embed the texts of a vocabulary for `segment`, and the negative words of its labels.

        New labels are embedded in this thread, which takes a minute for thousands; other threads take turns with it.
        """
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
        logits = zero_shot_logits(
            embedding.features, classes, scale=self.encoder.logit_scale, bias=self.encoder.logit_bias
        )
        zero_shot = ClassScores.of(logits, classes.has_text)
        return ImageScores(embedding, image, tuple(words), zero_shot, classes, self._photo_extractor.features)

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
        found = scores.zero_shot if head is None else head_scores(head, scores)
        method = FINE if head is not None and head.fine else ADAPTIVE
        embedding = scores.embedding
        image = scores.image if outlines else None
        classes, confidence = pixel_classes(
            found.logits, embedding.size, image, embedding.affinity, method=method, without=found.others
        )
        return classes if found.classes is None else np.array(found.classes, np.int16)[classes], confidence

    def remarks(self, vocabulary: Vocabulary, taught: Collection[tuple[str, ...]] = ()) -> list[str]:
        """Warn about labels in words that the model cannot read: at most two sentences, each naming a few labels.

        Args:
            vocabulary: the labels.
            taught: texts of labels that were learned from corrections: these need no words.
        """
        unread: dict[str, list[str]] = {}
        partly: dict[str, list[str]] = {}
        for label in vocabulary.labels:
            words = [] if label.texts in taught else self.unknown_words(Vocabulary((label,))).get(label.key, [])
            if words:
                (partly if self._texts.has_known_words(label.texts) else unread)[label.key] = words
        found = ((unread, "no masks until learned from corrections"), (partly, "only the other words are used"))
        return [f"{self._unknown(labels)}; {effect}" for labels, effect in found if labels]

    def _unknown(self, words_by_label: Mapping[str, Sequence[str]]) -> str:
        words = dict.fromkeys(word for words in words_by_label.values() for word in words)
        labels = f"label{'s' if len(words_by_label) > 1 else ''} {_listed(list(words_by_label))}"
        return f"{labels}: model {self.encoder.name} does not know {_listed(list(words))}"

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Find the labels each of whose texts has a word that the model was never trained on: these words, by key."""
        return {
            label.key: [word for text in label.texts for word in self.encoder.unknown_words(text)]
            for label in vocabulary.labels
            if not any(map(self._texts.knows_all_words, label.texts))
        }


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


def _image_score(found: Sequence[Segment], confidence: NDArray[np.float32]) -> float:
    return float(np.mean([segment.score for segment in found])) if found else float(confidence.mean())
