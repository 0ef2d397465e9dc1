"""`make test` runs every test once, in two processes side by side, and fails when any of its steps does."""

from __future__ import annotations

import platform
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.__main__ import BESIDE, WAITING, main

INTERRUPTS = ("timeit", "-n", "1", "-r", "1", "import os, signal; os.kill(os.getppid(), signal.SIGINT)")
FAILS, PRINTS = ("json.tool", "no-such-file"), ("platform",)


def test_every_test_is_in_one_of_them() -> None:
    chosen = [step for step in (*WAITING, *BESIDE) if step[0] == "pytest"]
    assert [step[2] for step in chosen] == ["label_studio", *["not label_studio"] * (len(chosen) - 1)]
    assert not [argument for argument in WAITING[0] if argument.endswith(".py")], "all files"
    files = Counter(argument for step in chosen[1:] for argument in step if argument.endswith(".py"))
    written = [path for path in Path(__file__).parent.rglob("*.py") if re.match("test_|.*_test$", path.stem)]
    assert files == Counter(f"tests/{path.relative_to(Path(__file__).parent)}" for path in written)


def test_this_one_is_among_the_others(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("label_studio") is None


@pytest.mark.parametrize(
    ("waiting", "beside", "status"),
    [
        pytest.param([PRINTS], [PRINTS], 0, id="all pass"),
        pytest.param([FAILS], [PRINTS], 1, id="the first fails"),
        pytest.param([PRINTS], [FAILS, PRINTS], 1, id="one beside it fails"),
        pytest.param([], [PRINTS, FAILS, PRINTS], 1, id="two of them at a time"),
    ],
)
def test_a_step_that_fails_is_named_and_the_others_run(
    waiting: list[tuple[str, ...]], beside: list[tuple[str, ...]], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(waiting, beside) == status
    out = capfd.readouterr().out
    assert out.count(platform.platform()) == [*waiting, *beside].count(PRINTS)
    assert out.endswith("failed: json.tool no-such-file\n") is bool(status)


def test_nothing_more_begins_after_ctrl_c(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([INTERRUPTS, PRINTS], []) == 1
    assert platform.platform() not in capfd.readouterr().out
