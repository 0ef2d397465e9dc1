"""Clicks between backend and worker over a real Redis: what is asked, taken, answered, and what anyone may write."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backend.clicks import MOST_WAITING
from backend.server.connections import ConnectionLimits
from plugin_config.errors import JobError, QueueFull
from plugin_config.queue import clicks
from plugin_config.queue.clicks import ClickAnswer, ClickQueue, ClickRequest
from plugin_config.queue.contract import CONTRACT
from plugin_config.queue.keys import CONTRACTS
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from tests.backend_client import (
    VERSION,
    Client,
    ClientOf,
    answer_of,
    client_fixture,
    client_of_fixture,
    config,
    patient_fixture,
    predict_body,
    setup_body,
)
from tests.served_backend import backend

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

REGION = {"id": "abcdefghij", "type": "brushlabels", "from_name": "b", "to_name": "i", "value": {"rle": [1, 2]}}
LARGE = {**REGION, "value": {"rle": [7] * 90_000}}
POINT = {"id": "p1", "type": "keypointlabels", "from_name": "k", "to_name": "i", "value": {"x": 10, "y": 20}}


def request(number: int = 1, **changes: Any) -> ClickRequest:
    made = ClickRequest(f"{number:032x}", "mask", 7, number, VERSION, "00ff", (POINT,), (REGION,))
    return replace(made, **changes)


def click_body(task: int = 5, *, inside: dict[str, Any] | None = None, **context: Any) -> dict[str, Any]:
    """The body of a click; `inside`: what its task holds."""
    body = predict_body(task)
    body["tasks"][0] |= inside or {}
    body["params"]["context"] = {"result": [POINT], **context}
    return body


@contextmanager
def answering(redis_url: str, *, seconds: float = 0.0) -> Iterator[list[ClickRequest]]:
    """A worker that answers each click with a region that names its task; yields the clicks it took."""
    redis, taken, over = Redis.from_url(redis_url), list[ClickRequest](), threading.Event()
    queue, presence = ClickQueue(redis), WorkerPresence(redis, clickers=True)

    def work() -> None:
        while not over.is_set():
            presence.heartbeat("me")
            found = queue.take(timeout_s=0.05)
            if found is not None:
                taken.append(found)
                time.sleep(seconds)
                queue.answer(found.id, ClickAnswer([{**REGION, "task": found.task}], 0.5, found.version))

    presence.heartbeat("me")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()
        redis.close()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a click is waited for."""
    monkeypatch.setattr(ClickQueue, "wait", lambda *_, **__: pytest.fail("nobody will answer this click"))


@pytest.fixture(name="queue")
def queue_fixture(redis: Redis) -> ClickQueue:
    WorkerPresence(redis, clickers=True).heartbeat("me")
    return ClickQueue(redis)


def test_a_click_is_taken_once_and_its_answer_reaches_the_one_who_asked(queue: ClickQueue, redis: Redis) -> None:
    assert queue.ask(request(1), patience_s=5)
    assert queue.ask(request(2), patience_s=5)
    assert queue.waiting() == 2
    assert [queue.take(timeout_s=1), queue.take(timeout_s=1)] == [request(1), request(2)]
    assert queue.take(timeout_s=0.01) is None
    queue.answer(request(2).id, ClickAnswer([REGION], 0.25, VERSION))
    queue.answer(request(1).id, ClickAnswer(reason="not here"))
    assert queue.wait(request(1).id, timeout_s=1) == ClickAnswer((), 0.0, "", "not here")
    assert queue.wait(request(2).id, timeout_s=1) == ClickAnswer((REGION,), 0.25, VERSION)
    assert queue.wait(request(2).id, timeout_s=0.01) is None
    queue.answer(request(3).id, ClickAnswer())
    [left] = redis.keys("zeromask:clicks*")
    assert 0 < redis.ttl(left) <= 30, "an answer for which nobody waits goes by itself"


def test_without_a_worker_that_answers_clicks_nothing_is_queued(redis: Redis) -> None:
    WorkerPresence(redis).heartbeat("one that predicts only")
    queue = ClickQueue(redis)
    assert queue.ask(request(), patience_s=5) is False
    assert queue.waiting() == 0


def test_so_many_clicks_wait_and_no_more(queue: ClickQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "MOST_WAITING", 2)
    for number in (1, 2):
        assert queue.ask(request(number), patience_s=5)
    with pytest.raises(QueueFull, match="2 wait already"):
        queue.ask(request(3), patience_s=5)


