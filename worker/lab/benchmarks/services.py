"""Services that benchmarks of the queue run on: a real Redis, real workers, a counting server as Label Studio."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from redis import Redis
from rich.console import Console

from plugin_config.errors import EnvironmentBroken
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.local.supervisor import Command, Supervisor, answers_http, free_port, module_command
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings

PROJECT = 1
_READY_S = 300.0
_STILL_S = 120.0


@dataclass(frozen=True)
class BenchServices:
    """Running services and connections to them.

    Attributes:
        settings: that the services run with.
        supervisor: of their processes.
        redis: a connection.
        pending: the queue of pending tasks.
    """

    settings: Settings
    supervisor: Supervisor
    redis: Redis
    pending: PendingTasks

    def start(self, name: str, *argv: str, ready: Callable[[], bool] | None = None) -> None:
        """Start a process of the product with these settings."""
        module, *arguments = argv
        command = [*module_command(module), *arguments]
        environment = self.settings.environment("backend" if module == "backend" else "worker")
        self.supervisor.start(Command(name, command, environment, ready=ready, ready_s=_READY_S))

    def start_workers(self, count: int, *argv: str) -> None:
        """Start workers and wait until each has sent a heartbeat."""
        presence = WorkerPresence(self.redis)
        for number in range(1, count + 1):
            self.start(f"worker-{number}", *argv, ready=lambda wanted=number: presence.count() >= wanted)  # type: ignore[misc]

    def counted(self) -> dict[str, Any]:
        """Read the counts of the counting server."""
        answer = httpx.get(f"{self.settings.label_studio_url}/count", timeout=30, trust_env=False)
        return dict(answer.json())

    def wait(self, condition: Callable[[], bool], *, within_s: float, what: str) -> None:
        """Wait until a condition holds.

        Args:
            condition: asked five times a second.
            within_s: seconds.
            what: in words, for the error.

        Raises:
            EnvironmentBroken: it did not hold within that time.
        """
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                remedy = "Run it again when the machine is less busy."
                raise EnvironmentBroken("benchmark", f"{what} did not come within {within_s:.0f} s", remedy)
            time.sleep(0.2)


@contextmanager
def bench_services(*, tasks: int, picture: bytes, **changes: object) -> Iterator[BenchServices]:
    """Start Redis and the counting server in a temporary folder; no worker yet.

    Args:
        tasks: of the counting server's project.
        picture: a BMP file, the image of each task.
        changes: settings that differ from the defaults.
    """
    with tempfile.TemporaryDirectory(prefix="zm-b-") as folder:
        state = Path(folder)
        (state / "picture.bmp").write_bytes(picture)
        port = free_port()
        settings = replace(
            Settings(state_dir=folder, label_studio_url=f"http://127.0.0.1:{port}", label_studio_api_key="x",
                     port=free_port(), threads=1, reconcile_s=3600.0),
            **changes,  # type: ignore[arg-type]
        )  # fmt: skip
        with Supervisor(state) as supervisor:
            redis = embedded_redis(state)
            supervisor.start(redis.command)
            settings = replace(settings, redis_url=redis.url)
            with Redis.from_url(redis.url) as connection:
                pending = PendingTasks(connection, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
                services = BenchServices(settings, supervisor, connection, pending)
                arguments = ["--port", str(port), "--tasks", str(tasks), "--picture", str(state / "picture.bmp")]
                services.start("counting", "worker.lab.benchmarks.counting_server", *arguments,
                               ready=lambda: answers_http(f"http://127.0.0.1:{port}/count"))  # fmt: skip
                yield services


def wait_drained(
    services: BenchServices, projects: Sequence[int], tasks: int, console: Console, *, every_s: float = 0.5
) -> None:
    """Wait until no task of these projects is pending or leased, or until none was done for two minutes.

    Args:
        services: that run.
        projects: their ids.
        tasks: how many they have in all, for the progress.
        console: where it is shown.
        every_s: how often to look.
    """
    with console.status("draining ...") as status:
        last, moved = -1, time.monotonic()
        while time.monotonic() - moved < _STILL_S:
            counts = [services.pending.counts(project) for project in projects]
            done = sum(row.done for row in counts)
            if not any(row.pending + row.leased for row in counts):
                return
            if done != last:
                last, moved = done, time.monotonic()
            status.update(f"draining: {done} of {tasks}")
            time.sleep(every_s)


def blotches(height: int, width: int) -> bytes:
    """A BMP file of smooth noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (max(2, height // 48), max(2, width // 48), 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "BMP")
    return buffer.getvalue()
