"""What each route answers over a real Redis: the contract with Label Studio, a Redis that is gone, one that hangs."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from backend.queue_client import QueueClient
from backend.task_queue import PredictionRequest
from plugin_config.model_version import ModelVersion
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import RefreshProject, TaskRef, predict_queue, refresh_queue
from plugin_config.queue.pending import Lease, PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from tests.backend_client import (
    TOKEN,
    VERSION,
    Client,
    ClientOf,
    answer_of,
    client_fixture,
    client_of_fixture,
    config,
    detail,
    no_more_threads,
    patient_fixture,
    predict_body,
    setup_body,
)
from tests.house import wait_until

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

# All but the histogram of times.
PAGE = f"""\
# HELP zeromask_build_info Release and MODEL of this backend.
# TYPE zeromask_build_info gauge
zeromask_build_info{{model="builtin",version="{version("zeromask")}"}} 1
# HELP zeromask_redis_up Whether Redis answers.
# TYPE zeromask_redis_up gauge
zeromask_redis_up 1
# HELP zeromask_workers Workers seen within the last seconds.
# TYPE zeromask_workers gauge
zeromask_workers 1
# HELP zeromask_workers_in_trouble Those that wait until something is repaired.
# TYPE zeromask_workers_in_trouble gauge
zeromask_workers_in_trouble 0
# HELP zeromask_learners Learners seen within the last seconds.
# TYPE zeromask_learners gauge
zeromask_learners 0
# HELP zeromask_click_workers Workers that answer clicks of smart tools.
# TYPE zeromask_click_workers gauge
zeromask_click_workers 0
# HELP zeromask_queue_tasks Tasks pending or leased, without paused projects: to scale workers by.
# TYPE zeromask_queue_tasks gauge
zeromask_queue_tasks 9
# HELP zeromask_queue_wait_seconds Time since the task that waits longest became due, without paused projects.
# TYPE zeromask_queue_wait_seconds gauge
zeromask_queue_wait_seconds 0
# HELP zeromask_projects Projects that ever requested a task.
# TYPE zeromask_projects gauge
zeromask_projects 1
# HELP zeromask_projects_paused Projects that a person paused.
# TYPE zeromask_projects_paused gauge
zeromask_projects_paused 0
# HELP zeromask_projects_learning_blocked Projects whose learning needs a person.
# TYPE zeromask_projects_learning_blocked gauge
zeromask_projects_learning_blocked 0
# HELP zeromask_tasks_ended_total Tasks predicted or failed since Redis was set up.
# TYPE zeromask_tasks_ended_total counter
zeromask_tasks_ended_total{{outcome="done"}} 0
zeromask_tasks_ended_total{{outcome="failed"}} 0
# HELP zeromask_stage_seconds Time that tasks took at each stage in a worker.
# TYPE zeromask_stage_seconds summary
zeromask_stage_seconds_count{{stage="fetch"}} 0
zeromask_stage_seconds_sum{{stage="fetch"}} 0
zeromask_stage_seconds_count{{stage="embed"}} 0
zeromask_stage_seconds_sum{{stage="embed"}} 0
zeromask_stage_seconds_count{{stage="segment"}} 0
zeromask_stage_seconds_sum{{stage="segment"}} 0
zeromask_stage_seconds_count{{stage="post"}} 0
zeromask_stage_seconds_sum{{stage="post"}} 0
# HELP zeromask_webhooks_dropped_total Webhooks dropped because too many unknown projects waited.
# TYPE zeromask_webhooks_dropped_total counter
zeromask_webhooks_dropped_total 0
# HELP zeromask_tasks Tasks asked for, by project and state.
# TYPE zeromask_tasks gauge
zeromask_tasks{{project="unknown",state="pending"}} 9
zeromask_tasks{{project="unknown",state="leased"}} 0
zeromask_tasks{{project="unknown",state="failed"}} 0
zeromask_tasks{{project="unknown",state="done"}} 0
# HELP zeromask_regions Regions in the annotations last learned from, by what annotators did with them.
# TYPE zeromask_regions gauge
# HELP zeromask_http_requests_total Requests answered.
# TYPE zeromask_http_requests_total counter
zeromask_http_requests_total{{route="/predict",status="200"}} 1
zeromask_http_requests_total{{route="/webhook",status="200"}} 2
zeromask_http_requests_total{{route="/webhook",status="400"}} 1
zeromask_http_requests_total{{route="none",status="404"}} 1
# HELP zeromask_webhooks_total Webhooks accepted.
# TYPE zeromask_webhooks_total counter
zeromask_webhooks_total{{action="PROJECT_UPDATED"}} 1
zeromask_webhooks_total{{action="other"}} 1
# HELP zeromask_outbox_tasks Tasks requested while Redis did not answer, which wait for it.
# TYPE zeromask_outbox_tasks gauge
zeromask_outbox_tasks 0
"""
UP = {"status": "UP", "model_class": "PreannotationBackend", "workers_in_trouble": 0, "tasks_waiting_for_redis": 0,
      "contract": 1}  # fmt: skip


@pytest.fixture
def orphan(settings: Settings, dead_redis_url: str, client_of: ClientOf) -> Client:
    """A backend whose Redis is gone."""
    return client_of(replace(settings, redis_url=dead_redis_url))


@pytest.fixture
def hung(settings: Settings, tmp_path: Path, client_of: ClientOf) -> Iterator[Client]:
    """A backend whose Redis accepts connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen(64)
        yield client_of(replace(settings, redis_url=f"unix://{tmp_path}/mute.sock"))


