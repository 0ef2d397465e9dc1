"""Runs the processes of the product on one machine: starts them, restarts those that end, and leaves none behind.

The files a child writes are private to their owner, and of our settings it gets only those of its command.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import signal
import socket
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

_MEND_AND_START = "Mend what it names, such as memory, disk or rights of the state folder, then start it again."
_STOP_S = 10.0
_LONGEST_BACKOFF_S = 10.0
_MOST_QUOTED = 2000  # characters of a log in an error
_STARTED_S = 60.0  # a process that ran this long did not fail at its start
_PR_SET_PDEATHSIG = 1
_NEEDED = {"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
_NEEDED_KINDS = ("LC_", "PYTHON", "DYLD_", "SSL_CERT_")


@dataclass(frozen=True)
class Command:
    """One process to run.

    Attributes:
        name: for people, and the name of its log file.
        argv: the command line.
        env: added to the environment it inherits, which has none of our settings.
        ready: whether it is ready to serve; None when running is enough.
        ready_s: longest wait for that, seconds.
        bare: whether it inherits only the variables that every program needs, and so no tokens of other services.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # with its secrets
    ready: Callable[[], bool] | None = None
    ready_s: float = 60.0
    bare: bool = False


class Supervisor:
    """Holds child processes. One that ends by itself is started again; `stop` (or leaving the `with`) ends them all.

    Args:
        state: folder of logs and of the list of running children, by which the next run ends what a killed supervisor
            left behind. One supervisor at a time holds it.

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
        with self._lock:  # the caller gets the error when it ends; the watcher would start it again and again
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
        """End these children for good."""
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
        """End all children, the last started first; those that do not end in time are killed."""
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
        if time.monotonic() - self._spawned.get(name, 0.0) > _STARTED_S:
            self._failures[name] = 0
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        with self._lock:
            if name not in self._commands or name not in self._children:
                return
            child = self._children[name]
        log.warning("%s ended with status %s; starting it again", name, child.returncode)
        _end_group(child.pid)  # its own children may hold its port
        if self._stopping.wait(min(0.2 * 2 ** min(failures, 8), _LONGEST_BACKOFF_S)):
            return
        with self._lock:
            if name in self._commands and not self._stopping.is_set():
                try:
                    self._spawn(self._commands[name])
                except EnvironmentBroken as error:  # a full disk, for example: the next round tries again
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
            raise EnvironmentBroken(command.name, f"cannot be started ({error})", _MEND_AND_START) from error

    def _remember(self) -> None:
        rows = []
        for child in self._children.values():
            with contextlib.suppress(psutil.Error):
                rows.append({"pid": child.pid, "started": psutil.Process(child.pid).create_time()})
        write_private(self._state / "processes.json", json.dumps(rows))  # whole or not at all: a kill must not lose it

    def _broken(self, name: str, problem: str) -> EnvironmentBroken:
        path = self.log_path(name)
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        # The end is kept where it is too long: the remedy of our own messages stands there.
        told = " / ".join(lines[-2:])
        told = told if len(told) <= _MOST_QUOTED else f"... {told[-_MOST_QUOTED:]}"
        return EnvironmentBroken(name, f"{problem}: {told.rstrip('.')}", f"Its log is {path}.")


def module_command(module: str) -> list[str]:
    """The command line that runs a module of this project.

    -P keeps Python from searching the current folder first, which may have another `backend` or `worker`.
    """
    return [sys.executable, "-P", "-m", module]


def inherited_environment(*, bare: bool = False) -> dict[str, str]:
    """This process' environment without our settings; `bare` as in `Command`."""
    kept = {name: value for name, value in os.environ.items() if name not in setting_names()}
    if not bare:
        return kept
    return {name: value for name, value in kept.items() if name in _NEEDED or name.startswith(_NEEDED_KINDS)}


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and a closed terminal raise KeyboardInterrupt, so that all of them clean up.

    SIGINT is set too, because a shell starts background jobs with it ignored.
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
    """End the processes that a killed supervisor left; a reused process id has another start time."""
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
    """Whether a process, or one of its children, still runs. While its group lives, its id is not reused."""
    if psutil.pid_exists(pid):
        with contextlib.suppress(psutil.Error):
            return abs(psutil.Process(pid).create_time() - started) < 0.1
    for other in psutil.process_iter(["create_time"]):
        with contextlib.suppress(OSError):
            if os.getpgid(other.pid) == pid and other.info["create_time"] >= started - 0.1:
                return True
    return False


def _end_group(pid: int) -> None:
    """End a process and all its descendants: each child leads a session, so they are its process group."""
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
    """On Linux: what a child runs first, so that the kernel ends it when this process is killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # looked up here: as little as possible may run between fork and exec
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server can listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers_http(url: str) -> bool:
    """Whether an HTTP server responds with 200 at this address within two seconds."""
    import httpx  # here, because commands that start nothing import this module: it takes a quarter of their time

    from plugin_config.http_requests import user_agent

    try:
        return httpx.get(url, timeout=2, trust_env=False, headers={"User-Agent": user_agent()}).status_code == 200
    except httpx.TransportError:
        return False
