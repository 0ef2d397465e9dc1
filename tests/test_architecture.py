"""The house keeps its shape: who may import whom, found by reading every import and by importing for real."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("plugin_config", "backend", "worker")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

GPU = {"torch", "torchvision", "open_clip", "timm"}
WEB = {"falcon", "flask", "jinja2", "werkzeug", "waitress", "label_studio_ml"}
FLASK = {"flask", "jinja2", "werkzeug"}  # label-studio-ml brings one of 2020; nothing loads it
FORBIDDEN = {
    "plugin_config": GPU | WEB | {"backend", "worker"},
    "backend": GPU | FLASK | {"worker"},
    "worker": WEB | {"backend"},
}
# A module that is imported by name at run time would slip past this test.
BY_NAME = {"import_module", "__import__", "find_spec", "exec", "eval", "run_module", "run_path"}


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Top names of everything imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else (node.module or "").partition(".")[0]


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
            yield text.partition(".")[0] if isinstance(text, str) else "?"


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    package = path.parts[0]
    tree = parsed(path)
    assert not FORBIDDEN[package] & set(imports(tree, package))
    assert not (FORBIDDEN[package] | {"?"}) & set(named_imports(tree))


def test_one_file_knows_label_studio_ml() -> None:
    knowing = [path for path in FILES if "label_studio_ml" in set(imports(parsed(path), path.parts[0]))]
    assert knowing == [Path("backend/model.py")]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn as nn", {"torch"}),
        ("def f():\n    from torch import nn", {"torch"}),
        ("if TYPE_CHECKING:\n    import torch", {"torch"}),
        ("from . import model", {"backend"}),
    ],
)
def test_the_walk_sees_imports_everywhere(source: str, found: set[str]) -> None:
    assert set(imports(ast.parse(source), "backend")) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("importlib.import_module('torch.nn')", {"torch"}),
        ("__import__('torch')", {"torch"}),
        ("import_module(name)", {"?"}),
        ("redis.eval(script)", set()),
        ("model.eval()", set()),
    ],
)
def test_the_walk_sees_imports_by_name(source: str, found: set[str]) -> None:
    assert set(named_imports(ast.parse(source))) == found


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_our_packages_gives_ours(package: str, tmp_path: Path) -> None:
    out = in_fresh_python(f"import {package}; print({package}.__file__)", cwd=ROOT)
    assert Path(out.strip()) == ROOT / package / "__init__.py"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("backend.__main__", GPU | FLASK | {"worker"}, id="web half"),
        pytest.param("plugin_config.queue.pending", GPU | WEB | {"backend", "worker"}, id="shared: pending"),
        pytest.param("plugin_config.vocabulary", GPU | WEB | {"backend", "worker"}, id="shared: vocabulary"),
    ],
)
def test_nothing_forbidden_comes_in_by_the_back_door(module: str, absent: set[str]) -> None:
    out = in_fresh_python(f"import sys, {module}; print(*sorted(sys.modules))", cwd=ROOT)
    assert not absent & set(out.split())


def test_importing_the_web_half_and_what_is_shared_does_no_work(tmp_path: Path) -> None:
    """No thread, no connection, no process, no file written, no signal handler."""
    modules = [".".join(path.with_suffix("").parts) for path in FILES if path.parts[0] in ("backend", "plugin_config")]
    modules = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
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
