"""Answers clicks: in a thread beside the batches, or in a process that does nothing else."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from plugin_config.errors import JobError, LearningError, QueueUnavailable, ZeromaskError
from plugin_config.queue.clicks import ClickAnswer, ClickQueue, ClickRequest
from plugin_config.queue.presence import WorkerPresence
from plugin_config.vocabulary import Vocabulary
from worker.label_studio.prompts import DrawnMasks, LabelPrompt, drawing_label, read_prompt
from worker.label_studio.results import encode_answers, encode_segments
from worker.segmentation.clicks.prompts import pixel_of, pixels_in
from worker.segmentation.clicks.segmentation import segment_prompt
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.segmenter import LabelSegment
from worker.service.batching import free_memory
from worker.service.click_scenes import ClickScenes, Scene
from worker.service.context import WorkerContext
from worker.service.faint import without_faint
from worker.service.heartbeat import Heartbeat, PeriodicDuty
from worker.service.plan import Plan

log = logging.getLogger(__name__)

_TAKE_S = 0.5  # how soon the thread notices that the worker stops
_AWAY_S = 0.5
_BEAT_S = 3.0
_READ_S = 1.5  # for regions that are there already; the rest of very many is not left alone
_UNSAVED_S, _MOST_UNSAVED = 10.0, 20  # the editor saves drafts some seconds after a change
_MOST_IMAGES = 4  # of a task in the answer to a test request
_COVERS_BOX = 0.5  # a region that covers more of a box is what the box means

Mask = NDArray[np.bool_]


class ClickWork:
    """Answers the clicks of one worker. For one thread.

    Args:
        context: of the process.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._scenes = ClickScenes(context)
        self._drawn = DrawnMasks()
        self._answered: TTLCache[tuple[int, int, str, int | None], Sequence[Any]] = TTLCache(_MOST_UNSAVED, _UNSAVED_S)

    def answer(self, request: ClickRequest) -> ClickAnswer:
        """Answer a click; whatever goes wrong is the reason of an empty answer."""
        started = time.perf_counter()
        try:
            found = self._mask(request) if request.kind == "mask" else self._prediction(request)
        except ZeromaskError as error:
            found = ClickAnswer(reason=str(error))
        except Exception as error:  # the last resort: an annotator waits, and the thread must go on
            if is_out_of_memory(error):
                free_memory()
                found = ClickAnswer(reason=f"task {request.task}: its image does not fit the memory")
            else:
                log.exception("task %d: unexpected", request.task)
                found = ClickAnswer(reason=f"unexpected {type(error).__name__}; the worker's log tells where")
        finally:
            self._context.click = ""
        log.info("task %d: %s, %d regions, %.0f ms%s", request.task, request.kind, len(found.result),
                 (time.perf_counter() - started) * 1000, f": {found.reason}" if found.reason else "")  # fmt: skip
        return found

    def _mask(self, request: ClickRequest) -> ClickAnswer:
        """Draw the one thing that is clicked on."""
        scene = self._scenes.scene(request)
        vocabulary, shape = scene.vocabulary, scene.clicks.size
        on_page = [row for row in request.prompts if (row.get("item_index") or 0) == (vocabulary.item_index or 0)]
        meant = read_prompt(on_page, vocabulary, shape)
        meant.prompt.check(shape)
        others = [region for region in (*request.drawn, *request.prompts)
                  if str(region.get("id")) not in meant.ids and self._is_on(region, vocabulary)]  # fmt: skip
        image = (request.project, request.task, vocabulary.to_name, vocabulary.item_index)
        taken, corrected, current = self._taken(others, self._answered.get(image, ()), meant, scene)
        found = segment_prompt(
            scene.clicks, meant.prompt, class_index=vocabulary.words.index(meant.label.texts), taken=taken,
            current=current,
        )  # fmt: skip
        if not found.mask.any():
            return ClickAnswer(version=scene.version, reason=f"nothing of label {meant.label.key[:60]!r} is there")
        encoded = encode_segments([LabelSegment(meant.label, found.mask, found.score)], size=scene.size)
        result = encoded.regions
        if not result:
            what = f"without {encoded.left_out}" if encoded.left_out else f"too small for a {meant.label.output}"
            return ClickAnswer(version=scene.version, reason=f"what is there cannot be drawn: {what}")
        if corrected is not None:  # the editor puts it in the place of the region of this id
            first = result[0]["id"]
            result = [{**row, "id": str(corrected["id"])} if row["id"] == first else row for row in result]
        # The region that was corrected stays, below its correction: the next click may be meant for what was cut off.
        self._answered[image] = result if corrected is None else [*result, corrected]
        return ClickAnswer(_on_item(result, vocabulary), found.score, scene.version)

    def _taken(
        self, regions: Sequence[Any], answered: Sequence[Any], meant: LabelPrompt, scene: Scene
    ) -> tuple[Mask | None, Any | None, Mask | None]:
        """What is drawn already: the pixels that are left alone; and, where the first click is outside of the thing,
        the region of this label that it corrects, and its mask.

        A region that is clicked on is no obstacle: the annotator sees it, and means something in it. What was answered
        a moment ago can be corrected before a draft has it, and is else no obstacle either: it may not be accepted.
        """
        prompt, shape = meant.prompt, scene.clicks.size
        taken = np.zeros(shape, dtype=np.bool_)
        found: tuple[Any | None, Mask | None] = (None, None)
        rows = (*answered, *regions)
        keys = {str(region.get("id")): _key(region) for region in rows if _key(region)}  # of pairs, the Labels' item
        until = time.monotonic() + _READ_S
        for place, region in enumerate(rows):
            if time.monotonic() > until:
                log.warning("a click among %d regions: some of them are not left alone", len(regions))
                break
            mask = self._drawn.mask(region, size=scene.size, shape=shape)
            if mask is None:
                continue
            key = _key(region) or keys.get(str(region.get("id")), "")
            wrong = meant.corrects and found[0] is None and _holds(mask, prompt.negative)
            if wrong and self._is_of(region, key, meant, scene):
                found = region, mask
            elif place < len(answered) or (found[0] is not None and region.get("id") == found[0].get("id")):
                continue
            elif not _holds(mask, prompt.positive) and not any(_covers(mask, box) for box in prompt.boxes):
                taken |= mask
        if found[1] is not None:
            taken &= ~found[1]
        return (taken if taken.any() else None), *found

    def _is_of(self, region: Any, key: str, meant: LabelPrompt, scene: Scene) -> bool:
        """Whether a region is of the label that is meant, and its control can draw it again."""
        try:
            label = drawing_label(scene.vocabulary, key, str(region.get("from_name")))
        except ZeromaskError:
            return False
        return label == meant.label and region.get("from_name") in (label.control, label.shape)

    def _is_on(self, region: Any, vocabulary: Vocabulary) -> bool:
        """Whether a region is on the image of a vocabulary."""
        index = vocabulary.item_index or 0
        return region.get("to_name") == vocabulary.to_name and (region.get("item_index") or 0) == index

    def _prediction(self, request: ClickRequest) -> ClickAnswer:
        """All masks of a task: those that are stored, else made now, without storing them."""
        context = self._context
        plan = self._scenes.plan(request)
        images = self._scenes.images(request, plan)  # first: a task of another project is none of this one's business
        stored = [row for row in context.label_studio.predictions(request.task) if row.version == request.version]
        if stored:
            reason = "" if stored[-1].result else self._nothing_found(plan)
            return ClickAnswer(tuple(stored[-1].result), stored[-1].score or 0.0, request.version, reason)
        if len(images) > _MOST_IMAGES:  # a part of them would pass for all
            remedy = "press Retrieve Predictions, or open the task, and the worker stores them"
            return ClickAnswer(reason=f"no masks of its {len(images)} images are stored, and a test request draws "
                                      f"those of {_MOST_IMAGES} at most: {remedy}")  # fmt: skip
        drawn: list[Any] = []
        scores: list[float] = []
        for image in images:
            loaded = self._scenes.load(request, image)
            context.click = f"task {request.task}: its masks are drawn"
            size = loaded.picture.size
            try:
                with context.turns.heads if plan.adapter else nullcontext():
                    found = context.segmenter.segment(
                        loaded.embedding, image.vocabulary, loaded.picture.pixels, head=plan.adapter,
                        classes=loaded.classes, size=size,
                    )  # fmt: skip
            except LearningError as error:
                self._scenes.refuse(plan, error)
                raise
            found = without_faint(found, plan.calibration, context.settings)
            result = [*encode_segments(found.segments, size=size).regions, *encode_answers(found.answers)]
            drawn += _on_item(result, image.vocabulary)
            scores.append(found.score)
        reason = "" if drawn else self._nothing_found(plan)
        return ClickAnswer(drawn, min(scores), plan.version, reason)

    def _nothing_found(self, plan: Plan) -> str:
        """Why a task has no masks: labels that the model cannot read, or there is nothing of them."""
        learned = plan.adapter.taught(plan.vocabulary.words) if plan.adapter else ()
        remarks = self._context.segmenter.remarks(plan.vocabulary, learned)
        return "; ".join(remarks) or "nothing of its labels was found in this task"


