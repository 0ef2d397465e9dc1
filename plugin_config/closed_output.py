"""Ends a command whose output is no longer read: its pipe was closed by `head`, or its terminal is gone."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn

CLOSED = 1
"""Exit status then, as click, rich and Python's own documentation have it."""

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command and exit with the status it returns; quietly, with status 1, where its output was closed.

    Every command that prints starts here: the `zeromask` program, and modules that are run in a process of their own.
    """
    _print_anything()
    status: int | None
    try:
        try:
            status = main()
        finally:
            if sys.stdout is not None:  # as it is after `>&-`
                sys.stdout.flush()
    except OSError as error:  # a closed pipe is EPIPE, a closed terminal EIO
        if error.errno not in (errno.EPIPE, errno.EIO) or not (closed := _closed_outputs()):
            raise
        _discard(closed)
        status = CLOSED
    sys.exit(status)


def _print_anything() -> None:
    """What the terminal's encoding does not hold is printed replaced, not a reason to end. Standard error, Python
    writes so by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _closed_outputs() -> list[int]:
    """Those of standard output and standard error that nothing reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            poll.register(stream.fileno(), 0)
    return [file for file, event in poll.poll(0) if event & _GONE]


def _discard(files: list[int]) -> None:
    """Redirect files to the null device; or the interpreter writes its buffers again at its end, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for file in files:
        os.dup2(nowhere, file)
