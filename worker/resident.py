"""What a worker holds for all its jobs: the model, Label Studio, the pending tasks, its leases.

It must not know what is done with them; `worker.predict` does.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis

from plugin_config.errors import QueueUnavailable, ZeromaskError
from plugin_config.jobs import TaskRef
from plugin_config.label_studio import LabelStudio
from plugin_config.ledger import ProjectLedger
from plugin_config.pending import PendingTasks
from plugin_config.settings import Settings
from worker.images import ImageLimits
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

log = logging.getLogger(__name__)

_LONGEST_BEAT_S = 3.0


class Resident:
    """Everything one worker process keeps open. `name` owns its leases and is unique for ever.

    Args:
        settings: with redis_url, label_studio_url and label_studio_api_key filled in.
        redis: a connection to the Redis of the settings.

    Raises:
        ModelUnavailable: the MODEL setting cannot be served.
    """

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        self.ledger = ProjectLedger(redis)
        self.label_studio = LabelStudio(settings.label_studio_url, settings.label_studio_api_key)
        encoder = Encoder(settings.model, device=settings.device, short_side=settings.short_side)
        self.segmenter = Segmenter(encoder)
        self.embeddings = EmbeddingCache(self.segmenter)
        self.limits = ImageLimits.from_settings(settings)
        self.explained: set[str] = set()  # versions something was said about, so that it is said once
        self.stopping = threading.Event()
        self._held: dict[int, set[TaskRef]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, project: int, refs: Sequence[TaskRef]) -> Iterator[None]:
        """Keep the leases of these tasks alive for the length of a `with` block."""
        with self._lock:
            self._held.setdefault(project, set()).update(refs)
        try:
            yield
        finally:
            self.release(project, refs)

    def release(self, project: int, refs: Sequence[TaskRef]) -> None:
        """Stop renewing the leases of tasks that are settled."""
        with self._lock:
            self._held.get(project, set()).difference_update(refs)

    def leases(self) -> dict[int, list[TaskRef]]:
        """The leases held now, by project."""
        with self._lock:
            return {project: list(refs) for project, refs in self._held.items() if refs}


class Keeper(threading.Thread):
    """Renews leases, shows that this worker lives, puts back what dead ones held, looks for changed configs.

    Runs beside the jobs so that a long forward costs no lease. A Redis that is away is waited for.
    """

    def __init__(self, resident: Resident) -> None:
        super().__init__(name="keeper", daemon=True)
        self._resident = resident
        self._stopped = threading.Event()
        self._beat_s = min(_LONGEST_BEAT_S, resident.settings.lease_s / 4)
        self._reconciled = time.monotonic()

    def run(self) -> None:
        """Beat until stopped."""
        while not self._stopped.is_set():
            try:
                self.beat()
            except ZeromaskError as error:  # Redis away, or something odd in it: leases must go on being renewed
                log.warning("%s", error)
            self._stopped.wait(self._beat_s)

    def beat(self) -> None:
        """One round of all duties."""
        pending = self._resident.pending
        pending.heartbeat(self._resident.name)
        for project, refs in self._resident.leases().items():
            pending.renew(project, self._resident.name, refs)
        for ref in pending.sweep():
            log.warning("task %d: its worker is gone, it is queued again (version %s)", ref.task, ref.version)
        if time.monotonic() - self._reconciled >= self._resident.settings.reconcile_s:
            self._reconciled = time.monotonic()
            for project in pending.projects():
                pending.request_refresh(project)

    def stop(self) -> None:
        """End the thread and say goodbye."""
        self._stopped.set()
        self.join(timeout=5)
        try:
            self._resident.pending.leave(self._resident.name)
        except QueueUnavailable as error:
            log.warning("%s", error)
