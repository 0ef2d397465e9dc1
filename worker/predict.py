"""Pending tasks -> predictions stored in Label Studio, each exactly once, each failure with its reason.

What to do is read from Label Studio by id when the work begins: a job carries numbers only. What goes wrong with one
task is settled with that task; the others go on. It must not know about models or region formats.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import (
    ImageUnavailable,
    LabelingConfigError,
    LabelStudioError,
    LabelStudioUnreachable,
    RegionError,
)
from plugin_config.jobs import DrainProject, TaskRef
from plugin_config.label_studio import Task
from worker.images import fetch_image
from worker.order import Order, explain_unknown_words, read_order, replace_older, show
from worker.resident import Resident
from worker.results import encode_segments
from worker.segmentation.encoder import ImageEmbedding
from worker.segmentation.segmenter import Segmentation

log = logging.getLogger(__name__)

_UNREACHABLE_DELAY_S = 5.0
_REFUSED_DELAY_S = 30.0


@dataclass(frozen=True)
class Fetched:
    """A leased task with its picture, (H, W, 3) uint8 RGB upright."""

    ref: TaskRef
    task: Task
    image: NDArray[np.uint8]


def drain(resident: Resident, job: DrainProject) -> None:
    """Lease the tasks that are due, predict and store them, then queue the next drain behind the other projects."""
    resident.pending.hold_slot(job.project, job.slot)
    try:
        refs = resident.pending.take(job.project, resident.name, limit=job.limit)
        if refs:
            with resident.holding(job.project, refs):
                Batch(resident, job.project, refs).run()
    finally:
        resident.pending.next_drain(job.project, job.slot)


class Batch:
    """Holds the leased tasks of one drain until each is settled: done, failed, dropped or given back."""

    def __init__(self, resident: Resident, project: int, refs: Sequence[TaskRef]) -> None:
        self._resident = resident
        self._project = project
        self._open = list(refs)

    def run(self) -> None:
        """Settle every task of the batch."""
        try:
            order = read_order(self._resident, self._project)
            self._run(order)
        except LabelingConfigError as error:
            self._fail_all(str(error))
        except LabelStudioUnreachable as error:
            self._give_back_all(error, _UNREACHABLE_DELAY_S)
        except LabelStudioError as error:
            if error.status == 404:
                log.warning("project %d is gone; what was pending for it is forgotten", self._project)
                self._resident.pending.forget(self._project)
            else:  # a token that was refused, most likely: nothing is wrong with the tasks
                self._give_back_all(error, _REFUSED_DELAY_S)

    def _run(self, order: Order) -> None:
        resident, project = self._resident, self._project
        if resident.ledger.served(project) != order.version:
            resident.pending.request_refresh(project)
        explain_unknown_words(resident, order)
        self._move_to(order.version)
        tasks = {task.id: task for task in resident.label_studio.tasks(project, [ref.task for ref in self._open])}
        fetched = list(self._fetch(order, tasks))
        start = time.perf_counter()
        embeddings = self._embed(fetched)
        embed_ms = (time.perf_counter() - start) * 1000 / max(1, len(fetched))
        for item in fetched:
            if resident.stopping.is_set():
                return self._give_back_all(None, 0.0)
            if item.ref in embeddings:
                self._finish(order, item, embeddings[item.ref], embed_ms)
        return None

    def _move_to(self, version: str) -> None:
        """Ask anew, at the version served now, for what was asked at another: the labels changed since, or MODEL."""
        told = self._resident.explained
        for ref in [ref for ref in self._open if ref.version != version]:
            if ref.version.rpartition("-")[0] != version.rpartition("-")[0] and ref.version not in told:
                told.add(ref.version)
                log.warning("version %s was asked for, this worker serves %s and predicts at that; when both halves "
                            "were not just restarted, set MODEL alike", ref.version, version)  # fmt: skip
            self._resident.pending.add(self._project, [TaskRef(version, ref.task)])
            self._drop(ref)

    def _fetch(self, order: Order, tasks: dict[int, Task]) -> Iterator[Fetched]:
        for ref in list(self._open):
            task = tasks.get(ref.task)
            if task is None:
                log.info("task %d: is gone from project %d", ref.task, self._project)
                self._drop(ref)
            elif order.version in task.versions:  # stored before, only the answer was lost
                self._done(order, ref, task)
            else:
                try:
                    url = task.data.get(order.vocabulary.image_key)
                    limits = self._resident.limits
                    image = fetch_image(url, task=task.id, label_studio=self._resident.label_studio, limits=limits)
                    yield Fetched(ref, task, image)
                except ImageUnavailable as error:
                    self._fail(ref, str(error))
                except LabelStudioUnreachable as error:
                    if error.status < 500:
                        raise
                    self._retry(ref, error)

    def _embed(self, fetched: Sequence[Fetched]) -> dict[TaskRef, ImageEmbedding]:
        """Embed all images in one go; when that breaks, one by one, so that only the one that breaks it fails."""
        try:
            found = self._resident.embeddings.embed([item.image for item in fetched])
            return {item.ref: embedding for item, embedding in zip(fetched, found, strict=True)}
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory is a RuntimeError
            log.warning("%d images did not fit one forward (%s); one by one", len(fetched), error)
        alone: dict[TaskRef, ImageEmbedding] = {}
        for item in fetched:
            try:
                alone[item.ref] = self._resident.embeddings.embed([item.image])[0]
            except (RuntimeError, MemoryError) as error:
                self._fail(item.ref, f"its image cannot be embedded ({error})")
        return alone

    def _finish(self, order: Order, item: Fetched, embedding: ImageEmbedding, embed_ms: float) -> None:
        start = time.perf_counter()
        try:
            found = self._resident.segmenter.segment(embedding, order.vocabulary, item.image)
            segment_ms = (time.perf_counter() - start) * 1000
            if not self._store(order, item, found):
                return
        except RegionError as error:
            self._fail(item.ref, str(error))
        except LabelStudioUnreachable as error:
            if error.status < 500:
                raise  # no answer at all: the same awaits the others
            self._retry(item.ref, error)
        except LabelStudioError as error:
            if error.status in (401, 403):
                raise
            self._fail(item.ref, str(error))
        except Exception as error:  # the last resort: a fault of ours with one task must not cost the others
            log.exception("task %d: unexpected", item.task.id)
            self._fail(item.ref, f"unexpected {type(error).__name__}: {error}; the worker's log tells where")
        else:
            post_ms = (time.perf_counter() - start) * 1000 - segment_ms
            log.info("task %d: %d regions, version %s, embed %.0f ms, segment %.0f ms, encode and post %.0f ms",
                     item.task.id, len(found.segments), order.version, embed_ms, segment_ms, post_ms)  # fmt: skip

    def _store(self, order: Order, item: Fetched, found: Segmentation) -> bool:
        resident, project = self._resident, self._project
        result = encode_segments(found.segments)
        if item.ref not in resident.pending.renew(project, resident.name, [item.ref]):
            log.warning("task %d: its lease ran out, another worker has it", item.task.id)
            self._settled(item.ref)
            return False
        resident.ledger.remember_version(project, order.version)
        stored = resident.label_studio.create_prediction(item.task.id, result, score=found.score, version=order.version)
        if stored.version != order.version or len(stored.result) != len(result):
            problem = f"stored {len(stored.result)} of {len(result)} regions at version {stored.version!r}"
            raise LabelStudioError(f"task {item.task.id}", problem, "See Label Studio's log.")
        self._done(order, item.ref, item.task)
        return True

    def _done(self, order: Order, ref: TaskRef, task: Task) -> None:
        resident, project = self._resident, self._project
        resident.pending.done(project, resident.name, ref)
        self._settled(ref)
        served = resident.ledger.served(project)
        if served and served != order.version:  # the labels changed while this was drawn
            resident.pending.add(project, [TaskRef(served, ref.task)])
            return
        try:
            replace_older(resident, order, task)
            show(resident, order)
        except LabelStudioError as error:  # the prediction is stored; what is left over is harmless
            log.warning("task %d: %s", task.id, error)

    def _fail(self, ref: TaskRef, reason: str) -> None:
        log.error("task %d: %s", ref.task, reason)
        self._resident.pending.fail(self._project, self._resident.name, ref, reason)
        self._settled(ref)

    def _retry(self, ref: TaskRef, error: LabelStudioError) -> None:
        log.warning("task %d: %s", ref.task, error)
        self._resident.pending.retry(self._project, self._resident.name, ref, str(error))
        self._settled(ref)

    def _drop(self, ref: TaskRef) -> None:
        self._resident.pending.drop(self._project, self._resident.name, ref)
        self._settled(ref)

    def _fail_all(self, reason: str) -> None:
        for ref in list(self._open):
            self._fail(ref, reason)

    def _give_back_all(self, error: LabelStudioError | None, delay_s: float) -> None:
        if error is not None:
            log.error("project %d: %s (%d tasks wait)", self._project, error, len(self._open))
        for ref in list(self._open):
            self._resident.pending.give_back(self._project, self._resident.name, ref, delay_s=delay_s)
            self._settled(ref)

    def _settled(self, ref: TaskRef) -> None:
        self._open.remove(ref)
        self._resident.release(self._project, [ref])
