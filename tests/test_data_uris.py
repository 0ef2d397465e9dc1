"""`data:` URIs as browsers decode them, within the limits of images, and refused without a word of their content."""

from __future__ import annotations

import base64
import io
import re
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import SplitResult, quote_from_bytes, urlsplit

import pytest
from PIL import Image

from plugin_config.addresses import trimmed
from plugin_config.errors import ImageTooLarge, ImageUnavailable
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.vocabulary import parse_vocabulary
from tests.stand_ins import CONFIG
from worker.label_studio import data_uris
from worker.label_studio.data_uris import read_data_uri
from worker.label_studio.fetching import subject_of
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits
from worker.service import turns

LIMITS = ImageLimits(most_bytes=200_000, most_pixels=500_000, timeout_s=5.0, allow_private=False)
PIXEL = (  # 1 x 1, a red one, as people paste it
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def png(size: tuple[int, int] = (7, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BASE64 = base64.b64encode(PNG).decode()
LOWER = re.sub("%..", lambda escape: escape[0].lower(), quote_from_bytes(PNG))
LINES = "\n".join(re.findall(".{1,76}", BASE64))


def read(text: str, limits: ImageLimits = LIMITS) -> bytes:
    return read_data_uri(trimmed(text), subject=subject_of(7), limits=limits)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"data:image/png;base64,{BASE64}", id="plain"),
        pytest.param(f"DATA:IMAGE/PNG;BASE64,{BASE64}", id="upper case"),
        pytest.param(f"data:;base64,{BASE64}", id="no media type"),
        pytest.param(f"data:base64;base64,{BASE64}", id="a strange media type"),
        pytest.param(f"data:image/jpeg;base64,{BASE64}", id="the wrong media type"),
        pytest.param(f"data:text/plain;base64,{BASE64}", id="a media type of text"),
        pytest.param(f"data:image/png;charset=utf-8;base64,{BASE64}", id="charset"),
        pytest.param(f"data:image/png;name=a.png;x=\"y\";base64,{BASE64}", id="parameters"),
        pytest.param(f"data:image/png; base64,{BASE64}", id="space before base64"),
        pytest.param(f"data:image/png ;  base64 ,{BASE64}", id="spaces around base64"),
        pytest.param(f" \t\n data:image/png;base64,{BASE64}\r\n ", id="white space around"),
        pytest.param(f"data:image/png;base64,{LINES}", id="lines"),
        pytest.param(f"data:image/png;base64,{LINES.replace(chr(10), chr(13) + chr(10))}", id="lines of Windows"),
        pytest.param(f"data:image/png;base64,{' '.join(re.findall('.{1,10}', BASE64))}", id="spaces in it"),
        pytest.param(f"data:image/png;base64,{quote_from_bytes(BASE64.encode(), safe='')}", id="escaped base64"),
        pytest.param(f"data:image/png;base64,{LINES.replace(chr(10), '%0A')}", id="escaped line ends"),
        pytest.param(f"data:image/png;base64,{BASE64.rstrip('=')}", id="no padding"),
        pytest.param(f"data:image/png;base64,{BASE64}#fragment", id="fragment"),
        pytest.param(f"data:image/png,{quote_from_bytes(PNG)}", id="escaped bytes"),
        pytest.param(f"data:,{LOWER}", id="escapes in lower case"),
    ],
)  # fmt: skip
def test_the_file_in_a_data_uri_is_decoded(text: str) -> None:
    assert read(text) == PNG


