"""The outbox on disk: one JSON line per request; a damaged line costs nothing but itself.

A power cut, a full disk or a person may leave anything there, and the backend must start all the same.
"""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from backend.task_queue import PredictionRequest
from plugin_config.errors import JobError
from plugin_config.files import open_private, written_whole
from plugin_config.queue.jobs import MOST_ID, TaskRef

# Ten million ids are some 100 MB; what is requested beyond that while Redis is away is refused.
MAX_TASKS = 10_000_000
_TASKS_PER_LINE = 100_000
_MAX_LINE = 16 << 20  # bytes; ours are shorter than 3 MB
_MAX_ODD, _MAX_ODD_LINE = 1 << 20, 64 << 10

logger = logging.getLogger(__name__)


class OutboxFile:
    """Holds a path that one process writes to. No method raises OSError: what cannot be kept is logged.

    Args:
        path: the file. Lines that cannot be read are moved to a file beside it that ends in ".odd", 1 MB at most.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._odd = path.with_name(f"{path.name}.odd")

    def read(self) -> list[PredictionRequest]:
        """Read the requests, oldest first; lines that cannot be read are moved out of the file."""
        if not self._is_readable():
            return []
        requests: list[PredictionRequest] = []
        task_count, odd_lines = 0, list[int]()
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(_lines(file), start=1):
                    request = _parse(line)
                    if request is None or task_count + len(request.tasks) > MAX_TASKS:
                        odd_lines.append(number)
                        self._set_aside(line)
                    else:
                        task_count += len(request.tasks)
                        requests.append(request)
        except OSError as error:
            logger.warning("file %s: reading stopped early (%s)", self._path, error)
        if odd_lines:
            logger.warning("file %s: %d line(s), the first of them line %d, cannot be read and are kept in %s",
                           self._path, len(odd_lines), odd_lines[0], self._odd.name)  # fmt: skip
            self._rewrite(requests)
        return requests

    def append(self, request: PredictionRequest) -> None:
        """Write one more request to the end."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                file.write(_missing_line_end(file) + _lines_of(request))
        except OSError as error:  # a full disk: what is in memory still counts
            logger.warning("file %s cannot be written (%s): a restart now would lose %d task(s)", self._path, error,
                           len(request.tasks))  # fmt: skip

    def reject(self, request: PredictionRequest) -> None:
        """Keep a request that cannot be sent beside the file."""
        self._set_aside(_lines_of(request))

    def delete(self) -> None:
        """Delete the file: everything in it is sent."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("file %s cannot be removed (%s): a restart would send all of it again", self._path, error)

    def _is_readable(self) -> bool:
        """Whether there is a file to read; anything else in its place is moved out of the way."""
        try:
            mode = self._path.stat().st_mode
            if stat.S_ISREG(mode):
                with self._path.open("rb"):
                    return True
            problem = "is no file"
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = f"cannot be read ({error})"
        aside = next(name for name in self._names_aside() if not name.is_symlink() and not name.exists())
        try:
            self._path.rename(aside)
            logger.warning("file %s %s: moved to %s; nothing of it is sent", self._path, problem, aside.name)
        except OSError as error:
            logger.warning("file %s %s, and cannot be moved (%s): nothing is kept over a restart", self._path, problem,
                           error)  # fmt: skip
        return False

    def _names_aside(self) -> Iterator[Path]:
        number = 1
        while True:
            yield self._path.with_name(f"{self._path.name}.unreadable-{number}")
            number += 1

    def _rewrite(self, requests: list[PredictionRequest]) -> None:
        try:
            with written_whole(self._path) as aside, open_private(aside, "wb") as file:
                file.writelines(map(_lines_of, requests))
        except OSError as error:
            logger.warning("file %s cannot be rewritten (%s)", self._path, error)

    def _set_aside(self, line: bytes) -> None:
        with suppress(OSError):
            size = self._odd.stat().st_size if self._odd.exists() else 0
            if size + _MAX_ODD_LINE <= _MAX_ODD:
                with self._odd.open("ab") as file:
                    file.write(line[:_MAX_ODD_LINE].rstrip(b"\n") + b"\n")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long its first part only, so that no line costs more memory than that."""
    while line := file.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE)
        yield line


def _missing_line_end(file: BinaryIO) -> bytes:
    """The line end that a full disk or a kill cut off the last line, or nothing; without it the next line is lost."""
    if file.seek(0, io.SEEK_END) == 0:
        return b""
    file.seek(-1, io.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _parse(line: bytes) -> PredictionRequest | None:
    try:
        row = json.loads(line)
        request = PredictionRequest(row["project"], row["version"], tuple(row["tasks"]))
        TaskRef(request.version, 1)
    except (ValueError, KeyError, TypeError, RecursionError, JobError):  # cut off by a kill, or not ours at all
        return None
    return request if _is_id(request.project) and all(map(_is_id, request.tasks)) else None


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_ID


def _lines_of(request: PredictionRequest) -> bytes:
    tasks = request.tasks
    parts = [tasks[start : start + _TASKS_PER_LINE] for start in range(0, len(tasks), _TASKS_PER_LINE)]
    rows = [json.dumps({"project": request.project, "version": request.version, "tasks": part}) for part in parts]
    return "".join(f"{row}\n" for row in rows).encode()
