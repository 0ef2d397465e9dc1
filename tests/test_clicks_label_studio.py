"""Clicks through a real Label Studio: what its page sends is answered with a mask, and its test request with masks."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plugin_config.queue.clicks import ClickQueue
from tests.house import SIZE, House, make_project, tasks, wait_predicted, wait_until
from worker.label_studio.regions import decode_region

CONFIG = """<View><Image name="image" value="$image"/>
  <KeyPointLabels name="point" toName="image" smart="true">
    <Label value="red shape"/><Label value="blue shape"/></KeyPointLabels>
  <RectangleLabels name="frame" toName="image" smart="true">
    <Label value="red shape"/><Label value="blue shape"/></RectangleLabels>
  <BrushLabels name="brush" toName="image">
    <Label value="red shape" alias="red/thing"/><Label value="blue shape"/></BrushLabels></View>"""


def point(x: float, y: float, label: str = "red shape", **changes: Any) -> dict[str, Any]:
    """A smart click as the editor sends it, at a place in pixels."""
    value = {"x": 100 * x / SIZE[0], "y": 100 * y / SIZE[1], "width": 1, "keypointlabels": [label], "labels": [label]}
    return {"id": "Ab3-_xYz09", "type": "keypointlabels", "from_name": "point", "to_name": "image", "origin": "manual",
            "original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0, "is_positive": True,
            "value": value, **changes}  # fmt: skip


@pytest.fixture(scope="module", name="project")
def project_fixture(house: House) -> int:
    return make_project(house, count=2, config=CONFIG, name="clicks", interactive=True)


def model_row(house: House, project: int) -> int:
    return int(house.label_studio.request("GET", "/api/ml/", params={"project": project})[0]["id"])


def click(house: House, project: int, task: int, context: Any) -> Any:
    """What Label Studio's page gets for a click."""
    row = model_row(house, project)
    return house.label_studio.request(
        "POST", f"/api/ml/{row}/interactive-annotating", json={"task": task, "context": context}
    )


def test_a_click_is_answered_with_a_mask_of_the_control_that_draws(house: House, project: int) -> None:
    first, second = (task.id for task in tasks(house, project))
    assert tasks(house, project)[0].versions == frozenset(), "never predicted before"
    answer = click(house, project, first, {"result": [point(30, 40)]})
    assert "errors" not in answer
    [region] = answer["data"]["result"]
    assert (region["from_name"], region["type"], region["value"]["brushlabels"]) == (
        "brush", "brushlabels", ["red/thing"],
    )  # fmt: skip
    mask = decode_region(region, *SIZE)
    assert mask[40, 30]
    started = time.monotonic()
    again = click(house, project, first, {"result": [point(90, 40, "blue shape")]})
    assert time.monotonic() - started < 5
    assert again["data"]["result"][0]["value"]["brushlabels"] == ["blue shape"]
    assert click(house, project, second, {"result": [point(30, 40)]})["data"]["result"]


def test_what_cannot_be_answered_is_empty_and_told(house: House, project: int) -> None:
    task = tasks(house, project)[0].id
    contexts: list[Any] = [{"result": [point(500, 40)]}, {"result": [point(30, 40, "zebra")]}, {"result": []}, {}]
    for context in contexts:
        answer = click(house, project, task, context)
        assert (answer["data"]["result"], bool(answer["data"]["reason"])) == ([], True), context
    noted = [row.reason for row in ClickQueue(house.redis).unanswered(10) if row.project == project]
    assert any("outside of the image" in reason for reason in noted)
    assert any("zebra" in reason for reason in noted)


def test_the_test_request_answers_the_masks_and_stores_nothing_more(house: House, project: int) -> None:
    row = model_row(house, project)

    def test() -> Any:
        return house.label_studio.request("POST", f"/api/ml/{row}/predict/test", params={"random": "true"})

    time.sleep(2.1)  # since the last /setup: a person has opened the page, the menu and the window
    first = test()["response"]
    assert first[0]["result"], "a task that was never predicted"
    body = {"selectedItems": {"all": True, "excluded": []}}
    params = {"id": "retrieve_tasks_predictions", "project": project}
    house.label_studio.request("POST", "/api/dm/actions/", params=params, json=body)
    version = wait_predicted(house, project)
    stored = {task.id: len(house.label_studio.predictions(task.id)) for task in tasks(house, project)}
    again = test()["response"]
    assert again[0]["result"]
    assert again[0]["model_version"] == version
    wait_until(lambda: not house.pending.open_refs(project))
    assert {task.id: len(house.label_studio.predictions(task.id)) for task in tasks(house, project)} == stored
    assert set(stored.values()) == {1}
