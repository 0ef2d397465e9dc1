"""Generates requests: valid ones of every route, and changes of their bodies, headers, methods and paths."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.backend_client import predict_body, setup_body
from tests.fuzz import configs
from tests.fuzz.verdicts import pick

BODIES: dict[str, Any] = {
    "/setup": setup_body(), "/predict": predict_body(1, 2, 3),
    "/webhook": {"action": "ANNOTATION_CREATED", "project": {"id": 7, "title": "x"}, "tasks": [{"id": 1}, {"id": 2}],
                 "annotation": {"id": 1, "result": []}},
    "/train": {"project": {"id": 7}}, "/versions": {"project": "7"},
}  # fmt: skip
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
    plain = dict(BODIES[case.route]) if case.route in BODIES else {}
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


_VALUES = [
    "null", "true", "false", "0", "1", "-1", "7", "1.0", "1.5", "1e2", "1e400", "-0", "NaN", "Infinity", "-Infinity",
    "01", "0x10",
    str(2**63), str(2**63 - 1), str(-(2**63)), "9" * 400, "9" * 5000, "1" + "0" * 30, '""', '"7"', '"7.17"', '"7."',
    '"07"', '"-7"',
    '"7.1.2"', '"\\u0667"', '" 7"', '"7\\n"', '"x"', '"' + "a" * 70_000 + '"', '"\\ud800"', '"\\u0000"',
    '"\\udc00\\ud800"',
    '"caf\\u00e9"', '"\U0001f408"', '"PROJECT_UPDATED"', '"START_TRAINING"', '"a b"', '"\\r\\nX: y"', "[]", "{}",
    "[[]]", "[null]",
    '[{"id": 1}]', '[{"id": null}]', '[{"id": "1"}]', '[{"id": 1.0}]', '[{"id": -1}]', '[{"id": true}]',
    '[{"id": 1, "id": 2}]',
    "[1, 2, 3]", '[{"id": 1}, null]', '{"id": 7}', '{"id": "7"}', '{"id": {}}', '{"id": [7]}', '{"context": {}}',
    '{"context": null}',
    "undefined", "'x'", "[1,]", '{"a": 1,}', "/* x */ 1", "\ud800", "\x00", '"\x01"', '"unfinished',
]  # fmt: skip
_NAMES = ["project", "tasks", "label_config", "schema", "params", "action", "id", "Project", "", "\x00", "__proto__",
          "projet", "data"]
_UNIT = st.floats(0, 0.999)
_RAW = pick(_VALUES)
_CHANGE = st.one_of(
    st.builds(Change, st.sampled_from(["set", "set", "set", "twice", "whole"]), _UNIT, _RAW),
    st.builds(Change, st.sampled_from(["set", "add", "twice"]), _UNIT, _RAW, st.sampled_from(_NAMES)),
    st.builds(Change, st.sampled_from(["drop", "list", "object", "cut", "bytes", "gzip", "space"]), _UNIT),
    st.builds(Change, st.just("rename"), _UNIT, st.just(""), st.sampled_from(_NAMES)),
    st.builds(Change, st.just("nest"), _UNIT, st.just(""), st.sampled_from(["50", "99", "101", "500", "5000",
                                                                            "50000"])),
    st.builds(Change, st.just("insert"), _UNIT, pick([*_VALUES, "{", "}", "[", "]", ",", ":", '"', "\\", " "])),
    st.builds(Change, st.just("encoding"), _UNIT, st.just(""),
              st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7", "cp500"])),
    st.builds(Change, st.just("many"), _UNIT, st.just(""), st.sampled_from(["1000", "5000", "20000"])),
)  # fmt: skip
_CHANGES = st.lists(_CHANGE, min_size=1, max_size=3).map(tuple)
_HEADER = st.one_of(
    st.tuples(st.just("Content-Type"), pick(
        ["", "text/plain", "application/json; charset=utf-16", "application/JSON", "application/json;;",
         "multipart/form-data", "x",
         "application/json, text/html", "application/x-www-form-urlencoded", "application/json\t", "*/*", "\xff"])),
    st.tuples(st.just("Content-Length"), pick(
        ["-1", "+5", "0", "1", "5", "abc", "", "5 5", "99999999999999999999", "9" * 5000, "5, 5", "0x10", "\u0665",
         "1e3", "5;"])),
    st.tuples(st.sampled_from(["Transfer-Encoding", "Content-Encoding", "Expect", "Connection", "Upgrade"]), pick(
        ["chunked", "gzip", "identity", "gzip, chunked", "100-continue", "x", "close", "h2c", "", "\x0b", "trailers"])),
    st.tuples(st.just("Host"), pick(
        ["", "evil.example", "localhost:99999999", "127.0.0.1@evil", "[::1", "[::1]", "a b", "xn--nxasmq6b", "é",
         "x" * 300, "LOCALHOST."])),
    st.tuples(st.sampled_from(["Authorization", "X-Zeromask-Secret", "Cookie", "Range", "If-Match", "Accept",
                               "Origin", "Accept-Encoding",
                               "Accept-Language", "Date", "If-Modified-Since", "X-Forwarded-Host", "X", "X Y", "",
                               "X\x00"]),
              pick(["", "Basic", "Basic ====", "Bearer x", "\xff\xfe", "a" * 9000, "bytes=0-", "null", "q=1;;q", "\t",
                    "*"])),
)  # fmt: skip
_METHODS = ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "post", "P\x00ST", "",
            "X" * 500, "PROPFIND"]
_PATHS = ["/setup/", "//setup", "/SETUP", "/setup?", "/setup?x=%00", "/predict#x", "/%73etup", "/../setup",
          "/setup%00", "/\xff", "*",
          "/versions?project=", "/versions?project=x", "/versions?project=7&project=8", "/versions?project=-1",
          "/is_training?project=9" + "9" * 30,
          "/is_training?project=7.1", "/is_training?project=%ff", "/versions?project=%D9%A7", "/none",
          "/" + "a" * 5000, "/setup setup",
          "http://localhost/setup", "http://evil.example/setup", "http://[/setup", "setup", "", "/?project[]=7",
          "/versions?&&&=&project"]  # fmt: skip
_ROUTES = st.sampled_from(list(BODIES))
CASES = st.one_of(
    st.builds(Request, _ROUTES, _CHANGES),
    st.builds(Request, _ROUTES, _CHANGES),
    st.builds(Request, st.sampled_from(["/setup", "/predict"]), st.just(()), config=configs.CASES),
    st.builds(Request, _ROUTES, st.just(()), headers=st.lists(_HEADER, min_size=1, max_size=3).map(tuple)),
    st.builds(Request, st.sampled_from([*BODIES, *_GETS]), st.just(()), method=st.sampled_from(_METHODS)),
    st.builds(Request, _ROUTES, st.just(()), method=st.sampled_from(["POST", "GET", "HEAD"]), path=pick(_PATHS)),
)
