"""The README keeps its word: commands, files and pictures it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plugin_config.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_named_exist() -> None:
    named = set(re.findall(r"zeromask ([a-z]+)(?= |`|\n)", README))
    assert named <= {command.name for command in COMMANDS}
    assert {"up", "backend", "worker", "segment"} <= named


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    path, _, heading = target.partition("#")
    assert (ROOT / path).exists()
    if heading:
        text = (ROOT / (path or "README.md")).read_text(encoding="utf-8")
        assert heading in {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