def test_a_click_for_which_nobody_waits_any_more_is_dropped(queue: ClickQueue) -> None:
    queue.ask(request(1), patience_s=0.02)
    queue.ask(request(2), patience_s=60)
    time.sleep(0.05)
    taken = [queue.take(timeout_s=0.01), queue.take(timeout_s=0.01)]
    assert sorted(taken, key=str) == [request(2), None], "the list of clicks may be gone as a whole, too"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"|", b"99999999999999|", b"99999999999999|[]", b'99999999999999|{"id":1}', b"no|{}",
        b"99999999999999|" + json.dumps({**dict.fromkeys(("id", "kind", "version", "config"), "x"), "project": 1,
                                         "task": 1, "prompts": [], "drawn": []}).encode(),
    ],
)  # fmt: skip
def test_what_nobody_here_wrote_is_dropped_with_a_sentence(queue: ClickQueue, redis: Redis, content: bytes) -> None:
    redis.rpush("zeromask:clicks", content)
    with pytest.raises(JobError, match="look who else"):
        queue.take(timeout_s=0.1)
    redis.rpush(f"zeromask:clicks:{request().id}", content)
    assert queue.wait(request().id, timeout_s=0.1) is None


ROOT = Path(__file__).parent.parent
NEXT = CONTRACT + 1
NEWER = """
import sys
from tests.next_contract import raise_contract

raise_contract()

from redis import Redis
from plugin_config.errors import JobError
from plugin_config.queue.clicks import ClickQueue
from tests.test_click_requests import request

queue = ClickQueue(Redis.from_url(sys.argv[1]))
if sys.argv[2] == "ask":
    try:
        print(queue.ask(request(int(sys.argv[3])), patience_s=60))
    except JobError as error:
        print(error)
else:
    found = queue.take(timeout_s=2)
    print(found and found.task)
"""
"""A part of the next contract asks for, or takes, a click."""


@pytest.fixture
def newer(redis_url: str, redis: Redis) -> Callable[..., str]:
    presence = WorkerPresence(redis, clickers=True)

    def run(*arguments: str) -> str:
        command = [sys.executable, "-c", NEWER, redis_url, *arguments]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            while True:
                for worker in presence.workers():  # a start may take longer than a worker lives without a sign of it
                    presence.heartbeat(worker.name, worker.about)
                with suppress(subprocess.TimeoutExpired):
                    told, _ = process.communicate(timeout=1)
                    break
        assert process.returncode == 0
        return str(told).strip()

    return run


def clicker(redis: Redis, contract: int) -> None:
    """A worker of a contract says that it answers clicks."""
    WorkerPresence(redis, clickers=True).heartbeat(f"of contract {contract}", {"contract": str(contract)})


def test_a_newer_click_is_left_to_newer_workers_and_without_any_the_asker_is_told(
    queue: ClickQueue, redis: Redis, newer: Callable[..., str]
) -> None:
    told = f"click: needs a worker of contract {NEXT}, and all that answer clicks are older. Upgrade the workers."
    assert newer("ask", "1") == told
    assert not redis.exists(f"zeromask:clicks-{NEXT}")
    clicker(redis, NEXT)
    assert newer("ask", "2") == "True"
    assert queue.ask(request(3), patience_s=60)
    assert queue.take(timeout_s=0.1) == request(3)
    assert queue.take(timeout_s=0.1) is None
    assert queue.ask(request(4), patience_s=60)
    assert [newer("take"), newer("take")] == ["2", "4"], "those of older contracts it takes, too, later"


def test_an_older_click_about_a_project_of_newer_parts_is_left_to_newer_workers(
    queue: ClickQueue, redis: Redis, newer: Callable[..., str]
) -> None:
    redis.hset(CONTRACTS, "7", NEXT)
    with pytest.raises(JobError, match=f"needs a worker of contract {NEXT}"):
        queue.ask(request(1), patience_s=60)
    clicker(redis, NEXT)
    assert queue.ask(request(1), patience_s=60)
    assert queue.ask(request(2, project=8), patience_s=60)
    left = [queue.take(timeout_s=0.1) for _ in range(4)]
    assert [found for found in left if found] == [request(2, project=8)]
    assert queue.waiting() == 1
    assert 0 < redis.pttl("zeromask:clicks") <= 60_000
    assert newer("take") == "1"


def test_a_click_that_is_left_is_dropped_when_nobody_waits_any_more(queue: ClickQueue, redis: Redis) -> None:
    clicker(redis, NEXT)
    redis.hset(CONTRACTS, "7", NEXT)
    assert queue.ask(request(1), patience_s=0.3)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert queue.take(timeout_s=0.1) is None
    assert queue.waiting() == 0


