"""Small inputs that would keep a reader busy for minutes cost it next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from plugin_config.addresses import label_studio_prefix
from plugin_config.vocabulary import parse_vocabulary
from tests.picture_files import LONG, SHORT, directory, long, short
from worker.label_studio.containers import read_container
from worker.label_studio.deep import deep_tiff, read_values
from worker.label_studio.exif import read_exif
from worker.label_studio.picture_regions import picture_regions
from worker.label_studio.refusals import is_web_page
from worker.label_studio.structure import TinyParts

_MOST_S = 5.0  # of processor time; each took more than seven before

VOCABULARY = parse_vocabulary(
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="cat"/>'
    "</BrushLabels></View>"
)


def exif_that_names_itself() -> object:
    return read_exif(directory([(0x8769, LONG, 1, long(8))] * 2000))


def page_of_comments() -> object:
    return is_web_page(b"<!---->" * 500 + b"no page")


def address_of_routes() -> object:
    # ten, as each is about as dear as reading a small picture
    return [label_studio_prefix(httpx.URL("http://host/" + "/data/local-files?" * 3600)) for _ in range(10)]


def tiff_of_formats() -> object:
    """An unsigned TIFF of 32 bits that says so 2,000 times, each time of 100,000 channels."""
    size = [(256, SHORT, 1, short(1)), (257, SHORT, 1, short(1)), (258, SHORT, 1, short(32))]
    formats = [(339, SHORT, 100_000, long(30_000))] * 2000
    content = directory([*size, *formats]).ljust(30_000, b"\0") + short(1)[:2] * 100_000
    found = deep_tiff(content)
    assert found is not None
    return read_values(content, found)


def regions_of_one_id(*labels: list[str]) -> object:
    item: dict[str, Any] = {"id": "a", "type": "brushlabels", "from_name": "elsewhere", "to_name": "image"}
    values = [{"rle": [n], "brushlabels": named} for n in range(1000) for named in labels]
    return picture_regions([{**item, "value": value} for value in values], VOCABULARY)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(exif_that_names_itself, id="exif"),
        pytest.param(page_of_comments, id="page"),
        pytest.param(address_of_routes, id="address"),
        pytest.param(tiff_of_formats, id="tiff"),
        pytest.param(lambda: regions_of_one_id([]), id="regions"),
        pytest.param(lambda: regions_of_one_id([], ["dog"]), id="regions and names"),
    ],
)
def test_small_inputs_are_read_in_a_moment(read: Callable[[], object]) -> None:
    started = time.process_time()
    read()
    assert time.process_time() - started < _MOST_S


def test_a_gif_of_countless_texts_is_refused() -> None:
    with pytest.raises(TinyParts):
        read_container(b"GIF89a" + bytes(7) + b"\x21\xfe\x00" * 500_000)
