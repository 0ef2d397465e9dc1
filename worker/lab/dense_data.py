"""Images with a class for each pixel, and labels of which some are never shown in training: drawn, or photographs.

Whatever the source, the truth of all labels is kept; `training_samples` makes VOID of every pixel of an unseen label,
so that no loss can reach it, as a class or as background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable, LearningError, ModelUnavailable, SettingsError
from worker.lab.dealt_scenes import DealtScenes
from worker.lab.drawn_world.composition_trials import pair_label
from worker.lab.drawn_world.scenes import Scene
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF, TEXTURES, Thing, random_thing
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.learning.corrections.class_maps import drawn_classes, renumber, with_background
from worker.learning.interfaces import UNLABELLED, Words
from worker.learning.recipes.dense.batches import HIDDEN, Sample
from worker.learning.recipes.dense.labels import TextVectors
from worker.learning.recipes.dense.recipe import Hidden
from worker.segmentation.metrics import VOID

WORDS, PAIRS = "drawn:words", "drawn:pairs"
UNSEEN_WORDS = ("ring", "heart", "sand")
"""Words of the drawn world without masks in training."""

SCENES = 400
"""Drawn scenes to train with, and to test with, unless another number is asked for."""

_PAIRS = tuple(Thing(colour, texture, SHAPES[0]) for colour in COLOURS for texture in TEXTURES)
_PAIR_LABELS = tuple(pair_label(thing, "colour_texture") for thing in _PAIRS)
_TRAINING, _TEST = 0, 1  # of the seeds
_REMEDY = "A set holds images/, masks/, classes.json and split.json; see docs/research/learning.md."


@dataclass(frozen=True)
class LabelledImage:
    """An image and the class of each pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int16: index of a label, UNLABELLED where the background is, or VOID.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.int16]


