"""RQ jobs that somebody else wrote: refused unread, whatever they hold, by a real RQ worker on a real Redis."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import ResponseError
from rq import Callback, Queue
from rq.command import send_shutdown_command
from rq.job import Job, Retry
from rq.serializers import JSONSerializer
from rq.worker import DequeueStrategy

from plugin_config.background import DutyWatch
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import (
    DRAIN_JOB,
    LEARN_JOB,
    LEARN_TIMEOUT_S,
    REFRESH_JOB,
    LearnProject,
    RefreshProject,
    enqueue,
    enqueue_learning,
    learn_queue,
    predict_queue,
    refresh_queue,
)
from plugin_config.queue.keys import PREDICT_QUEUE
from plugin_config.queue.pending import PendingTasks
from tests.queue_states import PROJECT, refs
from worker.service import queue_worker
from worker.service.plain_jobs import PlainQueue
from worker.service.queue_worker import PlainWorker, work_off

JOB: dict[str, Any] = {"timeout": 600, "result_ttl": 0, "failure_ttl": 86400}
PAYLOAD = {"project": 3, "slot": 0, "limit": 4}


@pytest.fixture
def done() -> list[tuple[str, Any]]:
    """What the worker ran, in turn."""
    return []


def noting(done: list[Any]) -> dict[str, Callable[[Mapping[str, Any]], None]]:
    """The functions of a worker that notes what it is asked to run."""
    kinds = {DRAIN_JOB: "drain", REFRESH_JOB: "look", LEARN_JOB: "learn"}
    return {
        name: lambda payload, kind=kind: done.append((kind, payload["project"]))  # type: ignore[misc]
        for name, kind in kinds.items()
    }


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """RQ takes the process' signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a forged module was imported, or what is in it called."""
    (tmp_path / "forged_module.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'owned')!r}).touch()\ndef called(*_, **__): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "forged_module", raising=False)
    return tmp_path / "owned"


def work(redis: Redis, done: list[Any]) -> PlainWorker:
    """A worker that ends when all queues are empty."""
    queues = [PlainQueue(queue(redis).name, connection=redis, serializer=JSONSerializer)
              for queue in (predict_queue, refresh_queue)]  # fmt: skip
    worker = PlainWorker(queues, connection=redis, serializer=JSONSerializer)
    worker.functions, worker.stopping = noting(done), threading.Event()
    worker.work(burst=True, logging_level="WARNING", dequeue_strategy=DequeueStrategy.ROUND_ROBIN)
    assert worker.met is None
    return worker


def forge(redis: Redis, **changes: Any) -> str:
    """A drain as ours is, but for what is changed; None takes a field away."""
    job = predict_queue(redis).enqueue_call(DRAIN_JOB, args=(PAYLOAD,), description="forged", **JOB)
    for name, value in changes.items():
        redis.hdel(job.key, name) if value is None else redis.hset(job.key, name, value)
    return str(job.key)


def packed(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode())


CALLBACK = "forged_module.called"
FORGED: dict[str, dict[str, Any]] = {
    "success callback": {"success_callback_name": CALLBACK},
    "failure callback": {"failure_callback_name": CALLBACK},
    "stopped callback": {"stopped_callback_name": CALLBACK},
    "callback timeout": {"success_callback_timeout": 5},
    "webhooks": {"webhooks": json.dumps([{"url": "http://127.0.0.1:1/", "job_status": "finished"}])},
    "dependencies": {"dependency_ids": '["a"]'},
    "dependency": {"dependency_id": "a"},
    "retries": {"retries_left": 5},
    "retry intervals": {"retry_intervals": "[0]"},
    "repeats": {"repeats_left": 5, "repeat_intervals": "[0]"},
    "meta": {"meta": b"{}"},
    "group": {"group_id": "g"},
    "rate limit": {"rate_limit_key": "k", "rate_limit_concurrency": 1},
    "result": {"result": b"x"},
    "exc_info": {"exc_info": zlib.compress(b"x")},
    "kept for ever": {"result_ttl": -1},
    "failure kept for ever": {"failure_ttl": -1},
    "without end": {"timeout": -1},
    "longer": {"timeout": 6000},
    "odd timeout": {"timeout": "nan"},
    "ttl": {"ttl": 1},
    "at front": {"enqueue_at_front": 1},
    "no data": {"data": None},
    "no status": {"status": None},
    "odd status": {"status": "\ud83d".encode(errors="replace")},
    "odd date": {"created_at": "yesterday"},
    "not UTF-8": {"origin": b"\xff", "worker_name": b"\xff"},
    "long": {"description": "x" * 100_000},
    "not packed": {"data": b"\xff\xff"},
    "not JSON": {"data": zlib.compress(b"x")},
    "pickle": {"data": b"cos\nsystem\n(S'true'\ntR."},
    "deep": {"data": zlib.compress(b"[" * 4000)},
    "bomb": {"data": zlib.compress(b" " * 10_000_000)},
    "not a call": {"data": packed([DRAIN_JOB])},
    "other function": {"data": packed(["os.system", None, ["true"], {}])},
    "no function": {"data": packed([None, None, [], {}])},
    "list for function": {"data": packed([["os.system"], None, [PAYLOAD], {}])},
    "instance": {"data": packed([DRAIN_JOB, {}, [PAYLOAD], {}])},
    "keywords": {"data": packed([DRAIN_JOB, None, [PAYLOAD], {"a": 1}])},
    "two arguments": {"data": packed([DRAIN_JOB, None, [PAYLOAD, 1], {}])},
    "other payload": {"data": packed([DRAIN_JOB, None, [{"project": 0}], {}])},
    "huge slot": {"data": packed([DRAIN_JOB, None, [{**PAYLOAD, "slot": 99}], {}])},
    "huge project": {"data": packed([DRAIN_JOB, None, [{**PAYLOAD, "project": 10**40}], {}])},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_job_is_refused_and_the_next_is_run(
    redis: Redis, done: list[Any], owned: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = forge(redis, **FORGED[name])
    enqueue(refresh_queue(redis), RefreshProject(project=9))
    forge(redis)
    work(redis, done)
    assert sorted(done) == [("drain", 3), ("look", 9)]
    assert "refused" in caplog.text
    assert 0 < redis.ttl(key) <= 86400, "kept for a day, for whoever looks into it"
    assert not owned.exists()
    assert caplog.text.count("Traceback") == 0


def test_what_rq_offers_to_forge_is_refused(redis: Redis, done: list[Any], owned: Path) -> None:
    call = Callback(CALLBACK)
    options: dict[str, Any] = {"on_success": call, "on_failure": call, "on_stopped": call, "retry": Retry(max=3)}
    for name, value in options.items():
        predict_queue(redis).enqueue_call(DRAIN_JOB, args=(PAYLOAD,), **JOB, **{name: value})
    Queue(PREDICT_QUEUE, connection=redis).enqueue(os.getcwd)  # pickled
    work(redis, done)
    assert done == []
    assert not owned.exists()


def test_an_abandoned_forged_job_is_not_called_back(redis: Redis, done: list[Any], owned: Path) -> None:
    """RQ cleans the registries of dead workers, and calls back for each job there."""
    key = forge(redis, failure_callback_name=CALLBACK, status="started")
    redis.delete(predict_queue(redis).key)
    redis.zadd(f"rq:wip:{PREDICT_QUEUE}", {f"{key.rpartition(':')[2]}:1": 1})
    redis.zadd(f"rq:failed:{PREDICT_QUEUE}", {b"\xff": 1, b"../x": 1})
    work(redis, done)
    assert not owned.exists()
    assert done == []


KEPT_BY_RQ = [f"rq:queue:{PREDICT_QUEUE}", "rq:workers", "rq:queues", f"rq:workers:{PREDICT_QUEUE}",
              f"rq:wip:{PREDICT_QUEUE}", f"rq:failed:{PREDICT_QUEUE}", "rq:suspended",
              f"rq:clean_registries:{PREDICT_QUEUE}"]  # fmt: skip


@pytest.mark.parametrize("key", KEPT_BY_RQ)
@pytest.mark.parametrize("kind", ["another kind", "odd members"])
def test_garbage_in_what_rq_keeps_stops_no_work(
    redis: Redis, done: list[Any], key: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "another kind":
        redis.set(key, "x")
    elif key.startswith("rq:queue:"):
        redis.rpush(key, b"\xff", "../../x", "", "no:such")
        redis.set("rq:job:odd", "x")
        redis.rpush(key, "odd")
    else:
        redis.zadd(key, {b"\xff": 1, b"x:y:z": 1}) if "wip" in key or "failed" in key else redis.sadd(key, b"\xff", "x")
    stopping, watch = threading.Event(), DutyWatch()

    def stop(payload: Any) -> None:
        done.append("look")
        stopping.set()
        os.kill(os.getpid(), signal.SIGTERM)

    ProjectHints(redis).request_refresh(9)
    functions = {**noting(done), REFRESH_JOB: stop}
    work_off([predict_queue(redis), refresh_queue(redis)], functions, owner="me", stopping=stopping, watch=watch)
    assert done == ["look"]


def test_nobody_commands_a_worker(redis: Redis, done: list[Any]) -> None:
    queue = PlainQueue(PREDICT_QUEUE, connection=redis, serializer=JSONSerializer)
    worker = PlainWorker([queue], connection=redis, serializer=JSONSerializer)
    worker.stopping = threading.Event()
    worker.bootstrap("WARNING")
    send_shutdown_command(redis, worker.name)
    assert worker.pubsub_thread is None
    assert dict(redis.pubsub_numsub(f"rq:pubsub:{worker.name}")) == {f"rq:pubsub:{worker.name}".encode(): 0}
    worker.teardown()  # type: ignore[no-untyped-call]


def test_jobs_of_the_release_before_are_run(redis: Redis, done: list[Any]) -> None:
    """A look used to wait in the queue of the drains."""
    enqueue(predict_queue(redis), RefreshProject(project=9))
    redis.set("zeromask:9:refresh", 1, ex=60)
    assert ProjectHints(redis).request_refresh(9)
    work(redis, done)
    assert done == [("look", 9), ("look", 9)]


def test_queues_take_turns(
    redis: Redis, pending: PendingTasks, done: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = threading.Event()

    def look(payload: Any) -> None:
        done.append(("look", payload["project"]))
        if len(done) == 53:
            stopping.set()
            os.kill(os.getpid(), signal.SIGTERM)

    for project in range(1, 51):
        ProjectHints(redis).request_refresh(project)
    for project in (PROJECT, 8, 9):
        pending.add(project, refs(1))
        pending.ensure_drains(project)
    functions = {**noting(done), REFRESH_JOB: look}
    work_off([refresh_queue(redis), predict_queue(redis)], functions, owner="me", stopping=stopping, watch=DutyWatch())
    assert [kind for kind, _ in done[:6]].count("drain") == 3
    assert len(done) == 53


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        pytest.param(ResponseError("MISCONF Errors writing to the AOF file"), "", id="full disk"),
        pytest.param(RedisGone("refused"), "", id="away"),
        pytest.param(RuntimeError("a fault"), "the work on jobs: RuntimeError: a fault", id="a fault"),
    ],
)
def test_the_work_goes_on_after_an_error_and_a_fault_is_told(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, error: Exception, trouble: str
) -> None:
    monkeypatch.setattr(queue_worker, "_REDIS_AWAY_S", 0.01)
    stopping, watch, ran = threading.Event(), DutyWatch(), list[int]()

    def work_once(worker: PlainWorker, **_: Any) -> None:
        ran.append(1)
        if len(ran) < 2:
            raise error
        stopping.set()

    monkeypatch.setattr(PlainWorker, "work", work_once)
    work_off([predict_queue(redis)], {}, owner="me", stopping=stopping, watch=watch)
    assert len(ran) == 2
    assert watch.trouble().startswith(trouble)
    assert bool(watch.trouble()) is bool(trouble)


def test_a_job_of_the_other_kind_of_process_fails_and_imports_nothing(redis: Redis, done: list[Any]) -> None:
    """A process that predicts is not asked to learn by a job in its queue."""
    key = forge(redis, data=packed([LEARN_JOB, None, [{"project": 3}], {}]), timeout=LEARN_TIMEOUT_S)
    forge(redis)
    queue = PlainQueue(predict_queue(redis).name, connection=redis, serializer=JSONSerializer)
    worker = PlainWorker([queue], connection=redis, serializer=JSONSerializer)
    worker.functions, worker.stopping = {DRAIN_JOB: noting(done)[DRAIN_JOB]}, threading.Event()
    worker.work(burst=True, logging_level="WARNING")
    assert done == [("drain", 3)]
    assert redis.hget(key, "status") == b"failed"
    assert "worker.tasks" not in sys.modules


def test_a_key_in_place_of_a_learning_job_keeps_from_none(redis: Redis) -> None:
    redis.set("rq:job:learn-7", "x")
    assert enqueue_learning(learn_queue(redis), LearnProject(project=7))
    assert not enqueue_learning(learn_queue(redis), LearnProject(project=7))
    assert Job.exists("learn-7", redis)