def test_the_annotator_is_told_that_only_older_workers_answer(
    client: Client, queue: ClickQueue, redis: Redis, no_wait: None
) -> None:
    redis.hset(CONTRACTS, "7", NEXT)
    [answer] = answer_of(client.post("/predict", json=click_body()))["results"]
    assert (answer["result"], "Upgrade the workers" in answer["reason"]) == ([], True)
    assert [row.reason for row in queue.unanswered(5)] == [answer["reason"]]


def test_a_key_of_another_type_is_set_aside(queue: ClickQueue, redis: Redis) -> None:
    redis.set("zeromask:clicks", "x")
    assert queue.ask(request(), patience_s=5)
    assert queue.take(timeout_s=0.1) == request()


def test_the_last_clicks_without_a_mask_are_kept(queue: ClickQueue, redis: Redis) -> None:
    for number in range(105):
        queue.note_unanswered(7, number + 1, f"reason {number}")
    assert (redis.llen("zeromask:unanswered"), queue.unanswered(1)[0].reason) == (100, "reason 104")
    redis.lpush("zeromask:unanswered", "{}")
    assert [row.task for row in queue.unanswered(3)] == [105, 104]


def test_a_click_is_answered_in_the_request(client: Client, redis_url: str) -> None:
    with answering(redis_url) as taken:
        found = answer_of(client.post("/predict", json=click_body(5)))
    [answer] = found["results"]
    assert answer == {"result": [{**REGION, "task": 5}], "score": 0.5, "model_version": VERSION}
    assert (taken[0].project, taken[0].task, taken[0].version, taken[0].prompts) == (7, 5, VERSION, (POINT,))


def test_two_users_get_each_their_own(client: Client, redis_url: str) -> None:
    with answering(redis_url, seconds=0.01), ThreadPoolExecutor(8) as users:
        found = users.map(lambda task: answer_of(client.post("/predict", json=click_body(task))), range(1, 41))
        assert [row["results"][0]["result"][0]["task"] for row in found] == list(range(1, 41))


@pytest.mark.parametrize(
    ("inside", "drawn"),
    [
        pytest.param({"predictions": [{"model_version": VERSION, "result": [REGION]}, {}]}, 1, id="predicted"),
        pytest.param({"predictions": [{"result": [REGION]}], "annotations": [{"result": []}]}, 0, id="annotated"),
        pytest.param({"drafts": [{"updated_at": "2026-01-02", "result": [REGION, REGION]},
                                 {"updated_at": "2026-01-01", "result": [REGION]}]}, 2, id="the newest draft"),
        pytest.param({"drafts": [{"updated_at": "2026-01-02", "result": []},
                                 {"updated_at": "2026-01-01", "result": [REGION]}]}, 0, id="the newest is empty"),
        pytest.param({"drafts": [{"updated_at": "2026-01-01", "result": [LARGE] * 9},
                                 {"updated_at": "2026-01-02", "result": [LARGE] * 3}]}, 3, id="after a large one"),
        pytest.param({"predictions": [{"model_version": "other", "result": [LARGE] * 9},
                                      {"model_version": VERSION, "result": [LARGE] * 3}]}, 3, id="after another's"),
        pytest.param({"predictions": [{"model_version": VERSION, "result": [LARGE] * 3},
                                      *[{"model_version": "other", "result": [REGION]}] * 9]}, 3, id="before others"),
        pytest.param({"predictions": [{"model_version": "other", "result": [LARGE]},
                                      {"model_version": "builtin-zeroshot-0123abcd", "result": [REGION] * 2}]},
                     2, id="a former one of ours"),
        pytest.param({"predictions": [{"model_version": "other", "result": [REGION]}] * 9}, 1, id="others alone"),
        pytest.param({"drafts": [3], "predictions": 3, "annotations": {}}, 0, id="ids"),
        pytest.param({"drafts": [{"result": [REGION, 3, {"value": 3}, None]}]}, 1, id="odd regions"),
        pytest.param({"drafts": [{"result": [{**REGION, "value": {"rle": [7] * 400_000}}, REGION]}]}, 1, id="vast"),
        pytest.param({"drafts": [{"result": [LARGE] * 10}]}, 7, id="many large"),
    ],
)  # fmt: skip
def test_what_is_drawn_comes_along_bounded(
    client_of: ClientOf, settings: Settings, redis: Redis, redis_url: str, patient: None, inside: Any, drawn: int
) -> None:
    with answering(redis_url) as taken:
        body = click_body(5, inside=inside)
        answer = answer_of(client_of(replace(settings, max_body_mb=64)).post("/predict", json=body))
    assert answer["results"][0]["result"]
    assert len(taken[0].drawn) == drawn


