"""Keys in Redis: their names are what earlier releases wrote, each is described, and none is written out elsewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from plugin_config.queue import keys
from plugin_config.queue.keys import PROJECT_TYPES, SHARED_TYPES, ProjectKeys, project_key_type, quarantined

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for package in ("plugin_config", "backend", "worker") for path in (ROOT / package).rglob("*.py"))
# A key, or the beginning of one; a message of the command line has a space behind the colon.
KEY = re.compile(r"zeromask:(?! |$)|^zeromask:$")
ROW = re.compile(r"^    ([a-z:]+?)(?::[A-Z]+)? +(?:(string|list|set|zset|hash|any) .*|\} .*|\})$", re.MULTILINE)


def literals(source: str) -> list[str]:
    """Every text of a source but the docstrings, the constant parts of f-strings too."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented)
                  and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_keys_are_written_out_in_one_module() -> None:
    found = {str(path.relative_to(ROOT)) for path in SOURCES if any(map(KEY.search, literals(path.read_text())))}
    assert found == {"plugin_config/queue/keys.py"}


@pytest.mark.parametrize(
    ("source", "is_key"),
    [
        ('redis.get("zeromask:projects")', True),
        ('redis.get(f"zeromask:{project}:pending")', True),
        ("""X = "redis.call('GET', 'zeromask:' .. project)" """, True),
        ('PREFIX = "zeromask:"', True),
        ('write(f"zeromask: {error}")', False),
        ('def f():\n    """See zeromask:projects."""', False),
    ],
)
def test_a_key_that_is_written_out_is_found(source: str, is_key: bool) -> None:
    assert any(map(KEY.search, literals(source))) is is_key


def test_the_names_are_those_of_stored_state() -> None:
    project = ProjectKeys(7)
    assert project.named() == [f"zeromask:7:{name}" for name in PROJECT_TYPES if name not in ("done", "drain")] + [
        f"zeromask:7:drain:{slot}" for slot in range(9)
    ]
    assert (project.pending, project.done("v-1"), project.drain(8)) == (
        "zeromask:7:pending", "zeromask:7:done:v-1", "zeromask:7:drain:8",
    )  # fmt: skip
    assert quarantined(project.pending) == "zeromask:odd:zeromask:7:pending"
    assert {key for key in SHARED_TYPES if not key.startswith("rq:")} == {
        f"zeromask:{name}"
        for name in ("projects", "unknown", "paused", "clock", "errors", "refused", "ended", "stages", "learn",
                     "again", "contracts", "workers", "about", "learners", "learners:about", "odd", "clicks",
                     "unanswered", "clickers", "clickers:about", "periodic:looks", "periodic:rounds")
    }  # fmt: skip
    assert set(PROJECT_TYPES) == {
        "pending", "leases", "tries", "deaths", "failed", "pace", "created", "versions", "served", "catching", "shown",
        "counted", "labels", "warning", "card", "carded", "left", "doubts", "refresh", "looked", "hinted", "webhook",
        "learner", "learn", "learning", "adapters", "outcomes", "judged", "verdicts", "pointer", "offer", "judging",
        "offered", "walk", "stale", "walker", "recount", "recounter", "images", "places", "corrected", "skipped",
        "order", "ordered", "resting", "done", "drain", "title", "refusals",
    }  # fmt: skip


def test_the_type_of_a_key_is_known_by_its_name() -> None:
    assert project_key_type("zeromask:7:done:v-1") == "set"
    assert project_key_type("zeromask:7:drain:0") == "string"
    assert project_key_type("zeromask:7:learners") is None


def test_every_key_is_described_with_its_type() -> None:
    shared, projects = (keys.__doc__ or "").split("Keys of project P")
    described = {name: kind for name, kind in ROW.findall(projects) if name != "key"}
    assert described == PROJECT_TYPES
    shared_names = {name for name, _ in ROW.findall(shared)} - {"key"}
    assert {f"zeromask:{name}" for name in shared_names} == {key for key in SHARED_TYPES if not key.startswith("rq:")}
    kinds = {f"zeromask:{name}": kind for name, kind in ROW.findall(shared) if kind and kind != "any"}
    assert kinds.items() <= SHARED_TYPES.items()
