"""What an attack does to everybody else, measured while it runs: memory, /health, opened tasks of another project."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

_EVERY_S = 0.2
_HEALTH_EVERY_S = 0.5
HEALTH_PATIENCE_S = 5.0
# A process past this is ended, so that an attack that succeeds costs a row and not the machine.
MOST_GROWN_MB = 2500.0


class DutyWatch:
    """Samples as long as its `with` block lasts.

    Args:
        pids: names of processes -> their process id now; it changes where one is started again.
        health_url: address of the backend.
        open_one: opens a task of a bystander and returns the seconds until its prediction is stored, at most its own
            patience; None when no task is left.
    """

    def __init__(
        self, pids: Callable[[], dict[str, int]], health_url: str, open_one: Callable[[], float | None]
    ) -> None:
        self._pids = pids
        self._health_url = health_url
        self._open_one = open_one
        self._ended = threading.Event()
        self._idle: dict[str, float] = {}
        self.grown_mb: dict[str, float] = {}
        self.health_s = 0.0
        self.opened_s: list[float] = []
        self.stopped: list[str] = []
        self._threads = [threading.Thread(target=look, name=f"watch {look.__name__}", daemon=True)
                         for look in (self._memory, self._health, self._opened)]  # fmt: skip

    def __enter__(self) -> Self:
        self._idle = {name: memory_mb(pid) for name, pid in self._pids().items()}
        self.grown_mb = dict.fromkeys(self._idle, 0.0)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self._ended.set()
        for thread in self._threads:  # an open task is waited for: it was asked for while the attack ran
            thread.join()

    def _memory(self) -> None:
        while not self._ended.wait(_EVERY_S):
            for name, pid in self._pids().items():
                grown = memory_mb(pid) - self._idle[name]
                self.grown_mb[name] = max(self.grown_mb[name], grown)
                if grown > MOST_GROWN_MB:
                    self.stopped.append(name)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _health(self) -> None:
        while not self._ended.is_set():
            self.health_s = max(self.health_s, seconds_of_health(self._health_url))
            self._ended.wait(_HEALTH_EVERY_S)

    def _opened(self) -> None:
        while not self._ended.is_set():
            seconds = self._open_one()
            if seconds is None:
                return
            self.opened_s.append(seconds)
            self._ended.wait(_HEALTH_EVERY_S)


def memory_mb(pid: int) -> float:
    """What a process holds for itself, MB; 0 when it is gone."""
    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 1e6
    except psutil.Error:
        return 0.0


def seconds_of_health(url: str) -> float:
    """Seconds until /health has answered over a connection of its own, as Label Studio asks; its patience when not."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=HEALTH_PATIENCE_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        return time.monotonic() - started if answer.status == 200 else HEALTH_PATIENCE_S
    except (OSError, http.client.HTTPException):
        return HEALTH_PATIENCE_S
    finally:
        connection.close()
