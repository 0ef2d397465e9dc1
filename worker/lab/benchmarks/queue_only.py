"""`python -m worker.lab.benchmarks.queue_only`: a worker that does to the queue what a worker does, and nothing else.

It takes RQ's jobs, leases batches of tasks, renews the lease of each as before a post, and settles it as done, in as
many threads as post predictions. There is no model, no Label Studio, no image. When it is told to end, it writes what
it did into the file that it was given, as JSON:

    posted     how many leases were renewed and then settled: each would have been one prediction
    longest_s  the longest time from a lease to its task's end, seconds
    order      [project, tasks] of each batch, in the order in which they were worked off
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from plugin_config.background import DutyWatch
from plugin_config.files import write_private
from plugin_config.queue.jobs import DRAIN_JOB, DrainProject, predict_queue
from plugin_config.queue.pending import Lease, PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from worker.service.heartbeat import Heartbeat, PeriodicDuty
from worker.service.leases import Leases
from worker.service.queue_worker import connect, work_off

_POSTERS = 4  # as in worker.service.pipeline
_BEAT_S = 3.0  # as in worker.service.worker
_ANSWER_S = 30.0


class QueueOnly:
    """Drains tasks, and remembers what it did. Safe to share between threads.

    Args:
        pending: the tasks' states.
        owner: the worker's name.
        limit: most tasks of one batch.
    """

    def __init__(self, pending: PendingTasks, owner: str, limit: int) -> None:
        self.leases = Leases(pending, owner)
        self._pending, self._limit = pending, limit
        self._lock = threading.Lock()
        self._batches: list[tuple[float, int, int]] = []
        self._posted, self._longest_s = 0, 0.0
        self._threads = ThreadPoolExecutor(_POSTERS, thread_name_prefix="post")

    def drain(self, job: DrainProject) -> None:
        """Lease a batch, settle it, and queue the next drain: `worker.service.admission.drain` without what it reads
        from Label Studio.
        """
        self._pending.mark_drain_running(job.project, job.slot)
        leased = self.leases.take(job.project, limit=min(job.limit, self._limit))
        started = time.monotonic()
        list(self._threads.map(lambda lease: self._settle(job.project, lease, started), leased))
        self._batches.append((time.monotonic(), job.project, len(leased)))
        self._pending.end_drain(job.project, job.slot)

    def summary(self) -> dict[str, object]:
        """What was done so far; see the module."""
        with self._lock:
            return {"posted": self._posted, "longest_s": self._longest_s, "batches": self._batches}

    def _settle(self, project: int, lease: Lease, leased_at: float) -> None:
        if not self.leases.confirm(project, lease.ref):
            return
        self.leases.done(project, lease.ref)
        with self._lock:
            self._posted += 1
            self._longest_s = max(self._longest_s, time.monotonic() - leased_at)


def main(arguments: Sequence[str]) -> int:
    """Work until SIGTERM, then write the summary."""
    parser = argparse.ArgumentParser(description="The queue's part of a worker, for benchmarks.")
    parser.add_argument("--summaries", type=Path, required=True)
    found = parser.parse_args(arguments)
    settings = Settings.from_env(os.environ)
    redis, stopping, watch = connect(settings, timeout_s=_ANSWER_S), threading.Event(), DutyWatch()
    pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
    owner = f"queue-only-{os.getpid()}"
    queue_only, presence = QueueOnly(pending, owner, settings.drain_tasks), WorkerPresence(redis)
    duties = (
        PeriodicDuty("the renewal of leases", queue_only.leases.renew),
        PeriodicDuty("the sign of life", lambda: presence.heartbeat(owner)),
        PeriodicDuty("the sweep", pending.sweep, all_projects=True),
    )
    heartbeat = Heartbeat(duties, every_s=_BEAT_S, watch=watch, leave=lambda: presence.remove(owner))
    heartbeat.start()
    functions = {DRAIN_JOB: lambda payload: queue_only.drain(DrainProject.from_json(payload))}
    work_off([predict_queue(connect(settings))], functions, owner=owner, stopping=stopping, watch=watch)
    heartbeat.stop()
    write_private(found.summaries / f"{owner}.json", json.dumps(queue_only.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
