"""The process that learns in the background: one project at a time, looked after so that a death costs nothing.

Beside the look at work a thread keeps its project from others, shows that the process lives, and queues the looks that
are due. It must not know how anything is learned.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from redis import Redis

from plugin_config.background import Duty
from plugin_config.errors import (
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    QueueUnavailable,
    VersionsUnavailable,
    ZeromaskError,
)
from plugin_config.queue.jobs import LEARN_JOB, LearnProject, enqueue_learning, learn_queue
from plugin_config.queue.learning import LearningLease, Progress, State
from plugin_config.versions.manifests import now
from worker.service.context import WorkerContext
from worker.service.plain_jobs import JobFunctions
from worker.service.queue_worker import work_off
from worker.service.trainer.look import BrokenOff, Look, Outcome
from worker.service.trainer.reading import HeldUp

log = logging.getLogger(__name__)

_LONGEST_BEAT_S = 1.0
_AWAY_S, _BLOCKED_S = 10.0, 30.0
_HELD_UP_S, _PATIENCE_S = 60.0, 600.0
_FAILED_S, _LONGEST_S = 60.0, 3600.0
_NICE = 5  # predictions are waited for


class Learner:
    """Holds the project this process looks at now."""

    def __init__(self, resident: WorkerContext) -> None:
        self._resident = resident
        self._project: int | None = None
        self._said: dict[int, str] = {}
        self._held_up: dict[int, float] = {}

    def learn(self, job: LearnProject) -> None:
        """Look at a project, unless another process does.

        Raises:
            QueueUnavailable: Redis went away; the look stays asked for.
        """
        visit = self._resident.learning.begin(job.project, self._resident.name)
        if visit is None:
            return
        self._project = job.project
        try:
            outcome, failed = self._look(job.project, visit)
        except BrokenOff as reason:
            log.warning("project %d: %s; it is begun again", job.project, reason)
            outcome, failed = Outcome("waiting", "is begun again", visit.mark, 0.0), False
        finally:
            self._project = None
        if outcome is not None:
            news = self._said.get(job.project) != outcome.detail  # each round finds the same
            self._said[job.project] = outcome.detail
            log.log(logging.INFO if news else logging.DEBUG, "project %d: %s: %s", job.project, outcome.state,
                    outcome.detail)  # fmt: skip
            self._resident.learning.end(
                job.project, self._resident.name, visit, Progress(outcome.state, outcome.detail, now()),
                mark=outcome.mark, again_s=outcome.again_s, failed=failed,
            )  # fmt: skip

    def renew(self) -> None:
        """Keep the project from others.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        project = self._project
        if project is not None:
            self._resident.learning.renew(project, self._resident.name)

    def holds(self) -> str:
        """What is at work, for people."""
        return "" if self._project is None else f"project {self._project}"

    def _look(self, project: int, visit: LearningLease) -> tuple[Outcome | None, bool]:
        """Returns how the look ended, None when there is no such project any more, and whether of a fault of ours."""
        now_s = time.monotonic()
        look = Look(
            self._resident, project, visit,
            tell=lambda told: self._tell(project, told), go_on=lambda: self._go_on(project),
            patient=now_s - self._held_up.get(project, now_s) < _PATIENCE_S,
        )  # fmt: skip
        try:
            outcome = look.run()
        except HeldUp as reason:
            return self._held(project, visit, str(reason)), False
        except (LabelStudioUnreachable, LabelStudioFailing) as error:
            return self._troubled(visit, "waiting", error, _AWAY_S), False
        except LabelStudioError as error:
            if error.status == 404:
                log.warning("project %d is gone", project)
                self._resident.pending.forget_project(project)
                return None, False
            return self._troubled(visit, "blocked", error, _BLOCKED_S), False
        except VersionsUnavailable as error:
            return self._troubled(visit, "blocked", error, _BLOCKED_S), False
        except (LabelingConfigError, LearningError) as error:
            return self._troubled(visit, "blocked", error, None), False
        except (BrokenOff, QueueUnavailable):
            raise
        except Exception as error:  # the last resort: a fault of ours with one project must not cost the others
            log.exception("project %d: unexpected", project)
            again_s = min(_LONGEST_S, _FAILED_S * 2**visit.deaths)
            told = f"unexpected {type(error).__name__}: {error}; the learner's log tells where"
            return Outcome("blocked", told, visit.mark, again_s), True
        if outcome.state == "idle":
            self._held_up.pop(project, None)
        return outcome, False

    def _held(self, project: int, visit: LearningLease, reason: str) -> Outcome:
        now_s = time.monotonic()
        left_s = max(0.0, _PATIENCE_S - (now_s - self._held_up.setdefault(project, now_s)))
        told = f"an annotated image cannot be read now, and is waited for, {left_s / 60:.0f} minutes at most: {reason}"
        return Outcome("waiting", told, visit.mark, _HELD_UP_S)

    def _troubled(self, visit: LearningLease, state: State, error: ZeromaskError, again_s: float | None) -> Outcome:
        log.warning("%s", error)
        return Outcome(state, str(error), visit.mark, again_s)

    def _go_on(self, project: int) -> None:
        if self._resident.stopping.is_set():
            raise BrokenOff("this process is told to stop")
        if not self._resident.learning.renew(project, self._resident.name):
            raise BrokenOff("another process has taken over")

    def _tell(self, project: int, detail: str) -> None:
        log.info("project %d: %s", project, detail)
        self._resident.learning.set_progress(project, Progress("learning", detail, now()))


