"""A project of tasks with two images and labels of their own, in a real Label Studio with real services."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from label_studio_sdk.label_interface import LabelInterface

from plugin_config.vocabulary import joined, parse_vocabulary
from tests.house import SIZE, House, make_project, picture, retrieve, tasks, wait_until
from worker.label_studio.images import ImageLimits
from worker.label_studio.outcomes import RegionOutcomes
from worker.label_studio.regions import decode_region
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter
from worker.service.trainer.corrections import Correction, LeftOutTask, read_corrections

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = """<View><Image name="pages" valueList="$pages"/><Image name="cover" value="$cover"/>
  <BrushLabels name="brush" toName="pages" value="$labels"><Label value="red shape"/></BrushLabels>
  <View><PolygonLabels name="polygon" toName="cover"><Label value="green shape" min_area="1%"/></PolygonLabels></View>
  </View>"""
LEFT = {"red shape": 8, "blue": 70, "green shape": 132}
TOPS = (20, 40)


def address(top: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture(top=top)).decode()}"


def test_tasks_of_two_images_are_predicted_and_learned_from(house: House) -> None:
    project = make_project(house, count=0, config=CONFIG, name="several images")
    data = {"pages": [address(top) for top in TOPS], "cover": address(20)}
    rows = [{**data, "labels": [{"value": "blue shape", "alias": "blue"}]}, {**data, "pages": ["/x", address(40)],
            "labels": []}, data]  # fmt: skip
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=[{"data": row} for row in rows])
    retrieve(house, project)
    first, second, third = (task.id for task in tasks(house, project))
    settled = lambda: house.pending.counts(project).done == 2 and bool(house.pending.failures(project))  # noqa: E731
    wait_until(settled, told="two tasks are predicted, one fails")
    (prediction,) = house.label_studio.predictions(first)
    assert {place(row) for row in prediction.result} == {
        ("pages", 0, "red shape"), ("pages", 0, "blue"), ("pages", 1, "red shape"), ("pages", 1, "blue"),
        ("cover", None, "green shape"),
    }  # fmt: skip
    for region in prediction.result:
        mask, top = decode_region(region, *SIZE), TOPS[region.get("item_index", 0)]
        left = LEFT[place(region)[2]]
        assert mask[top : top + 47, left : left + 47].sum() / mask.sum() > 0.7, "it lies on its object"
    sent = {"result": prediction.result, "score": prediction.score, "model_version": prediction.version}
    assert LabelInterface(CONFIG).validate_prediction(sent, return_errors=True) == []
    (rest,) = house.label_studio.predictions(second)
    assert {place(row) for row in rest.result} == {("pages", 1, "red shape"), ("cover", None, "green shape")}
    told = {row.task: row.reason for row in house.pending.last_failures(9) if row.project == project}
    assert told[second].startswith("predicted without Image 'pages', item 0: image of task")
    assert "has its labels from 'labels', which its data does not have" in told[third]
    check_corrections(house, project, first, third, prediction.result)


def place(region: dict[str, Any]) -> tuple[str, int | None, str]:
    (label,) = region["value"][region["type"]]
    return region["to_name"], region.get("item_index"), label


def check_corrections(house: House, project: int, first: int, third: int, predicted: list[dict[str, Any]]) -> None:
    """An annotator deletes the blue shape of the first page, and submits; another annotates a task without labels."""
    kept = [region for region in predicted if place(region) != ("pages", 0, "blue")]
    for task, result in ((first, kept), (third, [])):
        house.label_studio.request("POST", f"/api/tasks/{task}/annotations/", json={"result": result})
    vocabulary, embed = parse_vocabulary(CONFIG), Segmenter(Encoder("builtin", device="cpu")).embed
    limits = ImageLimits(1_000_000, 1_000_000, 10.0, allow_private=False)
    found = list(read_corrections(house.label_studio, project, vocabulary, embed=embed, limits=limits))
    examples = {row.example.key: row for row in found if isinstance(row, Correction)}
    assert list(examples) == [f"{first}/pages/0", f"{first}/pages/1", f"{first}/cover/0"]
    shown = {key: {row.example.words[k][0] for k in set(row.example.truth[row.example.truth >= 0].tolist())}
             for key, row in examples.items()}  # fmt: skip
    assert list(shown.values()) == [{"red shape"}, {"red shape", "blue shape"}, {"green shape"}]
    assert examples[f"{first}/pages/0"].outcomes == {
        "red shape": RegionOutcomes(accepted=1), "blue": RegionOutcomes(deleted=1),
    }  # fmt: skip
    (left_out,) = (row for row in found if isinstance(row, LeftOutTask))
    assert left_out.task == third
    learned = joined([vocabulary, *(row.vocabulary for row in examples.values())])
    assert learned.words == (("red shape",), ("green shape",), ("blue shape",))
