"""Malformed requests, over sockets, to a backend of its own process over a real Redis."""

from __future__ import annotations

import gzip
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
from typing import Any, Literal

import psutil
from hypothesis import strategies as st

from plugin_config.errors import LabelingConfigError
from plugin_config.local.embedded_redis import server_binary
from plugin_config.local.supervisor import free_port
from plugin_config.vocabulary import parse_vocabulary
from tests.backend_client import TOKEN, VERSION, predict_body, setup_body
from tests.fuzz import configs
from tests.fuzz.verdicts import ROOT, TAKEN, Kind, Verdict, judge_sentence, pick

_CANARY_EVERY = 10
_CANARY_S = 5.0
_ANSWER_S = 15.0
_START_S = 120.0
_MOST_ID = 2**63 - 1
_DEEPEST = 90  # the backend takes 100 levels; other readers of JSON may stop earlier
SUBJECTS = ("request: ", "request body: ", "header ", "sign-in: ", "project ", "Redis: ", *configs.SUBJECTS)
Right = Literal["right", "wrong", "either"]
_BODIES: dict[str, Any] = {
    "/setup": setup_body(), "/predict": predict_body(1, 2, 3),
    "/webhook": {"action": "ANNOTATION_CREATED", "project": {"id": 7, "title": "x"}, "tasks": [{"id": 1}, {"id": 2}],
                 "annotation": {"id": 1, "result": []}},
    "/train": {"project": {"id": 7}}, "/versions": {"project": "7"},
}  # fmt: skip
_NEEDED = {"/setup": ("project", "schema"), "/predict": ("project", "label_config", "tasks"),
           "/webhook": ("action", "project"), "/train": ("project",), "/versions": ()}  # fmt: skip
_GETS = ("/", "/health", "/versions", "/is_training", "/metrics", "/openapi.json")


@dataclass(frozen=True)
class Change:
    """One change of a body: of the value at a place, [0, 1) of all of its places; or of its text, or of a header."""

    kind: str
    at: float
    raw: str = "null"
    name: str = ""


@dataclass(frozen=True)
class Request:
    """A valid request, and what is changed about it."""

    route: str
    changes: tuple[Change, ...]
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    path: str = ""
    config: configs.Config | None = None


class Raw(str):
    """JSON that is written as it is."""

    __slots__ = ()


def _pairs(value: Any) -> Any:
    """Objects as lists of pairs, so that a name can be there twice."""
    if isinstance(value, dict):
        return _Object([name, _pairs(inner)] for name, inner in value.items())
    return [_pairs(inner) for inner in value] if isinstance(value, list) else value


class _Object(list):  # type: ignore[type-arg]
    """The names and values of an object."""


def _text(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, _Object):
        return "{" + ", ".join(f"{json.dumps(name)}: {_text(inner)}" for name, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value)


def body_of(case: Request) -> bytes:
    """The body as it is sent."""
    plain = dict(_BODIES[case.route]) if case.route in _BODIES else {}
    if case.config is not None:
        plain["label_config" if case.route == "/predict" else "schema"] = configs.written(case.config)
    tree = _pairs(plain)
    for change in case.changes:
        tree = _changed(tree, change)
    text = _text(tree)
    content = text.encode("utf-8", "surrogatepass")
    for change in case.changes:
        content = _damaged(content, text, change)
    return content


