"""Odd addresses of images, through `fetch_file`, with a stand-in Label Studio and a strange host that watches."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock
from urllib.parse import quote, unquote, urlsplit

from hypothesis import strategies as st

from plugin_config.errors import ImageUnavailable, LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from tests.attack.payloads import png
from tests.fuzz.trial import own_memory_mb
from tests.fuzz.verdicts import TAKEN, Kind, Verdict, judge_error, pick
from tests.http_server import Answer, Asked, Server, serving
from worker.label_studio.fetching import fetch_file
from worker.label_studio.images import ImageLimits

TOKEN = "0123456789abcdef0123456789abcdef01234567"
TASK, PROJECT = 7, 3
SUBJECTS = (f"image of task {TASK}: ", "Label Studio", "GET ")
_OWN, _FOREIGN = b"the file of Label Studio", b"the file of the strange host"
_CANARY_EVERY = 20
_LIMITS = ImageLimits(100_000, 1_000_000, 2.0, allow_private=True)
_STRICT = ImageLimits(100_000, 1_000_000, 2.0, allow_private=False)
_PIXEL = png(1, 1)
_FILES = ("/data/", "/static/", "/storage-data/", f"/tasks/{TASK}/presign", f"/tasks/{TASK}/resolve",
          f"/projects/{PROJECT}/presign", f"/projects/{PROJECT}/resolve")  # fmt: skip


@dataclass(frozen=True)
class Address:
    """The value of a task's image: `text` with OWN, FOREIGN and their ports in it, or any other JSON (`other`).

    Attributes:
        answer: what the host does, see `_answer_of`.
        private: whether private addresses are allowed.
    """

    text: str
    other: Any = None
    answer: str = "file"
    location: str = ""
    private: bool = True


_OTHERS: list[Any] = [None, True, False, 0, 1, -1, 1.5, float("nan"), float("inf"), 10**30, [], {},
                      ["OWN/data/upload/3/a.png"],
                      {"url": "FOREIGN/a.png"}, [None], [[]], b"bytes", (), "x" * 200_000]  # fmt: skip
_STARTS = ["", " ", "\n", "\t ", "\u00a0", "\ufeff", "\x00", "\u3000"]
_SCHEMES = ["http://", "https://", "//", "/", "", "HTTP://", "http:/", "http:", "http:///", "ftp://", "file://",
            "s3://", "gs://",
            "azure-blob://", "azure_spi://", "data:", "blob:", "javascript:", "s3:", "S3://", "http:\\\\", "\\\\",
            "ht\ntp://", "ws://"]
_HOSTS = ["OWNHOST", "FOREIGNHOST", "localhost:OWNPORT", "127.0.0.1:OWNPORT", "[::1]:OWNPORT", "127.1:FOREIGNPORT",
          "0x7f.1:FOREIGNPORT",
          "OWNHOST@FOREIGNHOST", "user:pw@OWNHOST", "FOREIGNHOST#@OWNHOST", "OWNHOST.FOREIGNHOST", "", "[::1",
          "bucket", "a b", "é.example",
          "xn--", "localhost:FOREIGNPORT", "169.254.169.254", "0.0.0.0:OWNPORT", "127.0.0.1:99999", "127.0.0.1:",
          "127.0.0.1:x",
          "LOCALHOST.:OWNPORT", "nowhere.example", "x" * 300, "%31%32%37.0.0.1:FOREIGNPORT",
          "\uff11\uff12\uff17.0.0.1:FOREIGNPORT",
          "[::ffff:127.0.0.1]:FOREIGNPORT", "OWNHOST\\FOREIGNHOST", "OWNHOST\tFOREIGNHOST", "[::1%25lo]:OWNPORT"]
_PATHS = ["/data/upload/3/a.png", "/data/local-files/?d=a.png", "/data/upload/4/a.png", "/static/a.png",
          "/api/users/", "/a.png", "",
          "/data/../api/users/", "/data/%2e%2e/api/users/", "/data/upload/3/..%2f..%2fapi",
          "/storage-data/uploaded/?filepath=upload/3/a.png",
          "/storage-data/uploaded/?filepath=../a", "/tasks/7/presign/?fileuri=eA==", "/tasks/8/presign/?fileuri=eA==",
          "/projects/3/resolve/?fileuri=eA==", "?x", "#f", "/data/upload/3/a%zz.png", "/data/upload/3/é 猫.png",
          "/data/upload/3/\ud800.png",
          "/data/upload/3/a.png?x=\r\nX: y", "/\\FOREIGNHOST/a.png", "//FOREIGNHOST/a.png", "/to/a",
          "/data/upload/3/" + "a" * 70_000]
_DATA = ["image/png;base64,PIXEL", "image/png;base64,", ",", "", "image/png,%89PNG", "image/png;base64,PIXEL\n",
         "image/png;base64,@@@@",
         ";base64,PIXEL", "text/html;base64,PIXEL", "image/png;base64 ,PIXEL", "image/png;charset=x;base64,PIXEL",
         "IMAGE/PNG;BASE64,PIXEL",
         "image/png;base64," + "A" * 400_000, "image/png," + "%41" * 70_000]  # fmt: skip
_ANSWERS = ["file", "file", "file", "file", "redirect", "redirect", "redirect", "redirect", "redirect", "empty",
            "404", "403", "401", "500",
            "503", "429", "204", "206", "gzip", "long", "short", "endless", "garbage", "no status",
            "location without", "loop", "304", "999",
            "big header", "chunked wrong"]  # fmt: skip
_ENDS = ["", "", "", " ", "\n", "\u2028", "#", "?", "\x00"]


def _whole() -> st.SearchStrategy[str]:
    parts = st.tuples(pick(_STARTS), pick(_SCHEMES), pick(_HOSTS), pick(_PATHS), pick(_ENDS)).map("".join)
    own = st.tuples(st.just("http://OWNHOST"), pick(_PATHS), pick(_ENDS)).map("".join)
    relative = st.tuples(pick(_STARTS), pick(_PATHS), pick(_ENDS)).map("".join)
    foreign = st.tuples(st.just("http://FOREIGNHOST"), pick(_PATHS), pick(_ENDS)).map("".join)
    data = st.tuples(pick(["data:", "DATA:", " data:", "data:"]), pick(_DATA)).map("".join)
    return st.one_of(parts, own, relative, foreign, data, st.text(max_size=30))


def _other(number: int) -> Address:
    return Address("", _OTHERS[number])


_RIGHT = ["/data/upload/3/a.png", "/static/a.png", "/data/local-files/?d=a.png", "http://OWNHOST/data/upload/3/a.png",
          "http://FOREIGNHOST/a.png", "data:image/png;base64,PIXEL", "DATA:image/png;base64,PIXEL"]  # fmt: skip
_SPACES = ["", " ", "\n", "\t", " \r\n", "   "]
_TEXTS = _whole()
CASES = st.one_of(
    st.builds(Address, _TEXTS, st.none(), pick(_ANSWERS), _TEXTS, st.booleans()),
    st.builds(Address, _TEXTS, st.none(), pick(_ANSWERS), _TEXTS, st.just(True)),
    st.builds(Address, st.tuples(pick(_SPACES), pick(_RIGHT), pick(_SPACES)).map("".join), st.none(), pick(_ANSWERS),
              _TEXTS),
    st.integers(0, len(_OTHERS) - 1).map(_other),
)


class AddressJudge:
    """Silent: bytes that are neither the file of the host that was asked nor what a data: address holds; a value that
    is no text and gives bytes. Leaked: the strange host sees the token, or Label Studio is asked with it for anything
    but files of the task. Refused: an address that every browser reads alike, of a host that sends the file. Harmed: a
    valid address, fetched in between, does not give its file.
    """

    def __init__(self, own: Server, foreign: Server, label_studio: LabelStudio) -> None:
        self._own, self._foreign, self._label_studio = own, foreign, label_studio
        self._case = Address("")
        self._tried = 0
        own.answer, foreign.answer = self._answer_own, self._answer_foreign

    def memory_mb(self) -> float:
        return own_memory_mb()

    def __call__(self, case: Address) -> Verdict:
        self._tried += 1
        if self._tried % _CANARY_EVERY == 0:
            self._case = Address("")
            if self._fetch(f"/data/upload/{PROJECT}/healthy.png", _LIMITS) != _OWN:
                return Verdict("harmed", "a valid address gives another file", "valid address")
        self._case = case
        self._own.asked.clear()
        self._foreign.asked.clear()
        value = case.other if case.text == "" and case.other is not None else self._filled(case.text)
        try:
            content = self._fetch(value, _LIMITS if case.private else _STRICT)
        except (ImageUnavailable, LabelStudioError) as error:
            if self._right(value) is not None:
                kind = "valid data: address" if "data:" in str(value) else "valid address"
                return Verdict("refused", str(error)[:300], kind)
            return self._leak() or judge_error(error, *SUBJECTS, secret=TOKEN)
        right = self._right(value)
        if right is not None and content != right:
            return Verdict("silent", f"{str(value)[:200]!r} gives {content[:60]!r}", "valid address: other bytes")
        return self._leak() or self._judge_content(value, content)

    def _fetch(self, value: object, limits: ImageLimits) -> bytes:
        return fetch_file(value, task=TASK, project=PROJECT, label_studio=self._label_studio, limits=limits)

    def _right(self, value: object) -> bytes | None:
        """What an address gives that every browser reads alike; None for all others."""
        if not isinstance(value, str) or self._case.answer != "file" or not self._case.private:
            return None
        text = value.strip(" \t\r\n")
        if text.lower() == f"data:image/png;base64,{base64.b64encode(_PIXEL).decode()}".lower():
            return _PIXEL if text[5:].startswith("image") else None
        own = (f"/data/upload/{PROJECT}/a.png", "/static/a.png", "/data/local-files/?d=a.png")
        if text in (*own, *(self._own.url + path for path in own)):
            return _OWN
        return _FOREIGN if text in (f"{self._foreign.url}/a.png", f"{self._foreign.url}/data/upload/4/a.png") else None

    def _judge_content(self, value: object, content: bytes) -> Verdict:
        if not isinstance(value, str):
            return Verdict("silent", f"{value!r} gives {content[:60]!r}", "no text gives bytes")
        if value.strip().lower().startswith("data:"):
            return TAKEN if len(content) <= _LIMITS.most_bytes else Verdict("silent", "beyond the limit",
                                                                            "data: too long")
        seen = {name: bool(server.asked) for name, server in (("own", self._own), ("foreign", self._foreign))}
        expected = [body for name, body in (("own", _OWN), ("foreign", _FOREIGN)) if seen[name]]
        if content in expected or (self._case.answer in ("empty", "big header") and content == b""):
            if not self._case.private and seen["foreign"]:
                return Verdict("leaked", f"a private address was fetched: {value[:200]!r}", "private address")
            return TAKEN
        return Verdict("silent", f"{value[:200]!r}, answered {self._case.answer!r}, gives {content[:60]!r}",
                       f"other bytes: {self._case.answer}")  # fmt: skip

    def _leak(self) -> Verdict | None:
        for asked in self._foreign.asked:
            if TOKEN in str(asked.headers) or TOKEN in asked.path or TOKEN.encode() in asked.body:
                return Verdict("leaked", f"the strange host got {asked.path[:200]!r} with the token", "strange host")
        for asked in self._own.asked:
            path = unquote(unquote(urlsplit(asked.path).path))
            if TOKEN in str(asked.headers) and (not path.startswith(_FILES) or ".." in path):
                return Verdict("leaked", f"the token was sent to Label Studio for {asked.path[:200]!r}", "no file")
        return None

    def _filled(self, text: str) -> str:
        own, foreign = urlsplit(self._own.url), urlsplit(self._foreign.url)
        names: Mapping[str, str] = {
            "OWNHOST": own.netloc, "FOREIGNHOST": foreign.netloc, "OWNPORT": str(own.port),
            "FOREIGNPORT": str(foreign.port),
            "PIXEL": base64.b64encode(_PIXEL).decode(), "OWN": self._own.url, "FOREIGN": self._foreign.url,
        }  # fmt: skip
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    def _answer_own(self, asked: Asked) -> Answer:
        return self._answer(asked, _OWN)

    def _answer_foreign(self, asked: Asked) -> Answer:
        return self._answer(asked, _FOREIGN)

    def _answer(self, asked: Asked, body: bytes) -> Answer:
        """What the host does with the first request; a redirect is followed by the file."""
        again = len(self._own.asked) + len(self._foreign.asked) > 1
        match self._case.answer:
            case "redirect" if not again:
                location = self._filled(self._case.location)
                location = quote(location, safe="%/:=&?~#+!$,;'@()*[]\\ \t").replace("\n", "")
                return Answer(302, headers={"Location": location})
            case "loop":
                return Answer(302, headers={"Location": asked.path})
            case "location without":
                return Answer(302)
            case "empty":
                return Answer(200)
            case "404" | "403" | "401" | "500" | "503" | "429" | "204" | "206" | "304" | "999" as status:
                return Answer(int(status), b"" if status in ("204", "304") else body)
            case "gzip":
                return Answer(200, body, {"Content-Encoding": "gzip"})
            case "long":
                return Answer(200, b"x" * (_LIMITS.most_bytes + 10))
            case "short":
                return Answer(200, raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
            case "endless":
                return Answer(200, raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * (_LIMITS.most_bytes * 2))
            case "garbage":
                return Answer(200, raw=b"\x00\xff\r\n\r\n")
            case "no status":
                return Answer(200, raw=b"HTTP/1.1\r\n\r\n")
            case "big header":
                return Answer(200, b"", {"X": "a" * 150_000})
            case "chunked wrong":
                return Answer(200, raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc")
        return Answer(200, body)


_real_getaddrinfo = socket.getaddrinfo


def _resolve(host: Any, *rest: Any, **more: Any) -> Any:
    """Names of this machine and addresses as ever; nobody else's name is looked up."""
    text = host.decode() if isinstance(host, bytes) else str(host)
    is_number = ":" in text or text.startswith("0x") or not any(char.isalpha() for char in text)
    if is_number or text.rstrip(".").lower() == "localhost":
        return _real_getaddrinfo(host, *rest, **more)
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@contextmanager
def judge() -> Iterator[AddressJudge]:
    """Two servers, and a client of the one that stands for Label Studio."""
    nothing = lambda _: Answer(404)  # noqa: E731
    with (
        serving(nothing) as own, serving(nothing) as foreign, LabelStudio(own.url, TOKEN,
                                                                          timeout_s=3.0) as label_studio,
        mock.patch.object(socket, "getaddrinfo", _resolve),
    ):  # fmt: skip
        yield AddressJudge(own, foreign, label_studio)


def show(case: Address) -> str:
    """The value of the task's image, and what the host answers."""
    value = ascii(case.other if case.text == "" and case.other is not None else case.text)
    private = "" if case.private else ", private addresses not allowed"
    location = f" to {ascii(case.location)[:400]}" if case.answer == "redirect" else ""
    return f"{value[:600]} ({len(value)} characters); answered: {case.answer}{location}{private}"


KIND = Kind("addresses", CASES, "tests.fuzz.addresses:judge", show, most_s=6.0, most_growth_mb=60.0, full=2000,
            short=120)
