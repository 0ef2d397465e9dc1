"""The table "control x (stored, valid, drawn)": each kind of region in a real Label Studio, seen in a real browser."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.objects import PredictionValue

from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.predictions import StoredPrediction
from tests.browser.cases import Case, Mask, Told, picture, results
from tests.browser.editor import Editor

VERSION = "seen-in-a-browser"
MOST_OFF = 1.0
LEAST_SEEN, MOST_STRAY = 0.95, 0.05
"""Shares of `Editor.seen`: tools of the editor may lie over a corner of the picture."""


@dataclass(frozen=True)
class Row:
    """What came of one kind.

    Attributes:
        control: the kind.
        regions: how many were sent.
        stored: how many Label Studio gives back as they were sent.
        valid: whether label_studio_sdk finds the result to fit the labeling config.
        iou: least intersection over union of a thing's mask, or of its region's own shape, and what the editor draws.
        off: largest distance of their centres, in pixels.
        against: "mask" or "shape".
        seen: least share of a thing's pixels that change in the window when its region is hidden.
        stray: largest share of the pixels that change elsewhere.
        seconds: from the address of the task to everything drawn.
        ids: whether each region has ten characters as its id, in the editor too.
    """

    control: str
    regions: int
    stored: int
    valid: bool
    iou: float
    off: float
    against: str
    seen: float
    stray: float
    seconds: float
    ids: bool

    def faults(self, case: Case) -> list[str]:
        """What is not as it must be."""
        wrong = {
            f"{self.stored} of {self.regions} regions stored": self.stored < self.regions,
            "not valid by label_studio_sdk": not self.valid,
            f"IoU with the {self.against} {self.iou:.3f}, less than {case.least}": self.iou < case.least,
            f"{self.off} pixels away": self.off > MOST_OFF,
            f"{self.seen:.0%} of a thing seen": self.seen < LEAST_SEEN,
            f"{self.stray:.0%} of what changed is elsewhere": self.stray > MOST_STRAY,
            "ids are not of ten characters": not self.ids,
        }
        return [f"{self.control}: {text}" for text, holds in wrong.items() if holds]


def see(case: Case, label_studio: LabelStudio, editor: Editor, *, shot: Path | None = None) -> Row:
    """Store a kind's regions as a prediction, open its task, and compare what is drawn with what was meant.

    Args:
        case: the kind.
        label_studio: where.
        editor: a window that is signed in there.
        shot: where a picture of the window goes.
    """
    told = results(case)
    sent = [region for thing in told for region in thing.regions]
    project, task, stored = predict(label_studio, case, sent)
    seconds = editor.open(project, task, regions=len(placed(sent)))
    if shot is not None:
        editor.picture_to(shot)
    return measure(editor, case, told, stored, seconds)


def predict(label_studio: LabelStudio, case: Case, sent: list[dict[str, Any]]) -> tuple[int, int, StoredPrediction]:
    """A project with a prediction. Returns the ids of project and task, and the prediction as Label Studio has it."""
    project, task = make_task(label_studio, case.name, case.config, picture())
    label_studio.create_prediction(task, sent, score=0.9, version=VERSION)
    (stored,) = label_studio.predictions(task)
    return project, task, stored


def measure(editor: Editor, case: Case, told: Sequence[Told], stored: StoredPrediction, seconds: float) -> Row:
    """Compare what an open task shows with what was told."""
    sent = [region for thing in told for region in thing.regions]
    shown = {region["id"] for region in editor.regions()}
    measured = [_measure(editor, thing) for thing in told]
    ious, off, seen, stray = zip(*measured, strict=True)
    prediction = PredictionValue(result=sent, score=0.9, model_version=VERSION)
    return Row(
        control=case.name,
        regions=len(placed(sent)),
        stored=sum(all(item in stored.result for item in sent if item["id"] == name) for name in placed(sent)),
        valid=not LabelInterface(case.config).validate_prediction(prediction.model_dump(), return_errors=True),
        iou=round(min(ious), 4),
        off=round(max(off), 2),
        against=" or ".join(sorted({thing.against for thing in told})),
        seen=round(min(seen), 4),
        stray=round(max(stray), 4),
        seconds=round(seconds, 2),
        ids=shown == set(placed(sent)) and all(len(name) == 10 for name in shown),
    )


def make_task(label_studio: LabelStudio, name: str, config: str, image: bytes) -> tuple[int, int]:
    """A project of one picture. Returns the ids of both."""
    body: dict[str, Any] = {"title": name, "label_config": config, "show_collab_predictions": True}
    project = int(label_studio.request("POST", "/api/projects/", json=body)["id"])
    files = [("0.png", ("0.png", image, "image/png"))]
    label_studio.request("POST", f"/api/projects/{project}/import", files=files)
    (task,) = label_studio.all_tasks(project)
    return project, task.id


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union of two masks; 1 for two empty ones."""
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def placed(regions: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids of what lies on the image: items of one id are one region."""
    return list(dict.fromkeys(region["id"] for region in regions))


def _measure(editor: Editor, told: Told) -> tuple[float, float, float, float]:
    """IoU and distance of centres, all regions of a thing together; least seen of one, most seen elsewhere."""
    drawn = {name: editor.drawn(name) for name in placed(told.regions)}
    seen = [editor.seen(name, mask) for name, mask in drawn.items()]
    together: Mask = np.any(list(drawn.values()), axis=0)
    away = math.dist(_centre(told.mask), _centre(together))
    return iou(told.mask, together), away, min(share for share, _ in seen), max(stray for _, stray in seen)


def _centre(mask: Mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (float(rows.mean()), float(columns.mean())) if rows.size else (math.inf, math.inf)
