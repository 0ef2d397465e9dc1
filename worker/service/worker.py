"""A process that predicts: its pipeline, its heartbeat and the queues it works off, put together."""

from __future__ import annotations

import logging
import os

from redis import Redis

from plugin_config.queue.jobs import look_queue, predict_queue
from worker.service import jobs
from worker.service.context import Resident
from worker.service.heartbeat import Duty, Heartbeat
from worker.service.pipeline import Pipeline, Stages
from worker.service.queue_worker import work_off

log = logging.getLogger(__name__)

# Less than a supervisor waits before it kills.
_GRACE_S = 5.0
_LONGEST_BEAT_S = 3.0
# A forward pass or a drawing that takes this long never ends, and nothing in this process can end it.
_STUCK_S = 600.0
_STUCK_STATUS = 70


def run_worker(resident: Resident, stages: Stages, connection: Redis) -> None:
    """Work off the queues through restarts of Redis, with a heartbeat beside; ends on SIGTERM or SIGINT."""
    settings = resident.settings
    pipeline = Pipeline(
        stages, capacity=2 * max(settings.drain_tasks, settings.batch), batch=settings.batch,
        stopping=resident.stopping, watch=resident.watch,
    )  # fmt: skip
    jobs.attach(resident, pipeline)
    heartbeat = worker_heartbeat(resident, pipeline)
    heartbeat.start()
    encoder = resident.segmenter.encoder
    log.info("ready: model %s on %s, images enter at %d px, worker %s",
             encoder.name, encoder.device, encoder.short_side, resident.name)  # fmt: skip
    try:
        queues = [predict_queue(connection), look_queue(connection)]
        work_off(queues, owner=resident.name, stopping=resident.stopping, watch=resident.watch)
    finally:
        pipeline.close(grace_s=_GRACE_S)
        heartbeat.stop()


def worker_heartbeat(resident: Resident, pipeline: Pipeline) -> Heartbeat:
    """The heartbeat of a process that predicts, not yet started."""

    def end_if_stuck() -> None:
        if pipeline.stuck_s() > _STUCK_S:
            log.critical("the model has been at one batch for %.0f s: ending, so that the tasks go to another "
                         "worker", _STUCK_S)  # fmt: skip
            os._exit(_STUCK_STATUS)

    def show() -> None:
        resident.presence.heartbeat(resident.name, resident.about())

    def sweep() -> None:
        for ref in resident.pending.sweep():
            log.warning("task %d: its worker is gone, it is queued again (version %s)", ref.task, ref.version)

    def reconcile() -> None:
        for project in resident.pending.projects():
            resident.hints.request_refresh(project)

    beat_s = min(_LONGEST_BEAT_S, resident.settings.lease_s / 4)
    duties = (
        Duty("the watchdog", end_if_stuck),  # first: Redis may be away
        Duty("the renewal of leases", resident.leases.renew, longest_rest_s=beat_s),
        Duty("the sign of life", show, longest_rest_s=beat_s),
        Duty("the sweep", sweep),
        Duty("the periodic look", reconcile, every_s=resident.settings.reconcile_s),
    )
    leave = resident.presence.leave
    return Heartbeat(duties, every_s=beat_s, watch=resident.watch, leave=lambda: leave(resident.name))
