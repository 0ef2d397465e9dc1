"""The supervisor of child processes: nothing ends unnoticed or is left behind, settings reach no others."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from plugin_config.errors import EnvironmentBroken
from plugin_config.local.supervisor import (
    Command,
    Supervisor,
    free_port,
    inherited_environment,
    port_is_free,
    stop_on_signals,
)
from plugin_config.settings import setting_names
from tests.house import runs
from tests.modes import modes

ROOT = Path(__file__).resolve().parent.parent
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(120)
"""


def shell(name: str, script: str, **options: object) -> Command:
    return replace(Command(name, ["/bin/sh", "-c", script]), **options)  # type: ignore[arg-type]


def sleeper(name: str = "sleeper") -> Command:
    return Command(name, ["/bin/sleep", "120"])


def wait_until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def number_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip() != "")
    return int(path.read_text())


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(sleeper())
        first = supervisor.pid("sleeper")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: supervisor.pid("sleeper") != first)
        assert runs(supervisor.pid("sleeper"))


def test_what_a_killed_child_had_started_makes_room_for_the_next(tmp_path: Path) -> None:
    """An orphan would hold the port that the next one needs."""
    note = tmp_path / "grandchild"
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Command("parent", [sys.executable, "-c", PARENT, str(note)]))
        orphan, first = number_in(note), supervisor.pid("parent")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: supervisor.pid("parent") != first)
        wait_until(lambda: not runs(orphan))


def test_a_restart_that_fails_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 120\n")
    program.chmod(0o755)
    with Supervisor(tmp_path / "state") as supervisor:
        supervisor.start(Command("program", [str(program)]))
        first = supervisor.pid("program")
        program.rename(tmp_path / "away")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "cannot be started" in caplog.text)
        (tmp_path / "away").rename(program)
        wait_until(lambda: supervisor.pid("program") != first)
        assert runs(supervisor.pid("program"))


def test_stop_ends_children_and_what_they_started(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Command("parent", [sys.executable, "-c", PARENT, str(note)]))
        supervisor.start(sleeper())
        pids = [number_in(note), supervisor.pid("parent"), supervisor.pid("sleeper")]
        assert all(runs(pid) for pid in pids)
    wait_until(lambda: not any(runs(pid) for pid in pids))
    assert json.loads((tmp_path / "processes.json").read_text()) == []


def test_what_is_ended_on_purpose_is_not_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(sleeper("one"))
        supervisor.start(sleeper("two"))
        ended, other = supervisor.pid("one"), supervisor.pid("two")
        supervisor.end("one", "nobody")
        time.sleep(1.2)
        assert not runs(ended)
        assert runs(other)
        assert supervisor.pid("two") == other
        supervisor.start(sleeper("one"))
        assert runs(supervisor.pid("one"))


def test_a_child_that_will_not_go_is_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugin_config.local.supervisor._STOP_S", 0.3)
    deaf = 'trap "" TERM; echo deaf > "$0"; while :; do sleep 1; done'
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(Command("deaf", ["/bin/sh", "-c", deaf, str(tmp_path / "note")]))
        wait_until((tmp_path / "note").exists)
        pid = supervisor.pid("deaf")
    wait_until(lambda: not runs(pid))


def test_a_child_that_ends_at_once_is_an_error_that_quotes_its_log(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(EnvironmentBroken, match=r"bad: ended at once with status 3: .*no such port") as caught:
            supervisor.start(shell("bad", "echo starting; echo no such port >&2; exit 3", ready=lambda: False))
        assert str(supervisor.log_path("bad")) in caught.value.remedy


def test_the_remedy_at_the_end_of_a_long_message_is_told_whole(tmp_path: Path) -> None:
    """As `zeromask up` tells why its worker has no model, and what to do about it."""
    remedy = "Where there is no network, set MODEL to a file; MODEL=builtin needs none."
    script = f"printf 'model x: %3000s. {remedy}\n' reason >&2; exit 2"
    with Supervisor(tmp_path) as supervisor, pytest.raises(EnvironmentBroken) as caught:
        supervisor.start(shell("worker", script, ready=lambda: False))
    assert remedy in str(caught.value)
    assert len(str(caught.value)) < 2300


def test_a_child_that_start_waits_for_is_not_restarted(tmp_path: Path) -> None:
    """A slow question whether it is ready must not hide that it ended."""
    lives = tmp_path / "lives"

    def slow() -> bool:
        time.sleep(1.2)
        return False

    with Supervisor(tmp_path) as supervisor, pytest.raises(EnvironmentBroken, match="ended at once with status 1"):
        supervisor.start(shell("bad", f"echo x >> {lives}; exit 1", ready=slow))
    assert lives.read_text().split() == ["x"]


def test_a_child_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(EnvironmentBroken, match="was not ready within 0 s"):
            supervisor.start(shell("slow", "sleep 60", ready=lambda: False, ready_s=0.3))
        pid = supervisor.pid("slow")
    wait_until(lambda: not runs(pid))


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor, pytest.raises(EnvironmentBroken, match="cannot be started"):
        supervisor.start(Command("nothing", [str(tmp_path / "nothing")]))


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    with Supervisor(tmp_path), pytest.raises(EnvironmentBroken, match=r"in use.*ZEROMASK_STATE_DIR"):
        Supervisor(tmp_path)
    Supervisor(tmp_path).stop()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentBroken, match="ZEROMASK_STATE_DIR"):
        Supervisor(tmp_path / "file")


