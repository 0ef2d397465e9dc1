"""A task and its project's vocabulary -> the task's images, each with the labels that are looked for in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache, cached

from plugin_config.errors import ImageUnavailable
from plugin_config.label_studio.client import Task
from plugin_config.labeling_config import Tag
from plugin_config.task_tags import MOST_IMAGES
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.fetching import subject_of
from worker.label_studio.image_address import address_at, address_count, address_in

_MOST_KEPT = 50_000  # labels and choices of filled-in vocabularies: 17 MB of large ones, 40 MB of many small ones


@dataclass(frozen=True)
class TaskImage:
    """One image of a task.

    Attributes:
        task: the task.
        vocabulary: the labels of the controls that draw on it; its `item_index` is the image's place in a valueList.
        several: whether the task has other images.
    """

    task: Task
    vocabulary: Vocabulary
    several: bool = False

    @property
    def key(self) -> str:
        """Identifies the image for ever: the task's id, followed by the image's place where there are several."""
        if not self.several:
            return str(self.task.id)
        return f"{self.task.id}/{self.vocabulary.to_name}/{self.vocabulary.item_index or 0}"

    @property
    def title(self) -> str:
        """How messages call it."""
        index = self.vocabulary.item_index
        return f"Image {self.vocabulary.to_name!r}" + ("" if index is None else f", item {index}")

    def address(self) -> str:
        """Its address, or path.

        Raises:
            ImageUnavailable: the task's data does not have it.
        """
        value, index = self.vocabulary.image_value, self.vocabulary.item_index
        return address_in(self.task, value) if index is None else address_at(self.task, value, index)


@dataclass(frozen=True)
class TaskImages:
    """The images of a task.

    Attributes:
        images: one or more, in the order of the labeling config.
        left_out: what is not read of the task, a sentence each.
    """

    images: tuple[TaskImage, ...]
    left_out: tuple[str, ...] = ()


def task_of(key: str) -> int:
    """The id of the task of an image, of its `TaskImage.key`."""
    return int(key.partition("/")[0])


def images_of(task: Task, vocabulary: Vocabulary) -> TaskImages:
    """Find the images of a task, at most MOST_IMAGES.

    Args:
        task: whose data is asked.
        vocabulary: of the project.

    Raises:
        TaskDataError: the task's data does not have what the labeling config asks for.
        ImageUnavailable: the task's data could not be read.
    """
    if vocabulary.is_plain:
        return TaskImages((TaskImage(task, vocabulary),))
    if task.unreadable:
        raise ImageUnavailable(subject_of(task.id), f"is not known: {task.unreadable}", "Then ask for the task again.")
    found = _parts(task, vocabulary) if vocabulary.template is None else _kept_parts(task, vocabulary)
    several = len(found.vocabularies) > 1
    return TaskImages(tuple(TaskImage(task, part, several) for part in found.vocabularies), found.left_out)


@dataclass(frozen=True)
class _Parts:
    """The vocabularies of a task's images, what is not read of it, and how many labels and choices they hold."""

    vocabularies: tuple[Vocabulary, ...]
    left_out: tuple[str, ...]
    size: int


def _parts(task: Task, vocabulary: Vocabulary) -> _Parts:
    filled, left_out = vocabulary.for_task(task.id, task.data)
    parts = [part for image in filled.images for part in _items(task, filled.of_image(image))]
    total = sum(address_count(task, image.value) if image.is_list else 1 for image in filled.images)
    if total > MOST_IMAGES:
        told = f"{total - MOST_IMAGES} of {total} images are left out: the first {MOST_IMAGES} are read"
        left_out = (*left_out, told)
    size = len(parts) + len(filled.labels) + sum(len(choices.choices) for choices in filled.choices)
    return _Parts(tuple(parts[:MOST_IMAGES]), left_out, size)


def _kept_key(task: Task, vocabulary: Vocabulary) -> tuple[Tag | None, str]:
    """A config, and what it may leave to a task: lists, or objects that hold them. The address of an image differs from
    task to task, while thousands of labels may be the same.
    """
    asked = {name: value for name, value in task.data.items() if isinstance(value, list | dict)}
    content = json.dumps(asked, sort_keys=True).encode()
    return vocabulary.template, hashlib.blake2b(content, digest_size=16).hexdigest()


_kept: LRUCache[tuple[Tag | None, str], _Parts] = LRUCache(_MOST_KEPT, getsizeof=lambda parts: parts.size)
_kept_parts = cached(_kept, key=_kept_key, lock=Lock())(_parts)  # thousands of labels take half a second at every click


def _items(task: Task, vocabulary: Vocabulary) -> list[Vocabulary]:
    """The vocabulary of each item of an Image tag, whose only image is that of `vocabulary`; of very many the first."""
    (image,) = vocabulary.images
    if not image.is_list:
        return [vocabulary]
    return [vocabulary.at(number) for number in range(min(MOST_IMAGES, address_count(task, image.value)))]
