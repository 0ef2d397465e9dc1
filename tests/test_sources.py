"""A few cells of `make sources`, on the Label Studio of the test run: plain, and behind a proxy with an own CA."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from plugin_config.errors import LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio
from tests.house import TOKEN, House, personal_token
from tests.sources.proxy import ReverseProxy, reverse_proxy
from tests.sources.table import Sources, Way, read, read_in_threads, sources
from tests.tls import authority

PLAIN = ["s3, presigned", "s3, through Label Studio", "http of another host"]
BEHIND_TLS = ["uploaded file", "https of another host, own CA"]


def test_images_are_fetched_with_both_tokens_and_through_tls_with_an_own_authority(
    house: House, tmp_path: Path
) -> None:
    own, tokens = authority(tmp_path), {"personal": personal_token(house.label_studio), "legacy": TOKEN}
    with reverse_proxy(tls=own.context("localhost")) as proxy:
        proxy.target = house.label_studio.url
        stranger = LabelStudio(proxy.url, TOKEN)
        with stranger, pytest.raises(LabelStudioUnreachable, match="ZEROMASK_CA_BUNDLE"):
            stranger.project(1)
        for name, url, chosen in (("plain", house.label_studio.url, PLAIN), ("TLS", proxy.url, BEHIND_TLS)):
            way = Way(name, url, TOKEN, None, own)
            with way.client(TOKEN) as api, sources(api, way, chosen) as found:
                cells = read(found, way, tokens, tmp_path / "cache")
                assert [(cell.source, cell.fetched, cell.again, cell.note) for cell in cells] == [
                    (source, True, "from the cache", "") for source in chosen * 2
                ]
                if name == "TLS":
                    _token_dies_while_threads_fetch(found, way, tokens["personal"], proxy)


def _token_dies_while_threads_fetch(found: Sources, way: Way, token: str, proxy: ReverseProxy) -> None:
    end = time.monotonic() + 1.5

    def over() -> bool:
        proxy.dead = proxy.dead or proxy.last
        return time.monotonic() > end

    with way.client(token) as client:
        fetched, error = read_in_threads(client, found, way, until=over)
    assert (fetched > 8, proxy.refused > 0, error) == (True, True, "")
    assert proxy.last.startswith("Bearer ")


def test_the_makefile_names_the_table() -> None:
    text = (Path(__file__).resolve().parent.parent / "Makefile").read_text()
    assert re.search(r"^sources:.*\n\t@\.venv/bin/python -m tests\.sources$", text, re.MULTILINE)