@pytest.mark.parametrize(
    "context",
    [{"result": []}, {"result": None}, {"result": [3, "x", {}]}, {"other": 1}, {}, [], 0, "x", True],
    ids=str,
)
def test_any_context_is_a_click(client: Client, redis_url: str, context: Any) -> None:
    body = click_body()
    body["params"]["context"] = context
    with answering(redis_url) as taken:
        assert answer_of(client.post("/predict", json=body))["results"][0]["result"]
    assert taken[0].prompts == ()


def test_a_click_without_a_task_is_answered(client: Client, redis: Redis) -> None:
    assert answer_of(client.post("/predict", json={**click_body(), "tasks": []}))["results"] == []


def test_without_a_worker_it_is_said_at_once(client: Client, redis: Redis, no_wait: None) -> None:
    [answer] = answer_of(client.post("/predict", json=click_body()))["results"]
    assert (answer["result"], answer["model_version"]) == ([], VERSION)
    assert "no worker" in answer["reason"]
    [noted] = ClickQueue(redis).unanswered(5)
    assert (noted.project, noted.task, noted.reason) == (7, 5, answer["reason"])


def test_a_worker_that_died_costs_the_patience_and_no_more(
    client_of: ClientOf, settings: Settings, redis: Redis, patient: None
) -> None:
    WorkerPresence(redis, clickers=True).heartbeat("dead since a second")
    started = time.monotonic()
    [answer] = answer_of(client_of(replace(settings, click_wait_s=1.0)).post("/predict", json=click_body()))["results"]
    assert 1 <= time.monotonic() - started < 20, "which is the patience where nothing else is set"
    assert (answer["result"], "within 1 s" in answer["reason"]) == ([], True)


def test_without_redis_a_click_is_empty(client_of: ClientOf, settings: Settings, dead_redis_url: str) -> None:
    client = client_of(replace(settings, redis_url=dead_redis_url))
    [answer] = answer_of(client.post("/predict", json=click_body()))["results"]
    assert (answer["result"], answer["reason"]) == ([], "Redis does not answer.")


def test_five_hundred_clicks_at_once(settings: Settings, redis: Redis, redis_url: str, patient: None) -> None:
    settings = replace(settings, click_wait_s=25.0)  # less than the patience of each user here, who hears of it
    with (
        answering(redis_url, seconds=0.01) as taken, backend(settings, limits=ConnectionLimits()) as running,
        ThreadPoolExecutor(500) as users,
    ):  # fmt: skip
        found = list(users.map(lambda task: running.ask("POST", "/predict", click_body(task)), range(1, 501)))
        assert running.ask("POST", "/setup", setup_body()).status == 200
    answers = [answer.content["results"][0] for answer in found if answer.status == 200]
    assert len(answers) == 500
    masks = [answer for answer in answers if answer["result"]]
    assert len(masks) == len(taken) >= MOST_WAITING
    assert {answer["reason"].partition(".")[0] for answer in answers if not answer["result"]} <= {
        "too many clicks wait for an answer already"
    }
    assert len(ClickQueue(redis).unanswered(100)) < 10, "the same reason is noted once in a while"


def test_a_test_request_without_masks_is_answered_with_the_reason(client: Client, redis: Redis) -> None:
    """In a list without a `result`, of which Label Studio stores nothing, should the request be no test."""
    [answer] = answer_of(client.post("/predict", json=predict_body(6)))["results"]
    assert [set(row) for row in answer] == [{"reason"}]
    assert "no worker that answers clicks" in answer[0]["reason"]


def test_a_test_request_answers_the_masks(client: Client, redis: Redis, redis_url: str) -> None:
    stored = predict_body(5)
    stored["tasks"][0]["predictions"] = [{"model_version": VERSION, "result": [REGION]}]
    opened = predict_body(6)
    with answering(redis_url) as taken:
        client.post("/setup", json=setup_body())
        assert answer_of(client.post("/predict", json=stored))["results"][0]["result"], "it has what is asked for"
        assert answer_of(client.post("/predict", json=opened))["results"] == [[]], "Label Studio would store it"
        assert answer_of(client.post("/predict", json=predict_body(6, project="8.1")))["results"][0]["result"]
        assert answer_of(client.post("/predict", json=predict_body(1, 2, project="8.1")))["results"] == [[], []]
    assert [(row.kind, row.project, row.task) for row in taken] == [("prediction", 7, 5), ("prediction", 8, 6)]
    assert redis.zcard("zeromask:8:doubts") == 1, "should it be stored twice, one is deleted"
    assert client.post("/predict", json={**predict_body(6), "label_config": config("dog")}).status_code == 200
