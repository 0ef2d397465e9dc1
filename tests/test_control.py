"""What a person may do to the queue and see of it: cancel, retry, pause, resume, status; on a real Redis."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis
from rich.console import Console

from plugin_config.cli.status import as_json, render
from plugin_config.overview.control import QueueControl
from plugin_config.queue.jobs import predict_queue
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts
from plugin_config.queue.titles import set_title
from plugin_config.settings import Settings
from tests.house import PATIENCE_S
from tests.queue_states import PROJECT, refs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def control(redis: Redis, settings: Settings) -> QueueControl:
    return QueueControl(redis, settings)


def fail_all(pending: PendingTasks, reason: str = "no such picture") -> None:
    for lease in pending.take(PROJECT, "w", limit=100):
        pending.fail(PROJECT, "w", lease.ref, reason)


def test_cancel_takes_back_what_waits_and_what_is_at_work(control: QueueControl, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    (lease,) = pending.take(PROJECT, "w", limit=1)
    assert control.cancel(PROJECT) == 3
    assert pending.counts(PROJECT) == Counts(0, 0, 0, 0)
    assert pending.renew(PROJECT, "w", [lease.ref]) == set(), "its worker finds out before it posts"
    assert pending.add(PROJECT, refs(1)) == 1, "asking again is no different from the first time"


def test_cancel_of_some_tasks_leaves_the_others(control: QueueControl, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 3) + refs(2, version="v2"))
    assert control.cancel(PROJECT, [2, 9]) == 2
    assert set(pending.open_refs(PROJECT)) == set(refs(1, 3))


def test_a_cancelled_bulk_is_gone_in_one_go(control: QueueControl, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(*range(1, 12_001)))
    assert control.cancel(PROJECT) == 12_000
    assert pending.counts(PROJECT).pending == 0


def test_retry_asks_again_for_what_failed(control: QueueControl, pending: PendingTasks, redis: Redis) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    fail_all(pending)
    assert control.retry(PROJECT, [2]) == 1
    assert [lease.ref for lease in pending.take(PROJECT, "w")] == refs(2)
    assert control.retry(PROJECT) == 2
    assert pending.counts(PROJECT) == Counts(pending=2, leased=1, failed=0, done=0)
    assert len(predict_queue(redis)) == 1, "a worker is called"


def test_a_paused_project_gives_no_tasks_until_it_is_resumed(
    control: QueueControl, pending: PendingTasks, redis: Redis
) -> None:
    pending.add(PROJECT, refs(1))
    control.pause(PROJECT)
    assert pending.take(PROJECT, "w") == []
    assert pending.ensure_drains(PROJECT) == 0
    pending.add(PROJECT, refs(2))
    pending.add(8, refs(1))
    assert pending.ensure_drains(8) == 1, "the others go on"
    control.resume(PROJECT)
    assert len(predict_queue(redis)) == 2
    assert len(pending.take(PROJECT, "w")) == 2


def test_the_state_has_projects_pace_workers_and_last_errors(
    control: QueueControl, pending: PendingTasks, presence: WorkerPresence, redis: Redis
) -> None:
    pending.add(PROJECT, refs(*range(1, 13)))
    for lease in pending.take(PROJECT, "w", limit=6):
        pending.done(PROJECT, "w", lease.ref)
    (lease,) = pending.take(PROJECT, "w", limit=1)
    pending.fail(PROJECT, "w", lease.ref, "no such picture")
    pending.take(PROJECT, "w", limit=2)
    pending.add(8, refs(1))
    control.pause(8)
    presence.heartbeat("w", {"model": "builtin", "device": "cpu", "tasks": "2", "trouble": "Label Studio is away"})
    redis.hincrby("zeromask:clock", "now", 6000)  # the five seconds of the work are over
    ledger = ProjectLedger(redis)
    set_title(redis, PROJECT, "Street [red] scenes")
    ledger.set_label_remarks(PROJECT, "v1", ["nothing"])
    ledger.set_label_remarks(PROJECT, "v2", ["label 'wug': not known"])
    state = control.state()
    first, second = state.projects
    assert first.counts == Counts(pending=3, leased=2, failed=1, done=6)
    assert first.per_s == pytest.approx(0.1)
    assert first.eta_s == pytest.approx(50)
    assert (second.paused, second.eta_s) == (True, None)
    (error,) = state.errors
    assert (error.project, error.task, error.version, error.reason) == (PROJECT, 7, "v1", "no such picture")
    row = as_json(state)
    assert row["projects"][0] == {
        "project": PROJECT, "title": "Street [red] scenes", "pending": 3, "leased": 2, "done": 6, "failed": 1,
        "paused": False, "tasks_per_s": 0.1, "eta_s": 50, "remarks": ["label 'wug': not known"]}  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(state))
    text = console.export_text()
    for shown in ("no such picture", "0:00:50", "paused", "builtin", "Label Studio is away", "not known",
                  f"{PROJECT} Street [red] scenes", "waiting", "at work", "time left"):  # fmt: skip
        assert shown in text


def test_the_pace_is_forgotten_after_a_minute(control: QueueControl, pending: PendingTasks, redis: Redis) -> None:
    pending.add(PROJECT, refs(1, 2))
    for lease in pending.take(PROJECT, "w", limit=1):
        pending.done(PROJECT, "w", lease.ref)
    redis.hincrby("zeromask:clock", "now", 70_000)
    (project,) = control.state().projects
    assert (project.per_s, project.eta_s) == (0.0, None)


def test_only_the_last_hundred_errors_are_kept(control: QueueControl, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(*range(1, 151)))
    for lease in pending.take(PROJECT, "w", limit=150):
        pending.fail(PROJECT, "w", lease.ref, "broken")
    assert len(control.state(errors=1000).errors) == 100
    assert control.state(errors=3).errors[0].task == 150
    assert control.state(errors=0).errors == ()


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}
    return subprocess.run([sys.executable, "-m", "plugin_config.cli", *arguments], cwd=ROOT, env={**kept, **env},
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # fmt: skip


def test_the_commands_do_what_they_say(redis_url: str, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1, 2, 3))
    printed = [
        run(*command, REDIS_URL=redis_url).stdout.strip()
        for command in (["pause", "7"], ["resume", "7"], ["cancel", "7", "3"])
    ]
    assert printed == [
        "project 7: paused; `zeromask resume 7` goes on with it.",
        "project 7: resumed.",
        "project 7: 1 tasks cancelled.",
    ]
    fail_all(pending)
    shown = run("status", REDIS_URL=redis_url)
    assert "no such picture" in shown.stdout
    assert run("retry", "7", REDIS_URL=redis_url).stdout.strip() == "project 7: 2 failed tasks queued again."
    shown = json.loads(run("status", "--json", REDIS_URL=redis_url).stdout)
    assert [(row["project"], row["pending"], row["failed"]) for row in shown["projects"]] == [(7, 2, 0)]


@pytest.mark.parametrize(
    ("arguments", "url", "says"),
    [
        pytest.param(["status"], "", "setting REDIS_URL: is not set, and no Redis of `zeromask up`", id="no Redis"),
        pytest.param(["status"], "what?", "setting REDIS_URL: is not the address", id="no address"),
        pytest.param(["pause", "7"], "redis://127.0.0.1:1/0", "Redis: does not answer", id="Redis away"),
    ],
)
def test_a_command_that_cannot_says_why(arguments: list[str], url: str, says: str, tmp_path: Path) -> None:
    done = run(*arguments, REDIS_URL=url, ZEROMASK_STATE_DIR=str(tmp_path))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_without_requests_is_an_error(redis_url: str, redis: Redis) -> None:
    done = run("cancel", "99", REDIS_URL=redis_url)
    assert done.returncode == 2
    assert "project 99: has asked for no predictions yet" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_in_a_terminal_the_status_lives_until_it_is_stopped(
    redis_url: str, pending: PendingTasks, stop: signal.Signals
) -> None:
    pending.add(PROJECT, refs(*range(1, 4322)))
    ours, theirs = pty.openpty()
    env = {**os.environ, "REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "120"}
    status = subprocess.Popen([sys.executable, "-m", "plugin_config.cli", "status"], cwd=ROOT, env=env, stdin=theirs,
                              stdout=theirs, stderr=theirs)  # fmt: skip
    try:
        read_until(ours, "4321")
        pending.add(PROJECT, refs(5000))
        read_until(ours, "4322")
        status.send_signal(stop)
        assert status.wait(timeout=PATIENCE_S) == 0
    finally:
        status.kill()
        os.close(ours)
        os.close(theirs)


def read_until(terminal: int, expected: str) -> None:
    deadline, text = time.monotonic() + PATIENCE_S, ""
    while expected not in text:
        assert time.monotonic() < deadline, text[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            text += os.read(terminal, 65536).decode(errors="replace")
