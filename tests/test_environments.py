"""The virtual environments: made once, made again when half-made, and a failure that says what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from plugin_config.local import environments
from plugin_config.local.environments import Environment, SetupFailed, ensure, link_project
from tests.house import PATIENCE_S

SCRIPT = Path(environments.__file__)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and a pip without an index."""
    monkeypatch.setenv("ZEROMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return tmp_path / "cache"


def wheel(folder: Path, name: str = "tinypackage") -> Path:
    """A package written by hand."""
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "VALUE = 42\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def tiny(*requirements: str, gigabytes: float = 0.001) -> Environment:
    return Environment("tiny", requirements, gigabytes=gigabytes, minutes=1)


def test_an_environment_is_made_once_and_again_when_half_made(tmp_path: Path) -> None:
    environment = tiny(str(wheel(tmp_path)))
    (environment.path / "lib").mkdir(parents=True)  # a run that was stopped in the middle
    (environment.path / "lib" / "junk").write_text("junk")
    made = ensure(environment)
    assert not (made / "lib" / "junk").exists()
    script = "import tinypackage; print(tinypackage.VALUE)"
    done = subprocess.run([made / "bin" / "python", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "42"

    (made / "witness").write_text("")
    assert ensure(environment) == made
    assert (made / "witness").exists()  # reused

    (made / "bin" / "python").unlink()  # as when the Python it was made of is removed
    assert not environments._is_complete(made)


def test_other_requirements_are_another_environment() -> None:
    assert tiny("a").path != tiny("b").path
    assert tiny("a").path == tiny("a").path


def test_a_failing_install_names_its_log_and_leaves_no_complete_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tiny("tinypackage-that-is-nowhere==1.0")
    with pytest.raises(SetupFailed) as caught:
        ensure(environment)
    text = str(caught.value)
    log = environment.path.with_suffix(".log")
    assert f"Log: {log}" in text
    assert "No matching distribution" in log.read_text()
    assert "check the network (or PIP_INDEX_URL)" in text
    assert not environments._is_complete(environment.path)


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("WARNING: Retrying ... Temporary failure in name resolution", "check the network"),
        ("ERROR: No matching distribution found for torch", "check the network"),
        ("ReadTimeoutError: read timed out", "check the network"),
        ("pip._vendor.urllib3.exceptions.MaxRetryError: Max retries exceeded", "check the network"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "ZEROMASK_CACHE"),
        ("The virtual environment was not created because ensurepip is not available", "python3-venv"),
        ("ERROR: metadata-generation-failed", "Look into the log"),
        ("", "Look into the log"),
    ],
)
def test_failures_come_with_the_fitting_remedy(output: str, remedy: str, tmp_path: Path) -> None:
    text = environments._explain("Installing tiny", output, tmp_path / "x.log")
    assert remedy in text
    assert text.startswith("Installing tiny failed: ")
    assert str(tmp_path / "x.log") in text
    for line in output.splitlines():
        if "rror" in line:
            assert line in text


def test_too_little_room_is_an_error_before_anything_is_fetched() -> None:
    with pytest.raises(SetupFailed, match=r"needs about 1500000 GB.*ZEROMASK_CACHE"):
        ensure(tiny("x", gigabytes=1e6))
    assert not tiny("x", gigabytes=1e6).path.exists()


def test_a_cache_folder_that_cannot_be_made_is_an_error(cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(SetupFailed, match="ZEROMASK_CACHE"):
        ensure(tiny("x"))


def test_output_that_is_no_text_costs_nothing(tmp_path: Path) -> None:
    noise = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe error: bad'); sys.exit(1)"
    with pytest.raises(SetupFailed, match="error: bad"):
        environments._run([sys.executable, "-c", noise], tmp_path / "x.log", "Trying")


@pytest.mark.parametrize("version", [(3, 9, 1), (3, 10, 12), (3, 14, 0)], ids=str)
def test_an_older_python_is_refused_and_the_remedy_named(version: tuple[int, int, int]) -> None:
    """Not a traceback over a module that older Pythons lack."""
    script = f"""
        import collections, runpy, sys
        sys.version_info = collections.namedtuple("old", "major minor micro level serial")(*{version!r}, 'final', 0)
        sys.modules["tomllib"] = None
        sys.argv = ["environments.py", "project"]
        runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stdout
    assert "make PYTHON=" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_environment_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert environments.main(["nonsense"]) == 1
    assert "project and label-studio" in capsys.readouterr().err


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a tiny project."""
    root = tmp_path / "clone"
    (root / "tinyproject").mkdir(parents=True)
    (root / "tinyproject" / "__init__.py").write_text("def main() -> None:\n    print(__file__)\n")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "tinyproject"\nversion = "1.0"\nscripts = {tiny = "tinyproject:main"}\n'
        '[tool.setuptools]\npackages = ["tinyproject"]\n'
    )
    monkeypatch.setattr(environments, "ROOT", root)
    return root


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A set of libraries that holds pip and setuptools alone, by reference to those of this run."""
    path = tmp_path / "libraries"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    packages = path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in ("pip", "setuptools", "_distutils_hack"):
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} is needed"
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for found in [folder, *folder.parent.glob(f"{name}-*.dist-info")]:  # by which setuptools finds its commands
            (packages / found.name).symlink_to(found)
    return path


def said(root: Path) -> str:
    program = root / ".venv" / "bin" / "tiny"
    return subprocess.run([program], capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def test_a_clone_is_linked_once_and_again_after_it_was_moved(
    clone: Path, libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = link_project(libraries)
    assert python == clone / ".venv" / "bin" / "python"
    assert said(clone) == str(clone / "tinyproject" / "__init__.py")
    (clone / ".venv" / "witness").write_text("")
    assert link_project(libraries) == python
    assert (clone / ".venv" / "witness").exists()

    declared = (clone / "pyproject.toml").read_text()
    (clone / "pyproject.toml").write_text(declared.replace('version = "1.0"', 'version = "2.0"'))
    link_project(libraries)
    assert not (clone / ".venv" / "witness").exists(), "`tiny --version` would tell the old one"

    moved = tmp_path / "moved"
    clone.rename(moved)
    monkeypatch.setattr(environments, "ROOT", moved)
    assert link_project(libraries) == moved / ".venv" / "bin" / "python"
    assert said(moved) == str(moved / "tinyproject" / "__init__.py")


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_in_the_way_of_dot_venv_is_left_alone(kind: str, clone: Path, tmp_path: Path) -> None:
    venv, elsewhere = clone / ".venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pyvenv.cfg").write_text("mine")
    if kind == "folder":
        venv.mkdir()
        (venv / "precious").write_text("mine")
    elif kind == "file":
        venv.write_text("mine")
    else:
        venv.symlink_to(elsewhere)
    with pytest.raises(SetupFailed, match="in the way"):
        link_project(tmp_path / "libraries")
    assert (elsewhere / "pyvenv.cfg").read_text() == "mine"
    assert kind != "folder" or (venv / "precious").read_text() == "mine"
    assert kind != "file" or venv.read_text() == "mine"


@pytest.mark.parametrize("flags", [["-S"], ["-I", "-S"]], ids=["as make runs it", "isolated"])
def test_the_script_needs_the_standard_library_alone(flags: list[str], tmp_path: Path) -> None:
    """It runs before anything is installed, from any folder, with its own folder first on Python's path."""
    done = subprocess.run([sys.executable, *flags, str(SCRIPT), "nonsense"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=PATIENCE_S, check=False, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    assert done.returncode == 1
    assert "There is no environment 'nonsense'" in done.stderr
    assert shutil.which("python3")


def test_nothing_beside_the_script_has_the_name_of_a_module_of_the_standard_library() -> None:
    beside = {path.stem for path in SCRIPT.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {"environments", "supervisor"} <= beside
    assert not beside & sys.stdlib_module_names
