"""The functions RQ calls: each checks its job and tells a worker what to do.

It must not hold anything but the worker's one `Resident` and its `Pipeline`, or its learner, which are attached before
the first job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from plugin_config.errors import EnvironmentBroken
from plugin_config.queue.jobs import DrainProject, LearnProject, RefreshProject
from worker.service.admission import drain
from worker.service.context import Resident
from worker.service.pipeline import Pipeline
from worker.service.reconcile import refresh


class Learns(Protocol):
    """What a process that learns attaches."""

    def learn(self, job: LearnProject) -> None:
        """Look at a project's corrections."""


_attached: list[tuple[Resident, Pipeline]] = []
_learning: list[Learns] = []


def attach(resident: Resident, pipeline: Pipeline) -> None:
    """Make these the ones every job of this process uses."""
    _attached[:] = [(resident, pipeline)]


def drain_project(payload: Mapping[str, Any]) -> None:
    """RQ job: put up to N pending tasks of a project on the line; see `plugin_config.queue.jobs.DrainProject`."""
    drain(*_worker(), DrainProject.from_json(payload))


def refresh_project(payload: Mapping[str, Any]) -> None:
    """RQ job: look at a project again; see `plugin_config.queue.jobs.RefreshProject`."""
    resident, _ = _worker()
    refresh(resident, RefreshProject.from_json(payload))


def attach_learner(learner: Learns) -> None:
    """Make this the one every job of this process uses."""
    _learning[:] = [learner]


def learn_project(payload: Mapping[str, Any]) -> None:
    """RQ job: look at a project's corrections; see `plugin_config.queue.jobs.LearnProject`."""
    if not _learning:
        remedy = "Start one with `zeromask worker --queue finetune`."
        raise EnvironmentBroken("worker", "does not learn", remedy)
    _learning[0].learn(LearnProject.from_json(payload))


def _worker() -> tuple[Resident, Pipeline]:
    if not _attached:
        remedy = "Start workers with `zeromask worker`, not with `rq worker`: it loads the model once."
        raise EnvironmentBroken("worker", "has no model loaded", remedy)
    return _attached[0]