@pytest.mark.parametrize("path", ["/", "/health"])
def test_health(client: Client, presence: WorkerPresence, path: str) -> None:
    presence.heartbeat("w")
    assert answer_of(client.get(path)) == {**UP, "redis": True, "workers": 1}


def test_setup_tells_the_version_of_the_vocabulary(client: Client) -> None:
    assert answer_of(client.post("/setup", json=setup_body())) == {"model_version": VERSION}
    other = answer_of(client.post("/setup", json=setup_body(schema=config("cat", "dog"))))
    assert other["model_version"] != VERSION


def test_setup_of_a_config_without_labels_says_why_where_label_studio_shows_it(client: Client) -> None:
    schema = '<View><Image name="i" value="$x"/><TextArea name="wähl" toName="i"/></View>'
    response = client.post("/setup", json=setup_body(schema=schema))
    assert response.status_code == 400
    assert "no BrushLabels" in detail(response)
    # Label Studio keeps the status line of an error and nothing of its body.
    assert response.status.startswith("400 labeling config: no BrushLabels")
    assert response.status.isascii()
    assert response.status.isprintable()


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param((), id="none"),
        pytest.param((1,), id="one"),
        pytest.param(tuple(range(1, 6)), id="a handful"),
        pytest.param(tuple(range(1, 101)), id="many"),
        pytest.param((3, 1, 3, 3), id="repeats"),
    ],
)
def test_predict_answers_one_empty_list_per_task_and_asks_for_each_once(
    client: Client, redis: Redis, pending: PendingTasks, tasks: tuple[int, ...]
) -> None:
    client.post("/setup", json=setup_body())  # as Label Studio does before each request that is no test
    response = client.post("/predict", json=predict_body(*tasks))
    assert answer_of(response) == {"results": [[] for _ in tasks], "model_version": VERSION}
    assert pending.counts(7) == Counts(pending=len(set(tasks)), leased=0, failed=0, done=0)
    assert bool(predict_queue(redis).jobs) is bool(tasks)
    client.post("/predict", json=predict_body(*tasks))
    assert pending.counts(7).pending == len(set(tasks))


def test_a_handful_goes_ahead_of_the_bulk(client: Client, pending: PendingTasks) -> None:
    client.post("/predict", json=predict_body(*range(1, 51)))
    client.post("/predict", json=predict_body(40))
    assert pending.take(7, "w", limit=1) == [Lease(TaskRef(VERSION, 40), urgent=True)]


def test_a_click_that_no_worker_answers_is_told_so_and_queues_nothing(client: Client, pending: PendingTasks) -> None:
    body = predict_body(1, params={"context": {"result": []}})
    (found,) = answer_of(client.post("/predict", json=body))["results"]
    assert found["result"] == []
    assert "no worker that answers clicks is running" in found["reason"]
    assert pending.counts(7).pending == 0


