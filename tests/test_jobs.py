"""What may travel through Redis between backend and worker, and what is refused."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from redis import Redis

from plugin_config.errors import JobError
from plugin_config.queue import jobs
from plugin_config.queue.jobs import DrainProject, RefreshProject, TaskRef, enqueue, predict_queue


@pytest.mark.parametrize(
    "ref",
    [
        pytest.param(TaskRef("builtin-zeroshot-0a1b2c3d", 1), id="usual"),
        pytest.param(TaskRef("v", 2**63 - 1), id="largest key"),
        pytest.param(TaskRef("模型-1", 7), id="not ascii"),
    ],
)
def test_a_task_reference_survives_its_encoding(ref: TaskRef) -> None:
    assert TaskRef.decode(ref.encode()) == ref


@pytest.mark.parametrize(
    ("version", "task"),
    [
        pytest.param("", 1, id="no version"),
        pytest.param("a|b", 1, id="separator in version"),
        pytest.param("v", 0, id="task zero"),
        pytest.param("v", -1, id="negative task"),
        pytest.param("v", True, id="bool"),
        pytest.param("v", "1", id="text"),
        pytest.param("v", 1.0, id="float"),
    ],
)
def test_a_wrong_task_reference_cannot_be_made(version: str, task: Any) -> None:
    with pytest.raises(JobError):
        TaskRef(version, task)


@pytest.mark.parametrize("member", ["", "v", "v|", "|1", "v|x", "v|1.5", "v|-1", "v|0"])
def test_a_foreign_member_is_refused(member: str) -> None:
    with pytest.raises(JobError):
        TaskRef.decode(member)


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(DrainProject(project=3, slot=0, limit=8), id="drain"),
        pytest.param(RefreshProject(project=3), id="refresh"),
    ],
)
def test_a_job_survives_json(job: DrainProject | RefreshProject) -> None:
    assert type(job).from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({}, id="empty"),
        pytest.param({"project": 1, "slot": 0}, id="missing"),
        pytest.param({"project": 1, "slot": 0, "limit": 1, "more": 1}, id="unknown field"),
        pytest.param({"project": "1", "slot": 0, "limit": 1}, id="text"),
        pytest.param({"project": 0, "slot": 0, "limit": 1}, id="project zero"),
        pytest.param({"project": 1, "slot": -1, "limit": 1}, id="slot below"),
        pytest.param({"project": 1, "slot": 0, "limit": 0}, id="limit below"),
        pytest.param({"project": True, "slot": 0, "limit": 1}, id="bool"),
        pytest.param([1, 0, 1], id="list"),
        pytest.param(None, id="nothing"),
    ],
)
def test_a_wrong_drain_job_is_refused(data: Any) -> None:
    with pytest.raises(JobError):
        DrainProject.from_json(data)


@pytest.mark.parametrize("data", [{}, {"project": -1}, {"project": 1, "slot": 0}, "1"])
def test_a_wrong_refresh_job_is_refused(data: Any) -> None:
    with pytest.raises(JobError):
        RefreshProject.from_json(data)


@pytest.mark.parametrize("job", [DrainProject(project=3, slot=1, limit=8), RefreshProject(project=3)])
def test_what_is_queued_is_json_and_names_an_allowed_function(redis: Redis, job: DrainProject | RefreshProject) -> None:
    queued = predict_queue(redis).fetch_job(enqueue(predict_queue(redis), job))
    assert queued is not None
    assert queued.func_name in jobs.ALLOWED_FUNCTIONS
    assert type(job).from_json(queued.args[0]) == job
    assert (queued.timeout, queued.result_ttl) == (jobs.JOB_TIMEOUT_S, 0)
    payload = redis.hget(f"rq:job:{queued.id}", "data")
    assert isinstance(payload, bytes)
    assert json.loads(zlib.decompress(payload)), "a pickle would run code for anyone who reaches Redis"
