"""Label Studio's own editor in Chromium: it draws what we mean, and what a mouse does there is read back right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import clicks, stored
from tests.browser.cases import CASES, MIXED, results
from tests.browser.controls import measure, placed, predict
from tests.browser.editor import Editor, browser, editor
from tests.browser.edits import edit_open
from tests.browser_pictures import NoBrowser
from tests.house import House, wait_until


@pytest.fixture(scope="module", name="window")
def window_fixture(house: House) -> Iterator[Editor]:
    """A window that is signed in; skipped, with the reason, where no Chromium can be had."""
    try:
        with browser() as running, editor(running, house.label_studio.url) as opened:
            yield opened
    except NoBrowser as reason:
        pytest.skip(str(reason))


def test_a_brush_a_polygon_and_a_rectangle_are_drawn_as_meant_and_edits_are_read_back(
    house: House, window: Editor
) -> None:
    told = results(MIXED)
    sent = [region for thing in told for region in thing.regions]
    project, task, prediction = predict(house.label_studio, MIXED, sent)
    seconds = window.open(project, task, regions=len(placed(sent)))
    row = measure(window, MIXED, told, prediction, seconds)
    assert not row.faults(MIXED)
    assert {window.select(number) for number in range(len(told))} == set(placed(sent)), "ids in the Info panel"
    made = edit_open(MIXED, house.label_studio, window, task, number=0)
    assert made.what == "eraser"
    assert not made.faults()


def test_a_smart_click_is_answered_accepted_and_read_back(house: House, window: Editor) -> None:
    project, task = clicks.connect(house)
    house.label_studio.request("GET", f"/api/tasks/{task}/", params={"project": project})  # asks for the prediction
    wait_until(lambda: bool(house.label_studio.predictions(task)), told="a prediction")
    window.open(project, task, regions=1)
    assert [region["type"] for region in window.regions()] == ["brushregion"] * 3, "one region per thing"
    made = clicks.click(house, window, task)
    assert made.suggested > 0.9
    assert made.types == (("brushregion",), ("brushlabels",)), "the dot of the click is gone"
    assert made.stored > 0.9


def test_the_page_has_what_was_stored_last() -> None:
    assert stored.PAGE.read_text() == stored.filled(stored.PAGE.read_text()), "run python -m tests.browser --store"
    rows = {row["control"]: row for row in stored.read(stored.CONTROLS)["controls"]}
    assert set(rows) == {case.name for case in CASES}
    assert not [row for row in rows.values() if row["iou"] < next(c.least for c in CASES if c.name == row["control"])]
