"""A process that predicts: its pipeline, its heartbeat and the queues it works off, put together."""

from __future__ import annotations

import logging
import os
import threading

from redis import Redis

from plugin_config.queue.jobs import (
    DRAIN_JOB,
    REFRESH_JOB,
    DrainProject,
    RefreshProject,
    predict_queues,
    refresh_queues,
)
from plugin_config.queue.periodic import PeriodicTurns
from plugin_config.queue.presence import WorkerPresence
from worker.service.admission import drain
from worker.service.context import WorkerContext
from worker.service.departure import Departure
from worker.service.heartbeat import Heartbeat, PeriodicDuty
from worker.service.interactive import ClickThread, sign_of_clicks
from worker.service.outdated import look_for_newer
from worker.service.pipeline import Pipeline, Stages
from worker.service.plain_jobs import JobFunctions
from worker.service.queue_worker import work_off
from worker.service.reconcile import reconcile

log = logging.getLogger(__name__)

_LONGEST_BEAT_S = 3.0
# A forward pass or a drawing that takes this long never ends, and nothing in this process can end it.
_STUCK_S = 600.0
_STUCK_STATUS = 70


def run_worker(context: WorkerContext, stages: Stages, connection: Redis) -> None:
    """Work off the queues through restarts of Redis, with a heartbeat beside; ends on SIGTERM or SIGINT as `Departure`
    says.
    """
    settings = context.settings
    pipeline = Pipeline(
        stages, capacity=2 * max(settings.drain_tasks, settings.batch), batch=settings.batch,
        stopping=context.stopping, watch=context.watch, turns=context.turns,
    )  # fmt: skip
    clicks = ClickThread(context) if settings.interactive else None
    heartbeat, hurried = worker_heartbeat(context, pipeline), threading.Event()
    departure = Departure(pipeline, stopping=context.stopping, hurried=hurried, leave=heartbeat.leave)
    departure.start()
    if clicks is not None:
        clicks.start()
    heartbeat.start()
    encoder = context.segmenter.encoder
    log.info("ready: model %s on %s, images enter at %d px, worker %s",
             encoder.name, encoder.device, encoder.short_side, context.name)  # fmt: skip
    try:
        queues = [*predict_queues(connection), *refresh_queues(connection)]
        functions = worker_functions(context, pipeline)
        work_off(queues, functions, owner=context.name, stopping=context.stopping, watch=context.watch,
                 hurried=hurried)  # fmt: skip
    finally:
        if clicks is not None:
            clicks.stop()
        departure.wait_closed()  # with the heartbeat: what is finished meanwhile must keep its lease
        heartbeat.stop()
        departure.end()


def worker_functions(context: WorkerContext, pipeline: Pipeline) -> JobFunctions:
    """The jobs of a process that predicts."""
    return {
        DRAIN_JOB: lambda payload: drain(context, pipeline, DrainProject.from_json(payload)),
        REFRESH_JOB: lambda payload: reconcile(context, RefreshProject.from_json(payload)),
    }


def worker_heartbeat(context: WorkerContext, pipeline: Pipeline) -> Heartbeat:
    """The heartbeat of a process that predicts, not yet started."""

    def end_if_stuck() -> None:
        if pipeline.stuck_s() > _STUCK_S:
            log.critical("the model has been at one batch for %.0f s: ending, so that the tasks go to another "
                         "worker", _STUCK_S)  # fmt: skip
            os._exit(_STUCK_STATUS)

    def show() -> None:
        context.presence.heartbeat(context.name, context.about())

    def sweep() -> None:
        for ref in context.pending.sweep():
            log.warning("task %d: its worker is gone, it is queued again (version %s)", ref.task, ref.version)

    def ask_again() -> None:
        for project in context.hints.due_refreshes():
            context.hints.request_refresh(project)

    def ask_for_reconciles() -> None:
        if turns.take():
            for project in context.pending.projects():
                context.hints.request_refresh(project)

    settings, clickers = context.settings, WorkerPresence(context.redis, clickers=True)
    turns = PeriodicTurns(context.redis, "looks", every_s=settings.reconcile_s)
    beat_s = min(_LONGEST_BEAT_S, settings.lease_s / 4)
    duties = (
        PeriodicDuty("the watchdog", end_if_stuck),  # first: Redis may be away
        PeriodicDuty("the renewal of leases", context.leases.renew, longest_pause_s=beat_s),
        PeriodicDuty("the renewal of orders", context.order.renew, longest_pause_s=beat_s),
        PeriodicDuty("the sign of life", show, longest_pause_s=beat_s),
        *([sign_of_clicks(context, clickers, every_s=beat_s)] if settings.interactive else []),
        look_for_newer(context),
        PeriodicDuty("the sweep", sweep, all_projects=True),
        PeriodicDuty("the reconciles that are due", ask_again, longest_pause_s=beat_s, all_projects=True),
        PeriodicDuty("the periodic reconcile", ask_for_reconciles, every_s=settings.reconcile_s, all_projects=True),
    )

    def leave() -> None:
        clickers.remove(context.name)
        context.presence.remove(context.name)

    return Heartbeat(duties, every_s=beat_s, watch=context.watch, leave=leave)
