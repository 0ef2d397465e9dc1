"""Hostile addresses: the token reaches Label Studio's own origin and no other, and there only files of the task."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx
import pytest

from plugin_config.addresses import is_file_of_task, origin_of, read_address
from plugin_config.errors import ImageHostTrouble, ImageUnavailable, LabelStudioError, LabelStudioUnreachable
from plugin_config.http_responses import hide_location
from plugin_config.label_studio.auth import TokenAuth
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Asked, Server, serving
from worker.label_studio.fetching import fetch_file
from worker.label_studio.images import ImageLimits

LIMITS = ImageLimits(most_bytes=1000, most_pixels=1000, timeout_s=5.0, allow_private=True)
TASK, PROJECT = 7, 3
LEGACY = "legacy0token0secret"

# What parsers are known to drop, turn or split at: C0, DEL, C1, line separators, half signs, backslash.
STRANGE = [
    "\t", "\n", "\r", "\x00", "\x01", "\x0b", "\x0c", "\x1f", "\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ud800",
    "\\",
]  # fmt: skip

DROPPED_OR_TURNED = ["\t", "\n", "\r", "\\"]
"""Those of them that browsers agree about: dropped wherever they stand, and the backslash a slash."""

# OWN and OTHER stand for host:port of the two servers.
HOSTILE = [
    *(f"/{char}/OTHER/x.png" for char in STRANGE),
    *(f"{char}//OTHER/x.png" for char in STRANGE),
    *(f"/{char}{char}/OTHER/x.png" for char in STRANGE),
    *(f"ht{char}tp://OTHER@OWN/x.png" for char in STRANGE),
    *(f"http://OWN{char}@OTHER/data/x.png" for char in STRANGE),
    *(f"http://OWN{char}.OTHER/data/x.png" for char in STRANGE),
    *(f"http:{char}//OTHER/data/x.png" for char in STRANGE),
    "//OTHER/x.png", "///OTHER/x.png", "////OTHER/x.png", "/\\OTHER/x.png", "\\\\OTHER/x.png", "\\/OTHER/x.png",
    "http:/OTHER/x.png", "http:OTHER/x.png", "http:///OTHER/x.png", "http:////OTHER/x.png", "HTTP:\\\\OTHER\\x.png",
    "http://OWN@OTHER/data/x.png", "http://OWN:80@OTHER/data/x.png", "http://OWN%40OTHER/data/x.png",
    "http://OTHER@OWN/data/x.png", "http://@OTHER/x.png", "http://:@OTHER/x.png", "http://user:pw@OWN/data/x.png",
    "http://OWN#@OTHER/data/x.png", "http://OWN?@OTHER/data/x.png", "http://OWN;@OTHER/data/x.png",
    "http://OTHER#@OWN/data/x.png", "http://OTHER?@OWN/data/x.png", "http://OTHER\\@OWN/data/x.png",
    "http://OWN%2f@OTHER/x.png", "http://OTHER%2f.OWN/x.png", "http://OTHER%00.OWN/x.png", "http://[OTHER]/x.png",
    "http://OWN:0/data/x.png", "http://OTHER:0/x.png", "http://OWN:-1/data/x.png", "http://OWN:99999/x.png",
    "http://OWN:80:80/x.png", "http://OWN: 80/x.png", "http://OWN,OTHER/x.png", "http://OWN OTHER/x.png",
    "http://OTHER./x.png", "http://localhost./data/x.png", "http://OTHER.localhost/data/x.png", "https://OTHER/x.png",
    "ftp://OTHER/x.png", "javascript://OTHER/%0ax", "data:image/png;base64,AAAA", "file:///etc/hosts",
    "jar:http://OTHER/x.png!/", "url:http://OTHER/x.png", "view-source:http://OTHER/", "blob:http://OWN/x",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/x.png", "http://127\u30020\u30020\u30021/x.png",
    "http://\uff11\uff12\uff17.0.0.1/x.png", "http://loc\u00adalhost/x.png", "http://localhos\u200dt/x.png",
    "http://\u212aubernetes/x.png", "http://\u00e0.OTHER/x.png", "http://OWN\uff0fOTHER/x.png",
    "http://OWN\uff03@OTHER/", "http://OWN\uff1f@OTHER/", "http://OWN\uff20OTHER/", "http://OTHER\u2100OWN/",
    "http://a\u3000b/", "\u3000//OTHER/x.png", "\ufeffhttp://OTHER/x.png", "\xa0//OTHER/x.png", " //OTHER/x.png",
    "  /\t/OTHER/x.png", "/ /OTHER/x.png", "/. /OTHER/x", "/.//OTHER/x.png", "/..//OTHER/x.png", "/./\\OTHER/x.png",
    "/;@OTHER/x.png", "/@OTHER/x.png", "/%09/OTHER/x.png", "/%2f/OTHER/x.png", "/%2fOTHER/x.png", "/%5cOTHER/x.png",
    "/data/..//OTHER/x.png", "/data/%2e%2e//OTHER/x.png", ":OTHER/x.png", "://OTHER/x.png", "://OWN/data/x.png",
    "?//OTHER", "#//OTHER", "*", ".", "..", "", "x.png", "./x.png", "../x.png", "http", "http:", "http:/", "http://",
    "http:///", "http://[::1", "http://]/", "http://[]/", "http://[/x", "http://[::1%25lo]/x.png",
    "http://[::ffff:OTHER]/x", "http://0/x", "http://.../x", "http://-/x", "http://\U0001f4a9/x",
]  # fmt: skip


def picture(asked: Asked) -> Answer:
    return Answer(200, b"picture")


def leading_to(aim: str, asked: Asked) -> Answer:
    return Answer(302, headers={"Location": aim}) if asked.path == "/data/begin.png" else picture(asked)


@pytest.fixture
def own() -> Iterator[Server]:
    """Label Studio's place."""
    with serving(picture, host="localhost") as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """The attacker's place, which keeps the headers it is sent."""
    with serving(picture) as server:
        yield server


