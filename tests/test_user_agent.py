"""Every request of the product names it and whom to contact; the laboratory's, to its own servers, are no product's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_config.errors import SettingsError
from plugin_config.http_requests import user_agent
from plugin_config.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
_SENDERS = {"get", "post", "put", "patch", "delete", "head", "request", "stream", "Client", "AsyncClient"}


def requests_in(path: Path) -> Iterator[ast.Call]:
    """Calls by which a module sends a request with httpx, or makes a client."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="httpx"), attr=name)) if name in _SENDERS:
                yield node


def test_every_client_is_given_the_user_agent() -> None:
    paths = [path for package in ("plugin_config", "backend", "worker") for path in (ROOT / package).rglob("*.py")]
    anonymous, found = [], 0
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if "httpx." not in text or path.is_relative_to(ROOT / "worker" / "lab"):
            continue
        for call in requests_in(path):
            found += 1
            shown = ast.get_source_segment(text, call) or ""
            # The images' client is made per request, and each request carries its headers.
            if '"User-Agent"' not in shown and path.name != "fetching.py":
                anonymous.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert anonymous == []
    assert found >= 4


def test_it_names_the_product_its_version_and_a_contact() -> None:
    assert re.fullmatch(r"zeromask/\d+\.\d+\S* \(images of .*contact: .*\) httpx/[\d.]+", user_agent())
    assert re.fullmatch(r"zeromask/\d+\.\d+\S* \(me@labs\.example\) httpx/[\d.]+", user_agent("me@labs.example"))


@pytest.mark.parametrize("contact", ["B\u00fccher", "a\nX-Evil: b", "(c) me", "me)", "a\\"])
def test_a_contact_that_no_header_carries_is_told(contact: str) -> None:
    with pytest.raises(SettingsError, match="setting ZEROMASK_CONTACT"):
        Settings(contact=contact)
