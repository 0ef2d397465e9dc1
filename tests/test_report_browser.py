"""The report's page in Chromium: nothing is cut off on a narrow window or a phone, light and dark; axe-core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.browser.window import chromium_fixture
from tests.status_pictures import Look, window
from worker.label_studio.outcomes import RegionRecord
from worker.label_studio.seeded import SeededOutcomes
from worker.report.clicks import ClickMeasures
from worker.report.history import History
from worker.report.page import Heading, draw_charts, render_page
from worker.report.reading import AnnotationRecord, ImageRecord
from worker.report.statistics import Estimate
from worker.report.time_model import TimeModel

__all__ = ["chromium_fixture"]  # pytest finds the fixture by its being here

LABELS = "red striped shape", "street light", "lorry", "Straßenbegrenzungspfosten", "recreational vehicle"
VERSIONS = "builtin-zeroshot", "builtin-a1-e1221a", "clip-vit-l14-336-openai-a10-0123ab"
NARROW, DARK, PHONE = Look(900, 900, "light"), Look(900, 900, "dark"), Look(375, 800, "light")


def records(labels: Sequence[str], versions: Sequence[str]) -> Iterator[AnnotationRecord]:
    """A control arm, and for each version 16 annotations of as many images, whose figures get intervals."""
    outputs = dict.fromkeys(labels, "brush")
    for place, version in enumerate((*versions, "")):
        for number in range(16):
            task = 100 * place + number + 1000
            regions = [
                RegionRecord(label, "accepted" if (number + k) % 3 else "changed", 0.5, 0.75 + 0.01 * number)
                for k, label in enumerate(labels)
            ]
            image = ImageRecord(str(task), tuple(regions) if version else (), frozenset(labels), outputs)
            yield AnnotationRecord(
                task, 10 * task, 1, f"2026-0{1 + place}-{1 + number:02}", "ours" if version else "nothing", version,
                not version, 1234.5 - 7 * number, images=(image, replace(image, key="b")),
                seeded=SeededOutcomes(deleted=int(version != "" and number > 13)),
            )  # fmt: skip


def page_of(labels: Sequence[str], versions: Sequence[str]) -> str:
    """A report with every part, and figures as wide as they come."""
    history = History(TimeModel())
    for record in records(labels, versions):
        history.add(record)
    measures = history.measures()
    mean = Estimate(12.3, 10.1, 19.9, 10)
    clicks = ClickMeasures(mean, mean, 1, versions[-1])
    heading = Heading(12, f"Streets of {labels[-1]}", "2026-11-30 10:00 UTC", 0.1)
    return render_page(heading, measures, TimeModel(), draw_charts(measures), [], [], clicks)


def open_page(page: Page, folder: Path, text: str) -> None:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    page.goto(path.as_uri())


def beyond(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))


def cut_off(page: Page) -> list[str]:
    """What no scrolling of its own box brings into the window: headings of tables, and charts."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('th, svg')].filter(each => {
             const box = each.closest('.scroll');
             box.scrollLeft = box.scrollWidth;
             const shown = box.getBoundingClientRect(), end = each.parentElement.lastElementChild;
             return end.getBoundingClientRect().right > shown.right + 1 || shown.right > innerWidth;
           }).map(each => each.textContent)"""
    )
    return found


@pytest.mark.parametrize("look", [NARROW, DARK, PHONE], ids=["narrow", "dark", "phone"])
@pytest.mark.parametrize("labels", [LABELS, ("x" * 120, "a b " * 40)], ids=["labels", "long labels"])
def test_no_column_is_cut_off_and_the_page_does_not_scroll_sideways(
    chromium: Browser, tmp_path: Path, look: Look, labels: Sequence[str]
) -> None:
    with window(chromium, look) as page:
        open_page(page, tmp_path, page_of(labels, VERSIONS))
        assert page.locator("table").count() == 8
        assert page.locator("svg").count() == 4
        assert beyond(page) <= 0
        assert cut_off(page) == []
        least: Any = page.evaluate(
            "() => Math.min(...[...document.querySelectorAll('svg')].map(e => 12 * e.clientWidth / 640))"
        )
        assert least >= 9, "the texts of a chart can be read"
        grave = [
            (row["id"], [node["html"][:120] for node in row["nodes"]])
            for row in Axe().run(page).response["violations"]
            if row["impact"] in ("serious", "critical")
        ]
        assert grave == []


def test_every_table_fits_into_900_pixels_without_scrolling(chromium: Browser, tmp_path: Path) -> None:
    with window(chromium, NARROW) as page:
        open_page(page, tmp_path, page_of(LABELS, VERSIONS))
        over: Any = page.evaluate(
            "() => [...document.querySelectorAll('.scroll')].map(each => each.scrollWidth - each.clientWidth)"
        )
        assert max(over) <= 0


def test_a_figure_does_not_break_but_before_its_interval(chromium: Browser, tmp_path: Path) -> None:
    with window(chromium, PHONE) as page:
        open_page(page, tmp_path, page_of(LABELS, VERSIONS))
        rows: Any = page.evaluate(
            """() => [...document.querySelectorAll('td:not(.name)')].map(each => {
                 const range = document.createRange();
                 range.selectNodeContents(each);
                 return [each.innerText, new Set([...range.getClientRects()].map(one => one.top)).size];
               })"""
        )
        assert max(lines - ("(" in text) for text, lines in rows) == 1


def test_a_project_of_one_version_has_one_row_for_each_label(chromium: Browser, tmp_path: Path) -> None:
    with window(chromium, NARROW) as page:
        open_page(page, tmp_path, page_of(LABELS, VERSIONS[:1]))
        rows = [row.inner_text().split("\t")[:2] for row in page.locator("table >> nth=0 >> tr").all()[1:]]
        assert [row[0] for row in rows] == ["all labels", *sorted(LABELS)]
        assert {row[1] for row in rows} == {"builtin-zeroshot"}
        times = [row.inner_text().split("\t")[:3] for row in page.locator("table >> nth=2 >> tr").all()[1:]]
        assert times == [["control arm, without", "none", "all images"],
                         ["with a prediction", "builtin-zeroshot", "all images"]]  # fmt: skip


def test_versions_of_a_label_stand_below_their_sum_in_the_order_of_their_coming(
    chromium: Browser, tmp_path: Path
) -> None:
    with window(chromium, NARROW) as page:
        open_page(page, tmp_path, page_of(LABELS, VERSIONS))
        rows = [row.inner_text().split("\t")[:2] for row in page.locator("table >> nth=0 >> tr").all()[1:]]
        assert rows == [[label, version] for label in ("all labels", *sorted(LABELS))
                        for version in ("all versions", *VERSIONS)]  # fmt: skip
