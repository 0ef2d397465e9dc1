"""The guard between the steps of a training round: is the project still ours, and what does the round do now."""

from __future__ import annotations

import logging

from plugin_config.queue.learning import Progress
from plugin_config.versions.manifests import now
from worker.service.context import WorkerContext

log = logging.getLogger(__name__)


class RoundAborted(Exception):
    """The round ends here and starts again later: this process stops, or another one has taken over the project."""


class LeaseGuard:
    """Checks the lease of a project between the steps of a round, and reports the step to people.

    Args:
        context: of this process, which holds the lease.
        project: its id.
    """

    def __init__(self, context: WorkerContext, project: int) -> None:
        self._context = context
        self._project = project

    def check(self) -> None:
        """Renew the lease; called between steps, and right before what is served changes.

        Raises:
            RoundAborted: this process is asked to stop, or another one holds the lease by now.
            QueueUnavailable: Redis does not answer.
        """
        if self._context.stopping.is_set():
            raise RoundAborted("this process is asked to stop")
        if not self._context.learning.renew(self._project, self._context.name):
            raise RoundAborted("another process has taken over")

    def report(self, detail: str) -> None:
        """Check the lease, then say what the round does now.

        Raises:
            RoundAborted, QueueUnavailable: as `check`.
        """
        self.check()
        log.info("project %d: %s", self._project, detail)
        self._context.learning.set_progress(self._project, Progress("learning", detail, now()))