@pytest.fixture
def label_studio(own: Server) -> Iterator[LabelStudio]:
    with LabelStudio(own.url, LEGACY, timeout_s=5) as client:
        yield client


def fetched(url: str, label_studio: LabelStudio) -> bytes | None:
    """What came of an address; None when it was refused, in words that name the task."""
    try:
        return fetch_file(url, task=TASK, project=PROJECT, label_studio=label_studio, limits=LIMITS)
    except LabelStudioUnreachable:  # h11 reads no header with such characters
        return None
    except ImageUnavailable as error:
        assert str(error).startswith(f"image of task {TASK}: ")
        assert LEGACY not in str(error)
        return None


def host(server: Server) -> str:
    return server.url.removeprefix("http://")


def is_untold(server: Server) -> bool:
    """Whether a server never saw the token, in no header and no path."""
    return not any(
        LEGACY in asked.path or "Authorization" in asked.headers or LEGACY in "".join(asked.headers.values())
        for asked in server.asked
    )


def holds_files_only(server: Server) -> bool:
    return all(asked.path.startswith(("/data/", "/static/")) for asked in server.asked)


def test_no_hostile_address_gives_the_token_away(own: Server, other: Server, label_studio: LabelStudio) -> None:
    for shape in HOSTILE:
        fetched(shape.replace("OWN", host(own)).replace("OTHER", host(other)), label_studio)
        assert is_untold(other), shape
        assert holds_files_only(own), shape


def test_no_hostile_redirect_gives_the_token_away(own: Server, other: Server, label_studio: LabelStudio) -> None:
    """From Label Studio and from elsewhere. What a header cannot carry is left out: the table above has it."""
    aims = [shape for shape in HOSTILE if shape.isascii() and not {"\n", "\r", "\x00"} & set(shape)]
    for shape in aims:
        aim = shape.replace("OWN", host(own)).replace("OTHER", host(other))
        for first in (own, other):
            first.answer = partial(leading_to, aim)
            fetched(f"{first.url}/data/begin.png", label_studio)
            assert is_untold(other), shape
            assert holds_files_only(own), shape


@pytest.mark.parametrize("shape", ["{}/x.png", " {}/x.png ", "{}/data/../x.png"])
def test_another_servers_pictures_still_come_without_the_token(
    shape: str, other: Server, label_studio: LabelStudio
) -> None:
    assert fetched(shape.format(other.url), label_studio) == b"picture"
    assert is_untold(other)


@pytest.mark.parametrize("char", [char for char in STRANGE if char not in DROPPED_OR_TURNED])
def test_strange_characters_are_named_before_anything_is_looked_up(
    char: str, own: Server, label_studio: LabelStudio
) -> None:
    for url in (f"/data/a{char}.png", f"{own.url}/data/a{char}.png"):
        with pytest.raises(ImageUnavailable, match="holds the character"):
            fetch_file(url, task=TASK, project=PROJECT, label_studio=label_studio, limits=LIMITS)
    assert own.asked == []