def _changed(tree: Any, change: Change) -> Any:
    places: list[tuple[Any, int]] = []

    def walk(node: Any) -> None:
        if isinstance(node, _Object):
            for pair in node:
                places.append((pair, 1))
                walk(pair[1])
        elif isinstance(node, list):
            for number, inner in enumerate(node):
                places.append((node, number))
                walk(inner)

    walk(tree)
    if not places:
        return tree
    holder, number = places[int(change.at * len(places))]
    match change.kind:
        case "set":
            holder[number] = Raw(change.raw)
        case "nest":
            depth = int(change.name or 200)
            holder[number] = Raw("[" * depth + "]" * depth)
        case "list":
            holder[number] = [holder[number]]
        case "object":
            holder[number] = _Object([["id", holder[number]]])
        case "drop" | "twice" | "rename" | "add" if isinstance(tree, _Object) and tree:
            pair = tree[int(change.at * len(tree))]
            if change.kind == "drop":
                tree.remove(pair)
            elif change.kind == "twice":
                tree.append([pair[0], Raw(change.raw)])
            elif change.kind == "rename":
                pair[0] = change.name
            else:
                tree.insert(0, [change.name, Raw(change.raw)])
        case "whole":
            return Raw(change.raw)
        case "many":
            many = [_Object([["id", count + 1]]) for count in range(int(change.name or 5000))]
            for pair in tree if isinstance(tree, _Object) else ():
                if pair[0] == "tasks":
                    pair[1] = many
    return tree


def _damaged(content: bytes, text: str, change: Change) -> bytes:
    at = int(change.at * len(content))
    match change.kind:
        case "cut":
            return content[:at]
        case "insert":
            return content[:at] + change.raw.encode("utf-8", "surrogatepass") + content[at:]
        case "bytes":
            return content[:at] + b"\xff\xc0\x80" + content[at:]
        case "encoding":
            return text.encode(change.name, "replace")
        case "gzip":
            return gzip.compress(content)
        case "space":
            return b" \n" * 3000 + content
    return content


