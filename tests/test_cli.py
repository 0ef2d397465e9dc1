"""The `zeromask` command line: its help, what it imports, wrong use, and output that is not read any more."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from plugin_config.cli.main import COMMANDS, CommandEntry, zeromask
from plugin_config.local.supervisor import free_port
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from tests.house import PATIENCE_S
from tests.queue_states import PROJECT, refs

ROOT = Path(__file__).resolve().parent.parent
ZEROMASK = [sys.executable, "-m", "plugin_config.cli"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "REDIS_URL"))}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ZEROMASK, *arguments], cwd=ROOT, env={**CLEAN, **env}, capture_output=True, text=True,
                          timeout=PATIENCE_S, check=False)  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",), ("help",)], ids=str)
def test_help_lists_every_command_in_order(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(zeromask, arguments, prog_name="zeromask")
    assert done.exit_code == 0
    listed = re.findall(r"^  ([a-z-]+)  +\S", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == [entry.name for entry in COMMANDS]


def test_help_loads_no_command() -> None:
    script = """
import sys
from plugin_config.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {"torch", "redis", "numpy", "httpx", "rich"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE_S, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_each_command_is_there(entry: CommandEntry) -> None:
    assert entry.command().name == entry.name
    if isinstance(entry.source, str):
        spec = importlib.util.find_spec(entry.source)
        assert spec is not None, entry.source
        if spec.submodule_search_locations is not None:  # a package runs by its __main__
            assert importlib.util.find_spec(f"{entry.source}.__main__") is not None


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS if not isinstance(entry.source, str)])
def test_each_command_explains_itself_under_its_own_name(name: str) -> None:
    done = CliRunner().invoke(zeromask, [name, "--help"], prog_name="zeromask")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: zeromask {name} [OPTIONS]")


@pytest.mark.parametrize("name", ["backend", "report"])
def test_a_module_explains_itself_under_the_name_of_its_command(name: str) -> None:
    done = run(name, "--help", LABEL_STUDIO_URL="")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: zeromask {name} [-h]")


def test_an_unknown_command_names_the_closest_one_and_all_of_them() -> None:
    done = run("segmnt")
    assert done.returncode == 2
    assert "no command 'segmnt'. Did you mean 'segment'?" in done.stderr
    assert all(f"\n  {entry.name} " in done.stderr for entry in COMMANDS)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["status", "--errors", "many"], "--errors", id="no number"),
        pytest.param(["status", "--sideways"], "--sideways", id="unknown option"),
        pytest.param(["cancel"], "PROJECT", id="missing argument"),
        pytest.param(["pause", "x"], "PROJECT", id="no project"),
        pytest.param(["pause", "7", "8"], "8", id="one too many"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(zeromask, arguments, prog_name="zeromask")
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_module_gets_its_arguments_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, argv: handed.append(argv))
    CliRunner().invoke(zeromask, ["segment", "--json", "--", "-x.png", "--help"], catch_exceptions=False)
    assert handed == [[sys.executable, "-P", "-m", "worker.segment", "--json", "--", "-x.png", "--help"]]


@pytest.mark.parametrize(
    ("worker", "queue", "status"),
    [
        pytest.param("{host}-12-abcdef", "predict", 0, id="alive"),
        pytest.param("{host}-12-abcdef", "finetune", 2, id="another kind of worker"),
        pytest.param("{host}-more-12-abcdef", "predict", 2, id="on another machine of a longer name"),
        pytest.param("elsewhere-12-abcdef", "predict", 2, id="on another machine"),
    ],
)
def test_a_worker_of_this_machine_is_found_alive(
    worker: str, queue: str, status: int, presence: WorkerPresence, redis_url: str
) -> None:
    presence.heartbeat(worker.format(host=socket.gethostname()))
    done = CliRunner().invoke(zeromask, ["alive", "--queue", queue], env={"REDIS_URL": redis_url})
    assert done.exit_code == status
    assert status == 0 or "gave no sign of life" in done.stderr


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["--redis-may-be-away"], 0)])
def test_a_redis_that_is_away_may_be_no_reason_to_restart_a_worker(arguments: list[str], status: int) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = CliRunner().invoke(zeromask, ["alive", *arguments], env=env)
    assert done.exit_code == status
    assert ("Redis: does not answer" in done.stderr) == (status == 2)


def test_a_worker_that_is_gone_is_told_all_the_same(presence: WorkerPresence, redis_url: str) -> None:
    done = CliRunner().invoke(zeromask, ["alive", "--redis-may-be-away"], env={"REDIS_URL": redis_url})
    assert done.exit_code == 2


def start(arguments: list[str], *, output: int, errors: Path, **env: str) -> subprocess.Popen[bytes]:
    """A command whose standard output is a file descriptor, with its standard error in a file of its own."""
    with errors.open("wb") as file:
        return subprocess.Popen([*ZEROMASK, *arguments], cwd=ROOT, env={**CLEAN, "TERM": "xterm", **env}, stdin=output,
                                stdout=output, stderr=file)  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["status"], id="status"),
        pytest.param(["status", "--once"], id="status --once"),
        pytest.param(["status", "--json"], id="status --json"),
        pytest.param(["pause", "7"], id="pause"),
        pytest.param(["--help"], id="help"),
        pytest.param(["status", "--help"], id="help of a command"),
    ],
)
def test_a_closed_pipe_ends_a_command_quietly(
    arguments: list[str], redis_url: str, pending: PendingTasks, tmp_path: Path
) -> None:
    pending.add(PROJECT, refs(1))
    read, write = os.pipe()
    os.close(read)
    command = start(arguments, output=write, errors=tmp_path / "errors", REDIS_URL=redis_url, MODEL="builtin")
    os.close(write)
    assert command.wait(timeout=PATIENCE_S) == 1
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("arguments", [["status"], ["status", "--once"], ["status", "--json"]], ids=" ".join)
def test_a_closed_terminal_ends_the_status_quietly(
    arguments: list[str], redis_url: str, pending: PendingTasks, tmp_path: Path
) -> None:
    pending.add(PROJECT, refs(*range(1, 4322)))
    ours, theirs = pty.openpty()
    command = start(arguments, output=theirs, errors=tmp_path / "errors", REDIS_URL=redis_url)
    try:
        os.close(theirs)
        if arguments == ["status"]:
            read_until(ours, "4321")
        os.close(ours)
        assert command.wait(timeout=PATIENCE_S) == 1
    finally:
        command.kill()
    assert (tmp_path / "errors").read_text() == ""


def read_until(terminal: int, text: str) -> None:
    deadline, shown = time.monotonic() + PATIENCE_S, ""
    while text not in shown:
        assert time.monotonic() < deadline, shown[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")


def test_an_error_of_a_file_is_no_closed_output() -> None:
    """Only where nobody reads the output may an EIO be swallowed: a broken disk raises it too."""
    script = """
import errno
from plugin_config.closed_output import run_command
def main():
    raise OSError(errno.EIO, "Input/output error")
run_command(main)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE_S, check=False)  # fmt: skip
    assert done.returncode == 1
    assert "OSError: [Errno 5]" in done.stderr