class LearnerKeeper(threading.Thread):
    """Renews, gives signs of life, queues what is due, and looks at every project now and then. A Redis that is away is
    waited for, and a fault in one of these duties costs none of the others.
    """

    def __init__(self, resident: WorkerContext, learner: Learner) -> None:
        super().__init__(name="keeper", daemon=True)
        self._resident = resident
        self._learner = learner
        self._queue = learn_queue(resident.redis)
        self._stopped = threading.Event()
        self._beat_s = min(_LONGEST_BEAT_S, resident.settings.lease_s / 4)
        self._round_at = 0.0
        duty = resident.watch.duty
        self._duties: list[tuple[Duty, Callable[[], None]]] = [
            (duty("the renewal of the project", longest_pause_s=self._beat_s), learner.renew),
            (duty("the sign of life", longest_pause_s=self._beat_s), self._show),
            (duty("the periodic look"), self._round),
            (duty("the queueing of looks"), self._queue_due),
        ]

    def run(self) -> None:
        """Beat until stopped."""
        self._resident.watch.expect_alive([self])
        while not self._stopped.is_set():
            self.beat()
            self._stopped.wait(self._beat_s)

    def beat(self) -> None:
        """One round of all duties."""
        try:
            for duty, work in self._duties:
                duty.run(work)
        except QueueUnavailable as error:
            log.warning("%s", error)

    def stop(self) -> None:
        """End the thread and say goodbye."""
        self._resident.watch.release([self])
        self._stopped.set()
        self.join(timeout=5)
        try:
            self._resident.presence.remove(self._resident.name)
        except QueueUnavailable as error:
            log.warning("%s", error)

    def _show(self) -> None:
        about = {**self._resident.about(), "tasks": self._learner.holds()}
        self._resident.presence.heartbeat(self._resident.name, about)

    def _round(self) -> None:
        if time.monotonic() >= self._round_at:
            for project in self._resident.pending.projects():
                self._resident.learning.request(project)
            self._round_at = time.monotonic() + self._resident.settings.reconcile_s

    def _queue_due(self) -> None:
        for project in self._resident.learning.due():
            if enqueue_learning(self._queue, LearnProject(project=project)):
                log.debug("project %d: a look is due", project)


def run_learner(resident: WorkerContext, connection: Redis) -> None:
    """Learn whatever is due, through restarts of Redis; ends on SIGTERM or SIGINT."""
    os.nice(_NICE)
    learner = Learner(resident)
    keeper = LearnerKeeper(resident, learner)
    keeper.start()
    log.info("ready to learn: model %s on %s, %s", resident.settings.model, resident.segmenter.encoder.device,
             resident.name)  # fmt: skip
    try:
        queues = [learn_queue(connection)]
        functions: JobFunctions = {LEARN_JOB: lambda payload: learner.learn(LearnProject.from_json(payload))}
        work_off(queues, functions, owner=resident.name, stopping=resident.stopping, watch=resident.watch)
    finally:
        keeper.stop()
