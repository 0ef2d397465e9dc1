"""Pending tasks -> predictions stored in Label Studio, each exactly once, each failure with its reason.

What to do is read from Label Studio by id when the work begins: a job carries numbers only. It must not know about
models or region formats.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import (
    ImageUnavailable,
    LabelingConfigError,
    LabelStudioError,
    LabelStudioUnreachable,
    RegionError,
    ZeromaskError,
)
from plugin_config.jobs import DrainProject, RefreshProject, TaskRef
from plugin_config.label_studio import Project, Task
from plugin_config.vocabulary import Vocabulary, parse_vocabulary, version_name
from worker.images import fetch_image
from worker.regions import encode_region
from worker.resident import Resident
from worker.segmentation.segmenter import Segmentation

log = logging.getLogger(__name__)

_UNREACHABLE_DELAY_S = 5.0


@dataclass(frozen=True)
class Order:
    """What a project wants now: its labels, and the version that stamps what is drawn for them."""

    project: Project
    vocabulary: Vocabulary
    version: str


@dataclass(frozen=True)
class Fetched:
    """A leased task with its picture, (H, W, 3) uint8 RGB upright."""

    ref: TaskRef
    task: Task
    image: NDArray[np.uint8]


def drain(resident: Resident, job: DrainProject) -> None:
    """Lease the tasks that are due, predict and store them, then queue the next drain behind the other projects."""
    resident.pending.hold_slot(job.project, job.slot)
    refs = resident.pending.take(job.project, resident.name, limit=job.limit)
    if refs:
        with resident.holding(job.project, refs):
            _predict(resident, job.project, refs)
    resident.pending.next_drain(job.project, job.slot)


def refresh(resident: Resident, job: RefreshProject) -> None:
    """After a change of the labeling config: move what is pending to the new version, and ask again for unannotated
    tasks that carry an older one of ours.
    """
    pending = resident.pending
    pending.begin_refresh(job.project)
    try:
        order = read_order(resident, job.project)
    except LabelStudioUnreachable as error:
        log.warning("project %d: %s", job.project, error)
        return
    except (LabelingConfigError, LabelStudioError) as error:
        log.warning("project %d is left alone: %s", job.project, error)
        return
    if resident.ledger.served(job.project) == order.version:
        return
    ours = resident.ledger.known_versions(job.project)
    stale = [
        TaskRef(order.version, task.id)
        for task in resident.label_studio.all_tasks(job.project)
        if task.versions & ours and order.version not in task.versions and not task.annotations
    ]
    pending.add(job.project, stale)
    moved = pending.move_to_version(job.project, order.version)
    resident.ledger.serve(job.project, order.version)
    pending.ensure_drains(job.project)
    log.info("project %d: now version %s, %d tasks to predict again, %d moved", job.project, order.version,
             len(stale), moved)  # fmt: skip


def read_order(resident: Resident, project: int) -> Order:
    """Read a project's labeling config from Label Studio and derive its version.

    Raises:
        LabelingConfigError: the config names nothing to segment.
        LabelStudioError: the project cannot be read; `status` 404 when it is gone.
    """
    found = resident.label_studio.project(project)
    vocabulary = parse_vocabulary(found.label_config)
    return Order(found, vocabulary, version_name(resident.settings.model, vocabulary))


def _predict(resident: Resident, project: int, refs: Sequence[TaskRef]) -> None:
    waiting = set(refs)
    try:
        order = read_order(resident, project)
        if resident.ledger.served(project) != order.version:
            resident.pending.request_refresh(project)
        current = _current(resident, order, refs, waiting)
        tasks = {task.id: task for task in resident.label_studio.tasks(project, [ref.task for ref in current])}
        fetched = list(_fetch(resident, order, current, tasks, waiting))
        _segment_and_store(resident, order, fetched, waiting)
    except LabelStudioUnreachable as error:
        log.warning("project %d: %s", project, error)
        for ref in waiting:
            resident.pending.give_back(project, resident.name, ref, delay_s=_UNREACHABLE_DELAY_S)
    except (LabelingConfigError, LabelStudioError) as error:
        log.error("project %d: %s", project, error)
        for ref in waiting:
            _fail(resident, project, ref, error)


def _current(resident: Resident, order: Order, refs: Sequence[TaskRef], waiting: set[TaskRef]) -> list[TaskRef]:
    """The refs of the version served now. Those of an older vocabulary are asked for anew; those of another model
    fail, because some process was started with another MODEL and would ask for ever.
    """
    project, name = order.project.id, resident.name
    family = order.version.rpartition("-")[0]
    current = []
    for ref in refs:
        if ref.version == order.version:
            current.append(ref)
            continue
        waiting.discard(ref)
        if ref.version.rpartition("-")[0] == family:
            resident.pending.add(project, [TaskRef(order.version, ref.task)])
            resident.pending.drop(project, name, ref)
        else:
            reason = f"version {ref.version} was asked for, this worker serves {order.version}: set MODEL alike"
            log.error("task %d: %s", ref.task, reason)
            resident.pending.fail(project, name, ref, reason)
    return current


def _fetch(
    resident: Resident, order: Order, refs: Iterable[TaskRef], tasks: Mapping[int, Task], waiting: set[TaskRef]
) -> Iterable[Fetched]:
    project, name = order.project.id, resident.name
    for ref in refs:
        task = tasks.get(ref.task)
        if task is None:
            waiting.discard(ref)
            resident.pending.drop(project, name, ref)
            log.info("task %d: is gone from project %d", ref.task, project)
        elif order.version in task.versions:  # stored before, only the answer was lost
            waiting.discard(ref)
            resident.pending.done(project, name, ref)
        else:
            try:
                url = task.data.get(order.vocabulary.image_key)
                image = fetch_image(url, task=task.id, label_studio=resident.label_studio, limits=resident.limits)
                yield Fetched(ref, task, image)
            except ImageUnavailable as error:
                waiting.discard(ref)
                _fail(resident, project, ref, error)


def _segment_and_store(resident: Resident, order: Order, fetched: Sequence[Fetched], waiting: set[TaskRef]) -> None:
    if not fetched:
        return
    unknown = {} if order.version in resident.explained else resident.segmenter.unknown_words(order.vocabulary)
    resident.explained.add(order.version)
    for key, words in unknown.items():
        log.warning("project %d: model %s does not know %s in label %r: expect nothing of it", order.project.id,
                    resident.settings.model, " and ".join(map(repr, words)), key)  # fmt: skip
    start = time.perf_counter()
    embeddings = resident.embeddings.embed([item.image for item in fetched])
    embed_ms = (time.perf_counter() - start) * 1000 / len(fetched)
    for item, embedding in zip(fetched, embeddings, strict=True):
        start = time.perf_counter()
        found = resident.segmenter.segment(embedding, order.vocabulary)
        segment_ms = (time.perf_counter() - start) * 1000
        try:
            stored = _store(resident, order, item, found)
        except RegionError as error:
            _fail(resident, order.project.id, item.ref, error)
            stored = False
        waiting.discard(item.ref)
        resident.release(order.project.id, [item.ref])
        if stored:
            log.info("task %d: %d regions, version %s, embed %.0f ms, segment %.0f ms, encode and post %.0f ms",
                     item.task.id, len(found.segments), order.version, embed_ms, segment_ms,
                     (time.perf_counter() - start) * 1000 - segment_ms)  # fmt: skip


def _store(resident: Resident, order: Order, item: Fetched, found: Segmentation) -> bool:
    project, name = order.project.id, resident.name
    result = [region for segment in found.segments for region in encode_region(
        segment.mask, kind=segment.label.output, control=segment.label.control, to_name=segment.label.to_name,
        label=segment.label.key, score=segment.score)]  # fmt: skip
    if item.ref not in resident.pending.renew(project, name, [item.ref]):
        log.warning("task %d: its lease ran out, another worker has it", item.task.id)
        return False
    resident.ledger.remember_version(project, order.version)
    stored = resident.label_studio.create_prediction(item.task.id, result, score=found.score, version=order.version)
    if stored.version != order.version or len(stored.result) != len(result):
        problem = f"stored {len(stored.result)} of {len(result)} regions at version {stored.version!r}"
        _fail(resident, project, item.ref, LabelStudioError(f"task {item.task.id}", problem, "See Label Studio's log."))
        return False
    resident.pending.done(project, name, item.ref)
    _replace_older(resident, order, item.task)
    _show(resident, order)
    return True


def _replace_older(resident: Resident, order: Order, task: Task) -> None:
    """Delete our older predictions of a task nobody annotated: annotations keep the prediction they came from."""
    older = (task.versions - {order.version}) & resident.ledger.known_versions(order.project.id)
    if older and not task.annotations:
        for prediction in resident.label_studio.predictions(task.id):
            if prediction.version in older:
                resident.label_studio.delete_prediction(prediction.id)


def _show(resident: Resident, order: Order) -> None:
    """Show annotators the version just stored, unless they chose a version that is not ours. Once per version."""
    project, shown = order.project.id, order.project.model_version
    if shown == order.version or resident.ledger.shown(project) == order.version:
        return
    ours = resident.ledger.known_versions(project) | resident.label_studio.model_titles(project) | {""}
    if shown in ours:
        resident.label_studio.show_version(project, order.version)
    resident.ledger.show(project, order.version)


def _fail(resident: Resident, project: int, ref: TaskRef, error: ZeromaskError) -> None:
    log.error("task %d: %s", ref.task, error)
    resident.pending.fail(project, resident.name, ref, str(error))
