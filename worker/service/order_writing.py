"""An order of tasks is written into Label Studio, as scores of their predictions, for as long as it may take."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.next_task import set_score
from plugin_config.queue.order import HEAD_BELOW, ImageRecord, Place
from worker.learning.selection.candidates import Choice
from worker.service.context import WorkerContext
from worker.service.order_images import ProjectImages
from worker.service.places import place_scores
from worker.service.plan import Plan

WRITING_S = 3.0
"""Seconds after which no further score is changed in one go. Label Studio takes 0.05 to 0.5 s for each; what is nearest
to the front is changed first, and the next call does the rest."""


@dataclass(frozen=True)
class WrittenScores:
    """How many scores were changed, how many predictions turned out to be gone, and how many scores are left to be
    changed the next time.
    """

    changed: int
    gone: int
    left: int


def forget_lost(
    context: WorkerContext, plan: Plan, choices: Sequence[Choice], waiting: Collection[int]
) -> set[int]:
    """Forget those of the chosen tasks, and of those that wait at their places, that were deleted or whose prediction
    was; returns their ids. A score that stays is no request that would tell.
    """
    order, project = context.order, plan.project.id
    placed = set(order.places(project)).intersection(waiting)
    records = order.some_records(project, {*placed, *(int(choice.key) for choice in choices)})
    found = context.label_studio.tasks(project, sorted(records), data=False)
    versions = {task.id: task.versions for task in found}
    lost = [
        task for task, record in records.items()
        if versions.get(task, frozenset()).isdisjoint((record.version, plan.version))
    ]  # fmt: skip
    return {task for task in lost if order.forget_prediction(project, task, records[task].prediction)}


def place_tasks(
    context: WorkerContext, project: int, choices: Iterable[Choice], images: ProjectImages, *, most: int
) -> WrittenScores:
    """Give the chosen tasks their places and the others their own scores back, until WRITING_S are over. Tasks that
    wait for a prediction of the present version keep their places, so long as no more than `most` tasks have one.
    """
    order = context.order
    reasons = {int(choice.key): choice.reason for choice in choices}
    records = order.some_records(project, {*reasons, *images.placed})
    head = [task for task in reasons if task in records]
    scores = place_scores(head, {task: records[task].shown for task in head})
    places = {task: place for task, place in order.places(project).items() if task in images.waiting}
    places |= {task: Place(0, scores[task], reasons[task]) for task in head}
    in_order = sorted(places, key=lambda task: places[task].score)[:most]
    # First: what is stored from now on gets its place at once.
    order.set_places(project, {task: replace(places[task], rank=rank) for rank, task in enumerate(in_order)})
    own = {task: max(records[task].score, HEAD_BELOW) for task in records if task not in scores}
    wanted = {task: score for task, score in {**own, **scores}.items() if score != records[task].shown}
    front_first = sorted(wanted, key=lambda task: min(wanted[task], records[task].shown))
    until, stored = time.monotonic() + WRITING_S, list[bool]()
    for task in front_first:
        if time.monotonic() > until:
            break
        stored.append(_show_score(context, project, task, records[task], wanted[task]))
    return WrittenScores(stored.count(True), stored.count(False), len(wanted) - len(stored))


def _show_score(context: WorkerContext, project: int, task: int, record: ImageRecord, score: float) -> bool:
    """Change the score of a task's prediction; False where somebody deleted the prediction, and no newer one came."""
    try:
        set_score(context.label_studio, record.prediction, score)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        return not context.order.forget_prediction(project, task, record.prediction)
    context.order.set_shown(project, task, replace(record, shown=score))
    return True
