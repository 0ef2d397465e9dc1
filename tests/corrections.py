"""A project whose labels the model does not understand, and an annotator who does: drawn squares, annotated by API."""

from __future__ import annotations

from typing import Any

import numpy as np

from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT
from plugin_config.versions.manifests import Owner, VersionFolder
from tests.house import SIZE, House, current_version, make_project
from worker.label_studio.regions import encode_region

STRANGE = """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">
  <Label value="wug"/><Label value="dax"/><Label value="fep"/></BrushLabels></View>"""
SQUARES = {"wug": 8, "dax": 70, "fep": 132}
"""Where each is, pixels from the left; see `tests.house.picture`, whose picture number i lies 20 + 2 i from the top."""


def strange_project(house: House, *, count: int, name: str) -> int:
    """A project of pictures whose labels are words for nothing."""
    return make_project(house, count=count, config=STRANGE, name=name)


def annotate(house: House, task: int, number: int, *, labels: tuple[str, ...] = tuple(SQUARES)) -> int:
    """Accept the squares of picture `number` as an annotator draws them; returns the annotation's id."""
    width, height = SIZE
    result: list[dict[str, Any]] = []
    for label in labels:
        mask = np.zeros((height, width), dtype=bool)
        top, left = 20 + 2 * number, SQUARES[label]
        mask[top : top + 47, left : left + 47] = True
        result += encode_region(mask, kind="brush", control="brush", to_name="image", label=label, score=1.0)
    made = house.label_studio.request("POST", f"/api/tasks/{task}/annotations/", json={"result": result})
    return int(made["id"])


def versions_of(house: House, project: int, place: str) -> VersionFolder:
    """The project's versions on disk."""
    found: Project = house.label_studio.project(project)
    return VersionFolder(place, Owner(house.label_studio.url, project, found.created, house.settings.model))


def served_version(house: House, project: int, place: str) -> str:
    """The version string of what the disk says is served."""
    folder = versions_of(house, project, place)
    served = folder.pointer().served
    learned = None if served == ZEROSHOT else folder.manifest(served).learned
    return current_version(house, project, adapter=served, learned=learned)
