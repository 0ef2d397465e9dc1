"""Chromium as a fixture, for tests of pages that are not Label Studio's editor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.editor import browser
from tests.browser_pictures import NoBrowser


@pytest.fixture(scope="module", name="chromium")
def chromium_fixture() -> Iterator[Browser]:
    """A browser; skipped, with the reason, where no Chromium can be had."""
    try:
        with browser() as running:
            yield running
    except NoBrowser as reason:
        pytest.skip(str(reason))