KILLED = """
import sys, time
from pathlib import Path
from plugin_config.local.supervisor import Command, Supervisor
state = Path(sys.argv[1])
supervisor = Supervisor(state)
supervisor.start(Command("parent", [sys.executable, "-c", sys.argv[2], str(state / "grandchild")]))
supervisor.start(Command("deaf", ["/bin/sh", "-c", 'trap "" TERM; echo deaf > "$0"; while :; do sleep 1; done',
                                  str(state / "deaf")]))
(state / "up").write_text(f"{supervisor.pid('parent')} {supervisor.pid('deaf')}")
time.sleep(120)
"""


def test_the_leftovers_of_a_killed_supervisor_are_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ignores the kernel's word is ended, and so is what an obedient child had started."""
    monkeypatch.setattr("plugin_config.local.supervisor._STOP_S", 0.3)
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), PARENT], cwd=ROOT)
    wait_until(lambda: (tmp_path / "up").exists() and len((tmp_path / "up").read_text().split()) == 2)
    wait_until((tmp_path / "deaf").exists)
    grandchild = number_in(tmp_path / "grandchild")
    parent, deaf = map(int, (tmp_path / "up").read_text().split())
    killed.kill()
    killed.wait()
    if sys.platform == "linux":
        wait_until(lambda: not runs(parent))  # the kernel ended it
        assert runs(grandchild)
    assert runs(deaf)
    with Supervisor(tmp_path):
        wait_until(lambda: not any(runs(pid) for pid in (parent, deaf, grandchild)))


def test_what_outlived_its_leader_is_ended_too(tmp_path: Path) -> None:
    """The leader is gone and reaped; its group is still there."""
    note = tmp_path / "grandchild"
    with subprocess.Popen([sys.executable, "-c", PARENT, str(note)], start_new_session=True) as leader:
        started = psutil.Process(leader.pid).create_time()
        orphan = number_in(note)
        leader.kill()
    (tmp_path / "processes.json").write_text(json.dumps([{"pid": leader.pid, "started": started}]))
    assert runs(orphan)
    Supervisor(tmp_path).stop()
    wait_until(lambda: not runs(orphan))


@pytest.mark.parametrize("record", ["", "{", "5", "{}", "[5]", "[{}]", '[{"pid": 1, "started": 1.0}]'])
def test_a_list_without_children_of_ours_ends_no_process(record: str, tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text(record)
    Supervisor(tmp_path).stop()


def test_a_process_id_that_was_given_away_again_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"], start_new_session=True) as stranger:
        started = psutil.Process(stranger.pid).create_time() - 100
        (tmp_path / "processes.json").write_text(json.dumps([{"pid": stranger.pid, "started": started}]))
        Supervisor(tmp_path).stop()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_way_of_stopping_is_ctrl_c(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert signal.getsignal(number) is before


def test_free_and_taken_ports_are_distinguished() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not port_is_free(port)


TELL = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps([dict(os.environ), os.umask(0)]))"


def test_a_child_gets_our_settings_from_its_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_API_KEY", "REDIS_URL_FILE", "ZEROMASK_PASSWORD", "ZEROMASK_PORT", "SOMETHING"):
        monkeypatch.setenv(name, "inherited")
    with Supervisor(tmp_path) as supervisor:
        note = tmp_path / "note"
        env = {"ZEROMASK_PORT": "given"}
        supervisor.start(Command("child", [sys.executable, "-c", TELL, str(note)], env, ready=note.exists))
        wait_until(lambda: note.read_text().endswith("]"))
    inherited, umask = json.loads(note.read_text())
    assert {name: inherited.get(name) for name in (*setting_names(), "SOMETHING") if name in inherited} == {
        "ZEROMASK_PORT": "given", "SOMETHING": "inherited",
    }  # fmt: skip
    assert umask == 0o077


def test_a_bare_child_gets_what_every_program_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "LC_ALL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HOMEBREW_TOKEN", "MODEL"):
        monkeypatch.setenv(name, "given")
    wanted = {"PATH", "LC_ALL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "HOMEBREW_TOKEN", "MODEL"}
    assert wanted & set(inherited_environment()) == wanted - {"MODEL"}, "workers fetch weights and versions with them"
    assert wanted & set(inherited_environment(bare=True)) == {"PATH", "LC_ALL"}


def test_what_a_supervisor_writes_is_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "made" / "for it"
    before = os.umask(0o022)
    try:
        with Supervisor(state) as supervisor:
            supervisor.start(sleeper())
            assert modes(state) == {
                ".": 0o700, "lock": 0o600, "logs": 0o700, "logs/sleeper.log": 0o600, "processes.json": 0o600,
            }  # fmt: skip
            assert modes(state.parent)["."] == 0o700
    finally:
        os.umask(before)
