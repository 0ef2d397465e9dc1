"""Label Studio under several names: each leads to LABEL_STUDIO_URL, the token to no other place, and what only looks
like Label Studio's is told with the setting to change.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugin_config.addresses import label_studio_prefix, read_address
from plugin_config.errors import ImageUnavailable, LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Server, serving
from tests.served_pictures import FREE, LIMITS, PICTURE, TOKEN, as_new, picture
from worker.label_studio.fetching import fetch_file
from worker.label_studio.images import ImageLimits

UPLOAD = "/data/upload/3/a.png"
LOCAL = "/data/local-files/?d=set/any.png"
LOOPBACK = ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost.", "[0:0:0:0:0:0:0:1]", "0.0.0.0"]


@pytest.fixture(scope="module", name="servers")
def servers_fixture() -> Iterator[tuple[Server, Server]]:
    with serving(picture) as own, serving(picture) as other:
        yield own, other


@pytest.fixture
def own(servers: tuple[Server, Server]) -> Server:
    """Label Studio's place."""
    return as_new(servers[0])


@pytest.fixture
def other(servers: tuple[Server, Server]) -> Server:
    """Another program's place on this machine."""
    return as_new(servers[1])


def port_of(server: Server) -> str:
    return server.url.rpartition(":")[2]


def fetched(url: str, label_studio: LabelStudio, limits: ImageLimits = LIMITS) -> bytes:
    return fetch_file(url, task=7, project=3, label_studio=label_studio, limits=limits)


CLIENTS: dict[tuple[str, str], LabelStudio] = {}
"""Made once each: reading the certificates takes longer than most tests here."""


@pytest.fixture(scope="module", autouse=True)
def clients_are_closed() -> Iterator[None]:
    yield
    for client in CLIENTS.values():
        client.close()
    CLIENTS.clear()


def named(url: str, public: str = "") -> LabelStudio:
    """A client of the Label Studio at `url`, with its public addresses."""
    if (url, public) not in CLIENTS:
        CLIENTS[url, public] = LabelStudio(url, TOKEN, timeout_s=5, public_urls=public)
    return CLIENTS[url, public]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_names_on_one_port_are_one_label_studio(host: str, own: Server) -> None:
    """Rewritten: the server listens on 127.0.0.1 alone, so [::1] would not answer."""
    label_studio = named(own.url)
    for path in (UPLOAD, LOCAL):
        assert fetched(f"http://{host}:{port_of(own)}{path}", label_studio) == PICTURE
    assert own.paths() == [f"GET {UPLOAD}", f"GET {LOCAL}"]
    assert {asked.headers["Authorization"] for asked in own.asked} == {f"Token {TOKEN}"}
    assert {asked.headers["Host"] for asked in own.asked} == {own.url.removeprefix("http://")}


@pytest.mark.parametrize("root", ["localhost", "[::1]", "localhost."])
def test_it_may_itself_be_under_any_of_them(root: str) -> None:
    label_studio = named(f"http://{root}:8080")
    for host in LOOPBACK:
        found = label_studio.address(f"http://{host}:8080{UPLOAD}")
        assert str(found) == f"http://{root}:8080{UPLOAD}"
        assert label_studio.is_own(found)


@pytest.mark.parametrize("public", ["", "http://labels.example:8081"])
@pytest.mark.parametrize(
    "url",
    ["http://localhost:8081", "https://localhost:8080", "http://localhost.evil.example:8080", "http://localhost",
     "http://127.0.0.2:8080", "http://[::2]:8080", "http://evil.localhost:8080", "http://localhost..:8080"],
)  # fmt: skip
def test_other_places_are_not(url: str, public: str) -> None:
    label_studio = named("http://localhost:8080", public)
    assert not label_studio.is_own(label_studio.address(f"{url}{UPLOAD}"))


def test_another_port_of_this_machine_gets_no_token(own: Server, other: Server) -> None:
    label_studio = named(own.url)
    assert fetched(f"http://localhost:{port_of(other)}/a.png", label_studio, FREE) == PICTURE
    assert own.asked == []
    assert "Authorization" not in other.asked[0].headers


PUBLIC = "https://labels.example.com/ls, http://other.example"


