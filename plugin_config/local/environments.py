"""Make the virtual environments, from nothing, with the standard library alone.

The system's Python runs it as a script, before anything is installed:

    python3 plugin_config/local/environments.py project [label-studio]

Libraries are installed once per set of requirements into a cache outside the clone, so that several clones and every
later run share them; the clone's own `.venv` adds just the project. An environment without its marker was left
half-made, and is made again. As a script its folder is the first on Python's path: no module beside it may have the
name of one of the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LABEL_STUDIO = ("label-studio==1.23.2",)
_OLDEST_PYTHON, _TOO_NEW_PYTHON = (3, 11), (3, 14)  # newer ones are untested
_MARKER = "zeromask-complete"
_TOLD_EVERY_S = 10  # in a log; a terminal is told each second
_OFFLINE_SIGNS = ("name resolution", "ConnectionError", "timed out", "Failed to establish",
                  "Max retries")  # fmt: skip


class SetupFailed(Exception):
    """An environment cannot be made; `str()` says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """One cached set of libraries.

    Attributes:
        name: begins the name of its folder.
        requirements: what pip installs.
        gigabytes, minutes: about what that takes, for people.
    """

    name: str
    requirements: tuple[str, ...]
    gigabytes: float
    minutes: int

    @property
    def path(self) -> Path:
        """Its folder; the name holds a hash of the requirements and of this Python."""
        contents = "\n".join([*self.requirements, platform.python_version(), platform.machine(), sys.base_prefix])
        return cache_folder() / f"{self.name}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"


def cache_folder() -> Path:
    """Folder of all environments: in ZEROMASK_CACHE, or in the user's cache folder."""
    chosen = os.environ.get("ZEROMASK_CACHE") or os.environ.get("XDG_CACHE_HOME")
    base = Path(chosen).expanduser() if chosen else Path.home() / ".cache"
    return base / "zeromask" / "environments"


def _declared() -> dict[str, Any]:
    import tomllib  # here: an older Python has none, and `main` reports that

    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def project_environment() -> Environment:
    """The libraries in pyproject.toml: of every install variant, of the tests, and what builds the packages."""
    declared = _declared()
    extras = declared["project"]["optional-dependencies"]
    wanted = [*requirements_of(*extras), *declared["build-system"]["requires"]]
    return Environment("project", tuple(wanted), gigabytes=7.0, minutes=4)


def backend_environment() -> Environment:
    """The libraries of `zeromask[backend]`: what a machine needs that runs the backend alone."""
    return Environment("backend", requirements_of("backend"), gigabytes=0.2, minutes=1)


def requirements_of(*extras: str) -> tuple[str, ...]:
    """What pip is asked for by the project with these extras, each requirement once."""
    project = _declared()["project"]
    named = [row for extra in extras for row in project["optional-dependencies"][extra]]
    return tuple(dict.fromkeys(row for row in [*project["dependencies"], *named] if not row.startswith("zeromask[")))


def label_studio_environment() -> Environment:
    """Label Studio, in its own environment because its pinned versions conflict with ours."""
    return Environment("label-studio", LABEL_STUDIO, gigabytes=1.5, minutes=3)


