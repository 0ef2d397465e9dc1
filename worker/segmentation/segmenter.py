"""Embed an image once, segment it with any vocabulary: the facade of this package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plugin_config.settings import Settings
from plugin_config.vocabulary import Label, Vocabulary
from worker.segmentation.encoders.efficientnet import EfficientNetExtractor
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import Head, Scene, learned_logits, zero_shot_logits
from worker.segmentation.instances.assembly import LEAST_SCORE, Segment, SegmentRequest, assemble
from worker.segmentation.instances.refiner import MaskRefiner, load_refiner, refine_things
from worker.segmentation.outlines.evidence import spoken
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, pixel_classes
from worker.segmentation.text.encoder import TextClasses, TextEncoder
from worker.segmentation.text.store import TEXTS_FOLDER, TextStore

_FEW = 5  # names in a sentence


@dataclass(frozen=True)
class LabelSegment:
    """A segment and the label it was found for."""

    label: Label
    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image; `score` in [0, 1] is how sure the model is of the whole of it, low = look here."""

    segments: tuple[LabelSegment, ...]
    score: float


class Segmenter:
    """Holds a model and the text embeddings it has made. Adding a label costs one text embedding, no pixels.

    Args:
        encoder: the model.
        store: keeps text embeddings beyond this process; None = in memory alone.
        refiner: a model of the SAM family that may redraw things; None = none.
        least_score: segments that score less are not drawn; they count in the score of the whole.
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
        self._refiner = refiner
        self._least_score = least_score
        self._texts = TextEncoder(encoder, store=store)
        self._tower = EfficientNetExtractor(encoder.device)

    @classmethod
    def from_settings(cls, settings: Settings, *, model: str = "") -> Segmenter:
        """As the settings say; `model` goes ahead of theirs.

        Raises:
            ModelUnavailable: the model, its tower or the refiner cannot be loaded.
        """
        encoder = Encoder.from_settings(settings, model=model)
        store = TextStore(settings.state_path / TEXTS_FOLDER)
        refiner = load_refiner(settings.refiner, device=settings.device)
        return cls(encoder, store=store, refiner=refiner, least_score=settings.least_score)

    def prepare(self) -> None:
        """Load what is otherwise loaded when a head first needs it, so that the start tells what is missing.

        Raises:
            ModelUnavailable: it is not there.
        """
        self._tower.load()

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        """The costly half, once per image: (H, W, 3) uint8 RGB each."""
        return self.encoder.embed_images(images)

    def segment(
        self,
        embedding: ImageEmbedding,
        vocabulary: Vocabulary,
        image: NDArray[np.uint8] | None = None,
        *,
        head: Head | None = None,
        classes: TextClasses | None = None,
    ) -> Segmentation:
        """The cheap half, once per vocabulary. Masks are in the pixels of the embedded image.

        Args:
            embedding: what `embed` made of the image.
            vocabulary: what to look for.
            image: the very image, (H, W, 3) uint8 RGB, whose outlines the masks follow. It stays with its owner, so
                that embeddings alone are cached. None = masks as smooth as the patches.
            head: what was learned from corrections; None = zero-shot.
            classes: what `read_words` made of the vocabulary; None = it is asked now.

        Raises:
            ValueError: the image is not of the size that was embedded.
            LearningError: the head says nothing that could be used; see `learned_logits`.
        """
        scene = self.look(embedding, vocabulary.words, image, classes=classes)
        pixels, confidence = self.pixel_classes(scene, head)
        words = scene.words
        index = {texts: number for number, texts in enumerate(words)}
        alike: dict[SegmentRequest, list[Label]] = {}
        for label in vocabulary.labels:
            alike.setdefault(SegmentRequest(index[label.texts], label.stuff), []).append(label)
        assembled = assemble(pixels, confidence, list(alike), image)
        found = [segment for segment in assembled if segment.score >= self._least_score]
        faint = [segment for segment in assembled if segment.score < self._least_score]
        if self._refiner is not None and image is not None:
            found = refine_things(found, confidence, image, self._refiner)
        segments = [
            LabelSegment(label, segment.mask, segment.score)
            for segment in found
            for label in alike[SegmentRequest(segment.index, segment.stuff)]
        ]
        blind = head is None and not bool(spoken(scene.logits)[:-1].any())  # nothing could be looked for: look here
        return Segmentation(tuple(segments), 0.0 if blind else _overall_score([*found, *faint], confidence))

    def read_words(self, vocabulary: Vocabulary) -> TextClasses:
        """What `segment` needs of a vocabulary. New labels are read in this thread, which takes a minute for thousands;
        other threads read theirs in between.
        """
        return self._texts.with_background(vocabulary.words)

    def look(
        self,
        embedding: ImageEmbedding,
        words: Sequence[tuple[str, ...]],
        image: NDArray[np.uint8] | None = None,
        *,
        classes: TextClasses | None = None,
    ) -> Scene:
        """What the model says of an image, class by class of `words`, before anything was learned. `classes` are those
        of `read_words` where they are at hand.

        Raises:
            ValueError: the image is not of the size that was embedded.
        """
        if image is not None and image.shape[:2] != embedding.size:
            raise ValueError(f"image must be of size {embedding.size} as it was embedded, got {image.shape[:2]}")
        classes = classes or self._texts.with_background(words)
        logits = zero_shot_logits(
            embedding.features, classes, scale=self.encoder.logit_scale, bias=self.encoder.logit_bias
        )
        logits[~classes.has_text] = -torch.inf
        return Scene(embedding, image, tuple(words), logits, self._tower.features)

    def pixel_classes(
        self, scene: Scene, head: Head | None = None, *, outlines: bool = True
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """The class of each pixel of a scene, an index in its words (their number = background), and its posterior.

        Both (H, W), along the image's outlines where the scene has its image, unless `outlines` is off.
        """
        logits = _logits(scene, head)
        method = ADAPTIVE if logits.shape == scene.logits.shape else FINE
        embedding = scene.embedding
        image = scene.image if outlines else None
        return pixel_classes(logits, embedding.size, image, embedding.affinity, method=method)

    def remarks(self, vocabulary: Vocabulary, taught: Collection[tuple[str, ...]] = ()) -> list[str]:
        """What whoever made the vocabulary should know: which labels are in words the model cannot read.

        At most two sentences, each of which names a few labels: one of those that nothing is known of, one of the rest.

        Args:
            vocabulary: the labels.
            taught: texts of labels that were learned from corrections: these need no words.
        """
        silent: dict[str, list[str]] = {}
        partly: dict[str, list[str]] = {}
        for label in vocabulary.labels:
            words = [] if label.texts in taught else self.unknown_words(Vocabulary((label,))).get(label.key, [])
            if words:
                (partly if self._texts.has_known_words(label.texts) else silent)[label.key] = words
        each = "it gets no mask until it is" if len(silent) == 1 else "they get no mask until they are"
        found = [(silent, f"; {each} drawn and learned"), (partly, ", and goes by the rest")]
        return [self._told(labels) + ending for labels, ending in found if labels]

    def _told(self, unknown: Mapping[str, Sequence[str]]) -> str:
        words = dict.fromkeys(word for mine in unknown.values() for word in mine)
        labels = f"label{'s' if len(unknown) > 1 else ''} {_few(list(unknown))}"
        return f"{labels}: model {self.encoder.name} does not know {_few(list(words))}"

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, list[str]]:
        """Labels none of whose texts the model can read: each holds words that it was never trained on. These words."""
        return {
            label.key: [word for text in label.texts for word in self.encoder.unknown_words(text)]
            for label in vocabulary.labels
            if not any(map(self._texts.knows_all_words, label.texts))
        }


def _logits(scene: Scene, head: Head | None) -> Tensor:
    return scene.logits if head is None else learned_logits(head, scene)


def _few(names: Sequence[str]) -> str:
    """The first of them for a sentence, and how many more there are."""
    shown = [repr(name) for name in names[:_FEW]]
    if len(names) > _FEW:
        shown.append(f"{len(names) - _FEW} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _overall_score(found: Sequence[Segment], confidence: NDArray[np.float32]) -> float:
    return float(np.mean([segment.score for segment in found])) if found else float(confidence.mean())
