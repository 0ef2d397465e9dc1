"""The backend as people run it: `python -m backend` under waitress, its answers, its memory, its start and its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from plugin_config.local.supervisor import free_port
from plugin_config.queue.jobs import refresh_queue
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from tests.backend_client import TOKEN, VERSION, predict_body, setup_body
from tests.house import wait_until

ROOT = Path(__file__).resolve().parent.parent
MOST_MB = 150


@dataclass(frozen=True)
class RunningBackend:
    """A running backend."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; returns the status and the JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def start(**environ: str) -> subprocess.Popen[str]:
    # As a shell starts what is to run in the background: with Ctrl-C ignored.
    command = ["/bin/sh", "-c", 'trap "" INT; exec "$0" -m backend', sys.executable]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}
    env = {**kept, "MODEL": "builtin", **environ}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def running(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[RunningBackend]:
    """A backend of its own process over the session's Redis."""
    with serving(REDIS_URL=redis_url, ZEROMASK_STATE_DIR=str(tmp_path), ZEROMASK_MAX_BODY_MB="1") as backend:
        yield backend


@contextmanager
def serving(**environ: str) -> Iterator[RunningBackend]:
    """A backend of its own process that answers, and is killed in the end."""
    port = free_port()
    process = start(ZEROMASK_PORT=str(port), **environ)
    try:
        backend = RunningBackend(process, port)
        wait_until_up(backend)
        yield backend
    finally:
        process.kill()
        process.communicate()


def wait_until_up(backend: RunningBackend) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            backend.ask("GET", "/health")
        except OSError:
            if backend.process.poll() is not None or time.monotonic() > deadline:
                backend.process.kill()
                _, errors = backend.process.communicate()
                pytest.fail(f"the backend did not start: {errors}")
            time.sleep(0.05)
        else:
            return


def wait_looked(backend: RunningBackend, redis: Redis) -> None:
    """A webhook makes a worker look at its project; it is sent again where Redis was too slow for its answer."""

    def queued() -> bool:
        assert backend.ask("POST", "/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 7}})[0] in (200, 201)
        return len(refresh_queue(redis)) == 1

    wait_until(queued, told="the look at the project")


def test_it_answers_and_stays_small(running: RunningBackend, redis: Redis, pending: PendingTasks) -> None:
    wait_until(lambda: running.ask("GET", "/health")[1]["redis"] is True)  # a Redis that is slow once counts as away
    assert running.ask("POST", "/setup", setup_body()) == (200, {"model_version": VERSION})
    answer = {"results": [[], [], []], "model_version": VERSION}
    assert running.ask("POST", "/predict", predict_body(1, 2, 3)) == (200, answer)
    wait_looked(running, redis)
    assert running.ask("POST", "/webhook", {"action": "PROJECT_UPDATED"})[0] == 400
    wait_until(lambda: pending.counts(7).pending == 3)
    proc = Path(f"/proc/{running.process.pid}")
    if not proc.exists():
        pytest.skip("no /proc here: memory and libraries of the process cannot be seen")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    assert int(status["VmRSS"].split()[0]) / 1024 < MOST_MB
    mapped = (proc / "maps").read_text()
    assert [library for library in ("libtorch", "libc10", "libcuda", "libcudart", "cv2") if library in mapped] == []


def test_it_loads_no_old_web_framework_and_no_models(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    """Whatever its routes import, also late: the interpreter writes down at its end what it has loaded."""
    loaded = tmp_path / "loaded"
    script = f"import atexit, sys\natexit.register(lambda: open({str(loaded)!r}, 'w').write(' '.join(sys.modules)))\n"
    (tmp_path / "sitecustomize.py").write_text(script)
    with serving(REDIS_URL=redis_url, ZEROMASK_STATE_DIR=str(tmp_path), PYTHONPATH=str(tmp_path)) as backend:
        for method, route, body in (
            ("POST", "/setup", setup_body()),
            ("POST", "/predict", predict_body(1)),
            ("POST", "/webhook", {"action": "PROJECT_UPDATED", "project": 7}),
            ("POST", "/train", {"project": 7}),
            ("POST", "/setup", {}),
            ("GET", "/versions", None),
            ("GET", "/is_training", None),
            ("GET", "/openapi.json", None),
            ("GET", "/nothing", None),
        ):
            backend.ask(method, route, body)
        backend.process.terminate()
        backend.process.communicate(timeout=60)
    modules = {name.partition(".")[0] for name in loaded.read_text().split()}
    assert "falcon" in modules
    assert modules & {"flask", "werkzeug", "jinja2", "torch", "numpy", "cv2", "worker"} == set()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_what_was_asked_for_while_redis_was_away_outlives_its_backend(
    pending: PendingTasks, redis_url: str, tmp_path: Path, end: signal.Signals
) -> None:
    later = tmp_path / "later.sock"
    away = {"REDIS_URL": f"unix://{later}", "ZEROMASK_STATE_DIR": str(tmp_path)}
    with serving(**away) as backend:
        assert backend.ask("POST", "/predict", predict_body(*range(1, 100)))[0] == 200
        backend.process.send_signal(end)
        backend.process.communicate(timeout=60)
    with serving(**away) as backend:
        assert backend.ask("GET", "/health")[1]["tasks_waiting_for_redis"] == 99
        later.symlink_to(redis_url.removeprefix("unix://"))
        wait_until(lambda: backend.ask("GET", "/health")[1]["tasks_waiting_for_redis"] == 0)
    assert pending.counts(7).pending == 99


@pytest.mark.parametrize("with_length", [True, False], ids=["with its length", "chunked"])
def test_a_large_body_is_refused_in_json(running: RunningBackend, with_length: bool) -> None:
    body = b" " * (1024 * 1024 + 1)
    headers = {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    if with_length:
        connection.request("POST", "/predict", body, headers)
    else:
        connection.request("POST", "/predict", iter([body]), headers, encode_chunked=True)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert (response.status, answer["status"]) == (413, 413)
    assert running.ask("GET", "/health")[0] == 200


def test_a_broken_request_line_is_refused_in_json(running: RunningBackend) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nBad Header : x\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(
    running: RunningBackend, pending: PendingTasks, presence: WorkerPresence, sent: signal.Signals
) -> None:
    presence.heartbeat("busy")
    answers: list[tuple[int, Any]] = []
    # This one waits 1.5 s for a worker that never settles: it is in hand when the signal comes.
    asking = threading.Thread(target=lambda: answers.append(running.ask("POST", "/predict", predict_body(1, 2))),
                              daemon=True)  # fmt: skip
    asking.start()
    wait_until(lambda: pending.counts(7).pending == 2)
    running.process.send_signal(sent)
    _, errors = running.process.communicate(timeout=60)
    asking.join()
    assert running.process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "stopped" in errors
    assert answers == [(200, {"results": [[], []], "model_version": VERSION})]


def test_its_log_names_routes_and_no_secrets(running: RunningBackend) -> None:
    running.ask("POST", "/setup", setup_body())
    running.process.terminate()
    _, errors = running.process.communicate(timeout=60)
    assert "POST /setup 200 project=7" in errors
    assert TOKEN not in errors


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        pytest.param({}, "setting REDIS_URL: is not set", id="no Redis"),
        pytest.param({"REDIS_URL": "localhost:6379"}, "setting REDIS_URL: is not the address", id="no address"),
        pytest.param({"REDIS_URL": "redis://h/0", "ZEROMASK_PORT": "x"}, "setting ZEROMASK_PORT", id="no port"),
        pytest.param(
            {"REDIS_URL": "redis://h/0", "ZEROMASK_HOST": "0.0.0.0"}, "nobody has to sign in", id="open to everybody"
        ),
    ],
)
def test_it_does_not_start_with_wrong_settings_and_says_what_to_do(
    environ: dict[str, str], says: str, tmp_path: Path
) -> None:
    process = start(ZEROMASK_STATE_DIR=str(tmp_path), **environ)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert says in errors
    assert errors.count("\n") == 1, errors


def test_it_does_not_start_on_a_port_in_use(redis_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = start(REDIS_URL=redis_url, ZEROMASK_PORT=port, ZEROMASK_STATE_DIR=str(tmp_path))
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "cannot listen on port" in errors
    assert "Stop the program that has it" in errors
    assert "Traceback" not in errors


def test_a_second_backend_on_a_taken_port_leaves_the_outbox_alone(
    pending: PendingTasks, redis_url: str, dead_redis_url: str, tmp_path: Path
) -> None:
    kept = b'{"project": 7, "version": "v1", "tasks": [1, 2]}\nan unreadable line\n'
    outbox = tmp_path / "asked.jsonl"
    with serving(REDIS_URL=dead_redis_url, ZEROMASK_STATE_DIR=str(tmp_path)) as first:
        outbox.write_bytes(kept)
        second = start(REDIS_URL=redis_url, ZEROMASK_STATE_DIR=str(tmp_path), ZEROMASK_PORT=str(first.port))
        _, errors = second.communicate(timeout=120)
        assert second.returncode == 2
        assert f"cannot listen on port {first.port}" in errors
        assert errors.count("\n") == 1, errors
        assert outbox.read_bytes() == kept
        assert pending.projects() == [], "nothing of it was sent"


def test_it_starts_while_redis_is_away(dead_redis_url: str, tmp_path: Path) -> None:
    with serving(REDIS_URL=dead_redis_url, ZEROMASK_STATE_DIR=str(tmp_path)) as backend:
        assert backend.ask("GET", "/health")[1]["redis"] is False