def ensure(environment: Environment) -> Path:
    """Make the environment unless it is complete; returns its folder.

    Raises:
        SetupFailed: no disk space, no network, no venv module; the next run continues.
    """
    path = environment.path
    if _is_complete(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupFailed(f"{path.parent} cannot be made ({error}). Set ZEROMASK_CACHE to your own folder.") from error
    with _locked(path.with_suffix(".lock"), environment.name):
        if _is_complete(path):  # another run made it meanwhile
            return path
        if path.exists():
            print(f"The environment {environment.name} was left half-made; making it again.", flush=True)
            shutil.rmtree(path)
        _require_room(path.parent, environment)
        _run([sys.executable, "-m", "venv", str(path)], path.with_suffix(".log"), f"Making {environment.name}")
        step = f"Installing {environment.name} (once, about {environment.gigabytes:g} GB and {environment.minutes} min)"
        pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off"]
        _run([*pip, *environment.requirements], path.with_suffix(".log"), step)
        (path / _MARKER).write_text("\n".join(environment.requirements))
    return path


def _is_complete(path: Path) -> bool:
    return (path / _MARKER).exists() and (path / "bin" / "python").exists()  # the Python it links to may be gone


def link_project(libraries: Path) -> Path:
    """Make the clone's `.venv`: the libraries by path, the project in editable mode. Returns its Python."""
    venv = ROOT / ".venv"
    python, marker = venv / "bin" / "python", venv / _MARKER
    project = _declared()["project"]
    declared = {key: project[key] for key in ("version", "scripts")}  # what an editable install does not follow
    wanted = json.dumps({"libraries": str(libraries), "root": str(ROOT), **declared})
    if marker.exists() and marker.read_text() == wanted and python.exists():
        return python
    if venv.is_symlink() or (venv.exists() and not (venv / "pyvenv.cfg").exists() and not _is_empty(venv)):
        raise SetupFailed(f"{venv} is in the way and is no virtual environment. Move it away and run again.")
    shutil.rmtree(venv, ignore_errors=True)
    log = libraries.with_suffix(".log")
    _run([sys.executable, "-m", "venv", "--without-pip", str(venv)], log, "Making .venv")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = libraries / "lib" / version / "site-packages"
    (venv / "lib" / version / "site-packages" / "zeromask-libraries.pth").write_text(f"{shared}\n")
    pip = [str(libraries / "bin" / "python"), "-m", "pip", "--python", str(python), "install"]
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], log, "Installing the project in .venv")
    marker.write_text(wanted)
    return python


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is making the environment {name}; waiting for it.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_room(folder: Path, environment: Environment) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < environment.gigabytes * 1.5:  # pip unpacks before it installs
        raise SetupFailed(
            f"{environment.name} needs about {environment.gigabytes * 1.5:.0f} GB in {folder}, {free:.1f} GB are free. "
            "Make room, or set ZEROMASK_CACHE to a folder on another disk."
        )


def _run(command: Sequence[str], log: Path, step: str) -> None:
    """Run a command with its output in `log` and its progress on the terminal.

    Args:
        command: the command line.
        log: file that gets the output.
        step: what is being done, for people.

    Raises:
        SetupFailed: it ended with an error.
    """
    start = time.monotonic()
    with log.open("a+", errors="replace") as file:
        begin = file.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                _show(f"{step} ... {time.monotonic() - start:.0f} s", final=False)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1 if sys.stderr.isatty() else _TOLD_EVERY_S)
        except BaseException:  # Ctrl-C above all: pip must not run beside the next run
            process.kill()
            raise
        file.seek(begin)
        output = file.read()
    if process.returncode == 0:
        _show(f"{step} ... done in {time.monotonic() - start:.0f} s", final=True)
        return
    raise SetupFailed(_explain(step, output, log))


def _explain(step: str, output: str, log: Path) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "rror:" in line] or lines[-1:]
    remedy = "Look into the log, mend what it names, and run again: finished downloads are kept."
    if "ensurepip" in output:
        remedy = "Install your system's venv package (Debian, Ubuntu: apt install python3-venv) and run again."
    elif any(sign in output for sign in _OFFLINE_SIGNS):
        remedy = "The package registry was not reached: check the network (or PIP_INDEX_URL) and run again."
    elif "No matching distribution" in output:
        remedy = (
            "The registry was not reached or has none for this Python: check the network (or PIP_INDEX_URL), "
            "or name another Python (make PYTHON=/path/to/python3.12), and run again."
        )
    elif "No space left" in output:
        remedy = "The disk is full: make room, or set ZEROMASK_CACHE to a folder on another disk, and run again."
    return f"{step} failed: {' '.join(errors[-1:])[:300]}\n{remedy}\nLog: {log}"


def _show(text: str, *, final: bool) -> None:
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r\033[K{text}" if terminal else f"{text}\n")
    if terminal and final:
        sys.stderr.write("\n")
    sys.stderr.flush()


def main(names: Sequence[str]) -> int:
    """Make the named environments; returns the exit status."""
    if not _OLDEST_PYTHON <= sys.version_info[:2] < _TOO_NEW_PYTHON:
        print(f"Python 3.11, 3.12 or 3.13 is needed, this is {platform.python_version()}. "
              "Name another one: make PYTHON=/path/to/python3.11 ...")  # fmt: skip
        return 2
    try:
        for name in names:
            if name == "project":
                link_project(ensure(project_environment()))
            elif name == "label-studio":
                ensure(label_studio_environment())
            else:
                raise SetupFailed(f"There is no environment {name!r}; there are project and label-studio.")
    except SetupFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next run goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
