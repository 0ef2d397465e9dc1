"""What others wrote into our Redis: it is set aside and reported, and everything else goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

import plugin_config
from plugin_config.cli.status import as_json, render
from plugin_config.errors import QueueUnavailable
from plugin_config.overview.control import QueueControl
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import TaskRef, parse_id, parse_ref, predict_queue
from plugin_config.queue.keys import PROJECT_TYPES, ProjectKeys
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.quarantine import quarantine_keys
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from tests.queue_states import PROJECT, refs, take, time_passes

OTHER = 8
INVALID_IDS = [b"abc", b"\xff", b"0", b"-1", b"007", b"1.5", b"1e999", b"9" * 30, b"9" * 5000, "٣".encode(), b""]
INVALID_REFS = [b"abc", b"\xff|1", b"v|", b"|1", b"v|0", b"v|007", b"v|" + b"9" * 30, b"v|" + b"9" * 5000,
                "v|٣".encode()]  # fmt: skip
GARBAGE = [b"", b"x", b"\xff\xfe", b"nan", b"inf", b"1e999", b"-9" * 50, b"[" * 5000, b"{}", b"null", b'{"at": 1e999}']


@pytest.fixture
def control(redis: Redis, settings: Settings) -> QueueControl:
    return QueueControl(redis, settings)


@pytest.mark.parametrize("member", INVALID_IDS)
def test_an_invalid_id_is_not_parsed(member: bytes) -> None:
    assert parse_id(member) is None


@pytest.mark.parametrize("member", INVALID_REFS)
def test_an_invalid_task_is_not_parsed(member: bytes) -> None:
    assert parse_ref(member) is None


def test_invalid_projects_are_set_aside_and_reported_and_the_others_found(
    redis: Redis, pending: PendingTasks, control: QueueControl
) -> None:
    redis.sadd("zeromask:projects", PROJECT, *INVALID_IDS)
    redis.sadd("zeromask:paused", *INVALID_IDS)
    redis.zadd("zeromask:unknown", {str(OTHER): 1, "x": 2})
    assert pending.projects() == [PROJECT, OTHER]
    assert redis.smembers("zeromask:projects") == {str(PROJECT).encode()}
    state = control.state(errors=100)
    assert {row["key"] for row in as_json(state)["odd"]} == {"zeromask:projects", "zeromask:unknown", "zeromask:paused"}
    assert render(state)


def test_invalid_members_affect_no_others(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))
    redis.zadd(f"zeromask:{PROJECT}:pending", dict.fromkeys(INVALID_REFS, 0))
    taken: list[TaskRef] = []
    for _ in range(4):
        taken += take(pending, "w")
    assert taken == refs(1, 2)
    assert pending.counts(PROJECT).leased == 2, "no odd one stays leased"
    for ref in taken:
        assert pending.done(PROJECT, "w", ref)


def test_invalid_leases_are_swept_and_the_others_put_back(redis: Redis, hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1, 2))
    take(hasty, "w")
    leases = dict.fromkeys(INVALID_REFS, b"w|1|1")
    redis.hset(f"zeromask:{PROJECT}:leases", mapping=leases)  # type: ignore[arg-type]
    redis.hset(f"zeromask:{PROJECT}:leases", "v1|2", "w|1" + "9" * 400 + "|nan")
    time_passes(redis, 31)
    assert sorted(hasty.sweep()) == refs(1, 2)
    assert sorted(hasty.open_refs(PROJECT)) == refs(1, 2)


@pytest.mark.parametrize("garbage", [b"x", b"nan", b"inf", b"-inf", b"1e999", b"0x", b"1.5", b"\xff", b"9" * 40])
def test_counts_that_are_no_numbers_count_as_missing(redis: Redis, hasty: PendingTasks, garbage: bytes) -> None:
    hasty.add(PROJECT, refs(1))
    redis.hset("zeromask:clock", mapping={"wall": garbage, "now": garbage})
    for name in ("deaths", "tries"):
        redis.hset(f"zeromask:{PROJECT}:{name}", "v1|1", garbage)
    (ref,) = take(hasty, "w")
    redis.hset(f"zeromask:{PROJECT}:pace", mapping={str(k): garbage for k in range(13)})
    time_passes(redis, 31)
    assert hasty.sweep() == [ref]
    time_passes(redis, 5)
    (ref,) = take(hasty, "w")
    assert hasty.retry(PROJECT, "w", ref, "a reason")
    time_passes(redis, 31)
    (ref,) = take(hasty, "w")
    assert hasty.done(PROJECT, "w", ref)


KEYS = ["pending", "leases", "tries", "deaths", "failed", "versions", "done:v1", "pace", "doubts", "drain:0", "drain:8"]


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_the_wrong_kind_is_moved_aside_and_the_work_goes_on(
    redis: Redis, hasty: PendingTasks, control: QueueControl, name: str
) -> None:
    hasty.add(OTHER, refs(1))
    hasty.add(PROJECT, refs(1, 2))
    take(hasty, "w", limit=1)
    redis.delete(f"zeromask:{PROJECT}:{name}")
    redis.rpush(f"zeromask:{PROJECT}:{name}", "whatever")
    time_passes(redis, 31)
    hasty.sweep()
    hasty.add(PROJECT, refs(3, 4, 5, 6))
    hasty.ensure_drains(PROJECT, urgent=True)
    taken = take(hasty, "w")
    assert taken
    assert hasty.done(PROJECT, "w", taken[0])
    assert hasty.fail(PROJECT, "w", taken[1], "broken")
    assert hasty.retry(PROJECT, "w", taken[2], "broken")
    assert render(control.state())
    aside = redis.keys("zeromask:odd:*")
    assert aside == [f"zeromask:odd:zeromask:{PROJECT}:{name}".encode()]
    assert redis.ttl(aside[0]) > 0


@pytest.mark.parametrize("key", ["zeromask:projects", "zeromask:unknown", "zeromask:clock", "zeromask:errors",
                                 "zeromask:odd", "rq:queue:zeromask-predict", "rq:queue:zeromask-look"])  # fmt: skip
def test_a_shared_key_of_the_wrong_kind_is_moved_aside(
    redis: Redis, hasty: PendingTasks, hints: ProjectHints, key: str
) -> None:
    redis.set(key, "whatever")
    assert hasty.add(PROJECT, refs(1)) == 1
    hasty.confirm_project(PROJECT)
    (ref,) = take(hasty, "w")
    assert hasty.fail(PROJECT, "w", ref, "broken")
    redis.sadd("zeromask:projects", "odd")
    assert hasty.projects() == [PROJECT]
    hasty.add(PROJECT, refs(2))
    hasty.sweep()
    assert hints.request_refresh(PROJECT)
    assert len(predict_queue(redis)) == 1


def test_one_project_beyond_quarantine_stops_no_other(
    redis: Redis, hasty: PendingTasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for project in (PROJECT, OTHER):
        hasty.add(project, refs(1))
        hasty.take(project, "w")
    time_passes(redis, 31)
    plain = hasty._slots.free_running

    def stop(project: int) -> None:
        if project == PROJECT:
            raise ResponseError("ERR something new")
        plain(project)

    monkeypatch.setattr(hasty._slots, "free_running", stop)
    assert hasty.sweep() == refs(1)
    assert f"project {PROJECT}: holds something" in caplog.text


@pytest.mark.parametrize("error", ["MISCONF Errors writing to the AOF file", "OOM command not allowed", "BUSY script"])
def test_a_redis_that_takes_nothing_is_away_and_not_damaged(error: str) -> None:
    @redis_errors
    def ask() -> None:
        raise ResponseError(error)

    with pytest.raises(QueueUnavailable) as raised:
        ask()
    assert type(raised.value) is QueueUnavailable


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_values_counts_as_missing(redis: Redis, control: QueueControl, garbage: bytes) -> None:
    redis.sadd("zeromask:projects", PROJECT)
    WorkerPresence(redis).heartbeat("w", {"model": "builtin"})
    values = dict.fromkeys(("served", "shown", "counted", "learning", "learner", "webhook", "refresh"), garbage)
    redis.mset({f"zeromask:{PROJECT}:{name}": value for name, value in values.items()})
    redis.hset(f"zeromask:{PROJECT}:labels", mapping={"remarks": garbage, "version": garbage})
    redis.hset(f"zeromask:{PROJECT}:adapters", mapping={"builtin": garbage, garbage or b"x": garbage})
    redis.hset("zeromask:about", mapping={"w": garbage})
    redis.lpush("zeromask:errors", garbage)
    redis.lpush("zeromask:odd", garbage)
    ledger, learning, hints = ProjectLedger(redis), ProjectLearning(redis, lease_s=9), ProjectHints(redis)
    assert isinstance(ledger.task_count(PROJECT), int)
    assert ledger.label_remarks(PROJECT) == ()
    for read in (ledger.target_version, ledger.shown_version, ledger.label_remarks_version):
        assert isinstance(read(PROJECT), str)
    assert learning.progress(PROJECT) is None
    assert ServedAdapters(redis).served(PROJECT, "builtin") == "zeroshot"
    assert hints.request_refresh(PROJECT)
    hints.last_webhook(PROJECT)
    assert render(control.state())
    learning.request_now(PROJECT)
    lease = learning.begin(PROJECT, "me")
    assert lease is not None
    assert learning.end(PROJECT, "me", lease, Progress("idle", "done", "now"), mark="m")


def test_sets_of_ids_lose_only_invalid_members(redis: Redis, hints: ProjectHints) -> None:
    ledger, learning = ProjectLedger(redis), ProjectLearning(redis, lease_s=9)
    redis.sadd(f"zeromask:{PROJECT}:hinted", 3, *INVALID_IDS)
    redis.sadd(f"zeromask:{PROJECT}:left", 3, *INVALID_IDS)
    redis.sadd(f"zeromask:{PROJECT}:versions", "v1", b"\xff")
    redis.zadd(f"zeromask:{PROJECT}:doubts", {"v1|3": 1, **dict.fromkeys(INVALID_REFS, 1)})
    redis.zadd("zeromask:learn", {str(PROJECT): 1, **dict.fromkeys(INVALID_IDS, 1)})
    redis.set(f"zeromask:{PROJECT}:learner", "not a lease")
    redis.lpush("zeromask:9:learner", "a list")
    redis.zadd("zeromask:learn", {"9": 2})
    assert hints.hinted_tasks(PROJECT, most=100) == [3]
    assert ledger.leftovers(PROJECT) == [3]
    assert ledger.versions(PROJECT) == {"v1"}
    assert list(ledger.unconfirmed(PROJECT)) == refs(3)
    assert learning.due() == [PROJECT, 9]
    assert [learning.begin(project, "me") is not None for project in (PROJECT, 9)] == [True, True]


@pytest.mark.parametrize(("name", "garbage"), [("first", "x"), ("hinted", "nan"), ("deaths", "x"), ("since", "1e999")])
def test_garbage_in_the_state_of_a_check_prevents_no_check(redis: Redis, name: str, garbage: str) -> None:
    learning = ProjectLearning(redis, lease_s=4)
    redis.hset(f"zeromask:{PROJECT}:learn", name, garbage)
    learning.request_after_pause(PROJECT, quiet_s=0)
    redis.hset(f"zeromask:{PROJECT}:learn", name, garbage)
    assert learning.begin(PROJECT, "dead") is not None
    redis.hset(f"zeromask:{PROJECT}:learn", name, garbage)
    time_passes(redis, 5)
    lease = learning.begin(PROJECT, "me")
    assert lease is not None
    assert learning.end(PROJECT, "me", lease, Progress("idle", "", ""), mark="m", failed=True)


def test_every_key_that_a_script_builds_is_a_key_of_a_project() -> None:
    """A key that the table does not have would not be checked, and would outlive its project."""
    built = re.compile(r"\b(?:P|prefix_of\(project\)|prefix) \.\. '([a-z]+)")
    folder = Path(plugin_config.__file__).parent / "queue"
    names = {name for path in folder.glob("*.py") for name in built.findall(path.read_text())}
    assert {"pending", "learner", "learn", "done"} <= names
    assert names <= set(PROJECT_TYPES)


def test_a_forgotten_project_leaves_no_key(redis: Redis, pending: PendingTasks) -> None:
    keys = ProjectKeys(PROJECT)
    redis.sadd(keys.versions, "v1")
    for key in {*keys.named(), keys.done("v1")} - {keys.versions}:
        redis.set(key, "x")
    redis.set(ProjectKeys(OTHER).pending, "of another project")
    assert len(redis.keys(f"{keys.prefix}*")) == len(PROJECT_TYPES) + 8  # nine drain slots
    pending.forget_project(PROJECT)
    assert redis.keys("*") == [ProjectKeys(OTHER).pending.encode()]


def test_a_project_that_is_forgotten_leaves_no_warning(redis: Redis, pending: PendingTasks) -> None:
    ProjectLedger(redis).set_webhook_warning(PROJECT, "Label Studio's webhooks are refused.")
    pending.forget_project(PROJECT)
    assert redis.keys(f"zeromask:{PROJECT}:*") == []


def test_no_task_counted_is_a_count(redis: Redis) -> None:
    """Else each look at an empty project reads all of it, and the first webhook's tasks are counted one too few."""
    ledger = ProjectLedger(redis)
    assert ledger.task_count(PROJECT) == -1
    ledger.set_task_count(PROJECT, 0)
    assert ledger.task_count(PROJECT) == 0


