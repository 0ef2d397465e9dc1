"""The stages of a task in the pipeline, on the real model and the real Label Studio."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext

from plugin_config.errors import LearningError, QueueUnavailable
from worker.label_studio.image_address import address_in
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.results import encode_segments
from worker.service.batching import BatchSize, embed_batch, free_memory, is_out_of_memory
from worker.service.context import WorkerContext
from worker.service.failures import UNEXPECTED, Stage, treat, treatment_of
from worker.service.pipeline import DrawnTask, EmbeddedTask, FetchedTask, LeasedTask
from worker.service.posting import Posting

log = logging.getLogger(__name__)


class PredictionStages:
    """Fetches, embeds, draws and posts for one worker. See `worker.service.pipeline.Stages`.

    A stage that meets an error of `worker.service.failures.TABLE` settles that task; the others go on.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._images = ImageLoader(context.limits, context.image_cache)
        self._posting = Posting(context)

    def fetch(self, leased: LeasedTask) -> FetchedTask | None:
        """Read the image and encode the labels' texts.

        The texts are encoded here, in one of many threads, so that thousands of new labels delay nobody else's images.
        """
        started, plan, context = time.perf_counter(), leased.plan, self._context
        try:
            url = address_in(leased.task, plan.vocabulary.image_value)
            classes = context.segmenter.read_words(plan.vocabulary)
            picture = self._images.load(
                url, task=leased.ref.task, project=leased.project, label_studio=context.label_studio,
                urgent=leased.lease.urgent,
            )  # fmt: skip
        except Exception as error:  # what is in no row is raised again
            if not self._treat(Stage.FETCH, leased, error):
                raise
            return None
        return FetchedTask(leased, picture, classes, {"fetch": _ms_since(started)})

    def embed(self, batch: Sequence[FetchedTask], size: BatchSize) -> list[EmbeddedTask]:
        """Encode a batch of images; those the model cannot take are settled one by one."""
        started = time.perf_counter()
        embeddings = embed_batch([item.picture.pixels for item in batch], self._context.embeddings.embed, size)
        spent = _ms_since(started) / len(batch)
        done = []
        for item, embedding in zip(batch, embeddings, strict=True):
            if isinstance(embedding, Exception):
                self._treat(Stage.EMBED, item.leased, embedding)
            else:
                ms = {**item.ms, "embed": spent}
                done.append(EmbeddedTask(item.leased, item.picture, embedding, item.classes, ms))
        return done

    def draw(self, embedded: EmbeddedTask) -> DrawnTask | None:
        """Segment the image by its project's labels and encode the masks as regions."""
        started, leased, plan = time.perf_counter(), embedded.leased, embedded.leased.plan
        try:
            with self._context.turns.heads if plan.adapter else nullcontext():
                found = self._context.segmenter.segment(
                    embedded.embedding, plan.vocabulary, embedded.picture.pixels, head=plan.adapter,
                    classes=embedded.classes,
                )  # fmt: skip
            result = encode_segments(found.segments, size=embedded.picture.size)
        except Exception as error:  # what is in no row is raised again
            if isinstance(error, LearningError):  # the adapter was loaded, and cannot be used
                log.error("project %d: %s", leased.project, error)
                self._context.adapters.refuse(plan.project, plan.adapter_name, error)
            if not self._treat(Stage.DRAW, leased, error):
                raise
            return None
        return DrawnTask(leased, result, found.score, {**embedded.ms, "segment": _ms_since(started)})

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

    def _treat(self, stage: Stage, leased: LeasedTask, error: Exception) -> bool:
        """Returns whether the error is in the table, and the task settled."""
        treatment = treatment_of(stage, error)
        if treatment is None:
            return False
        if is_out_of_memory(error):
            free_memory()
        treat(self._context, treatment, error, leased.project, leased.ref)
        return True


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
