"""Projects read together are as they are read one by one; some tasks of a project with what is known of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from plugin_config.errors import QueueUnavailable
from plugin_config.overview.control import QueueControl
from plugin_config.overview.reading import read_projects
from plugin_config.overview.tasks import TaskRow, read_tasks
from plugin_config.overview.versions import read_versions
from plugin_config.queue.order import ProjectOrder
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from tests.queue_states import PROJECT, refs, take, time_passes
from tests.status_projects import fill, learn_versions


def test_projects_read_together_are_as_they_are_read_one_by_one(
    redis: Redis, settings: Settings, tmp_path: Path
) -> None:
    fill(redis, projects=4, tasks=80)
    learn_versions(redis, tmp_path / "versions")
    ProjectOrder(redis).set_remark(PROJECT, "the order cannot be set")
    redis.set("zeromask:8:warning", "webhooks are not let in")
    redis.set("zeromask:9:learning", b"\xff")
    control, ids = QueueControl(redis, settings), [PROJECT, 8, 9, 10, 99]
    together = read_projects(redis, ids)
    assert together == {project: control._read(project) for project in ids}
    assert together[PROJECT].counts.done == 8
    assert together[PROJECT].per_s > 0
    assert len(together[PROJECT].verdicts) == len(together[PROJECT].copies) == 1
    assert len(together[PROJECT].remarks) == 2


@pytest.mark.parametrize("key", ["pending", "leases", "failed", "versions", "labels", "adapters", "done:v1"])
def test_a_project_with_a_damaged_key_is_left_to_be_read_by_itself(
    redis: Redis, settings: Settings, pending: PendingTasks, key: str
) -> None:
    for project in (PROJECT, 8):
        pending.add(project, refs(1))
        pending.done(project, "w", pending.take(project, "w")[0].ref)
    redis.delete(f"zeromask:{PROJECT}:{key}")
    redis.lpush(f"zeromask:{PROJECT}:{key}", "x")
    assert set(read_projects(redis, [PROJECT, 8])) == {8}
    state = QueueControl(redis, settings).state()
    assert [row.project for row in state.projects] == [PROJECT, 8]
    assert set(read_projects(redis, [PROJECT, 8])) == {PROJECT, 8}, "the key was moved away"


@pytest.mark.parametrize("key", ["tries", "failed", "leases", "pending"])
def test_tasks_are_read_beside_a_damaged_key(redis: Redis, pending: PendingTasks, key: str) -> None:
    pending.add(PROJECT, refs(1))
    redis.delete(f"zeromask:{PROJECT}:{key}")
    redis.set(f"zeromask:{PROJECT}:{key}", "x")
    assert len(read_tasks(redis, PROJECT, most=10).pending) == (key != "pending")


@pytest.mark.parametrize("due", ["inf", "1e300"])
def test_a_task_that_is_never_due_is_told(redis: Redis, due: str) -> None:
    redis.zadd(f"zeromask:{PROJECT}:pending", {refs(1)[0].encode(): due})
    assert read_tasks(redis, PROJECT, most=10).pending == (TaskRow(refs(1)[0], "never due"),)


def test_a_redis_that_is_away_is_an_error(dead_redis_url: str) -> None:
    with pytest.raises(QueueUnavailable):
        read_projects(Redis.from_url(dead_redis_url), [PROJECT])
    assert read_projects(Redis.from_url(dead_redis_url), []) == {}


def test_tasks_are_told_with_what_is_known_of_each(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    for ref in take(pending, "w", limit=3)[:2]:
        pending.retry(PROJECT, "w", ref, "busy")
    pending.add(PROJECT, refs(4, 5))
    pending.add(PROJECT, refs(5), priority=Priority.OPENED)
    redis.hset("zeromask:7:failed", "v1|9", "no such picture. Correct its address.")
    redis.hset("zeromask:7:failed", "nobody wrote this", "x")
    found = read_tasks(redis, PROJECT, most=10)
    assert found.failed == (TaskRow(refs(9)[0], "no such picture. Correct its address."),)
    assert found.leased == (TaskRow(refs(3)[0], "at worker w"),)
    opened, asked, *later = found.pending
    assert (opened, asked) == (TaskRow(refs(5)[0], "an annotator has opened it"), TaskRow(refs(4)[0], ""))
    assert [row.ref for row in later] == refs(1, 2)
    assert all(row.detail in ("tried 1 time, again in 4 s", "tried 1 time, again in 3 s") for row in later)
    time_passes(redis, 10)
    assert {row.detail for row in read_tasks(redis, PROJECT, most=10).pending[2:]} == {""}
    assert len(read_tasks(redis, PROJECT, most=1).pending) == 1


def test_versions_of_another_place_are_told(redis: Redis, tmp_path: Path) -> None:
    names = learn_versions(redis, tmp_path / "versions")
    (copy,) = ServedAdapters(redis).copies(PROJECT)
    found = read_versions(copy)
    assert (found.pointer and found.pointer.served, len(found.rows), found.trouble) == (names[1], 3, "")
    elsewhere = read_versions(replace(copy, place=str(tmp_path / "elsewhere")))
    assert (elsewhere.pointer, elsewhere.rows) == (None, ())
    assert "ZEROMASK_VERSIONS" in elsewhere.trouble
