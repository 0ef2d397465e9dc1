"""Files written whole or not at all, and private files and folders, whatever the umask and an earlier run left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_config.files import (
    ASIDE,
    close_to_others,
    is_private,
    open_private,
    private_folder,
    write_private,
    written_whole,
)
from tests.modes import modes, open_to_others

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def leave_open(folder: Path) -> Path:
    """A folder as an earlier version left it."""
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "worker.log").write_text("")
    (folder / "program").write_text("")
    (folder / "program").chmod(0o755)
    return folder


def test_a_folder_is_made_private_with_those_above_it(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert modes(tmp_path / "a") == {".": 0o700, "b": 0o700}


def test_a_folder_that_is_there_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    assert not is_private(tmp_path / "a")
    private_folder(tmp_path / "a")
    assert is_private(tmp_path / "a")


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        private_folder(tmp_path / "file" / "a")


def test_files_are_private_new_and_old(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("before ")
    for name in ("old", "new"):
        with open_private(tmp_path / name, "ab") as file:
            file.write(b"after")
    write_private(tmp_path / "whole", "this")
    write_private(tmp_path / "whole", "that")
    assert (tmp_path / "old").read_text() == "before after"
    assert (tmp_path / "whole").read_text() == "that"
    assert {name: mode for name, mode in modes(tmp_path).items() if name != "."} == {
        "old": 0o600, "new": 0o600, "whole": 0o600,
    }  # fmt: skip


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="link"):
        open_private(tmp_path / "link", "ab")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "target")
    close_to_others(tmp_path / "mine")
    assert modes(tmp_path)["target"] == 0o644
    assert not is_private(tmp_path / "link")


def test_what_an_earlier_run_left_open_is_closed_and_stays_what_it_is(tmp_path: Path) -> None:
    close_to_others(leave_open(tmp_path / "state"))
    assert modes(tmp_path / "state") == {".": 0o700, "logs": 0o700, "logs/worker.log": 0o600, "program": 0o700}
    close_to_others(tmp_path / "nothing")


def test_a_folder_of_everybody_is_left_alone(tmp_path: Path) -> None:
    everybodys = leave_open(tmp_path / "tmp")
    everybodys.chmod(0o1777)
    before = modes(everybodys)
    close_to_others(everybodys)
    private_folder(everybodys)
    assert modes(everybodys) == before


BEGIN = """
import json, os, resource, sys
from pathlib import Path
from plugin_config.files import keep_private
keep_private(Path(sys.argv[1]))
Path(sys.argv[1], "new").write_text("")
print(json.dumps([resource.getrlimit(resource.RLIMIT_CORE)[0], os.umask(0)]))
"""


def test_a_process_that_keeps_private_writes_for_its_owner_and_leaves_no_core(tmp_path: Path) -> None:
    state = leave_open(tmp_path / "state")
    command = [sys.executable, "-c", BEGIN, str(state)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [0, 0o077]
    assert open_to_others(state) == {}
    assert modes(state)["new"] == 0o600


READ_ONLY = """
import errno, os, sys
from pathlib import Path
from plugin_config.errors import EnvironmentBroken
from plugin_config.files import keep_private

def refuse(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

Path.chmod = refuse
try:
    keep_private(Path(sys.argv[1]))
except EnvironmentBroken as error:
    print(error)
"""


def test_what_cannot_be_made_private_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ_ONLY, str(leave_open(tmp_path / "state"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot be closed to others" in done.stdout and "chmod" in done.stdout


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with written_whole(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert (aside.parent, aside.suffix) == (tmp_path, ASIDE)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("of the block"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), written_whole(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), written_whole(path):
        pass
    assert path.read_text() == "old"


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"), written_whole(path) as aside:
        aside.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_flushed_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    flushed: list[str] = []

    def flush(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        flushed.append(f"{kind} while {path.read_text()}")

    monkeypatch.setattr(os, "fsync", flush)
    with written_whole(path, durable=durable) as aside:
        aside.write_text("new")
    assert flushed == (["file while old", "folder while new"] if durable else [])


KILLED = """
import os, signal, sys
from pathlib import Path
from plugin_config.files import written_whole
with written_whole(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_half_way_leaves_the_old_file_and_one_aside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (aside,) = set(tmp_path.iterdir()) - {path}
    assert aside.name.endswith(ASIDE)
    assert aside.read_text() == "half"
