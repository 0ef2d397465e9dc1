"""Which addresses of images are fetched, in every spelling that browsers understand, and what is told of all others."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from plugin_config.errors import ImageHostBusy, ImageHostTrouble, ImageUnavailable
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Server, serving
from tests.served_pictures import FREE, LIMITS, PICTURE, TOKEN, as_new, picture
from worker.label_studio.fetching import fetch_file, subject_of
from worker.label_studio.images import ImageLimits, decode_image


@pytest.fixture(scope="module", name="servers")
def servers_fixture() -> Iterator[tuple[Server, Server]]:
    with serving(picture, host="localhost") as own, serving(picture) as other:
        yield own, other


@pytest.fixture(scope="module", name="client")
def client_fixture(servers: tuple[Server, Server]) -> Iterator[LabelStudio]:
    with LabelStudio(servers[0].url, TOKEN, timeout_s=5) as client:
        yield client


@pytest.fixture
def own(servers: tuple[Server, Server]) -> Server:
    """Label Studio's place, serving a picture under every path until a test says otherwise."""
    return as_new(servers[0])


@pytest.fixture
def other(servers: tuple[Server, Server]) -> Server:
    """Some other server, on a private address."""
    return as_new(servers[1])


@pytest.fixture
def label_studio(client: LabelStudio, own: Server) -> LabelStudio:
    return client


def size(url: object, label_studio: LabelStudio, limits: ImageLimits = LIMITS) -> tuple[int, ...]:
    content = fetch_file(url, task=7, project=3, label_studio=label_studio, limits=limits)
    return decode_image(content, subject=subject_of(7), limits=limits).shape


SPELLED = [
    (" {url}/data/a.png", "/data/a.png"), ("{url}/data/a.png ", "/data/a.png"), ("{url}/data/a.png\n", "/data/a.png"),
    ("\r\n\t {url}/data/a.png\x0c\x00 ", "/data/a.png"), ("{url}/da\nta/a.png", "/data/a.png"),
    ("ht\ntp://{host}/data/a.png", "/data/a.png"), ("HTTP://{host}/data/a.png", "/data/a.png"),
    ("//{host}/data/a.png", "/data/a.png"), (" //{host}/data/a.png\n", "/data/a.png"),
    ("\\\\{host}\\data\\a.png", "/data/a.png"), ("{url}\\data/a.png?d=a\\b", "/data/a.png?d=a%5Cb"),
    ("{url}/data/a.png#part", "/data/a.png"), ("{url}/data/a b|c.png", "/data/a%20b|c.png"),
    ("{url}/data/caf\u00e9.png", "/data/caf%C3%A9.png"), ("{url}/data/100%.png", "/data/100%.png"),
    ("{url}/data/./x/../a.png", "/data/a.png"), ("{url}?x=1", "/?x=1"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "path"), SPELLED)
def test_addresses_are_read_as_browsers_read_them(
    shape: str, path: str, other: Server, label_studio: LabelStudio
) -> None:
    host = other.url.removeprefix("http://")
    assert size(shape.format(url=other.url, host=host), label_studio, FREE) == (6, 8, 3)
    assert other.paths() == [f"GET {path}"]


OWN_SPELLED = [
    (" /data/upload/3/any.png", "/data/upload/3/any.png"), ("/data/upload/3/any.png\n", "/data/upload/3/any.png"),
    ("\t/data/local-files/?d=set/any.png ", "/data/local-files/?d=set/any.png"),
    ("/data/local-files/?d=set\\any.png", "/data/local-files/?d=set%5Cany.png"),
    ("\\data\\upload\\3\\any.png", "/data/upload/3/any.png"), ("upload/3/a b.png", "/data/upload/3/a%20b.png"),
    ("/upload/3/any.png", "/data/upload/3/any.png"), ("data/upload/3/any.png", "/data/upload/3/any.png"),
    ("data/local-files/?d=set/any.png", "/data/local-files/?d=set/any.png"),
    ("storage-data/uploaded/?filepath=upload/3/a.png", "/storage-data/uploaded/?filepath=upload/3/a.png"),
    ("static/samples/sample.jpg", "/static/samples/sample.jpg"), ("/data/a.png#x", "/data/a.png"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "path"), OWN_SPELLED)
