"""Webhooks and requests that name projects that do not exist: bounded, looked up apart from the work, and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from redis import Redis
from rq.serializers import JSONSerializer
from rq.worker import DequeueStrategy
from werkzeug.test import Client

from backend.task_queue import PredictionRequest, TaskQueue
from plugin_config.errors import ProjectGone, QueueFull
from plugin_config.queue import hints as hints_module
from plugin_config.queue import pending as pending_module
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import DRAIN_JOB, predict_queue, refresh_queue
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.backend_client import ClientOf, client_fixture, client_of_fixture, patient_fixture, predict_body
from tests.queue_states import make_known, refs
from tests.stand_ins import PROJECT, StandInContext, context_fixture
from worker.service.context import WorkerContext
from worker.service.plain_jobs import PlainQueue
from worker.service.queue_worker import PlainWorker
from worker.service.worker import worker_functions

__all__ = ["client_fixture", "client_of_fixture", "context_fixture", "patient_fixture"]

ACTIONS = ("PROJECT_UPDATED", "ANNOTATION_CREATED", "TASKS_CREATED", "START_TRAINING", "WHATEVER")


def only_ours(context: StandInContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio has one project."""
    plain = context.label_studio.project

    def project(number: int) -> Any:
        if number != PROJECT:
            raise ProjectGone(f"project {number}", "was answered with HTTP 404", "Look there.", status=404)
        return plain(number)

    monkeypatch.setattr(context.label_studio, "project", project)


def work(redis: Redis, context: StandInContext, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A worker serves both queues until they are empty; what it ran, in turn."""
    ran: list[str] = []
    functions = worker_functions(cast("WorkerContext", context), context.pipeline)

    def noted(name: str) -> Callable[[Mapping[str, Any]], None]:
        def run(payload: Mapping[str, Any]) -> None:
            ran.append(f"{'drain' if name == DRAIN_JOB else 'look'} {payload['project']}")
            functions[name](payload)

        return run

    monkeypatch.setattr("signal.signal", lambda *_: None)
    queues = [PlainQueue(queue(redis).name, connection=redis, serializer=JSONSerializer)
              for queue in (predict_queue, refresh_queue)]  # fmt: skip
    worker = PlainWorker(queues, connection=redis, serializer=JSONSerializer)
    worker.functions, worker.stopping = {name: noted(name) for name in functions}, threading.Event()
    worker.work(burst=True, logging_level="WARNING", dequeue_strategy=DequeueStrategy.ROUND_ROBIN)
    return ran


@pytest.mark.usefixtures("patient")
def test_a_flood_of_unknown_projects_neither_fills_the_queue_nor_holds_up_a_task(
    client: Client, redis: Redis, context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_ours(context, monkeypatch)
    make_known(redis, PROJECT)
    for number in range(1000, 1600):
        body = {"action": ACTIONS[number % len(ACTIONS)], "project": {"id": number}, "tasks": [{"id": 1}]}
        assert client.post("/webhook", json=body).status_code in (200, 201, 503)
    assert len(refresh_queue(redis)) <= hints_module.MOST_UNKNOWN
    assert len(predict_queue(redis)) == 0
    assert redis.scard("zeromask:projects") == 1
    assert ProjectHints(redis).refused_count() == 500
    context.ask(1, 2, 3)
    context.pending.ensure_drains(PROJECT)
    ran = work(redis, context, monkeypatch)
    assert f"drain {PROJECT}" in ran[:2], "drains and looks take turns"
    assert context.pipeline.wait_empty(20)
    assert [task for task, _ in context.stored()] == [1, 2, 3]
    assert redis.keys("zeromask:1???:*") == [], "nothing is kept of projects that nobody has"
    assert redis.zcard("zeromask:learn") == redis.zcard("zeromask:unknown") == 0


def test_an_unknown_project_that_is_there_becomes_known(
    redis: Redis, context: StandInContext, hints: ProjectHints
) -> None:
    assert not hints.is_known(PROJECT)
    assert hints.admit(PROJECT)
    ProjectLearning(redis, lease_s=9).request_after_pause(PROJECT, quiet_s=0)
    context.reconcile()
    assert hints.is_known(PROJECT)
    assert ProjectLearning(redis, lease_s=9).due() == [PROJECT]
    assert redis.zcard("zeromask:unknown") == 0


def test_unknown_projects_that_ask_are_swept_and_looked_at_as_others_are(
    redis: Redis, hasty: PendingTasks, hints: ProjectHints
) -> None:
    hasty.add(5, refs(1), bounded=True)
    assert hasty.projects() == [5]
    assert not hints.is_known(5)
    hasty.forget_project(5)
    assert redis.keys("zeromask:5:*") == []
    assert hasty.projects() == []


def test_what_unknown_projects_ask_for_is_bounded_and_the_known_are_served(
    redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_module, "MOST_UNKNOWN", 5)
    monkeypatch.setattr(pending_module, "MOST_PENDING_OF_UNKNOWN", 20)
    make_known(redis, PROJECT)
    for project in range(100, 105):
        assert pending.add(project, refs(1, 2), bounded=True) == 2
    with pytest.raises(QueueFull, match="project 105"):
        pending.add(105, refs(1), bounded=True)
    with pytest.raises(QueueFull, match="project 100"):
        pending.add(100, refs(*range(3, 20)), bounded=True)
    assert pending.add(PROJECT, refs(*range(1, 100)), bounded=True) == 99
    pending.forget_project(100)
    assert pending.add(105, refs(1), bounded=True) == 1


def test_one_project_asks_for_so_many_tasks_and_no_more(
    redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_module, "MOST_PENDING", 10)
    make_known(redis, PROJECT)
    pending.add(PROJECT, refs(*range(1, 9)), bounded=True)
    with pytest.raises(QueueFull):
        pending.add(PROJECT, refs(*range(10, 20)), bounded=True)
    assert pending.add(PROJECT, refs(*range(10, 20))) == 10, "what Label Studio itself lists is not made up"


@pytest.mark.usefixtures("patient")
def test_what_finds_no_room_is_kept_and_asked_for_later(
    settings: Settings, redis: Redis, client_of: ClientOf, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.outbox._RETRY_S", 0.05)
    monkeypatch.setattr(pending_module, "MOST_UNKNOWN", 1)
    pending.add(99, refs(1), bounded=True)
    sent = threading.Event()
    plain = TaskQueue.add_late

    def send(queue: TaskQueue, request: PredictionRequest) -> None:
        plain(queue, request)
        sent.set()

    monkeypatch.setattr(TaskQueue, "add_late", send)
    client = client_of(settings)
    assert client.post("/predict", json=predict_body(*range(1, 9))).status_code == 200
    assert pending.projects() == [99]
    pending.forget_project(99)
    assert sent.wait(60)
    assert pending.counts(7).pending == 8


def test_a_look_that_is_asked_for_while_one_runs_is_not_lost(
    redis: Redis, context: StandInContext, hints: ProjectHints, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    plain = context.label_studio.project

    def project(number: int) -> Any:
        if not asked:
            asked.append(hints.request_refresh(PROJECT))
        return plain(number)

    monkeypatch.setattr(context.label_studio, "project", project)
    assert hints.admit(PROJECT) and hints.request_refresh(PROJECT)
    assert work(redis, context, monkeypatch) == [f"look {PROJECT}"] * 2
    assert asked == [True]
