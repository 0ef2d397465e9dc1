"""Every kind of region and answer through the API of a real Label Studio: validated, stored, and read back the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.label_studio.client import Task
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from tests.house import SIZE, House, make_project, picture, retrieve, tasks, upload, wait_predicted
from worker.label_studio.annotation_maps import draw_class_map
from worker.label_studio.outcomes import RegionOutcomes, count_records, region_records
from worker.label_studio.results import encode_answers, encode_segments
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.image_choices import ChoiceAnswer
from worker.segmentation.segmenter import LabelSegment

KINDS = list(OUTPUT_KINDS.values())
FRAME = SIZE[1], SIZE[0]
CHOICES = """<Choices name="several" toName="image" choice="multiple"><Choice value="red shape"/><Choice value="cat"/>
  </Choices><Choices name="one" toName="image"><Choice value="blue shape" alias="b"/><Choice value="dog"/></Choices>"""


def config(*drawing: str) -> str:
    return f'<View><Image name="image" value="$image"/>{"".join(drawing)}{CHOICES}</View>'


def own(kind: OutputKind, label: str) -> str:
    """A control that has a label and draws a kind of region."""
    tag = next(tag for tag, output in OUTPUT_KINDS.items() if output == kind)
    return f'<{tag} name="{kind}" toName="image" closable="true"><Label value="{label}" alias="{label} 1"/></{tag}>'


OWN = config(*(own(kind, f"{kind} thing") for kind in KINDS))


def beside(kind: OutputKind) -> str:
    """A Labels control, and the tag that draws its regions."""
    shape = next(tag for tag, output in OUTPUT_KINDS.items() if output == kind).removesuffix("Labels")
    labels = f'<Labels name="labels" toName="image"><Label value="{kind} thing"/></Labels>'
    return config(labels, f'<{shape} name="shape" toName="image" closable="true"/>')


def thing(number: int) -> NDArray[np.bool_]:
    """An ellipse in a place of its own."""
    rows, columns = np.mgrid[: FRAME[0], : FRAME[1]] + 0.5
    x, y = 20 + 24 * number, 72
    return np.asarray(((columns - x) / 9) ** 2 + ((rows - y) / 25) ** 2 <= 1)


def project_of(house: House, label_config: str) -> tuple[int, Task]:
    body = {"title": "kinds of regions", "label_config": label_config}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20)])
    return project, tasks(house, project)[0]


def predict(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """A region for each label, and an answer to each question."""
    found = [LabelSegment(label, thing(number), 0.75, 0.5) for number, label in enumerate(vocabulary.drawn)]
    answers = [ChoiceAnswer(row, tuple(one.key for one in row.choices)[: 1 + row.multiple], 0.5)
               for row in vocabulary.choices]  # fmt: skip
    return [*encode_segments(found).regions, *encode_answers(answers)]


@pytest.mark.parametrize(
    ("label_config", "items"),
    [(OWN, 9), *((beside(kind), 4) for kind in KINDS)],
    ids=["own labels", *(f"Labels and {kind}" for kind in KINDS)],
)
def test_what_is_imported_is_stored_and_read_back(house: House, label_config: str, items: int) -> None:
    project, task = project_of(house, label_config)
    vocabulary = parse_vocabulary(label_config)
    result = predict(vocabulary)
    assert len(result) == items
    row = {"task": task.id, "result": result, "score": 0.75, "model_version": "ours"}
    path = f"/api/projects/{project}/import/predictions"
    assert house.label_studio.request("POST", path, json=[row])["created"] == 1, "Label Studio's own check takes it"
    broken = row | {"result": [result[0] | {"from_name": "nobody"}]}
    assert house.label_studio.request("POST", path, json=[broken])["created"] == 0, "which can fail"
    (stored,) = house.label_studio.predictions(task.id)
    assert [dict(item) for item in stored.result] == result
    body = {"result": [dict(item) | {"origin": "prediction"} for item in stored.result], "parent_prediction": stored.id}
    house.label_studio.request("POST", f"/api/tasks/{task.id}/annotations/", json=body)
    (annotation,) = house.label_studio.annotations(task.id)
    drawn = vocabulary.drawn
    outcomes = count_records(region_records(annotation, [stored], vocabulary))
    assert outcomes == {row.key: RegionOutcomes(accepted=1) for row in drawn}
    points = {item["id"] for item in result if item["type"].startswith("keypoint")}
    areas = [item for item in annotation.result if item["id"] not in points]
    found = draw_class_map(areas, vocabulary, FRAME, FRAME)
    for number, label in enumerate(drawn):
        if label.output != "keypoint":
            mask, mine = thing(number), found == number
            least = 0.75 if label.output == "rectangle" else 0.95
            assert (mask & mine).sum() / (mask | mine).sum() >= least, label.output
    whole = draw_class_map(annotation.result, vocabulary, FRAME, FRAME)
    assert (UNLABELLED in whole) == (not points), "beside points nothing is background"


def test_a_worker_fills_controls_of_every_kind(house: House) -> None:
    labels = '<Labels name="labels" toName="image"><Label value="blue shape"/></Labels>'
    drawing = own("ellipse", "red shape"), own("bitmask", "green shape"), labels, '<Polygon name="s" toName="image"/>'
    project = make_project(house, count=1, config=config(*drawing), name="kinds of regions")
    retrieve(house, project)
    wait_predicted(house, project)
    (prediction,) = house.label_studio.predictions(tasks(house, project)[0].id)
    types = [item["type"] for item in prediction.result]
    assert set(types) == {"ellipselabels", "bitmasklabels", "polygon", "labels", "choices"}
    answers = {item["from_name"]: item["value"]["choices"] for item in prediction.result if item["type"] == "choices"}
    assert answers == {"several": ["red shape"], "one": ["b"]}