def test_addresses_on_label_studio_are_too(url: str, path: str, own: Server, label_studio: LabelStudio) -> None:
    assert size(url, label_studio) == (6, 8, 3)
    assert own.paths() == [f"GET {path}"]
    assert own.asked[0].headers["Authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/a.png", r"scheme that is not fetched, ftp:\. Use http"),
        ("hdfs://host/a.png", r"scheme that is not fetched, hdfs:\. Use http"),
        ("JavaScript:alert(1)", r"scheme that is not fetched, javascript:"),
        ("about:blank", r"scheme that is not fetched, about:"),
        ("x" * 500 + ":a", r"scheme that is not fetched, x{30}:\."),
        ("blob:http://localhost:8080/6e0c", r"blob: address, which only the browser.*Upload"),
        ("file:///etc/passwd", r"somebody's disk, 'file:///etc/passwd'.*local storage"),
        ("C:\\pictures\\a.png", r"somebody's disk.*local storage"),
        ("localhost:8080/data/a.png", r"has no scheme.*Write http://"),
        ("images.example.com:443/a.png", r"has no scheme.*Write http://"),
        ("a.png", r"no valid address, 'a\.png'.*begins with /data/"),
        ("./a.png", r"no valid address"), ("?d=set/a.png", r"no valid address"),
        ("\xa0http://host/a.png", r"no valid address"), ("\u3000/data/a.png", r"no valid address"),
        ("///host/a.png", r"three slashes"), ("http:/host/a.png", r"names no host"),
        ("http://user:hush@host/a.png", r"holds a user name"), ("http://host/\x7fa.png", r"holds the character"),
        ("s3://bucket", r"must name a bucket and a file"), ("s3:///a.png", r"must name a bucket"),
        ("gs://bucket/", r"must name a bucket"), ("s3:bucket/a.png", r"must name a bucket"),
        ("http://host:x/" + "a" * 9000, r"no valid address"), ("http://" + "a" * 9000 + ".com/", r"no valid address"),
        ("/" + "a" * 9000, r"holds no file of this task"), ("http://host/?" + "a" * 70_000, r"longer than 65,536"),
    ],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_other_kinds_are_refused_by_name_with_a_remedy(
    url: str, told: str, own: Server, label_studio: LabelStudio
) -> None:
    with pytest.raises(ImageUnavailable, match=told) as caught:
        size(url, label_studio, FREE)
    assert own.asked == []
    assert len(str(caught.value)) < 600
    assert "hush" not in str(caught.value)
    assert not isinstance(caught.value, ImageHostTrouble)


@pytest.mark.parametrize("url", [{"a": "b" * 5000}, ["c" * 5000] * 50, 10**300], ids=["object", "list", "number"])
def test_values_that_are_no_text_are_quoted_in_part(url: object, label_studio: LabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="must be an address") as caught:
        size(url, label_studio)
    assert len(str(caught.value)) < 400


def test_a_signature_in_an_address_is_not_quoted(own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(302, headers={"Location": "http://host:99999/a.png?X-Amz-Signature=hush"})
    with pytest.raises(ImageUnavailable, match="no valid address") as caught:
        size("/data/a.png", label_studio)
    assert "hush" not in str(caught.value)


NAMED = r"^zeromask/\d+\.\d+\S* \([^()]+\) httpx/[\d.]+$"


def test_every_host_is_told_who_asks_and_whom_to_contact(own: Server, other: Server) -> None:
    with LabelStudio(own.url, TOKEN, contact="https://labs.example/bot, bot@labs.example") as label_studio:
        size("/data/a.png", label_studio)
        size(f"{other.url}/a.png", label_studio, FREE)
    for server in (own, other):
        assert re.match(NAMED, server.asked[0].headers["User-Agent"])
        assert "(https://labs.example/bot, bot@labs.example)" in server.asked[0].headers["User-Agent"]


def test_without_a_contact_the_operator_is_named(other: Server, label_studio: LabelStudio) -> None:
    other.answer = lambda asked: Answer(403) if asked.headers["User-Agent"].startswith("python-") else picture(asked)
    assert size(f"{other.url}/picture.png", label_studio, FREE) == (6, 8, 3)
    assert re.match(NAMED, other.asked[0].headers["User-Agent"])
    assert "contact: " in other.asked[0].headers["User-Agent"]


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refused by its host"), (403, "refused by its host.*ZEROMASK_CONTACT"), (404, "not at its host"),
     (410, "not at its host"), (418, "HTTP 418"), (429, "fewer requests"), (451, "HTTP 451"), (503, "its server")],
)  # fmt: skip
def test_what_another_host_refuses_has_nothing_to_do_with_the_token(
    status: int, told: str, other: Server, label_studio: LabelStudio
) -> None:
    other.answer = lambda asked: Answer(status)
    with pytest.raises(ImageUnavailable, match=told) as caught:
        size(f"{other.url}/a.png", label_studio, FREE)
    assert f"HTTP {status}" in str(caught.value)
    assert "token" not in str(caught.value).lower()
    assert "API_KEY" not in str(caught.value)
    assert isinstance(caught.value, ImageHostTrouble) == (status in (429, 503))


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        ("/data/upload/3/a.png", 403, "LABEL_STUDIO_API_KEY"),
        ("/data/upload/3/a.png", 404, "still in Label Studio"), ("/data/upload/3/a.png", 500, "Label Studio's log"),
        ("/data/local-files/?d=a.png", 403, "LOCAL_FILES_SERVING_ENABLED"),
        ("/data/local-files/?d=a.png", 404, "local storage of its folder"),
        ("s3://my-bucket/a.png", 404, "bucket that no storage of its project has, 's3://my-bucket'.*Cloud Storage"),
        ("/tasks/7/resolve/?fileuri=YXp1cmUtYmxvYjovL2JveC9hLnBuZw==", 404, "no storage .*has, 'azure-blob://box'"),
        ("s3://my-bucket/a.png", 403, "may see the project"),
        ("s3://my-bucket/a.png", 424, "credentials of the storage"),
    ],
)  # fmt: skip
def test_what_label_studio_refuses_names_what_to_change_in_it(
    url: str, status: int, told: str, own: Server, label_studio: LabelStudio
) -> None:
    own.answer = lambda asked: Answer(status)
    with pytest.raises(ImageUnavailable, match=told) as caught:
        size(url, label_studio)
    assert f"HTTP {status}" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "wait", "busy"),
    [(429, "", True), (429, "120", True), (503, "120", True), (503, "", False), (429, "x" * 900, True),
     (429, "Sun, 29 Nov 2026 12:00:00 GMT", True)],
)  # fmt: skip
def test_a_host_that_asks_for_patience_gets_it(
    status: int, wait: str, busy: bool, other: Server, label_studio: LabelStudio
) -> None:
    other.answer = lambda asked: Answer(status, headers={"Retry-After": wait} if wait else {})
    with pytest.raises(ImageHostTrouble) as caught:
        size(f"{other.url}/a.png", label_studio, FREE)
    assert isinstance(caught.value, ImageHostBusy) is busy
    assert wait[:40] in str(caught.value)
    assert len(str(caught.value)) < 200


