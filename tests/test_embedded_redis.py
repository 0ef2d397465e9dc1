"""The Redis of `zeromask up`: its owner's alone, not to be changed or blown up from outside, and its data is kept."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import pytest
import redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from plugin_config.errors import SettingsError
from plugin_config.local.embedded_redis import RedisAddress, embedded_redis, running_redis_url
from plugin_config.local.supervisor import Supervisor
from plugin_config.settings import Settings
from tests.modes import open_to_others
from tests.test_processes import wait_until

_MB = 1024 * 1024


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisAddress, psutil.Process, Path]]:
    """A server in a folder that an earlier version left open."""
    state = tmp_path_factory.mktemp("state") / 'a "folder"'
    (state / "redis").mkdir(parents=True)
    (state / "redis" / "redis.conf").touch(mode=0o644)
    before = os.umask(0o022)
    try:
        found = embedded_redis(state)
        with Supervisor(state) as supervisor:
            supervisor.start(found.command)
            yield found, psutil.Process(supervisor.pid("redis")), state
    finally:
        os.umask(before)


def socket_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def password_of(url: str) -> str:
    return urlsplit(url).password or ""


def test_only_its_owner_reaches_it(running: tuple[RedisAddress, psutil.Process, Path]) -> None:
    found, process, state = running
    assert password_of(found.url) in (state / "redis" / "redis.conf").read_text()
    assert not any(password_of(found.url) in part for part in process.cmdline())
    assert not any(password_of(found.url) in value for value in process.environ().values())
    assert open_to_others(state) == {}
    assert password_of(found.url) not in repr(found)
    assert stat.S_ISSOCK(socket_of(found.url).stat().st_mode)
    assert process.net_connections("inet") == []
    assert running_redis_url(Settings(state_dir=str(state))) == found.url


@pytest.mark.parametrize("password", ["", "guess"])
def test_it_asks_for_its_password(running: tuple[RedisAddress, psutil.Process, Path], password: str) -> None:
    url = running[0].url
    with pytest.raises(AuthenticationError), redis.from_url(url.replace(password_of(url), password)) as stranger:
        stranger.ping()


@pytest.mark.parametrize(
    "command",
    ["CONFIG SET maxmemory 0", "CONFIG GET *", "DEBUG SLEEP 0", "MODULE LIST", "SAVE", "BGREWRITEAOF", "ACL LIST",
     "SHUTDOWN NOSAVE", "REPLICAOF 127.0.0.1 1", "MONITOR", "MIGRATE h 1 a 0 10", "FLUSHALL", "CLIENT KILL ID 1"],
)  # fmt: skip
def test_who_has_the_password_cannot_change_the_server(
    running: tuple[RedisAddress, psutil.Process, Path], command: str
) -> None:
    refused = pytest.raises((NoPermissionError, ResponseError), match=r"no permissions|not allowed")
    with redis.from_url(running[0].url) as connection, refused:
        connection.execute_command(*command.split())


def test_a_stranger_cannot_make_it_grow(running: tuple[RedisAddress, psutil.Process, Path]) -> None:
    """CVE-2025-21605: a client that never reads the answers to commands it may not run."""
    found, process, _ = running
    before, asked = process.memory_info().rss, b"PING\r\n" * 200_000
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(2)
        stranger.connect(str(socket_of(found.url)))
        try:
            for _ in range(100):  # 120 MB, which were answered with 600 MB
                stranger.sendall(asked)
        except OSError:
            pass  # it was shown the door, or nothing more is read from it
    assert process.memory_info().rss - before < 32 * _MB


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_it_keeps_its_data(how: signal.Signals, tmp_path: Path) -> None:
    first = embedded_redis(tmp_path)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(first.command)
        with redis.from_url(first.url) as connection:
            connection.set("kept", "yes")
        time.sleep(1.1)  # written to disk every second
        os.kill(supervisor.pid("redis"), how)
        wait_until(lambda: answer(first.url) == b"yes")  # started again on its own
    second = embedded_redis(tmp_path)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(second.command)
        assert answer(second.url) == b"yes"
        assert answer(first.url) is None, "the password of before is worth nothing"


def resp(*words: str) -> str:
    """A command as Redis writes it into its append-only file."""
    return f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)


def test_a_folder_of_redis_6_is_served(tmp_path: Path) -> None:
    """As the release before left it: one append-only file, an address with a port."""
    data = tmp_path / "redis"
    data.mkdir()
    (data / "redis.conf").write_text(f'bind 127.0.0.1\nport 6399\nrequirepass old\ndir "{data}"\nappendonly yes\n')
    rows = [("SELECT", "0"), ("SET", "kept", "yes"), ("MULTI",), ("ZADD", "zeromask:1:pending", "5", "v|3"), ("EXEC",),
            ("SADD", "zeromask:projects", "1")]  # fmt: skip
    half = resp("SET", "half", "written")[:-5]  # the kill came here
    (data / "appendonly.aof").write_text("".join(resp(*row) for row in rows) + half, newline="")
    found = embedded_redis(tmp_path)
    for _ in range(2):
        with Supervisor(tmp_path) as supervisor, redis.from_url(found.url) as connection:
            supervisor.start(found.command)
            assert connection.get("kept") == b"yes"
            assert connection.zrange("zeromask:1:pending", 0, -1, withscores=True) == [(b"v|3", 5.0)]
            assert connection.smembers("zeromask:projects") == {b"1"}
            assert connection.get("half") is None


def test_a_deep_folder_has_its_socket_elsewhere_and_finds_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 80)))  # too long as well
    state = tmp_path / ("d" * 60) / ("e" * 60)
    found = embedded_redis(state)
    assert len(os.fsencode(socket_of(found.url))) <= 107
    assert open_to_others(socket_of(found.url).parent) == {}
    try:
        with Supervisor(state) as supervisor:
            supervisor.start(found.command)
            assert running_redis_url(Settings(state_dir=str(state))) == found.url
        again = embedded_redis(state)
        assert socket_of(again.url) == socket_of(found.url), "no folder is left behind by each start"
        socket_of(found.url).parent.chmod(0o777)
        elsewhere = socket_of(embedded_redis(state).url)
        assert elsewhere != socket_of(found.url), "others could have put a socket there"
        elsewhere.parent.rmdir()
    finally:
        socket_of(found.url).parent.rmdir()


@pytest.mark.parametrize("content", ["", "{", "5", "[]", "{}", '{"url": 5}'])
def test_no_running_redis_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "address.json").write_text(content)
    with pytest.raises(SettingsError, match="REDIS_URL"):
        running_redis_url(Settings(state_dir=str(tmp_path)))


def answer(url: str) -> object:
    try:
        with redis.from_url(url) as connection:
            return connection.get("kept")
    except RedisError:
        return None
