"""Which task annotators get next: the head of the order is chosen, and written into Label Studio as scores.

Label Studio orders by the score of the predictions that it shows (`plugin_config.label_studio.next_task`), so the
chosen tasks get the lowest scores; the others follow by the score of their prediction, which is that of its least
certain region, lowest first. An order that a person chose is left alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from plugin_config.errors import (
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    QueueUnavailable,
    VersionsUnavailable,
)
from plugin_config.label_studio.client import Project
from plugin_config.label_studio.next_task import (
    BY_SCORE,
    DEFAULT_SAMPLING,
    count_seen,
    make_view,
    seen_tasks,
    set_sampling,
    set_score,
    view_titles,
)
from plugin_config.queue.order import ImageRecord, Place, SeenMark
from worker.learning.selection.candidates import Candidate, Choice, Vector
from worker.learning.selection.choosing import next_images
from worker.service.context import WorkerContext
from worker.service.image_records import make_record, read_candidate, read_vector
from worker.service.places import HEAD_BELOW, place_scores
from worker.service.plan import Plan
from worker.service.turns import DrawnTask

log = logging.getLogger(__name__)

HEAD = 100
"""Tasks that get an exact place: more than annotators finish until the order is set again. Each may be a request."""

VIEW_TITLE = "Zeromask: next"

_PAUSE_S = 10.0  # between two orders of a project: those who annotate use the same Label Studio
_OFF = "the order of tasks is left alone: ZEROMASK_ORDER is off"
_CONTROL = "the order of tasks is left alone: tasks without a prediction would come last (ZEROMASK_CONTROL_SHARE)"


@dataclass(frozen=True)
class _Images:
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


def keep_order(context: WorkerContext, plan: Plan) -> None:
    """Set the order of a project again where predictions, corrections or the version changed since.

    What Label Studio refuses is told in `zeromask status`; nothing else fails for it.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot answer now; the next call does the rest.
    """
    project, settings = plan.project.id, context.settings
    off = _OFF if not settings.order else _CONTROL if settings.control_share else ""
    if not off and not context.order.count(project):
        return
    try:
        remark = off or _left_alone(context, plan.project, plan.version)
        if remark and not off:  # what the plan read may be older than what another process has set
            remark = _left_alone(context, context.label_studio.project(project), plan.version)
        if remark is None:
            return
        if off:
            _give_back(context, plan)
        elif remark:
            _take_back(context, project)
        else:
            remark = _keep_view(context, project)
            _set_order(context, plan)
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError as error:
        remark = f"the order of tasks cannot be set: {error}"
    _tell(context, project, remark)


def score_to_post(context: WorkerContext, drawn: DrawnTask) -> float:
    """The score with which a prediction is stored: the place of its task, where that is at the head of the order."""
    if not context.settings.order:
        return drawn.score
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
        encoder=_encoder(context),
    )  # fmt: skip
    try:
        context.order.put(project, ref.task, record)
    except QueueUnavailable as error:  # the prediction is stored; without a record its task follows by score
        log.warning("task %d: %s", ref.task, error)


def _left_alone(context: WorkerContext, project: Project, version: str) -> str | None:
    """Why the order is a person's, a sentence; "" = it is ours to set; None = not now, as no prediction of the present
    version is shown yet.

    A new project's sampling is set once: whoever changes it afterwards keeps what they chose.
    """
    if project.model_version != version:
        if context.ledger.shown_version(project.id) != version:
            return None
        shown = project.model_version or "no version"
        return f"the order of tasks is left alone: a person chose to show predictions of {shown}"
    if project.sampling == BY_SCORE:
        if not context.order.noted(project.id, "sampling"):
            context.order.note(project.id, "sampling", "found")
        return ""
    if project.sampling == DEFAULT_SAMPLING and not context.order.noted(project.id, "sampling"):
        set_sampling(context.label_studio, project.id, BY_SCORE)
        context.order.note(project.id, "sampling", "set")
        log.info("project %d: annotators get the image that teaches most next", project.id)
        return ""
    return f"the order of tasks is left alone: a person chose {project.sampling!r}"


def _keep_view(context: WorkerContext, project: int) -> str:
    """Make the view once; returns what people should know, "" = nothing.

    Not before a project has another one: Label Studio shows its default view only while there is none.
    """
    if context.order.noted(project, "view"):
        return ""
    try:
        titles = view_titles(context.label_studio, project)
        if not titles:
            return ""
        found = VIEW_TITLE in titles
        if not found:
            make_view(context.label_studio, project, VIEW_TITLE)
    except (LabelStudioUnreachable, LabelStudioFailing):
        raise
    except LabelStudioError as error:
        return f"the view {VIEW_TITLE!r} cannot be made: {error}"
    context.order.note(project, "view", "found" if found else "made")
    return ""


def _set_order(context: WorkerContext, plan: Plan) -> None:
    order, project = context.order, plan.project.id
    corrected, skipped, mark = _read_seen(context, project)
    counts = _corrected_counts(context, plan)
    made_from = [plan.version, order.written(project), mark.tasks, mark.latest, counts]
    basis = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    if basis == order.basis(project) or not order.begin(project, pause_s=_PAUSE_S):
        return
    images = _read_images(context, plan, corrected, skipped)
    choices = next_images(images.candidates, images.corrected, counts, count=HEAD, seed=project)
    changed, gone = _place(context, project, choices, images)
    if not gone:  # else others take their places the next time
        order.set_basis(project, basis)
    log.info("project %d: %d of %d open images are next, %d scores changed, %d predictions are gone", project,
             len(choices), len(images.candidates), changed, gone)  # fmt: skip


def _read_seen(context: WorkerContext, project: int) -> tuple[frozenset[int], frozenset[int], SeenMark]:
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


def _corrected_counts(context: WorkerContext, plan: Plan) -> dict[str, int]:
    """Label key -> regions that annotators kept or drew, as the learner found them last."""
    counts = {label.key: 0 for label in plan.vocabulary.labels}
    try:
        attempt = context.adapters.folder(plan.project).pointer().attempt
    except (LearningError, VersionsUnavailable) as error:  # told where it is served from
        log.warning("project %d: the order knows no corrections. %s", plan.project.id, error)
        return counts
    for label, found in (attempt.outcomes if attempt else {}).items():
        counts[label] = found["accepted"] + found["changed"] + found["added"]
    return counts


def _read_images(
    context: WorkerContext, plan: Plan, corrected: Collection[int], skipped: Collection[int]
) -> _Images:
    """Those that somebody skipped are no candidates: Label Studio does not hand them out to that person again."""
    encoder = _encoder(context)
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
            candidates[task] = read_candidate(task, record, encoder)
    return _Images(
        list(candidates.values()), list(vectors.values()), frozenset(placed), frozenset(waiting - set(skipped))
    )


def _place(context: WorkerContext, project: int, choices: Iterable[Choice], images: _Images) -> tuple[int, int]:
    """Give the chosen tasks their places and the others their own scores back; returns how many scores changed, and how
    many predictions are gone. Tasks that wait for a prediction of the present version keep their places.
    """
    order = context.order
    reasons = {int(choice.key): choice.reason for choice in choices}
    records = order.some_records(project, {*reasons, *images.placed})
    head = [task for task in reasons if task in records]
    scores = place_scores(head, {task: records[task].shown for task in head})
    places = {task: place for task, place in order.places(project).items() if task in images.waiting}
    places |= {task: Place(0, scores[task], reasons[task]) for task in head}
    in_order = sorted(places, key=lambda task: places[task].score)[: 2 * HEAD]
    # First: what is stored from now on gets its place at once.
    order.set_places(project, {task: replace(places[task], rank=rank) for rank, task in enumerate(in_order)})
    own = {task: max(records[task].score, HEAD_BELOW) for task in records if task not in scores}
    wanted = {task: score for task, score in {**own, **scores}.items() if score != records[task].shown}
    stored = [_show_score(context, project, task, records[task], score) for task, score in wanted.items()]
    return stored.count(True), stored.count(False)


def _give_back(context: WorkerContext, plan: Plan) -> None:
    """Undo what was set: the project's sampling, unless somebody has changed it since, and the scores."""
    project = plan.project
    if context.order.noted(project.id, "sampling") == "set" and project.sampling == BY_SCORE:
        set_sampling(context.label_studio, project.id, DEFAULT_SAMPLING)
    context.order.forget_sampling(project.id)
    _take_back(context, project.id)


def _take_back(context: WorkerContext, project: int) -> None:
    """Give the open tasks their own scores back, where the order is no longer ours."""
    if places := context.order.places(project):
        corrected, _ = context.order.seen(project)
        _place(context, project, (), _Images([], [], frozenset(places) - corrected))
        context.order.set_basis(project, "")


def _show_score(context: WorkerContext, project: int, task: int, record: ImageRecord, score: float) -> bool:
    """Change the score of a task's prediction; False where somebody deleted the prediction, and no newer one came."""
    gone = False
    try:
        set_score(context.label_studio, record.prediction, score)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        gone = True
    now = context.order.some_records(project, [task]).get(task)
    if now is None or now.prediction != record.prediction:
        return True
    if gone:
        context.order.forget(project, [task])
    else:
        context.order.set_shown(project, task, replace(record, shown=score))
    return not gone


def _tell(context: WorkerContext, project: int, remark: str) -> None:
    """Tell a remark in `zeromask status`, and once in the log."""
    if context.order.remark(project) != remark:
        context.order.set_remark(project, remark)
        if remark:
            log.warning("project %d: %s", project, remark)


def _encoder(context: WorkerContext) -> str:
    return context.segmenter.encoder.fingerprint[:8]
