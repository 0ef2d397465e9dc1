"""`make test`: types and every test. Tests on the Label Studio of the run mostly wait for other processes, so that the
others run beside them, after mypy; the two share no process, folder or port.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

Step = tuple[str, ...]

WAITING: tuple[Step, ...] = (("pytest", "-m", "label_studio"),)
BESIDE: tuple[Step, ...] = (("mypy",), ("pytest", "-m", "not label_studio", "-p", "no:cacheprovider"))


def main(waiting: Sequence[Step] = WAITING, beside: Sequence[Step] = BESIDE) -> int:
    """Run two lists of modules side by side, each list in turn to its end. The output of the second comes last.

    Args:
        waiting, beside: each module with its arguments.

    Returns:
        0; 1 where a module has failed, which the last line names, or after Ctrl-C.
    """
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())  # the modules get it too, and end what they began
    try:
        with tempfile.TemporaryFile() as output, ThreadPoolExecutor(1) as pool:
            other = pool.submit(_failed, beside, output, stopped)
            failed = _failed(waiting, None, stopped) + other.result()
            output.seek(0)
            shutil.copyfileobj(output, sys.stdout.buffer)
    finally:
        signal.signal(signal.SIGINT, before)
    if failed:
        sys.stdout.write(f"failed: {'; '.join(' '.join(step) for step in failed)}\n")
    return int(bool(failed) or stopped.is_set())


def _failed(steps: Sequence[Step], output: IO[bytes] | None, stopped: threading.Event) -> list[Step]:
    errors = None if output is None else subprocess.STDOUT
    failed = []
    for step in steps:
        if stopped.is_set():
            break
        if subprocess.call([sys.executable, "-m", *step], stdout=output, stderr=errors):
            failed.append(step)
    return failed


if __name__ == "__main__":
    sys.exit(main())
