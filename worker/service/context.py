"""What a process of the worker keeps open for all its jobs: the model, Label Studio, the queue's state, its leases."""

from __future__ import annotations

import os
import socket
import threading
import uuid

from redis import Redis

from plugin_config.background import DutyWatch
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.queue.contract import CONTRACT
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.storage import Storage
from worker.label_studio.image_cache import ImageCache
from worker.label_studio.images import ImageLimits
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.embedding_store import EmbeddingStore
from worker.segmentation.segmenter import Segmenter
from worker.service.adapters import ProjectAdapters
from worker.service.handover import Handover
from worker.service.leases import Leases
from worker.service.model_turns import ModelTurns


class WorkerContext:
    """Everything one process keeps open.

    Attributes:
        name: owns the leases of this process; never used again by another.
        logged_versions: project and version that a warning was logged about, so that it is logged once.
        stopping: set when the process is to end.
        watch: reports work and threads in trouble.
        click: what is done for an annotator who waits, for `zeromask status`; "" = nothing.
        trouble: what keeps this process from working, for `zeromask status`; "" = nothing.
        trouble_over: the least `failures.Sign` that shows that it is over.
        outdated: that this process leaves jobs to newer ones, likewise.

    Args:
        settings: with redis_url, label_studio_url and label_studio_api_key filled in.
        redis: a connection to the Redis of the settings.
        learner: whether this process learns; else it predicts.

    Raises:
        ModelUnavailable: the MODEL or ZEROMASK_REFINER setting cannot be served, or weights are missing.
        SettingsError: no refiner of that name is installed.
        VersionsUnavailable: nothing that is installed opens the URL in ZEROMASK_VERSIONS.
    """

    def __init__(self, settings: Settings, redis: Redis, *, learner: bool = False) -> None:
        Storage(settings.versions_url)  # before the model is loaded, which takes long
        self.settings = settings
        self.redis = redis
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        self.leases = Leases(self.pending, self.name)
        self.handover = Handover(self.pending)
        self.ledger = ProjectLedger(redis)
        self.hints = ProjectHints(redis)
        self.order = ProjectOrder(redis)
        self.learning = ProjectLearning(redis, lease_s=settings.lease_s)
        self.presence = WorkerPresence(redis, learners=learner)
        self.label_studio = label_studio_of(settings)
        self.segmenter = Segmenter.from_settings(settings)
        self.segmenter.prepare()
        store = EmbeddingStore(settings.embeddings_path, settings.embedding_cache_mb * 1_000_000)
        self.embeddings = EmbeddingCache(self.segmenter, store=store)
        self.turns = ModelTurns()
        self.adapters = ProjectAdapters(settings, redis, self.segmenter, learner=learner, worker=self.name)
        self.limits = ImageLimits.from_settings(settings)
        self.image_cache = ImageCache(settings.state_path / "images", settings.image_cache_mb * 1_000_000)
        self.logged_versions: set[tuple[int, str]] = set()
        self.stopping = threading.Event()
        self.watch = DutyWatch()
        self.click = self.trouble = self.outdated = ""
        self.trouble_over = 0

    def about(self) -> dict[str, str]:
        """The row of this process in `zeromask status`.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        device, held = str(self.segmenter.encoder.device), str(self.leases.held())
        parts = self.trouble, self.adapters.trouble(), self.outdated, self.watch.trouble()
        trouble = "; ".join(part for part in parts if part)
        return {"model": self.settings.model, "device": device, "tasks": held, "click": self.click, "trouble": trouble,
                "contract": str(CONTRACT)}  # fmt: skip
