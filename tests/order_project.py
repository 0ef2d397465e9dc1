"""A project whose order is kept: a worker's context without a model, on any Label Studio and a real Redis."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from redis import Redis

from plugin_config.label_studio.client import Project
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import ImageRecord, ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner, VersionFolder
from plugin_config.vocabulary import parse_vocabulary
from worker.learning.selection.candidates import Candidate
from worker.service.context import WorkerContext
from worker.service.ordering import keep_order, record_stored, score_to_post
from worker.service.plan import Plan

CONFIG = (
    '<View><Image name="i" value="$image"/><RectangleLabels name="b" toName="i"><Label value="cat"/>'
    '<Label value="dog"/></RectangleLabels></View>'
)
FINGERPRINT = "0123456789abcdef"


def vector(seed: int) -> str:
    """What an image looks like, as records keep it."""
    return base64.b64encode(np.random.default_rng(seed).integers(-127, 128, 8, dtype=np.int8).tobytes()).decode()


def record(number: int, *, version: str = "v1", score: float = 0.5, prediction: int | None = None) -> ImageRecord:
    """The record of image `number`, whose prediction has the id 1000 + `number`."""
    stored = 1000 + number if prediction is None else prediction
    return ImageRecord(version, stored, score, score, {"cat": score}, FINGERPRINT[:8], vector(number))


@dataclass
class OrderedProject:
    """One project, and what a worker's process does for its order. The place of versions is a folder of the test."""

    label_studio: Any
    redis: Redis
    folder: Path
    project: int = 1
    version: str = "v1"
    settings: Settings = field(default_factory=lambda: Settings(model="builtin"))

    @property
    def order(self) -> ProjectOrder:
        """What Redis keeps."""
        return ProjectOrder(self.redis)

    @property
    def pending(self) -> PendingTasks:
        """The tasks that wait for a prediction."""
        return PendingTasks(self.redis, drain_tasks=8, lease_s=30)

    @property
    def context(self) -> WorkerContext:
        """Of a worker's process."""
        owner = Owner("http://localhost", self.project, "", "builtin")
        return cast("WorkerContext", SimpleNamespace(
            settings=self.settings, order=self.order, ledger=ProjectLedger(self.redis), label_studio=self.label_studio,
            pending=self.pending, hints=ProjectHints(self.redis),
            segmenter=SimpleNamespace(encoder=SimpleNamespace(fingerprint=FINGERPRINT)),
            adapters=SimpleNamespace(folder=lambda _: VersionFolder(str(self.folder), owner)),
        ))  # fmt: skip

    def plan(self) -> Plan:
        """The project as it is now."""
        found: Project = self.label_studio.project(self.project)
        return Plan(found, parse_vocabulary(CONFIG), self.version)

    def keep(self) -> None:
        """Set the order again, as a reconcile does; the pause since the last time is over."""
        self.redis.delete(f"zeromask:{self.project}:ordered")
        keep_order(self.context, self.plan())

    def store(self, task: int, score: float, *, seed: int | None = None) -> int:
        """Store a prediction of the present version as a worker does; returns its id."""
        vectors = np.random.default_rng(task if seed is None else seed).normal(size=8).astype(np.float32)
        image = Candidate(str(task), vectors / np.linalg.norm(vectors), score, {"cat": score})
        leased = SimpleNamespace(project=self.project, ref=SimpleNamespace(task=task), plan=self.plan())
        drawn: Any = SimpleNamespace(leased=leased, score=score, images=(image,))
        shown = score_to_post(self.context, drawn)
        made = self.label_studio.create_prediction(task, [], score=shown, version=self.version)
        record_stored(self.context, drawn, prediction=made.id, shown=made.score)
        return int(made.id)

    def head(self) -> list[int]:
        """Ids of the tasks at the head of the order."""
        return list(self.order.places(self.project))
