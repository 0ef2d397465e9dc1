"""How many clicks of a smart tool a region takes, from what was predicted and from nothing, by a simulated annotator.

What annotators submitted is the truth to be reached. One version of the predictions answers; images are those that
annotators got that version's prediction of, so that it has learned from none of them.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable, LabelStudioError, LearningError, RegionError, TaskDataError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.vocabulary import Label, Vocabulary
from worker.label_studio.annotation_maps import draw_region
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.outcomes import find_parent
from worker.label_studio.picture_regions import PictureRegion, picture_regions
from worker.label_studio.seeded import is_seeded
from worker.label_studio.task_images import TaskImage, images_of
from worker.report.reading import AnnotationRecord
from worker.report.statistics import Estimate, estimate_mean
from worker.report.versions import ReportedVersion
from worker.segmentation.clicks.prompts import Prompt
from worker.segmentation.clicks.robot import GOAL, MOST_CLICKS, Robot
from worker.segmentation.clicks.scene import prepare
from worker.segmentation.clicks.segmentation import segment_prompt
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.segmenter import Segmenter

log = logging.getLogger(__name__)

_JITTER, _SEED = 0.1, 0
_LEAST_PIXELS = 25  # of a region; a smaller one has no middle to click on


@dataclass(frozen=True)
class ClickMeasures:
    """Mean clicks per region until an IoU of GOAL; MOST_CLICKS where it was not reached.

    Attributes:
        from_prediction: from the predicted region of the same id; as from nothing where there was none.
        from_nothing: with no mask to begin with.
        unreached: regions that did not reach it from nothing.
        version: that answered, "<model>-<adapter>".
        remark: why clicking stopped before its end, a sentence; "" = it did not.
    """

    from_prediction: Estimate
    from_nothing: Estimate
    unreached: int
    version: str
    remark: str = ""


class ClickSample:
    """Keeps which images are clicked on, at most `most`, the first by a hash of their annotation: a fixed and unbiased
    choice of those that annotators got a prediction of `version` for.
    """

    def __init__(self, most: int, version: str = "") -> None:
        self._most, self._version = most, version
        self._heap: list[tuple[int, int, int, str]] = []  # the largest hash first: it is the next to leave

    def add(self, record: AnnotationRecord) -> None:
        """Take in one annotation."""
        is_of_it = record.basis == "ours" and record.version == self._version
        for image in record.images if is_of_it and self._most else ():
            if image.present:
                order = int.from_bytes(hashlib.sha256(f"clicks {record.annotation} {image.key}".encode()).digest()[:6])
                heapq.heappush(self._heap, (-order, record.task, record.annotation, image.key))
            if len(self._heap) > self._most:
                heapq.heappop(self._heap)

    def chosen(self) -> list[tuple[int, int, str]]:
        """(task, annotation, key of the image)."""
        return [row[1:] for row in sorted(self._heap, reverse=True)]


def measure_clicks(
    label_studio: LabelStudio, project: int, vocabulary: Vocabulary, images: ImageLoader, segmenter: Segmenter,
    chosen: Iterable[tuple[int, int, str]], version: ReportedVersion,
) -> ClickMeasures:  # fmt: skip
    """Click on one region of each image. What cannot be read is left out; where memory runs out, or what was learned
    cannot be used, clicking stops.

    Args:
        label_studio: the client.
        project: its id.
        vocabulary: of the project.
        images: loads them.
        segmenter: answers the clicks.
        chosen: as `ClickSample.chosen` gives them.
        version: with which it answers.
    """
    robot = Robot(_JITTER, _SEED)
    predicted, nothing, unreached, remark = [], [], 0, ""
    for task, annotation, key in chosen:
        try:
            for image, before, after in _regions(label_studio, project, vocabulary, task, annotation, key):
                ious = _click(label_studio, project, image, images, segmenter, version, robot, before, after)
                if ious is not None:
                    predicted.append(_clicks(ious[0]))
                    nothing.append(_clicks(ious[1]))
                    unreached += ious[1][-1] < GOAL
        except (LabelStudioError, ImageUnavailable, RegionError, TaskDataError) as error:
            log.warning("task %d: not clicked on. %s", task, error)
        except LearningError as error:
            remark = f"Clicking stopped at task {task}: the figures are of the regions before it. {error}"
            break
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            remark = f"Clicking stopped at task {task} for lack of memory: the figures are of the regions before it."
            break
    if not predicted and not remark:
        remark = (
            f"Nothing to click on: no annotation that can be read was made from a prediction of {version.name}. Name a "
            "version that annotators have seen with --version."
        )
    return ClickMeasures(estimate_mean(predicted), estimate_mean(nothing), unreached, version.name, remark)


def _regions(
    label_studio: LabelStudio, project: int, vocabulary: Vocabulary, number: int, annotation: int, key: str
) -> Iterator[tuple[TaskImage, PictureRegion | None, PictureRegion]]:
    """The image, and one of its submitted regions behind the predicted one of its id; nothing where it is gone. A
    seeded region that was left in is wrong, and no truth.
    """
    rows = [row for row in label_studio.annotations(number) if row.id == annotation]
    tasks = label_studio.tasks(project, [number]) if rows else []
    for image in (image for task in tasks for image in images_of(task, vocabulary).images if image.key == key):
        parent = find_parent(rows[0], label_studio.predictions(number))
        known = {row.identity: row for row in picture_regions(parent.result if parent else (), image.vocabulary)}
        regions = picture_regions(rows[0].result, image.vocabulary)
        labelled = [row for row in regions if row.label is not None and not is_seeded(row.identity)]
        if labelled:
            region = min(labelled, key=lambda row: hashlib.sha256(f"{row.identity}".encode()).digest())
            yield image, known.get(region.identity) if region.identity else None, region


def _click(
    label_studio: LabelStudio, project: int, image: TaskImage, images: ImageLoader, segmenter: Segmenter,
    version: ReportedVersion, robot: Robot, before: PictureRegion | None, after: PictureRegion,
) -> tuple[list[float], list[float]] | None:  # fmt: skip
    """IoU before the first click and after each, from the prediction and from nothing; None for a region too small."""
    picture = images.load(
        image.address(), task=image.task.id, project=project, label_studio=label_studio, urgent=False
    )
    frame = (picture.pixels.shape[0], picture.pixels.shape[1])
    truth = draw_region(after, picture.size, frame)
    if np.count_nonzero(truth) < _LEAST_PIXELS:
        return None
    words = image.vocabulary.words
    index = words.index(_label(after).texts)
    scores = segmenter.score(segmenter.embed([picture.pixels])[0], words, picture.pixels)
    scene = prepare(segmenter, scores, version.adapter)

    def answer(prompt: Prompt, current: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        return segment_prompt(scene, prompt, class_index=index, current=current).mask

    from_nothing = robot.correct(answer, truth, None)
    start = None if before is None else draw_region(before, picture.size, frame)
    if start is None or not start.any():
        return from_nothing, from_nothing
    return robot.correct(answer, truth, start), from_nothing


def _label(region: PictureRegion) -> Label:
    if region.label is None:
        raise ValueError("a region that is clicked on must have a label")
    return region.label


def _clicks(ious: list[float]) -> int:
    return len(ious) - 1 if ious[-1] >= GOAL else MOST_CLICKS
