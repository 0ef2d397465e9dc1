"""Clicks through a real Label Studio: what its page sends is answered with a mask, and its test request with masks."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from plugin_config.queue.clicks import ClickQueue
from plugin_config.vocabulary import parse_vocabulary
from tests.house import SIZE, House, make_project, picture, tasks, wait_open_page, wait_predicted, wait_until
from worker.label_studio.prompts import drawing_label
from worker.label_studio.regions import decode_region, encode_region

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


PAIR = """<View><Image name="image" value="$image"/>
  <Labels name="label" toName="image"><Label value="red shape"/><Label value="blue shape"/></Labels>
  <Brush name="brush" toName="image"/><KeyPoint name="point" toName="image" smart="true"/></View>"""
PAGES = """<View>
  <Image name="image" valueList="$pages"/>
  <BrushLabels name="brush" toName="image"><Label value="red shape"/></BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="red shape"/></KeyPointLabels>
  <Repeater on="$sheets" indexFlag="{{idx}}" mode="pagination">
    <View><Image name="sheet_{{idx}}" value="$sheets[{{idx}}].url"/></View>
    <BrushLabels name="paint_{{idx}}" toName="sheet_{{idx}}"><Label value="red shape"/></BrushLabels>
    <KeyPointLabels name="dot_{{idx}}" toName="sheet_{{idx}}" smart="true"><Label value="red shape"/></KeyPointLabels>
  </Repeater></View>"""
RED = (8, 20)
"""Left and top of the red square, 47 pixels wide, in the first picture."""


def address(top: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture(top=top)).decode()}"


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
    again = click(house, project, first, {"result": [point(90, 40, "blue shape")]})
    assert again["data"]["result"][0]["value"]["brushlabels"] == ["blue shape"]
    assert click(house, project, second, {"result": [point(30, 40)]})["data"]["result"]


@pytest.mark.parametrize("config", [pytest.param(CONFIG, id="BrushLabels"), pytest.param(PAIR, id="Labels + Brush")])
def test_a_click_outside_of_the_thing_corrects_a_region_of_the_draft(house: House, project: int, config: str) -> None:
    """The red square and grey to the right of it, painted by hand; the click says that the grey is none of it."""
    if config is PAIR:
        project = make_project(house, count=1, config=config, name="click pairs", interactive=True)
    task = tasks(house, project)[0].id
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=np.bool_)
    mask[RED[1] : RED[1] + 47, RED[0] : RED[0] + 60] = True
    label = drawing_label(parse_vocabulary(config), "red shape", "point")
    drawn = encode_region(mask, kind="brush", control=label.control, to_name="image", label=label.key, score=1.0,
                          region_id="drawn-byMe", shape=label.shape)  # fmt: skip
    house.label_studio.request("POST", f"/api/tasks/{task}/drafts", json={"result": drawn, "lead_time": 1})
    marks = [point(62, 40, is_positive=False)]
    if config is PAIR:
        place = {name: marks[0]["value"][name] for name in ("x", "y", "width")} | {"labels": ["red shape"]}
        both = (("keypoint", "point"), ("labels", "label"))
        marks = [{**marks[0], "type": kind, "from_name": name, "value": place} for kind, name in both]
    found = click(house, project, task, {"result": marks})["data"]["result"]
    assert [row["id"] for row in found] == ["drawn-byMe"] * len(drawn), "the editor puts it in the place of this region"
    assert [(row["from_name"], row["type"]) for row in found] == [(row["from_name"], row["type"]) for row in drawn]
    for row in found:
        left = decode_region({**row, "type": "brush"}, *SIZE)
        assert (bool(left[40, 62]), bool(left[40, 30])) == (False, True)
        assert left[RED[1] : RED[1] + 47, RED[0] : RED[0] + 47].mean() > 0.9


def test_a_click_on_one_of_several_images_is_answered_there(house: House) -> None:
    project = make_project(house, count=0, config=PAGES, name="click pages", interactive=True)
    data = {"pages": [address(20), address(90)], "sheets": [{"url": address(20)}, {"url": address(90)}]}
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=[{"data": data}])
    (task,) = (row.id for row in tasks(house, project))
    of_list, in_turn = ("point", "image", "brush"), ("dot_1", "sheet_1", "paint_1")
    for y, (control, image, draws), index in ((40, of_list, 0), (110, of_list, 1), (110, in_turn, None)):
        mark = point(30, y, from_name=control, to_name=image, item_index=index)
        [region] = click(house, project, task, {"result": [mark]})["data"]["result"]
        assert (region["from_name"], region["to_name"], region.get("item_index")) == (draws, image, index)
        mask, top = decode_region(region, *SIZE), y - 20
        assert mask[top : top + 47, RED[0] : RED[0] + 47].mean() > 0.9, "of the picture that was clicked on"


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

    wait_open_page(house, project)
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
