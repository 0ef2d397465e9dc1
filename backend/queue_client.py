"""The backend's side of Redis: requests predictions, passes on what webhooks say, reads how the queues stand.

A request thread must never hang on Redis: a server that is gone costs an error at once, one that hangs costs less than
half a second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from functools import partial

from backend.clicks import ClickDesk
from backend.outbox import Outbox
from backend.queue_snapshot import QueueSnapshot, read_snapshot
from backend.status.reading import StatusReader
from backend.task_queue import PredictionRequest, TaskQueue
from plugin_config.errors import QueueFull, QueueUnavailable
from plugin_config.model_version import ZEROSHOT, Learned, ModelVersion, spelled
from plugin_config.queue.connection import open_redis
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, learn_job_id
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import TaskStates
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from plugin_config.versions.verdicts import last_verdict
from plugin_config.vocabulary import Vocabulary

_CONNECT_S = 0.2
_ANSWER_S = 0.25
# A Redis that writes its log to a slow disk may stall for a second or two: no reason to lose 100,000 tasks.
_BULK_ANSWER_S = 10.0
_PAGE_ANSWER_S = 2.0  # of all projects together, on a machine that may be busy
_STATUS_S = 0.08
_ORDERED_S = 15.0  # after an annotation: the learner waits for a pause, and for minutes while there is none
_MAX_REMEMBERED = 1000
_OUTBOX = "asked.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueStatus:
    """Whether Redis answers, how many workers live, and how many of those are in trouble; 0 when it does not answer."""

    redis: bool
    workers: int
    in_trouble: int = 0


@dataclass(frozen=True)
class _Served:
    """What a project is served with, and the version of its last rollout as it was spelled then."""

    adapter: str = ZEROSHOT
    learned: Learned = field(default_factory=Learned)
    stored: str = ""


class QueueClient:
    """Holds the backend's connections to Redis and its outbox until it is closed. Safe to share between threads.

    Args:
        settings: `redis_url`, the state folder of the outbox, and the limits of a request.

    Attributes:
        clicks: where somebody waits for a mask.
        pages: what the status page shows.
        bulk_redis: a connection that gives Redis time, for what a person changes there.

    Raises:
        SettingsError: `redis_url` is not the address of a Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        connect = partial(
            open_redis, settings.redis_url, connect_s=_CONNECT_S, one_retry=True, ca_bundle=settings.ca_bundle
        )
        self._redis, self.bulk_redis = connect(answer_s=_ANSWER_S), connect(answer_s=_BULK_ANSWER_S)
        self._page_redis = connect(answer_s=_PAGE_ANSWER_S)
        self._queue = TaskQueue(self._redis, self.bulk_redis, settings)
        self.pages = StatusReader(self._page_redis, settings)
        self.clicks = ClickDesk(settings)
        self._states = TaskStates(self._redis)
        self._presence = WorkerPresence(self._redis)
        self._learners = WorkerPresence(self._redis, learners=True)
        self._hints = ProjectHints(self._redis)
        self._ledger = ProjectLedger(self._redis)
        self._learning = ProjectLearning(self._redis, lease_s=settings.lease_s)
        self._adapters = ServedAdapters(self._redis)
        self._last_served: dict[int, _Served] = {}
        self._outbox = Outbox(settings.state_path / _OUTBOX, self._queue.add_late)
        self._lock = threading.Lock()
        self._status_check: Future[QueueStatus] | None = None

    def close(self) -> None:
        """Send nothing more and disconnect from Redis; what is left in the outbox is sent by the next backend."""
        self._outbox.close()
        self.clicks.close()
        for redis in (self._redis, self.bulk_redis, self._page_redis):
            redis.connection_pool.disconnect(inuse_connections=False)  # a thread that hangs on one gives up by itself

    def request_predictions(self, request: PredictionRequest) -> None:
        """Request predictions; of a handful of tasks, wait a moment until they are stored. What Redis does not take now
        is kept, and sent later.

        Raises:
            QueueUnavailable: Redis does not take the request, and too many others are kept for it already.
        """
        try:
            self._queue.add(request)
        except QueueUnavailable as error:
            project, tasks = request.project, len(request.tasks)
            if tasks and not self._outbox.put(request):
                logger.warning("project %d: %d task(s) are refused: the outbox is full", project, tasks)
                raise
            waits_for = "room in the queue" if isinstance(error, QueueFull) else "Redis"
            logger.warning("project %d: %d task(s) wait for %s. %s", project, tasks, waits_for, error)

    def expect_second(self, project: int, version: str, task: int) -> None:
        """Note that a prediction may be stored beside the worker's: it is looked for, and one of the two deleted."""
        try:
            self._ledger.add_unconfirmed(project, TaskRef(version, task))
        except QueueUnavailable as error:
            logger.warning("project %d, task %d: %s", project, task, error)

    def outbox_tasks(self) -> int:
        """How many tasks were requested while Redis did not take them, and wait for it."""
        return self._outbox.task_count()

    def note_webhook(self, project: int, action: str) -> None:
        """Note that a webhook came which changes nothing here; a project that may be invented is looked up.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if self._admit(project, action):
            self._look_up_unknown(project)

    def request_refresh(self, project: int, action: str, tasks: Sequence[int] = ()) -> bool:
        """Have a worker read the project again, and these tasks, two seconds after it last did at the earliest. Returns
        whether a job was queued now.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if not self._admit(project, action):
            return False
        self._hints.hint_tasks(project, tasks)
        return self._hints.request_refresh(project, paced=True)

    def annotations_changed(self, project: int, action: str) -> None:
        """Have the learner look at the project's annotations when there is a pause, and a worker set the order of the
        others soon, however long annotators go on.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if self._admit(project, action):
            self._learning.request_after_pause(project, quiet_s=self._settings.finetune_quiet_s)
            self._hints.refresh_later(project, after_s=_ORDERED_S)
            self._look_up_unknown(project)

    def request_training(self, project: int) -> str:
        """Have the learner learn from the project's corrections now; returns the name of the job that does.

        Raises:
            QueueUnavailable: Redis does not answer.
            QueueFull: too many projects that may be invented wait to be looked up.
        """
        if not self._hints.admit(project):
            raise QueueFull(f"project {project}", "waits behind too many unknown projects", "Ask again in a minute.")
        self._learning.request_now(project)
        self._look_up_unknown(project)
        return learn_job_id(project)

    def training_outlook(self, project: int) -> str:
        """What follows a request to learn now, for the person who made it: sentences.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        progress = self._learning.progress(project)
        if not self._learners.count():
            follows = "No learner runs: start `zeromask worker --queue finetune`, which then learns from them."
        elif progress is not None and progress.state == "learning":
            follows = f"A learner is at this project ({progress.detail}) and looks at them again right after."
        else:
            follows = "A learner reads the corrections now; where it learns better masks, they follow by themselves."
        verdict = last_verdict(self._redis, project, self._settings.model)
        last = "" if verdict is None else f" The last verdict, of {verdict.at}: {verdict.reason}"
        return f"{follows}{last} See `zeromask status`."

    def is_learning(self, project: int) -> bool:
        """Whether the project's corrections are being learned from.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        progress = self._learning.progress(project)
        return progress is not None and progress.state == "learning"

    def version(self, project: int, vocabulary: Vocabulary) -> str:
        """The version that predictions of the project will carry; by what was last known while Redis does not answer.

        Args:
            project: its id.
            vocabulary: its labels.
        """
        known = self._last_served.get(project, _Served())
        try:
            if self.status().redis:  # /setup and /predict wait for it no longer than that
                copy = self._adapters.copy(project, self._settings.model)
                stored = self._ledger.target_version(project)
                known = _Served(stored=stored) if copy is None else _Served(copy.served, copy.told, stored)
                if len(self._last_served) >= _MAX_REMEMBERED:  # anyone can name projects without end
                    self._last_served.clear()
                self._last_served[project] = known
        except QueueUnavailable:
            pass  # what was last known counts
        made = ModelVersion.of(self._settings, vocabulary, adapter=known.adapter, learned=known.learned)
        return spelled(made, known.stored)

    def status(self) -> QueueStatus:
        """How Redis and the workers are, within 0.1 s whatever Redis, its host or the name service do. Never raises."""
        with self._lock:
            if self._status_check is None or self._status_check.done():
                self._status_check = self._begin_check()
            check = self._status_check
        try:
            return check.result(timeout=_STATUS_S)
        except FutureTimeout:
            return QueueStatus(redis=False, workers=0)

    def versions(self, project: int | None = None) -> list[str]:
        """Versions at which tasks of the project (of all projects when None) were predicted.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        projects = self._states.projects() if project is None else [project]
        return sorted({version for each in projects for version in self._ledger.versions(each)})

    def snapshot(self) -> QueueSnapshot:
        """What `/metrics` shows of the queue.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return read_snapshot(self._redis, self._settings)

    def _admit(self, project: int, action: str) -> bool:
        """Note a webhook, unless too many unknown projects wait to be looked up. Returns whether it was noted."""
        admitted = self._hints.admit(project)
        if admitted:
            self._hints.record_webhook(project, action)
        return admitted

    def _look_up_unknown(self, project: int) -> None:
        """Have a worker look up a project that may be invented, which forgets it if it is."""
        if not self._hints.is_known(project):
            self._hints.request_refresh(project, paced=True)

    def _begin_check(self) -> Future[QueueStatus]:
        check: Future[QueueStatus] = Future()
        try:
            threading.Thread(target=self._check_status, args=(check,), daemon=True).start()
        except RuntimeError as error:  # the machine gives no more threads now: the next call tries again
            logger.warning("Redis cannot be asked: %s", error)
            check.set_result(QueueStatus(redis=False, workers=0))
        return check

    def _check_status(self, check: Future[QueueStatus]) -> None:
        status = QueueStatus(redis=False, workers=0)
        try:
            workers = self._presence.workers()
            status = QueueStatus(True, len(workers), sum(bool(worker.about.get("trouble")) for worker in workers))
        except QueueUnavailable:
            pass  # that is the finding
        finally:
            check.set_result(status)

