"""Malformed requests, over sockets, to a backend of its own process over a real Redis."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from plugin_config.local.embedded_redis import server_binary
from plugin_config.local.supervisor import free_port
from tests.backend_client import TOKEN, VERSION, predict_body, setup_body
from tests.fuzz import configs
from tests.fuzz.contract import Right, is_right
from tests.fuzz.requests import BODIES, CASES, Request, body_of
from tests.fuzz.verdicts import ROOT, TAKEN, Kind, Verdict, judge_sentence

SUBJECTS = ("request: ", "request body: ", "header ", "sign-in: ", "project ", "Redis: ", *configs.SUBJECTS)
_CANARY_EVERY = 10
_CANARY_S = 5.0
_ANSWER_S = 15.0
_START_S = 120.0


@dataclass(frozen=True)
class Reply:
    """What came back: status 0 = the connection ended without an answer."""

    status: int
    media: str = ""
    body: bytes = b""
    seconds: float = 0.0


class WireJudge:
    """Silent: a body that breaks the contract of its route (read with the standard library: not JSON, a needed field
    missing, twice or of the wrong type, a labeling config that `parse_vocabulary` refuses) and is answered 2xx.
    Refused: one that keeps it and is not. Crashed: 500 and above but a documented 503, or a connection that ends
    without an answer to a whole request. Harmed: a valid request of another project, sent in between, is not answered
    rightly and in time.
    """

    def __init__(self, port: int, pid: int) -> None:
        self._port, self._pid = port, pid
        self._tried = 0

    def memory_mb(self) -> float:
        return float(psutil.Process(self._pid).memory_info().rss) / 1e6

    def __call__(self, case: Request) -> Verdict:
        self._tried += 1
        if self._tried % _CANARY_EVERY == 0 and (harmed := self._canary()) is not None:
            return harmed
        content = body_of(case)
        reply = self._send(_request(case, content), case.method)
        return self._judge(case, content, reply)

    def _judge(self, case: Request, content: bytes, reply: Reply) -> Verdict:
        framed = any(name.lower() in ("content-length", "transfer-encoding", "", "expect") for name, _ in case.headers)
        if reply.status == 0:
            if framed or not psutil.pid_exists(self._pid):
                return TAKEN if psutil.pid_exists(self._pid) else Verdict("crashed", "the backend died", "backend died")
            return Verdict("crashed", f"no answer to {_shown(case)}"[:300], "no answer")
        if reply.seconds > _ANSWER_S:
            return Verdict("hung", f"answered after {reply.seconds:.1f} s", "slow")
        if reply.status >= 500 and reply.status not in (501, 503):
            return Verdict("crashed", f"{reply.status} {reply.body[:200]!r}", f"HTTP {reply.status}")
        plain = not case.headers and not case.path and case.method == "POST"
        right = is_right(case.route, content) if plain and case.route in BODIES else "either"
        if reply.status < 300:
            if right == "wrong":
                return Verdict("silent", f"answered {reply.status}, {reply.body[:200]!r}",
                               f"{case.route} {reply.status}")
            return TAKEN
        return self._judge_refusal(case, reply, right)

    def _judge_refusal(self, case: Request, reply: Reply, right: Right) -> Verdict:
        if right == "right" and reply.status != 503:
            return Verdict("refused", f"{reply.status} {reply.body[:300]!r}", f"{case.route} {reply.status}")
        if case.method == "HEAD":
            return TAKEN
        try:
            told = json.loads(reply.body)
        except ValueError:
            return Verdict("unclear", f"{reply.status} {reply.media}: {reply.body[:200]!r}", f"no JSON: {reply.status}")
        if set(told) != {"status", "detail"} or told["status"] != reply.status:
            return Verdict("unclear", f"{reply.body[:200]!r}", "another shape")
        if right == "right":
            return Verdict("told", str(told["detail"]))
        return judge_sentence(str(told["detail"]), *SUBJECTS, secret=TOKEN)

    def _canary(self) -> Verdict | None:
        """A valid request of another project: None where it was answered as ever."""
        number = 7_000_000 + self._tried % 5
        route, body = "/predict", predict_body(self._tried, self._tried + 1, project=f"{number}.1")
        expected: dict[str, Any] = {"results": [[], []], "model_version": VERSION}
        if self._tried % (2 * _CANARY_EVERY) == 0:
            route, body, expected = "/setup", setup_body(project=f"{number}.1"), {"model_version": VERSION}
        content = json.dumps(body).encode()
        reply = self._send(_request(Request(route, ()), content), "POST")
        if reply.status != 200 or json.loads(reply.body) != expected or reply.seconds > _CANARY_S:
            told = f"a valid {route} was answered {reply.status} in {reply.seconds:.1f} s: {reply.body[:200]!r}"
            return Verdict("harmed", told, f"valid {route} {reply.status}")
        return None

    def _send(self, content: bytes, method: str) -> Reply:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", self._port), timeout=3 * _ANSWER_S) as connection:
            try:
                connection.sendall(content)
                response = http.client.HTTPResponse(connection, method=method)
                response.begin()
                body = response.read()
            except (OSError, http.client.HTTPException):
                return Reply(0, seconds=time.monotonic() - started)
            return Reply(response.status, response.getheader("Content-Type") or "", body, time.monotonic() - started)


def _request(case: Request, content: bytes) -> bytes:
    body = content if case.method not in ("GET", "HEAD") else b""
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)),
               "Connection": "close"}
    lines = [f"{case.method} {case.path or case.route} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name not in dict(case.headers)]
    lines += [f"{name}: {value}" for name, value in case.headers]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _shown(case: Request) -> str:
    return ascii(_request(case, body_of(case))[:1500])


def show(case: Request) -> str:
    """The request's bytes, without those of a long body."""
    return _shown(case)


@contextmanager
def judge() -> Iterator[WireJudge]:
    """A Redis and a backend of their own."""
    with tempfile.TemporaryDirectory(prefix="zm-z-") as folder:
        path = Path(folder) / "redis.sock"
        quiet = ["--save", "", "--appendonly", "no", "--loglevel", "warning"]
        command = [server_binary(), "--port", "0", "--unixsocket", str(path), "--dir", folder, *quiet]
        nothing: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
                                   "stderr": subprocess.DEVNULL}
        redis = subprocess.Popen(command, **nothing)
        port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}
        told = {"MODEL": "builtin", "REDIS_URL": f"unix://{path}", "ZEROMASK_STATE_DIR": folder,
                "ZEROMASK_PORT": str(port),
                "ZEROMASK_PREDICT_WAIT_S": "0"}  # fmt: skip
        backend = subprocess.Popen([sys.executable, "-m", "backend"], cwd=ROOT, env={**kept, **told}, **nothing)
        try:
            found = WireJudge(port, backend.pid)
            _wait_until_up(found, backend)
            yield found
        finally:
            for process in (backend, redis):
                process.kill()
                process.wait()


def _wait_until_up(judge: WireJudge, backend: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + _START_S
    while True:
        try:
            if judge._canary() is None:
                return
        except OSError:
            if backend.poll() is not None:
                break
        if time.monotonic() > ends:
            break
        time.sleep(0.1)
    raise TimeoutError("the backend did not start")


KIND = Kind("requests", CASES, "tests.fuzz.wire:judge", show, most_s=2 * _ANSWER_S, most_growth_mb=100.0, full=2500,
            short=120,
            apart=False)  # fmt: skip
