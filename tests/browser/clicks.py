"""A smart tool in the editor: a click of the mouse, the mask that the product answers, and what is stored of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.browser.cases import SIZE, THINGS, masks, picture
from tests.browser.controls import iou, make_task
from tests.browser.editor import Editor
from tests.browser.edits import stored_annotations
from tests.house import House, tasks, upload
from worker.label_studio.regions import decode_region

_LABELS = "".join(f'<Label value="{thing}"/>' for thing in THINGS[:3])
CONFIG = f"""<View><Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image">{_LABELS}</BrushLabels>
  <KeyPointLabels name="point" toName="image" smart="true">{_LABELS}</KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">{_LABELS}</RectangleLabels></View>"""
"""The commonest config with smart tools: points and boxes are prompts, brushes are what they are answered with."""

_POINTS = 1  # of the three controls with the same labels, from 0
_SECOND_MS = 500.0  # in which a second request of the same button would be stored


@dataclass(frozen=True)
class Click:
    """What came of clicks on a thing.

    Attributes:
        answer_s: from the last click to the mask in the editor.
        suggested: intersection over union of the mask that the editor draws with the thing clicked on.
        stored: the same of what is read of the submitted annotation.
        types: types of the regions that are left once the mask is accepted, and of the items stored.
    """

    answer_s: float
    suggested: float
    stored: float
    types: tuple[tuple[str, ...], tuple[str, ...]]


def connect(house: House, *, count: int = 1) -> tuple[int, list[int]]:
    """A project of `count` tasks, all of one picture, with smart tools that ask the product. Returns the ids."""
    project, _ = make_task(house.label_studio, "smart tools", CONFIG, picture())
    if count > 1:
        upload(house, project, [picture()] * (count - 1))
    body = {"project": project, "url": house.services.backend_url, "title": "Zeromask", "is_interactive": True}
    house.label_studio.request("POST", "/api/ml/", json=body)
    return project, [task.id for task in tasks(house, project)]


def begin(editor: Editor, thing: int, *, of: int = _POINTS) -> None:
    """Choose the label of a thing and the smart point; `of`: the how-manieth control with such a label, from 0."""
    editor.label(str(THINGS[thing]), of=of)
    editor.smart_tool("key-point-tool")


def ask(editor: Editor, thing: int, *, right: float = 0.0, keys: Sequence[str] = (), count: int = 1) -> float:
    """Click in the middle of a thing, or so many pixels to the right, and wait until Label Studio has answered.

    Returns:
        the seconds it took.
    """
    rows, columns = np.nonzero(masks()[thing])
    began = time.monotonic()
    with editor.page.expect_response(lambda answer: "/interactive-annotating" in answer.url):
        editor.click(float(columns.mean()) + right, float(rows.mean()), keys=keys, count=count)
    editor.page.wait_for_function("() => zeromask.answered()")
    editor.frames()
    return time.monotonic() - began


def click(house: House, editor: Editor, task: int, *, thing: int = 1, again: Sequence[float] = ()) -> Click:
    """Click on a thing in an empty annotation of a task that is open, accept the answer, submit, and read it.

    Args:
        house: the product.
        editor: where the task is open.
        task: its id.
        thing: its number.
        again: pixels to the right of further clicks on it; the last one is then undone.
    """
    mask = masks()[thing]
    editor.choose("Create an annotation")
    begin(editor, thing)
    answer_s = ask(editor, thing)
    for right in again:
        editor.label(str(THINGS[thing]), of=_POINTS)
        answer_s = ask(editor, thing, right=right)
    if again:
        editor.choose("Undo")
    (name,) = (str(region["id"]) for region in editor.regions() if region["suggestion"])
    suggested = iou(editor.settled(name), mask)
    editor.accept()
    left = tuple(str(region["type"]) for region in editor.regions())
    editor.submit(presses=2)
    items = submitted(house, editor, task)
    read = [decode_region(item, *SIZE) for item in items if item["type"] == "brushlabels"]
    return Click(round(answer_s, 2), suggested, max((iou(one, mask) for one in read), default=0.0),
                 (left, tuple(str(item["type"]) for item in items)))  # fmt: skip


def paint(editor: Editor, thing: int) -> str:
    """Paint over the middle of a thing, from 90 pixels to the left of it on, with the brush of its label; erase a strip
    20 pixels to the left of it, and wait until a draft is saved. Returns the region's id.
    """
    rows, columns = np.nonzero(masks()[thing])
    x, y = float(columns.mean()), float(rows.mean())
    editor.label(str(THINGS[thing]))
    editor.drag((x - 90, y), (x + 40, y), (x + 40, y + 25), (x - 50, y + 25))
    (name,) = (str(region["id"]) for region in editor.regions())
    editor.choose("eraser")
    with editor.page.expect_response(lambda answer: "/drafts" in answer.url and answer.request.method != "GET"):
        editor.drag((x - 20, y - 40), (x - 20, y + 60))
    return name


def submitted(house: House, editor: Editor, task: int) -> Sequence[Mapping[str, Any]]:
    """The items of the only annotation of a task, of which no draft is left either."""
    editor.page.wait_for_timeout(_SECOND_MS)
    (found,) = stored_annotations(house.label_studio, task)
    assert house.label_studio.request("GET", f"/api/tasks/{task}/drafts") == []
    return found.result
