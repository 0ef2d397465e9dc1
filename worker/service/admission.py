"""Pending tasks -> predictions stored in Label Studio, each exactly once, each failure with its reason.

What to do is read from Label Studio by id when the work begins: a job carries numbers only. What goes wrong with one
task is settled with that task; the others go on. It must not know about models or region formats.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

from plugin_config.errors import (
    ImageHostTrouble,
    ImageUnavailable,
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    QueueDamaged,
    QueueUnavailable,
    RegionError,
    VersionsUnavailable,
)
from plugin_config.model_version import ModelVersion, engine_name
from plugin_config.queue.jobs import DrainProject, TaskRef
from plugin_config.queue.pending import MAX_ATTEMPTS, Lease, Priority
from plugin_config.queue.slots import URGENT_SLOT
from worker.label_studio.fetching import address_in
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.results import encode_segments
from worker.service.batches import BatchSize, embed_batch, free_memory, is_out_of_memory
from worker.service.context import Resident
from worker.service.pipeline import Pipeline
from worker.service.plan import make_remarks, read_order
from worker.service.posting import Posting, finish
from worker.service.work import Drawn, Embedded, Fetched, Leased

log = logging.getLogger(__name__)

_ROOM_S = 0.25  # the jobs of others are behind this one, and what is opened is
# For an empty line nobody waits long, with what is opened behind him: bulk is kept away until the next try instead.
_EMPTY_S, _KEPT_S, _ALONE_S = 2.0, 15.0, 60.0
_AWAY_S, _REFUSED_S = 2.0, 5.0
_TROUBLE_DELAY_S = 5.0
# A picture's server that is down for longer than three tries take (20 s) is an answer too.
_IMAGE_TRIES = 3


def drain(resident: Resident, pipeline: Pipeline, job: DrainProject) -> None:
    """Lease the tasks that are due as soon as there is room, put them on the line, and queue the next drain behind the
    other projects.
    """
    limit = min(job.limit, resident.settings.drain_tasks)  # anyone who reaches Redis may have queued the job
    resident.pending.hold_slot(job.project, job.slot)
    try:
        if pipeline.room(job.project, limit, urgent=job.slot == URGENT_SLOT, timeout_s=_ROOM_S):
            Admission(resident, pipeline, job.project).run(limit)
    except QueueDamaged as error:  # the slot runs out by itself, and a sweep asks again: at once would be for ever
        log.error("%s", error)
        return
    except QueueUnavailable:
        resident.pending.next_drain(job.project, job.slot)
        raise
    resident.pending.next_drain(job.project, job.slot)


class Admission:
    """Takes tasks of one project and puts those that need drawing on the line; settles the others."""

    def __init__(self, resident: Resident, pipeline: Pipeline, project: int) -> None:
        self._resident = resident
        self._pipeline = pipeline
        self._leases = resident.leases
        self._project = project

    def run(self, limit: int) -> None:
        """Lease, read, admit. What cannot begin now is given back, whatever the reason."""
        left = {lease.ref: lease for lease in self._leases.take(self._project, limit=limit)}
        try:
            if left:
                self._begin(left)
        except LabelingConfigError as error:
            while left:
                self._leases.fail(self._project, left.popitem()[0], str(error))
        except LabelStudioError as error:
            self._trouble(left, error)
        except VersionsUnavailable as error:
            self._resident.trouble = str(error)
            log.error("project %d: %s (%d tasks wait)", self._project, error, len(left))
            self._resident.stopping.wait(_AWAY_S)
        finally:  # Redis went away, or RQ's time for a job was over: a task held and forgotten would wait for ever
            while left:
                self._leases.give_back(self._project, left.popitem()[0])

    def _begin(self, left: dict[TaskRef, Lease]) -> None:
        resident, project = self._resident, self._project
        order = read_order(resident, project)
        if resident.ledger.served(project) != order.version:
            resident.hints.request_refresh(project)
        make_remarks(resident, order)
        self._move_to(order.version, left)
        tasks = {task.id: task for task in resident.label_studio.tasks(project, [ref.task for ref in left])}
        work = []
        for ref, lease in list(left.items()):
            task = tasks.get(ref.task)
            if task is None:
                log.info("task %d: is gone from project %d", ref.task, project)
                del left[ref]
                self._leases.drop(project, ref)
            elif order.version in task.versions:  # stored before, only the answer was lost
                del left[ref]
                finish(resident, Leased(order, lease, task))
            else:
                work.append(Leased(order, lease, task))
        if any(lease.alone for lease in left.values()):
            self._admit_alone(work, left)
        else:
            left.clear()
            self._pipeline.admit(work)

    def _admit_alone(self, work: Sequence[Leased], left: dict[TaskRef, Lease]) -> None:
        """Workers died when these tasks were there: if one dies again, it must be of them."""
        if self._pipeline.wait_empty(_EMPTY_S):
            left.clear()
            self._pipeline.keep_for(self._project, 0)
            self._pipeline.admit(work)
            self._pipeline.wait_empty(_ALONE_S)
        else:
            self._pipeline.keep_for(self._project, _KEPT_S)
        while left:
            self._leases.give_back(self._project, left.popitem()[0], delay_s=_TROUBLE_DELAY_S)

    def _move_to(self, version: str, left: dict[TaskRef, Lease]) -> None:
        """Ask anew, at the version served now, for what was asked at another: the labels changed since, or MODEL."""
        told, mine = self._resident.explained, engine_name(self._resident.settings)
        for ref, lease in [(ref, lease) for ref, lease in left.items() if ref.version != version]:
            asked = ModelVersion.parse(ref.version)
            if (asked is None or asked.model != mine) and (self._project, ref.version) not in told:
                told.add((self._project, ref.version))
                log.warning("version %s was asked for, this worker serves %s and predicts at that; when both halves "
                            "were not just restarted, set MODEL alike", ref.version, version)  # fmt: skip
            priority = Priority.OPENED if lease.urgent else Priority.ASKED
            self._resident.pending.add(self._project, [TaskRef(version, ref.task)], priority=priority)
            del left[ref]
            self._leases.drop(self._project, ref)

    def _trouble(self, left: dict[TaskRef, Lease], error: LabelStudioError) -> None:
        resident, project = self._resident, self._project
        if error.status == 404:
            log.warning("project %d is gone; what was pending for it is forgotten", project)
            resident.pending.forget(project)
            while left:
                self._leases.drop(project, left.popitem()[0])
            return
        resident.trouble = str(error)
        log.error("project %d: %s (%d tasks wait)", project, error, len(left))
        about_project = isinstance(error, LabelStudioFailing) and error.status == 500
        while left:
            self._leases.give_back(project, left.popitem()[0], delay_s=_TROUBLE_DELAY_S if about_project else 0.0)
        if not about_project:  # the same awaits the others: they keep their places meanwhile
            passing = isinstance(error, (LabelStudioUnreachable, LabelStudioFailing))
            resident.stopping.wait(_AWAY_S if passing else _REFUSED_S)


class Prediction:
    """The stages of a task on the line, for one worker. See `worker.service.pipeline.Stages`."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._leases = resident.leases
        self._images = ImageLoader(resident.limits)
        self._posting = Posting(resident)

    def fetch(self, leased: Leased) -> Fetched | None:
        """Read the labels and the picture, or settle the task: failed, or to be tried again.

        Labels are read here, by one of many threads, so that thousands of new ones hold up nobody else's pictures.
        """
        started = time.perf_counter()
        project, ref, resident = leased.project, leased.ref, self._resident
        try:
            url = address_in(leased.task, leased.order.vocabulary.image_key)
            classes = resident.segmenter.read_words(leased.order.vocabulary)
            picture = self._images.load(
                url, task=ref.task, project=project, label_studio=resident.label_studio, urgent=leased.lease.urgent
            )
        except ImageHostTrouble as error:
            self._leases.retry(project, ref, str(error), most=_IMAGE_TRIES)
        except ImageUnavailable as error:
            self._leases.fail(project, ref, str(error))
        except (LabelStudioUnreachable, LabelStudioFailing) as error:
            if error.status == 500:
                self._leases.retry(project, ref, str(error), most=MAX_ATTEMPTS)
            else:
                resident.trouble = str(error)
                self._leases.give_back(project, ref, delay_s=_TROUBLE_DELAY_S)
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory, where labels are read, is a RuntimeError
            if not is_out_of_memory(error):
                raise
            free_memory()
            reason = "its image, or a text of its labels, does not fit the memory"
            self._leases.retry(project, ref, reason, most=_IMAGE_TRIES)
        except LabelStudioError as error:  # the token, refused
            resident.trouble = str(error)
            self._leases.give_back(project, ref, delay_s=_TROUBLE_DELAY_S)
        else:
            return Fetched(leased, picture, classes, {"fetch": _ms_since(started)})
        return None

    def embed(self, batch: Sequence[Fetched], size: BatchSize) -> list[Embedded]:
        """Show the pictures to the model; those it cannot take are settled alone."""
        started = time.perf_counter()
        embed = partial(self._resident.embeddings.embed, part=batch[0].leased.order.encoder_part)
        found = embed_batch([item.picture.pixels for item in batch], embed, size)
        spent = _ms_since(started) / len(batch)
        done = []
        for item, outcome in zip(batch, found, strict=True):
            project, ref = item.leased.project, item.leased.ref
            if not isinstance(outcome, Exception):
                done.append(Embedded(item.leased, item.picture, outcome, item.classes, {**item.ms, "embed": spent}))
            elif is_out_of_memory(outcome):  # others may have taken it just now
                self._leases.retry(project, ref, f"its image does not fit the memory ({outcome})", most=_IMAGE_TRIES)
            else:
                self._leases.fail(project, ref, f"its image cannot be embedded ({outcome})")
        return done

    def draw(self, embedded: Embedded) -> Drawn | None:
        """Segment the picture by its project's labels and make regions of that."""
        started, leased = time.perf_counter(), embedded.leased
        try:
            order = leased.order
            found = self._resident.segmenter.segment(
                embedded.embedding, order.vocabulary, embedded.picture.pixels, head=order.adapter,
                classes=embedded.classes,
            )  # fmt: skip
            result = encode_segments(found.segments, size=embedded.picture.size)
        except LearningError as error:  # it was loaded, and turns out to be of no use: zero-shot with the next drain
            log.error("project %d: %s", leased.project, error)
            self._resident.adapters.refuse(leased.order.project, leased.order.adapter_name, error)
            self._leases.give_back(leased.project, leased.ref)
            return None
        except RegionError as error:
            self._leases.fail(leased.project, leased.ref, str(error))
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            reason = f"its masks do not fit the memory ({error})"
            self._leases.retry(leased.project, leased.ref, reason, most=_IMAGE_TRIES)
            return None
        return Drawn(leased, result, found.score, {**embedded.ms, "segment": _ms_since(started)})

    def post(self, drawn: Drawn) -> None:
        """Store the regions, through whatever happens."""
        self._posting.post(drawn)

    def give_back(self, leased: Leased, *, posting: bool) -> None:
        """Another worker does it; when the prediction may be on its way, it is looked after."""
        try:
            if posting:
                self._resident.ledger.doubt(leased.project, leased.ref)
        except QueueUnavailable as error:
            log.warning("task %d: %s", leased.ref.task, error)
        self._leases.give_back(leased.project, leased.ref)

    def unexpected(self, leased: Leased, error: Exception) -> None:
        """A fault of ours ends this task only."""
        reason = f"unexpected {type(error).__name__}: {error}; the worker's log tells where"
        self._leases.fail(leased.project, leased.ref, reason)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
