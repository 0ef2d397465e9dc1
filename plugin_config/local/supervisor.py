"""Start the processes of the product, restart what dies, and leave none behind.

A child writes for its owner alone, and hears of our settings only what its command tells it. It must not know what the
processes do; it runs a command, asks whether it is ready, and keeps its log.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from plugin_config.errors import EnvironmentBroken
from plugin_config.files import PRIVATE_UMASK, open_private, private_folder, write_private
from plugin_config.settings import setting_names

log = logging.getLogger(__name__)

_STOP_S = 10.0
_LONGEST_BACKOFF_S = 10.0
_STEADY_S = 60.0  # who lived this long is not failing at its start
_PR_SET_PDEATHSIG = 1
_NEEDED = {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
_NEEDED_KINDS = ("LC_", "PYTHON", "DYLD_", "SSL_CERT_")


@dataclass(frozen=True)
class Command:
    """One process to run.

    Attributes:
        name: shown to people and the name of its log file.
        argv: the command line.
        env: added to this process' environment, of which no setting of ours is handed on.
        ready: whether it serves; None when running is enough.
        ready_s: longest wait for that, seconds.
        bare: whether of this process' environment only what every program needs is handed on, and no token of somebody
            else's service with the rest.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # with its secrets
    ready: Callable[[], bool] | None = None
    ready_s: float = 60.0
    bare: bool = False


