"""What the backend does for learning: hints about annotations, the button, the version that names what is served."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from plugin_config.errors import QueueUnavailable
from plugin_config.model_version import ModelVersion
from plugin_config.queue.hints import MOST_UNKNOWN, ProjectHints
from plugin_config.queue.jobs import TaskRef, predict_queue
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.versions.verdicts import LastVerdict, write_verdict
from tests.backend_client import (
    VERSION,
    Client,
    ClientOf,
    answer_of,
    client_fixture,
    client_of_fixture,
    detail,
    patient_fixture,
    predict_body,
    setup_body,
)
from tests.queue_states import time_passes

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "action", ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"]
)
def test_a_changed_annotation_is_looked_at_after_a_pause(
    settings: Settings, redis: Redis, hints: ProjectHints, client_of: ClientOf, action: str
) -> None:
    client, learning = client_of(replace(settings, finetune_quiet_s=100)), ProjectLearning(redis, lease_s=9)
    for _ in range(3):
        response = client.post("/webhook", json={"action": action, "project": {"id": 7}, "annotation": {"id": 1}})
        assert (response.status_code, answer_of(response)) == (201, {"status": "ok", "refresh": True})
    assert len(predict_queue(redis)) == 0
    assert learning.due() == []
    time_passes(redis, 101)
    assert learning.due() == [7]
    assert (hints.last_webhook(7) or "").startswith(action + " ")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        pytest.param("/webhook", {"action": "START_TRAINING", "project": {"id": 7}}, id="the button"),
        pytest.param("/train", {"annotations": [], "project": "7.17"}, id="as before Label Studio 1.4.1"),
    ],
)
def test_the_button_learns_now_and_names_its_job(client: Client, redis: Redis, route: str, body: Any) -> None:
    learning = ProjectLearning(redis, lease_s=9)
    response = client.post(route, json=body)
    assert response.status_code == 201
    answer = answer_of(response)
    assert "No learner runs" in answer.pop("detail")
    assert answer == {"status": "ok", "refresh": True, "job": "learn-7"}
    visit = learning.begin(7, "me")
    assert visit is not None
    assert visit.immediate
    assert answer_of(client.get("/is_training?project=7.17")) == {"is_training": False}
    learning.set_progress(7, Progress("learning", "reads", "now"))
    assert answer_of(client.get("/is_training?project=7")) == {"is_training": True}


def test_the_button_says_what_happens_next(client: Client, redis: Redis) -> None:
    def pressed() -> str:
        response = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 7}})
        return str(answer_of(response)["detail"])

    WorkerPresence(redis, learners=True).heartbeat("learner")
    assert "they follow by themselves" in pressed()
    owner = Owner("http://ls", 7, "", "builtin")
    write_verdict(redis, owner, LastVerdict("2026-11-30", promoted=False, reason="kept: no better.", source="s"))
    assert "The last verdict, of 2026-11-30: kept: no better." in pressed()
    ProjectLearning(redis, lease_s=9).set_progress(7, Progress("learning", "reads 9 images", "now"))
    assert "A learner is at this project (reads 9 images)" in pressed()


def test_the_button_says_when_it_did_nothing(settings: Settings, dead_redis_url: str, client_of: ClientOf) -> None:
    client = client_of(replace(settings, redis_url=dead_redis_url))
    response = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 7}})
    assert response.status_code == 503
    assert "Redis" in detail(response)


@pytest.mark.usefixtures("patient")
def test_the_version_names_what_is_served_also_while_redis_is_away(
    settings: Settings, redis: Redis, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, served = client_of(settings), ServedAdapters(redis)
    owner = Owner("http://ls", 7, "2026", "builtin")
    served.write(7, ServedCopy("a3-123456", 3, "/versions", owner, learned="+9 corrected", made="2026-11-29"))
    identity = parsed(VERSION).identity.replace("zeroshot", "a3-123456")
    expected = f"builtin v003 +9 corrected (2026-11-29 {identity}) v003"
    assert answer_of(client.post("/setup", json=setup_body())) == {"model_version": expected}

    def away(*_: Any) -> str:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    monkeypatch.setattr(ServedAdapters, "copy", away)
    assert answer_of(client.post("/setup", json=setup_body())) == {"model_version": expected}
    other = setup_body(project="8.17")
    assert answer_of(client.post("/setup", json=other)) == {"model_version": VERSION}, "another project learns nothing"


@pytest.mark.usefixtures("patient")
def test_predictions_of_an_earlier_release_keep_the_version_they_carry(client: Client, redis: Redis) -> None:
    former = parsed(VERSION).identity
    ProjectLedger(redis).start_rollout(7, former)
    assert answer_of(client.post("/setup", json=setup_body())) == {"model_version": former}
    ServedAdapters(redis).write(7, ServedCopy("a3-123456", 3, "/versions", Owner("http://ls", 7, "2026", "builtin")))
    assert answer_of(client.post("/setup", json=setup_body()))["model_version"].startswith("builtin v003 learned (")


def parsed(version: str) -> ModelVersion:
    found = ModelVersion.parse(version)
    assert found is not None
    return found


@pytest.mark.parametrize("copy", [b"\xff", b"[" * 100_000, b'{"served": 1}', b'{"served": "zeroshot", "newer": 1}'])
def test_a_damaged_or_newer_copy_is_served_as_if_nothing_were_known(client: Client, redis: Redis, copy: bytes) -> None:
    redis.hset("zeromask:7:adapters", "builtin", copy)
    response = client.post("/setup", json=setup_body())
    assert (response.status_code, answer_of(response)) == (200, {"model_version": VERSION})
    response = client.post("/predict", json=predict_body(*range(1, 9)))
    assert (response.status_code, answer_of(response)["model_version"]) == (200, VERSION)


def test_too_many_unknown_projects_are_no_trouble_of_redis(client: Client, hints: ProjectHints) -> None:
    for project in range(1, MOST_UNKNOWN + 1):
        assert hints.admit(project)
    response = client.post("/train", json={"project": MOST_UNKNOWN + 1})
    assert response.status_code == 503
    assert detail(response).startswith(f"project {MOST_UNKNOWN + 1}: waits behind too many unknown projects")


def test_metrics_tell_what_annotators_did_with_regions(client: Client, redis: Redis, pending: PendingTasks) -> None:
    pending.add(7, [TaskRef("v1", 1)])
    owner = Owner("http://ls", 7, "2026", "builtin")
    labels = {f"label {number}": {"accepted": number, "changed": 0, "deleted": 1, "added": 2} for number in range(120)}
    labels['a "b"\n<c>'] = {"accepted": 500, "changed": 0, "deleted": 0, "added": 0}
    ServedAdapters(redis).write_outcomes(owner, labels)
    page = client.get("/metrics").text
    assert 'zeromask_regions{label="label 119",model="builtin",outcome="accepted",project="7"} 119.0\n' in page
    assert r'zeromask_regions{label="a \"b\"\n<c>",model="builtin",outcome="accepted",project="7"} 500.0' in page
    assert page.count("\nzeromask_regions{") == 400, "those of the labels with most regions"
    redis.hset("zeromask:7:outcomes", "builtin", b'{"cat": {"accepted": -1}}')
    assert "\nzeromask_regions{" not in client.get("/metrics").text
