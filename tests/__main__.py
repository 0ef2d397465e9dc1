"""`make test`: types and every test, on two cores. Tests on the Label Studio of the run mostly wait for other
processes, so that the others run beside them, in parts, of which two run at a time when the first are done. Steps that
run at the same time share no process, folder or port.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

Step = tuple[str, ...]

_PARTS = 8
_FILES = sorted(f"tests/{path.name}" for path in Path(__file__).parent.glob("test_*.py"))
_OTHERS = ("pytest", "-m", "not label_studio", "-p", "no:cacheprovider")

WAITING: tuple[Step, ...] = (("pytest", "-m", "label_studio"),)
BESIDE: tuple[Step, ...] = (("mypy",), *((*_OTHERS, *_FILES[part::_PARTS]) for part in range(_PARTS)))


def main(waiting: Sequence[Step] = WAITING, beside: Sequence[Step] = BESIDE) -> int:
    """Run the modules of one list in turn, and those of another beside them, one at a time; when the first list is
    done, two at a time. Until then what the second writes is held back.

    Args:
        waiting, beside: each module with its arguments.

    Returns:
        0; 1 where a module has failed, which the last lines name, or after Ctrl-C.
    """
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())  # the modules get it too, and end what they began
    failed: list[Step] = []
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(lambda: [step for step in waiting if _run(step, stopped).returncode])
            others = [pool.submit(_run, step, stopped, held_back=True) for step in beside]
            failed += first.result()
            for step, other in zip(beside, others, strict=True):
                ended = other.result()
                failed += [step] if ended.returncode else []
                sys.stdout.write(ended.stdout or "")
                sys.stdout.flush()
    finally:
        signal.signal(signal.SIGINT, before)
    for step in failed:
        sys.stdout.write(f"failed: {' '.join(step)}\n")
    return int(bool(failed) or stopped.is_set())


def _run(step: Step, stopped: threading.Event, *, held_back: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a module, unless there was a Ctrl-C; what it writes is returned where it is held back."""
    if stopped.is_set():
        return subprocess.CompletedProcess(step, 0)
    stdout, stderr = (subprocess.PIPE, subprocess.STDOUT) if held_back else (None, None)
    return subprocess.run([sys.executable, "-m", *step], stdout=stdout, stderr=stderr, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
