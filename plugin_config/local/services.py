"""The processes of the product on one machine: Redis, the backend, workers and learners, started in that order."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from plugin_config.errors import EnvironmentBroken, QueueUnavailable
from plugin_config.http_requests import user_agent
from plugin_config.local.embedded_redis import connect_briefly, embedded_redis
from plugin_config.local.supervisor import Command, Supervisor, module_command, port_is_free
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings

log = logging.getLogger(__name__)

# Variables that drivers of fsspec read: where an object store is, and its key.
_STORE_VARIABLES = ("AWS_", "FSSPEC_", "GOOGLE_", "AZURE_STORAGE_")
_MODEL_LOADING_S = 900.0  # the first start with a real model fetches its weights


@dataclass(frozen=True)
class Services:
    """Where the running services are reached."""

    redis_url: str = field(repr=False)  # with the password
    backend_url: str


def start_services(
    supervisor: Supervisor, settings: Settings, *, workers: int = 1, learners: int = 1, clickers: int = 0
) -> Services:
    """Start Redis (unless REDIS_URL names one), the backend and the workers, and wait until each is ready; then start
    the learners, and workers that only answer clicks, without waiting for them.

    Raises:
        EnvironmentBroken: a port is taken, or a process does not become ready.
    """
    redis_url = settings.redis_url
    if not redis_url:
        redis = embedded_redis(settings.state_path)
        supervisor.start(redis.command)
        redis_url = redis.url
    settings = replace(settings, redis_url=redis_url)
    if not port_is_free(settings.port):
        remedy = "Stop the other program, or set ZEROMASK_PORT to a free port."
        raise EnvironmentBroken(f"port {settings.port}", "is taken by another program", remedy)
    backend_url = settings.backend_url
    supervisor.start(
        Command(
            "backend", module_command("backend"), {**_store_access(settings), **settings.environment("backend")},
            ready=lambda: _is_healthy(backend_url), bare=True,
        )
    )  # fmt: skip
    log.info("backend listens at %s; loading model %s", backend_url, settings.model)
    for number in range(1, workers + 1):
        name = f"worker-{number}" if workers > 1 else "worker"
        supervisor.start(
            Command(
                name, module_command("worker"), settings.environment("worker"), ready_s=_MODEL_LOADING_S,
                ready=partial(_gives_signs, supervisor, name, settings),
            )
        )  # fmt: skip
    for number in range(1, learners + 1):
        name = f"learner-{number}" if learners > 1 else "learner"
        argv = [*module_command("worker"), "--queue", "finetune"]
        supervisor.launch(Command(name, argv, settings.environment("worker")))
    for number in range(1, clickers + 1):
        name = f"clicks-{number}" if clickers > 1 else "clicks"
        argv = [*module_command("worker"), "--queue", "interactive"]
        supervisor.launch(Command(name, argv, settings.environment("worker")))
    return Services(redis_url, backend_url)


def _store_access(settings: Settings) -> dict[str, str]:
    """What the backend, whose status page reads and moves versions, needs to reach them in an object store."""
    if "://" not in settings.versions:
        return {}
    return {name: value for name, value in os.environ.items() if name.startswith(_STORE_VARIABLES)}


def _is_healthy(backend_url: str) -> bool:
    """Whether the backend's /health answers."""
    try:
        answer = httpx.get(
            f"{backend_url}/health", timeout=2, trust_env=False, headers={"User-Agent": user_agent()}
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def _gives_signs(supervisor: Supervisor, name: str, settings: Settings) -> bool:
    """Whether a child is alive in Redis, where workers of other machines may be, too."""
    process = f"{socket.gethostname()}-{supervisor.pid(name)}"
    try:
        with connect_briefly(settings) as redis:
            return any(worker.process == process for worker in WorkerPresence(redis).workers())
    except QueueUnavailable:
        return False
