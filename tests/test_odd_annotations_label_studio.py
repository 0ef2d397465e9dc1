"""Annotations as people make and import them, kept by a real Label Studio: one round learns from what can be used, and
`zeromask status` names the tasks it leaves out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from redis import Redis
from rich.console import Console

from plugin_config.cli.status import render
from plugin_config.overview.control import QueueControl
from plugin_config.queue.jobs import LearnProject
from plugin_config.versions.manifests import Attempt
from tests.annotation_items import BOX, CAT, CONFIG, DOG, HEIGHT, RING, WIDTH, brush, item, left_quarter, middle
from tests.house import House, tasks, upload
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.metrics import VOID
from worker.service.context import WorkerContext
from worker.service.trainer import training_round
from worker.service.trainer.learner import Learner

pytestmark = pytest.mark.usefixtures("one_thread")

ELLIPSE = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0}
EMPTY = {"points": [], "closed": False}
TURNED: dict[str, Any] = {"original_width": HEIGHT, "original_height": WIDTH}

LEARNED: Mapping[str, list[Any]] = {
    "plain": [brush("dog")],
    "ellipse": [item("ellipselabels", ELLIPSE, "cat")],
    "unlabelled": [brush("dog", id="b1"), item("rectanglelabels", BOX)],
    "no such label": [item("polygonlabels", {"points": RING, "closed": True}, "horse")],
    "without area": [brush("dog", id="b1"), item("polygonlabels", EMPTY, "cat")],
    "open": [item("polygonlabels", {"points": RING[:3], "closed": False}, "cat")],
    "pair": [brush(kind="brush"), item("labels", brush()["value"], "dog")],
    "asked about": [brush("dog"), item("choices", {"choices": ["good"]})],
    "empty": [],
}  # fmt: skip
LEFT_OUT: Mapping[str, tuple[list[Any], str]] = {
    "null": ([None], "item 1 of a result: is null and no region"),
    "text": ([brush("dog"), "x"], "item 2 of a result: is a text and no region"),
    "value null": ([item("rectanglelabels", None)], "region 'x1' of type 'rectanglelabels': it has no value"),
    "turned": ([brush("dog", **TURNED)], "which has 48 x 32 now: it was turned since"),
    "mask as a picture": ([item("brushlabels", {"maskDataURL": "data:,"}, "cat")], "its value has no 'rle'"),
}


def picture() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def import_annotated(house: House, results: Mapping[str, list[Any]]) -> tuple[int, dict[str, int]]:
    """A project of one picture, annotated in as many ways as there are results; returns it and the tasks' ids."""
    body = {"title": "odd annotations", "label_config": CONFIG}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture()])
    (first,) = tasks(house, project)
    (read,) = house.label_studio.tasks(project, [first.id])
    address = read.data["image"]
    rows = [
        {"data": {"image": address, "name": name}, "annotations": [{"result": result}]}
        for name, result in results.items()
    ]
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=rows)
    found = [task.id for task in tasks(house, project)]
    return project, {str(task.data.get("name", "")): task.id for task in house.label_studio.tasks(project, found)}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> dict[str, Example]:
    """The examples that reach the gate, by task."""
    found: dict[str, Example] = {}

    def judge(recipe: Any, train: list[Example], held_out: list[Example], served: Any, *_: Any, **__: Any) -> Verdict:
        found.update({row.key: row for row in (*train, *held_out)})
        return Verdict(False, served, 0.0, "kept what is served: no better.", {})

    monkeypatch.setattr(training_round, "judge", judge)
    return found


def run_round(house: House, redis: Redis, redis_url: str, project: int, place: Path) -> tuple[Attempt, str]:
    """One round by a learner of its own; returns the attempt as it is on disk and what `zeromask status` prints."""
    settings = replace(house.settings, redis_url=redis_url, versions=str(place))
    context = WorkerContext(settings, redis, learner=True)
    try:
        assert context.hints.admit(project)  # as the backend does when somebody presses the button
        context.learning.request_now(project)
        Learner(context).learn(LearnProject(project=project))
        attempt = context.adapters.folder(context.label_studio.project(project)).pointer().attempt
        assert attempt is not None
    finally:
        context.label_studio.close()
    console = Console(record=True, width=4000)
    console.print(render(QueueControl(redis, settings).state()))
    return attempt, console.export_text()


def test_what_can_be_used_is_learned_from_and_what_cannot_is_named(
    house: House, redis: Redis, redis_url: str, learned: dict[str, Example], tmp_path: Path
) -> None:
    results = {**LEARNED, **{name: result for name, (result, _) in LEFT_OUT.items()}}
    project, ids = import_annotated(house, results)
    attempt, status = run_round(house, redis, redis_url, project, tmp_path)

    assert set(learned) == {str(ids[name]) for name in LEARNED}
    assert set(attempt.left_out) == {str(ids[name]) for name in LEFT_OUT}
    for name, (_, reason) in LEFT_OUT.items():
        assert attempt.left_out[str(ids[name])].startswith(f"task {ids[name]}: ")
        assert reason in attempt.left_out[str(ids[name])]
        assert reason in status
    assert "5 annotated images left out until changed" in status

    truth = {name: learned[str(ids[name])].truth for name in LEARNED}
    for name in ("plain", "without area", "pair", "asked about"):
        assert ((truth[name] == DOG) == left_quarter()).all(), name
        assert (truth[name][~left_quarter()] == UNLABELLED).all(), name
    assert (truth["ellipse"] == CAT).sum() == pytest.approx(np.pi * 12 * 8, rel=0.03)
    for name in ("unlabelled", "no such label"):
        assert ((truth[name] == VOID) == middle()).all(), name
    assert not (truth["open"] == CAT).any() and truth["open"][14, 20] == UNLABELLED
    assert (truth["empty"] == UNLABELLED).all()
    assert attempt.outcomes == {
        "dog": {"accepted": 0, "changed": 0, "added": 5, "deleted": 0},
        "cat": {"accepted": 0, "changed": 0, "added": 2, "deleted": 0},
    }


def test_an_imported_ground_truth_gives_way_and_a_prediction_of_null_is_one_without_regions(
    house: House, redis: Redis, redis_url: str, learned: dict[str, Example], tmp_path: Path
) -> None:
    results = {name: [brush("dog")] for name in ("imported", "corrected", "predicted", "answered")}
    project, ids = import_annotated(house, results)
    label_studio = house.label_studio
    (imported,) = label_studio.annotations(ids["imported"])
    assert imported.ground_truth and imported.imported, "as Label Studio flags what is imported"
    label_studio.request("POST", f"/api/tasks/{ids['corrected']}/annotations/", json={"result": [brush("cat")]})
    before, after = label_studio.annotations(ids["corrected"])
    assert before.ground_truth and not after.ground_truth and not after.imported
    stored = {"task": ids["predicted"], "result": {"a": 1}, "model_version": "other"}
    label_studio.request("POST", "/api/predictions/", json=stored)
    assert label_studio.request("GET", "/api/predictions/", params={"task": ids["predicted"]})[0]["result"] is None
    label_studio.create_prediction(ids["answered"], [brush("dog")], score=0.5, version="other")

    attempt, status = run_round(house, redis, redis_url, project, tmp_path)
    assert attempt.left_out == {}
    assert "left out" not in status
    assert set(learned) == {str(ids[name]) for name in results}
    assert ((learned[str(ids["corrected"])].truth == CAT) == left_quarter()).all()
    for name in ("imported", "predicted", "answered"):
        assert ((learned[str(ids[name])].truth == DOG) == left_quarter()).all(), name
