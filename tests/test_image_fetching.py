"""A task's address: what is fetched, what is refused, how long it may take, and who is shown the token."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from plugin_config.errors import ImageUnavailable, LabelStudioError, LabelStudioFailing
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Asked, Server, as_json, serving
from tests.served_pictures import FREE, LIMITS, PICTURE, TOKEN, picture
from worker.label_studio.fetching import fetch_file, subject_of
from worker.label_studio.images import ImageLimits, decode_image


@pytest.fixture
def own() -> Iterator[Server]:
    """Label Studio's place, serving a picture under every path until a test says otherwise."""
    with serving(picture, host="localhost") as server:
        yield server


@pytest.fixture
def other() -> Iterator[Server]:
    """Some other server, on a private address."""
    with serving(picture) as server:
        yield server


@pytest.fixture
def label_studio(own: Server) -> Iterator[LabelStudio]:
    with LabelStudio(own.url, TOKEN, timeout_s=5) as client:
        yield client


def size(url: object, label_studio: LabelStudio, limits: ImageLimits = LIMITS) -> tuple[int, ...]:
    content = fetch_file(url, task=7, project=3, label_studio=label_studio, limits=limits)
    return decode_image(content, subject=subject_of(7), limits=limits).shape


@pytest.mark.parametrize("url", [None, "", 5, ["/a.png"], {"url": "/a.png"}], ids=repr)
def test_data_that_is_no_address_names_the_labeling_config(url: object, label_studio: LabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match=r"image of task 7: .*labeling config"):
        size(url, label_studio)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "a.png", "http://[::1", "http://",
     "http://host:99999/a.png", "http://host:x/a.png", "//other.example/a.png", "/\\other.example/a.png", "http://a\x00b/",
     "http://..../a.png", "http://" + "a" * 300 + "/", "https:///a.png", "javascript:alert(1)"],
)  # fmt: skip
def test_hostile_addresses_are_refused_and_not_stumbled_over(url: str, own: Server, label_studio: LabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="image of task 7"):
        size(url, label_studio, FREE)
    assert own.asked == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "169.254.169.254", "10.1.2.3", "192.168.0.1", "172.16.9.9",
     "100.64.0.1", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
     "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "[ff02::1]",
     "255.255.255.255"],
)  # fmt: skip
def test_private_addresses_are_refused_in_every_spelling(host: str, other: Server, label_studio: LabelStudio) -> None:
    port = other.url.rpartition(":")[2]
    with pytest.raises(ImageUnavailable, match=r"is on a (private address|host that is not known)|no valid address"):
        size(f"http://{host}:{port}/a.png", label_studio)
    assert other.asked == []


def test_private_addresses_are_fetched_where_the_setting_allows_it(other: Server, label_studio: LabelStudio) -> None:
    assert size(f"{other.url}/a.png?x=1", label_studio, FREE) == (6, 8, 3)
    assert other.paths() == ["GET /a.png?x=1"]
    assert "Authorization" not in other.asked[0].headers