@dataclass(frozen=True)
class SplitLabels:
    """Labels, and those of them whose masks training never shows.

    Attributes:
        name: of the data set, as it was asked for.
        labels: in the order of the truth's indices.
        unseen: indices of the labels without masks in training.
    """

    name: str
    labels: tuple[str, ...]
    unseen: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the labels with masks in training."""
        return tuple(k for k in range(len(self.labels)) if k not in self.unseen)

    @property
    def words(self) -> Words:
        """The texts of all labels."""
        return tuple((label,) for label in self.labels)

    @property
    def seen_words(self) -> Words:
        """The texts of the labels that are trained with."""
        return tuple((self.labels[k],) for k in self.seen)

    @property
    def unseen_words(self) -> Words:
        """The texts of the others."""
        return tuple((self.labels[k],) for k in self.unseen)

    @property
    def unseen_labels(self) -> list[str]:
        """The labels without masks in training."""
        return [self.labels[k] for k in self.unseen]


@dataclass(frozen=True)
class ZeroShotSet(SplitLabels):
    """Images with a class for each pixel.

    Attributes:
        has_background: whether pixels may have none of the labels.
        training: images to learn from; their truth is of all labels, so `training_samples` is what learns.
        test: images to measure on.
    """

    has_background: bool
    training: Sequence[LabelledImage]
    test: Sequence[LabelledImage]


def training_samples(data: ZeroShotSet) -> list[Sample]:
    """The training images as a network learns from them: rows of the seen labels, the background after them, and VOID.
    Images that show nothing to learn are left out.
    """
    seen = data.seen
    rows = [seen.index(k) if k in seen else VOID for k in range(len(data.labels))]
    samples = [Sample(one.image, with_background(renumber(one.truth, rows), len(seen))) for one in data.training]
    return [sample for sample in samples if drawn_classes(sample.truth)]


def training_set(data: ZeroShotSet, hidden: Hidden = "ignored") -> tuple[Words, list[Sample]]:
    """The labels that a network learns and its images, some pixels of which may be given pseudo-labels.

    Args:
        data: the images.
        hidden: which pixels are HIDDEN instead of VOID. Whatever the truth of an unseen label is, it says no more than
            that, and where all pixels without a class are hidden, not even that.

    Returns:
        The texts of the seen labels, and with hidden pixels after them those of the unseen ones; and the images, whose
        truth is rows of these, the background after them.
    """
    if hidden == "ignored":
        return data.seen_words, training_samples(data)
    words = (*data.seen_words, *data.unseen_words)
    rows = [data.seen.index(k) if k in data.seen else HIDDEN for k in range(len(data.labels))]
    samples = []
    for one in data.training:
        truth = with_background(renumber(one.truth, rows), len(words))
        if hidden == "unlabelled":
            truth = np.where(truth == VOID, np.int16(HIDDEN), truth)
        if drawn_classes(truth) or bool((truth == HIDDEN).any()):
            samples.append(Sample(one.image, truth))
    return words, samples


def zero_shot_set(data: str, *, unseen: Sequence[str] = (), scenes: int = SCENES, seed: int = 0) -> ZeroShotSet:
    """Open a data set.

    Args:
        data: WORDS, PAIRS, or the folder of a photo set.
        unseen: labels of a photo set that training must not see; the drawn sets have their own.
        scenes: to draw for training and for testing each.
        seed: of the drawn training scenes; test scenes are the same for every seed.

    Raises:
        ImageUnavailable: the folder is no set.
        SettingsError: an unseen label is no class, or no seen one is left.
    """
    if data in (WORDS, PAIRS):
        if any(unseen):
            remedy = f"Leave --unseen away, or name a folder of photographs instead of {data}."
            raise SettingsError("--unseen", f"{data} has unseen labels of its own", remedy)
        return drawn_set(data, scenes=scenes, seed=seed)
    if data.startswith("drawn:"):
        raise SettingsError(f"data {data!r}", "is not known", f"Choose {WORDS}, {PAIRS} or a folder of photographs.")
    return photo_set(Path(data), unseen)


def drawn_set(name: str, *, scenes: int = SCENES, seed: int = 0) -> ZeroShotSet:
    """The drawn world as words (its shapes and stuff) or as pairs (colour x texture of shapes on a background)."""
    kind: type[DealtScenes[LabelledImage]]
    labels: tuple[str, ...]
    if name == WORDS:
        kind, labels = _WordScenes, (*SHAPES, *STUFF)
        unseen = tuple(k for k, label in enumerate(labels) if label in UNSEEN_WORDS)
    else:
        kind, labels = _PairScenes, _PAIR_LABELS
        unseen = tuple(k for k, thing in enumerate(_PAIRS) if thing.is_unseen_texture)
    return ZeroShotSet(name, labels, unseen, name == PAIRS, kind(scenes, (_TRAINING, seed)), kind(scenes, (_TEST, 0)))


class _WordScenes(DealtScenes[LabelledImage]):
    """Scenes whose labels are the shapes and stuff, all of them dealt."""

    units = (30.0, 50.0)  # things of a few patches, which a training-free model finds but does not delineate

    def thing(self, rng: np.random.Generator, position: int) -> Thing:
        """See `DealtScenes`: nothing about a thing but its label may be held out of the builtin's training."""
        shape = SHAPES[self.dealt(position, len(SHAPES))]
        while True:
            free = random_thing(rng, "seen")
            thing = Thing(free.colour, free.texture, shape)
            if not thing.is_unseen_shape:
                return thing

    def labelled(self, scene: Scene) -> LabelledImage:
        """See `DealtScenes`."""
        named = [SHAPES.index(thing.shape) for thing in scene.objects]
        stuff = len(SHAPES) + scene.stuff.astype(np.int16)
        truth = np.where(scene.instances > 0, np.array([0, *named], dtype=np.int16)[scene.instances], stuff)
        return LabelledImage(scene.image, truth)