class ClickThread(threading.Thread):
    """Takes clicks and answers them, until `stop`.

    Args:
        context: of the process.
    """

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(name="click-0", daemon=True)
        self._context = context
        self._queue = ClickQueue(context.redis)
        self._work = ClickWork(context)
        self._ended = threading.Event()
        self._duty = context.watch.duty("the answers to clicks")

    def run(self) -> None:
        """Answer clicks through restarts of Redis."""
        self._context.watch.expect_alive([self])
        while not self._ended.is_set():
            try:
                if not self._duty.run(self._answer_next):
                    self._ended.wait(self._duty.pause_s())
            except QueueUnavailable as error:  # Redis may be restarting
                log.warning("clicks: %s", error)
                self._ended.wait(_AWAY_S)

    def stop(self) -> None:
        """End the thread after the click it is at."""
        self._context.watch.release([self])
        self._ended.set()
        self.join(timeout=2 * _TAKE_S)

    def _answer_next(self) -> None:
        try:
            request = self._queue.take(timeout_s=_TAKE_S)
        except JobError as error:  # it is gone from the queue
            log.error("%s", error)
            return
        if request is not None:
            with self._context.turns.click():
                self._queue.answer(request.id, self._work.answer(request))


def run_clicker(context: WorkerContext) -> None:
    """Answer clicks and do nothing else; ends on SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: context.stopping.set())
    clickers = WorkerPresence(context.redis, clickers=True)
    duties = [sign_of_clicks(context, clickers, every_s=_BEAT_S)]
    heartbeat = Heartbeat(duties, every_s=_BEAT_S, watch=context.watch, leave=lambda: clickers.remove(context.name))
    thread = ClickThread(context)
    thread.start()
    heartbeat.start()
    log.info("ready: model %s on %s answers clicks, worker %s", context.segmenter.encoder.name,
             context.segmenter.encoder.device, context.name)  # fmt: skip
    context.stopping.wait()
    heartbeat.stop()
    thread.stop()


def sign_of_clicks(context: WorkerContext, clickers: WorkerPresence, *, every_s: float) -> PeriodicDuty:
    """The duty that shows the backend that this process answers clicks."""
    return PeriodicDuty(
        "the sign that clicks are answered", lambda: clickers.heartbeat(context.name, context.about()),
        longest_pause_s=every_s,
    )  # fmt: skip


def _on_item(result: Sequence[Mapping[str, Any]], vocabulary: Vocabulary) -> list[Mapping[str, Any]]:
    """Regions with their image's place in its list, where there is a list."""
    index = vocabulary.item_index
    return list(result) if index is None else [{**region, "item_index": index} for region in result]


def _holds(mask: Mask, points: Sequence[tuple[float, float]]) -> bool:
    shape = (mask.shape[0], mask.shape[1])
    return any(bool(mask[pixel_of(point, shape)]) for point in points)


def _covers(mask: Mask, box: tuple[float, float, float, float]) -> bool:
    return float(mask[pixels_in(box, (mask.shape[0], mask.shape[1]))].mean()) > _COVERS_BOX


def _key(region: Any) -> str:
    value = region.get("value")
    found = value.get(str(region.get("type"))) if isinstance(value, dict) else None
    return str(found[0]) if isinstance(found, list) and found else ""
