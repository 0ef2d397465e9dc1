"""The heartbeat: a duty that fails leaves the others done; the watchdog ends a worker whose model never comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from backend.queue_client import QueueClient
from plugin_config.background import DutyWatch
from plugin_config.cli.status import as_json
from plugin_config.errors import QueueUnavailable
from plugin_config.overview.control import QueueControl
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, refresh_queue
from plugin_config.queue.keys import AGAIN, PERIODIC, ProjectKeys
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.periodic import PeriodicTurns
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from tests.backend_client import patient_fixture
from tests.house import PATIENCE_S, wait_until
from tests.queue_states import make_known, time_passes
from tests.stand_ins import PROJECT, StandInContext, context_fixture, version
from worker.service.heartbeat import Heartbeat, PeriodicDuty
from worker.service.worker import worker_heartbeat

__all__ = ["context_fixture", "patient_fixture"]

ROOT = Path(__file__).resolve().parent.parent

# A process of its own, because the watchdog ends it. The model is stuck in its first forward, or lives but is slow.
WORKER = """
import sys, threading, time
import numpy as np
from redis import Redis
from plugin_config.queue.presence import WorkerPresence
from tests.stand_ins import StandInContext
from worker.service import worker
from worker.label_studio.images import Picture
from worker.label_studio.image_loader import ImageLoader

redis_url, patience_s, forward_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
ImageLoader.load = lambda *_, **__: Picture(np.full((8, 8, 3), 200, dtype=np.uint8), (8, 8))
worker._STUCK_S = patience_s
context = StandInContext(Redis.from_url(redis_url))
context.presence, context.about = WorkerPresence(Redis.from_url(redis_url)), dict
plain = context.segmenter.embed
context.segmenter.embed = lambda images, **part: time.sleep(forward_s) or plain(images)
worker._LONGEST_BEAT_S = 0.1
worker.worker_heartbeat(context, context.pipeline).start()
context.begin()
sys.exit(0 if context.pipeline.wait_empty(120) else 3)
"""


def run_worker(redis_url: str, *, patience_s: float, forward_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WORKER, redis_url, str(patience_s), str(forward_s)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_model_that_never_comes_back_ends_its_worker_and_not_its_tasks(
    redis: Redis, redis_url: str, pending: PendingTasks
) -> None:
    refs = [TaskRef(version(), task) for task in (1, 2)]
    pending.add(PROJECT, refs)
    ended = run_worker(redis_url, patience_s=0.5, forward_s=600)
    assert ended.returncode == 70, ended.stderr
    assert "so that the tasks go to another worker" in ended.stderr
    assert pending.take(PROJECT, "another", limit=2) == []
    time_passes(redis, 31)
    assert sorted(pending.sweep()) == refs


def test_a_slow_model_is_left_alone(redis: Redis, redis_url: str, pending: PendingTasks) -> None:
    pending.add(PROJECT, [TaskRef(version(), 1)])
    ended = run_worker(redis_url, patience_s=10, forward_s=1)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert pending.open_refs(PROJECT) == []


@pytest.fixture
def heartbeat(context: StandInContext, redis: Redis) -> Iterator[Heartbeat]:
    """A worker's heartbeat that is not started; the worker shows its trouble as a real one does."""
    made: Any = context
    made.presence = WorkerPresence(redis)
    made.about = lambda: {"trouble": context.watch.trouble()}
    yield worker_heartbeat(made, context.pipeline)