def test_a_pasted_pixel_is_loaded_as_a_picture() -> None:
    with LabelStudio("http://labels.example", "token") as label_studio:
        picture = ImageLoader(LIMITS).load(
            f" Data:image/png;base64,{PIXEL}\n", task=7, project=3, label_studio=label_studio, urgent=False
        )
    assert picture.pixels.tolist() == [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("data:image/png;base64", "no comma", id="no comma"),
        pytest.param("data:", "no comma", id="nothing at all"),
        pytest.param("data:image/png;base64,", "nothing in it", id="no data"),
        pytest.param("data:,", "nothing in it", id="no bytes"),
        pytest.param("data:image/png;base64,HUSH\u2026HUSH", "no base64", id="three dots"),
        pytest.param("data:image/png;base64,HUSHA", "cut off", id="cut off"),
        pytest.param("data:image/png;base64,HUSH=HUSH", "no base64", id="padding inside"),
        pytest.param("data:image/png;base64,HUSH====", "no base64", id="too much padding"),
        pytest.param("data:image/png;base64,HUSHA===", "no base64", id="three paddings"),
        pytest.param("data:image/png;base64,HUSH_-HU", "url-safe", id="url-safe"),
        pytest.param("data:image/png;base64,HUSH%", "no base64", id="a lone percent"),
        pytest.param("data:image/png;base64,\ud800HUSH", "no base64", id="half a sign"),
        pytest.param("data:image/png;base64,data:HUSH", "no base64", id="twice"),
    ],
)
def test_a_broken_one_is_refused_without_quoting_it(text: str, why: str) -> None:
    with pytest.raises(ImageUnavailable, match=f"image of task 7: is a data: URI that cannot be decoded: .*{why}") as e:
        read(text)
    assert "HUSH" not in str(e.value)
    assert len(str(e.value)) < 300


def test_bytes_that_are_no_picture_are_refused_without_quoting_them() -> None:
    with LabelStudio("http://labels.example", "token") as label_studio, pytest.raises(ImageUnavailable) as caught:
        ImageLoader(LIMITS).load(
            f"data:image/png;base64,{base64.b64encode(b'HUSH' * 5000).decode()}", task=7, project=3,
            label_studio=label_studio, urgent=False,
        )  # fmt: skip
    assert len(str(caught.value)) < 300
    assert "HUSH" not in str(caught.value)


@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "data:image/png,{}"])
def test_the_limit_of_bytes_is_that_of_a_file(form: str) -> None:
    content = bytes(range(256)) * 4
    text = form.format(base64.b64encode(content).decode() if "base64" in form else quote_from_bytes(content))
    assert read(text, replace(LIMITS, most_bytes=1024)) == content
    with pytest.raises(ImageTooLarge, match="ZEROMASK_IMAGE_MAX_MB"):
        read(text, replace(LIMITS, most_bytes=1023))


@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "data:image/png,{}"])
def test_one_that_is_far_too_long_is_refused_before_it_is_decoded(form: str) -> None:
    text = form.format("AAAA" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(ImageTooLarge):
        read_data_uri(text, subject=subject_of(7), limits=LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(text)


@pytest.mark.parametrize("part", range(3, 9))
def test_escapes_are_decoded_wherever_the_parts_of_a_large_file_end(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_uris, "_PART", part)
    for text, content in (("%41%42%43%44%45", b"ABCDE"), ("ab%41c%4%%42%4", b"abAc%4%B%4"), ("%%%%%%%%", b"%%%%%%%%")):
        assert read(f"data:,{text}") == content
        assert read(f"data:,{text}.{text}") == content + b"." + content


def test_no_cache_keeps_a_picture_that_is_in_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """`urlsplit` remembers the texts it has read, whole."""
    seen: list[int] = []

    def split(text: str) -> SplitResult:
        seen.append(len(text))
        return urlsplit(text)

    monkeypatch.setattr(turns, "urlsplit", split)
    for url, host in ((f"data:image/png;base64,{BASE64 * 100}", ""), ("http://a.example:80/x.png", "a.example:80")):
        plan: Any = SimpleNamespace(vocabulary=parse_vocabulary(CONFIG))
        leased = turns.LeasedTask(plan, cast("Any", None), Task(7, {"image": url}, frozenset(), 0))
        assert turns.ImageTurn(leased).host == host
    assert max(seen) <= 1000
