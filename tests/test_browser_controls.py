"""Label Studio's own editor in Chromium: it draws what we mean, and what a mouse does there is read back right."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from plugin_config.vocabulary import parse_vocabulary
from tests.browser import clicks, stored
from tests.browser.cases import CASES, MIXED, SIZE, THINGS, masks, results
from tests.browser.controls import iou, measure, placed, predict
from tests.browser.editor import Editor, browser, editor
from tests.browser.edits import edit_open
from tests.browser_pictures import NoBrowser
from tests.house import House, retrieve, wait_until
from worker.label_studio.picture_regions import picture_regions
from worker.label_studio.prompts import DrawnMasks
from worker.label_studio.regions import decode_region


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


ONCE = (("brushregion",), ("brushlabels",))
"""One annotation of one region, in the editor and as it is stored: the dots of the clicks are gone."""


@pytest.fixture(scope="module", name="smart")
def smart_fixture(house: House) -> tuple[int, list[int]]:
    """A project with smart tools, and its tasks, which are predicted."""
    project, found = clicks.connect(house, count=5)
    retrieve(house, project)
    wait_until(lambda: all(house.label_studio.predictions(task) for task in found), told="predictions")
    return project, found


def test_a_smart_click_is_answered_accepted_and_stored_once(
    house: House, window: Editor, smart: tuple[int, list[int]]
) -> None:
    project, (task, other, *_) = smart
    window.open(project, task, regions=1)
    assert [region["type"] for region in window.regions()] == ["brushregion"] * 3, "one region per thing"
    made = clicks.click(house, window, task)
    assert (made.types, made.suggested > 0.9, made.stored > 0.9) == (ONCE, True, True)
    window.open(project, other)
    made = clicks.click(house, window, other, again=(10, -10))
    assert (made.types, made.suggested > 0.9, made.stored > 0.9) == (ONCE, True, True)


def test_a_click_outside_of_a_thing_corrects_its_region(
    house: House, window: Editor, smart: tuple[int, list[int]]
) -> None:
    """Control lets a click through to the tool; without it the click selects the region."""
    project, (_, _, task, *_) = smart
    window.open(project, task, regions=3)
    before = [region["id"] for region in window.regions()]
    (name,) = (region["id"] for region in window.regions() if region["label"] == str(THINGS[1]))
    clicks.begin(window, 1)
    clicks.ask(window, 1, keys=("Control", "Alt"))
    window.label(str(THINGS[1]), of=1)
    clicks.ask(window, 1, right=20, keys=("Control",))
    window.accept()
    assert [region["id"] for region in window.regions()] == before, "no second region of it"
    window.submit()
    items = {item["id"]: item for item in clicks.submitted(house, window, task)}
    assert list(items) == before
    mask, (row, column) = decode_region(items[name], *SIZE), np.argwhere(masks()[1]).mean(axis=0).astype(int)
    assert (bool(mask[row, column]), bool(mask[row, column + 20])) == (False, True)


def test_a_double_click_that_is_accepted_by_itself_is_one_region_and_is_corrected_before_it_is_saved(
    house: House, window: Editor, smart: tuple[int, list[int]]
) -> None:
    project, (*_, task) = smart
    window.open(project, task)
    window.choose("Create an annotation")
    clicks.begin(window, 1)
    window.accept_by_itself()
    clicks.ask(window, 1, count=2)
    (first,) = window.regions()
    window.page.keyboard.press("Escape")
    window.label(str(THINGS[1]), of=1)
    clicks.ask(window, 1, keys=("Control", "Alt"))
    (second,) = window.regions()
    assert (second["id"], second["type"]) == (first["id"], "brushregion")
    window.accept_by_itself()
    window.submit()
    items = clicks.submitted(house, window, task)
    (region,) = picture_regions(items, parse_vocabulary(clicks.CONFIG))
    assert (region.kind, region.label and region.label.key) == ("brush", str(THINGS[1])), [i["type"] for i in items]


def test_what_is_painted_by_hand_is_read_of_the_draft_and_corrected(
    house: House, window: Editor, smart: tuple[int, list[int]]
) -> None:
    project, (*_, task, _) = smart
    window.open(project, task)
    window.choose("Create an annotation")
    name = clicks.paint(window, 1)
    shown = window.settled(name)
    (draft,) = house.label_studio.request("GET", f"/api/tasks/{task}/drafts")
    (item,) = draft["result"]
    assert "rle" not in item["value"]
    assert [touch["type"] for touch in item["value"]["touches"]] == ["add", "eraser"]
    found = DrawnMasks().mask(item, size=SIZE[::-1], shape=SIZE[::-1])
    assert found is not None and iou(found, shown) > 0.95, "all but the rim of a stroke of 15 pixels"
    window.page.keyboard.press("Escape")
    clicks.begin(window, 1)
    clicks.ask(window, 1, right=-80, keys=("Control", "Alt"))
    window.accept()
    assert [region["id"] for region in window.regions()] == [name], "no second region of it"
    window.submit()
    (stored_item,) = clicks.submitted(house, window, task)
    mask, (row, column) = decode_region(stored_item, *SIZE), np.argwhere(masks()[1]).mean(axis=0).astype(int)
    assert (bool(shown[row, column - 80]), bool(mask[row, column - 80])) == (True, False)
    assert mask[row, column + 30], "what was painted on the thing is left"


def test_the_page_has_what_was_stored_last() -> None:
    assert stored.PAGE.read_text() == stored.filled(stored.PAGE.read_text()), "run python -m tests.browser --store"
    rows = {row["control"]: row for row in stored.read(stored.CONTROLS)["controls"]}
    assert set(rows) == {case.name for case in CASES}
    assert not [row for row in rows.values() if row["iou"] < next(c.least for c in CASES if c.name == row["control"])]
