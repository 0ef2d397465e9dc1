"""`zeromask up`, `zeromask backend` and `zeromask worker` as a person starts them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from plugin_config.ports import free_port
from tests.house import TOKEN, House

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {key: value for key, value in os.environ.items()
         if key not in {"REDIS_URL", "MODEL"} and not key.startswith(("LABEL_STUDIO_", "ZEROMASK_"))}  # fmt: skip


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plugin_config.cli", *arguments]
    full = {**CLEAN, **env}
    return subprocess.run(command, env=full, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


LABEL_STUDIO = {"LABEL_STUDIO_URL": "http://localhost:1", "LABEL_STUDIO_API_KEY": "x"}


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        pytest.param(["backend"], {}, "REDIS_URL", id="backend without Redis"),
        pytest.param(["worker"], LABEL_STUDIO, "REDIS_URL", id="worker without Redis"),
        pytest.param(["worker"], {"REDIS_URL": "redis://localhost:1"}, "LABEL_STUDIO_URL", id="worker without address"),
        pytest.param(["worker"], {"REDIS_URL": "redis://localhost:1", **LABEL_STUDIO}, "REDIS_URL", id="Redis away"),
        pytest.param(["worker"], {"REDIS_URL": "what?", **LABEL_STUDIO}, "REDIS_URL", id="no Redis address"),
        pytest.param(["up"], {}, "LABEL_STUDIO_URL", id="up without Label Studio"),
        pytest.param(["up"], LABEL_STUDIO, "localhost:1", id="Label Studio does not run"),
        pytest.param(["backend"], {"ZEROMASK_PORT": "many"}, "ZEROMASK_PORT", id="a port that is no number"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_remedy(arguments: list[str], env: dict[str, str], said: str) -> None:
    done = run(*arguments, env=env)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_up_runs_beside_a_label_studio_restarts_what_dies_and_leaves_nothing(house: House, tmp_path: Path) -> None:
    port = free_port()
    env = {**CLEAN, "LABEL_STUDIO_URL": house.label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN,
           "ZEROMASK_PORT": str(port), "ZEROMASK_STATE_DIR": str(tmp_path), "ZEROMASK_THREADS": "1"}  # fmt: skip
    up = subprocess.Popen([sys.executable, "-m", "plugin_config.cli", "up", "--model", "builtin"], env=env, cwd=ROOT,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    family: list[psutil.Process] = []
    try:
        assert "Zeromask runs with model builtin" in first_words(up, within_s=120)
        health = f"http://127.0.0.1:{port}/health"
        assert httpx.get(health).json()["workers"] == 1
        family = psutil.Process(up.pid).children(recursive=True)
        backend = next(child for child in family if child.cmdline()[-1] == "backend")
        backend.kill()
        deadline = time.monotonic() + 30
        while not answers(health):
            assert time.monotonic() < deadline, "the backend was not started again"
            time.sleep(0.1)
        family += psutil.Process(up.pid).children(recursive=True)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=40) == 0
    assert not [child for child in family if child.is_running()]


def first_words(process: subprocess.Popen[str], *, within_s: float) -> str:
    """The first line with anything in it."""
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + within_s
    while True:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
        if line.strip():
            return line


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