@pytest.mark.parametrize(
    ("root", "url", "leads_to"),
    [
        ("http://ls:8080", "https://labels.example.com/ls/data/upload/3/a.png", "http://ls:8080/data/upload/3/a.png"),
        ("http://ls:8080", "HTTPS://Labels.Example.COM.:443/ls/data/a.png?d=x#y", "http://ls:8080/data/a.png?d=x"),
        ("http://ls:8080", "http://other.example/data/local-files/?d=a b", "http://ls:8080/data/local-files/?d=a%20b"),
        ("http://ls:8080", "//other.example/data/a.png", "http://ls:8080/data/a.png"),
        ("http://ls:8080", "/ls/data/upload/3/a.png", "http://ls:8080/data/upload/3/a.png"),
        ("http://ls:8080", "/data/upload/3/a.png", "http://ls:8080/data/upload/3/a.png"),
        ("http://ls:8080/in", "https://labels.example.com/ls/tasks/7/resolve/?fileuri=x",
         "http://ls:8080/in/tasks/7/resolve/?fileuri=x"),
        ("http://ls:8080/in", "/ls/data/upload/3/a.png", "http://ls:8080/in/data/upload/3/a.png"),
        ("http://ls:8080/in", "/in/data/upload/3/a.png", "http://ls:8080/in/data/upload/3/a.png"),
        ("http://ls:8080/in", "/data/upload/3/a.png", "http://ls:8080/in/data/upload/3/a.png"),
        ("http://ls:8080/in", "http://ls:8080/data/upload/3/a.png", "http://ls:8080/in/data/upload/3/a.png"),
        ("https://labels.example.com/ls", "https://labels.example.com/ls/data/a.png",
         "https://labels.example.com/ls/data/a.png"),
        ("http://ls:8080/in", "upload/3/a.png", "http://ls:8080/in/data/upload/3/a.png"),
    ],
)  # fmt: skip
def test_a_public_name_and_path_lead_to_label_studios_own(root: str, url: str, leads_to: str) -> None:
    label_studio = named(root, PUBLIC)
    found = label_studio.address(url)
    assert str(found) == leads_to
    assert label_studio.is_own(found)


@pytest.mark.parametrize(
    "url",
    ["https://labels.example.com/data/upload/3/a.png", "https://labels.example.com/lsx/data/a.png",
     "https://labels.example.com/", "http://labels.example.com/ls/data/a.png", "https://other.example/data/a.png",
     "https://labels.example.com:8443/ls/data/a.png", "https://labels.example.com.evil.example/ls/data/a.png",
     "https://labels.example.com/%6cs/data/a.png"],
)  # fmt: skip
def test_what_else_is_on_a_public_host_is_not_label_studios(url: str) -> None:
    label_studio = named("http://ls:8080", PUBLIC)
    assert not label_studio.is_own(label_studio.address(url))


def test_a_public_name_is_compared_as_it_is_sent() -> None:
    label_studio = named("http://ls:8080", "https://b\u00fccher.example")
    for url in ("https://B\u00dcCHER.example/data/a.png", "https://xn--bcher-kva.example:443/data/a.png"):
        assert str(label_studio.address(url)) == "http://ls:8080/data/a.png"


