"""Label Studio's editor in headless Chromium, driven with the mouse and read by what its canvas draws."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from plugin_config.demo.setup import PASSWORD, USER
from tests.browser.shots import write_small
from tests.browser_pictures import NoBrowser, chromium

Mask = NDArray[np.bool_]
"""(H, W) bool, in pixels of the image."""

WINDOW = (1280, 900)
PATIENCE_S = 60.0
"""Longest wait for the editor: it is there in 3 s on a free machine."""

_SCRIPT = Path(__file__).with_name("editor.js")
_EDITOR: FloatRect = {"x": 240, "y": 90, "width": 1040, "height": 560}  # the window without its lists of tasks
_COLOURS = 40
_LOOKS, _LOOK_MS = 50, 200.0
_LEVELS = 3  # of 255 by which a pixel must change to have been changed by a region
_OUTLINE = 5  # window pixels by which an outline or a handle may go beyond its region


class Editor:
    """A window of Chromium that is signed in to a Label Studio. Made in a `with` block by `editor`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def sign_in(self) -> None:
        """Sign in as the user whom `label_studio_command` made."""
        self.page.goto(f"{self.url}/user/login", wait_until="domcontentloaded")
        self.page.fill("input[name=email]", USER)
        self.page.fill("input[name=password]", PASSWORD)
        with self.page.expect_navigation(url=lambda url: "/user/login" not in url, wait_until="commit"):
            self.page.press("input[name=password]", "Enter")

    def open(self, project: int, task: int, *, regions: int = 0) -> float:
        """Open a task and wait until its image and `regions` regions or more are drawn. Returns the seconds it took.

        A page that misses an answer does not ask again, so the task is opened a second time before that is a failure.
        """
        try:
            return self._open(project, task, regions)
        except PlaywrightTimeoutError:
            return self._open(project, task, regions)

    def _open(self, project: int, task: int, regions: int) -> float:
        began = time.monotonic()
        self.page.goto(f"{self.url}/projects/{project}/data?task={task}", wait_until="commit")
        self.page.wait_for_function("([task, count]) => window.zeromask?.opened(task, count)", arg=[task, regions])
        self.frames()
        return time.monotonic() - began

    def frames(self) -> None:
        """Wait until the editor has drawn what was changed before."""
        self.page.evaluate("() => zeromask.frames()")

    def regions(self) -> list[dict[str, Any]]:
        """`id`, `type`, `origin`, `label` of each region shown, and whether it is a `suggestion`."""
        found: list[dict[str, Any]] = self.page.evaluate("() => zeromask.regions()")
        return found

    def drawn(self, region: str) -> Mask:
        """What the editor draws as the area of a region, in the image's own pixels."""
        width, height, text = self.page.evaluate("id => zeromask.drawn(id)", region)
        bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
        return np.unpackbits(bits, count=width * height).reshape(height, width).astype(np.bool_)

    def settled(self, region: str, *, unlike: Mask | None = None) -> Mask:
        """What `drawn` tells once it stays the same: the editor draws what was edited when it has time.

        Args:
            region: its id.
            unlike: (H, W) what was drawn before an edit, which is waited for; None = nothing was edited just now.
        """
        drawn = self.drawn(region)
        for _ in range(_LOOKS):
            self.page.wait_for_timeout(_LOOK_MS)
            before, drawn = drawn, self.drawn(region)
            if np.array_equal(before, drawn) and (unlike is None or not np.array_equal(drawn, unlike)):
                break
        return drawn

    def seen(self, region: str, mask: Mask) -> tuple[float, float]:
        """What of the window changes when a region is hidden.

        Args:
            region: its id.
            mask: (H, W) where it should be.

        Returns:
            Share of the mask's pixels that change, and share of the changed ones that lie off the mask, further than
            its outline is wide.
        """
        shots = []
        for hidden in (False, True):
            self.page.evaluate("([id, hidden]) => zeromask.setHidden(id, hidden)", [region, hidden])
            self.frames()
            shots.append(self.picture().astype(np.int16))
        self.page.evaluate("id => zeromask.setHidden(id, false)", region)
        self.frames()
        changed = np.abs(shots[0] - shots[1]).max(axis=2) >= _LEVELS
        here = cv2.resize(mask.astype(np.uint8), changed.shape[::-1], interpolation=cv2.INTER_NEAREST)
        around = cv2.dilate(here, np.ones((2 * _OUTLINE + 1,) * 2, np.uint8)).astype(np.bool_)
        inside = here.astype(np.bool_)
        return (float((changed & inside).sum() / max(inside.sum(), 1)),
                float((changed & ~around).sum() / max(changed.sum(), 1)))  # fmt: skip

    def picture(self) -> NDArray[np.uint8]:
        """(H, W, 3) of the window where the image lies."""
        place = self.place()
        clip: FloatRect = {"x": round(place["left"]), "y": round(place["top"]),
                           "width": round(place["width"]), "height": round(place["height"])}  # fmt: skip
        shot = self.page.screenshot(clip=clip)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def picture_to(self, path: Path) -> None:
        """Write what the editor shows as a small PNG file."""
        write_small(self.page.screenshot(clip=_EDITOR), path, colours=_COLOURS)

    def place(self) -> dict[str, float]:
        """Where the image lies in the window: left, top, width, height, and window pixels of an image pixel, scale."""
        place: dict[str, float] = self.page.evaluate("() => zeromask.place()")
        return place

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The point of the window at which a point of the image is, both in pixels."""
        place = self.place()
        return place["left"] + x * place["scale"], place["top"] + y * place["scale"]

    def click(self, x: float, y: float, *, keys: Sequence[str] = (), count: int = 1) -> None:
        """Click on a point of the image, in its pixels; `keys` are held meanwhile, `count`: 2 = a double click."""
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.at(x, y), click_count=count)
        for key in keys:
            self.page.keyboard.up(key)

    def drag(self, *points: tuple[float, float]) -> None:
        """Drag the mouse along points of the image, in its pixels."""
        first, *rest = (self.at(*point) for point in points)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for point in rest:
            self.page.mouse.move(*point, steps=8)
        self.page.mouse.up()
        self.frames()

    def choose(self, tool: str) -> None:
        """Press a button of the editor by its name: "eraser", "Undo"."""
        self.page.get_by_label(tool, exact=True).click()
        self.frames()

    def select(self, number: int) -> str:
        """Click on a region in the list of regions, 0 = the first. Returns the id that the Info panel shows."""
        row = self.page.locator(".lsf-outliner-item").nth(number)
        details = self.page.locator(".lsf-detailed-region__head > span")
        if not self.page.evaluate("number => zeromask.selected(number)", number):
            row.click()
        self.frames()
        return details.inner_text().strip()

    def label(self, text: str, *, of: int = 0) -> None:
        """Click on a label below the image; `of`: the how-manieth control with such a label, from 0."""
        self.page.locator(".lsf-label", has_text=text).nth(of).click()
        self.frames()

    def smart_tool(self, tool: str) -> None:
        """Switch Auto-Annotation on where it is off, and choose a smart tool by its name: "key-point-tool"."""
        smart = self.page.locator(".lsf-tool_smart").first
        if not smart.is_visible():
            self.page.get_by_test_id("bottombar-auto-annotation-toggle").click(force=True)
        smart.hover()
        self.page.locator(f".lsf-toolbar__smart [aria-label={tool}]").click()
        self.frames()

    def accept(self) -> None:
        """Accept what a smart tool suggests."""
        self.page.get_by_test_id("bottombar-accept-suggestions-button").click()
        self.page.wait_for_function("() => !zeromask.regions().some(region => region.suggestion)")
        self.frames()

    def accept_by_itself(self) -> None:
        """Switch Auto-Accept Suggestions on where it is off, and off where it is on."""
        self.page.get_by_test_id("bottombar-auto-accept-toggle").click(force=True)
        self.frames()

    def submit(self, *, presses: int = 1) -> None:
        """Press the button that stores the annotation, and wait until Label Studio has it."""
        with self.page.expect_response(lambda answer: "/annotations" in answer.url
                                       and answer.request.method in ("POST", "PATCH")):  # fmt: skip
            self.page.get_by_label("Submit current annotation").click(click_count=presses)


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless; installed first where root may.

    Raises:
        NoBrowser: there is none, or it does not start.
    """
    program = chromium(install=True)
    with sync_playwright() as playwright:
        try:
            running = playwright.chromium.launch(
                executable_path=program, timeout=PATIENCE_S * 1000,
                args=["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--enable-precise-memory-info"],
            )  # fmt: skip
        except PlaywrightError as error:
            raise NoBrowser(f"{program} does not start ({error.message.splitlines()[0]})") from error
        try:
            yield running
        finally:
            running.close()


@contextmanager
def editor(running: Browser, url: str) -> Iterator[Editor]:
    """A new window, signed in."""
    context = running.new_context(viewport={"width": WINDOW[0], "height": WINDOW[1]})
    context.set_default_timeout(PATIENCE_S * 1000)
    context.add_init_script(path=_SCRIPT)
    try:
        opened = Editor(context.new_page(), url)
        opened.sign_in()
        yield opened
    finally:
        context.close()