@pytest.mark.usefixtures("patient")
def test_a_handful_waits_for_a_living_worker(
    settings: Settings, pending: PendingTasks, presence: WorkerPresence, client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    client, wait_settled = client_of(settings), PendingTasks.wait_settled

    def longer(pending: PendingTasks, project: int, refs: list[TaskRef], *, timeout_s: float) -> bool:
        return wait_settled(pending, project, refs, timeout_s=60)  # than may be set: this machine may be busy

    monkeypatch.setattr(PendingTasks, "wait_settled", longer)
    presence.heartbeat("w")
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            for lease in pending.take(7, "w"):
                pending.done(7, "w", lease.ref)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        client.post("/predict", json=predict_body(1))
        assert pending.counts(7).done == 1, "the answer came before the mask"
    finally:
        over.set()
        worker.join()


@pytest.mark.parametrize(
    ("workers", "tasks", "waits"),
    [
        pytest.param(1, 1, True, id="busy worker"),
        pytest.param(0, 1, False, id="no worker"),
        pytest.param(1, 6, False, id="more than a handful"),
    ],
)
def test_the_wait_is_short(
    client: Client, presence: WorkerPresence, monkeypatch: pytest.MonkeyPatch, workers: int, tasks: int, waits: bool
) -> None:
    waited: list[float] = []
    wait_settled = PendingTasks.wait_settled

    def noting(pending: PendingTasks, project: int, refs: list[TaskRef], *, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return wait_settled(pending, project, refs, timeout_s=timeout_s)

    monkeypatch.setattr(PendingTasks, "wait_settled", noting)
    for number in range(workers):
        presence.heartbeat(f"w{number}")
    started = time.monotonic()
    client.post("/predict", json=predict_body(*range(1, tasks + 1)))
    assert waited == ([0.3] if waits else [])
    if waits:
        assert time.monotonic() - started >= 0.3


def test_two_projects_at_once_keep_their_own_vocabularies(client: Client, pending: PendingTasks) -> None:
    wrong: list[str] = []

    def ask(project: int, schema: str) -> None:
        version = str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(schema)))
        body = {"project": f"{project}.17", "label_config": schema}
        for task in range(1, 31):
            answers = [
                answer_of(client.post("/setup", json=setup_body(project=f"{project}.17", schema=schema))),
                answer_of(client.post("/predict", json=predict_body(task, **body))),
            ]
            wrong.extend(str(answer) for answer in answers if answer["model_version"] != version)
        wrong.extend(str(row) for row in pending.take(project, "w", limit=100) if row.ref.version != version)

    threads = [threading.Thread(target=ask, args=(n, config(*("abcdef"[:n])))) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [pending.counts(n).leased for n in range(1, 5)] == [30] * 4


@pytest.mark.parametrize(
    ("body", "status", "jobs"),
    [
        pytest.param({"action": "PROJECT_UPDATED", "project": {"id": 7, "title": "x"}}, 201, 1, id="project changed"),
        pytest.param({"action": "PROJECT_UPDATED", "project": 7}, 201, 1, id="project by id"),
        pytest.param({"action": "TASKS_DELETED", "project": {"id": 7}, "tasks": [{"id": 1}]}, 201, 1, id="deleted"),
        pytest.param({"action": "TASKS_CREATED", "project": {"id": 7}, "tasks": [{"id": 1}]}, 200, 0, id="created"),
        pytest.param({"action": "SOMETHING_NEW", "project": {"id": 7}}, 200, 0, id="unknown action"),
    ],
)
def test_a_webhook_is_a_hint(
    client: Client, redis: Redis, hints: ProjectHints, body: dict[str, Any], status: int, jobs: int
) -> None:
    redis.sadd("zeromask:projects", 7)
    response = client.post("/webhook", json=body)
    assert (response.status_code, answer_of(response)) == (status, {"status": "ok", "refresh": bool(jobs)})
    assert [RefreshProject.from_json(job.args[0]).project for job in refresh_queue(redis).jobs] == [7] * jobs
    assert (hints.last_webhook(7) or "").startswith(body["action"] + " ")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("prelabel", [True, False])
def test_new_tasks_are_hinted_at_where_that_is_set(
    settings: Settings, redis: Redis, hints: ProjectHints, client_of: ClientOf, prelabel: bool
) -> None:
    redis.sadd("zeromask:projects", 7)
    client = client_of(replace(settings, prelabel=prelabel))
    rows = [{"id": 3}, {"id": 1}, {"id": "4"}, {"id": -5}, {}, 7, None]
    for _ in range(10):  # the same webhook ten times is one look
        client.post("/webhook", json={"action": "TASKS_CREATED", "project": {"id": 7}, "tasks": rows})
    assert hints.hinted_tasks(7, most=10) == ([1, 3, 7] if prelabel else [])
    assert len(refresh_queue(redis)) == int(prelabel)


def test_versions_answers_get_and_post(client: Client, pending: PendingTasks) -> None:
    assert answer_of(client.get("/versions")) == {"versions": []}
    pending.add(8, [TaskRef("older", 1)])
    (lease,) = pending.take(8, "w")
    pending.done(8, "w", lease.ref)
    client.post("/setup", json=setup_body())
    assert answer_of(client.get("/versions")) == {"versions": ["older", VERSION]}, "the newest last"
    assert answer_of(client.get("/versions?project=7.17")) == {"versions": [VERSION]}
    assert answer_of(client.post("/versions", json={"project": "8.17"})) == {"versions": ["older"]}
    assert client.get("/versions?project=x").status_code == 400


def test_no_log_line_holds_a_body_or_a_token(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Token {TOKEN}"}
    bodies = {"/setup": setup_body(), "/predict": predict_body(1, 2), "/webhook": setup_body(action="A")}
    for route, body in bodies.items():
        assert client.post(route, json=body, headers=headers).status_code == 200
    assert "POST /predict 200 project=7 tasks=2 ms=" in caplog.text
    assert TOKEN not in caplog.text
    assert "<View>" not in caplog.text


def test_metrics_are_prometheus_text(client: Client, presence: WorkerPresence) -> None:
    presence.heartbeat("w")
    client.post("/predict", json=predict_body(*range(1, 10)))
    client.post("/webhook", json={"action": "made up", "project": 7})
    client.post("/webhook", json={"action": "MADE_UP", "project": 7})
    client.get("/made/up")
    client.post("/webhook", json={"action": "PROJECT_UPDATED", "project": 7})
    page = client.get("/metrics")
    assert page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(re.sub(r"(?m)^(zeromask_queue_wait_seconds) .+", r"\1 0", page.text))
    times = [family for family in found if family[0] == "zeromask_http_request_seconds"]
    assert [family for family in found if family not in times] == samples(PAGE)
    counts = {row[1:-1]: row[-1] for row in times[0][-1] if row[0].endswith("_count")}
    assert counts == {(("route", "/predict"),): 1, (("route", "/webhook"),): 3, (("route", "none"),): 1}


def test_each_app_has_metrics_of_its_own(settings: Settings, redis: Redis, client_of: ClientOf) -> None:
    first, second = client_of(settings), client_of(settings)
    first.get("/nothing")
    assert "/nothing" not in first.get("/metrics").text
    requests = [row for row in samples(second.get("/metrics").text) if "http_requests_total" in str(row)]
    assert requests == []


def samples(page: str) -> list[tuple[Any, ...]]:
    """A page as a scraper reads it: name, type, help and samples of each family."""
    families = text_string_to_metric_families(page)
    return [(each.name, each.type, each.documentation, sorted((row.name, *row.labels.items(), row.value)
             for row in each.samples)) for each in families]  # fmt: skip


@pytest.mark.parametrize("kind", ["orphan", "hung"])
def test_without_redis_every_route_answers_soon(
    request: pytest.FixtureRequest, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client: Client = request.getfixturevalue(kind)
    asked = Counter[int]()

    def timed(method: str, path: str, most: float, **body: Any) -> Result:
        spent = list[float]()
        while not spent or (min(spent) >= most and len(spent) < 20):  # a busy machine may hold up most of them
            started = time.monotonic()
            response: Result = client.open(path, method=method, **body)
            spent.append(time.monotonic() - started)
            asked.update([len(body.get("json", {}).get("tasks", ()))])
        assert min(spent) < most, path
        return response

    assert answer_of(timed("GET", "/health", 0.2)) == {**UP, "redis": False, "workers": 0}
    assert answer_of(timed("POST", "/setup", 0.2, json=setup_body())) == {"model_version": VERSION}
    assert answer_of(timed("POST", "/predict", 0.6, json=predict_body(1, 2)))["results"] == [[], []]
    assert answer_of(timed("POST", "/predict", 0.6, json=predict_body(*range(1, 100))))["results"] == [[]] * 99
    webhook = {"action": "PROJECT_UPDATED", "project": 7}
    assert answer_of(timed("POST", "/webhook", 0.6, json=webhook)) == {"status": "ok", "refresh": False}
    assert answer_of(timed("GET", "/versions", 0.6)) == {"versions": [VERSION]}
    page = timed("GET", "/metrics", 0.6).text
    assert "zeromask_redis_up 0" in page
    assert re.search("^zeromask_outbox_tasks [1-9]", page, re.MULTILINE)
    assert not re.search("^zeromask_(queue|tasks|workers)", page, re.MULTILINE), "a 0 would scale workers down"
    assert "99 task(s) wait for Redis. Redis: does not answer" in caplog.text
    waiting = sum(tasks * times for tasks, times in asked.items())
    assert answer_of(client.get("/health"))["tasks_waiting_for_redis"] == waiting >= 101


@pytest.mark.usefixtures("patient")
def test_a_redis_that_comes_back_is_used_again(
    settings: Settings, redis_url: str, pending: PendingTasks, client_of: ClientOf, tmp_path: Path
) -> None:
    client = client_of(replace(settings, redis_url=f"unix://{tmp_path}/later.sock"))
    assert answer_of(client.get("/health"))["redis"] is False
    (tmp_path / "later.sock").symlink_to(redis_url.removeprefix("unix://"))
    assert answer_of(client.get("/health"))["redis"] is True
    client.post("/predict", json=predict_body(1))
    assert pending.counts(7).pending == 1


def test_what_was_asked_for_while_redis_was_away_is_asked_for_when_it_is_back(
    settings: Settings, redis: Redis, redis_url: str, pending: PendingTasks, client_of: ClientOf, tmp_path: Path
) -> None:
    client = client_of(replace(settings, redis_url=f"unix://{tmp_path}/later.sock"))
    client.post("/predict", json=predict_body(*range(1, 100)))
    client.post("/predict", json=predict_body(7))
    assert answer_of(client.get("/health"))["tasks_waiting_for_redis"] == 100
    (tmp_path / "later.sock").symlink_to(redis_url.removeprefix("unix://"))
    wait_until(lambda: answer_of(client.get("/health"))["tasks_waiting_for_redis"] == 0)
    assert pending.counts(7).pending == 99
    assert len(predict_queue(redis)) > 0, "and a worker is called"


def test_what_waits_when_the_backend_is_closed_is_asked_for_by_the_next(
    settings: Settings, redis_url: str, pending: PendingTasks, client_of: ClientOf, tmp_path: Path
) -> None:
    away = replace(settings, redis_url=f"unix://{tmp_path}/later.sock")
    with closing(QueueClient(away)) as queues:
        queues.request_predictions(PredictionRequest(7, VERSION, (1, 2, 3)))
    wait_until(lambda: "outbox" not in {thread.name for thread in threading.enumerate()}, told="the sender's end")
    (tmp_path / "later.sock").symlink_to(redis_url.removeprefix("unix://"))
    successor = client_of(away)
    wait_until(lambda: answer_of(successor.get("/health"))["tasks_waiting_for_redis"] == 0)
    assert pending.counts(7).pending == 3


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("full", [False, True], ids=["Redis away", "queue full"])
def test_what_is_neither_requested_nor_kept_is_refused(
    full: bool, settings: Settings, redis: Redis, dead_redis_url: str, client_of: ClientOf,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Label Studio counts as requested what is answered 200."""
    monkeypatch.setattr("backend.outbox.MAX_TASKS", 2)
    monkeypatch.setattr("plugin_config.queue.pending.MOST_PENDING_OF_UNKNOWN", 0)
    client = client_of(settings if full else replace(settings, redis_url=dead_redis_url))
    assert answer_of(client.post("/predict", json=predict_body(1, 2)))["results"] == [[], []]
    waits_for = "room in the queue. project 7: has too many" if full else "Redis. Redis: does not answer"
    assert f"2 task(s) wait for {waits_for}" in caplog.text
    refused = client.post("/predict", json=predict_body(3, 4))
    assert refused.status_code == 503
    assert ("too many tasks pending" if full else "Redis: does not answer") in detail(refused)
    assert "2 task(s) are refused: the outbox is full" in caplog.text
    assert answer_of(client.get("/health"))["tasks_waiting_for_redis"] == 2


def test_the_app_can_be_made_again(settings: Settings, redis: Redis, client_of: ClientOf) -> None:
    first, second = client_of(settings), client_of(settings)
    for client in (first, second):
        assert client.get("/versions").status_code == 200
        assert client.get("/health").status_code == 200


def test_a_machine_that_gives_no_more_threads_for_a_moment_is_asked_again(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(QueueClient(settings)) as queues:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            assert not queues.status().redis
        wait_until(lambda: queues.status().redis)
