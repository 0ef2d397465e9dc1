"""The status page in Chromium, on a real backend: live, by the keyboard alone, on a phone, in the dark; axe-core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from playwright.sync_api import Error as PlaywrightError
from redis import Redis

from backend.server.connections import ConnectionLimits
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.titles import set_title
from plugin_config.settings import Settings
from tests.backend_client import patient_fixture
from tests.browser.window import chromium_fixture
from tests.house import PATIENCE_S
from tests.served_backend import PASSWORD, USER, Backend, backend, signing_in
from tests.status_pictures import DARK, LIGHT, PHONE, Look, window
from tests.status_projects import PROJECT, VERSION, fill, keep_alive, learn_versions

__all__ = ["chromium_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

PAGES = ["/status", f"/status/project?id={PROJECT}"]


@pytest.fixture
def served(redis: Redis, settings: Settings, patient: None, tmp_path: Path) -> Iterator[Backend]:
    """A backend with projects in every state."""
    fill(redis, projects=3, tasks=90)
    learn_versions(redis, tmp_path / "versions")
    with backend(settings, limits=ConnectionLimits()) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, served: Backend) -> Iterator[Page]:
    """A window in which errors of the page, refused scripts among them, fail the test."""
    troubles: list[str] = []
    with window(chromium, LIGHT) as opened:
        opened.on("pageerror", lambda error: troubles.append(str(error)))
        opened.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        yield opened
    assert troubles == []


def address(served: Backend, path: str) -> str:
    return f"http://127.0.0.1:{served.port}{path}"


@pytest.mark.parametrize("look", [LIGHT, DARK, PHONE], ids=["light", "dark", "phone"])
def test_nothing_keeps_anybody_out(chromium: Browser, served: Backend, redis: Redis, look: Look) -> None:
    for path in PAGES:
        keep_alive(redis)
        with window(chromium, look) as page:
            page.goto(address(served, path))
            for report in page.query_selector_all("summary"):
                report.click()
            found = Axe().run(page)
            grave = [
                (row["id"], row["impact"], [node["html"][:120] for node in row["nodes"]])
                for row in found.response["violations"]
                if row["impact"] in ("serious", "critical")
            ]
            assert grave == []
            checked = {row["id"] for row in found.response["passes"]}
            assert {"color-contrast", "button-name", "link-name"} & checked
            wide: Any = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, "tables scroll by themselves, the page does not"


def test_a_change_arrives_and_the_focus_stays(page: Page, served: Backend, redis: Redis) -> None:
    page.goto(address(served, "/status"))
    page.focus(f"#p{PROJECT}-link")
    before = page.inner_text(f"#p{PROJECT} td")
    pending = PendingTasks(redis, drain_tasks=8, lease_s=3600)
    pending.add(PROJECT, [TaskRef(VERSION, 5000 + task) for task in range(25)])
    pending.add(400, [TaskRef(VERSION, 1)])
    pending.confirm_project(400)
    keep_alive(redis)
    page.wait_for_function("([row, text]) => document.querySelector(row).innerText !== text",
                           arg=[f"#p{PROJECT} td", before])  # fmt: skip
    assert int(page.inner_text(f"#p{PROJECT} td")) == int(before) + 25
    page.wait_for_selector("#p400")
    assert [row.get_attribute("id") for row in page.query_selector_all("[data-box=projects] > tr")] == [
        "p7", "p8", "p9", "p400"]  # fmt: skip
    assert page.evaluate("() => document.activeElement.id") == f"p{PROJECT}-link"
    status: Any = page.evaluate("() => document.querySelector('[data-box=lead]').getAttribute('role')")
    assert (status, page.inner_text("#lead-text strong")[:10]) == ("status", "4 projects")
    pending.forget_project(400)
    page.wait_for_selector("#p400", state="detached")


def test_hostile_texts_run_nothing_when_they_come_with_an_update(page: Page, served: Backend, redis: Redis) -> None:
    page.goto(address(served, "/status"))
    set_title(redis, PROJECT, "<img src=x onerror='window.ran = 1'><script>window.ran = 1</script>")
    page.wait_for_selector(f"#p{PROJECT}-link:has-text('onerror')")
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.ran ?? 0") == 0
    assert page.query_selector("img, main script") is None


def test_a_report_that_is_open_stays_open_over_an_update(page: Page, served: Backend, tmp_path: Path) -> None:
    page.goto(address(served, PAGES[1]))
    page.click("summary >> nth=0")
    (manifest,) = tmp_path.rglob("a1-*/manifest.json")
    manifest.write_text(manifest.read_text().replace("promoted at strength 0.75", "promoted at strength 0.5"))
    page.wait_for_selector("text=promoted at strength 0.5")
    assert page.evaluate("() => document.querySelectorAll('details[open]').length") == 1
    assert page.evaluate("() => document.activeElement.tagName") == "SUMMARY"


def test_a_button_works_with_and_without_script(chromium: Browser, served: Backend, redis: Redis) -> None:
    paused = PendingTasks(redis, drain_tasks=8, lease_s=3600).paused_projects
    for script in (True, False):
        context = chromium.new_context(java_script_enabled=script)
        page = context.new_page()
        page.goto(address(served, PAGES[1]))
        page.click("#toggle")
        page.wait_for_selector(".message:has-text('Paused. What workers hold is finished')")
        assert paused() == {PROJECT}
        page.click("#toggle")
        page.wait_for_selector(".message:text-is('Resumed.')")
        assert paused() == frozenset()
        page.reload()
        assert page.locator(".message").count() == (0 if script else 1), "it may not be so any more"
        context.close()


def test_a_version_is_rolled_back_by_the_keyboard_alone(page: Page, served: Backend, redis: Redis) -> None:
    page.goto(address(served, "/status"))
    reached = list[str]()
    for _ in range(60):
        page.keyboard.press("Tab")
        found: Any = page.evaluate("() => document.activeElement.id || document.activeElement.tagName")
        reached.append(found)
        if found == f"p{PROJECT}-link":
            break
    outline: Any = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "it is seen where the focus is"
    with page.expect_navigation():
        page.keyboard.press("Enter")
    everything: Any = page.evaluate(
        "() => [...document.querySelectorAll('main a, main button, main summary')].map(each => each.id)"
    )
    assert all(everything)
    reached = []
    for _ in range(len(everything) + 40):
        page.keyboard.press("Tab")
        reached.append(str(page.evaluate("() => document.activeElement.id")))
    assert set(everything) <= set(reached)
    page.focus("#serve-zeroshot")
    keep_alive(redis)
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text(".message").startswith("zero-shot is served from now on")


def test_it_asks_nothing_while_it_is_hidden(page: Page, served: Backend) -> None:
    asked = list[str]()
    page.on("request", lambda request: asked.append(request.url) if "update" in request.url else None)
    page.goto(address(served, "/status"))
    wait_until(page, lambda: len(asked) >= 1)
    page.evaluate(
        """() => { Object.defineProperty(document, 'hidden', {value: true, configurable: true});
                   document.dispatchEvent(new Event('visibilitychange')); }"""
    )
    page.wait_for_timeout(500)  # an answer on its way
    before = len(asked)
    page.wait_for_timeout(4500)
    assert len(asked) == before
    page.evaluate("() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')); }")
    wait_until(page, lambda: len(asked) > before)


def test_a_backend_that_is_gone_is_told_and_asked_again(
    chromium: Browser, served: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with window(chromium, LIGHT) as page:
        page.goto(address(served, "/status"))
        page.route("**/status/update*", lambda route: route.abort())
        page.wait_for_selector("#connection:not(:empty)")
        assert "may be out of date" in page.inner_text("#connection")
        page.unroute("**/status/update*")
        page.wait_for_selector("#connection:empty", state="attached")


def test_another_page_can_neither_press_a_button_nor_frame_it(
    chromium: Browser, served: Backend, redis: Redis
) -> None:
    """A page of another port of the same host: what browsers call the same site, and another origin."""
    with window(chromium, LIGHT) as page:
        page.goto(address(served, PAGES[1]))  # the cookie is there
        page.route("http://127.0.0.1:1/**", lambda route: route.fulfill(content_type="text/html", body=f"""
            <form method=post action="{address(served, '/status/project')}"><input name=token value=x>
            <input name=project value={PROJECT}><input name=action value=pause><button>Win</button></form>
            <iframe src="{address(served, '/status')}"></iframe>"""))  # fmt: skip
        page.goto("http://127.0.0.1:1/evil")
        with pytest.raises(PlaywrightError):
            page.frames[1].wait_for_selector("#projects-title", timeout=1500)
        page.click("text=Win")
        page.wait_for_selector("text=That was not done.")
    assert PendingTasks(redis, drain_tasks=8, lease_s=3600).paused_projects() == frozenset()


def test_it_works_behind_the_sign_in(chromium: Browser, redis: Redis, settings: Settings, patient: None) -> None:
    fill(redis, projects=1, tasks=10)
    guarded = signing_in(replace(settings))
    with backend(guarded, limits=ConnectionLimits()) as served:
        assert served.ask("GET", "/status").status == 401
        context = chromium.new_context(http_credentials={"username": USER, "password": PASSWORD})
        page = context.new_page()
        page.goto(address(served, PAGES[1]))
        with page.expect_response("**/status/update*") as update:
            pass
        assert update.value.status == 200
        page.click("#toggle")
        page.wait_for_selector(".message:has-text('Paused. What workers hold is finished')")
        context.close()


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends
        page.wait_for_timeout(100)
