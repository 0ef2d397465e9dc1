"""A Redis with a replica, and Sentinel to watch them: three servers of one test, each on a port of its own."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from plugin_config.local.embedded_redis import server_binary
from plugin_config.local.supervisor import free_port

MASTER = "queue"
PASSWORD = "between us"
SENTINEL_PASSWORD = "a/sentinel's"
_PATIENCE_S = 60.0

_SENTINEL = """\
port {port}
bind 127.0.0.1
dir {folder}
requirepass "{own}"
sentinel monitor {master} 127.0.0.1 {watched} 1
sentinel auth-pass {master} "{password}"
sentinel down-after-milliseconds {master} 2000
sentinel failover-timeout {master} 3000
"""


@dataclass(frozen=True)
class WatchedRedis:
    """Servers and sentinel.

    Attributes:
        servers: port -> process of the two servers.
        sentinel: port of the sentinel.
    """

    servers: dict[int, subprocess.Popen[bytes]]
    sentinel: int

    def url(self, *, master: str = MASTER, password: str = PASSWORD, sentinels: str = "", own: str = "") -> str:
        """The address, as REDIS_URL has it."""
        hosts = sentinels or f"127.0.0.1:{self.sentinel}"
        own = own or SENTINEL_PASSWORD.replace("/", "%2F")
        return f"redis+sentinel://:{password.replace(' ', '%20')}@{hosts}/{master}/0?sentinel_password={own}"

    def ask_sentinel(self) -> Redis:
        """A connection to the sentinel."""
        return Redis(port=self.sentinel, password=SENTINEL_PASSWORD)

    def ask(self, port: int) -> Redis:
        """A connection to one server."""
        return Redis(port=port, password=PASSWORD)

    def master(self) -> int:
        """Port of the master, as the sentinel names it."""
        with self.ask_sentinel() as sentinel:
            return int(sentinel.sentinel_get_master_addr_by_name(MASTER)[1])

    def kill_master(self) -> int:
        """Kill it as a machine that dies; returns the port."""
        port = self.master()
        self.servers[port].kill()
        self.servers[port].wait()
        return port


@contextmanager
def watched_redis() -> Iterator[WatchedRedis]:
    """Start a master, its replica and a sentinel that knows both, for as long as the `with` block lasts."""
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="zm-w-") as folder:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen([server_binary(), *arguments], **quiet))  # type: ignore[call-overload]
            return started[-1]

        try:
            first, second, sentinel = free_port(), free_port(), free_port()
            both = ["--bind", "127.0.0.1", "--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "",
                    "--dir", folder, "--repl-diskless-sync-delay", "0"]  # fmt: skip
            servers = {first: start("--port", str(first), *both)}
            servers[second] = start("--port", str(second), "--replicaof", "127.0.0.1", str(first), *both)
            config = Path(folder) / "sentinel.conf"
            config.write_text(_SENTINEL.format(port=sentinel, folder=folder, master=MASTER, watched=first,
                                               password=PASSWORD, own=SENTINEL_PASSWORD))  # fmt: skip
            start(str(config), "--sentinel")
            found = WatchedRedis(servers, sentinel)
            _wait(lambda: _is_complete(found))
            yield found
        finally:
            for process in started:
                process.kill()
                process.wait()


def _is_complete(found: WatchedRedis) -> bool:
    with found.ask_sentinel() as sentinel, found.ask(found.master()) as master:
        up = sentinel.sentinel_master(MASTER)["flags"] == "master"  # a slow start is taken for a dead master
        return up and bool(sentinel.sentinel_slaves(MASTER)) and int(master.wait(1, 1000)) == 1


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError("no watched Redis came up")
        time.sleep(0.1)