PAGES = [
    b"<!DOCTYPE html><title>Sign in</title>", b"\xef\xbb\xbf\n <!doctype HTML>\n", b"<html lang=en>", b"<HEAD><title>x",
    b"<!-- a comment --><!-- another -->\n<html>", b"<script>location='/login'</script>",
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("where", ["own", "other"])
def test_a_web_page_is_told_as_one(
    page: bytes, where: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    server, told = (own, "LABEL_STUDIO_URL") if where == "own" else (other, "the image's own address")
    server.answer = lambda asked: Answer(200, page, {"Content-Type": "image/png"})
    with pytest.raises(ImageUnavailable, match=f"is a web page, not an image.*{told}"):
        size(f"{server.url}/data/a.png", label_studio, FREE)


def test_a_picture_that_is_sent_as_a_page_is_a_picture(other: Server, label_studio: LabelStudio) -> None:
    other.answer = lambda asked: Answer(200, PICTURE, {"Content-Type": "text/html"})
    assert size(f"{other.url}/a.png", label_studio, FREE) == (6, 8, 3)


def test_label_studios_sign_in_page_is_told_with_the_token(own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(302, headers={"Location": "/user/login/?next=/data/a.png"})
    with pytest.raises(ImageUnavailable, match=r"sign-in page.*LABEL_STUDIO_API_KEY"):
        size("/data/a.png", label_studio)


def test_a_file_that_is_left_to_nginx_is_told(own: Server, label_studio: LabelStudio) -> None:
    """As Label Studio does for uploads in a cloud storage, where LABEL_STUDIO_URL goes past its nginx."""
    own.answer = lambda asked: Answer(200, headers={"X-Accel-Redirect": "/file_download/https/bucket/a.png"})
    with pytest.raises(ImageUnavailable, match="LABEL_STUDIO_URL to Label Studio's nginx"):
        size("/storage-data/uploaded/?filepath=upload/3/a.png", label_studio)


@pytest.mark.parametrize(
    ("uri", "asked_for"),
    [("s3://bucket/a b.png", "s3://bucket/a b.png"), (" gs://bucket/a.png\n", "gs://bucket/a.png"),
     ("AZURE-BLOB://Box/A.png", "azure-blob://Box/A.png"), ("azure_spi://box/a?b#c.png", "azure_spi://box/a?b#c.png"),
     ("s3://bucket/\u732b.png", "s3://bucket/\u732b.png")],
)  # fmt: skip
def test_label_studio_is_asked_for_the_very_file_in_its_storage(
    uri: str, asked_for: str, own: Server, label_studio: LabelStudio
) -> None:
    assert size(uri, label_studio) == (6, 8, 3)
    (path,) = own.paths()
    assert base64.urlsafe_b64decode(path.removeprefix("GET /tasks/7/presign/?fileuri=")).decode() == asked_for


def test_a_storage_on_a_private_network_names_both_ways(own: Server, other: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(303, headers={"Location": f"{other.url}/bucket/a.png?X-Amz-Signature=hush"})
    with pytest.raises(ImageUnavailable, match=r"ZEROMASK_ALLOW_PRIVATE_IMAGES=1, or turn off pre-signed") as caught:
        size("s3://bucket/a.png", label_studio)
    assert "hush" not in str(caught.value)
    other.answer = lambda asked: Answer(403, b"<?xml version='1.0'?><Error><Code>SignatureDoesNotMatch</Code></Error>")
    with pytest.raises(ImageUnavailable, match=r"refused by its storage \(HTTP 403\).*credentials"):
        size("s3://bucket/a.png", label_studio, FREE)