def is_right(case: Request, content: bytes) -> Right:
    """Whether a body keeps the contract of its route, judged with the standard library alone."""
    try:
        text = content.decode("utf-8-sig")
        body = json.loads(text, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return "either" if _is_deep(content) else "wrong"
    if not isinstance(body, _Read):
        return "wrong"
    if _depth(body) > _DEEPEST:
        return "either"
    if body.twice:
        return "wrong" if set(body.twice) & {*_NEEDED[case.route], "project", "params"} else "either"
    if any(name not in body for name in _NEEDED[case.route]):
        return "wrong"
    if not _is_project(case.route, body.get("project")) and not (case.route == "/versions" and body.get("project") is None):
        return "wrong"
    return _is_rest_right(case.route, body)


def _is_rest_right(route: str, body: dict[str, Any]) -> Right:
    if route == "/webhook":
        return "right" if isinstance(body["action"], str) and _is_name(body["action"]) else "wrong"
    if route in ("/setup", "/predict"):
        config = body["schema" if route == "/setup" else "label_config"]
        if not isinstance(config, str):
            return "wrong"
        try:
            parse_vocabulary(config)
        except LabelingConfigError:
            return "wrong"
    if route != "/predict":
        return "right"
    params = body.get("params")
    if not (params is None or isinstance(params, dict)):
        return "wrong"
    tasks = body["tasks"]
    if not isinstance(tasks, list):
        return "wrong"
    if any(isinstance(task, _Read) and task.twice for task in tasks):
        return "either"
    return "right" if all(isinstance(task, dict) and _is_id(task.get("id")) for task in tasks) else "wrong"


class _Read(dict):  # type: ignore[type-arg]
    """An object, and the names that it has twice."""

    twice: list[str]


def _object(pairs: list[tuple[str, Any]]) -> _Read:
    found = _Read(pairs)
    names = [name for name, _ in pairs]
    found.twice = [name for name in found if names.count(name) > 1]
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_deep(content: bytes) -> bool:
    return content.count(b"[") + content.count(b"{") > _DEEPEST


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST_ID


def _is_project(route: str, value: Any) -> bool:
    if isinstance(value, dict) and route not in ("/setup", "/predict"):
        value = value.get("id")
    if isinstance(value, str):
        whole, dot, rest = value.partition(".")
        digits = whole.isascii() and whole.isdecimal() and whole[0] != "0" and len(value) <= 64
        return digits and int(whole) <= _MOST_ID and (not dot or (rest.isascii() and rest.isdecimal()))
    return _is_id(value)


def _is_name(value: str) -> bool:
    return 0 < len(value) <= 64 and all(char.isascii() and (char.isalnum() or char in "_.:-") for char in value)


_VALUES = [
    "null", "true", "false", "0", "1", "-1", "7", "1.0", "1.5", "1e2", "1e400", "-0", "NaN", "Infinity", "-Infinity", "01", "0x10",
    str(2**63), str(2**63 - 1), str(-(2**63)), "9" * 400, "9" * 5000, "1" + "0" * 30, '""', '"7"', '"7.17"', '"7."', '"07"', '"-7"',
    '"7.1.2"', '"\\u0667"', '" 7"', '"7\\n"', '"x"', '"' + "a" * 70_000 + '"', '"\\ud800"', '"\\u0000"', '"\\udc00\\ud800"',
    '"caf\\u00e9"', '"\U0001f408"', '"PROJECT_UPDATED"', '"START_TRAINING"', '"a b"', '"\\r\\nX: y"', "[]", "{}", "[[]]", "[null]",
    '[{"id": 1}]', '[{"id": null}]', '[{"id": "1"}]', '[{"id": 1.0}]', '[{"id": -1}]', '[{"id": true}]', '[{"id": 1, "id": 2}]',
    "[1, 2, 3]", '[{"id": 1}, null]', '{"id": 7}', '{"id": "7"}', '{"id": {}}', '{"id": [7]}', '{"context": {}}', '{"context": null}',
    "undefined", "'x'", "[1,]", '{"a": 1,}', "/* x */ 1", "\ud800", "\x00", '"\x01"', '"unfinished',
]  # fmt: skip
_NAMES = ["project", "tasks", "label_config", "schema", "params", "action", "id", "Project", "", "\x00", "__proto__", "projet", "data"]
_UNIT = st.floats(0, 0.999)
_RAW = pick(_VALUES)
_CHANGE = st.one_of(
    st.builds(Change, st.sampled_from(["set", "set", "set", "twice", "whole"]), _UNIT, _RAW),
    st.builds(Change, st.sampled_from(["set", "add", "twice"]), _UNIT, _RAW, st.sampled_from(_NAMES)),
    st.builds(Change, st.sampled_from(["drop", "list", "object", "cut", "bytes", "gzip", "space"]), _UNIT),
    st.builds(Change, st.just("rename"), _UNIT, st.just(""), st.sampled_from(_NAMES)),
    st.builds(Change, st.just("nest"), _UNIT, st.just(""), st.sampled_from(["50", "99", "101", "500", "5000", "50000"])),
    st.builds(Change, st.just("insert"), _UNIT, pick([*_VALUES, "{", "}", "[", "]", ",", ":", '"', "\\", " "])),
    st.builds(Change, st.just("encoding"), _UNIT, st.just(""),
              st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7", "cp500"])),
    st.builds(Change, st.just("many"), _UNIT, st.just(""), st.sampled_from(["1000", "5000", "20000"])),
)  # fmt: skip
_CHANGES = st.lists(_CHANGE, min_size=1, max_size=3).map(tuple)
_HEADER = st.one_of(
    st.tuples(st.just("Content-Type"), pick(
        ["", "text/plain", "application/json; charset=utf-16", "application/JSON", "application/json;;", "multipart/form-data", "x",
         "application/json, text/html", "application/x-www-form-urlencoded", "application/json\t", "*/*", "\xff"])),
    st.tuples(st.just("Content-Length"), pick(
        ["-1", "+5", "0", "1", "5", "abc", "", "5 5", "99999999999999999999", "9" * 5000, "5, 5", "0x10", "\u0665", "1e3", "5;"])),
    st.tuples(st.sampled_from(["Transfer-Encoding", "Content-Encoding", "Expect", "Connection", "Upgrade"]), pick(
        ["chunked", "gzip", "identity", "gzip, chunked", "100-continue", "x", "close", "h2c", "", "\x0b", "trailers"])),
    st.tuples(st.just("Host"), pick(
        ["", "evil.example", "localhost:99999999", "127.0.0.1@evil", "[::1", "[::1]", "a b", "xn--nxasmq6b", "é", "x" * 300, "LOCALHOST."])),
    st.tuples(st.sampled_from(["Authorization", "X-Zeromask-Secret", "Cookie", "Range", "If-Match", "Accept", "Origin", "Accept-Encoding",
                               "Accept-Language", "Date", "If-Modified-Since", "X-Forwarded-Host", "X", "X Y", "", "X\x00"]),
              pick(["", "Basic", "Basic ====", "Bearer x", "\xff\xfe", "a" * 9000, "bytes=0-", "null", "q=1;;q", "\t", "*"])),
)  # fmt: skip
_METHODS = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "post", "P\x00ST", "", "X" * 500, "PROPFIND"]
_PATHS = ["/setup/", "//setup", "/SETUP", "/setup?", "/setup?x=%00", "/predict#x", "/%73etup", "/../setup", "/setup%00", "/\xff", "*",
          "/versions?project=", "/versions?project=x", "/versions?project=7&project=8", "/versions?project=-1", "/is_training?project=9" + "9" * 30,
          "/is_training?project=7.1", "/is_training?project=%ff", "/versions?project=%D9%A7", "/none", "/" + "a" * 5000, "/setup setup",
          "http://localhost/setup", "http://evil.example/setup", "http://[/setup", "setup", "", "/?project[]=7", "/versions?&&&=&project"]  # fmt: skip
_ROUTES = st.sampled_from(list(_BODIES))
CASES = st.one_of(
    st.builds(Request, _ROUTES, _CHANGES),
    st.builds(Request, _ROUTES, _CHANGES),
    st.builds(Request, st.sampled_from(["/setup", "/predict"]), st.just(()), config=configs.CASES),
    st.builds(Request, _ROUTES, st.just(()), headers=st.lists(_HEADER, min_size=1, max_size=3).map(tuple)),
    st.builds(Request, st.sampled_from([*_BODIES, *_GETS]), st.just(()), method=st.sampled_from(_METHODS)),
    st.builds(Request, _ROUTES, st.just(()), method=st.sampled_from(["POST", "GET", "HEAD"]), path=pick(_PATHS)),
)


@dataclass(frozen=True)
class Reply:
    """What came back: status 0 = the connection ended without an answer."""

    status: int
    media: str = ""
    body: bytes = b""
    seconds: float = 0.0


class WireJudge:
    """Silent: a body that breaks the contract of its route (read with the standard library: not JSON, a needed field
    missing, twice or of the wrong type, a labeling config that `parse_vocabulary` refuses) and is answered 2xx. Refused:
    one that keeps it and is not. Crashed: 500 and above but a documented 503, or a connection that ends without an
    answer to a whole request. Harmed: a valid request of another project, sent in between, is not answered rightly.
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
        right = is_right(case, content) if plain and case.route in _BODIES else "either"
        if reply.status < 300:
            if right == "wrong":
                return Verdict("silent", f"answered {reply.status}, {reply.body[:200]!r}", f"{case.route} {reply.status}")
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
        if self._tried % (2 * _CANARY_EVERY) == 0:
            body, expected = setup_body(project=f"{number}.1"), {"model_version": VERSION}
            route = "/setup"
        else:
            body, route = predict_body(self._tried, self._tried + 1, project=f"{number}.1"), "/predict"
            expected = {"results": [[], []], "model_version": VERSION}
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
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
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
        nothing: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        redis = subprocess.Popen(command, **nothing)
        port = free_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}
        told = {"MODEL": "builtin", "REDIS_URL": f"unix://{path}", "ZEROMASK_STATE_DIR": folder, "ZEROMASK_PORT": str(port),
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


KIND = Kind("requests", CASES, "tests.fuzz.wire:judge", show, most_s=2 * _ANSWER_S, most_growth_mb=100.0, full=2500, short=120,
            apart=False)  # fmt: skip
