"""The worker's assembly line: fetch, embed, draw and post at the same time, each in threads of its own.

While one batch is in the model, the images of the next are fetched and the masks of the last are posted. Images of any
task and project share a batch when they have the same shape. What is on the line is bounded in tasks and in bytes; what
somebody waits for goes first at every stage. No project keeps another one waiting for long: each has a share of the
line and of the threads that fetch, and its turns at the model by what its tasks cost there. It must not know what the
stages do.
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
from worker.service.batches import BatchSize
from worker.service.inbox import Inbox, SharedInbox
from worker.service.work import Drawn, Embedded, Fetched, Leased

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Fetching is waiting. A project alone has eight of the threads, ten over several hosts; four are for what is opened.
_FETCHERS, _FETCHERS_RESERVED, _POSTERS = 24, 4, 4
_MOST_BYTES = 96_000_000  # before a stage: eight pictures of the size that is segmented
_PROJECTS = 8  # that may have all their tasks on the line at once, while others have none there
_IDLE_S = 0.5
_LOOK_S = 0.25  # how soon a wait notices that the worker stops


class Stages(Protocol):
    """What is done with a task. A stage that returns nothing for it has settled it."""

    def fetch(self, leased: Leased) -> Fetched | None:
        """Read its picture."""

    def embed(self, batch: Sequence[Fetched], size: BatchSize) -> Sequence[Embedded]:
        """Show pictures to the model."""

    def draw(self, embedded: Embedded) -> Drawn | None:
        """Make its regions."""

    def post(self, drawn: Drawn) -> None:
        """Store them."""

    def give_back(self, leased: Leased, *, posting: bool) -> None:
        """The worker stops: another one does it; `posting` when the prediction may be on its way."""

    def unexpected(self, leased: Leased, error: Exception) -> None:
        """A fault of ours: settle it as failed."""


class Pipeline:
    """Holds the threads and what is on its way between them; `close` ends both.

    Args:
        stages: what is done at each stage.
        capacity: most tasks of a project on the line; as many urgent ones may come beside them.
        batch: most images in one forward.
        stopping: set when the worker is to end: what has not been in the model is given back.
        watch: tells people of a thread in trouble.
    """

    def __init__(
        self, stages: Stages, *, capacity: int, batch: int, stopping: threading.Event, watch: DutyWatch | None = None
    ) -> None:
        self._stages = stages
        self._capacity = capacity
        self._stopping = stopping
        self._size = BatchSize(batch)
        self._ended = threading.Event()
        self._on_line: dict[int, Leased] = {}
        self._kept_for, self._kept_until = 0, 0.0
        self._moved = threading.Condition()
        self._at_model: dict[str, float] = {}
        self._to_fetch: SharedInbox[Leased] = SharedInbox(
            _FETCHERS, reserved=_FETCHERS_RESERVED, whose=lambda leased: (leased.project, leased.host)
        )
        self._to_embed: Inbox[Fetched] = Inbox(_MOST_BYTES, whose=lambda item: item.leased.project)
        self._to_draw: Inbox[Embedded] = Inbox(_MOST_BYTES, whose=lambda item: item.leased.project)
        self._to_post: Inbox[Drawn] = Inbox()
        steps = {self._fetch: _FETCHERS, self._embed: 1, self._draw: 1, self._post: _POSTERS}
        self._threads = [
            threading.Thread(target=self._loop, args=(step,), name=f"{step.__name__[1:]}-{number}", daemon=True)
            for step, threads in steps.items()
            for number in range(threads)
        ]
        self._watch = watch or DutyWatch()
        for thread in self._threads:
            thread.start()
        self._watch.expect_alive(self._threads)

    def room(self, project: int, wanted: int, *, urgent: bool, timeout_s: float) -> bool:
        """Wait until `wanted` more tasks of a project may come; False when the time is over, or the worker stops."""
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
        """Let nothing else in than this project's tasks, and what is opened, so that the line becomes empty for one."""
        with self._moved:
            self._kept_for, self._kept_until = project, time.monotonic() + seconds

    def _fits(self, project: int, wanted: int, urgent: bool) -> bool:
        if not urgent and project != self._kept_for and time.monotonic() < self._kept_until:
            return False
        alike = [leased.project for leased in self._on_line.values() if leased.lease.urgent == urgent]
        if alike.count(project) + wanted > max(self._capacity, wanted):
            return False
        return urgent or len(alike) + wanted <= max(_PROJECTS * self._capacity, wanted)

    def admit(self, work: Sequence[Leased]) -> None:
        """Put tasks on the line; from here on they settle by themselves."""
        with self._moved:
            self._on_line.update((id(leased), leased) for leased in work)
        for leased in work:
            self._to_fetch.put(leased, urgent=leased.lease.urgent)

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is on the line; False when the time is over."""
        with self._moved:
            return self._moved.wait_for(lambda: not self._on_line, timeout=timeout_s)

    def stuck_s(self) -> float:
        """How long the model has been at one batch, or the shapes at one picture; seconds."""
        return max((time.monotonic() - since for since in list(self._at_model.values())), default=0.0)

    def close(self, *, grace_s: float) -> None:
        """Finish what has been in the model, give the rest back, end the threads."""
        self._stopping.set()
        self.wait_empty(grace_s)
        self._watch.release(self._threads)
        self._ended.set()
        with self._moved:
            left = list(self._on_line.values())
        for leased in left:
            self._stages.give_back(leased, posting=True)
            self._finished(leased)
        ending = time.monotonic() + 2 * _IDLE_S  # for all of them: many may hang on pictures, and are daemons
        for thread in self._threads:
            thread.join(timeout=max(0.0, ending - time.monotonic()))

    def _loop(self, step: Callable[[], None]) -> None:
        duty = self._watch.duty(f"the line's step {step.__name__[1:]}")
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
        with self._to_fetch.taken(timeout_s=_IDLE_S) as leased:
            if leased is None or self._turned_back(leased):
                return
            fetched = self._step(leased, self._stages.fetch, leased)
            if fetched is not None:
                self._to_embed.put(fetched, urgent=leased.lease.urgent, size=fetched.picture.pixels.nbytes)

    def _embed(self) -> None:
        # Nothing is taken that would have to be held: what is opened meanwhile goes by.
        full = self._to_draw.full()
        batch = self._to_embed.get(
            1 if full else self._size.size, timeout_s=_LOOK_S if full else _IDLE_S, alike=_bucket,
            only_urgent=self._can_be_drawn if full else None,
        )  # fmt: skip
        batch = [item for item in batch if not self._turned_back(item.leased)]
        started = time.monotonic()
        done: Sequence[Embedded] = ()
        try:
            with self._model("embed"):
                done = self._stages.embed(batch, self._size) if batch else ()
        except Exception as error:  # the last resort, as in `_step`
            log.exception("%d tasks: unexpected", len(batch))
            for item in batch:
                self._stages.unexpected(item.leased, error)
        for item in batch:
            self._to_embed.charge(item, (time.monotonic() - started) / len(batch))
        went_on = {id(embedded.leased) for embedded in done}
        for item in batch:
            if id(item.leased) not in went_on:
                self._finished(item.leased)
        for embedded in done:
            urgent, size = embedded.leased.lease.urgent, embedded.picture.pixels.nbytes
            self._to_draw.put(embedded, urgent=urgent, size=size, waits=False)

    def _can_be_drawn(self, item: Fetched) -> bool:
        return self._to_draw.has_room(item.leased.project, size=item.picture.pixels.nbytes, urgent=True)

    def _draw(self) -> None:
        for embedded in self._to_draw.get(timeout_s=_IDLE_S):
            started = time.monotonic()
            with self._model("draw"):
                drawn = self._step(embedded.leased, self._stages.draw, embedded)
            self._to_draw.charge(embedded, time.monotonic() - started)
            if drawn is not None:
                self._to_post.put(drawn, urgent=drawn.leased.lease.urgent)

    def _post(self) -> None:
        for drawn in self._to_post.get(timeout_s=_IDLE_S):
            self._step(drawn.leased, self._stages.post, drawn)

    def _step(self, leased: Leased, stage: Callable[[T], R | None], item: T) -> R | None:
        result = None
        try:
            result = stage(item)
        except Exception as error:  # the last resort: a fault of ours with one task must not cost the others
            log.exception("task %d: unexpected", leased.ref.task)
            self._stages.unexpected(leased, error)
        if result is None:
            self._finished(leased)
        return result

    def _turned_back(self, leased: Leased) -> bool:
        if not self._stopping.is_set():
            return False
        self._stages.give_back(leased, posting=False)
        self._finished(leased)
        return True

    def _finished(self, leased: Leased) -> None:
        with self._moved:
            self._on_line.pop(id(leased), None)
            self._moved.notify_all()

    @contextmanager
    def _model(self, stage: str) -> Iterator[None]:
        self._at_model[stage] = time.monotonic()
        try:
            yield
        finally:
            del self._at_model[stage]


def _bucket(item: Fetched) -> tuple[bool, int, str]:
    """Pictures in one bucket enter the same encoder at the same size, or nearly: the short side is fixed there."""
    height, width = item.picture.pixels.shape[:2]
    return height <= width, round(16 * max(height, width) / min(height, width)), item.leased.order.encoder_part