class Supervisor:
    """Holds child processes. What ends by itself is started again; `stop` (or leaving the `with`) ends them all.

    Args:
        state: folder for logs and for the list of running children, by which the next run finds what a killed one
            left behind. Held by one supervisor at a time.

    Raises:
        EnvironmentBroken: another supervisor holds the folder, or it cannot be written.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._commands: dict[str, Command] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._failures: dict[str, int] = {}
        self._spawned: dict[str, float] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._folder_lock = _lock_folder(state)
        _end_leftovers(state / "processes.json")
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, command: Command) -> None:
        """Start a process and wait until it is ready.

        Raises:
            EnvironmentBroken: it ended or did not become ready; the message quotes its log.
        """
        self.launch(command)
        self.wait_ready(command)

    def launch(self, command: Command) -> None:
        """Start a process without waiting for it."""
        with self._lock:
            self._spawn(command)
            self._commands[command.name] = command

    def wait_ready(self, command: Command) -> None:
        """Wait until a launched process is ready.

        Raises:
            EnvironmentBroken: it ended or did not become ready; the message quotes its log.
        """
        with self._lock:  # whoever waits hears of its end; the watcher would start it again and again
            self._commands.pop(command.name, None)
        deadline = time.monotonic() + command.ready_s
        while command.ready is not None and not command.ready():
            child = self._children[command.name]
            if child.poll() is not None:
                raise self._broken(command.name, f"ended at once with status {child.returncode}")
            if time.monotonic() > deadline:
                raise self._broken(command.name, f"was not ready within {command.ready_s:.0f} s")
            time.sleep(0.1)
        with self._lock:
            self._commands[command.name] = command

    def end(self, *names: str) -> None:
        """End these children, as `stop` does, and start them no more."""
        with self._lock:
            children = [self._children.pop(name) for name in names if name in self._children]
            for name in names:
                self._commands.pop(name, None)
        for child in children:
            _end_group(child.pid)
        with self._lock:
            self._remember()

    def pid(self, name: str) -> int:
        """The process id of a running child."""
        with self._lock:
            return self._children[name].pid

    def log_path(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._state / "logs" / f"{name}.log"

    def stop(self) -> None:
        """End all children, last started first; forceful with what does not go by itself."""
        self._stopping.set()
        with self._lock:
            for name in reversed(list(self._children)):
                _end_group(self._children.pop(name).pid)
            self._remember()
        if threading.current_thread() is not self._watcher:
            self._watcher.join(timeout=5)
        self._folder_lock.close()

    def _watch(self) -> None:
        while not self._stopping.wait(0.5):
            with self._lock:
                dead = [name for name, child in self._children.items()
                        if name in self._commands and child.poll() is not None]  # fmt: skip
            for name in dead:
                self._restart(name)

    def _restart(self, name: str) -> None:
        if time.monotonic() - self._spawned.get(name, 0.0) > _STEADY_S:
            self._failures[name] = 0
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        with self._lock:
            if name not in self._commands or name not in self._children:
                return
            child = self._children[name]
        log.warning("%s ended with status %s; starting it again", name, child.returncode)
        _end_group(child.pid)  # what it had started may hold its port
        if self._stopping.wait(min(0.2 * 2 ** min(failures, 8), _LONGEST_BACKOFF_S)):
            return
        with self._lock:
            if name in self._commands and not self._stopping.is_set():
                try:
                    self._spawn(self._commands[name])
                except EnvironmentBroken as error:  # a full disk, say: the next round tries again
                    log.error("%s", error)

    def _spawn(self, command: Command) -> None:
        path = self.log_path(command.name)
        try:
            private_folder(path.parent)
            env = {**inherited_environment(bare=command.bare), **command.env}
            with open_private(path, "ab") as output:
                self._children[command.name] = subprocess.Popen(
                    command.argv, env=env, umask=PRIVATE_UMASK, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent(),
                )  # fmt: skip
            self._spawned[command.name] = time.monotonic()
            self._remember()
        except OSError as error:
            raise EnvironmentBroken(command.name, f"cannot be started ({error})", "Run it again.") from error

    def _remember(self) -> None:
        rows = []
        for child in self._children.values():
            with contextlib.suppress(psutil.Error):
                rows.append({"pid": child.pid, "started": psutil.Process(child.pid).create_time()})
        write_private(self._state / "processes.json", json.dumps(rows))  # a kill in between must not lose the list

    def _broken(self, name: str, problem: str) -> EnvironmentBroken:
        path = self.log_path(name)
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return EnvironmentBroken(name, f"{problem}: {' / '.join(lines[-2:])[:400]}", f"Its log is {path}.")


def module_command(module: str) -> list[str]:
    """The command line that runs a module of ours. -P keeps Python from looking in the present folder first, where
    another project's `backend` or `worker` may lie.
    """
    return [sys.executable, "-P", "-m", module]


def inherited_environment(*, bare: bool = False) -> dict[str, str]:
    """Our environment without our settings: whoever starts a child tells it those it reads. `bare` as in `Command`."""
    kept = {name: value for name, value in os.environ.items() if name not in setting_names()}
    if not bare:
        return kept
    return {name: value for name, value in kept.items() if name in _NEEDED or name.startswith(_NEEDED_KINDS)}


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all raise KeyboardInterrupt, so that one way out cleans up.

    SIGINT too, because a shell starts background jobs with it ignored.
    """

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lock_folder(state: Path) -> IO[bytes]:
    try:
        private_folder(state)
        file = open_private(state / "lock", "ab")
    except OSError as error:
        raise EnvironmentBroken(f"folder {state}", f"cannot be written ({error})", "Set ZEROMASK_STATE_DIR.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        remedy = "Stop it with Ctrl-C, or set ZEROMASK_STATE_DIR to another folder."
        raise EnvironmentBroken(f"folder {state}", "is in use by a running zeromask", remedy) from None
    return file


def _end_leftovers(record: Path) -> None:
    """End what a killed supervisor left; a process id that was given away again has another start time."""
    try:
        rows = json.loads(record.read_text())
    except (OSError, ValueError):
        return
    for row in rows if isinstance(rows, list) else []:
        with contextlib.suppress(KeyError, TypeError):
            if _is_left(row["pid"], row["started"]):
                log.warning("ending process %d and what it started, left by an earlier run", row["pid"])
                _end_group(row["pid"])


def _is_left(pid: int, started: float) -> bool:
    """Whether a process, or one that it started, still runs. While its group lives, nobody else gets its id."""
    if psutil.pid_exists(pid):
        with contextlib.suppress(psutil.Error):
            return abs(psutil.Process(pid).create_time() - started) < 0.1
    for other in psutil.process_iter(["create_time"]):
        with contextlib.suppress(OSError):
            if os.getpgid(other.pid) == pid and other.info["create_time"] >= started - 0.1:
                return True
    return False


def _end_group(pid: int) -> None:
    """End a process and all it started: each child leads a session, so its group is its family."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not psutil.pid_exists(pid):
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent() -> Callable[[], None] | None:
    """Linux: what a child runs first, so that the kernel ends it when we are killed without a chance to do it."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # looked up here: between fork and exec as little as possible may happen
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
