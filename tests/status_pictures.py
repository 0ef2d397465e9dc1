"""The status page in Chromium: its pictures for the documentation.

    python -m tests.status_pictures

writes `docs/images/status_*.png` anew. Needs `chromium` (Debian's package of that name).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page
from redis import Redis

from backend.server.connections import ConnectionLimits
from plugin_config.settings import Settings
from tests.browser.editor import PATIENCE_S, browser
from tests.conftest import redis_server
from tests.served_backend import Backend, backend
from tests.status_projects import PROJECT, fill, learn_versions

COMMAND = "python -m tests.status_pictures"
IMAGES = Path(__file__).parent.parent / "docs" / "images"


@dataclass(frozen=True)
class Look:
    """How a page is looked at: window in pixels, and the colours that the reader prefers."""

    width: int
    height: int
    colours: Literal["light", "dark"]


LIGHT, DARK, PHONE = Look(1180, 900, "light"), Look(1180, 900, "dark"), Look(375, 800, "light")
PICTURES = {
    "status_projects.png": ("/status", LIGHT),
    "status_project.png": (f"/status/project?id={PROJECT}", LIGHT),
    "status_phone.png": (f"/status/project?id={PROJECT}", PHONE),
}


@contextmanager
def window(running: Browser, look: Look) -> Iterator[Page]:
    """A new window."""
    context = running.new_context(viewport={"width": look.width, "height": look.height}, color_scheme=look.colours)
    context.set_default_timeout(PATIENCE_S * 1000)
    try:
        yield context.new_page()
    finally:
        context.close()


def main() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory(prefix="zm-") as folder, redis_server() as url:
        fill(Redis.from_url(url), projects=5, tasks=600)
        learn_versions(Redis.from_url(url), Path(folder) / "versions")
        settings = Settings(redis_url=url, model="builtin", state_dir=folder)
        with backend(settings, limits=ConnectionLimits()) as served, browser() as running:
            for name, (path, look) in PICTURES.items():
                _shoot(running, served, path, look, IMAGES / name)


def _shoot(running: Browser, served: Backend, path: str, look: Look, to: Path) -> None:
    with window(running, look) as page:
        page.goto(f"http://127.0.0.1:{served.port}{path}")
        page.screenshot(path=to, full_page=look is not PHONE)


if __name__ == "__main__":
    main()
