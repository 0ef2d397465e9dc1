"""Attacks by another user of the same machine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from plugin_config.local.supervisor import Command
from tests.attack.ground import Finding, Ground, Row, ground
from tests.attack.watch import memory_mb
from tests.faults.stand import Serving
from tests.house import TOKEN

_MOST_REDIS_MB = 200.0
# What another user runs: connect to a path or a port, and say what came of it.
_CONNECT = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
path = "/" in sys.argv[1]
try:
    if path:
        socket.socket(socket.AF_UNIX).connect(sys.argv[1])
    else:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
_READ = """
import os, sys
os.setgid(65534); os.setuid(65534)
for line in sys.stdin:
    try:
        open(line.rstrip("\\n"), "rb").close()
        print(line, end="")
    except OSError:
        pass
"""


def redis_without_password(server: Serving, scale: float) -> Row:
    """The embedded Redis from another user, and clients without the password that never read its answers."""
    seconds, lines = 10 * max(scale, 0.4), round(100 * scale)
    with _open_folder() as parent, ground(server, parent=parent) as it:
        place = _place(it)

        def act() -> Finding:
            ports = [line.laddr.port for line in psutil.Process(it.pids()["redis"]).net_connections("inet")
                     if line.status == psutil.CONN_LISTEN]  # fmt: skip
            reached = _as_nobody(_CONNECT, str(place))
            before, most = memory_mb(it.pids()["redis"]), 0.0
            deadline, over = time.monotonic() + seconds, threading.Event()
            flooding = threading.Thread(target=_flood, args=(place, lines, over), daemon=True)
            flooding.start()
            while time.monotonic() < deadline:
                most = max(most, memory_mb(it.pids()["redis"]) - before)
                time.sleep(0.2)
            over.set()
            flooding.join()
            evidence = (f"TCP ports: {len(ports)}; another user's connection: {reached}; {lines} clients of the same "
                        f"user without the password that never read, for {seconds:.0f} s: Redis grew by {most:.0f} "
                        "MB.")  # fmt: skip
            return Finding(not ports and reached != "connected" and most < _MOST_REDIS_MB, evidence)

        return it.attacked("the embedded Redis without its password", act)


def open_files(server: Serving, scale: float) -> Row:
    """What another user can read of files and environments, when the product is started under umask 022."""
    before = os.umask(0o022)
    try:
        with _open_folder() as parent, ground(server, parent=parent) as it:
            database = it.settings.state_path / "label-studio" / "label_studio.sqlite3"

            def act() -> Finding:
                _write_as_label_studio(it, database)
                paths = [it.settings.state_path, *it.settings.state_path.rglob("*")]
                loose = [path for path in paths if _mode(path) & 0o077]
                read = _as_nobody(_READ, "", stdin="\n".join(map(str, paths))).splitlines()
                pids = it.pids()
                strangers = [name for name in ("backend", "redis") if TOKEN in _environment(pids[name]).values()]
                told = [name for name, pid in pids.items() if TOKEN in " ".join(psutil.Process(pid).cmdline())]
                first = f" ({loose[0].relative_to(it.settings.state_path.parent)}, ...)" if loose else ""
                evidence = (f"{len(paths)} files and folders: {len(loose)} open to others by their mode{first}, "
                            f"{len(read)} read by another user; environments that hold the token without a use for it: "
                            f"{', '.join(strangers) or 'none'}; command lines: {len(told)}.")  # fmt: skip
                return Finding(not loose and not read and not strangers and not told, evidence)

            return it.attacked("files and environments under umask 022", act)
    finally:
        os.umask(before)


def _write_as_label_studio(it: Ground, database: Path) -> None:
    """Run a program as Label Studio is run, which writes its database."""
    code = (f"import os, time; os.makedirs({str(database.parent)!r}, exist_ok=True); "
            f"open({str(database)!r}, 'w').close(); time.sleep(600)")  # fmt: skip
    command = Command("label-studio", [sys.executable, "-c", code], ready=database.exists, ready_s=30)
    it.house.supervisor.start(command)
    it.house.supervisor.end("label-studio")


@contextmanager
def _open_folder() -> Iterator[Path]:
    """A folder that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="zm-o-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _place(it: Ground) -> Path | int:
    """Where the embedded Redis listens: a socket's path, or a port of loopback."""
    found = urlsplit(it.house.services.redis_url)
    return Path(unquote(found.path)) if found.scheme == "unix" else int(found.port or 6379)


def _flood(place: Path | int, count: int, over: threading.Event) -> None:
    """Send commands without end, read nothing."""
    wanted = [b"PING\r\n" * 5000, b"*1000000\r\n$500000000\r\n" + b"x" * 60_000, b"HELLO 3\r\n" * 5000,
              b"x" * 60_000]  # fmt: skip
    with ExitStack() as opened:
        lines: list[tuple[socket.socket, bytes]] = []
        for number in range(count):
            family = socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET
            line = opened.enter_context(socket.socket(family))
            with suppress(OSError):
                line.connect(str(place) if isinstance(place, Path) else ("127.0.0.1", place))
                line.setblocking(False)
                lines.append((line, wanted[number % len(wanted)]))
        while not over.is_set():
            for line, piece in lines:
                with suppress(OSError):
                    line.send(piece)
            over.wait(0.001)


def _as_nobody(code: str, argument: str, *, stdin: str = "") -> str:
    """What a program of another user says; "not tried" where we may not become another user."""
    if os.geteuid() != 0:
        return "not tried" if argument else ""
    done = subprocess.run([sys.executable, "-c", code, argument], input=stdin, capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    return done.stdout.strip()


def _environment(pid: int) -> dict[str, str]:
    return dict(psutil.Process(pid).environ())


def _mode(path: Path) -> int:
    try:
        found = path.lstat()
    except OSError:
        return 0
    return 0 if stat.S_ISLNK(found.st_mode) else stat.S_IMODE(found.st_mode)
