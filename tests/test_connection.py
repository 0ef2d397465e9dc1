"""REDIS_URL: a text that is no address is the same error in every command, before anything connects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from backend.queue_client import QueueClient
from plugin_config.errors import SettingsError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.connection import open_redis
from plugin_config.settings import Settings
from worker.service.queue_worker import connect

MESSAGE = (
    "setting REDIS_URL: is not the address of a Redis. Write redis://[:password@]host:port/0, rediss://..., "
    "redis+sentinel://[:password@]host:26379,host:26379/MASTER/0 or unix:///path?db=0, and percent-encode characters "
    "such as / and ? in the password."
)
BAD = [
    pytest.param("127.0.0.1:6379", id="no scheme"),
    pytest.param("http://h:6379/0", id="another scheme"),
    pytest.param("redis//h", id="no colon"),
    pytest.param("redis://h:port/0", id="word for a port"),
    pytest.param("redis://h:70000/0", id="port above"),
    pytest.param("redis://h:0/0", id="port below"),
    pytest.param("redis://:a/b@h:6379/0", id="slash in the password"),
    pytest.param("redis://[::1/0", id="bracket left open"),
    pytest.param("redis://h:6379/first", id="word for a database"),
    pytest.param("redis://h:6379/-1", id="database below"),
    pytest.param("redis://h:6379/0/1", id="two databases"),
    pytest.param("redis://h:6379?db=first", id="word for a database argument"),
    pytest.param("redis://h:6379?db=-1", id="database argument below"),
    pytest.param("redis://h:6379/0?nonsense=1", id="unknown argument"),
    pytest.param("redis://h:6379/0?socket_timeout=soon", id="word for seconds"),
    pytest.param("redis://h:6379/0?ssl_cert_reqs=required", id="argument of another scheme"),
    pytest.param("redis://h:6379/0?protocol=9", id="unknown protocol"),
    pytest.param("redis://h:6379/0?decode_responses=true", id="answers as text"),
    pytest.param("rediss://h:6379/0?ssl_cert_reqs=perhaps", id="unknown check of certificates"),
    pytest.param("redis+sentinel://h:26379", id="no master"),
    pytest.param("redis+sentinel:///queue", id="no sentinel"),
    pytest.param("redis+sentinel://h,/queue", id="sentinel without host"),
    pytest.param("redis+sentinel://h:port/queue", id="word for a sentinel's port"),
    pytest.param("redis+sentinel://h,i:0/queue", id="sentinel's port below"),
    pytest.param("redis+sentinel://h/queue/first", id="word for a sentinel's database"),
    pytest.param("redis+sentinel://h/queue/0/1", id="two databases of sentinels"),
    pytest.param("redis+sentinel://h/queue?nonsense=1", id="unknown argument of sentinels"),
    pytest.param("redis+sentinel://h/queue?ssl_cert_reqs=required", id="argument of TLS without it"),
    pytest.param("redis+sentinel://h/queue?decode_responses=true", id="answers of sentinels as text"),
    pytest.param("unix://", id="no socket"),
    pytest.param("unix://run/redis.sock", id="socket by half a path"),
    pytest.param("unix:///run/redis.sock?nonsense=1", id="unknown argument of a socket"),
]  # fmt: skip
GOOD = [
    "redis://localhost", "redis://:a%2Fb@127.0.0.1:6379/2", "redis://user:pw@h:6379/0?socket_keepalive=yes",
    "redis://h/0/", "redis://[::1]:6379?db=3", "rediss://h:6379/0?ssl_cert_reqs=none", "unix:///run/redis.sock?db=1",
    "unix://:pw@/run/redis.sock", "redis+sentinel://h/queue", "redis+sentinel://:a%2Fb@h:1,[::1],i:2/queue/3",
    "rediss+sentinel://u:p@h/queue/0?sentinel_username=u&sentinel_password=p&ssl_cert_reqs=none",
]  # fmt: skip
READERS: dict[str, Callable[[Settings], object]] = {
    "backend": QueueClient,
    "worker": connect,
    "status": connect_briefly,
}


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_address_is_one_error_everywhere(url: str, settings: Settings) -> None:
    for read in READERS.values():
        with pytest.raises(SettingsError) as raised:
            read(replace(settings, redis_url=url))
        assert str(raised.value) == MESSAGE


@pytest.mark.parametrize("url", GOOD)
def test_an_address_is_taken_and_nothing_is_connected(url: str) -> None:
    with open_redis(url, connect_s=1, answer_s=2, health_check_s=30) as redis:
        options = redis.connection_pool.connection_kwargs
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (1, 2)
    assert redis.connection_pool.max_connections > 0


def test_the_parts_of_an_address_with_sentinels_go_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def sentinel(host: str, port: int = 0, **options: Any) -> Redis:
        asked.append({"at": (host, port), **options})
        return Redis(host, port, **options)

    monkeypatch.setattr("plugin_config.queue.sentinel.Redis", sentinel)
    url = "rediss+sentinel://me:a%2Fb@127.0.0.1:1,[::1]:2/the%20queue/3?sentinel_password=c%2Fd&socket_keepalive=yes"
    with open_redis(url, connect_s=1, answer_s=9, one_retry=True, ca_bundle="/ca.pem") as redis:
        assert redis.connection_pool.service_name == "the queue"
        options = redis.connection_pool.connection_kwargs
        with pytest.raises(RedisError, match=r"127\.0\.0\.1:1: .*; ::1:2: "):
            redis.ping()
    assert (options["username"], options["password"], options["db"]) == ("me", "a/b", 3)
    assert (options["ssl_ca_certs"], options["socket_timeout"]) == ("/ca.pem", 9)
    assert [row["at"] for row in asked[1:3]] == [("127.0.0.1", 1), ("::1", 2)]
    for row in asked[1:]:
        assert (row["password"], row.get("username"), row["ssl"], row["ssl_ca_certs"]) == ("c/d", None, True, "/ca.pem")
        assert (row["socket_timeout"], row["socket_keepalive"]) == (1, True)


@pytest.mark.parametrize("command", READERS)
def test_every_command_ends_with_the_same_message(command: str, tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin", "REDIS_URL": "redis://h:6379/0?nonsense=1", "ZEROMASK_STATE_DIR": str(tmp_path),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "x", "MODEL": "builtin",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "plugin_config.cli", command],
        cwd=Path(__file__).parent.parent, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"zeromask {command}: {MESSAGE}")