@pytest.mark.parametrize("shape", ["relative", "absolute"])
def test_label_studios_own_files_are_asked_for_with_the_token(
    shape: str, own: Server, label_studio: LabelStudio
) -> None:
    """Even with Label Studio on a private address, which it usually is."""
    assert size(("" if shape == "relative" else own.url) + "/data/upload/3/a.png", label_studio) == (6, 8, 3)
    assert own.paths() == ["GET /data/upload/3/a.png"]
    assert own.asked[0].headers["Authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize("shape", ["{url}@other.example/a.png", "{url}.other.example/a.png", "{url}0/a.png"])
def test_hosts_that_only_look_like_label_studio_get_nothing(shape: str, own: Server, label_studio: LabelStudio) -> None:
    with pytest.raises(ImageUnavailable):
        size(shape.format(url=own.url), label_studio)
    assert own.asked == []


def test_cloud_storage_is_reached_through_label_studio_and_the_token_stays_there(
    own: Server, other: Server, label_studio: LabelStudio
) -> None:
    own.answer = lambda asked: Answer(303, headers={"Location": f"{other.url}/signed.png?sig=1"})
    assert size("s3://bucket/a.png", label_studio, FREE) == (6, 8, 3)
    assert own.paths()[0].startswith("GET /tasks/7/presign/?fileuri=")
    assert "Authorization" not in other.asked[0].headers
    assert not any(TOKEN in value for value in other.asked[0].headers.values())


def test_a_redirect_to_a_private_address_is_refused(own: Server, other: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(302, headers={"Location": f"{other.url}/secret"})
    with pytest.raises(ImageUnavailable, match="private address"):
        size("/data/a.png", label_studio)
    assert other.asked == []


def test_relative_redirects_lead_on(own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: picture(asked) if "b.png" in asked.path else Answer(302, headers={"Location": "b.png?x"})
    assert size("/data/a.png?y", label_studio) == (6, 8, 3)
    assert own.paths() == ["GET /data/a.png?y", "GET /data/b.png?x"]


@pytest.mark.parametrize("where", ["own", "other"])
def test_redirect_loops_end(where: str, own: Server, other: Server, label_studio: LabelStudio) -> None:
    server = own if where == "own" else other
    server.answer = lambda asked: Answer(302, headers={"Location": asked.path})
    with pytest.raises(ImageUnavailable, match="redirected more than 5 times"):
        size(f"{server.url}/data/a.png", label_studio, FREE)
    assert len(server.asked) == 6


def test_a_refused_token_is_not_the_images_fault(own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: as_json({"detail": "Invalid token."}, 401)
    with pytest.raises(LabelStudioError, match=r"HTTP 401\) Invalid token.*LABEL_STUDIO_API_KEY") as caught:
        size("/data/a.png", label_studio)
    assert caught.value.status == 401, "the work is kept until the token is right"


@pytest.mark.parametrize("status", [204, 304, 403, 404, 500])
def test_other_answers_name_their_status(status: int, own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(status)
    with pytest.raises(ImageUnavailable, match=f"HTTP {status}"):
        size("/data/a.png", label_studio)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_label_studio_that_is_away_is_waited_for(status: int, own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(status)
    with pytest.raises(LabelStudioFailing, match=f"HTTP {status}"):
        size("/data/a.png", label_studio)


def test_redirects_to_nonsense_are_refused(own: Server, label_studio: LabelStudio) -> None:
    own.answer = lambda asked: Answer(302, headers={"Location": "http://[broken"})
    with pytest.raises(ImageUnavailable, match="no valid address"):
        size("/data/a.png", label_studio)


MEGABYTES = b"\xff" * 30_000_000


@pytest.mark.parametrize("where", ["own", "other"])
def test_too_many_bytes_are_refused_while_they_arrive(
    where: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    """A sender that goes on for ever is left after the limit, not after its end."""
    server = own if where == "own" else other
    head = b"HTTP/1.1 200 OK\r\n\r\n"  # without a length, to the end of the connection, which never comes
    server.answer = lambda asked: Answer(raw=head + MEGABYTES, pieces=2, pause_s=60)
    with pytest.raises(ImageUnavailable, match=r"too large.*ZEROMASK_IMAGE_MAX_MB"):  # no word of the time, 5 s
        size(f"{server.url}/data/a.png", label_studio, FREE)


@pytest.mark.parametrize("where", ["own", "other"])
def test_what_says_it_is_too_long_is_not_waited_for(
    where: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    server = own if where == "own" else other
    server.answer = lambda asked: Answer(200, b"x", {"Content-Length": "3000000000"}, pieces=1, pause_s=60)
    with pytest.raises(ImageUnavailable, match=r"over 3000 MB.*ZEROMASK_IMAGE_MAX_MB"):
        size(f"{server.url}/data/a.png", label_studio, FREE)


def packed_often(times: int) -> bytes:
    """Zeros in gzip in gzip ...: a few kilobytes that httpx would make gigabytes of."""
    body = bytes(20_000_000)
    for _ in range(times):
        body = gzip.compress(body)
    return body


@pytest.mark.parametrize("where", ["own", "other"])
@pytest.mark.parametrize(
    ("codings", "told"),
    [("gzip", "gzip"), ("gzip, gzip", "gzip"), ("GZIP", "gzip"), ("br", "br"), ("identity,deflate", "deflate"),
     ("x-gzip", "x-gzip"), ("zstd", "zstd")],
)  # fmt: skip
def test_compressed_answers_are_refused_and_nothing_is_unpacked(
    where: str, codings: str, told: str, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    server = own if where == "own" else other
    body = packed_often(2)
    assert len(body) < 1000
    server.answer = lambda asked: Answer(200, body, {"Content-Encoding": codings})
    with pytest.raises(ImageUnavailable, match=rf"sent compressed \({told}\).*Content-Encoding"):
        size(f"{server.url}/data/a.png", label_studio, FREE)
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("coding", ["identity", "aws-chunked", ""])
def test_codings_that_change_no_byte_are_read(coding: str, other: Server, label_studio: LabelStudio) -> None:
    other.answer = lambda asked: Answer(200, PICTURE, {"Content-Encoding": coding})
    assert size(f"{other.url}/a.png", label_studio, FREE) == (6, 8, 3)


@pytest.mark.parametrize("where", ["own", "other"])
def test_a_body_that_breaks_off_is_told(where: str, own: Server, other: Server, label_studio: LabelStudio) -> None:
    server = own if where == "own" else other
    server.answer = lambda asked: Answer(200, PICTURE, {"Content-Length": "5000", "Connection": "close"})
    with pytest.raises(ImageUnavailable, match=r"broke off|cannot be fetched"):
        size(f"{server.url}/data/a.png", label_studio, FREE)


SLOW = replace(FREE, timeout_s=0.6)
HEADER_DRIP = b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 400


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        pytest.param("other", Answer(200, raw=b"H" * 50, pause_s=30), id="silent"),
        pytest.param("other", Answer(200, raw=HEADER_DRIP, pause_s=0.1), id="drips headers"),
        pytest.param("other", Answer(200, b"x" * 500, pieces=500, pause_s=0.1), id="drips body"),
        pytest.param("own", Answer(200, b"x" * 500, pieces=500, pause_s=0.1), id="Label Studio drips body"),
    ],
)
def test_slow_servers_are_left_in_time(
    where: str, answer: Answer, own: Server, other: Server, label_studio: LabelStudio
) -> None:
    server = own if where == "own" else other
    server.answer = lambda asked: answer
    start = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"within 0\.6 s.*ZEROMASK_IMAGE_TIMEOUT_S"):
        size(f"{server.url}/data/a.png", label_studio, SLOW)
    assert time.monotonic() - start < 20, "each would take half a minute or more"


def test_redirects_share_one_deadline(other: Server, label_studio: LabelStudio) -> None:
    def slow(asked: Asked) -> Answer:
        time.sleep(0.3)
        return Answer(302, headers={"Location": asked.path})

    other.answer = slow
    with pytest.raises(ImageUnavailable, match="within"):  # each alone is in time, and six are too many
        size(f"{other.url}/a.png", label_studio, SLOW)


def test_a_host_nobody_knows_is_told(label_studio: LabelStudio) -> None:
    with pytest.raises(ImageUnavailable, match="host that is not known"):
        size("http://nobody.invalid/a.png", label_studio)