@pytest.mark.parametrize("public", ["labels.example.com", "https://user:hush@labels.example.com", "http://", "ftp://x"])
def test_a_public_address_that_is_none_is_told_without_its_password(public: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_PUBLIC_URL") as caught:
        named("http://ls:8080", public)
    assert "hush" not in str(caught.value)


def test_files_of_the_task_alone_are_fetched_under_every_name(own: Server) -> None:
    public = "http://labels.example/ls"
    label_studio = named(own.url, public)
    for base in ("http://localhost:" + port_of(own), public):
        for path in ("/api/projects/3/", "/data/upload/4/a.png", "//data/upload/3/a.png", "/data/../api/users/",
                     "/%2e%2e/api/users/"):  # fmt: skip
            with pytest.raises(ImageUnavailable, match="holds no file of this task"):
                fetched(base + path, label_studio, FREE)
    assert own.asked == []


def test_redirects_from_label_studio_to_its_other_name_lead_to_itself(own: Server) -> None:
    names = iter(
        [f"http://[::1]:{port_of(own)}/data/b.png", "https://labels.example.com/ls/data/c.png", "/ls/data/d.png"]
    )
    own.answer = lambda asked: (
        picture(asked) if asked.path == "/data/d.png" else Answer(302, headers={"Location": next(names)})
    )
    label_studio = named(own.url, "https://labels.example.com/ls")
    assert fetched("/data/a.png", label_studio) == PICTURE
    assert own.paths() == [f"GET /data/{name}.png" for name in "abcd"]
    assert all(asked.headers["Authorization"] == f"Token {TOKEN}" for asked in own.asked)


LABEL_STUDIOS = [
    UPLOAD, LOCAL, "/data/local-files?x=1&d=a", "/ls/data/upload/3/a.png",
    "/storage-data/uploaded/?filepath=upload/3/a.png",
    "/tasks/7/resolve/?fileuri=czM6Ly9i", "/tasks/7/presign/?fileuri=czM6Ly9i", "/projects/3/resolve/?fileuri=czM6Ly9i",
]  # fmt: skip


@pytest.mark.parametrize("path", LABEL_STUDIOS)
def test_what_looks_like_label_studios_on_a_private_host_names_the_setting(
    path: str, own: Server, other: Server
) -> None:
    prefix = "/ls" if path.startswith("/ls") else ""
    label_studio = named(own.url)
    with pytest.raises(ImageUnavailable) as caught:
        fetched(other.url + path, label_studio)
    assert f"add {other.url}{prefix} to LABEL_STUDIO_PUBLIC_URL" in str(caught.value)
    assert "ALLOW_PRIVATE" not in str(caught.value)
    assert other.asked == own.asked == []


@pytest.mark.parametrize("path", ["/a.png", "/data/a.png", "/media/upload/3/a.png", "/data/uploads/a.png", "/local"])
def test_what_does_not_names_the_one_for_private_networks(path: str, own: Server, other: Server) -> None:
    label_studio = named(own.url)
    with pytest.raises(ImageUnavailable, match="ALLOW_PRIVATE_IMAGES") as caught:
        fetched(other.url + path, label_studio)
    assert "PUBLIC_URL" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [Answer(401), Answer(403), Answer(404), Answer(500), Answer(200, b"<!DOCTYPE html><title>Sign in</title>")],
    ids=lambda answer: str(answer.status),
)
def test_what_another_label_studio_refuses_names_the_setting(answer: Answer, own: Server, other: Server) -> None:
    other.answer = lambda asked: answer
    label_studio = named(own.url)
    with pytest.raises(ImageUnavailable, match="LABEL_STUDIO_PUBLIC_URL") as caught:
        fetched(other.url + UPLOAD, label_studio, FREE)
    assert "LABEL_STUDIO_API_KEY" not in str(caught.value)
    assert "Authorization" not in other.asked[0].headers


def test_an_unknown_or_silent_host_names_it_too(own: Server) -> None:
    label_studio = named(own.url)
    for host in ("label-studio.invalid:8080", "127.0.0.1:1"):
        with pytest.raises(ImageUnavailable, match=f"add http://{host} to LABEL_STUDIO_PUBLIC_URL"):
            fetched(f"http://{host}{UPLOAD}", label_studio, FREE)


def test_a_path_that_a_proxy_shows_is_told(own: Server) -> None:
    label_studio = named(own.url)
    with pytest.raises(ImageUnavailable, match=r"below /ls, .*LABEL_STUDIO_PUBLIC_URL"):
        fetched("/ls/data/upload/3/a.png", label_studio)
    assert own.asked == []


def test_a_public_label_studio_elsewhere_is_asked_without_the_token(own: Server, other: Server) -> None:
    label_studio = named(own.url)
    assert fetched(other.url + UPLOAD, label_studio, FREE) == PICTURE
    assert "Authorization" not in other.asked[0].headers


def test_no_name_of_label_studio_ever_gets_the_token_but_its_own(own: Server, other: Server) -> None:
    """Even a public name that an attacker's machine answers under."""
    label_studio = named(own.url, f"{other.url}, http://localhost:{port_of(other)}/x")
    for base in (other.url, f"http://localhost:{port_of(other)}/x", f"http://[::1]:{port_of(other)}"):
        assert fetched(base + UPLOAD, label_studio, FREE) == PICTURE
    assert other.asked == []
    assert len(own.asked) == 3


@pytest.mark.parametrize(
    ("path", "prefix"),
    [(UPLOAD, ""), ("/ls/data/upload/3/a.png", "/ls"), ("/a/b/tasks/7/resolve/?fileuri=x", "/a/b"),
     ("/data/a.png", None), ("/tasks/x/resolve/?fileuri=x", None), ("/", None),
     ("/show?next=/data/upload/3/a.png", None), ("/data/local-files/?e=a", None), ("/tasks/7/presign/", None),
     ("/tasks/7/presign/x?fileuri=x", None)],
)  # fmt: skip
def test_the_path_before_a_route_is_found(path: str, prefix: str | None) -> None:
    assert label_studio_prefix(read_address(f"http://ls.example{path}")) == prefix