ODD: dict[str, Callable[[Redis], object]] = {
    "project": lambda redis: redis.sadd("zeromask:projects", "abc", b"\xff"),
    "lease": lambda redis: redis.hset(f"zeromask:{PROJECT}:leases", b"\xff|1", "me|1|1"),
    "kind": lambda redis: redis.rpush("zeromask:5:leases", "x") and redis.sadd("zeromask:projects", 5),
    "deaths": lambda redis: redis.hset(f"zeromask:{PROJECT}:deaths", f"{version()}|1", "nan"),
    "clock": lambda redis: redis.set("zeromask:clock", "x"),
    "about": lambda redis: redis.hset("zeromask:about", "w", b"\xff"),
    "job": lambda redis: redis.rpush("rq:queue:zeromask-look", b"\xff"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_thing_in_redis_leaves_every_duty_done(
    redis: Redis, context: StandInContext, heartbeat: Heartbeat, name: str
) -> None:
    context.ask(1, 2, 3)
    (dead, mine) = context.pending.take(PROJECT, "dead", limit=1), context.leases.take(PROJECT, limit=1)
    ODD[name](redis)
    heartbeat.beat()
    time_passes(redis, 20)
    heartbeat.beat()  # renews what it holds
    redis.zadd("zeromask:learn", {"abc": 1})
    time_passes(redis, 20)
    heartbeat.beat()
    assert dead[0].ref in [lease.ref for lease in context.pending.take(PROJECT, "other", limit=8)]
    assert context.leases.confirm(PROJECT, mine[0].ref)
    assert context.presence.count() == 1  # type: ignore[attr-defined]
    assert len(refresh_queue(redis)) >= 1
    assert context.watch.trouble() == ""


def test_a_duty_that_fails_leaves_the_others_done_and_is_shown(
    redis: Redis, settings: Settings, context: StandInContext, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch,
    patient: None, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(context.pending, "sweep", fail)
    for _ in range(3):
        heartbeat.beat()
    assert caplog.text.count("Traceback") == 1, "it rests before it tries again"
    assert redis.zscore("zeromask:workers", "me") is not None
    heartbeat.beat()
    (worker,) = WorkerPresence(redis).workers()
    assert "the sweep: RuntimeError: a fault of ours" in worker.about["trouble"]
    assert worker.about["trouble"] in str(as_json(QueueControl(redis, settings).state())["workers"])
    queues = QueueClient(settings)
    try:
        assert (queues.status().workers, queues.status().in_trouble) == (1, 1)
    finally:
        queues.close()


@pytest.mark.usefixtures("patient")
def test_webhooks_that_come_after_a_look_began_cause_one_more_when_a_moment_is_over(
    redis: Redis, settings: Settings, context: StandInContext, heartbeat: Heartbeat, hints: ProjectHints
) -> None:
    make_known(redis, PROJECT)
    heartbeat.beat()  # the periodic look
    assert refresh_queue(redis).pop_job_id()
    hints.begin_refresh(PROJECT)
    queues = QueueClient(settings)
    try:
        looked = ProjectKeys(PROJECT).looked
        assert 0 < redis.pttl(looked) <= 2000
        for _ in range(50):
            redis.pexpire(looked, 2000)  # the moment is not over, however busy this machine is
            assert not queues.request_refresh(PROJECT, "PROJECT_UPDATED")
        assert redis.zscore(AGAIN, PROJECT) is not None
        redis.zincrby(AGAIN, 60_000, str(PROJECT))
        heartbeat.beat()
        assert len(refresh_queue(redis)) == 0
        redis.zincrby(AGAIN, -60_000, str(PROJECT))
        wait_until(lambda: hints.due_refreshes() == [PROJECT])
        heartbeat.beat()
        heartbeat.beat()
        assert (len(refresh_queue(redis)), hints.due_refreshes()) == (1, [])
        assert not queues.request_refresh(PROJECT, "PROJECT_UPDATED"), "the one that is queued sees it, too"
    finally:
        queues.close()


@pytest.mark.usefixtures("patient")
def test_annotators_who_make_no_pause_get_another_order_all_the_same(
    redis: Redis, settings: Settings, context: StandInContext
) -> None:
    make_known(redis, PROJECT)
    queues = QueueClient(settings)
    try:
        for _ in range(3):
            queues.annotations_changed(PROJECT, "ANNOTATION_CREATED")
    finally:
        queues.close()
    moment: Any = redis.zscore("zeromask:again", PROJECT)
    assert 0 < moment / 1000 - int(redis.time()[0]) < 16


def test_who_promotes_or_rolls_back_does_not_wait_for_that_moment(redis: Redis, hints: ProjectHints) -> None:
    hints.begin_refresh(PROJECT)
    assert not hints.request_refresh(PROJECT, paced=True)
    assert hints.request_refresh(PROJECT)
    assert (len(refresh_queue(redis)), redis.exists("zeromask:again")) == (1, 0)
    hints.begin_refresh(PROJECT)
    redis.persist(f"zeromask:{PROJECT}:looked")  # nobody of ours writes that: it would never end
    assert hints.request_refresh(PROJECT, paced=True)


def test_a_webhook_between_a_look_being_taken_and_begun_causes_no_second_one(redis: Redis, hints: ProjectHints) -> None:
    assert hints.request_refresh(PROJECT, paced=True)
    assert refresh_queue(redis).pop_job_id()
    assert not hints.request_refresh(PROJECT, paced=True)
    assert len(refresh_queue(redis)) == 0
    noted = redis.zscore(AGAIN, PROJECT)
    assert noted is not None, "should the worker die that took it, another look comes"
    assert not hints.request_refresh(PROJECT, paced=True)
    assert redis.zscore(AGAIN, PROJECT) == noted, "and more webhooks do not put it off"
    redis.zadd(AGAIN, {str(PROJECT): 1})
    assert hints.due_refreshes() == [PROJECT]
    assert hints.request_refresh(PROJECT), "as the heartbeat asks"
    hints.begin_refresh(PROJECT)
    assert hints.due_refreshes() == [], "it was in time"


def test_a_project_that_is_gone_is_not_looked_at_again(
    redis: Redis, context: StandInContext, hints: ProjectHints
) -> None:
    hints.refresh_later(PROJECT, after_s=0)
    redis.zadd("zeromask:again", {"abc": 1})
    assert hints.due_refreshes() == [PROJECT]
    context.pending.forget_project(PROJECT)
    assert not redis.exists("zeromask:again")


def test_a_later_look_is_not_put_off_and_one_that_begins_stands_for_it(redis: Redis, hints: ProjectHints) -> None:
    hints.refresh_later(PROJECT, after_s=0.05)
    hints.refresh_later(PROJECT, after_s=60)
    wait_until(lambda: hints.due_refreshes() == [PROJECT], within_s=50, told="sooner than after a minute")
    hints.begin_refresh(PROJECT)
    assert hints.due_refreshes() == []
    hints.refresh_later(PROJECT, after_s=60)
    hints.begin_refresh(PROJECT)
    hints.request_refresh(PROJECT, paced=True)
    wait_until(lambda: hints.due_refreshes() == [PROJECT], within_s=50, told="sooner than after a minute")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_heartbeat_that_died_is_shown(
    context: StandInContext, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(context.pending, "sweep", end)
    monkeypatch.setattr(context.presence, "heartbeat", end)  # type: ignore[attr-defined]
    heartbeat.start()
    ended = ["thread heartbeat has ended: restart this process",
             "thread heartbeat of all projects has ended: restart this process"]  # fmt: skip
    wait_until(lambda: context.watch.trouble().split("; ") == ended, told="both threads")
    heartbeat.stop()


def test_leases_are_renewed_while_all_projects_are_swept(
    context: StandInContext, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of projects may take longer than a lease."""
    context.ask(1)
    assert context.leases.take(PROJECT, limit=1)
    begun, go_on, renewed, renew = threading.Event(), threading.Event(), list[int](), context.pending.renew

    def sweep() -> list[TaskRef]:
        begun.set()
        go_on.wait()
        return []

    def note(project: int, owner: str, refs: list[TaskRef]) -> set[TaskRef]:
        renewed.append(project)
        return renew(project, owner, refs)

    monkeypatch.setattr(context.pending, "sweep", sweep)
    heartbeat.start()
    try:
        assert begun.wait(PATIENCE_S)
        monkeypatch.setattr(context.pending, "renew", note)
        wait_until(lambda: len(renewed) >= 2, told="renewals")
    finally:
        go_on.set()
        heartbeat.stop()


def test_a_redis_that_is_away_is_no_fault(
    context: StandInContext, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away() -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    monkeypatch.setattr(context.pending, "sweep", away)
    heartbeat.beat()
    assert "does not answer" in caplog.text
    assert context.watch.trouble() == ""


def test_a_duty_runs_again_after_its_time_and_at_once_after_redis_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, done, away = 1000.0, [], True
    monkeypatch.setattr("worker.service.heartbeat.time.monotonic", lambda: now_s)

    def look() -> None:
        if away:
            raise QueueUnavailable("Redis", "does not answer", "Start it.")
        done.append(now_s)

    duties = [PeriodicDuty("the look", look, every_s=60), PeriodicDuty("the sign of life", lambda: done.append(0))]
    heartbeat = Heartbeat(duties, every_s=1, watch=DutyWatch(), leave=lambda: None)
    heartbeat.beat()
    assert done == [], "what comes after it needs Redis too"
    away = False
    for seconds in (1000, 1059, 1060):
        now_s = float(seconds)
        heartbeat.beat()
    assert done == [1000, 0, 0, 1060, 0]


def test_a_heartbeat_leaves_after_its_last_beat() -> None:
    done = []
    heartbeat = Heartbeat(
        [PeriodicDuty("the sign of life", lambda: done.append("beat"))], every_s=0.01, watch=DutyWatch(),
        leave=lambda: done.append("leave"),
    )  # fmt: skip
    heartbeat.start()
    wait_until(lambda: len(done) > 2, told="beats")
    heartbeat.stop()
    assert (done[0], done.index("leave")) == ("beat", len(done) - 1)


def test_a_step_of_the_line_that_fails_goes_on_and_is_told(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plugin_config.background._FIRST_PAUSE_S", 0.01)
    plain, left = context.pipeline._to_draw.get, [RuntimeError("a fault of ours"), QueueUnavailable("a", "b", "c")]

    def get(*args: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return plain(*args, **options)

    monkeypatch.setattr(context.pipeline._to_draw, "get", get)
    context.ask(1, 2)
    context.drain()
    wait_until(lambda: not left, told="faults")
    assert [task for task, _ in context.stored()] == [1, 2]
    assert "the pipeline's stage draw" in context.watch.trouble()


def test_of_all_workers_one_asks_for_the_periodic_looks(
    redis: Redis, context: StandInContext, heartbeat: Heartbeat, hints: ProjectHints
) -> None:
    make_known(redis, PROJECT)
    turns = [PeriodicTurns(redis, "looks", every_s=60) for _ in range(3)]
    assert [turn.take() for turn in turns] == [True] * 3, "each was just started, perhaps with other settings"
    assert [turn.take() for turn in turns] == [False] * 3
    assert PeriodicTurns(redis, "rounds", every_s=60).take()
    redis.pexpire(f"{PERIODIC}:looks", 1)
    wait_until(lambda: not redis.exists(f"{PERIODIC}:looks"))
    assert [turn.take() for turn in turns] == [True, False, False]
    assert 50_000 < redis.pttl(f"{PERIODIC}:looks") <= 54_000
    redis.persist(f"{PERIODIC}:looks")  # nobody of ours writes that: it would never end
    assert turns[2].take()
    redis.pexpire(f"{PERIODIC}:looks", 3_600_000)  # the clock of its machine was set back
    assert turns[1].take()


def test_a_worker_whose_turn_it_is_not_asks_for_no_look(
    redis: Redis, context: StandInContext, heartbeat: Heartbeat, hints: ProjectHints
) -> None:
    make_known(redis, PROJECT)
    second = worker_heartbeat(cast("Any", context), context.pipeline)
    for beating in (heartbeat, second):  # their first
        beating.beat()
        assert refresh_queue(redis).pop_job_id()
        hints.begin_refresh(PROJECT)
    for beating in (heartbeat, second):
        beating.beat()
    assert len(refresh_queue(redis)) == 0
