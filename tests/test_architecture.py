"""The house keeps its shape: who may import whom, found by reading every import and by importing for real."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("plugin_config", "backend", "worker")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

GPU = {"torch", "torchvision", "open_clip", "timm"}
WEB = {"falcon", "flask", "jinja2", "werkzeug", "waitress", "label_studio_ml"}
FLASK = {"flask", "jinja2", "werkzeug"}  # label-studio-ml brings one of 2020; nothing loads it
NETWORK = {"redis", "rq", "httpx", "label_studio_sdk", "socket", "urllib", "http"}
LIBRARY_NEEDS = {f"plugin_config.{name}" for name in ("errors", "files", "settings", "vocabulary")}

# Package -> what of this project it may import. The longest name that fits a module counts; a package may always import
# itself. What is not named here may be imported by nobody: the laboratory, the entry points.
FLOORS: Mapping[str, set[str]] = {
    "plugin_config": set(),
    "plugin_config.label_studio": {"plugin_config"},
    "plugin_config.queue": {"plugin_config"},
    "plugin_config.local": {"plugin_config", "plugin_config.queue"},
    "plugin_config.versions": {"plugin_config", "plugin_config.queue"},
    "plugin_config.overview": {"plugin_config", "plugin_config.queue", "plugin_config.versions"},
    "plugin_config.demo": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue",
                           "plugin_config.versions", "plugin_config.local"},
    "plugin_config.doctor": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue",
                             "plugin_config.local"},
    "plugin_config.cli": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue",
                          "plugin_config.versions", "plugin_config.local", "plugin_config.overview",
                          "plugin_config.doctor"},
    "backend": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue", "plugin_config.versions",
                "plugin_config.overview"},
    "worker.segmentation": set(LIBRARY_NEEDS),
    "worker.learning": {*LIBRARY_NEEDS, "worker.segmentation"},
    "worker.label_studio": {"plugin_config", "plugin_config.label_studio", "worker.segmentation", "worker.learning"},
    "worker.service": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue", "plugin_config.versions",
                       "worker.segmentation", "worker.learning", "worker.label_studio"},
    "worker": {"plugin_config", "plugin_config.queue", "worker.segmentation", "worker.learning", "worker.label_studio",
               "worker.service"},
    "worker.sample_task": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue",
                           "plugin_config.versions", "worker", "worker.segmentation", "worker.learning",
                           "worker.label_studio", "worker.service"},
    "worker.report": {"plugin_config", "plugin_config.label_studio", "plugin_config.versions", "worker",
                      "worker.segmentation", "worker.learning", "worker.label_studio"},
    "worker.lab": {"plugin_config", "plugin_config.label_studio", "plugin_config.queue", "plugin_config.versions",
                   "plugin_config.local", "plugin_config.overview", "plugin_config.cli", "worker",
                   "worker.segmentation", "worker.learning", "worker.label_studio",
                   "worker.service", "worker.report"},
}  # fmt: skip
# Package -> what from outside it must not import.
CLOSED: Mapping[str, set[str]] = {
    "plugin_config": GPU | WEB,
    "backend": GPU | FLASK,
    "worker": WEB,
    "worker.segmentation": WEB | NETWORK,
    "worker.learning": WEB | NETWORK,
}
# Package whose commands still answer to its path -> the package they are in.
FORMER = {
    "worker.builtin": "worker.lab.drawn_world",
    "worker.evaluation": "worker.lab.evaluation",
    "worker.benchmarks": "worker.lab.benchmarks",
}
# What a model hub raises is caught by its class; nothing is asked of the network there.
EXCEPTIONS = {("worker.segmentation.encoders.checkpoints", "httpx")}
# A module that is imported by name at run time would slip past this test.
BY_NAME = {"import_module", "__import__", "find_spec", "exec", "eval", "run_module", "run_path"}
_KEY = re.compile(r"zeromask:(?! )")  # "zeromask: " begins a message
_KEYS = Path("plugin_config/queue/keys.py")


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(text_of(path), str(path))


def imports(tree: ast.AST, module: str = "") -> Iterator[str]:
    """Full names of everything imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def named_imports(tree: ast.AST) -> Iterator[str]:
    """What is imported by a call, as the text handed over ("?" when it is not a plain text)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        on_module = isinstance(node.func, ast.Name) or getattr(getattr(node.func, "value", None), "id", "") in {
            "importlib", "util", "runpy", "builtins",
        }  # fmt: skip
        if called in BY_NAME and on_module:
            first = node.args[0] if node.args else None
            text = first.value if isinstance(first, ast.Constant) else None
            yield text if isinstance(text, str) else "?"


def floor_of(name: str, floors: Mapping[str, object] = FLOORS) -> str:
    """The package of the table that a module belongs to; "" = none, which is to say somebody else's."""
    return max((floor for floor in floors if name == floor or name.startswith(f"{floor}.")), key=len, default="")


