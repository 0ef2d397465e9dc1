"""`zeromask up`: Redis, backend, workers and a learner beside an existing Label Studio; what dies is started again."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import httpx

from plugin_config.errors import EnvironmentBroken, ZeromaskError
from plugin_config.files import keep_private
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.local.supervisor import Command, Supervisor, module_command, port_is_free, stop_on_signals
from plugin_config.settings import Settings

log = logging.getLogger(__name__)

_MODEL_LOADING_S = 900.0  # the first start with a real model fetches its weights


@dataclass(frozen=True)
class Halves:
    """Where the running halves are reached."""

    redis_url: str = field(repr=False)  # with the password
    backend_url: str


def main(arguments: Sequence[str]) -> int:
    """Run until Ctrl-C. Returns 0; 2 when something could not start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s up %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings, workers, learners = _parse(arguments)
        settings.require("label_studio_url", "label_studio_api_key").require_guarded()
        keep_private(settings.state_path)
        with LabelStudio(settings.label_studio_url, settings.label_studio_api_key, timeout_s=10) as label_studio:
            label_studio.request("GET", "/api/projects/", params={"page_size": 1})
        with stop_on_signals(), Supervisor(settings.state_path) as supervisor:
            halves = start_halves(supervisor, settings, workers=workers, learners=learners)
            sys.stdout.write(next_step(settings, halves))
            sys.stdout.flush()
            threading.Event().wait()
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask up: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("zeromask up: stopped.\n")
    return 0


def start_halves(supervisor: Supervisor, settings: Settings, *, workers: int = 1, learners: int = 1) -> Halves:
    """Start Redis (unless REDIS_URL names one), the backend and the workers, and wait until they serve; beside them
    those that learn, which nobody waits for.

    Raises:
        EnvironmentBroken: a port is taken or a process does not come up.
    """
    redis_url = settings.redis_url
    if not redis_url:
        redis = embedded_redis(settings.state_path)
        supervisor.start(redis.command)
        redis_url = redis.url
    told = replace(settings, redis_url=redis_url)
    if not port_is_free(settings.port):
        remedy = "Stop the other program, or set ZEROMASK_PORT to a free port."
        raise EnvironmentBroken(f"port {settings.port}", "is taken by another program", remedy)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    backend_url = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    supervisor.start(
        Command(
            "backend", module_command("backend"), told.environment("backend"),
            ready=lambda: _health(backend_url) is not None, bare=True,
        )
    )  # fmt: skip
    log.info("backend listens at %s; loading model %s", backend_url, settings.model)
    for number in range(1, workers + 1):
        supervisor.start(
            Command(
                f"worker-{number}" if workers > 1 else "worker", module_command("worker"), told.environment("worker"),
                ready=lambda wanted=number: ((_health(backend_url) or {}).get("workers") or 0) >= wanted,  # type: ignore[misc]
                ready_s=_MODEL_LOADING_S,
            )
        )  # fmt: skip
    for number in range(1, learners + 1):
        name = f"learner-{number}" if learners > 1 else "learner"
        argv = [*module_command("worker"), "--queue", "finetune"]
        supervisor.launch(Command(name, argv, told.environment("worker")))
    return Halves(redis_url, backend_url)


def _health(backend_url: str) -> Mapping[str, int] | None:
    try:
        answer = httpx.get(f"{backend_url}/health", timeout=2, trust_env=False)
    except httpx.TransportError:
        return None
    return dict(answer.json()) if answer.status_code == 200 else None


def next_step(settings: Settings, halves: Halves) -> str:
    """What a person does once everything runs; passwords are not told."""
    signing_in = ""
    if settings.signs_in:
        signing_in = (
            f",\nauthentication method Basic Authentication, user {settings.user}, password as ZEROMASK_PASSWORD"
        )
    return (
        f"\nZeromask runs with model {settings.model}.\n"
        f"In Label Studio ({settings.label_studio_url}): project -> Settings -> Model -> Connect Model,\n"
        f"address {halves.backend_url}{signing_in}, then select tasks -> Actions -> Retrieve Predictions.\n"
        "Label Studio must be told to allow private addresses: ML_BLOCK_LOCAL_IP=false and\n"
        "SSRF_PROTECTION_ENABLED=false in its environment.\n"
        f"Logs: {settings.state_path / 'logs'}. Ctrl-C stops everything.\n"
    )


def _parse(arguments: Sequence[str]) -> tuple[Settings, int, int]:
    settings = Settings.from_env(os.environ)
    parser = argparse.ArgumentParser(prog="zeromask up", description="Redis, backend and workers beside Label Studio.")
    parser.add_argument("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: %(default)s)")
    told = "processes that learn from corrections, each with a model of its own (default: %(default)s)"
    parser.add_argument("--learners", type=int, default=1, help=told)
    found = parser.parse_args(arguments)
    return replace(settings, model=found.model), max(1, found.workers), max(0, found.learners)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
