"""The web half's only Redis writer: asks for tasks, passes hints on, and tells how the queues stand.

A request thread must never hang on Redis: a server that is gone costs an error at once, one that hangs costs less than
half a second. It must not know HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from redis import Redis

from backend.outbox import Spool
from backend.outbox_file import Ask
from plugin_config.errors import QueueFull, QueueUnavailable
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.connection import open_redis
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, learn_job_id
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters

_CONNECT_S = 0.2
_ANSWER_S = 0.25
# A Redis that writes its log to a slow disk may stall for a second or two: no reason to lose 100,000 tasks.
_BULK_ANSWER_S = 10.0
_PULSE_S = 0.08
# Fewer than the server's threads, or people who open tasks together would keep /health from answering.
_MOST_WAITING = 8
_MOST_REMEMBERED = 1000


@dataclass(frozen=True)
class Pulse:
    """Whether Redis answers, how many workers live, and how many of those are in trouble; 0 when it does not answer."""

    redis: bool
    workers: int
    troubled: int = 0


class WebQueues:
    """Holds the web half's connections to Redis until it is closed. Safe to share between threads.

    Args:
        settings: `redis_url` and the limits of a request.

    Raises:
        SettingsError: `redis_url` is not the address of a Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = open_redis(settings.redis_url, connect_s=_CONNECT_S, answer_s=_ANSWER_S, one_retry=True)
        self._quick = self._pending_over(self._redis)
        self._patient = open_redis(settings.redis_url, connect_s=_CONNECT_S, answer_s=_BULK_ANSWER_S, one_retry=True)
        self._bulk = self._pending_over(self._patient)
        self._presence = WorkerPresence(self._redis)
        self._hints = ProjectHints(self._redis)
        self._ledger = ProjectLedger(self._redis)
        self._learning = ProjectLearning(self._redis, lease_s=settings.lease_s)
        self._adapters = ServedAdapters(self._redis)
        self._served: dict[int, str] = {}
        self._spool = Spool(settings.state_path / "asked.jsonl", self._send)
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._lock = threading.Lock()
        self._look: Future[Pulse] | None = None

    def ask(self, project: int, version: str, tasks: list[int]) -> int:
        """Ask for tasks at a version; for a handful also wait a moment until they are stored. Returns how many are new.

        Raises:
            QueueUnavailable: Redis does not answer; the tasks are kept and asked for when it is back.
        """
        refs = [TaskRef(version, task) for task in dict.fromkeys(tasks)]
        try:
            return self._ask(project, refs)
        except QueueUnavailable:
            if refs and not self._spool.keep(Ask(project, version, tuple(ref.task for ref in refs))):
                raise QueueUnavailable("Redis", "has been away for too long", "Start it, and ask again.") from None
            raise

    def waiting(self) -> int:
        """Tasks that were asked for while Redis was away, and wait for it."""
        return self._spool.waiting()

    def close(self) -> None:
        """Ask for nothing more, and let go of Redis: what still waits for it is asked for by the next backend."""
        self._spool.close()
        for redis in (self._redis, self._patient):
            redis.connection_pool.disconnect(inuse_connections=False)  # a thread that hangs on one gives up by itself

    def _send(self, ask: Ask) -> None:
        self._presence.count()
        self._bulk.add(ask.project, [TaskRef(ask.version, task) for task in ask.tasks], bounded=True)
        self._quick.ensure_drains(ask.project)

    def _ask(self, project: int, refs: list[TaskRef]) -> int:
        few = len(refs) <= self._settings.predict_wait_tasks
        workers = self._presence.count()  # fails fast when Redis hangs, before the patient connection is tried
        priority = Priority.OPENED if few else Priority.ASKED
        added = (self._quick if few else self._bulk).add(project, refs, priority=priority, bounded=True)
        self._quick.ensure_drains(project, urgent=few)
        if few and refs and workers and self._waiting.acquire(blocking=False):
            try:
                self._quick.wait_settled(project, refs, timeout_s=self._settings.predict_wait_s)
            finally:
                self._waiting.release()
        return added

    def hint(self, project: int, action: str, tasks: Sequence[int] = (), *, refresh: bool) -> bool:
        """Note that a webhook came and, where `refresh`, ask for a look at the project and at these tasks. Returns
        whether one was queued.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if not self._hints.admit(project):
            return False
        self._hints.record_webhook(project, action)
        if refresh:
            self._hints.hint_tasks(project, tasks)
        return self._look_up(project, wanted=refresh) and refresh

    def _look_up(self, project: int, *, wanted: bool) -> bool:
        """Queue a look that is wanted, or at a project that may be made up, which forgets it if so."""
        return (wanted or not self._hints.is_known(project)) and self._hints.request_refresh(project)

    def served(self, project: int) -> str:
        """Name of what was learned for the project and is served; as it was last known while Redis does not answer."""
        try:
            if not self.pulse().redis:  # /setup and /predict wait for it no longer than that
                return self._served.get(project, ZEROSHOT)
            served = self._adapters.served(project, self._settings.model)
        except QueueUnavailable:
            return self._served.get(project, ZEROSHOT)
        if len(self._served) >= _MOST_REMEMBERED:  # anyone can name projects without end
            self._served.clear()
        self._served[project] = served
        return served

    def annotated(self, project: int, action: str) -> None:
        """A webhook says that annotations changed: they are looked at when there is a pause.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if self._hints.admit(project):
            self._hints.record_webhook(project, action)
            self._learning.request_after_pause(project, quiet_s=self._settings.finetune_quiet_s)
            self._look_up(project, wanted=False)

    def train(self, project: int) -> str:
        """A person wants the corrections learned from now; returns the name of the job that does.

        Raises:
            QueueUnavailable: Redis does not answer.
            QueueFull: too many projects that may be made up wait to be looked up.
        """
        if not self._hints.admit(project):
            raise QueueFull(f"project {project}", "waits behind too many unknown ones", "Ask again in a minute.")
        self._learning.request_now(project)
        self._look_up(project, wanted=False)
        return learn_job_id(project)

    def learning_now(self, project: int) -> bool:
        """Whether the project's corrections are being learned from.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        told = self._learning.progress(project)
        return told is not None and told.state == "learning"

    def pulse(self) -> Pulse:
        """How Redis and the workers are, within 0.1 s whatever Redis, its host or the name service do. Never raises."""
        with self._lock:
            if self._look is None or self._look.done():
                self._look = Future()
                threading.Thread(target=self._take_pulse, args=(self._look,), daemon=True).start()
            look = self._look
        try:
            return look.result(timeout=_PULSE_S)
        except FutureTimeout:
            return Pulse(redis=False, workers=0)

    def versions(self, project: int | None = None) -> list[str]:
        """Versions at which tasks of the project (of all projects when None) were predicted.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        projects = self._quick.projects() if project is None else [project]
        return sorted({version for each in projects for version in self._ledger.versions(each)})

    def counts(self) -> dict[int, Counts]:
        """Project -> its tasks by state.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return {project: self._quick.counts(project) for project in self._quick.projects()}

    def _pending_over(self, redis: Redis) -> PendingTasks:
        return PendingTasks(redis, drain_tasks=self._settings.drain_tasks, lease_s=self._settings.lease_s)

    def _take_pulse(self, look: Future[Pulse]) -> None:
        pulse = Pulse(redis=False, workers=0)
        try:
            workers = self._presence.workers()
            pulse = Pulse(True, len(workers), sum(bool(worker.about.get("trouble")) for worker in workers))
        except QueueUnavailable:
            pass  # that is the finding
        finally:
            look.set_result(pulse)
