"""Nothing is silent inside a real Label Studio: what its pages show of labels that the model cannot read."""

from __future__ import annotations

from typing import Any

from plugin_config.queue.jobs import RefreshProject, enqueue, refresh_queue
from plugin_config.queue.titles import titles
from tests.corrections import strange_project
from tests.house import House, retrieve, stored, tasks, wait_open_page, wait_predicted, wait_shown, wait_until


def test_labels_of_unknown_words_are_told_on_the_card_in_the_test_request_and_by_the_score(house: House) -> None:
    project = strange_project(house, count=2, name="quiet")
    retrieve(house, project)
    version = wait_predicted(house, project)
    assert version.startswith("builtin v000 zero-shot (builtin-zeroshot-"), "what the tab of a prediction shows"
    assert {name for names in stored(house, project).values() for name in names} == {version}
    predictions = [row for task in tasks(house, project) for row in house.label_studio.predictions(task.id)]
    assert [list(row.result) for row in predictions] == [[], []]
    scores = [row.score for row in predictions]
    assert all(score is not None and score < 0.01 for score in scores), "no sure nothing: 0, or a place in the order"

    def card() -> Any:
        (row,) = house.label_studio.request("GET", "/api/ml/", params={"project": project})
        return row

    def is_told() -> bool:
        """Asking makes Label Studio store the title it had: the worker's may be lost, and is written again."""
        enqueue(refresh_queue(house.redis), RefreshProject(project=project))
        return "does not know" in card()["title"]

    wait_until(is_told, told="the card")
    assert card()["title"].startswith("Zeromask ▸ labels 'wug', 'dax' and 'fep': model builtin does not know")
    assert card()["readable_state"] == "Connected"
    wait_shown(house, project, version)
    path = f"/api/ml/{card()['id']}/predict/test"
    wait_open_page(house, project)
    (answer,) = house.label_studio.request("POST", path, params={"random": "true"})["response"]
    assert "does not know" in answer["reason"]
    assert titles(house.redis, [project]) == {project: "house quiet"}
