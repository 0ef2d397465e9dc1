"""A task on its way through the pipeline, for one of its images after another.

A task with several images goes from the first stage to the last but one once for each of them, and is posted once: the
pipeline holds no more of it at a time than of a task with one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from plugin_config.errors import ImageUnavailable, TaskDataError
from plugin_config.label_studio.client import Task
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Lease
from worker.label_studio.images import Picture
from worker.label_studio.task_images import TaskImage, TaskImages, images_of
from worker.learning.selection.candidates import Candidate
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.text.encoder import TextClasses
from worker.service.plan import Plan

_LONGEST_START = 1000  # characters in which the host of an address ends


@dataclass(frozen=True)
class LeasedTask:
    """A task that this worker has leased, and its project's plan."""

    plan: Plan
    lease: Lease
    task: Task

    @property
    def project(self) -> int:
        """The project's id."""
        return self.plan.project.id

    @property
    def ref(self) -> TaskRef:
        """The task and the version it was asked for at."""
        return self.lease.ref

    @cached_property
    def images(self) -> TaskImages:
        """Its images.

        Raises:
            TaskDataError, ImageUnavailable: as `images_of`.
        """
        return images_of(self.task, self.plan.vocabulary)

    @property
    def has_several_images(self) -> bool:
        """Whether one of them may fail without the others; False too where they are not known."""
        try:
            return len(self.images.images) > 1
        except (TaskDataError, ImageUnavailable):
            return False


@dataclass(frozen=True)
class ImageTurn:
    """A leased task that is to be segmented in one of its images.

    Attributes:
        leased: the task.
        number: of the image, from 0.
        result: regions of the images before it, as Label Studio stores them.
        scores: of those among them that were segmented.
        raw_nothing: `Segmentation.raw_nothing` of each of these.
        drawn_images: these as the order of annotation needs them; none where it is off.
        failures: what of these images is left out, and why, a sentence each.
        ms: stage -> how long it took so far, milliseconds.
    """

    leased: LeasedTask
    number: int = 0
    result: tuple[Mapping[str, Any], ...] = ()
    scores: tuple[float, ...] = ()
    raw_nothing: tuple[float | None, ...] = ()
    drawn_images: tuple[Candidate, ...] = ()
    failures: tuple[str, ...] = ()
    ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def image(self) -> TaskImage:
        """The image. Raises as `LeasedTask.images`."""
        return self.leased.images.images[self.number]

    @cached_property
    def host(self) -> str:
        """The host the image is fetched from; "" = Label Studio, or no valid address. First asked for outside of the
        inbox's lock: thousands of labels in the task's data take half a second.
        """
        try:
            # `urlsplit` remembers what it has read, and a data: URI may hold a large picture.
            return urlsplit(self.image.address()[:_LONGEST_START]).netloc
        except (ImageUnavailable, TaskDataError, ValueError):  # the fetch says so
            return ""

    def spent(self, stage: str, ms: float) -> ImageTurn:
        """This turn after some time at a stage, milliseconds."""
        return replace(self, ms={**self.ms, stage: self.ms.get(stage, 0.0) + ms})

    def drawn(
        self, result: Sequence[Mapping[str, Any]], score: float, image: Candidate | None = None,
        raw_nothing: float | None = None, left_out: str = "",
    ) -> ImageTurn | DrawnTask:  # fmt: skip
        """What comes after the image was segmented; `image`: as the order of annotation needs it; `raw_nothing`: see
        `Segmentation`; `left_out`: what of it is not in the result, and why.
        """
        images = (*self.drawn_images, *([] if image is None else [image]))
        return replace(
            self, result=(*self.result, *result), scores=(*self.scores, score), drawn_images=images,
            raw_nothing=(*self.raw_nothing, raw_nothing),
            failures=(*self.failures, *([self._titled(left_out)] if left_out else [])),
        )._after()  # fmt: skip

    def without(self, reason: str) -> ImageTurn | DrawnTask:
        """What comes after the image failed."""
        return replace(self, failures=(*self.failures, self._titled(reason)))._after()

    def _titled(self, reason: str) -> str:
        return f"{self.image.title}: {reason}" if self.leased.has_several_images else reason

    def _after(self) -> ImageTurn | DrawnTask:
        images = self.leased.images
        if self.number + 1 < len(images.images):
            return replace(self, number=self.number + 1)
        score = min(self.scores, default=0.0)
        left_out = (*images.left_out, *self.failures)
        empty = [one for one in self.raw_nothing if one is not None]
        return DrawnTask(
            self.leased, self.result, score, self.ms, left_out, failed=not self.scores, images=self.drawn_images,
            raw_nothing=min(empty) if empty and len(empty) == len(self.raw_nothing) else None,
        )  # fmt: skip


@dataclass(frozen=True)
class FetchedTask:
    """A task with one of its images.

    Attributes:
        turn: the task and the image's place in it.
        picture: the image.
        classes: the texts of the image's labels, encoded.
    """

    turn: ImageTurn
    picture: Picture
    classes: TextClasses | None = None

    @property
    def leased(self) -> LeasedTask:
        """The task."""
        return self.turn.leased


@dataclass(frozen=True)
class EmbeddedTask:
    """A task with the embedding of one of its images. Attributes as of `FetchedTask`."""

    turn: ImageTurn
    picture: Picture
    embedding: ImageEmbedding
    classes: TextClasses | None

    @property
    def leased(self) -> LeasedTask:
        """The task."""
        return self.turn.leased


@dataclass(frozen=True)
class DrawnTask:
    """A task with the regions to post.

    Attributes:
        leased: the task.
        result: regions of all its images as Label Studio stores them.
        score: how likely all of it is accepted as it is, 0 to 1: the least of its images.
        ms: stage -> how long it took, milliseconds.
        left_out: what of the task is not predicted, a sentence each.
        failed: whether no image could be segmented, so that there is nothing to post.
        images: those that were segmented as the order of annotation needs them; none where it is off.
        raw_nothing: the chance that nothing is in any of its images before calibration, the least of theirs; None where
            something is predicted, or it is not known.
    """

    leased: LeasedTask
    result: Sequence[Mapping[str, Any]]
    score: float
    ms: Mapping[str, float]
    left_out: tuple[str, ...] = ()
    failed: bool = False
    images: tuple[Candidate, ...] = ()
    raw_nothing: float | None = None