def wrong_arrows(module: str, tree: ast.AST) -> list[str]:
    """Imports that this module must not have."""
    found = [*imports(tree, module), *named_imports(tree)]
    floor = floor_of(module)
    ours = [name for name in found if name.partition(".")[0] in PACKAGES]
    wrong = [name for name in ours if not _may(floor, name)]
    for package, closed in CLOSED.items():
        if module == package or module.startswith(f"{package}."):
            tops = {name.partition(".")[0] for name in found} & closed
            wrong += [top for top in sorted(tops) if (module, top) not in EXCEPTIONS]
    return wrong + [name for name in found if name == "?"]


def _may(floor: str, name: str) -> bool:
    if floor_of(name) == floor or floor_of(name) in FLOORS[floor]:
        return True
    return any(name == one or name.startswith(f"{one}.") for one in FLOORS[floor] & LIBRARY_NEEDS)


def test_arrows_point_downward() -> None:
    found = {str(path): wrong_arrows(module_of(path), parsed(path)) for path in FILES}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


_SEGMENTATION, _LEARNING = "worker.segmentation.heads", "worker.learning.gate.decision"
_SERVICE, _QUEUE, _SHARED = "worker.service.posting", "plugin_config.queue.pending", "plugin_config.settings"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(_SEGMENTATION, "from worker.service.leases import Leases", id="library: service"),
        pytest.param(_SEGMENTATION, "from worker.learning.interfaces import Adapter", id="segmentation: learning"),
        pytest.param(_LEARNING, "import redis", id="library: Redis"),
        pytest.param(_LEARNING, "from plugin_config.queue.jobs import TaskRef", id="library: queue"),
        pytest.param(_LEARNING, "from plugin_config.label_studio import client", id="library: Label Studio"),
        pytest.param(_SERVICE, "from worker.lab.bench import main", id="service: laboratory"),
        pytest.param(_SERVICE, "def f():\n    from worker.lab import bench", id="laboratory, inside a function"),
        pytest.param("worker.label_studio.regions", "from worker.service import leases", id="formats: service"),
        pytest.param("backend.views", "from worker.service import leases", id="backend: worker"),
        pytest.param("backend.views", "import torch.nn as nn", id="backend: torch"),
        pytest.param(_SERVICE, "from backend import views", id="worker: backend"),
        pytest.param(_QUEUE, "from plugin_config.cli import main", id="queue: command line"),
        pytest.param(_QUEUE, "from plugin_config.label_studio import client", id="queue: Label Studio"),
        pytest.param(_SHARED, "if TYPE_CHECKING:\n    import torch", id="shared: torch, for types alone"),
        pytest.param(_SHARED, "__import__('torch.nn')", id="by name"),
        pytest.param(_SHARED, "import_module(name)", id="by a name that is not there to read"),
    ],
)  # fmt: skip
def test_a_turned_arrow_is_found(module: str, source: str) -> None:
    assert wrong_arrows(module, ast.parse(source)) != []


def test_calls_that_look_like_imports_are_none() -> None:
    assert list(named_imports(ast.parse("redis.eval(script)\nmodel.eval()"))) == []


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, in one circle each."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append(path[path.index(module) :])
        elif module not in done:
            for other in sorted(edges.get(module, ())):
                walk(other, [*path, module])
            done.add(module)

    for module in sorted(edges):
        walk(module, [])
    return found


