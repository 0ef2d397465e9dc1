"""A worker over a real Redis with stand-ins for Label Studio and the model, for tests of what these do wrong.

`test_label_studio.py` has the real ones.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from plugin_config.background import DutyWatch
from plugin_config.errors import (
    ImageHostTrouble,
    ImageUnavailable,
    LabelStudioError,
    LearningError,
    ProjectGone,
    VersionsUnavailable,
)
from plugin_config.label_studio.client import Project, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.model_version import ZEROSHOT, Learned, ModelVersion
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import DrainProject, RefreshProject, TaskRef
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.label_studio.image_cache import OFF
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits, Picture
from worker.learning.acceptance import IDENTITY, Calibration
from worker.learning.interfaces import Words
from worker.segmentation.segmenter import LabelSegment, Segmentation
from worker.service import failures, posting
from worker.service.admission import drain
from worker.service.context import WorkerContext
from worker.service.handover import Handover
from worker.service.leases import Leases
from worker.service.model_turns import ModelTurns
from worker.service.pipeline import Pipeline
from worker.service.reconcile import reconcile
from worker.service.stages import PredictionStages

CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="{}"/></BrushLabels></View>'
)
PROJECT = 1


def version(word: str = "cat", adapter: str = ZEROSHOT) -> str:
    return str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(CONFIG.format(word)), adapter=adapter))


class StandInLabelStudio:
    """Keeps tasks and predictions in memory; `before_store` may refuse."""

    def __init__(self, count: int) -> None:
        self.config, self.title, self.created = CONFIG.format("cat"), "t", "2026-01-01"
        self.gone = self.refuses = False
        self.data = dict.fromkeys(range(1, count + 1), "x")
        self.data_of: dict[int, dict[str, Any]] = {}  # of tasks that have more than an image
        self.stored: list[StoredPrediction] = []
        self.ids = itertools.count(1)
        self._writing = threading.Lock()  # four threads post: an append beside a delete's new list would be lost
        self.annotated: set[int] = set()
        self.shown = ""
        self.before_store: Callable[[int], None] = lambda task: None
        self.after_store: Callable[[int], None] = lambda task: None
        self.before_tasks: Callable[[], None] = lambda: None
        self.parents: set[int] = set()
        self.scores: dict[int, float] = {}
        self.cards: list[dict[str, Any]] = []
        self.renamed: list[dict[str, Any]] = []
        self.asked = 0
        self.before_rename: Callable[[], None] = lambda: None

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The models connected to the project, and changes of them; the versions of predictions."""
        if path.endswith("/model-versions/"):
            counts = Counter(row.version for row in self.stored)
            return {"static": [{"model_version": name, "count": count} for name, count in counts.items()]}
        self.asked += 1
        if method == "PATCH":
            self.before_rename()
            self.renamed.append(options["json"])
            (row,) = [row for row in self.cards if path == f"/api/ml/{row['id']}"]
            before, row["title"] = row["title"], options["json"]["title"]
            self.shown = row["title"] if self.shown == before else self.shown
        return self.cards

    def project(self, project: int) -> Project:
        if self.gone:
            raise ProjectGone("GET project", "was refused (HTTP 404)", "Check.", status=404)
        if self.refuses:
            raise LabelStudioError("GET project", "was refused (HTTP 401)", "Token.", status=401)
        return Project(project, self.title, self.config, self.shown, len(self.data), self.created)

    def model_titles(self, project: int) -> frozenset[str]:
        return frozenset(row["title"] for row in self.cards)

    def all_tasks(self, project: int, *, after: int = 0) -> Iterator[Task]:
        for task in [task for task in self.data if task > after]:
            versions = frozenset(row.version for row in self.stored if row.task == task)
            data = self.data_of.get(task, {"image": self.data[task]})
            yield Task(task, data, versions, int(task in self.annotated), self.scores.get(task))

    def tasks(self, project: int, ids: Sequence[int], *, data: bool = True) -> list[Task]:
        self.before_tasks()
        return [task for task in self.all_tasks(project) if task.id in ids]

    def predictions(self, task: int) -> list[StoredPrediction]:
        if task not in self.data:  # as Label Studio (1.23.2) does
            raise LabelStudioError("GET /api/predictions/", "was refused (HTTP 400)", "Check.", status=400)
        return [row for row in self.stored if row.task == task]

    def create_prediction(
        self, task: int, result: Sequence[Any], *, score: float, version: str, missed: float | None = None
    ) -> StoredPrediction:
        self.before_store(task)
        row = StoredPrediction(next(self.ids), task, version, list(result), score, missed)
        with self._writing:
            self.stored.append(row)
        self.after_store(task)
        return row

    def parent_predictions(self, task: int) -> frozenset[int]:
        return frozenset(self.parents)

    def delete_prediction(self, prediction: int) -> None:
        with self._writing:
            self.stored = [row for row in self.stored if row.id != prediction]

    def show_version(self, project: int, version: str) -> None:
        self.shown = version


