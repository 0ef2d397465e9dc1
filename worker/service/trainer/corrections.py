"""What annotators made of a project's predictions, read from Label Studio, the only truth: edits and deletions are read
anew each time, so no event can be missed.

It must not know recipes, nor what is promoted. docs/reference/learning_rules.md states the rules.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import AnswerTooLarge, ImageHostTrouble, ImageUnavailable, LabelStudioError, RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.fetching import address_in
from worker.label_studio.images import ImageLimits
from worker.label_studio.intake import Intake
from worker.label_studio.outcomes import Outcomes, count_outcomes, sum_outcomes
from worker.learning.corrections.truth import counting_annotations, draw_truth, merge_truths
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID
from worker.segmentation.pictures import resize
from worker.service.batches import free_memory

log = logging.getLogger(__name__)

Embed = Callable[[Sequence[NDArray[np.uint8]]], list[ImageEmbedding]]

LONGEST_SIDE = 640
"""Pixels of the longer side at which examples are kept: hundreds of them fit the memory."""

_TASKS_AT_ONCE = 50


@dataclass(frozen=True)
class Correction:
    """One annotated task.

    Attributes:
        task: its id.
        annotations: ids of the annotations that count.
        ground_truth: whether they are flagged as ground truth.
        outcomes: what became of the predicted regions, by label key.
        example: what there is to learn.
    """

    task: int
    annotations: tuple[int, ...]
    ground_truth: bool
    outcomes: Mapping[str, Outcomes]
    example: Example


def read_corrections(
    label_studio: LabelStudio,
    project: int,
    vocabulary: Vocabulary,
    *,
    embed: Embed,
    limits: ImageLimits,
    ours: Collection[str] = (),
    longest_side: int = LONGEST_SIDE,
    only: Collection[int] | None = None,
    passing: Callable[[int, str], None] = lambda task, reason: None,
) -> Iterator[Correction]:
    """Read every annotated task of a project, one at a time. One that cannot be read is left out with its reason in the
    log: its image is gone, or a region of it is broken, so that its truth would be wrong. Where the reason may pass, it
    is told besides: the image's server is in trouble, Label Studio stumbles over this task, or memory is short.

    Args:
        label_studio: the client.
        project: its id.
        vocabulary: of the project now. Regions of labels it no longer has are ignored.
        embed: makes embeddings of images as `worker.label_studio.images.Picture` has them, (H, W, 3) uint8 RGB each; an
            `EmbeddingCache`'s has most of them.
        limits: for images.
        ours: versions of our predictions, see `count_outcomes`.
        longest_side: pixels; larger images and their truths are reduced to it once they are embedded.
        only: ids of the tasks to read; None = all.
        passing: takes a task's id and why it cannot be read now. It may raise, which ends the reading.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses the project.
    """
    reader = _Reader(label_studio, project, vocabulary, embed, limits, ours, longest_side)
    ids = [row.id for row in label_studio.annotated_tasks(project) if only is None or row.id in only]
    for start in range(0, len(ids), _TASKS_AT_ONCE):
        for task in label_studio.tasks(project, ids[start : start + _TASKS_AT_ONCE]):
            try:
                found = reader.read(task)
            except LabelStudioError as error:
                if error.status not in (404, 500) and not isinstance(error, AnswerTooLarge):
                    raise  # those are about this one task
                log.warning("task %d is not learned from: %s", task.id, error)
                if error.status == 500:
                    passing(task.id, str(error))
            except (ImageUnavailable, RegionError) as error:
                log.warning("task %d is not learned from: %s", task.id, error)
                if isinstance(error, ImageHostTrouble):
                    passing(task.id, str(error))
            except (MemoryError, RuntimeError) as error:  # torch's out-of-memory is a RuntimeError
                free_memory()
                told = f"its image does not go through the model ({error!r})"
                log.warning("task %d is not learned from: %s", task.id, told)
                passing(task.id, f"task {task.id}: {told}")
            else:
                if found is not None:
                    yield found


def corrections_digest(label_studio: LabelStudio, project: int) -> str:
    """16 hex digits that change when anything does that `read_corrections` reads of the annotations: one request for
    500 annotated tasks.

    A prediction stored or deleted for an annotated task changes it too: a needless reading, never a missed one;
    `content_digest` tells then. Another labeling config does not; its vocabulary's hash tells that.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses the project.
    """
    digest = hashlib.sha256()
    for task in label_studio.annotated_tasks(project):
        digest.update(f"{task.id} {task.annotations} {task.updated_at}\n".encode())
    return digest.hexdigest()[:16]


def content_digest(examples: Iterable[Example], vocabulary: Vocabulary) -> str:
    """16 hex digits that change when what is learned from does: which images, and which label lies where in them.

    Neither the examples' order counts, nor labels that none of them shows, nor what else is looked for under a label.

    Args:
        examples: all there are, with the vocabulary's words.
        vocabulary: of the project.
    """
    names = [" ".join(sorted({repr(label.key) for label in vocabulary.labels if label.texts == texts}))
             for texts in vocabulary.words]  # fmt: skip
    rows = []
    for example in examples:
        drawn = sorted(np.unique(example.truth[example.truth >= 0]).tolist(), key=lambda number: names[number])
        place = np.arange(min(UNLABELLED, VOID), len(names), dtype=np.int16)  # of each value, from the lowest on
        place[np.asarray(drawn, dtype=np.int64) - place[0]] = np.arange(len(drawn))
        truth = np.ascontiguousarray(place[example.truth - int(place[0])])
        told = f"{example.key} {truth.shape} {[names[number] for number in drawn]} "
        rows.append(hashlib.sha256(told.encode() + truth.tobytes()).hexdigest())
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]


def make_example(
    key: str,
    annotations: Sequence[Annotation],
    vocabulary: Vocabulary,
    image: NDArray[np.uint8],
    embedding: ImageEmbedding,
    *,
    longest_side: int = LONGEST_SIDE,
    size: tuple[int, int] | None = None,
) -> Example:
    """What counting annotations say of one image, where most of them agree.

    Args:
        key: of the example.
        annotations: those that count, one or more.
        vocabulary: whose words the truth speaks of.
        image: (H, W, 3) uint8 RGB, upright.
        embedding: of the image.
        longest_side: pixels to which the example's image and truth are reduced where the image is larger.
        size: (H, W) of the image that was annotated, where this one is a reduced copy of it.

    Raises:
        RegionError: a region cannot be decoded.
    """
    size = size or (image.shape[0], image.shape[1])
    scale = min(1.0, min(longest_side, max(image.shape[:2])) / max(size))
    frame = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    truth = merge_truths([draw_truth(row.result, vocabulary, size, frame) for row in annotations])
    return Example(key, resize(image, frame), replace(embedding, size=frame), vocabulary.words, truth)


class _Reader:
    """Reads one task after another of one project; see `read_corrections`."""

    def __init__(
        self, label_studio: LabelStudio, project: int, vocabulary: Vocabulary, embed: Embed, limits: ImageLimits,
        ours: Collection[str], longest_side: int,
    ) -> None:  # fmt: skip
        self._label_studio, self._project = label_studio, project
        self._vocabulary, self._embed = vocabulary, embed
        self._intake, self._ours, self._longest_side = Intake(limits), ours, longest_side

    def read(self, task: Task) -> Correction | None:
        """None when no annotation of the task counts (any more)."""
        annotations = counting_annotations(self._label_studio.annotations(task.id))
        if not annotations:
            return None
        url = address_in(task, self._vocabulary.image_key)
        picture = self._intake.read(
            url, task=task.id, project=self._project, label_studio=self._label_studio, urgent=False
        )
        (embedding,) = self._embed([picture.pixels])
        example = make_example(
            str(task.id), annotations, self._vocabulary, picture.pixels, embedding, longest_side=self._longest_side,
            size=picture.size,
        )  # fmt: skip
        ids = tuple(annotation.id for annotation in annotations)
        outcomes = self._outcomes(task.id, annotations)
        return Correction(task.id, ids, annotations[0].ground_truth, outcomes, example)

    def _outcomes(self, task: int, annotations: Sequence[Annotation]) -> dict[str, Outcomes]:
        predictions = self._label_studio.predictions(task)
        return sum_outcomes(count_outcomes(row, predictions, self._vocabulary, self._ours) for row in annotations)
