"""REDIS_URL with sentinels: the master's address is asked for, a dead master is replaced, and every error is told."""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.exceptions import RedisError, ResponseError

from backend.queue_client import QueueClient
from plugin_config.errors import QueueUnavailable
from plugin_config.local.supervisor import Supervisor, answers_http, free_port
from plugin_config.queue.connection import open_redis, unavailable
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.house import PATIENCE_S, wait_until
from tests.tls import authority
from tests.watched_redis import MASTER, PASSWORD, SENTINEL_PASSWORD, WatchedRedis, watched_redis
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import PROJECT, BenchServices, blotches
from worker.service.queue_worker import connect

BEFORE, BETWEEN = 3000, 40
"""Tasks that are requested before the master dies, and while there is none."""


@pytest.fixture(scope="module", name="watched")
def watched_fixture() -> Iterator[WatchedRedis]:
    with watched_redis() as found:
        yield found


@pytest.fixture(name="watched_once")
def watched_once_fixture() -> Iterator[WatchedRedis]:
    with watched_redis() as found:
        yield found


WRONG = [
    pytest.param({"master": "other"}, rf"not known to its sentinels as other; they watch {MASTER}\. Correct the master",
                 id="another master"),
    pytest.param({"password": "a wrong one"}, r"refuses the sign-in .*Correct user and password in REDIS_URL",
                 id="wrong password"),
    pytest.param({"own": "a_wrong_one"}, r"has sentinels that refuse the sign-in .*sentinel_password", id="sentinel's"),
    pytest.param({"sentinels": "127.0.0.1:1,127.0.0.1:2"}, r"no sentinel that answers .*127\.0\.0\.1:2: .*refused",
                 id="no sentinel"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), WRONG)
def test_what_is_wrong_is_told_without_a_password(changes: dict[str, str], told: str, watched: WatchedRedis) -> None:
    url = watched.url(**changes)
    with open_redis(url, connect_s=2, answer_s=5, one_retry=True) as redis:
        with pytest.raises(RedisError) as caught:
            redis.ping()
        shown = f"{unavailable(caught.value)} {caught.value!r} {redis!r}"
    with pytest.raises(QueueUnavailable, match=told) as raised:
        connect(Settings(redis_url=url), timeout_s=5)
    shown += str(raised.value)
    secrets = (PASSWORD, SENTINEL_PASSWORD, "a wrong one", "a_wrong_one")
    assert not [secret for secret in secrets if secret in shown]


def test_a_sentinel_that_answers_is_enough(watched: WatchedRedis) -> None:
    url = watched.url(sentinels=f"127.0.0.1:1,127.0.0.1:{watched.sentinel}")
    with open_redis(url, connect_s=2, answer_s=5, one_retry=True) as redis:
        assert redis.ping()
        assert redis.connection_pool.get_master_address() == ("127.0.0.1", watched.master())


def replicated(redis: Any) -> bool:
    """Whether the replica has what was written by this connection."""
    try:
        return int(redis.wait(1, 1000)) == 1
    except RedisError:
        return False


def asked_to_move(sentinel: Any) -> bool:
    """Whether the sentinel moves the master now; it does not before it has heard of the replica."""
    try:
        sentinel.execute_command("SENTINEL FAILOVER", MASTER)
    except ResponseError:
        return False
    return True


def test_a_connection_follows_when_the_sentinels_move_the_master(watched_once: WatchedRedis) -> None:
    with open_redis(watched_once.url(), connect_s=2, answer_s=5, one_retry=True) as redis:

        def written(key: str) -> bool:
            try:
                return bool(redis.set(key, 1))
            except RedisError:  # on a busy machine the master may look dead for a moment
                return False

        wait_until(lambda: written("before") and replicated(redis))
        first = watched_once.master()
        with watched_once.ask_sentinel() as sentinel, watched_once.ask(first) as old:
            wait_until(lambda: asked_to_move(sentinel))  # both servers live: the old one becomes a replica
            wait_until(lambda: old.info("replication")["role"] == "slave")  # until then it takes writes that are lost

        wait_until(lambda: written("after"))
    with watched_once.ask(watched_once.master()) as second:
        assert [second.get("before"), second.get("after")] == [b"1", b"1"]


