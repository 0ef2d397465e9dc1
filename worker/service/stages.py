"""The stages of a task in the pipeline, on the real model and the real Label Studio."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from plugin_config.errors import LearningError, QueueUnavailable
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.results import MOST_BYTES, MOST_REGIONS, encode_answers, encode_segments, json_bytes_bound
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.segmenter import Segmentation
from worker.service.batching import BatchSize, embed_batch, free_memory
from worker.service.context import WorkerContext
from worker.service.failures import UNEXPECTED, Action, Stage, Treatment, treat, treatment_of
from worker.service.faint import without_faint
from worker.service.image_records import describe_image
from worker.service.posting import Posting
from worker.service.turns import DrawnTask, EmbeddedTask, FetchedTask, ImageTurn, LeasedTask

log = logging.getLogger(__name__)

MOST_REGIONS_OF_TASK = 500
"""Regions of all images of a task: the editor lists all, and draws those of an image list's image that is shown."""


class PredictionStages:
    """Fetches, embeds, draws and posts for one worker. See `worker.service.pipeline.Stages`.

    A stage that meets an error of `worker.service.failures.TABLE` settles that task; the others go on.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._images = ImageLoader(context.limits, context.image_cache)
        self._posting = Posting(context)

    def fetch(self, turn: ImageTurn) -> FetchedTask | ImageTurn | DrawnTask | None:
        """Read the image and encode the texts of its labels.

        The texts are encoded here, in one of many threads, so that thousands of new labels delay nobody else's images.
        """
        started, leased, context = time.perf_counter(), turn.leased, self._context
        if self._is_lost(leased):
            return None
        try:
            image = turn.image
            url = image.address()
            classes = context.segmenter.read_words(image.vocabulary)
            picture = self._images.load(
                url, task=leased.ref.task, project=leased.project, label_studio=context.label_studio,
                urgent=leased.lease.urgent,
            )  # fmt: skip
        except Exception as error:
            if treatment_of(Stage.FETCH, error) is None:
                raise
            return self._treat(Stage.FETCH, turn, error)
        return FetchedTask(turn.spent("fetch", _ms_since(started)), picture, classes)

    def embed(
        self, batch: Sequence[FetchedTask], size: BatchSize
    ) -> list[EmbeddedTask | ImageTurn | DrawnTask]:
        """Encode a batch of images; those the model cannot take are treated one by one."""
        batch = [item for item in batch if not self._is_lost(item.leased)]
        if not batch:
            return []
        started = time.perf_counter()
        embeddings = embed_batch([item.picture.pixels for item in batch], self._context.embeddings.embed, size)
        spent = _ms_since(started) / len(batch)
        done: list[EmbeddedTask | ImageTurn | DrawnTask] = []
        for item, embedding in zip(batch, embeddings, strict=True):
            if not isinstance(embedding, Exception):
                done.append(EmbeddedTask(item.turn.spent("embed", spent), item.picture, embedding, item.classes))
            elif (after := self._treat(Stage.EMBED, item.turn, embedding)) is not None:
                done.append(after)
        return done

    def draw(self, embedded: EmbeddedTask) -> ImageTurn | DrawnTask | None:
        """Segment the image by its labels and encode the masks as regions."""
        started, turn, leased, plan = time.perf_counter(), embedded.turn, embedded.leased, embedded.leased.plan
        if self._is_lost(leased):
            return None
        try:
            vocabulary = turn.image.vocabulary
            with self._context.turns.heads if plan.adapter else nullcontext():
                found = self._context.segmenter.segment(
                    embedded.embedding, vocabulary, embedded.picture.pixels, head=plan.adapter,
                    classes=embedded.classes, size=embedded.picture.size,
                )  # fmt: skip
            ordered = self._context.settings.order
            image = describe_image(turn.image.key, embedded.embedding, found) if ordered else None
            found = without_faint(found, plan.calibration, self._context.settings)
            result, left_out = self._encode(turn, found, embedded.picture.size)
        except Exception as error:
            if treatment_of(Stage.DRAW, error) is None:
                raise
            if isinstance(error, LearningError):  # the adapter was loaded, and cannot be used
                log.error("project %d: %s", leased.project, error)
                self._context.adapters.refuse(plan.project, plan.adapter_name, error)
                return self._leave_to_others(turn, error)
            return self._treat(Stage.DRAW, turn, error)
        return turn.spent("segment", _ms_since(started)).drawn(
            result, found.score, image, found.raw_nothing, left_out
        )

    def _leave_to_others(self, turn: ImageTurn, error: LearningError) -> ImageTurn | DrawnTask | None:
        """Treat a task whose adapter is refused, and queue its next drain: the one that it came with is over."""
        after, leased = self._treat(Stage.DRAW, turn, error), turn.leased
        try:
            self._context.pending.ensure_drains(leased.project, urgent=leased.lease.urgent)
        except QueueUnavailable as away:  # a sweep queues it
            log.warning("task %d: %s", leased.ref.task, away)
        return after

    def _encode(
        self, turn: ImageTurn, found: Segmentation, size: tuple[int, int]
    ) -> tuple[list[dict[str, Any]], str]:
        """Encode what was found in one image, its regions within its part of what is left of the result's bounds.

        Returns:
            the regions and answers, and what is left out.
        """
        images, index = turn.leased.images.images, turn.image.vocabulary.item_index
        left = len(images) - turn.number
        drawn = {item["id"] for item in turn.result if item["type"] != "choices"}  # a region may be several items
        encoded = encode_segments(
            found.segments,
            size=size,
            most_regions=min(MOST_REGIONS, (MOST_REGIONS_OF_TASK - len(drawn)) // left),
            most_bytes=(MOST_BYTES - json_bytes_bound(turn.result)) // left,
            # Several Image tags are all on the page; of a list, or a Repeater's pages, it shows one image.
            canvas_part=1 / max(1, len(turn.leased.plan.vocabulary.images)),
        )
        result = [*encoded.regions, *encode_answers(found.answers)]
        return result if index is None else [{**item, "item_index": index} for item in result], encoded.left_out

    def post(self, drawn: DrawnTask) -> None:
        """Store the regions as a prediction."""
        self._posting.post(drawn)

    def give_back(self, leased: LeasedTask, *, posting: bool) -> None:
        """Give the task to another worker; with `posting`, its prediction may have been sent."""
        try:
            if posting:
                self._context.ledger.add_unconfirmed(leased.project, leased.ref)
        except QueueUnavailable as error:
            log.warning("task %d: %s", leased.ref.task, error)
        self._context.leases.give_back(leased.project, leased.ref)

    def unexpected(self, leased: LeasedTask, error: Exception) -> None:
        """Fail this one task after a fault of the program."""
        treat(self._context, UNEXPECTED, error, leased.project, leased.ref)

    def _is_lost(self, leased: LeasedTask) -> bool:
        """Whether another worker has the task by now, or nobody wants it: no time goes into it."""
        return not self._context.leases.holds(leased.project, leased.ref)

    def _treat(self, stage: Stage, turn: ImageTurn, error: Exception) -> ImageTurn | DrawnTask | None:
        """Do what the table says.

        A broken image of several is left out, once trying again does not help.

        Returns:
            what comes next; None = the task is settled.
        """
        treatment, leased = treatment_of(stage, error) or UNEXPECTED, turn.leased
        if is_out_of_memory(error):
            free_memory()
        if not leased.has_several_images or not self._is_final(treatment, leased):
            treat(self._context, treatment, error, leased.project, leased.ref)
            return None
        after = turn.without(treatment.reason.format(error=error, kind=type(error).__name__))
        if isinstance(after, DrawnTask) and after.failed:
            self._context.leases.fail(leased.project, leased.ref, "; ".join(after.left_out))
            return None
        return after

    def _is_final(self, treatment: Treatment, leased: LeasedTask) -> bool:
        """Whether a treatment would fail the task."""
        if treatment.action is not Action.RETRY:
            return treatment.action is Action.FAIL
        try:
            return self._context.pending.tries(leased.project, leased.ref) + 1 >= treatment.attempts
        except QueueUnavailable:
            return False


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
