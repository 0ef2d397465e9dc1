"""`zeromask report` on a real Label Studio, with what annotators did in a few tasks: its figures are exact."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugin_config.control_arm import in_control_arm
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import parse_vocabulary
from tests.house import CONFIG, SIZE, TOKEN, House, picture, tasks, upload
from worker.label_studio.regions import encode_region
from worker.report.__main__ import main
from worker.report.seed import main as seed_wrong

VERSION = f"builtin-zeroshot-{parse_vocabulary(CONFIG.format(more='')).hash}"
NOTHING = '<script>x</script> & "nothing"'


def region(columns: slice, rows: slice = slice(20, 60), **more: Any) -> dict[str, Any]:
    mask = np.zeros(SIZE[::-1], dtype=bool)
    mask[rows, columns] = True
    (made,) = encode_region(mask, kind="brush", control="brush", to_name="image", label="red/thing", score=0.8)
    return made | more


def submit(house: House, task: Task, result: list[Any], parent: StoredPrediction | None, **more: Any) -> None:
    body = {"result": result, "parent_prediction": parent.id if parent else None, "lead_time": 12.5, **more}
    house.label_studio.request("POST", f"/api/tasks/{task.id}/annotations/", json=body)


@pytest.fixture
def report(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; returns its exit status and what it printed as JSON."""
    monkeypatch.setenv("LABEL_STUDIO_URL", house.label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setenv("ZEROMASK_STATE_DIR", str(tmp_path / "state"))

    def run(project: int, *options: str) -> tuple[int, Any, str]:
        status = main([str(project), "--output", str(tmp_path / "out"), "--json", *options])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else None, err

    return run


def make_project(house: House, count: int) -> int:
    body = {"title": NOTHING, "label_config": CONFIG.format(more="")}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20)] * count)
    return project


