"""docs/reference/dependencies.md keeps its word: every dependency, and what label-studio-ml pins."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "reference" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[ <>=!~\[;]", requirement, maxsplit=1)[0].lower()


def test_every_dependency_has_its_line() -> None:
    told = PAGE.partition("## What pyproject.toml names")[2].partition("For tests:")[0]
    rows = re.findall(r"^\| ([a-z0-9_-]+) \| \S.* \| \S.* \|$", told, re.MULTILINE)
    extras = PROJECT["optional-dependencies"]
    named = ("backend", "worker", "s3", "all")
    required = [*PROJECT["dependencies"], *(row for extra in named for row in extras[extra])]
    assert [row for row in rows if row != "package"] == [name_of(row) for row in required if "zeromask" not in row]
    for_tests = PAGE.partition("For tests:")[2].partition("\n\n")[0]
    assert all(name_of(row) in for_tests for row in PROJECT["optional-dependencies"]["dev"])


def test_what_label_studio_ml_pins_is_told_with_its_version() -> None:
    required = importlib.metadata.requires("label-studio-ml") or []
    pinned = {name_of(row): row.partition("==")[2].rstrip(")") for row in required if "==" in row}
    told = PAGE.partition("## What label-studio-ml 1.0.9 pins")[2]
    rows = re.findall(r"^\| (\w+) ([0-9.]+) \|", told, re.MULTILINE)
    assert {name.lower(): version for name, version in rows} == pinned