class _PairScenes(DealtScenes[LabelledImage]):
    """Scenes whose labels are the colours and textures of shapes, all of them dealt."""

    units = (42.0, 66.0)  # larger: a texture does not show on small things

    def thing(self, rng: np.random.Generator, position: int) -> Thing:
        """See `DealtScenes`: nothing about a thing but its label may be held out of the builtin's training."""
        pair = _PAIRS[self.dealt(position, len(_PAIRS))]
        while True:
            thing = Thing(pair.colour, pair.texture, SHAPES[int(rng.integers(len(SHAPES)))])
            if not thing.is_unseen_shape:
                return thing

    def labelled(self, scene: Scene) -> LabelledImage:
        """See `DealtScenes`."""
        named = [_PAIR_LABELS.index(pair_label(thing, "colour_texture")) for thing in scene.objects]
        return LabelledImage(scene.image, np.array([UNLABELLED, *named], dtype=np.int16)[scene.instances])


def photo_set(folder: Path, unseen: Sequence[str], *, parts: tuple[str, str] = ("train", "test")) -> ZeroShotSet:
    """Read a folder of photographs; labels that no photograph of its two parts shows are left out.

    Args:
        folder: holds images/, masks/, classes.json and split.json.
        unseen: labels that training must not see.
        parts: of split.json, to train and to test with.

    Raises:
        ImageUnavailable: the folder is no set, or two of its classes have one name.
        SettingsError: an unseen label is no class, or no seen one is left.
    """
    found = read_labelled_set(folder, parts, None)
    images = {part: [LabelledImage(photo.image, photo.truth) for photo in found.parts[part]] for part in parts}
    shown = sorted({k for part in parts for one in images[part] for k in drawn_classes(one.truth)})
    labels = tuple(found.words[k][0] for k in shown)
    if not labels:
        raise ImageUnavailable(f"set {folder}", "its masks show no label", _REMEDY)
    twice = [label for number, label in enumerate(labels) if label in labels[:number]]
    if twice:
        problem = f"two classes are named {twice[0]!r}, so that one could be seen and the other unseen"
        raise ImageUnavailable(f"set {folder}", problem, "Give each class of classes.json a name of its own.")
    wanted = list(dict.fromkeys(name.replace("_", " ").strip() for name in unseen if name.strip()))
    strange = [name for name in wanted if name not in labels]
    if strange:
        problem = f"{strange[0]!r} is no label that the photographs of {folder} show"
        raise SettingsError("--unseen", problem, f"Choose among {', '.join(labels)}.")
    if not wanted:
        raise SettingsError("--unseen", "no label is named", f"Choose some of {', '.join(labels)}.")
    if len(wanted) == len(labels):
        raise SettingsError("--unseen", "no label is left to learn from", "Name fewer labels than the set has.")
    rows = [shown.index(k) if k in shown else VOID for k in range(len(found.words))]
    training, test = (
        [LabelledImage(one.image, renumber(one.truth, rows)) for one in images[part]] for part in parts
    )
    places = tuple(sorted(labels.index(name) for name in wanted))
    return ZeroShotSet(str(folder), labels, places, found.has_background, training, test)


def read_text_vectors(path: Path, labels: Sequence[str]) -> TextVectors:
    """Read vectors by text from an NPZ file.

    Args:
        path: of the file: one array (D,) for each text.
        labels: that must have a vector.

    Raises:
        ModelUnavailable: the file cannot be read, or holds no such vectors.
        LearningError: a label has none.
    """
    remedy = "Store one array (D,) of floats for each label: numpy.savez(FILE, **{'cow': vector, ...})."
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {str(name): np.asarray(stored[name], dtype=np.float32) for name in stored.files}
    except (OSError, ValueError, AttributeError, TypeError, BadZipFile) as error:
        raise ModelUnavailable(f"text vectors {path}", f"they cannot be read ({error})", remedy) from error
    widths = {vector.shape for vector in found.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1 or not all(np.isfinite(one).all() for one in found.values()):
        raise ModelUnavailable(f"text vectors {path}", "they are not vectors of one length, all of numbers", remedy)
    without = [label for label in labels if label not in found]
    if without:
        raise LearningError(f"label {without[0]!r}", f"has no vector in {path}", "Add one, or leave the label out.")
    return TextVectors({name: torch.from_numpy(vector) for name, vector in found.items()})


def set_settings(data: ZeroShotSet) -> Mapping[str, object]:
    """What tells one data set from another, as JSON."""
    return {"data": data.name, "unseen": data.unseen_labels, "images": len(data.training)}
