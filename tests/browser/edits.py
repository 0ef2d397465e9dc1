"""What Label Studio stores of predicted regions that are edited with the mouse, and what is read of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import LabelStudio
from tests.browser.cases import SIZE, Case, Mask, read, results
from tests.browser.controls import iou, placed, predict
from tests.browser.editor import Editor
from worker.label_studio.outcomes import RegionOutcomes, count_records, region_records

LEAST_READ, LEAST_DISC = 0.97, 0.70
"""Of the intersection over union of what the editor drew and what is read: edges of a stroke are half transparent, and
a point's disc keeps its size while the picture is zoomed."""

_MARGIN = 25.0  # pixels: handles of the window's parts lie over the edges of the image
_PAINTED = ("brushregion", "bitmaskregion")


@dataclass(frozen=True)
class Edit:
    """What came of one edit.

    Attributes:
        control: the kind.
        what: was done.
        undone: intersection over union after undoing it, with what was there before; 1 where it is not undone.
        changed: the same of what was submitted with what was there before.
        read: the same of what is read of the annotation with what the editor drew last.
        kept: whether the region keeps its id.
        told: whether this region counts as changed and all others as accepted.
    """

    control: str
    what: str
    undone: float
    changed: float
    read: float
    kept: bool
    told: bool

    def faults(self) -> list[str]:
        """What is not as it must be."""
        least = LEAST_DISC if self.control.startswith("KeyPoint") else LEAST_READ
        wrong = {
            f"undone: IoU {self.undone:.3f} with what was there": self.undone < 1,
            "nothing was changed": self.changed > 0.99,
            f"read: IoU {self.read:.3f} with what was drawn": self.read < least,
            "the region lost its id": not self.kept,
            "outcomes are told wrong": not self.told,
        }
        return [f"{self.control}, {self.what}: {text}" for text, holds in wrong.items() if holds]


def edit(case: Case, label_studio: LabelStudio, editor: Editor) -> Edit:
    """Open a prediction of a kind, edit the region of its second thing, submit, and read the annotation."""
    sent = [region for thing in results(case) for region in thing.regions]
    project, task, _ = predict(label_studio, case, sent)
    editor.open(project, task, regions=len(placed(sent)))
    return edit_open(case, label_studio, editor, task, number=1)


def edit_open(case: Case, label_studio: LabelStudio, editor: Editor, task: int, *, number: int) -> Edit:
    """Edit a region of a task that is open, and submit: an outline by a point, painted ones with the eraser.

    Args:
        case: of the task.
        label_studio: where it is.
        editor: where it is open, with a prediction as its annotation.
        task: its id.
        number: of the region in the list.
    """
    if editor.regions()[number]["type"] not in _PAINTED:
        editor.choose("move-tool")
    name = editor.select(number)
    before = editor.settled(name)
    what, work = _edit_of(editor, name, before)
    work()
    undone = 1.0
    if what == "eraser":
        edited = editor.settled(name, unlike=before)
        editor.choose("Undo")
        undone = iou(editor.settled(name, unlike=edited), before)
        editor.select(number)
        work()
    after = editor.settled(name, unlike=before)
    editor.submit()
    (prediction,) = label_studio.predictions(task)
    found = stored_annotations(label_studio, task)[-1]
    items = [item for item in found.result if item["id"] == name]
    seen = max((iou(read(item), after) for item in items if item["type"] != "labels"), default=0.0)
    outcomes = count_records(region_records(found, [prediction], case.vocabulary))
    label = next(str(region["label"]) for region in editor.regions() if region["id"] == name)
    told = {key: row for key, row in outcomes.items() if row != RegionOutcomes(accepted=1)}
    return Edit(case.name, what, round(undone, 4), round(iou(after, before), 4), round(seen, 4), bool(items),
                told == {label: RegionOutcomes(changed=1)})  # fmt: skip


def stored_annotations(label_studio: LabelStudio, task: int) -> list[Annotation]:
    """The annotations of a task, oldest first."""
    rows = sorted(label_studio.request("GET", f"/api/tasks/{task}/annotations/"), key=lambda row: int(row["id"]))
    return [_annotation(row) for row in rows]


def _annotation(row: Mapping[str, Any]) -> Annotation:
    return Annotation(int(row["id"]), int(row["task"]), tuple(row["result"]), False, False, row["parent_prediction"],
                      None, str(row["updated_at"]))  # fmt: skip


def _edit_of(editor: Editor, name: str, mask: Mask) -> tuple[str, Callable[[], None]]:
    """What to do with a region, and its name."""
    rows, columns = np.nonzero(mask)
    x, y, half = float(columns.mean()), float(rows.mean()), 1.3 * float(np.ptp(columns)) / 2
    kind = next(str(region["type"]) for region in editor.regions() if region["id"] == name)
    if kind in _PAINTED:

        def erase() -> None:
            editor.choose("eraser")
            editor.drag((max(x - half, _MARGIN), y), (x, y), (min(x + half, SIZE[0] - _MARGIN), y))

        return "eraser", erase
    (value, *_) = editor.page.evaluate("id => zeromask.values(id)", name)
    points = _points(value)
    if points:
        leftmost_x, top = min(points)
        return "a point dragged", lambda: editor.drag((leftmost_x, top), (leftmost_x - 20, top),
                                                      (leftmost_x - 45, top + 5))  # fmt: skip
    return "moved", lambda: editor.drag((x, y), (x + 15, y + 5), (x + 30, y + 12))


def _points(value: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The corners of a shape that has some, in pixels."""
    rows = value.get("points") or [(vertex["x"], vertex["y"]) for vertex in value.get("vertices", ())]
    return [(float(x) * SIZE[0] / 100, float(y) * SIZE[1] / 100) for x, y in rows]
