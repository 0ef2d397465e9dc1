"""The worker's pipeline: fetch, embed, draw and post at the same time, each in threads of its own.

While one batch is in the model, the images of the next are fetched and the masks of the last are posted. Images of any
task and project share a batch when they have the same shape; a task with several images is here with one at a time.
The pipeline is bounded in tasks and in bytes; tasks that annotators have opened go first at every stage. No project
delays another for long: each has a share of the pipeline and of the threads that fetch, and its turns at the model
depend on what its tasks cost there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from plugin_config.background import Duty, DutyWatch
from plugin_config.errors import QueueUnavailable
from worker.service.batching import BatchSize
from worker.service.inbox import Inbox, SharedInbox
from worker.service.model_turns import ModelTurns
from worker.service.turns import DrawnTask, EmbeddedTask, FetchedTask, ImageTurn, LeasedTask

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Fetching is waiting. One project gets eight of the threads, ten over several hosts; four are for opened tasks.
_FETCHERS, _FETCHERS_RESERVED, _POSTERS = 24, 4, 4
_MOST_BYTES = 96_000_000  # before a stage: eight images of the size that is segmented
_PROJECTS = 8  # so many may have all their tasks in the pipeline at once, while others have none there
_IDLE_S = 0.5
_LOOK_S = 0.25  # how soon a wait notices that the worker stops


class Stages(Protocol):
    """What is done with a task. A stage that returns None for it has settled it; else what it returns says where the
    task goes next: on to the following stage, to the first one with its next image, or to the last one.
    """

    def fetch(self, turn: ImageTurn) -> FetchedTask | ImageTurn | DrawnTask | None:
        """Read an image."""

    def embed(
        self, batch: Sequence[FetchedTask], size: BatchSize
    ) -> Sequence[EmbeddedTask | ImageTurn | DrawnTask]:
        """Encode images; tasks that are missing in the result are settled."""

    def draw(self, embedded: EmbeddedTask) -> ImageTurn | DrawnTask | None:
        """Segment the image and encode the masks as regions."""

    def post(self, drawn: DrawnTask) -> None:
        """Store the regions."""

    def give_back(self, leased: LeasedTask, *, posting: bool) -> None:
        """Give the task to another worker, because this one stops; `posting` when its prediction may have been sent."""

    def unexpected(self, leased: LeasedTask, error: Exception) -> None:
        """Fail the task after a fault of the program."""


class Pipeline:
    """Holds the threads and the tasks between them; `close` ends both.

    Args:
        stages: what is done at each stage.
        capacity: most tasks of one project at once; as many urgent ones may be there besides.
        batch: most images in one forward pass.
        stopping: set when the worker is to end: tasks that have not been in the model are given back.
        watch: reports threads in trouble.
        turns: lets clicks go before the next batch and the next drawing.
    """

    def __init__(
        self, stages: Stages, *, capacity: int, batch: int, stopping: threading.Event, watch: DutyWatch | None = None,
        turns: ModelTurns | None = None,
    ) -> None:  # fmt: skip
        self._stages = stages
        self._capacity = capacity
        self._stopping = stopping
        self._size = BatchSize(batch)
        self._ended = threading.Event()
        self._tasks: dict[int, LeasedTask] = {}
        self._begun: set[int] = set()  # of these: what has been in the model
        self._kept_for, self._kept_until = 0, 0.0
        self._moved = threading.Condition()
        self._at_model: dict[str, float] = {}
        self._to_fetch: SharedInbox[ImageTurn] = SharedInbox(
            _FETCHERS, reserved=_FETCHERS_RESERVED, whose=lambda turn: (turn.leased.project, turn.host)
        )
        self._to_embed: Inbox[FetchedTask] = Inbox(_MOST_BYTES, whose=lambda item: item.leased.project)
        self._to_draw: Inbox[EmbeddedTask] = Inbox(_MOST_BYTES, whose=lambda item: item.leased.project)
        self._to_post: Inbox[DrawnTask] = Inbox()
        steps = {self._fetch: _FETCHERS, self._embed: 1, self._draw: 1, self._post: _POSTERS}
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"{step.__name__[1:]}-{number}", daemon=True)
            for step, threads in steps.items()
            for number in range(threads)
        ]
        self._watch, self._turns = watch or DutyWatch(), turns or ModelTurns()
        for thread in self._threads:
            thread.start()
        self._watch.expect_alive(self._threads)

    def room(self, project: int, wanted: int, *, urgent: bool, timeout_s: float) -> bool:
        """Wait until `wanted` more tasks of a project may be admitted. False after the time, or if the worker stops."""
        deadline = time.monotonic() + timeout_s
        with self._moved:
            while not self._stopping.is_set():
                left = deadline - time.monotonic()
                if self._moved.wait_for(lambda: self._fits(project, wanted, urgent), timeout=min(left, _LOOK_S)):
                    return True
                if left <= 0:
                    return False
        return False

    def keep_for(self, project: int, seconds: float) -> None:
        """Admit only this project's tasks and opened ones for a while, so that the pipeline becomes empty."""
        with self._moved:
            self._kept_for, self._kept_until = project, time.monotonic() + seconds

    def _fits(self, project: int, wanted: int, urgent: bool) -> bool:
        if not urgent and project != self._kept_for and time.monotonic() < self._kept_until:
            return False
        alike = [leased.project for leased in self._tasks.values() if leased.lease.urgent == urgent]
        if alike.count(project) + wanted > max(self._capacity, wanted):
            return False
        return urgent or len(alike) + wanted <= max(_PROJECTS * self._capacity, wanted)

    def admit(self, work: Sequence[LeasedTask]) -> None:
        """Start tasks; the stages settle them."""
        with self._moved:
            self._tasks.update((id(leased), leased) for leased in work)
        for leased in work:
            if not self._turned_back(leased):
                self._pass_on(ImageTurn(leased))

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until no task is left; False after the time."""
        with self._moved:
            return self._moved.wait_for(lambda: not self._tasks, timeout=timeout_s)

    def stuck_s(self) -> float:
        """How long the model has been at one batch, or the drawing at one image; seconds."""
        return max((time.monotonic() - since for since in list(self._at_model.values())), default=0.0)

    def close(self, *, grace_s: float, hurried: threading.Event | None = None) -> None:
        """Give tasks back that have not been in the model, at once and whatever the threads wait for; finish the
        others, give back what is left of them after `grace_s` seconds, or once `hurried` is set, and end the threads.
        """
        self._stopping.set()
        with self._moved:
            unbegun = [leased for key, leased in self._tasks.items() if key not in self._begun]
        for leased in unbegun:
            self._turned_back(leased)
        ending = time.monotonic() + grace_s
        while (left_s := ending - time.monotonic()) > 0 and not (hurried and hurried.is_set()):
            if self.wait_empty(min(left_s, _LOOK_S)):
                break
        self._watch.release(self._threads)
        self._ended.set()
        with self._moved:
            left = list(self._tasks.values())
        for leased in left:
            self._stages.give_back(leased, posting=True)
            self._finished(leased)
        ending = time.monotonic() + 2 * _IDLE_S  # for all of them: many may wait for images, and are daemons
        for thread in self._threads:
            thread.join(timeout=max(0.0, ending - time.monotonic()))

    def _loop(self, step: Callable[[], None]) -> None:
        duty = self._watch.duty(f"the pipeline's stage {step.__name__[1:]}")
        while not self._ended.is_set():
            if not self._run_step(duty, step):
                self._ended.wait(duty.pause_s())

    def _run_step(self, duty: Duty, step: Callable[[], None]) -> bool:
        try:
            return duty.run(step)
        except QueueUnavailable as error:  # stages settle that themselves: one that does not must cost no thread
            duty.record_fault(error)
            return False

    def _fetch(self) -> None:
        with self._to_fetch.taken(timeout_s=_IDLE_S) as turn:
            if turn is None or self._turned_back(turn.leased):
                return
            fetched = self._step(turn.leased, self._stages.fetch, turn)
            if fetched is not None:
                self._pass_on(fetched)

    def _embed(self) -> None:
        # While the next stage is full, only opened tasks are taken.
        full = self._to_draw.full()
        batch = self._to_embed.get(
            1 if full else self._size.size, timeout_s=_LOOK_S if full else _IDLE_S, alike=_bucket,
            only_urgent=self._can_be_drawn if full else None,
        )  # fmt: skip
        if batch:
            self._turns.let_clicks_go_first()
        batch = [item for item in batch if not self._turned_back(item.leased, begins=True)]
        started = time.monotonic()
        done: Sequence[EmbeddedTask | ImageTurn | DrawnTask] = ()
        try:
            with self._model("embed"):
                done = self._stages.embed(batch, self._size) if batch else ()
        except Exception as error:  # the last resort, as in `_step`
            log.exception("%d tasks: unexpected", len(batch))
            for item in batch:
                self._stages.unexpected(item.leased, error)
        for item in batch:
            self._to_embed.charge(item, (time.monotonic() - started) / len(batch))
        went_on = {id(item.leased) for item in done}
        for item in batch:
            if id(item.leased) not in went_on:
                self._finished(item.leased)
        for following in done:
            self._pass_on(following)

    def _pass_on(self, item: ImageTurn | FetchedTask | EmbeddedTask | DrawnTask) -> None:
        """Put a task before the stage that it goes to next; one that cannot be put there ends here."""
        try:
            self._put(item)
        except Exception as error:  # the last resort, as in `_step`: its lease would be renewed and never worked on
            log.exception("task %d: unexpected", item.leased.ref.task)
            self._stages.unexpected(item.leased, error)
            self._finished(item.leased)

    def _put(self, item: ImageTurn | FetchedTask | EmbeddedTask | DrawnTask) -> None:
        urgent = item.leased.lease.urgent
        if isinstance(item, ImageTurn):
            _ = item.host  # found before the inbox is locked
            self._to_fetch.put(item, urgent=urgent)
        elif isinstance(item, FetchedTask):
            self._to_embed.put(item, urgent=urgent, size=item.picture.pixels.nbytes)
        elif isinstance(item, EmbeddedTask):
            self._to_draw.put(item, urgent=urgent, size=item.picture.pixels.nbytes, waits=False)
        else:
            self._to_post.put(item, urgent=urgent)

    def _can_be_drawn(self, item: FetchedTask) -> bool:
        return self._to_draw.has_room(item.leased.project, size=item.picture.pixels.nbytes, urgent=True)

    def _draw(self) -> None:
        for embedded in self._to_draw.get(timeout_s=_IDLE_S):
            self._turns.let_clicks_go_first()
            started = time.monotonic()
            with self._model("draw"):
                drawn = self._step(embedded.leased, self._stages.draw, embedded)
            self._to_draw.charge(embedded, time.monotonic() - started)
            if drawn is not None:
                self._pass_on(drawn)

    def _post(self) -> None:
        for drawn in self._to_post.get(timeout_s=_IDLE_S):
            self._step(drawn.leased, self._stages.post, drawn)

    def _step(self, leased: LeasedTask, stage: Callable[[T], R], item: T) -> R | None:
        result: R | None = None
        try:
            result = stage(item)
        except Exception as error:  # the last resort: a fault of ours with one task must not cost the others
            log.exception("task %d: unexpected", leased.ref.task)
            self._stages.unexpected(leased, error)
        if result is None:
            self._finished(leased)
        return result

    def _turned_back(self, leased: LeasedTask, *, begins: bool = False) -> bool:
        """Whether a task ends here because the worker stops. If not, and it `begins`, it goes into the model now."""
        with self._moved:
            settled = id(leased) not in self._tasks
            stops = self._stopping.is_set()
            if begins and not settled and not stops:
                self._begun.add(id(leased))
        if stops and not settled:
            self._stages.give_back(leased, posting=False)
            self._finished(leased)
        return settled or stops

    def _finished(self, leased: LeasedTask) -> None:
        with self._moved:
            self._tasks.pop(id(leased), None)
            self._begun.discard(id(leased))
            self._moved.notify_all()

    @contextmanager
    def _model(self, stage: str) -> Iterator[None]:
        self._at_model[stage] = time.monotonic()
        try:
            yield
        finally:
            del self._at_model[stage]


def _bucket(item: FetchedTask) -> tuple[bool, int]:
    """Images in one bucket enter the encoder at nearly the same size: the short side is fixed there."""
    height, width = item.picture.pixels.shape[:2]
    return height <= width, round(16 * max(height, width) / min(height, width))
