"""Tells people that a worker leaves jobs to newer workers, and what to do about it."""

from __future__ import annotations

import logging

from plugin_config.queue.contract import CONTRACT
from worker.service.context import WorkerContext
from worker.service.heartbeat import PeriodicDuty

log = logging.getLogger(__name__)


def look_for_newer(context: WorkerContext) -> PeriodicDuty:
    """The duty that finds out whether parts with a newer contract request tasks; the log has it once."""

    def look() -> None:
        newest = context.pending.newest_contract()
        told = ""
        if newest > CONTRACT:
            told = (f"jobs of contract {newest} are left to newer workers, this one has contract {CONTRACT}: upgrade "
                    "this worker")  # fmt: skip
        if told and told != context.outdated:
            log.warning("%s; it goes on with older jobs", told)
        context.outdated = told

    return PeriodicDuty("the look for newer contracts", look)
