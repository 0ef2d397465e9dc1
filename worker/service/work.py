"""A task on its way through the worker, one value per stage. It must not know the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from plugin_config.label_studio.client import Task
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import Lease
from worker.label_studio.images import Picture
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.text.encoder import TextClasses
from worker.service.plan import Order


@dataclass(frozen=True)
class Leased:
    """A task taken, and what its project wants."""

    order: Order
    lease: Lease
    task: Task

    @property
    def project(self) -> int:
        """The project's id."""
        return self.order.project.id

    @property
    def ref(self) -> TaskRef:
        """What was asked for."""
        return self.lease.ref

    @property
    def url(self) -> object:
        """Where its picture is said to be."""
        return self.task.data.get(self.order.vocabulary.image_key)

    @property
    def host(self) -> str:
        """Whose answer is waited for; "" = Label Studio's, or nobody's."""
        try:
            return urlsplit(self.url).netloc if isinstance(self.url, str) else ""
        except ValueError:  # no address: whoever fetches it says so
            return ""


@dataclass(frozen=True)
class Fetched:
    """With its picture and its project's labels as the model reads them. `ms` tells how long each stage took."""

    leased: Leased
    picture: Picture
    classes: TextClasses | None = None
    ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """With what the model saw."""

    leased: Leased
    picture: Picture
    embedding: ImageEmbedding
    classes: TextClasses | None
    ms: Mapping[str, float]


@dataclass(frozen=True)
class Drawn:
    """With the regions to post, and how sure the model is of them, 0 to 1."""

    leased: Leased
    result: Sequence[Mapping[str, Any]]
    score: float
    ms: Mapping[str, float]