class StandInModel:
    """Finds one square in every image; images whose first pixel is 13 do not fit its memory, nor do more than `room` at
    once; those with 14 break it.
    """

    def __init__(self) -> None:
        self.room = 100
        self.batches: list[int] = []
        self.heads: list[Any] = []

    def embed(self, images: Sequence[NDArray[np.uint8]], *, part: str = "") -> list[Any]:
        self.batches.append(len(images))
        if any(image[0, 0, 0] == 13 for image in images) or len(images) > self.room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        if any(image[0, 0, 0] == 14 for image in images):
            raise RuntimeError("shapes do not match")
        return list(images)

    def read_words(self, vocabulary: Vocabulary) -> None:
        return None

    def segment(
        self, embedding: Any, vocabulary: Vocabulary, image: NDArray[np.uint8], *, head: Any = None,
        classes: Any = None, size: Any = None,
    ) -> Segmentation:
        assert embedding is image  # this stand-in's embedding is the picture: each goes with its own
        self.heads.append(head)
        mask = np.zeros((8, 8), dtype=bool)
        mask[2:5, 2:5] = True
        return Segmentation((LabelSegment(vocabulary.labels[0], mask, 0.9),), 0.9)

    def remarks(self, vocabulary: Vocabulary, taught: Words = ()) -> list[str]:
        unknown = [label.key for label in vocabulary.labels if label.key == "zeppelin" and label.texts not in taught]
        return [f"label {key!r}: unknown" for key in unknown]


class StandInHead:
    """Something learned that leaves the encoder as it is: a zeppelin."""

    def taught(self, words: Words) -> Words:
        return tuple(texts for texts in words if "zeppelin" in texts)


class StandInAdapters:
    """Serves what a test says, or nothing while its place is away."""

    def __init__(self) -> None:
        self.name, self.away = ZEROSHOT, False
        self.map = IDENTITY
        self.refused: list[str] = []
        self.head = StandInHead()

    def served(self, project: Project, *, from_disk: bool = False) -> tuple[str, Any]:
        if self.away:
            raise VersionsUnavailable("folder /versions", "cannot be read", "Mount it.")
        return self.name, None if self.name == ZEROSHOT else self.head

    def calibration(self, project: Project, name: str) -> Calibration:
        return self.map

    def learned(self, project: Project, name: str) -> Learned:
        return Learned()

    def leaves(self, project: int) -> bool:
        return False

    def refuse(self, project: Project, name: str, error: LearningError) -> None:
        self.refused.append(f"{name}: {error}")
        self.name = ZEROSHOT


class StandInContext:
    """A `WorkerContext` with stand-ins for the model and Label Studio, and a real pipeline."""

    def __init__(self, redis: Redis, count: int = 8) -> None:
        self.name = "me"
        self.settings = Settings(model="builtin", order=False)  # its embeddings are pictures
        self.pending = PendingTasks(redis, drain_tasks=8, lease_s=30)
        self.leases = Leases(self.pending, self.name)
        self.handover = Handover(self.pending)
        self.ledger = ProjectLedger(redis)
        self.hints = ProjectHints(redis)
        self.order = ProjectOrder(redis)
        self.label_studio = StandInLabelStudio(count)
        self.segmenter = self.embeddings = StandInModel()
        self.adapters = StandInAdapters()
        self.limits = ImageLimits.from_settings(self.settings)
        self.image_cache = OFF
        self.logged_versions: set[tuple[int, str]] = set()
        self.stopping = threading.Event()
        self.trouble, self.trouble_over, self.outdated, self.watch = "", 0, "", DutyWatch()
        self.redis, self.turns, self.click = redis, ModelTurns(), ""
        self.pipeline = Pipeline(
            PredictionStages(cast("WorkerContext", self)), capacity=16, batch=8, stopping=self.stopping,
            watch=self.watch, turns=self.turns,
        )  # fmt: skip

    def ask(self, *tasks: int, word: str = "cat") -> None:
        self.pending.add(PROJECT, [TaskRef(version(word), task) for task in tasks])

    def begin(self) -> None:
        drain(cast("WorkerContext", self), self.pipeline, DrainProject(project=PROJECT, slot=0, limit=8))

    def drain(self) -> None:
        self.begin()
        assert self.pipeline.wait_empty(120)

    def reconcile(self, project: int = PROJECT) -> None:
        assert self.hints.admit(project)  # as whoever asks for a look does
        reconcile(cast("WorkerContext", self), RefreshProject(project=project))

    def stored(self) -> list[tuple[int, str]]:
        return sorted((row.task, row.version) for row in self.label_studio.stored)


@pytest.fixture(name="context")
def context_fixture(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInContext]:
    def read(
        self: ImageLoader, url: object, *, task: int, project: int, label_studio: object, urgent: bool
    ) -> Picture:
        if url == "broken":
            raise ImageUnavailable(f"image of task {task}", "is broken", "Mend it.")
        if url == "slow":
            raise ImageHostTrouble(f"image of task {task}", "did not arrive within 30 s", "Look at its server.")
        if url == "vast":
            raise MemoryError
        return Picture(np.full((8, 8, 3), {"huge": 13, "odd": 14}.get(str(url), 200), dtype=np.uint8), (8, 8))

    monkeypatch.setattr(ImageLoader, "load", read)
    quick = [replace(row.treatment, pause_s=min(row.treatment.pause_s, 0.05)) for row in failures.TABLE]
    rows = tuple(replace(row, treatment=treatment) for row, treatment in zip(failures.TABLE, quick, strict=True))
    monkeypatch.setattr(failures, "TABLE", rows)
    monkeypatch.setattr(posting, "_FIRST_WAIT_S", 0.05)
    house = StandInContext(redis)
    house.ledger.start_rollout(PROJECT, version())
    house.ledger.finish_rollout(PROJECT, version())
    yield house
    house.pipeline.close(grace_s=0.1)


def refuse(task: int, error: Exception) -> Callable[[int], None]:
    def check(asked: int) -> None:
        if asked == task:
            raise error

    return check


def refuse_once(task: int, error: Exception) -> Callable[[int], None]:
    left = [task]

    def check(asked: int) -> None:
        if asked in left:
            left.remove(asked)
            raise error

    return check


ALL = tuple(range(1, 9))
BUT_THREE = [(task, version()) for task in ALL if task != 3]
