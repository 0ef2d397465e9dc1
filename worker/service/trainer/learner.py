"""The process that learns in the background: one project at a time, under a lease, so that its death loses nothing.

A heartbeat beside the training round renews the lease, shows that the process lives, and queues rounds that are due.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

from redis import Redis

from plugin_config.errors import (
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    ProjectGone,
    QueueUnavailable,
    VersionsUnavailable,
    ZeromaskError,
)
from plugin_config.model_version import model_slug
from plugin_config.queue.jobs import LEARN_JOB, LearnProject, enqueue_learning, learn_queue, learn_queues
from plugin_config.queue.learning import LearningLease, Progress, State
from plugin_config.queue.offers import ProjectOffers
from plugin_config.queue.periodic import PeriodicTurns
from plugin_config.versions.manifests import now
from worker.service.context import WorkerContext
from worker.service.heartbeat import Heartbeat, PeriodicDuty
from worker.service.outdated import look_for_newer
from worker.service.plain_jobs import JobFunctions
from worker.service.queue_worker import work_off
from worker.service.trainer.lease_guard import RoundAborted
from worker.service.trainer.offer_round import OfferRound
from worker.service.trainer.reading import RetryLater
from worker.service.trainer.second_recipe import SecondRecipe
from worker.service.trainer.training_round import RoundResult, TrainingRound

log = logging.getLogger(__name__)

_LONGEST_BEAT_S = 1.0
_AWAY_S, _BLOCKED_S = 10.0, 30.0
_RETRY_S, _PATIENCE_S = 60.0, 600.0
_FAILED_S, _LONGEST_S = 60.0, 3600.0
_MOST_DOUBLINGS = 6  # of the former, which then is longer than the latter
_NICE = 5  # people wait for predictions, not for training


class Learner:
    """Runs training rounds, and knows which project this process works on."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._project: int | None = None
        self._last_detail: dict[int, str] = {}
        self._waiting_since: dict[int, float] = {}
        self._offers = ProjectOffers(context.redis)
        self._second = SecondRecipe(context)

    def learn(self, job: LearnProject) -> None:
        """Run a round for a project, unless another process does.

        Raises:
            QueueUnavailable: Redis went away; the round stays requested.
        """
        request = self._context.learning.begin(job.project, self._context.name)
        if request is None:
            return
        self._project = job.project
        result: RoundResult | None
        try:
            result, failed = self._judge_offer(job.project, request), False
            if result is None:
                result, failed = self._run_round(job.project, request)
        except RoundAborted as reason:
            log.warning("project %d: %s; the round will start again", job.project, reason)
            result, failed = RoundResult("waiting", "will start again", request.mark, 0.0), False
        finally:
            self._project = None
        if result is not None:
            self._end(job.project, request, result, failed=failed)

    def renew(self) -> None:
        """Renew the lease of the project.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        project = self._project
        if project is not None:
            self._context.learning.renew(project, self._context.name)

    def holds(self) -> str:
        """The project being worked on, for people; "" = none."""
        return "" if self._project is None else f"project {self._project}"

    def _judge_offer(self, project: int, request: LearningLease) -> RoundResult | None:
        """A round for an offer, None where none waits; corrections that are new are looked at after a pause."""
        offer = self._offers.waiting(project)
        if offer is None or model_slug(offer.model) != model_slug(self._context.settings.model):
            return None
        owner = self._context.name
        offered = OfferRound(self._context, project, offer, deaths=self._offers.begin(project, offer, owner))
        try:
            answer = offered.run()
        except (RoundAborted, QueueUnavailable):  # this learner lives
            with suppress(QueueUnavailable):
                self._offers.interrupt(project, owner)
            raise
        self._offers.answer(project, offer, answer)
        offered.clean_up()
        if answer.refusal:
            told = str(LearningError(*answer.refusal))
            log.warning("project %d: %s", project, told)
        else:
            told = answer.reason
        return RoundResult("idle", f"of the offer: {told}", request.mark, self._context.settings.finetune_quiet_s)

    def _end(self, project: int, request: LearningLease, result: RoundResult, *, failed: bool) -> None:
        changed = self._last_detail.get(project) != result.detail  # most rounds find the same as the one before
        self._last_detail[project] = result.detail
        log.log(logging.INFO if changed else logging.DEBUG, "project %d: %s: %s", project, result.state, result.detail)
        self._context.learning.end(
            project, self._context.name, request, Progress(result.state, result.detail, now()), mark=result.mark,
            again_s=result.again_s, failed=failed,
        )  # fmt: skip

    def _run_round(self, project: int, request: LearningLease) -> tuple[RoundResult | None, bool]:
        """Returns how the round ended, None when the project no longer exists, and whether it failed unexpectedly."""
        now_s = time.monotonic()
        patient = now_s - self._waiting_since.get(project, now_s) < _PATIENCE_S
        try:
            result = TrainingRound(self._context, project, request, patient=patient).run()
            result = self._second.advance(project, result)
        except RetryLater as reason:
            return self._retry_later(project, request, str(reason)), False
        except (LabelStudioUnreachable, LabelStudioFailing) as error:
            return self._hindered(request, "waiting", error, _AWAY_S), False
        except ProjectGone:
            log.warning("project %d is gone", project)
            self._context.pending.forget_project(project)
            return None, False
        except LabelStudioError as error:
            return self._hindered(request, "blocked", error, _BLOCKED_S), False
        except VersionsUnavailable as error:
            return self._hindered(request, "blocked", error, _BLOCKED_S), False
        except (LabelingConfigError, LearningError) as error:
            return self._hindered(request, "blocked", error, None), False
        except (RoundAborted, QueueUnavailable):
            raise
        except Exception as error:  # the last resort: an unexpected error with one project must not stop the others
            log.exception("project %d: unexpected", project)
            again_s = min(_LONGEST_S, _FAILED_S * 2 ** min(request.deaths, _MOST_DOUBLINGS))
            detail = f"unexpected {type(error).__name__}: {error}; the traceback is in the learner's log"
            return RoundResult("blocked", detail, request.mark, again_s), True
        if result.state == "idle":
            self._waiting_since.pop(project, None)
        return result, False

    def _retry_later(self, project: int, request: LearningLease, reason: str) -> RoundResult:
        now_s = time.monotonic()
        left_s = max(0.0, _PATIENCE_S - (now_s - self._waiting_since.setdefault(project, now_s)))
        detail = f"an annotated image cannot be read now; tried again for {left_s / 60:.0f} minutes at most: {reason}"
        return RoundResult("waiting", detail, request.mark, _RETRY_S)

    def _hindered(
        self, request: LearningLease, state: State, error: ZeromaskError, again_s: float | None
    ) -> RoundResult:
        log.warning("%s", error)
        return RoundResult(state, str(error), request.mark, again_s)


def learner_heartbeat(context: WorkerContext, learner: Learner) -> Heartbeat:
    """The heartbeat of a process that learns, not yet started."""
    settings, queue = context.settings, learn_queue(context.redis)

    def show() -> None:
        context.presence.heartbeat(context.name, {**context.about(), "tasks": learner.holds()})

    turns = PeriodicTurns(context.redis, "rounds", every_s=settings.reconcile_s)

    def request_rounds() -> None:
        if turns.take():
            for project in context.pending.projects():
                context.learning.request(project)

    def queue_due_rounds() -> None:
        for project in context.learning.due():
            if enqueue_learning(queue, LearnProject(project=project)):
                log.debug("project %d: a round is due", project)

    beat_s = min(_LONGEST_BEAT_S, settings.lease_s / 4)
    duties = (
        PeriodicDuty("the renewal of the project", learner.renew, longest_pause_s=beat_s),
        PeriodicDuty("the sign of life", show, longest_pause_s=beat_s),
        look_for_newer(context),
        PeriodicDuty("the periodic round", request_rounds, every_s=settings.reconcile_s, all_projects=True),
        PeriodicDuty("the queueing of rounds", queue_due_rounds, all_projects=True),
    )
    leave = context.presence.remove
    return Heartbeat(duties, every_s=beat_s, watch=context.watch, leave=lambda: leave(context.name))


def run_learner(context: WorkerContext, connection: Redis) -> None:
    """Learn whatever is due, through restarts of Redis; ends on SIGTERM or SIGINT."""
    os.nice(_NICE)
    learner = Learner(context)
    heartbeat = learner_heartbeat(context, learner)
    heartbeat.start()
    log.info("ready to learn: model %s on %s, %s", context.settings.model, context.segmenter.encoder.device,
             context.name)  # fmt: skip
    try:
        queues = learn_queues(connection)
        functions: JobFunctions = {LEARN_JOB: lambda payload: learner.learn(LearnProject.from_json(payload))}
        work_off(queues, functions, owner=context.name, stopping=context.stopping, watch=context.watch)
    finally:
        heartbeat.stop()
