"""The file of what was asked for while Redis was away, a JSON line each; a damaged line costs nothing but itself.

A power cut, a full disk or a hand in the wrong place may leave anything there, and the backend must start all the same.
It must not know Redis.
"""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from plugin_config.errors import JobError
from plugin_config.queue.jobs import MOST_ID, TaskRef

# Ten million ids are some 100 MB: whoever asks for more while Redis is away asks again.
MOST_TASKS = 10_000_000
_OF_A_LINE = 100_000
_MOST_LINE = 16 << 20  # bytes; ours are shorter than 3 MB
_MOST_ODD, _MOST_ODD_LINE = 1 << 20, 64 << 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """Tasks wanted of a project at a version."""

    project: int
    version: str
    tasks: tuple[int, ...]


class AskedFile:
    """Holds a path; one process writes there. No method raises: what cannot be kept is told in the log.

    Args:
        path: the file. What cannot be read of it is kept beside it, in a file that ends in ".odd", 1 MB at most.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._odd = path.with_name(f"{path.name}.odd")

    def read(self) -> list[Ask]:
        """What was written, oldest first; the lines that are not ours are set aside and gone from the file."""
        if not self._is_file():
            return []
        asks: list[Ask] = []
        held, odd = 0, list[int]()
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(_lines(file), start=1):
                    ask = _ask(line)
                    if ask is None or held + len(ask.tasks) > MOST_TASKS:
                        odd.append(number)
                        self._set_aside(line)
                    else:
                        held += len(ask.tasks)
                        asks.append(ask)
        except OSError as error:
            logger.warning("file %s cannot be read on (%s)", self._path, error)
        if odd:
            logger.warning("file %s: %d line(s), the first of them line %d, cannot be read and are kept in %s",
                           self._path, len(odd), odd[0], self._odd.name)  # fmt: skip
            self._write_anew(asks)
        return asks

    def add(self, ask: Ask) -> None:
        """Write one more."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                file.write(_end_of_line(file) + _rows(ask).encode())
        except OSError as error:  # a full disk: what is in memory still counts
            logger.warning("file %s cannot be written (%s): a restart now would lose %d task(s)", self._path, error,
                           len(ask.tasks))  # fmt: skip

    def give_up(self, ask: Ask) -> None:
        """Set one aside that cannot be asked for."""
        self._set_aside(_rows(ask).encode())

    def forget(self) -> None:
        """All of it is asked for."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("file %s cannot be removed (%s): a restart would ask for it all again", self._path, error)

    def _is_file(self) -> bool:
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
        aside = next(name for name in self._names() if not name.is_symlink() and not name.exists())
        try:
            self._path.rename(aside)
            logger.warning("file %s %s: moved to %s; what it holds is not asked for", self._path, problem, aside.name)
        except OSError as error:
            logger.warning("file %s %s, and cannot be moved (%s): nothing is kept over a restart", self._path, problem,
                           error)  # fmt: skip
        return False

    def _names(self) -> Iterator[Path]:
        number = 1
        while True:
            yield self._path.with_name(f"{self._path.name}.unreadable-{number}")
            number += 1

    def _write_anew(self, asks: list[Ask]) -> None:
        aside = self._path.with_name(f"{self._path.name}.new")
        try:
            with aside.open("w") as file:
                file.writelines(_rows(ask) for ask in asks)
            aside.replace(self._path)
        except OSError as error:
            logger.warning("file %s cannot be written anew (%s)", self._path, error)

    def _set_aside(self, line: bytes) -> None:
        with suppress(OSError):
            known = self._odd.stat().st_size if self._odd.exists() else 0
            if known + _MOST_ODD_LINE <= _MOST_ODD:
                with self._odd.open("ab") as file:
                    file.write(line[:_MOST_ODD_LINE].rstrip(b"\n") + b"\n")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, of which one that is too long is given in its first part only: no line costs more memory than that."""
    while line := file.readline(_MOST_LINE):
        rest = line
        while len(rest) == _MOST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_MOST_LINE)
        yield line


def _end_of_line(file: BinaryIO) -> bytes:
    """What the last line lacks: a full disk or a kill may have cut it off, and the next one must not go with it."""
    if file.seek(0, io.SEEK_END) == 0:
        return b""
    file.seek(-1, io.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _ask(line: bytes) -> Ask | None:
    try:
        row = json.loads(line)
        ask = Ask(row["project"], row["version"], tuple(row["tasks"]))
        TaskRef(ask.version, 1)
    except (ValueError, KeyError, TypeError, RecursionError, JobError):  # cut off in a kill, or not ours at all
        return None
    return ask if _is_id(ask.project) and all(map(_is_id, ask.tasks)) else None


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= MOST_ID


def _rows(ask: Ask) -> str:
    parts = [ask.tasks[start : start + _OF_A_LINE] for start in range(0, len(ask.tasks), _OF_A_LINE)]
    rows = [json.dumps({"project": ask.project, "version": ask.version, "tasks": part}) for part in parts]
    return "".join(f"{row}\n" for row in rows)