def test_what_annotators_did_is_what_the_report_says(
    house: House, report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(house, 24)  # by their ids about half are in the arm
    made = tasks(house, project)
    arm = [task for task in made if in_control_arm(task.id, 0.5)]
    accepted, changed, emptied, deleted_by_hand, skipped, *_ = [task for task in made if task not in arm]
    for task in (accepted, changed, deleted_by_hand):
        result = [region(slice(8, 48), id=f"r{task.id}"), region(slice(100, 140), id=f"s{task.id}")]
        house.label_studio.create_prediction(task.id, result, score=0.5, version=VERSION)
    house.label_studio.create_prediction(emptied.id, [], score=0.5, version=VERSION)
    predictions = {task.id: house.label_studio.predictions(task.id) for task in made}

    def taken(task: Task, place: int, **more: Any) -> dict[str, Any]:
        return dict(predictions[task.id][0].result[place]) | {"origin": "prediction"} | more

    submit(house, accepted, [taken(accepted, 0), taken(accepted, 1)], predictions[accepted.id][0])
    half = taken(changed, 0, value=region(slice(8, 28))["value"], origin="prediction-changed")
    submit(house, changed, [half, region(slice(60, 70), id="new", origin="manual")], predictions[changed.id][0],
           lead_time=None)  # fmt: skip
    submit(house, emptied, [], predictions[emptied.id][0], lead_time=3 * 86400.0)
    submit(house, deleted_by_hand, [taken(deleted_by_hand, 0)], predictions[deleted_by_hand.id][0])
    house.label_studio.delete_prediction(predictions[deleted_by_hand.id][0].id)
    submit(house, skipped, [], None, was_cancelled=True)
    submit(house, arm[0], [region(slice(8, 48), origin="manual")], None, lead_time=80.0)

    monkeypatch.setenv("ZEROMASK_CONTROL_SHARE", "0.5")
    status, found, _ = report(project, "--seconds", "look=2,click=1,outline=60,wrong=2")
    assert status == 0
    assert (found["tasks"], found["annotations"], found["skips"], found["from_prediction"]) == (6, 5, 1, 3)
    everything = found["regions"][0]
    assert (everything["label"], everything["version"]) == ("", "")
    assert [everything[name] for name in ("accepted", "changed", "deleted", "added")] == [2, 1, 1, 1]
    assert (everything["accepted_share"]["value"], everything["accepted_share"]["n"]) == (0.5, 4)
    assert everything["edit_iou"]["value"] == pytest.approx(0.5)
    assert (everything["images"], everything["present"], everything["left_empty"]) == (3, 2, 1)
    assert found["saved_minutes"] == pytest.approx((2 * 58 - 3 - 3) / 60)
    times = {(one["arm"], one["shown"]): one["median_s"]["value"] for one in found["lead_times"] if not one["version"]}
    assert times == {
        ("prediction", "all"): 12.5, ("prediction", "labels"): 12.5, ("control", "all"): 80.0,
        ("control", "labels"): 80.0,
    }  # fmt: skip
    assert found["difference_s"]["labels"]["value"] == 67.5
    assert found["left_out_times"] == {"not noted": 1, "longer than 30 minutes": 1}
    told = " ".join(found["remarks"])
    assert "predictions that are deleted since: 1 annotation." in told
    assert "rightly left empty: 1 image." in told
    page = (tmp_path / "out" / "report.html").read_text()
    assert NOTHING not in page
    assert "&lt;script&gt;x&lt;/script&gt; &amp; &quot;nothing&quot;" in page
    assert page.count("data:image/png;base64,") == 1
    assert (tmp_path / "out" / "corrected_1.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((tmp_path / "out" / "annotations.csv").open()))
    assert {row["task"]: row["basis"] for row in rows if row["skipped"] == "0"} == {
        str(accepted.id): "ours", str(changed.id): "ours", str(emptied.id): "ours",
        str(deleted_by_hand.id): "deleted", str(arm[0].id): "nothing",
    }  # fmt: skip


def test_seeded_wrong_masks_are_told_apart_and_can_be_taken_out(
    house: House, report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(house, 4)
    made = tasks(house, project)
    assert seed_wrong([str(project)]) == 2, "nothing is predicted yet"
    for task in made:
        house.label_studio.create_prediction(task.id, [region(slice(8, 48), id=f"r{task.id}")], score=0.5,
                                             version=VERSION)  # fmt: skip
    house.label_studio.show_version(project, VERSION)
    capsys.readouterr()
    assert seed_wrong([str(project), "--count", "3", "--json"]) == 0
    seeded = json.loads(capsys.readouterr().out)["tasks"]
    assert len(seeded) == 3
    predictions = {task.id: house.label_studio.predictions(task.id)[0] for task in made}
    assert {task: len(found.result) for task, found in predictions.items()} == {
        task.id: 1 + (task.id in seeded) for task in made
    }
    assert all(found.version == VERSION and found.score == 0.5 for found in predictions.values())
    for task in made:
        taken = [dict(item) | {"origin": "prediction"} for item in predictions[task.id].result]
        if task.id == seeded[0]:
            submit(house, task, taken[:1], predictions[task.id])  # the wrong one is deleted
        elif task.id == seeded[1]:
            submit(house, task, [*taken, region(slice(150, 170), id="new", origin="manual")], predictions[task.id])
    _, found, _ = report(project)
    assert found["seeded"] == {"deleted": 1, "changed": 0, "left": 1}
    assert (found["caught"]["value"], found["caught"]["n"], found["left_in"]) == (0.5, 2, [seeded[1]])
    assert [found["regions"][0][name] for name in ("accepted", "changed", "deleted", "added")] == [2, 0, 0, 1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count(", with a seeded wrong mask</figcaption>") == 1
    assert any(f"of 1 task, {seeded[1]}: delete them there" in remark for remark in found["remarks"])
    assert seed_wrong([str(project), "--remove", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == [seeded[2]]
    assert len(house.label_studio.predictions(seeded[2])[0].result) == 1


def test_a_project_without_history_and_one_whose_annotator_skips_everything(house: House, report: Any) -> None:
    project = make_project(house, 2)
    status, found, _ = report(project)
    assert (status, found["tasks"], found["regions"]) == (0, 0, [])
    assert found["remarks"] == ["No task of this project is annotated or skipped yet: there is nothing to measure."]
    for task in tasks(house, project):
        submit(house, task, [], None, was_cancelled=True)
    _, found, _ = report(project)
    assert (found["tasks"], found["skips"], found["annotations"]) == (2, 2, 0)
    assert any("skipped every task that they submitted, 2 in all" in remark for remark in found["remarks"])


def test_a_project_that_is_not_there_is_one_sentence(report: Any) -> None:
    status, found, told = report(999_999)
    assert (status, found) == (2, None)
    assert told.startswith("zeromask report: GET /api/projects/999999/")
