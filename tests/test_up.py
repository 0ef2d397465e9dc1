"""`zeromask up`, `zeromask backend` and `zeromask worker` as a person starts them."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from plugin_config.cli.up import next_step
from plugin_config.errors import EnvironmentBroken
from plugin_config.label_studio.connecting import models
from plugin_config.local.services import Services, start_services
from plugin_config.local.supervisor import Supervisor, free_port
from plugin_config.queue.keys import WORKERS
from plugin_config.settings import Settings
from tests.house import CONFIG, PATIENCE_S, TOKEN, House, left_running, picture, upload, wait_predicted, wait_until

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {key: value for key, value in os.environ.items()
         if key not in {"REDIS_URL", "MODEL"} and not key.startswith(("LABEL_STUDIO_", "ZEROMASK_"))}  # fmt: skip


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plugin_config.cli", *arguments]
    full = {**CLEAN, **env}
    return subprocess.run(command, env=full, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


LABEL_STUDIO = {"LABEL_STUDIO_URL": "http://localhost:1", "LABEL_STUDIO_API_KEY": "x"}


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        pytest.param(["backend"], {}, "REDIS_URL", id="backend without Redis"),
        pytest.param(["worker"], LABEL_STUDIO, "REDIS_URL", id="worker without Redis"),
        pytest.param(["worker"], {"REDIS_URL": "redis://localhost:1"}, "LABEL_STUDIO_URL", id="worker without address"),
        pytest.param(["worker"], {"REDIS_URL": "redis://localhost:1", **LABEL_STUDIO}, "REDIS_URL", id="Redis away"),
        pytest.param(["worker"], {"REDIS_URL": "what?", **LABEL_STUDIO}, "REDIS_URL", id="no Redis address"),
        pytest.param(["up"], {}, "LABEL_STUDIO_URL", id="up without Label Studio"),
        pytest.param(["up"], LABEL_STUDIO, "localhost:1", id="Label Studio does not run"),
        pytest.param(["up"], {**LABEL_STUDIO, "ZEROMASK_HOST": "0.0.0.0"}, "ZEROMASK_USER", id="open and unguarded"),
        pytest.param(["backend"], {"ZEROMASK_PORT": "many"}, "ZEROMASK_PORT", id="a port that is no number"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_remedy(
    arguments: list[str], env: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = run(*arguments, env={**env, "ZEROMASK_STATE_DIR": str(tmp_path)})
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_up_runs_beside_a_label_studio_restarts_what_dies_and_leaves_nothing(house: House, tmp_path: Path) -> None:
    body = {"title": "house of up", "label_config": CONFIG.format(more="")}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20)])
    port = free_port()
    env = {**CLEAN, "LABEL_STUDIO_URL": house.label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN,
           "ZEROMASK_PORT": str(port), "ZEROMASK_STATE_DIR": str(tmp_path), "ZEROMASK_THREADS": "1"}  # fmt: skip
    command = ["up", "--model", "builtin", "--connect", str(project), "--connect", "99999"]
    up = subprocess.Popen([sys.executable, "-m", "plugin_config.cli", *command], env=env, cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    family: list[psutil.Process] = []
    try:
        assert f"Project {project}, 'house of up', tasks: 1" in first_words(up)
        wait_predicted(house, project)
        assert models(house.label_studio, project)[0].url == f"http://127.0.0.1:{port}"
        health = f"http://127.0.0.1:{port}/health"
        wait_until(lambda: live_workers(health) == 1, told="the worker")
        family = psutil.Process(up.pid).children(recursive=True)
        backend = next(child for child in family if child.cmdline()[-1] == "backend")
        backend.kill()
        wait_until(lambda: not backend.is_running() and live_workers(health) is not None, told="another backend")
        family += psutil.Process(up.pid).children(recursive=True)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=PATIENCE_S) == 0
    assert not left_running([child.pid for child in family])


def test_a_worker_of_another_machine_does_not_stand_for_one_that_did_not_start(
    settings: Settings, redis: Redis, tmp_path: Path
) -> None:
    ahead = time.time() * 1000 + 14_000  # as far as counts: it stays alive while these start
    redis.zadd(WORKERS, {"elsewhere-12-abcdef": ahead})
    broken = replace(settings, model="no-such-model", port=free_port(), label_studio_url="http://localhost:1")
    with (
        Supervisor(tmp_path) as supervisor,
        pytest.raises(EnvironmentBroken, match="worker: ended at once with status 2"),
    ):
        start_services(supervisor, broken, learners=0)


@pytest.mark.parametrize(
    ("command", "printed"), [("up", "zeromask up: stopped.\n"), ("status", "")], ids=["up", "status"]
)
def test_ctrl_c_before_anything_answered_ends_a_command_in_good_order(
    command: str, printed: str, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(PATIENCE_S)
        port = silent.getsockname()[1]
        env = {**CLEAN, "LABEL_STUDIO_URL": f"http://127.0.0.1:{port}", "LABEL_STUDIO_API_KEY": TOKEN,
               "REDIS_URL": f"redis://127.0.0.1:{port}", "ZEROMASK_STATE_DIR": str(tmp_path)}  # fmt: skip
        waiting = subprocess.Popen([sys.executable, "-m", "plugin_config.cli", command], env=env, cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
        try:
            connection, _ = silent.accept()
            with connection:
                waiting.send_signal(signal.SIGINT)
                assert waiting.communicate(timeout=PATIENCE_S)[1] == printed
        finally:
            waiting.kill()
            waiting.wait()
    assert waiting.returncode == 0


@pytest.mark.parametrize("signs_in", [True, False])
def test_what_up_says_next_names_the_user_and_no_secret(signs_in: bool) -> None:
    sign_in: dict[str, Any] = {"user": "ls", "password": "hush1" * 3, "webhook_secret": "hush2" * 4}
    settings = Settings(label_studio_url="http://ls", label_studio_api_key="hush3", **(sign_in if signs_in else {}))
    told = next_step(settings, Services("unix://:hush4@/s", "http://127.0.0.1:9090"))
    assert "http://127.0.0.1:9090" in told
    assert "http://127.0.0.1:9090/status" in told
    assert "`zeromask connect PROJECT`" in told
    assert ("user ls" in told) is ("Basic Auth" in told) is signs_in
    assert "hush" not in told


def first_words(process: subprocess.Popen[str]) -> str:
    """The first line with anything in it."""
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    while True:
        line = lines.get(timeout=PATIENCE_S)
        if line.strip():
            return line


def live_workers(health: str) -> int | None:
    """As the backend reports; None while it does not answer."""
    try:
        answer = httpx.get(health, timeout=2)
    except httpx.TransportError:
        return None
    return int(answer.json()["workers"]) if answer.status_code == 200 else None
