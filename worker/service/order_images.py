"""What is known of a project's images when the order of its tasks is set: from Redis, and what changed from Label
Studio.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.label_studio.next_task import count_seen, seen_tasks
from plugin_config.queue.order import HEAD_BELOW, SeenMark
from worker.learning.selection.candidates import Candidate, Vector
from worker.service.context import WorkerContext
from worker.service.image_records import read_candidate, read_vector
from worker.service.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectImages:
    """What is known of a project's images.

    Attributes:
        candidates: open ones with a prediction of the present version.
        corrected: vectors of those that are corrected; None = not known.
        placed: ids of the open tasks whose prediction of the present version has a place in Label Studio now.
        waiting: ids of the open tasks whose prediction is of an older version: most are predicted again soon.
    """

    candidates: list[Candidate]
    corrected: list[Vector | None]
    placed: frozenset[int]
    waiting: frozenset[int] = frozenset()


def read_seen(context: WorkerContext, project: int) -> tuple[frozenset[int], frozenset[int], SeenMark]:
    """The tasks that are annotated and those that were only skipped. Of a large project only what changed is read."""
    order, label_studio = context.order, context.label_studio
    before, mark = order.seen_mark(project), SeenMark(*count_seen(label_studio, project))
    corrected, skipped = order.seen(project)
    if mark == before and len(corrected) + len(skipped) == mark.tasks:
        return corrected, skipped, mark
    changed = list(seen_tasks(label_studio, project, since=before.latest)) if before.latest else []
    fresh = {task.id for task in changed}
    corrected = corrected - fresh | {task.id for task in changed if task.annotated}
    skipped = skipped - fresh | {task.id for task in changed if not task.annotated}
    if len(corrected) + len(skipped) != mark.tasks:  # the first time, or some are no longer annotated
        rows = list(seen_tasks(label_studio, project))
        corrected = frozenset(task.id for task in rows if task.annotated)
        skipped = frozenset(task.id for task in rows if not task.annotated)
    order.set_seen(project, corrected, skipped, mark)
    return corrected, skipped, mark


def corrected_counts(context: WorkerContext, plan: Plan) -> dict[str, int]:
    """Label key -> regions that annotators kept or drew, as the learner found them last; of the present labels, and of
    all where tasks bring labels along.
    """
    counts = {label.key: 0 for label in plan.vocabulary.labels}
    try:
        attempt = context.adapters.folder(plan.project).pointer().attempt
    except (LearningError, VersionsUnavailable) as error:  # told where it is served from
        log.warning("project %d: the order knows no corrections. %s", plan.project.id, error)
        return counts
    for label, found in (attempt.outcomes if attempt else {}).items():
        if label in counts or plan.vocabulary.asked:
            counts[label] = found["accepted"] + found["changed"] + found["added"]
    return counts


def read_images(
    context: WorkerContext, plan: Plan, corrected: Collection[int], skipped: Collection[int]
) -> ProjectImages:
    """Those that somebody skipped are no candidates: Label Studio does not hand them out to that person again."""
    encoder = encoder_mark(context)
    candidates: dict[int, Candidate] = {}
    vectors: dict[int, Vector | None] = dict.fromkeys(corrected)
    placed, waiting = set(), set()
    for task, record in context.order.records(plan.project.id):
        if task in vectors:
            vectors[task] = read_vector(record, encoder)
            continue
        if record.version != plan.version:
            waiting.add(task)
            continue
        if record.shown < HEAD_BELOW:
            placed.add(task)
        if task not in skipped:
            candidates[task] = read_candidate(task, record, encoder, plan.calibration)
    return ProjectImages(
        list(candidates.values()), list(vectors.values()), frozenset(placed), frozenset(waiting - set(skipped))
    )


def encoder_mark(context: WorkerContext) -> str:
    """What tells vectors of this process's model from those of others."""
    return context.segmenter.encoder.fingerprint[:8]
