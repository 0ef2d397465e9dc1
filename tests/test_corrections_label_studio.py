"""Corrections as a real Label Studio stores them: accepted, edited, added, deleted, skipped, flagged, by two people."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.label_studio.client import Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import OutputKind, parse_vocabulary
from tests.house import CONFIG, SIZE, House, picture, tasks, upload
from worker.label_studio.images import ImageLimits, decode_image
from worker.label_studio.outcomes import RegionOutcomes
from worker.label_studio.regions import encode_region
from worker.label_studio.results import encode_segments
from worker.learning.corrections.examples import content_digest
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter
from worker.service.trainer.corrections import Correction, corrections_digest, read_corrections

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = parse_vocabulary(CONFIG.format(more=""))
RED, BLUE, GREEN = range(3)
LIMITS = ImageLimits(1_000_000, 1_000_000, 10.0, allow_private=False)
CONTROLS: dict[OutputKind, tuple[str, str]] = {
    "brush": ("brush", "red/thing"), "polygon": ("polygon", "blue shape"), "rectangle": ("box", "green shape"),
}  # fmt: skip


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture
def project(house: House, segmenter: Segmenter) -> int:
    """Four pictures with predictions of ours and one file that is no picture; no backend is connected."""
    body = {"title": "corrections", "label_config": CONFIG.format(more="")}
    number = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, number, [picture(top=20)] * 4 + [b"\x89PNG not really"])
    image = read_picture()
    result = encode_segments(segmenter.segment(segmenter.embed([image])[0], VOCABULARY, image).segments).regions
    for task in tasks(house, number)[:4]:
        house.label_studio.create_prediction(task.id, result, score=0.5, version="ours")
    return number


def read_picture() -> NDArray[np.uint8]:
    return decode_image(picture(top=20), subject="picture", limits=LIMITS)


def region(kind: OutputKind, rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros(SIZE[::-1], dtype=bool)
    mask[rows, columns] = True
    control, label = CONTROLS[kind]
    (made,) = encode_region(mask, kind=kind, control=control, to_name="image", label=label, score=1.0)
    return made | {"origin": "manual"}


def annotate(house: House, task: Task, result: list[Any], parent: StoredPrediction | None = None, **more: Any) -> int:
    body = {"result": result, "parent_prediction": parent.id if parent else None, **more}
    return int(house.label_studio.request("POST", f"/api/tasks/{task.id}/annotations/", json=body)["id"])


def read(house: House, project: int, segmenter: Segmenter) -> dict[int, Correction]:
    found = read_corrections(
        house.label_studio, project, VOCABULARY, embed=segmenter.embed, limits=LIMITS, ours={"ours"}
    )  # fmt: skip
    return {row.task: row for row in found if isinstance(row, Correction)}


def test_each_kind_of_correction_is_told_apart(
    house: House, project: int, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    accepted, edited, skipped, _, broken = tasks(house, project)
    (first,), (second,) = (house.label_studio.predictions(task.id) for task in (accepted, edited))
    by_type = {row["type"]: dict(row) for row in second.result}
    assert set(by_type) == {"brushlabels", "polygonlabels", "rectanglelabels"}
    annotate(house, accepted, [row | {"origin": "prediction"} for row in map(dict, first.result)], first)
    larger = region("brush", slice(20, 67), slice(4, 60))["value"]
    touched = by_type["brushlabels"] | {"value": larger, "origin": "prediction-changed"}
    annotate(
        house, edited, [touched, by_type["rectanglelabels"], region("polygon", slice(90, 120), slice(9, 60))], second
    )
    annotate(house, skipped, [], was_cancelled=True)
    annotate(house, broken, [region("brush", slice(0, 9), slice(0, 9))])
    with caplog.at_level(logging.WARNING):
        found = read(house, project, segmenter)
    assert set(found) == {accepted.id, edited.id}
    assert any(f"task {broken.id} is not learned from" in line for line in caplog.messages)
    counts = {key: len([r for r in first.result if r["value"].get(r["type"]) == [key]]) for _, key in CONTROLS.values()}
    assert found[accepted.id].outcomes == {key: RegionOutcomes(accepted=count) for key, count in counts.items()}
    assert found[edited.id].outcomes["red/thing"].changed == 1
    assert found[edited.id].outcomes["blue shape"] == RegionOutcomes(added=1, deleted=counts["blue shape"])
    assert found[edited.id].outcomes["green shape"].accepted == 1


def test_truth_lies_where_annotators_left_it(house: House, project: int, segmenter: Segmenter) -> None:
    task = tasks(house, project)[0]
    annotate(house, task, [
        region("brush", slice(20, 67), slice(8, 55)), region("polygon", slice(20, 67), slice(70, 117)),
        region("rectangle", slice(20, 67), slice(132, 179)),
    ])  # fmt: skip
    example = read(house, project, segmenter)[task.id].example
    image, truth = example.image.astype(int), example.truth
    assert example.key == str(task.id)
    assert truth.shape == image.shape[:2] == example.embedding.size == SIZE[::-1]
    reddest, bluest = image[..., 0] - image[..., 2] > 100, image[..., 2] - image[..., 0] > 100
    assert ((truth == RED) == reddest).all()
    assert ((truth == BLUE) == bluest).all()
    inside = truth == GREEN
    assert inside.sum() == pytest.approx(np.pi / 4 * 47 * 47, rel=0.03)
    assert (truth[20:67, 132:179] != UNLABELLED).all(), "corners of a box are void"
    assert (truth == VOID).sum() + inside.sum() == 47 * 47


def test_two_annotators_agree_or_one_is_the_ground_truth(house: House, project: int, segmenter: Segmenter) -> None:
    task = tasks(house, project)[0]
    name = f"two-{project}@example.com"
    other = house.label_studio.request("POST", "/api/users/", json={"email": name, "username": name})["id"]
    annotate(house, task, [region("brush", slice(20, 67), slice(8, 55))])
    second = annotate(house, task, [region("brush", slice(20, 67), slice(8, 35))], completed_by=other)
    truth = read(house, project, segmenter)[task.id].example.truth
    assert (truth[20:67, 8:35] == RED).all()
    assert (truth[20:67, 35:55] == VOID).all(), "they disagree"
    assert (truth == VOID).sum() == 47 * 20
    before = corrections_digest(house.label_studio, project)
    house.label_studio.request("PATCH", f"/api/annotations/{second}/", json={"ground_truth": True})
    assert corrections_digest(house.label_studio, project) != before
    found = read(house, project, segmenter)[task.id]
    assert found.ground_truth
    assert found.annotations == (second,)
    assert (found.example.truth[20:67, 35:55] == UNLABELLED).all()


def test_edits_and_deletions_count_without_any_webhook(house: House, project: int, segmenter: Segmenter) -> None:
    task, *_ = tasks(house, project)
    nothing = corrections_digest(house.label_studio, project)
    assert read(house, project, segmenter) == {}
    made = annotate(house, task, [region("brush", slice(20, 67), slice(8, 55))])
    digests = [nothing, corrections_digest(house.label_studio, project)]
    edited = {"result": [region("brush", slice(0, 10), slice(0, 10))]}
    house.label_studio.request("PATCH", f"/api/annotations/{made}/", json=edited)
    digests.append(corrections_digest(house.label_studio, project))
    assert digests[-1] == corrections_digest(house.label_studio, project)
    assert len(set(digests)) == 3
    assert (read(house, project, segmenter)[task.id].example.truth == RED).sum() == 100
    house.label_studio.request("DELETE", f"/api/annotations/{made}/")
    assert corrections_digest(house.label_studio, project) == nothing
    assert read(house, project, segmenter) == {}


def test_predictions_of_annotated_tasks_change_the_list_of_tasks_and_not_what_is_learned(
    house: House, project: int, segmenter: Segmenter
) -> None:
    def digests() -> tuple[str, str]:
        examples = [row.example for row in read(house, project, segmenter).values()]
        return corrections_digest(house.label_studio, project), content_digest(examples, VOCABULARY)

    task, *_ = tasks(house, project)
    annotate(house, task, [region("brush", slice(20, 67), slice(8, 55))])
    seen = [digests()]
    made = house.label_studio.create_prediction(task.id, [], score=0.5, version="ours")
    seen.append(digests())
    house.label_studio.delete_prediction(made.id)
    seen.append(digests())
    assert len({listed for listed, _ in seen}) == 3
    assert len({content for _, content in seen}) == 1


def test_a_prediction_deleted_since_leaves_what_the_editor_noted(
    house: House, project: int, segmenter: Segmenter
) -> None:
    task, *_ = tasks(house, project)
    (prediction,) = house.label_studio.predictions(task.id)
    result = [row | {"origin": "prediction"} for row in map(dict, prediction.result)]
    annotate(house, task, [*result, region("polygon", slice(90, 120), slice(9, 60))], prediction)
    house.label_studio.delete_prediction(prediction.id)
    (annotation,) = house.label_studio.annotations(task.id)
    assert annotation.parent_prediction is None
    outcomes = read(house, project, segmenter)[task.id].outcomes
    assert sum(row.accepted for row in outcomes.values()) == len(prediction.result)
    assert outcomes["blue shape"].added == 1
    assert sum(row.deleted for row in outcomes.values()) == 0