def importers() -> dict[str, set[str]]:
    """Module -> the modules of this project that it imports."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        names = {name if name in MODULES else name.rpartition(".")[0] for name in imports(parsed(path), module)}
        edges[module] = {name for name in names if name in MODULES} - {module}
    return edges


def test_no_two_modules_import_each_other() -> None:
    assert circles(importers()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]


def unused(edges: Mapping[str, set[str]], texts: str) -> list[str]:
    """Modules that nothing of the product imports or starts. `texts`: where they may be started by their names."""
    imported = set().union(*edges.values())
    started = {name for name in edges if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", texts)}
    return [name for name in edges if name not in imported | started and not _runs_as_package(name)]


def _runs_as_package(name: str) -> bool:
    return name.endswith("__main__") or (name in MODULES and MODULES[name].name == "__init__.py")


def test_every_module_is_used_by_the_product() -> None:
    """Imported, or started by its name: by a command, or by a person as the documentation says."""
    constants = [
        node.value
        for path in FILES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value
    ]
    pages = (ROOT / "Makefile", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    written = "".join(page.read_text(encoding="utf-8") for page in pages)
    commands = re.findall(r"python[3]? -m ([\w.]+)", written)
    commands += [path.replace("/", ".") for path in re.findall(r"python3 ([\w/]+)\.py", written)]
    for former, now in FORMER.items():
        commands += [name.replace(former, now) for name in commands if name.startswith(f"{former}.")]
    texts = "\n".join([*constants, *commands, (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()])
    texts = texts.replace("plugin_config/local/environments.py", "plugin_config.local.environments")
    assert unused(importers(), texts) == []


def test_a_module_that_only_tests_import_is_found() -> None:
    edges = {"worker.a": {"worker.b"}, "worker.b": set(), "worker.c": set(), "worker.d": set()}
    assert unused(edges, "run worker.a or worker.d.x") == ["worker.c", "worker.d"]


def stray_keys(source: str) -> list[str]:
    """Places where a Redis key of this project is spelled out."""
    return [line.strip() for line in source.splitlines() if _KEY.search(line)]


def test_keys_of_redis_are_named_in_one_module() -> None:
    found = {str(path): stray_keys(text_of(path)) for path in FILES if path != _KEYS}
    assert {path: keys for path, keys in found.items() if keys} == {}


def test_a_stray_key_is_found() -> None:
    assert stray_keys('redis.get(f"zeromask:{project}:served")\nraise SystemExit(f"zeromask: {error}")\n') == [
        'redis.get(f"zeromask:{project}:served")'
    ]


def test_one_file_knows_label_studio_ml() -> None:
    tops = {path: {name.partition(".")[0] for name in imports(parsed(path))} for path in FILES}
    assert [path for path, names in tops.items() if "label_studio_ml" in names] == [Path("backend/model.py")]


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path) for path in FILES if not ast.get_docstring(parsed(path))] == []


def test_what_a_package_must_not_know_stands_in_its_init() -> None:
    files = [path for path in FILES if path.name != "__init__.py"]
    assert [str(path) for path in files if "must not know" in (ast.get_docstring(parsed(path)) or "")] == []


def test_a_file_has_one_subject() -> None:
    assert [str(path) for path in FILES if len(text_of(path).splitlines()) > 400] == []
    vague = {"utils", "helpers", "common", "core", "manager", "misc"}
    assert [str(path) for path in FILES if path.stem in vague] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_our_packages_gives_ours(package: str, tmp_path: Path) -> None:
    out = in_fresh_python(f"import {package}; print({package}.__file__)", cwd=ROOT)
    assert Path(out.strip()) == ROOT / package / "__init__.py"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("backend.__main__", GPU | FLASK | {"worker"}, id="backend"),
        pytest.param("worker.__main__", GPU | {"backend"}, id="worker: what is missing is told before torch loads"),
        pytest.param("plugin_config.queue.pending", GPU | WEB | {"backend", "worker"}, id="shared: pending"),
        pytest.param("plugin_config.vocabulary", GPU | WEB | {"backend", "worker"}, id="shared: vocabulary"),
        pytest.param("worker.learning.recipes", WEB | {"redis", "rq", "backend"}, id="both libraries"),
    ],
)
def test_nothing_forbidden_comes_in_by_the_back_door(module: str, absent: set[str]) -> None:
    out = in_fresh_python(f"import sys, {module}; print(*sorted(sys.modules))", cwd=ROOT)
    assert not absent & set(out.split())


def test_importing_the_web_half_and_what_is_shared_does_no_work(tmp_path: Path) -> None:
    """No thread, no connection, no process, no file written, no signal handler."""
    modules = [module for module in MODULES if module.partition(".")[0] in ("backend", "plugin_config")]
    modules = [name for name in modules if not name.endswith("__main__")]
    script = f"""
import sys, threading, signal
sys.path.insert(0, {str(ROOT)!r})
did = []
def watch(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if writes or event in ("socket.connect", "subprocess.Popen", "os.fork", "os.mkdir", "os.remove"):
        did.append((event, str(args)))
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
sys.addaudithook(watch)
for name in {modules!r}:
    __import__(name)
assert threading.active_count() == 1, threading.enumerate()
assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
assert not did, did
"""
    in_fresh_python(script, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def in_fresh_python(script: str, *, cwd: Path) -> str:
    """Run a script in an interpreter that has imported nothing; fails with its error output."""
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
