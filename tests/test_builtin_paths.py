"""The paths that the laboratory's commands had before: they start the same commands."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

OLDER = {
    "worker.builtin": ("draw", "train", "export", "curves"),
    "worker.evaluation": ("score", "fit_assembly"),
    "worker.benchmarks": ("towers", "windows", "growth", "compute", "counting_server"),
}


@pytest.mark.parametrize("module", [f"{package}.{name}" for package, names in OLDER.items() for name in names])
def test_a_command_answers_under_its_older_path(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("module", ["worker.builtin.train", "worker.lab.drawn_world.train"])
def test_a_training_logs_the_command_that_started_it(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--output-dir", str(tmp_path), "--steps", "1", "--minutes", "0"]
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    runpy.run_module(module, run_name="__main__")
    first = json.loads((tmp_path / "training_log.jsonl").read_text().splitlines()[0])
    assert first["command"] == " ".join(["python", "-m", module, *arguments])
