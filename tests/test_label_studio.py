"""The main job against a real Label Studio, a real Redis, a real backend process and a real worker process.

One Label Studio serves the whole run; each test has its own project.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
from rq.serializers import JSONSerializer

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, predict_queue
from plugin_config.queue.ledger import ProjectLedger
from tests.house import (
    CONFIG,
    SIZE,
    House,
    current_version,
    make_project,
    personal_token,
    picture,
    retrieve,
    stored,
    tasks,
    upload,
    wait_predicted,
    wait_shown,
    wait_until,
)
from worker.label_studio.regions import decode_region


def test_label_studio_asks_and_every_task_gets_one_prediction(house: House) -> None:
    project = make_project(house)
    retrieve(house, project)
    version = wait_predicted(house, project)
    assert set(map(tuple, stored(house, project).values())) == {(version,)}
    wait_shown(house, project, version)


def test_regions_carry_alias_type_score_and_lie_on_the_object(house: House) -> None:
    project = make_project(house, count=1)
    retrieve(house, project)
    wait_predicted(house, project)
    (task,) = tasks(house, project)
    (prediction,) = house.label_studio.predictions(task.id)
    by_type: dict[str, Any] = {region["type"]: region for region in prediction.result}
    assert by_type["brushlabels"]["value"]["brushlabels"] == ["red/thing"], "the key of a label is its alias"
    assert by_type["polygonlabels"]["value"]["polygonlabels"] == ["blue shape"]
    assert by_type["rectanglelabels"]["value"]["rectanglelabels"] == ["green shape"]
    for kind, left in (("brushlabels", 8), ("polygonlabels", 70), ("rectanglelabels", 132)):
        region = by_type[kind]
        assert 0 <= region["score"] <= 1
        mask = decode_region(region, *SIZE)
        inside = mask[20:67, left : left + 47].sum() / mask.sum()
        assert inside > 0.7, f"{kind} lies {inside:.0%} on its object"


def test_asking_again_stores_nothing_twice(house: House) -> None:
    project = make_project(house)
    retrieve(house, project)
    version = wait_predicted(house, project)
    retrieve(house, project)
    body = {"tasks": [{"id": task.id} for task in tasks(house, project)], "project": f"{project}.1",
            "label_config": house.label_studio.project(project).label_config}  # fmt: skip
    for _ in range(3):  # what a retrying proxy would do
        answer = httpx.post(f"{house.services.backend_url}/predict", json=body, timeout=60).json()
        assert answer["results"] == [[], [], []]
    wait_until(lambda: house.pending.counts(project).pending + house.pending.counts(project).leased == 0)
    assert set(map(tuple, stored(house, project).values())) == {(version,)}


def test_an_empty_answer_stores_nothing(house: House) -> None:
    project = make_project(house)
    worker = house.supervisor.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        retrieve(house, project)
        assert stored(house, project) == {task.id: [] for task in tasks(house, project)}
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_predicted(house, project)


def test_opening_a_task_shows_its_masks_at_once(house: House) -> None:
    project = make_project(house, count=12)
    shown: list[str] = []
    for task in tasks(house, project):  # the backend waits a second and a half, not always enough on a busy machine
        opened = house.label_studio.request("GET", f"/api/tasks/{task.id}/", params={"project": project})
        shown = [row["model_version"] for row in opened["predictions"]]
        if shown:
            break
    assert shown == [current_version(house, project)]


def test_a_new_label_predicts_again_and_replaces_what_nobody_annotated(house: House) -> None:
    project = make_project(house)
    retrieve(house, project)
    old = wait_predicted(house, project)
    annotated = tasks(house, project)[0]
    (prediction,) = house.label_studio.predictions(annotated.id)
    annotation = {"result": list(prediction.result), "parent_prediction": prediction.id}
    house.label_studio.request("POST", f"/api/tasks/{annotated.id}/annotations/", json=annotation)
    more = CONFIG.format(more='<Label value="yellow shape"/>')
    house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"label_config": more})
    new = current_version(house, project)
    assert new != old
    rest = [task.id for task in tasks(house, project) if task.id != annotated.id]
    wait_until(lambda: all(stored(house, project)[task] == [new] for task in rest), told="new version everywhere")
    assert stored(house, project)[annotated.id] == [old], "what an annotation was made from stays"
    wait_shown(house, project, new)
    hints = ProjectHints(house.redis)  # showing it is an update, too, and comes after the webhook of the annotation
    wait_until(lambda: (hints.last_webhook(project) or "").startswith("PROJECT_UPDATED"),
               told="told by Label Studio's own webhook")  # fmt: skip


def test_two_projects_with_different_vocabularies_at_once(house: House) -> None:
    one = make_project(house, name="one")
    two = make_project(house, name="two", config=CONFIG.format(more="").replace("red shape", "striped shape"))
    retrieve(house, one)
    retrieve(house, two)
    versions = wait_predicted(house, one), wait_predicted(house, two)
    assert versions[0] != versions[1]
    for project, version in zip((one, two), versions, strict=True):
        assert set(map(tuple, stored(house, project).values())) == {(version,)}


def test_a_poison_image_fails_alone_with_its_reason(house: House) -> None:
    project = make_project(house)
    upload(house, project, [b"\x89PNG not really"])
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=[
        {"image": "http://169.254.169.254/secret"}, {"image": "http://127.0.0.1:1/x.png"}])  # fmt: skip
    retrieve(house, project)
    version = current_version(house, project)
    wait_until(lambda: len(house.pending.failures(project)) == 3, told="three failures")
    wait_until(lambda: sum(version in t.versions for t in tasks(house, project)) == 3, told="three predictions")
    reasons = sorted(house.pending.failures(project).values())
    assert sum("no image format" in reason for reason in reasons) == 1
    assert sum("private address" in reason for reason in reasons) == 2


def test_killed_worker_loses_and_doubles_nothing(house: House) -> None:
    project = make_project(house, count=24, name="killed")
    version = current_version(house, project)
    retrieve(house, project)
    wait_until(lambda: any(version in t.versions for t in tasks(house, project)), told="first prediction")
    killed = house.supervisor.pid("worker")
    os.kill(killed, signal.SIGKILL)
    before = sum(version in t.versions for t in tasks(house, project))
    assert before < 24, "the worker was killed in the middle"
    wait_until(lambda: sum(version in t.versions for t in tasks(house, project)) > before,
               told="work going on after the kill")  # fmt: skip
    # What was on its way when the worker was killed may be stored before another one is started.
    wait_until(lambda: house.supervisor.pid("worker") != killed, told="another worker")
    wait_predicted(house, project)
    assert set(map(tuple, stored(house, project).values())) == {(version,)}


def test_a_project_without_usable_labels_fails_with_the_remedy(house: House) -> None:
    project = make_project(house, count=1)
    retrieve(house, project)
    wait_predicted(house, project)
    config = '<View><Image name="image" value="$image"/><TextArea name="c" toName="image"/></View>'
    house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    upload(house, project, [picture(top=3)])
    retrieve(house, project)
    (row,) = house.label_studio.request("GET", "/api/ml/", params={"project": project})
    assert "no BrushLabels" in row["error_message"]
    assert [len(versions) for versions in stored(house, project).values()] == [1, 0], "the old prediction stays"


def test_personal_access_token_works(house: House) -> None:
    owner = house.label_studio
    owner.request("POST", "/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    with LabelStudio(owner.url, personal_token(owner)) as client:
        project = make_project(house, count=1)
        assert client.project(project).title == "house test"
        assert len(list(client.all_tasks(project))) == 1


def test_a_refused_token_names_the_remedy(house: House) -> None:
    with LabelStudio(house.label_studio.url, "f" * 40) as stranger:
        with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY") as raised:
            stranger.project(1)
        assert raised.value.status == 401


def test_jobs_that_are_not_ours_are_refused_unread(house: House, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    queue = predict_queue(house.redis)
    assert queue.serializer is JSONSerializer
    job = queue.enqueue("os.system", f"touch {target}")
    wait_until(lambda: house.redis.ttl(job.key) > 0, told="refusal")
    assert not target.exists()
    project = make_project(house, count=1)  # and the worker lives
    retrieve(house, project)
    wait_predicted(house, project)


def test_versions_are_remembered_so_that_only_ours_are_replaced(house: House) -> None:
    project = make_project(house, count=1)
    (task,) = tasks(house, project)
    house.label_studio.create_prediction(task.id, [], score=0.5, version="somebody-elses")
    retrieve(house, project)
    wait_predicted(house, project)
    assert "somebody-elses" in stored(house, project)[task.id]
    assert ProjectLedger(house.redis).versions(project) == {current_version(house, project)}


def test_a_task_deleted_in_label_studio_is_forgotten(house: House) -> None:
    project = make_project(house, count=1)
    upload(house, project, [b"\x89PNG not really"])
    retrieve(house, project)
    wait_until(lambda: len(house.pending.failures(project)) == 1, told="failure")
    (failed,) = house.pending.failures(project)
    house.label_studio.request("DELETE", f"/api/tasks/{failed.task}/")
    wait_until(lambda: not house.pending.failures(project), told="told by Label Studio's own webhook")


def test_a_prediction_that_arrived_twice_is_one_again_and_the_annotated_one_stays(house: House) -> None:
    project = make_project(house, count=2)
    retrieve(house, project)
    version = wait_predicted(house, project)
    plain, annotated = tasks(house, project)
    _, made = (house.label_studio.create_prediction(task.id, [], score=0.5, version=version)
               for task in (plain, annotated))  # fmt: skip
    first, second = house.label_studio.predictions(annotated.id)
    late = max(first.id, second.id)
    assert late == made.id
    annotation = {"result": [], "parent_prediction": late}
    house.label_studio.request("POST", f"/api/tasks/{annotated.id}/annotations/", json=annotation)
    for task in (plain, annotated):  # not before: a worker that looks at the project meanwhile would delete one
        ProjectLedger(house.redis).add_unconfirmed(project, TaskRef(version, task.id))
    ProjectHints(house.redis).request_refresh(project)
    wait_until(lambda: stored(house, project) == {plain.id: [version], annotated.id: [version]}, told="one each")
    assert [row.id for row in house.label_studio.predictions(annotated.id)] == [late]


def test_label_studio_tells_how_sure_we_were(house: House) -> None:
    project = make_project(house, count=2)
    retrieve(house, project)
    wait_predicted(house, project)
    wait_until(lambda: house.label_studio.project(project).model_version != "", told="shown version")

    def tells_each() -> bool:
        """A worker that orders the tasks may change both between two looks."""
        found = {task.id: task.score for task in tasks(house, project)}
        kept = {row.task: row.score for task in found for row in house.label_studio.predictions(task)}
        return len(kept) == 2 and found == pytest.approx(kept, abs=1e-3)

    wait_until(tells_each, told="the score of each prediction at its task")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        pytest.param(CONFIG.format(more="").replace('value="$image"', 'valueList="pages"'),
                     "is no variable, which alone can be a list", id="list of images"),
        pytest.param('<View><Image name="i" value="$image"/><Labels name="b" toName="i"><Label value="cat"/></Labels>'
                     "</View>", "has no tag that draws its regions", id="labels alone"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_served_is_refused_at_connecting(house: House, config: str, sentence: str) -> None:
    with pytest.raises(LabelStudioError, match="400") as caught:
        make_project(house, count=0, config=config)
    assert sentence in caught.value.problem


def test_variables_of_the_value_are_filled_in_and_tags_are_read_in_any_case(house: House) -> None:
    project = make_project(house, count=1)
    (task,) = house.label_studio.tasks(project, [row.id for row in tasks(house, project)])
    folder, _, name = str(task.data["image"]).rpartition("/")
    config = CONFIG.format(more="").replace('value="$image"', f'value="{folder}/$file"')
    lower = config.replace("BrushLabels", "brushlabels").replace("<Image", "<image")
    house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"label_config": lower})
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=[{"file": name}])
    retrieve(house, project)
    version = current_version(house, project)
    imported = max(row.id for row in tasks(house, project))
    wait_until(lambda: stored(house, project)[imported] == [version], told="a prediction")
    types = {region["type"] for region in house.label_studio.predictions(imported)[0].result}
    assert types == {"brushlabels", "polygonlabels", "rectanglelabels"}
