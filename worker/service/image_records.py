"""What of a drawn image is kept for the order of annotation, and what the selection makes of it."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence

import numpy as np

from plugin_config.queue.order import MOST_LABELS, ImageRecord
from worker.learning.acceptance import IDENTITY, Calibration
from worker.learning.selection.candidates import Candidate, Vector
from worker.learning.selection.vectors import image_vector, unit_vector
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.segmenter import Segmentation


def describe_image(key: str, embedding: ImageEmbedding, found: Segmentation) -> Candidate:
    """Describe a drawn image for the selection by raw scores; how sure the model is of it is its score.

    Args:
        key: of the image; see `worker.label_studio.task_images.TaskImage.key`.
        embedding: of the image.
        found: its segments, with their scores before calibration.
    """
    labels: dict[str, float] = {}
    for segment in found.segments:
        labels[segment.label.key] = max(segment.score, labels.get(segment.label.key, 0.0))
    return Candidate(key, image_vector(embedding), found.score, labels)


def make_record(
    images: Sequence[Candidate], *, version: str, prediction: int, score: float, shown: float, encoder: str
) -> ImageRecord:
    """The record of a task of one or more images: the mean of their vectors, all their labels, and their raw scores.

    Args:
        images: of the task, as `describe_image` returns them, at least one; with labels where it has regions.
        version, prediction, score, shown, encoder: see `ImageRecord`.
    """
    raw = [_share(image.margin) for image in images if image.labels]
    blank = [_share(image.margin) for image in images if not image.labels]
    labels: dict[str, float] = {}
    for image in images:
        for label, highest in image.labels.items():
            labels[label] = max(_share(highest), labels.get(label, 0.0))
    best = sorted(labels, key=lambda label: (-labels[label], label))[:MOST_LABELS]
    vectors = [image.vector for image in images if image.vector is not None]
    vector = unit_vector(np.mean(vectors, axis=0)) if vectors else None
    return ImageRecord(
        version, prediction, _share(score), _share(shown), {label: labels[label] for label in best}, encoder,
        "" if vector is None else _encoded(vector), min(raw, default=None), min(blank, default=None),
    )  # fmt: skip


def read_candidate(task: int, record: ImageRecord, encoder: str, calibration: Calibration = IDENTITY) -> Candidate:
    """What the selection needs of a record; without vector where another encoder made it. All scores go through the
    present `calibration`, whichever they were stored under: else they could not be compared.
    """
    vector = read_vector(record, encoder)
    scores = [] if record.raw is None else [calibration.probability(record.raw)]
    scores += [] if record.blank is None else [calibration.chance_of_nothing(record.blank)]
    if not scores:
        return Candidate(str(task), vector, record.score, record.labels)
    labels = {label: calibration.probability(raw) for label, raw in record.labels.items()}
    return Candidate(str(task), vector, min(scores), labels)


def read_vector(record: ImageRecord, encoder: str) -> Vector | None:
    """The vector of a record at unit length; None where it has none, or another encoder made it."""
    if record.encoder != encoder:
        return None
    try:
        numbers = np.frombuffer(base64.b64decode(record.vector, validate=True), dtype=np.int8)
    except (binascii.Error, ValueError):
        return None
    return unit_vector(numbers.astype(np.float32)) if len(numbers) else None


def _encoded(vector: Vector) -> str:
    """As bytes, each number 1/127 of the largest: the length is of no matter."""
    numbers = np.rint(vector * (127 / np.abs(vector).max())).astype(np.int8)
    return base64.b64encode(numbers.tobytes()).decode()


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value))) if math.isfinite(value) else 0.0
