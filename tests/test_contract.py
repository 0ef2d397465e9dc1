"""The number of the contract: an old worker leaves newer jobs and their projects to others, and says so.

Nothing is lost or doubled while an installation is upgraded, with real processes on a real Redis.

What the next release may be is `tests.next_contract`.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from redis import Redis
from rq.serializers import JSONSerializer

from plugin_config.local.supervisor import Command, answers_http, free_port, inherited_environment, module_command
from plugin_config.queue.contract import CONTRACT, contract_of, contract_remark
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import LEARN_JOB, LearnProject, TaskRef, enqueue_learning, learn_queue, refresh_queue
from plugin_config.queue.keys import CONTRACTS, PREDICT_QUEUE, ProjectKeys
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from tests.house import PATIENCE_S, wait_until
from tests.queue_states import time_passes
from tests.stand_ins import PROJECT, StandInContext, context_fixture, version
from worker.lab.benchmarks.counting_server import CONFIG
from worker.lab.benchmarks.services import BenchServices, bench_services, blotches
from worker.service import queue_worker
from worker.service.context import WorkerContext
from worker.service.outdated import look_for_newer
from worker.service.plain_jobs import PlainQueue
from worker.service.queue_worker import PlainWorker

__all__ = ["context_fixture"]

ROOT = Path(__file__).resolve().parent.parent
NEXT = CONTRACT + 1
NAMES = """
from tests.next_contract import raise_contract
raise_contract()
from plugin_config.queue import keys
from plugin_config.queue.jobs import learn_job_id
print(keys.PREDICT_QUEUES, keys.QUEUES, learn_job_id(7))
"""


def refs(*tasks: int) -> list[TaskRef]:
    return [TaskRef(version(), task) for task in tasks]


@pytest.fixture
def newer(redis: Redis, pending: PendingTasks) -> None:
    """Tasks 1 to 4 of the project, of which a newer part has requested some."""
    pending.add(PROJECT, refs(1, 2, 3, 4))
    pending.confirm_project(PROJECT)
    redis.hset(CONTRACTS, str(PROJECT), NEXT)


def test_this_contract_writes_what_was_written_before_it_had_a_number(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    pending.ensure_drains(PROJECT)
    ProjectLedger(redis).start_rollout(PROJECT, version())
    assert PREDICT_QUEUE == "zeromask-predict"
    assert not redis.exists(CONTRACTS)
    assert pending.newest_contract() == 1


def test_jobs_of_the_next_contract_have_queues_of_their_own() -> None:
    told = subprocess.run([sys.executable, "-c", NAMES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.startswith("('zeromask-predict-2', 'zeromask-predict') ('zeromask-predict-2', 'zeromask-predict', ")
    assert "'zeromask-look-2', 'zeromask-look', 'zeromask-learn-2', 'zeromask-learn') learn-7-2" in told


@pytest.mark.usefixtures("newer")
def test_tasks_that_a_newer_part_requested_are_neither_taken_nor_drained_nor_swept(
    redis: Redis, pending: PendingTasks
) -> None:
    assert pending.take(PROJECT, "old") == []
    assert pending.ensure_drains(PROJECT, urgent=True) == 0
    redis.hset(ProjectKeys(PROJECT).leases, refs(9)[0].encode(), "newer|in another form")
    assert pending.sweep() == []
    assert pending.counts(PROJECT).leased == 1
    redis.hset(CONTRACTS, str(PROJECT), CONTRACT)
    assert len(pending.take(PROJECT, "old")) == 4


def test_what_was_leased_before_is_finished(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2))
    pending.take(PROJECT, "old")
    redis.hset(CONTRACTS, str(PROJECT), NEXT)
    assert pending.renew(PROJECT, "old", refs(1, 2)) == set(refs(1, 2))
    assert pending.done(PROJECT, "old", refs(1)[0])
    assert pending.give_back(PROJECT, "old", refs(2)[0])
    assert pending.counts(PROJECT).pending == 1


def test_a_newer_contract_is_not_taken_back_by_an_older_part(redis: Redis, pending: PendingTasks, newer: None) -> None:
    pending.add(PROJECT, refs(5))
    pending.retry_failed(PROJECT, refs(6))
    ProjectLedger(redis).start_rollout(PROJECT, version())
    assert pending.is_newer(PROJECT)
    pending.forget_project(PROJECT)
    assert not pending.is_newer(PROJECT)


@pytest.mark.parametrize("value", ["x", "nan", "-1", ""])
def test_a_contract_that_is_no_number_counts_as_the_first(redis: Redis, pending: PendingTasks, value: str) -> None:
    redis.hset(CONTRACTS, str(PROJECT), value)
    assert not pending.is_newer(PROJECT)
    assert pending.newest_contract() == 1


@pytest.mark.usefixtures("newer")
def test_a_learner_leaves_the_rounds_of_such_a_project(redis: Redis) -> None:
    learning = ProjectLearning(redis, lease_s=1)
    learning.request_now(PROJECT)
    learning.request_now(8)
    time_passes(redis, 1)
    assert learning.due() == [8]


@dataclass
class Old:
    """A worker of this contract that notes what it did and ends when told."""

    worker: PlainWorker
    done: list[int]


@pytest.fixture
def old(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Old]:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    queues = [PlainQueue(queue(redis).name, connection=redis, serializer=JSONSerializer)
              for queue in (refresh_queue, learn_queue)]  # fmt: skip
    worker, done = PlainWorker(queues, connection=redis, serializer=JSONSerializer), list[int]()
    worker.stopping = threading.Event()
    run = lambda payload: done.append(payload["project"])  # noqa: E731
    worker.functions = {"worker.tasks.refresh_project": run, LEARN_JOB: run}
    yield Old(worker, done)


@pytest.mark.usefixtures("newer")
def test_an_older_job_about_such_a_project_is_put_back_untouched_and_others_are_done(
    redis: Redis, old: Old, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = list[float]()
    monkeypatch.setattr(old.worker.stopping, "wait", rests.append)
    hints = ProjectHints(redis)
    for project in (PROJECT, 8):
        hints.request_refresh(project)
    assert enqueue_learning(learn_queue(redis), LearnProject(project=PROJECT))
    jobs = {job.id: redis.hgetall(job.key) for queue in (refresh_queue, learn_queue) for job in queue(redis).jobs
            if str(PROJECT) in job.id.split("-")}  # fmt: skip
    old.worker.work(logging_level="WARNING", max_jobs=20)
    assert old.done == [8]
    assert {name: redis.hgetall(f"rq:job:{name}") for name in jobs} == jobs
    assert sorted([*refresh_queue(redis).job_ids, *learn_queue(redis).job_ids]) == sorted(jobs)
    assert rests == [queue_worker._LEFT_S] * len(rests)
    assert len(rests) >= 8, "it rests each time it has met both"


@pytest.mark.usefixtures("newer")
def test_a_lone_queue_keeps_no_copy_of_what_is_put_back(redis: Redis, old: Old) -> None:
    """RQ moves the job of a lone queue into a list of jobs that begin."""
    enqueue_learning(learn_queue(redis), LearnProject(project=PROJECT))
    old.worker.queues = old.worker._ordered_queues = old.worker.queues[1:]
    old.worker.work(logging_level="WARNING", max_jobs=1)
    assert learn_queue(redis).job_ids == [f"learn-{PROJECT}"]
    assert redis.llen(learn_queue(redis).intermediate_queue_key) == 0


def test_an_old_worker_tells_it_once(
    redis: Redis, context: StandInContext, newer: None, caplog: pytest.LogCaptureFixture
) -> None:
    duty = look_for_newer(cast("WorkerContext", context))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            duty.run()
    told = f"jobs of contract {NEXT} are left to newer workers, this one has contract {CONTRACT}: upgrade this worker"
    assert context.outdated == told
    assert caplog.text.count(told) == 1
    redis.delete(CONTRACTS)
    duty.run()
    assert context.outdated == ""


def test_other_contracts_are_told_by_who_is_older() -> None:
    assert contract_remark({"contract": str(CONTRACT)}) == contract_remark({}) == ""
    assert "this installation is older" in contract_remark({"contract": str(NEXT)})
    assert "until it is upgraded" in contract_remark({"contract": str(CONTRACT - 1)})
    assert [contract_of({"contract": text}) for text in ("3", "x", "9" * 40, "")] == [3, 1, 1, 1]


@dataclass
class Fleet:
    """Backends and workers of two releases on one Redis."""

    services: BenchServices
    backends: dict[str, str]

    def start(self, name: str, module: str, *, newer: bool) -> None:
        """Start a part and wait until it is ready."""
        settings, presence = self.services.settings, WorkerPresence(self.services.redis)
        if module == "backend":
            settings = replace(settings, port=free_port(), state_dir=f"{settings.state_dir}/{name}")
            self.backends[name] = url = f"http://127.0.0.1:{settings.port}"
        lived = presence.count()
        argv = [*module_command("tests.next_contract"), module] if newer else module_command(module)
        ready = (lambda: answers_http(f"{url}/health")) if module == "backend" else lambda: presence.count() > lived
        env = {**settings.environment("backend" if module == "backend" else "worker"), "PYTHONPATH": str(ROOT)}
        self.services.supervisor.start(Command(name, argv, env, ready=ready, ready_s=PATIENCE_S))

    def ask(self, backend: str, project: int, tasks: range) -> None:
        """What Label Studio sends when somebody selects tasks and retrieves predictions."""
        body = {"tasks": [{"id": task} for task in tasks], "project": f"{project}.1", "label_config": CONFIG,
                "params": {"context": None}}  # fmt: skip
        answer = httpx.post(f"{self.backends[backend]}/predict", json=body, timeout=60, trust_env=False)
        assert answer.json()["results"] == [[] for _ in tasks]

    def wait_done(self, number: int) -> None:
        wait_until(lambda: self.services.counted()["tasks"] == number, told=f"{number} predictions")

    def did(self, worker: str) -> set[int]:
        """Tasks that a worker stored the predictions of."""
        log = self.services.supervisor.log_path(worker).read_text()
        return {int(found) for found in re.findall(r"task (\d+): \d+ regions, version", log)}

    def status(self) -> Mapping[str, Any]:
        env = {**inherited_environment(), **self.services.settings.environment("worker")}
        command = [*module_command("plugin_config.cli"), "status", "--json"]
        told = subprocess.run(command, env=env, check=True, capture_output=True).stdout
        return dict(json.loads(told))


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with bench_services(tasks=100, picture=blotches(8, 8), model="builtin", drain_tasks=4, lease_s=4.0) as services:
        yield Fleet(services, {})


WORKER = "worker.lab.benchmarks.drain"  # the worker without a model: leases and posts are the real ones


def test_a_rolling_upgrade_and_the_way_back_lose_and_double_nothing(fleet: Fleet) -> None:
    """A worker of the next contract beside those of this one, then a backend of it; the old ones stay."""
    services, supervisor = fleet.services, fleet.services.supervisor
    fleet.start("backend", "backend", newer=False)
    fleet.start("worker", WORKER, newer=False)
    fleet.ask("backend", 1, range(1, 21))
    fleet.wait_done(20)
    fleet.start("worker-next", WORKER, newer=True)
    fleet.ask("backend", 1, range(21, 41))
    fleet.wait_done(40)
    assert services.pending.newest_contract() == 1, "a newer worker that does what an older backend requests"

    fleet.start("backend-next", "backend", newer=True)
    supervisor.end("worker-next")
    wait_until(lambda: WorkerPresence(services.redis).count() == 1, told="the newer worker is gone")
    before = fleet.did("worker")
    fleet.ask("backend-next", 1, range(41, 61))
    fleet.ask("backend", 2, range(61, 81))
    ProjectHints(services.redis).request_refresh(1)  # as an old backend does
    fleet.wait_done(60)
    time.sleep(3)
    assert fleet.did("worker") - before == set(range(61, 81)), "it goes on with what older parts request"
    assert (services.pending.counts(1).pending, services.pending.counts(1).leased) == (20, 0)
    assert services.redis.llen("rq:queue:zeromask-predict-2") > 0, "newer jobs are not touched"
    # Nor are older ones about what is newer, but taken and put back each second.
    wait_until(lambda: services.redis.llen("rq:queue:zeromask-look") == 1, told="the refresh in its place")
    pushed = int(services.redis.info("commandstats")["cmdstat_rpush"]["calls"])
    time.sleep(3)
    assert int(services.redis.info("commandstats")["cmdstat_rpush"]["calls"]) - pushed < 10, "no busy loop"
    (row,) = fleet.status()["workers"]
    assert row["contract"] == "1"
    assert row["trouble"].endswith("upgrade this worker")
    log = supervisor.log_path("worker").read_text()
    assert (log.count("upgrade this worker"), log.count("refused")) == (1, 0)

    fleet.start("worker-again", WORKER, newer=True)
    fleet.wait_done(80)
    wait_until(lambda: services.redis.llen("rq:queue:zeromask-look") == 0, told="the refresh is done")
    wait_until(lambda: fleet.did("worker-again") >= set(range(41, 61)), told="the newer worker's log")
    assert sorted(row["contract"] for row in fleet.status()["workers"]) == ["1", "2"]
    health = [httpx.get(f"{url}/health", timeout=60, trust_env=False).json()["contract"]
              for url in fleet.backends.values()]  # fmt: skip
    assert health == [1, 2]

    supervisor.end("worker-again", "backend-next")  # back: nothing is pending, and the note of the newer one is deleted
    services.redis.delete(CONTRACTS)
    fleet.ask("backend", 1, range(81, 101))
    fleet.wait_done(100)
    counted = services.counted()
    assert (counted["posts"], counted["duplicated"]) == (100, 0)
    assert services.pending.failures(1) == services.pending.failures(2) == {}
