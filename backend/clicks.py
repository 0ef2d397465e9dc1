"""Clicks in the backend: each is handed to a worker and waited for, a bounded number of them for a bounded time."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from dataclasses import replace
from typing import Literal

from backend.payloads import PredictPayload
from plugin_config.errors import JobError, QueueFull, QueueUnavailable
from plugin_config.queue.clicks import ClickAnswer, ClickQueue, ClickRequest
from plugin_config.queue.connection import open_redis
from plugin_config.settings import Settings

MOST_WAITING, MOST_LARGE_WAITING = 24, 6
"""Requests that wait for a worker at a time, and those of large bodies: a task with many drawn regions. There are as
many threads beside the usual ones.
"""

_CONNECT_S = 0.2
_LONGER_S = 2.0  # than the wait for a click, until Redis counts as gone
_NOTED_EVERY_S = 5.0  # the same reason of the same project
_MOST_REMEMBERED = 1000
_TOO_MANY = "too many clicks wait for an answer already. Click again in a moment."
_NO_WORKER = "no worker that answers clicks is running. Start `zeromask worker`, with ZEROMASK_INTERACTIVE on."
_REDIS_AWAY = "Redis does not answer."

logger = logging.getLogger(__name__)


class ClickDesk:
    """Holds connections to Redis until it is closed. Safe to share between threads.

    Args:
        settings: `redis_url` and `click_wait_s`.

    Raises:
        SettingsError: `redis_url` is not the address of a Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._patience_s = settings.click_wait_s
        self._redis = open_redis(
            settings.redis_url, connect_s=_CONNECT_S, answer_s=self._patience_s + _LONGER_S, one_retry=True,
            ca_bundle=settings.ca_bundle,
        )  # fmt: skip
        self._queue = ClickQueue(self._redis)
        self._slots = {False: threading.BoundedSemaphore(MOST_WAITING),
                       True: threading.BoundedSemaphore(MOST_LARGE_WAITING)}  # fmt: skip
        self._noted: dict[tuple[int, str], float] = {}

    def close(self) -> None:
        """Disconnect from Redis."""
        self._redis.connection_pool.disconnect(inuse_connections=False)

    def ask(
        self, payload: PredictPayload, *, kind: Literal["mask", "prediction"], version: str, redis_up: bool,
        large: bool = False, noted: bool = True,
    ) -> ClickAnswer:  # fmt: skip
        """Ask the workers about the first task of a request, and wait.

        Args:
            payload: of /predict, with at least one task.
            kind: as of `ClickRequest`.
            version: that predictions of the project carry.
            redis_up: whether Redis answered just now.
            large: whether the request had a large body.
            noted: whether a reason is logged, and noted for `zeromask status`.

        Returns:
            The answer; one without regions gives the reason.
        """
        started = time.monotonic()
        is_click = kind == "mask"
        request = ClickRequest(
            id=uuid.uuid4().hex, kind=kind, project=payload.project, task=payload.tasks[0], version=version,
            config=hashlib.blake2b(payload.label_config.encode(errors="replace"), digest_size=8).hexdigest(),
            prompts=payload.prompts if is_click else (), drawn=payload.first.drawn(version) if is_click else (),
        )  # fmt: skip
        answer = self._asked(request, self._slots[large]) if redis_up else ClickAnswer(reason=_REDIS_AWAY)
        answer = replace(answer, version=answer.version or version)
        if answer.reason and noted:
            self._note(request, answer.reason)
        elif not answer.reason:
            logger.info("project %d: %s of task %d, %d region(s), %.0f ms", request.project, kind, request.task,
                        len(answer.result), 1000 * (time.monotonic() - started))  # fmt: skip
        return answer

    def _asked(self, request: ClickRequest, slots: threading.BoundedSemaphore) -> ClickAnswer:
        if not slots.acquire(blocking=False):
            return ClickAnswer(reason=_TOO_MANY)
        try:
            if not self._queue.ask(request, patience_s=self._patience_s):
                return ClickAnswer(reason=_NO_WORKER)
            late = f"no worker answered within {self._patience_s:g} s. See `zeromask status` and the workers' logs."
            return self._queue.wait(request.id, timeout_s=self._patience_s) or ClickAnswer(reason=late)
        except (JobError, QueueFull) as error:
            return ClickAnswer(reason=str(error))
        except QueueUnavailable as error:
            logger.warning("project %d: a click got no answer. %s", request.project, error)
            return ClickAnswer(reason=_REDIS_AWAY)
        finally:
            slots.release()

    def _note(self, request: ClickRequest, reason: str) -> None:
        """Log and note a reason; one that comes again and again only once in a while."""
        now, key = time.monotonic(), (request.project, reason)
        if now - self._noted.get(key, -_NOTED_EVERY_S) < _NOTED_EVERY_S:
            return
        if len(self._noted) >= _MOST_REMEMBERED:  # anyone can name projects without end
            self._noted.clear()
        self._noted[key] = now
        what = "a click was" if request.kind == "mask" else "a test request was"
        logger.warning("project %d, task %d: %s answered without a mask: %s", request.project, request.task, what,
                       reason)  # fmt: skip
        if reason == _REDIS_AWAY:
            return
        try:
            self._queue.note_unanswered(request.project, request.task, reason)
        except QueueUnavailable as error:
            logger.warning("project %d: %s", request.project, error)
