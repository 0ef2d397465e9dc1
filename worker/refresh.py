"""A look at a project after its labeling config changed: what is stored or pending at an older version is asked anew.

It must not know how a task is predicted.
"""

from __future__ import annotations

import logging

from plugin_config.errors import LabelingConfigError, LabelStudioError, LabelStudioUnreachable
from plugin_config.jobs import RefreshProject, TaskRef
from worker.order import read_order
from worker.resident import Resident

log = logging.getLogger(__name__)


def refresh(resident: Resident, job: RefreshProject) -> None:
    """Move what is pending to the project's present version, and ask again for the unannotated tasks that carry an
    older one of ours. Nothing happens when the version is the one refreshed to last.
    """
    pending, project = resident.pending, job.project
    pending.begin_refresh(project)
    try:
        order = read_order(resident, project)
        if resident.ledger.served(project) == order.version:
            return
        # First, so that a drain which began before ends by asking again for what it stores.
        resident.ledger.serve(project, order.version)
        ours = resident.ledger.known_versions(project)
        stale = [
            TaskRef(order.version, task.id)
            for task in resident.label_studio.all_tasks(project)
            if task.versions & ours and order.version not in task.versions and not task.annotations
        ]
    except LabelStudioUnreachable as error:
        resident.ledger.serve(project, "")  # the next look, a minute from now at the latest, does it all
        log.warning("project %d: %s", project, error)
        return
    except (LabelingConfigError, LabelStudioError) as error:
        if isinstance(error, LabelStudioError) and error.status == 404:
            pending.forget(project)
        log.warning("project %d is left alone: %s", project, error)
        return
    pending.add(project, stale)
    moved = pending.move_to_version(project, order.version)
    pending.ensure_drains(project)
    log.info("project %d: now version %s, %d tasks to predict again, %d moved", project, order.version,
             len(stale), moved)  # fmt: skip
