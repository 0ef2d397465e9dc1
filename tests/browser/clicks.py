"""A smart tool in the editor: a click of the mouse, the mask that the product answers, and what is stored of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from tests.browser.cases import SIZE, THINGS, masks, picture
from tests.browser.controls import iou, make_task
from tests.browser.editor import Editor
from tests.browser.edits import stored_annotations
from tests.house import House
from worker.label_studio.regions import decode_region

_LABELS = "".join(f'<Label value="{thing}"/>' for thing in THINGS[:3])
CONFIG = f"""<View><Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image">{_LABELS}</BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true">{_LABELS}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">{_LABELS}</RectangleLabels></View>"""
"""The commonest config with smart tools: points and boxes are prompts, brushes are what they are answered with."""

_POINTS = 1  # of the three controls with the same labels, from 0


@dataclass(frozen=True)
class Click:
    """What came of one click.

    Attributes:
        answer_s: from the click to the mask in the editor.
        suggested: intersection over union of the mask that the editor draws with the thing clicked on.
        stored: the same of what is read of the submitted annotation.
        types: types of the regions that are left once the mask is accepted, and of those stored.
    """

    answer_s: float
    suggested: float
    stored: float
    types: tuple[tuple[str, ...], tuple[str, ...]]


def connect(house: House) -> tuple[int, int]:
    """A project of one picture with smart tools that ask the product. Returns the ids of both."""
    project, task = make_task(house.label_studio, "smart tools", CONFIG, picture())
    body = {"project": project, "url": house.services.backend_url, "title": "Zeromask", "is_interactive": True}
    house.label_studio.request("POST", "/api/ml/", json=body)
    return project, task


def click(house: House, editor: Editor, task: int, *, thing: int = 1) -> Click:
    """Click on a thing in an empty annotation of a task that is open, accept the answer, submit, and read it."""
    mask = masks()[thing]
    rows, columns = np.nonzero(mask)
    editor.choose("Create an annotation")
    editor.label(str(THINGS[thing]), of=_POINTS)
    editor.smart_tool("key-point-tool")
    began = time.monotonic()
    editor.click(float(columns.mean()), float(rows.mean()))
    editor.page.wait_for_function("() => zeromask.suggested()")
    answer_s = time.monotonic() - began
    name = next(str(region["id"]) for region in editor.regions() if region["suggestion"])
    suggested = iou(editor.settled(name), mask)
    editor.accept()
    left = tuple(str(region["type"]) for region in editor.regions())
    editor.submit()
    items = stored_annotations(house.label_studio, task)[-1].result
    read = [decode_region(item, *SIZE) for item in items if item["type"] == "brushlabels"]
    return Click(round(answer_s, 2), suggested, max((iou(one, mask) for one in read), default=0.0),
                 (left, tuple(str(item["type"]) for item in items)))  # fmt: skip
