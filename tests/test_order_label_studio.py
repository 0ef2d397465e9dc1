"""The order that annotators really get from Label Studio: asked for as its page does, task after task."""

from __future__ import annotations

import re
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.next_task import BY_SCORE, DEFAULT_SAMPLING, set_score, view_titles
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import HEAD_BELOW
from tests import order_load
from tests.house import TOKEN, House, tasks
from tests.order_project import CONFIG, OrderedProject
from worker.service import order_writing, ordering
from worker.service.sampling import VIEW_TITLE

COUNT = 8
SCORES = (0.9, 0.2, 0.7, 0.4, 0.8, 0.3, 0.6, 0.5)


@pytest.fixture
def ordered(house: House, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OrderedProject:
    """A project of eight tasks, all predicted and none ordered yet; its predictions are shown."""
    monkeypatch.setattr(order_writing, "WRITING_S", 600.0)  # three seconds are not enough on a busy machine
    api = house.label_studio
    project = int(api.request("POST", "/api/projects/", json={"title": "in order", "label_config": CONFIG})["id"])
    rows = [{"data": {"image": f"http://localhost/{number}.png"}} for number in range(COUNT)]
    api.request("POST", f"/api/projects/{project}/import", json=rows)
    made = OrderedProject(api, redis, tmp_path, project=project)
    for task, score in zip(tasks(house, project), SCORES, strict=True):
        made.store(task.id, score)
    show(made)
    return made


def show(ordered: OrderedProject) -> None:
    """What follows the first stored prediction of a version."""
    ordered.label_studio.show_version(ordered.project, ordered.version)
    ProjectLedger(ordered.redis).set_shown_version(ordered.project, ordered.version)


def next_task(ordered: OrderedProject, **displayed: Any) -> int:
    """What the page asks for at "Label All Tasks"; at "Label Tasks As Displayed" it sends the view along."""
    params = {"id": "next_task", "project": ordered.project}
    return int(ordered.label_studio.request("POST", "/api/dm/actions/", params=params, json=displayed)["id"])


def annotate(ordered: OrderedProject, task: int, **more: Any) -> None:
    ordered.label_studio.request("POST", f"/api/tasks/{task}/annotations/", json={"result": [], **more})


def label_next(ordered: OrderedProject, count: int) -> list[int]:
    """Annotate one task after the other, as they come."""
    got = []
    for _ in range(count):
        got.append(next_task(ordered))
        annotate(ordered, got[-1])
    return got


def sampling(ordered: OrderedProject) -> str:
    return str(ordered.label_studio.project(ordered.project).sampling)


def scores(ordered: OrderedProject) -> dict[int, float | None]:
    return {task.id: task.score for task in ordered.label_studio.all_tasks(ordered.project)}


def test_the_order_is_ours_before_and_after_a_promotion(ordered: OrderedProject) -> None:
    assert sampling(ordered) == DEFAULT_SAMPLING
    ordered.keep()
    first = ordered.head()
    assert len(first) == COUNT
    assert first != sorted(first), "else nothing tells it from the default order"
    assert label_next(ordered, 3) == first[:3]
    ordered.keep()
    second = ordered.head()
    assert sorted(second) == sorted(first[3:])
    assert label_next(ordered, 1) == second[:1]
    ordered.version = "v2"  # promoted: each open task is predicted again, and its older prediction deleted
    for task in reversed(second[1:]):
        older = ordered.label_studio.predictions(task)
        ordered.store(task, 0.5)
        for row in older:
            ordered.label_studio.delete_prediction(row.id)
    show(ordered)
    assert label_next(ordered, 1) == second[1:2], "stored in their places, before the order is set again"
    ordered.keep()
    third = ordered.head()
    assert sorted(third) == sorted(second[2:])
    assert label_next(ordered, len(third)) == third
    assert ordered.order.remark(ordered.project) == ""


def test_a_sampling_that_a_person_chose_is_left_alone_and_the_scores_come_back(ordered: OrderedProject) -> None:
    ordered.keep()
    assert sampling(ordered) == BY_SCORE
    assert all(score is not None and score < HEAD_BELOW for score in scores(ordered).values())
    body = {"sampling": DEFAULT_SAMPLING}
    ordered.label_studio.request("PATCH", f"/api/projects/{ordered.project}/", json=body)
    ordered.keep()
    ordered.keep()
    assert sampling(ordered) == DEFAULT_SAMPLING
    assert list(scores(ordered).values()) == list(SCORES)
    assert ordered.order.remark(ordered.project) == (
        "the order of tasks is left alone: a person chose 'Sequential sampling'"
    )
    ids = sorted(scores(ordered))
    assert label_next(ordered, 2) == ids[:2]


def test_another_sampling_at_first_sight_is_a_persons(ordered: OrderedProject) -> None:
    body = {"sampling": "Uniform sampling"}
    ordered.label_studio.request("PATCH", f"/api/projects/{ordered.project}/", json=body)
    ordered.keep()
    assert sampling(ordered) == "Uniform sampling"
    assert list(scores(ordered).values()) == list(SCORES)


def test_the_view_is_made_once_beside_those_of_people_and_shows_the_same_order(ordered: OrderedProject) -> None:
    api, project = ordered.label_studio, ordered.project
    ordered.keep()
    assert view_titles(api, project) == [], "the first one would hide Label Studio's own"
    theirs = {"title": "Default", "ordering": ["-tasks:id"]}
    api.request("POST", "/api/dm/views/", json={"project": project, "data": theirs})
    ordered.keep()
    ordered.keep()
    assert view_titles(api, project) == ["Default", VIEW_TITLE]
    found = {row["data"]["title"]: row for row in api.request("GET", "/api/dm/views/", params={"project": project})}
    assert found["Default"]["data"] == theirs
    view = found[VIEW_TITLE]
    rows = api.request("GET", "/api/tasks/", params={"view": view["id"], "project": project})["tasks"]
    assert [row["id"] for row in rows] == ordered.head()
    displayed = {"ordering": view["data"]["ordering"], "filters": view["data"]["filters"]}
    assert next_task(ordered, **displayed) == ordered.head()[0]
    assert next_task(ordered, ordering=theirs["ordering"], filters={"conjunction": "and", "items": []}) == max(
        ordered.head()
    )
    api.request("DELETE", f"/api/dm/views/{view['id']}/")
    ordered.keep()
    assert view_titles(api, project) == ["Default"], "deleted by a person"


def test_skipped_tasks_and_deleted_predictions_have_no_place(ordered: OrderedProject) -> None:
    ordered.keep()
    skipped, deleted = ordered.head()[:2]
    annotate(ordered, skipped, was_cancelled=True)
    for row in ordered.label_studio.predictions(deleted):
        ordered.label_studio.delete_prediction(row.id)
    ordered.keep()
    assert scores(ordered)[skipped] == SCORES[sorted(scores(ordered)).index(skipped)], "for others, by its own score"
    annotate(ordered, ordered.head()[-1])
    ordered.keep()
    assert skipped not in ordered.head()
    assert label_next(ordered, 2) == [task for task in ordered.head() if task != deleted][:2]


def test_two_annotators_get_different_tasks_in_the_same_order(ordered: OrderedProject) -> None:
    ordered.keep()
    first, second, third = ordered.head()[:3]
    with closing(another_annotator(ordered.label_studio)) as other:
        assert next_task(ordered) == first
        assert ask_as(other, ordered) == second, "the first one is open at another's"
        annotate(ordered, first)
        answer = other.post(f"/api/tasks/{second}/annotations/", json={"result": []})
        assert answer.status_code == 201, answer.text
        assert ask_as(other, ordered) == third
        ordered.keep()
        assert next_task(ordered) == next(task for task in ordered.head() if task != third)


def ask_as(client: httpx.Client, ordered: OrderedProject) -> int:
    params: dict[str, str | int] = {"id": "next_task", "project": ordered.project}
    return int(client.post("/api/dm/actions/", params=params, json={}).json()["id"])


def another_annotator(api: LabelStudio) -> httpx.Client:
    """A browser in which somebody signed up who was invited."""
    invited = api.request("GET", "/api/invite")
    browser = httpx.Client(base_url=api.url, follow_redirects=True, headers={"Referer": api.url}, timeout=60)
    page = browser.get("/user/signup/", params={"token": invited["token"]})
    secret = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert secret is not None
    form = {
        "csrfmiddlewaretoken": secret[1], "email": f"{uuid.uuid4().hex}@example.com", "password": uuid.uuid4().hex,
        "how_find_us": "other", "elaborate": "-",
    }  # fmt: skip
    browser.post("/user/signup/", params={"token": invited["token"]}, data=form)
    browser.headers["X-CSRFToken"] = browser.cookies["csrftoken"]
    return browser


def test_thousands_of_tasks_are_ordered_with_few_requests(
    house: House, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tests.order_load` does the same with 100,000."""
    monkeypatch.setattr(ordering, "HEAD", 12)
    monkeypatch.setattr(order_writing, "WRITING_S", 600.0)
    database = house.settings.state_path / "label-studio" / order_load.DATABASE
    with closing(order_load.CountedLabelStudio(house.label_studio.url, TOKEN)) as api:
        made = order_load.load(api, redis, tmp_path, database, tasks=3000, corrected=700)
        api.asked.clear()
        made.keep()
        assert len(made.head()) == 12
        assert api.requests <= 12 + 8, api.asked  # two pages of annotated tasks
        assert label_next(made, 2) == (first := made.head())[:2]
        api.asked.clear()
        made.keep()
        assert made.head()[:5] != first[:5]
        assert len(api.asked.get("PATCH /api/predictions/N/", [])) <= 4
        assert label_next(made, 1) == made.head()[:1]
        assert sampling(made) == BY_SCORE


def test_label_studio_keeps_what_a_prediction_may_have_missed(ordered: OrderedProject) -> None:
    api, task = ordered.label_studio, min(scores(ordered))
    made = [api.create_prediction(task, [], score=0.7, version="v", missed=missed) for missed in (0.25, 0.0, None)]
    set_score(api, made[0].id, 1e-5)
    stored = {row.id: row.missed for row in api.predictions(task)}
    assert [stored[row.id] for row in made] == [0.25, 1e-6, None]
    assert [row.missed for row in made] == [0.25, 1e-6, None]