def test_quarantine_leaves_what_is_right(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    for ref in take(pending, "w", limit=1):
        pending.done(PROJECT, "w", ref)
    before: Any = {key: redis.dump(key) for key in redis.keys("*")}
    assert quarantine_keys(redis, PROJECT) == []
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_the_last_hundred_things_set_aside_are_kept(redis: Redis, pending: PendingTasks) -> None:
    for number in range(120):
        redis.sadd("zeromask:projects", f"odd-{number}")
        pending.projects()
    rows = [json.loads(row) for row in redis.lrange("zeromask:odd", 0, -1)]
    assert len(rows) == 100
    assert "odd-119" in rows[0]["what"]


def test_a_project_is_forgotten_as_a_whole_or_not_at_all(
    redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its id was gone and its tasks were not, no sweep would ever come back to them."""

    def away(*_: Any) -> None:
        raise RedisConnectionError("gone")

    pending.add(PROJECT, refs(1, 2))
    pending.confirm_project(PROJECT)
    before: Any = {key: redis.dump(key) for key in redis.keys("*")}
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "execute", away)
        with pytest.raises(QueueUnavailable):
            pending.forget_project(PROJECT)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before
    pending.forget_project(PROJECT)
    assert (redis.keys(f"zeromask:{PROJECT}:*"), pending.projects()) == ([], [])
