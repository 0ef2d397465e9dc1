"""`python -m worker.sample_task PROJECT...`: one task of each project tried as a worker does it.

Nothing is stored. For `zeromask doctor`: each step is told in a JSON line of its own, with an error where it failed:
first the images, which need no model; then the model; then the words and the mask of each project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plugin_config.closed_output import run_command
from plugin_config.errors import LearningError, QueueUnavailable, TaskDataError, VersionsUnavailable, ZeromaskError
from plugin_config.files import private_folder
from plugin_config.label_studio.client import LabelStudio, Project
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.connection import open_redis
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner, VersionFolder
from plugin_config.versions.served import ServedAdapters
from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits, Picture
from worker.label_studio.task_images import TaskImage, images_of

if TYPE_CHECKING:
    from worker.learning.interfaces import Adapter
    from worker.segmentation.segmenter import Segmenter

_REDIS_S = 2.0


@dataclass(frozen=True)
class SampleTask:
    """A fetched task.

    Attributes:
        project: it belongs to.
        image: its first image, with the labels that are looked for in it.
        picture: that image, decoded.
    """

    project: Project
    image: TaskImage
    picture: Picture


def main(arguments: Sequence[str]) -> int:
    """Try a task of each project. Returns 0; what failed is told in the lines."""
    parser = argparse.ArgumentParser(prog="python -m worker.sample_task")
    parser.add_argument("projects", nargs="+", type=int, metavar="PROJECT")
    parser.add_argument("--images-only", action="store_true", help="load no model")
    parser.add_argument("--output-dir", type=Path, default=Path("zeromask-out"), help="folder of the pictures")
    found = parser.parse_args(arguments)
    settings = Settings.from_env(os.environ)
    with label_studio_of(settings, timeout_s=settings.image_timeout_s) as label_studio:
        images = ImageLoader(ImageLimits.from_settings(settings))
        fetched = [_fetch(label_studio, images, project) for project in found.projects]
    if not found.images_only:
        _segment_all(settings, [task for task in fetched if task is not None], found.output_dir)
    return 0


def _fetch(label_studio: LabelStudio, images: ImageLoader, number: int) -> SampleTask | None:
    """Fetch the image of a project's first task; None where that fails, or there is no task."""
    started = time.monotonic()
    try:
        project = label_studio.project(number)
        vocabulary = parse_vocabulary(project.label_config)
        first = next(iter(label_studio.all_tasks(number)), None)
        if first is None:
            raise TaskDataError(f"project {number}", "has no task to try", "Import one.")
        (task,) = label_studio.tasks(number, [first.id])
        image = images_of(task, vocabulary).images[0]
        picture = images.load(image.address(), task=task.id, project=number, label_studio=label_studio, urgent=True)
    except ZeromaskError as error:
        _tell("image", number, error)
        return None
    height, width = picture.size
    _tell("image", number, task=task.id, width=width, height=height, seconds=_since(started))
    return SampleTask(project, image, picture)


def _segment_all(settings: Settings, tasks: Sequence[SampleTask], folder: Path) -> None:
    # Imported here: torch takes seconds, and an image that cannot be fetched is told before.
    import torch

    from worker.segmentation.segmenter import Segmenter

    if settings.threads:
        torch.set_num_threads(settings.threads)
    started = time.monotonic()
    try:
        segmenter = Segmenter.from_settings(settings)
    except ZeromaskError as error:
        _tell("model", None, error)
        return
    _tell("model", None, name=settings.model, device=str(segmenter.encoder.device), seconds=_since(started))
    for task in tasks:
        try:
            _segment(settings, segmenter, task, folder)
        except ZeromaskError as error:
            _tell("mask", task.project.id, error)
        except OSError as error:
            problem = f"cannot be written ({error})"
            _tell("mask", task.project.id, ZeromaskError(f"folder {folder}", problem, "Set ZEROMASK_STATE_DIR."))


def _segment(settings: Settings, segmenter: Segmenter, task: SampleTask, folder: Path) -> None:
    from worker.overlay import draw_overlay

    started, number, vocabulary = time.monotonic(), task.project.id, task.image.vocabulary
    served, adapter, trouble = _served(settings, segmenter, task.project)
    taught = adapter.taught(vocabulary.words) if adapter is not None else ()
    unknown = segmenter.unknown_words(vocabulary)
    untaught = {label.key for label in vocabulary.labels if label.texts not in taught}
    _tell(
        "words",
        number,
        unknown={key: words for key, words in unknown.items() if key in untaught},
        remarks=[*segmenter.remarks(vocabulary, taught), *([trouble] if trouble else [])],
    )
    pixels = task.picture.pixels
    found = segmenter.segment(segmenter.embed([pixels])[0], vocabulary, pixels, head=adapter, size=task.picture.size)
    path = private_folder(folder) / f"project-{number}.png"
    draw_overlay(pixels, [(segment.label.key, segment.mask) for segment in found.segments]).save(path)
    counts = Counter(segment.label.key for segment in found.segments)
    _tell(
        "mask",
        number,
        task=task.image.task.id,
        regions=dict(counts),
        answers=len(found.answers),
        served=served,
        score=round(found.score, 3),
        picture=str(path),
        seconds=_since(started),
    )


def _served(settings: Settings, segmenter: Segmenter, project: Project) -> tuple[str, Adapter | None, str]:
    """The version that workers serve, what it learned, and why it is not tried; without writing Redis' copy of it."""
    from worker.service.adapter_store import load_adapter

    if not settings.redis_url:
        return ZEROSHOT, None, ""
    owner = Owner(settings.label_studio_url, project.id, project.created, settings.model)
    try:
        with open_redis(
            settings.redis_url, connect_s=_REDIS_S, answer_s=_REDIS_S, ca_bundle=settings.ca_bundle
        ) as redis:
            copy = ServedAdapters(redis).copy(project.id, settings.model)
        if copy is None or copy.served == ZEROSHOT or copy.owner != owner:
            return ZEROSHOT, None, ""
        return copy.served, load_adapter(VersionFolder(settings.versions_url, owner), copy.served, segmenter)[1], ""
    except (LearningError, VersionsUnavailable, QueueUnavailable) as error:
        return ZEROSHOT, None, f"what was learned is not tried: {error}"


def _tell(step: str, project: int | None, error: ZeromaskError | None = None, **row: Any) -> None:
    """Write one line."""
    told = {"step": step, "project": project, **row}
    if error is not None:
        told["error"] = {"subject": error.subject, "problem": error.problem, "remedy": error.remedy}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
