"""Which task annotators get next: the head of the order is chosen, and written into Label Studio as scores.

Label Studio orders by the score of the predictions that it shows (`plugin_config.label_studio.next_task`), so the
chosen tasks get the lowest scores; the others follow by the score of their prediction, which is that of its least
certain region, lowest first. An order that a person chose is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    QueueUnavailable,
)
from plugin_config.label_studio.next_task import DEFAULT_SAMPLING
from plugin_config.queue.order import HEAD_BELOW
from worker.learning.selection.choosing import next_images
from worker.service.context import WorkerContext
from worker.service.image_records import make_record
from worker.service.order_images import ProjectImages, corrected_counts, encoder_mark, read_images, read_seen
from worker.service.order_writing import forget_lost, place_tasks
from worker.service.plan import Plan
from worker.service.sampling import give_sampling_back, keep_view, left_alone
from worker.service.turns import DrawnTask

log = logging.getLogger(__name__)

HEAD = 100
"""Tasks that get an exact place: more than annotators finish until the order is set again. Each may be a request."""

_PAUSE_S = 10.0  # between two orders of a project: those who annotate use the same Label Studio
_REST_S = 300.0  # likewise, while predictions come and nobody corrects: each of them would be a reason to order again
_COMING_S = 15.0  # until the next look while predictions come: the last of them may be a reason to order again
_HOLD_LEASES = 3  # the heartbeat renews the hold; that of a dead worker ends after three times ZEROMASK_LEASE_S
_OFF = "the order of tasks is left alone: ZEROMASK_ORDER is off"
_CONTROL = "the order of tasks is left alone: tasks without a prediction would come last (ZEROMASK_CONTROL_SHARE)"
_CONTROL_LAST = (
    f"tasks of the control arm come last: set the project's sampling to {DEFAULT_SAMPLING!r} (ZEROMASK_CONTROL_SHARE)"
)


def keep_order(context: WorkerContext, plan: Plan) -> None:
    """Set the order of a project again where predictions, corrections or the version changed since.

    A slow Label Studio gets the front of the order at once, and the rest at the next calls.
    What Label Studio refuses is told in `zeromask status`; nothing else fails for it.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot answer now; the next call does the rest.
    """
    project, settings = plan.project.id, context.settings
    off = _OFF if not settings.order else _CONTROL if settings.control_share else ""
    context.order.belong_to(project, plan.project.created)
    if not off and not context.order.count(project):
        return
    try:
        remark = off or left_alone(context, plan.project, plan.version)
        if remark and not off:  # what the plan read may be older than what another process has set
            remark = left_alone(context, context.label_studio.project(project), plan.version)
        if remark is None:
            return
        if off:
            remark = _give_back(context, plan, off)
        elif remark:
            _take_back(context, project)
        else:
            remark = _order_alone(context, plan)
            if remark is None:
                return
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError as error:
        remark = f"the order of tasks cannot be set: {error}"
    _tell(context, project, remark)


def score_to_post(context: WorkerContext, drawn: DrawnTask) -> float:
    """The score with which a prediction is stored: the place of its task, where that is at the head of the order."""
    if not context.settings.order:
        return drawn.score
    context.order.belong_to(drawn.leased.project, drawn.leased.plan.project.created)
    place = context.order.place(drawn.leased.project, drawn.leased.ref.task)
    return max(drawn.score, HEAD_BELOW) if place is None else place.score


def record_stored(context: WorkerContext, drawn: DrawnTask, *, prediction: int, shown: float) -> None:
    """Keep what the order needs of a stored prediction.

    Args:
        context: of this process.
        drawn: what was stored.
        prediction: its id.
        shown: the score that it was stored with.
    """
    if not context.settings.order or not drawn.images:
        return
    project, ref = drawn.leased.project, drawn.leased.ref
    record = make_record(
        drawn.images, version=drawn.leased.plan.version, prediction=prediction, score=drawn.score, shown=shown,
        encoder=encoder_mark(context),
    )  # fmt: skip
    try:
        context.order.put(project, ref.task, record)
    except QueueUnavailable as error:  # the prediction is stored; without a record its task follows by score
        log.warning("task %d: %s", ref.task, error)


def _order_alone(context: WorkerContext, plan: Plan) -> str | None:
    """Keep the view and set the order, as one worker at a time; returns what people should know, "" = nothing; None =
    another worker does it, or it was done just now.
    """
    project, owner, pause_s = plan.project.id, uuid.uuid4().hex, _PAUSE_S
    if not context.order.begin(project, owner, hold_s=_HOLD_LEASES * context.settings.lease_s, pause_s=_PAUSE_S):
        context.hints.refresh_later(project, after_s=_PAUSE_S)  # what came since then is not left until a periodic one
        return None
    try:
        remark = keep_view(context, project)
        if not _set_order(context, plan):
            pause_s = 0.0
    finally:
        context.order.end(project, owner, pause_s=pause_s)
    return remark


def _set_order(context: WorkerContext, plan: Plan) -> bool:
    """Returns whether there was anything to do."""
    order, project = context.order, plan.project.id
    corrected, skipped, mark = read_seen(context, project)
    counts = corrected_counts(context, plan)
    corrections = _digest([plan.version, mark.tasks, mark.latest, counts, plan.calibration.to_json()])
    basis = _digest([corrections, order.written(project)])
    if basis == order.basis(project):
        return False
    waiting = context.pending.counts(project)
    are_coming = bool(waiting.pending or waiting.leased)
    if are_coming:
        context.hints.refresh_later(project, after_s=_COMING_S)
        if order.resting(project, rest_s=_REST_S) == corrections:
            return False
    images = read_images(context, plan, corrected, skipped)
    choices = next_images(images.candidates, images.corrected, counts, count=HEAD, seed=project)
    lost = forget_lost(context, plan, choices, images.waiting)
    written = place_tasks(context, project, [one for one in choices if int(one.key) not in lost], images, most=2 * HEAD)
    gone = written.gone + len(lost)
    if gone or written.left:  # others take their places the next time, or the rest is written
        context.hints.refresh_later(project, after_s=_PAUSE_S)
    else:
        order.set_basis(project, basis)
        if are_coming and len(images.candidates) >= HEAD:  # of a new version there are none at first
            order.rest(project, corrections, rest_s=_REST_S)
    log.info("project %d: %d of %d open images are next, %d scores changed, %d wait, %d predictions are gone", project,
             len(choices), len(images.candidates), written.changed, written.left, gone)  # fmt: skip
    return True


def _give_back(context: WorkerContext, plan: Plan, off: str) -> str:
    """Undo what was set: the project's sampling, unless somebody has changed it since, and the scores. Returns what
    people should know; `off` is why it is undone.
    """
    is_back = give_sampling_back(context, plan.project)
    _take_back(context, plan.project.id)
    return off if is_back or off != _CONTROL else _CONTROL_LAST


def _take_back(context: WorkerContext, project: int) -> None:
    """Give the open tasks their own scores back, where the order is no longer ours. What ends this half way ends no
    more than this time: only when all are back, that is noted.
    """
    order, written = context.order, context.order.written(project)
    basis = f"taken back {written}"
    if order.basis(project) == basis:
        return
    order.set_basis(project, "")
    placed = {task for task, record in order.records(project) if record.shown < HEAD_BELOW}
    if placed:
        corrected, _, _ = read_seen(context, project)
        placed -= corrected
    if not place_tasks(context, project, (), ProjectImages([], [], frozenset(placed)), most=2 * HEAD).left:
        order.set_basis(project, basis)


def _tell(context: WorkerContext, project: int, remark: str) -> None:
    """Tell a remark in `zeromask status`, and once in the log."""
    if context.order.remark(project) != remark:
        context.order.set_remark(project, remark)
        if remark:
            log.warning("project %d: %s", project, remark)


def _digest(made_from: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