@pytest.mark.parametrize("first", ["own", "other"])
def test_the_token_is_dropped_on_the_way_out_and_taken_up_on_the_way_back(
    first: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    start, then = (own, other) if first == "own" else (other, own)
    start.answer = lambda asked: Answer(307, headers={"Location": f"{then.url}/data/there.png"})
    assert fetched(f"{start.url}/data/begin.png", label_studio) == b"picture"
    assert is_untold(other)
    assert [asked.headers["Authorization"] for asked in own.asked] == [f"Token {LEGACY}"]


@pytest.mark.parametrize("key", [LEGACY, "personal.access.token"])
@pytest.mark.parametrize(
    "url", ["http://other.example/", "https://localhost:8080/", "http://localhost:8081/", "http://localhost.:8080/"]
)
def test_the_signer_itself_refuses_every_other_origin(key: str, url: str) -> None:
    """However the request was built, and whatever was checked before."""
    sent: list[httpx.Request] = []

    def record(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"access": "bought"}'))

    auth = TokenAuth("http://localhost:8080", key)
    hooks = {"response": [hide_location]}
    with httpx.Client(transport=httpx.MockTransport(record), event_hooks=hooks) as client:
        with pytest.raises(LabelStudioError, match="Nothing was sent"):
            auth.send(client, httpx.Request("GET", url))
        assert [str(request.url) for request in sent if request.url.host != "localhost"] == []
        assert not any(request.headers.get("Authorization") for request in sent)


def test_the_signer_follows_no_redirect(own: Server, other: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(302, headers={"Location": f"{other.url}/api/projects/1/"})
    with pytest.raises(LabelStudioError, match="is redirected"):
        label_studio.project(1)
    assert other.asked == []


@pytest.mark.parametrize(
    "url", ["http://user:secret@host", "http://user@host", "http://@host", "http://ho\tst", "http://host\\x", "//host",
            "http://host:0", "http://ho st", "http:host", "/host"],
)  # fmt: skip
def test_a_label_studio_at_no_plain_address_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL") as caught:
        LabelStudio(url, LEGACY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("http://ls.example", "HTTP://LS.Example:80/x?y#z", True),
        ("https://ls.example", "https://ls.example:443", True),
        ("http://[::1]:8080", "http://[::1]:8080/x", True),
        ("http://b\u00fccher.example", "http://xn--bcher-kva.example", True),
        ("http://ls.example", "http://ls.example.", False),
        ("http://ls.example", "https://ls.example:80", False),
        ("http://127.0.0.1", "http://localhost", False),
        ("http://[::1]", "http://[::2]", False),
    ],
)
def test_origins_are_compared_as_they_are_sent(one: str, two: str, same: bool) -> None:
    assert (origin_of(read_address(one)) == origin_of(read_address(two))) is same


FILES = [
    "/data/upload/3/1b2c-a.png", "/data/upload/3/deep/er/a.png", "/data/upload/a.png", "/data/upload/3/100%25.png",
    "/data/upload/3/a%20b.png", "/data/upload/3/a b.png", "/data/upload/3/caf%C3%A9.png", "/data/upload/3/\u732b.png",
    "/data/upload/3/50%2520off.png", "/data/local-files/?d=set/a.png", "/data/local-files/?d=a/../b.png",
    "/data/a.png", "/data/media/a.png?v=2#part", "/static/samples/sample.jpg",
    "/storage-data/uploaded/?filepath=upload/3/a.png", "/storage-data/uploaded/?filepath=upload%2F3%2Fa.png",
    "/storage-data/uploaded/?v=1&filepath=upload/3/a%2520b.png", "/storage-data/uploaded/?filepath=upload/old.png",
    "/tasks/7/presign/?fileuri=czM6Ly9i", "/tasks/7/resolve/?fileuri=x", "/tasks/7/resolve?fileuri=x",
    "/projects/3/presign/?fileuri=x", "/projects/3/resolve/?fileuri=x",
]  # fmt: skip

NO_FILES = [
    "/", "/api/projects/1/next/", "/api/projects/3/", "/api/tasks/7/", "/api/current-user/token", "/logout/",
    "/admin/", "/api/projects/3/export", "/user/account/", "/django-rq/", "/label-studio-frontend/x.png",
    "/file_download/https/h/x", "/data", "/data/", "/data//", "/DATA/upload/3/a.png", "/data/avatars/me.png",
    "/data/export/3-all.zip", "/datax/a.png", "/data/upload/", "/data/upload/3/", "/data/upload/4/a.png",
    "/data/upload/33/a.png", "/data/upload/03/a.png", "/data/upload/+3/a.png", "/data/upload/%33/a.png",
    "/data/upload/%34/a.png", "/data/upload/\uff13/a.png", "/data/upload/3%2f..%2f4%2fa.png",
    "/data/upload/3/%2e%2e/4/a.png", "/data/upload/3/%252e%252e/4/a.png", "/data/upload/3/%25252e%25252e/4/a.png",
    "/data/upload/3/%2525252525252e/a.png", "/data/upload/4%2fa.png", "/data/upload/3/%5c..%5c4/a.png",
    "/data/upload//4/a.png", "/data/upload/%2f4/a.png", "/data/./upload/../avatars/a", "/data/upload/3/../4/a.png",
    "/data/upload/3/../../../api/projects/1/next/", "/data/../api/projects/1/next/",
    "/data/%2e%2e/api/projects/1/next/", "/data/%2E%2E%2Fapi/projects/1/next/", "/data/..%2fapi/projects/1/next/",
    "/data/upload/3/a%00.png", "/data/upload/3/a%0d%0a.png", "/data/upload/3/a%e2%80%a8.png", "/static",
    "/staticx/a.png", "/static/../api/projects/1/next/", "/static/%2e%2e/api/projects/1/next/",
    "/static//api/projects/1/next/", "/storage-data/uploaded/", "/storage-data/uploaded/?filepath=",
    "/storage-data/uploaded/?filepath=avatars/me.png", "/storage-data/uploaded/?filepath=upload/4/a.png",
    "/storage-data/uploaded/?filepath=upload%2F4%2Fa.png", "/storage-data/uploaded/?filepath=upload%252F4%252Fa.png",
    "/storage-data/uploaded/?filepath=upload/3/../4/a.png",
    "/storage-data/uploaded/?filepath=upload/3/a.png&filepath=upload/4/a.png",
    "/storage-data/uploaded/?filepath=upload/4/a.png&filepath=upload/3/a.png",
    "/storage-data/uploaded/?filepath=upload/3/a.png&%66ilepath=upload/4/a.png",
    "/storage-data/uploaded/?FILEPATH=upload/3/a.png", "/storage-data/uploaded/x?filepath=upload/3/a.png",
    "/storage-data/uploaded/?filepath=/upload/3/a.png", "/storage-data/uploaded/?filepath=uploads/3/a.png",
    "/tasks/8/presign/?fileuri=x", "/tasks/77/presign/?fileuri=x", "/tasks/07/presign/?fileuri=x", "/tasks/7/",
    "/tasks/7/presign/x", "/tasks/%37/presign/?fileuri=x", "/tasks/7/../8/presign/?fileuri=x", "/tasks/7/delete/",
    "/projects/4/presign/?fileuri=x", "/projects/7/presign/?fileuri=x", "/projects/3/", "/projects/3/data",
    "/projects/3/resolve/../", "/api/data/local-files/?d=x", "/x/data/upload/3/a.png", "/x/static/a.png",
]  # fmt: skip


@pytest.mark.parametrize("below", ["", "/label-studio", "/a%20b"])
@pytest.mark.parametrize("path", FILES)
def test_files_of_the_task_are_fetched(path: str, below: str) -> None:
    """Below the path of LABEL_STUDIO_URL, as Label Studio writes it, and without, as tasks may."""
    for start in {"", below}:
        url = read_address(f"http://ls.example{start}{path}")
        assert is_file_of_task(url, below=below, task=TASK, project=PROJECT), url


@pytest.mark.parametrize("below", ["", "/label-studio"])
@pytest.mark.parametrize("path", NO_FILES)
def test_everything_else_of_label_studio_is_left_alone(path: str, below: str) -> None:
    for start in {"", below}:
        url = read_address(f"http://ls.example{start}{path}")
        assert not is_file_of_task(url, below=below, task=TASK, project=PROJECT), url


@pytest.mark.parametrize("how", ["named", "redirected to"])
def test_a_task_cannot_make_the_token_open_an_api(
    how: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    aim = f"{own.url}/api/projects/1/next/"
    for start in (own, other):
        start.answer = lambda asked: Answer(302, headers={"Location": aim})
        url = aim if how == "named" else f"{start.url}/data/begin.png"
        with pytest.raises(ImageUnavailable, match=r"image of task 7: .*holds no file of this task.*Allowed are files"):
            fetch_file(url, task=TASK, project=PROJECT, label_studio=label_studio, limits=LIMITS)
    assert not [path for path in own.paths() if "api" in path]


@dataclass
class Wire:
    """Stands where sockets would: keeps every request of every httpx client, answers pictures and redirects."""

    choice: random.Random
    make: Callable[[], str]
    sent: list[httpx.Request] = field(default_factory=list)

    def handle(self, _: Any, request: httpx.Request) -> httpx.Response:
        self.sent.append(request)
        if self.choice.random() < 0.5:
            return httpx.Response(200, stream=httpx.ByteStream(b"picture"))
        location = self.make().encode("utf-8", "replace")
        return httpx.Response(302, headers=[(b"Location", location)])


PIECES = [
    "http:", "https:", "HTTP:", "//", "/", "\\", "@", ":", "?", "#", "%2f", "%5c", "%40", "%00", "..", ".", ";", "&",
    "=", "own.example", "other.example", "own.example:8080", "OWN.example", "own.example.", ":8080", ":80", ":0",
    "user:pw@", "[::1]", "own\u3002example", "\uff0f", "\uff20", "\u2100", "b\u00fccher", "data", "/data/a.png",
    "/static/a.png", "/api/projects/1/next/", "data/upload/3/", "data/upload/4/", "tasks/7/presign/",
    "storage-data/uploaded/?filepath=", "s3://", " ", "x.png", *STRANGE,
]  # fmt: skip


@pytest.mark.parametrize("base", ["http://own.example:8080", "http://own.example:8080/label-studio"])
def test_no_composed_address_gives_the_token_away(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 addresses put together from the pieces attacks are made of, each answered by such addresses again."""
    choice = random.Random(20261129)
    starts = [
        "",
        "/",
        "http://",
        "http://own.example:8080",
        "http://other.example",
        "/data/",
        "https://own.example:8080/",
    ]

    def make() -> str:
        return choice.choice(starts) + "".join(choice.choices(PIECES, k=choice.randint(0, 6)))

    wire = Wire(choice, make)
    monkeypatch.setattr("httpx.HTTPTransport.handle_request", lambda self, request: wire.handle(self, request))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    limits = replace(LIMITS, allow_private=False)
    with LabelStudio(base, LEGACY) as label_studio:
        for _ in range(5000):
            url = make()
            with suppress(ImageUnavailable, LabelStudioUnreachable):
                fetch_file(url, task=TASK, project=PROJECT, label_studio=label_studio, limits=limits)
    signed = [request for request in wire.sent if "Authorization" in request.headers]
    for request in signed:
        assert (request.url.raw_scheme, request.url.raw_host, request.url.port) == (b"http", b"own.example", 8080)
        path = request.url.raw_path.removeprefix(b"/label-studio")
        assert path.startswith((b"/data/", b"/static/", b"/tasks/7/presign/", b"/storage-data/uploaded/")), path
        assert not path.startswith((b"/data/upload/4", b"/data/avatars"))
        assert b"filepath=upload/4" not in path
    for request in wire.sent:
        if request not in signed:
            assert request.url.host == "93.184.216.34"
            assert LEGACY not in str(request.url) + str(request.headers)
    assert len(signed) > 100
    assert len(wire.sent) - len(signed) > 100


@pytest.mark.parametrize("first", ["own", "other"])
@pytest.mark.parametrize("aim", ["///127.0.0.1/x.png", "http://[::1", "http://127.0.0.1:99999/", "s3://bucket/x.png"])
def test_a_redirect_to_no_address_is_the_pictures_fault_and_not_an_outage(
    first: str, aim: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    """httpx would call it a broken connection, and the task would be tried for ever."""
    start = own if first == "own" else other
    start.answer = partial(leading_to, aim)
    with pytest.raises(ImageUnavailable, match="has no valid address") as caught:
        fetch_file(f"{start.url}/data/begin.png", task=TASK, project=PROJECT, label_studio=label_studio, limits=LIMITS)
    assert not isinstance(caught.value, ImageHostTrouble)
