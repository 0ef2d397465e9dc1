"""State that the commit before the queue's contract had a number wrote is known to this code, served and worked off.

`tests.upgrade` wrote `tests/upgrade/previous` with that commit's code, and tries the way back, which needs that code;
what is compared here instead is the form of every record that this code writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.local.supervisor import Command, Supervisor, answers_http, free_port, module_command
from plugin_config.overview.control import QueueControl
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from tests.house import PATIENCE_S, wait_until
from tests.upgrade.__main__ import PREVIOUS, RESULTS, changes
from tests.upgrade.make_state import LABEL_STUDIO
from tests.upgrade.read_state import read
from tests.upgrade.shapes import shapes
from worker.lab.benchmarks.services import blotches

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parent.parent
KNOWN: dict[str, Any] = json.loads((PREVIOUS / "read.json").read_text())
VERSION = KNOWN["projects"]["1"]["target"]


def test_what_the_commit_before_wrote_is_known_as_it_knew_it() -> None:
    assert KNOWN["projects"]["1"]["counts"] == {"pending": 4, "leased": 2, "done": 2, "failed": 1}, "it has something"
    assert read(PREVIOUS / "state") == KNOWN


def test_every_record_has_the_form_that_the_commit_before_wrote(tmp_path: Path) -> None:
    """So that commit reads what this one writes, as the stored result of the command shows in full."""
    command = [sys.executable, "-P", str(ROOT / "tests" / "upgrade" / "make_state.py"), str(tmp_path / "state")]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=PATIENCE_S)
    before = shapes(PREVIOUS / "state")
    assert len(before) > 40
    assert changes(before, shapes(tmp_path / "state")) == []


def test_the_way_there_and_back_was_tried_and_changed_nothing() -> None:
    found = json.loads(RESULTS.read_text())
    assert (found["read_otherwise_there"], found["read_otherwise_back"], found["changed_forms"]) == ([], [], [])


def test_what_differs_is_found() -> None:
    one = {"a": {"b": 1, "c": [1]}}
    assert changes(one, {"a": {"b": 1, "c": [1]}}) == []
    assert changes(one, {"a": {"b": 2, "c": [1]}, "d": 0}) == ["/a/b: 1 became 2", "/d: null became 0"]


@dataclass(frozen=True)
class Upgraded:
    """This code's parts on a copy of the state; `counting` is where the stand-in for Label Studio counts posts."""

    redis: Redis
    settings: Settings
    supervisor: Supervisor
    counting: str

    def counted(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.counting}/count", timeout=60, trust_env=False).json())


@pytest.fixture
def upgraded() -> Iterator[Upgraded]:
    """Backend, worker and learner; Label Studio's address is that of the state, behind a proxy that is the stand-in."""
    with tempfile.TemporaryDirectory(prefix="zm-u-") as place:  # a short path: it holds a socket
        state, port = Path(place) / "state", free_port()
        shutil.copytree(PREVIOUS / "state", state)
        (state / "picture.bmp").write_bytes(blotches(96, 128))
        address, counting = embedded_redis(state), f"http://127.0.0.1:{port}"
        settings = Settings(model="builtin", state_dir=str(state), redis_url=address.url, port=free_port(), threads=1,
                            label_studio_url=LABEL_STUDIO, label_studio_api_key="x", lease_s=8.0)  # fmt: skip
        ours = {"PYTHONPATH": str(ROOT), "HTTP_PROXY": counting, "http_proxy": counting, "NO_PROXY": ""}
        with Supervisor(state) as supervisor, Redis.from_url(address.url) as redis:
            supervisor.start(address.command)

            def start(name: str, *argv: str, **options: Any) -> None:
                side = "backend" if name == "backend" else "worker"
                env = {**settings.environment(side), **ours}  # type: ignore[arg-type]
                command = Command(name, [*module_command(argv[0]), *argv[1:]], env, ready_s=PATIENCE_S)
                supervisor.start(replace(command, **options))

            start("counting", "worker.lab.benchmarks.counting_server", "--port", str(port), "--tasks", "40",
                  "--picture", str(state / "picture.bmp"), ready=lambda: answers_http(f"{counting}/count"))  # fmt: skip
            start("backend", "backend", ready=lambda: answers_http(f"http://127.0.0.1:{settings.port}/health"))
            start("worker", "worker")
            start("learner", "worker", "--queue", "finetune")
            yield Upgraded(redis, settings, supervisor, counting)


def test_the_queue_drains_with_what_was_learned_and_the_learner_goes_on(upgraded: Upgraded) -> None:
    pending = PendingTasks(upgraded.redis, drain_tasks=4, lease_s=8)
    learning = ProjectLearning(upgraded.redis, lease_s=8)
    wait_until(lambda: upgraded.counted()["tasks"] == 8, told="six tasks of the queue and two of the outbox")
    wait_until(lambda: pending.open_refs(1) == pending.open_refs(3) == [], told="the queue is drained")
    (reason,) = pending.failures(3).values()
    assert "holds no file of this task" in reason, "task 31 of the outbox: the stand-in has all files in project 1"
    assert not (upgraded.settings.state_path / "asked.jsonl").exists()
    assert upgraded.counted()["duplicated"] == 0

    def posted() -> list[Any]:
        log = upgraded.supervisor.log_path("worker").read_text()
        return sorted(re.findall(r"task (\d+): \d+ regions, version (.*), fetch", log), key=lambda row: int(row[0]))

    wait_until(lambda: len(posted()) >= 8, told="the worker's log")
    assert posted() == [(str(task), VERSION) for task in range(4, 12)]
    assert {ref.encode(): reason for ref, reason in pending.failures(1).items()} == KNOWN["projects"]["1"]["failures"]
    assert sorted(ref.encode() for ref in pending.open_refs(2)) == KNOWN["projects"]["2"]["open"], "still paused"
    assert pending.counts(1).done == 10

    def learned() -> bool:
        progress, before = learning.progress(1), KNOWN["projects"]["1"]["progress"]["at"]
        return progress is not None and progress.at != before and progress.state != "learning"

    wait_until(learned, told="a round of the learner")
    progress = learning.progress(1)
    assert progress is not None
    assert progress.state == "idle", progress.detail
    (served,) = ServedAdapters(upgraded.redis).copies(1)
    assert (served.served, served.trouble) == (KNOWN["projects"]["1"]["served"][0]["served"], "")
    state = QueueControl(upgraded.redis, upgraded.settings).state()
    assert state.quarantined == ()
    assert [row.trouble for row in (*state.workers, *state.learners)] == ["", ""]