def test_tls_goes_to_sentinel_and_servers_and_a_connection_follows_over_it(tmp_path: Path) -> None:
    own = authority(tmp_path)
    with watched_redis(own.context("localhost")) as watched:
        url = watched.url()
        assert url.startswith("rediss+sentinel://")
        with pytest.raises(QueueUnavailable, match=r"sentinels of which the first shows a certificate .*CA_BUNDLE"):
            connect(Settings(redis_url=url), timeout_s=5)
        with watched.ask_sentinel() as sentinel:
            sentinel.execute_command("SENTINEL CONFIG SET", "announce-hostnames", "no")
            with pytest.raises(QueueUnavailable, match=r"certificate .*not valid for '127\.0\.0\.1'"):
                connect(Settings(redis_url=url, ca_bundle=own.bundle), timeout_s=5)
            sentinel.execute_command("SENTINEL CONFIG SET", "announce-hostnames", "yes")
        with open_redis(url, connect_s=2, answer_s=5, one_retry=True, ca_bundle=own.bundle) as redis:

            def written(key: str) -> bool:
                try:
                    return bool(redis.set(key, 1))
                except RedisError:
                    return False

            wait_until(lambda: written("before") and replicated(redis))
            killed = watched.kill_master()
            wait_until(lambda: written("after"))
            assert redis.get("before") == b"1"
            assert redis.connection_pool.get_master_address() == ("localhost", watched.master())
            assert watched.master() != killed
            (connection,) = redis.connection_pool._available_connections
            assert isinstance(connection._sock, ssl.SSLSocket)


@pytest.fixture(name="services")
def services_fixture(watched_once: WatchedRedis, tmp_path: Path) -> Iterator[BenchServices]:
    """A backend, a worker that computes nothing, and a server that counts, at the Redis that is watched."""
    port, picture = free_port(), tmp_path / "picture.bmp"
    picture.write_bytes(blotches(8, 8))
    settings = Settings(
        state_dir=str(tmp_path), label_studio_url=f"http://127.0.0.1:{port}", label_studio_api_key="x",
        port=free_port(), threads=1, reconcile_s=3600, lease_s=2, model="builtin", redis_url=watched_once.url(),
    )  # fmt: skip
    with Supervisor(tmp_path) as supervisor, connect(settings, timeout_s=5) as redis:
        pending = PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
        found = BenchServices(settings, supervisor, redis, pending)
        arguments = ["--port", str(port), "--tasks", str(BEFORE + BETWEEN), "--picture", str(picture)]
        found.start("counting", "worker.lab.benchmarks.counting_server", *arguments,
                    ready=lambda: answers_http(f"http://127.0.0.1:{port}/count"))  # fmt: skip
        found.start("backend", "backend", ready=lambda: answers_http(f"{settings.backend_url}/health"))
        found.start_workers(1, "worker.lab.benchmarks.drain")
        yield found


def request(services: BenchServices, tasks: range) -> httpx.Response:
    rows = [{"id": task, "data": {"image": f"/data/upload/1/{task}.bmp"}, "project": PROJECT} for task in tasks]
    body = {"tasks": rows, "project": f"{PROJECT}.1", "label_config": CONFIG, "params": {"context": None}}
    return httpx.post(f"{services.settings.backend_url}/predict", content=json.dumps(body), timeout=60,
                      headers={"Content-Type": "application/json"}, trust_env=False)  # fmt: skip


def test_backend_and_worker_go_on_at_the_replica_and_no_task_that_it_had_is_lost(
    services: BenchServices, watched_once: WatchedRedis
) -> None:
    pid = services.supervisor.pid("worker-1")
    assert pid
    os.kill(pid, signal.SIGSTOP)  # else it may be through before the replica has everything
    try:
        assert request(services, range(1, BEFORE + 1)).status_code == 200
        with watched_once.ask(watched_once.master()) as master:
            wait_until(lambda: _replicated(master.info("replication")))
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: services.counted()["tasks"] > 0)
    killed = watched_once.kill_master()
    died = time.monotonic()
    assert services.counted()["tasks"] < BEFORE, "the worker was in the middle of it"
    assert request(services, range(BEFORE + 1, BEFORE + BETWEEN + 1)).status_code == 200, "kept until there is a master"
    wait_until(lambda: watched_once.master() != killed)
    wait_until(lambda: services.counted()["tasks"] == BEFORE + BETWEEN, within_s=PATIENCE_S)
    counted = services.counted()
    sys.stdout.write(f"all done {time.monotonic() - died:.1f} s after the master died, "
                     f"{counted['duplicated']} predicted twice\n")  # fmt: skip
    wait_until(lambda: services.pending.counts(PROJECT).pending + services.pending.counts(PROJECT).leased == 0)
    assert services.pending.counts(PROJECT).failed == 0
    assert services.supervisor.pid("worker-1") == pid, "it is the same process"


def _replicated(info: dict[str, object]) -> bool:
    replica = info.get("slave0")
    return isinstance(replica, dict) and replica["offset"] == info["master_repl_offset"]


def test_a_backend_without_any_sentinel_answers_and_says_so(tmp_path: Path) -> None:
    url = f"redis+sentinel://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:1/{MASTER}"
    client = QueueClient(replace(Settings(model="builtin", state_dir=str(tmp_path)), redis_url=url))
    try:
        with pytest.raises(QueueUnavailable, match=r"no sentinel that answers \(127\.0\.0\.1:1: "):
            client.snapshot()
    finally:
        client.close()
