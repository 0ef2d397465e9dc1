"""`zeromask capacity`: from a file or from what workers measured, how long they take or how many it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from plugin_config.capacity import StageSeconds, seconds_for
from plugin_config.cli.main import zeromask
from plugin_config.queue.totals import Totals

STAGES = {"fetch_seconds": 0.08, "embed_seconds": 0.02, "segment_seconds": 0.05, "post_seconds": 0.04, "cores": 2}
SAME = StageSeconds(0.08, 0.02, 0.05, 0.04)


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(STAGES))
    return path


def ask(*arguments: object, redis_url: str = "") -> Result:
    environment = {"REDIS_URL": redis_url} if redis_url else {}
    return CliRunner().invoke(zeromask, ["capacity", *map(str, arguments)], env=environment)


def test_how_long_workers_take(stages: Path) -> None:
    done = ask("--tasks", 1_000_000, "--workers", 4, "--stages", stages, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["seconds"] == round(seconds_for(1_000_000, 4, SAME), 1) == 12500.1
    assert (found["workers"], found["slowest"]) == (4, "segment")
    told = ask("--tasks", 1_000_000, "--workers", 4, "--stages", stages).output
    assert told.startswith("4 workers: 3 h 28 min for 1,000,000 tasks, 80 a second.")
    assert "segment sets the pace, 20 a second and worker" in told


@pytest.mark.parametrize(("hours", "workers"), [(14, 1), (13.8, 2), (1, 14)])
def test_how_many_workers_it_takes(stages: Path, hours: float, workers: int) -> None:
    found = json.loads(ask("--tasks", 1_000_000, "--within", hours, "--stages", stages, "--json").output)
    assert found["workers"] == workers
    assert found["seconds"] <= hours * 3600


def test_what_all_share_bounds_them(stages: Path) -> None:
    done = ask("--tasks", 1_000_000, "--workers", 50, "--stages", stages, "--shared", 0.025, "--json")
    assert json.loads(done.output)["seconds"] == pytest.approx(25_000, rel=0.001)
    refused = ask("--tasks", 1_000_000, "--within", 1, "--stages", stages, "--shared", 0.025)
    assert refused.exit_code == 2
    assert "1000 workers take 6 h 57 min" in refused.output


def test_without_a_file_the_times_are_those_that_workers_noted(redis: Redis, redis_url: str) -> None:
    refused = ask("--tasks", 100, "--workers", 1, redis_url=redis_url)
    assert refused.exit_code == 2
    assert "no prediction was stored yet" in refused.output
    for factor in (1, 3):
        ms = {name.removesuffix("_seconds"): factor * 500 * seconds for name, seconds in STAGES.items()}
        ms.pop("cores")
        Totals(redis).add_stages(ms)
    found = json.loads(ask("--tasks", 100, "--workers", 1, "--json", redis_url=redis_url).output)
    assert found["stages"] == pytest.approx({"fetch": 0.08, "embed": 0.02, "segment": 0.05, "post": 0.04})


@pytest.mark.parametrize("arguments", [(), ("--workers", 1, "--within", 1)])
def test_one_question_at_a_time(stages: Path, arguments: tuple[object, ...]) -> None:
    refused = ask("--tasks", 10, "--stages", stages, *arguments)
    assert refused.exit_code == 2
    assert "Name one of --workers and --within" in refused.output


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", {**STAGES, "embed_seconds": "x"}, {**STAGES, "embed_seconds": None},
                {**STAGES, "embed_seconds": -1}, {**STAGES, "embed_seconds": float("nan")},
                dict.fromkeys(STAGES, 0)], ids=repr)  # fmt: skip
def test_a_file_without_sound_times_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    refused = ask("--tasks", 10, "--workers", 1, "--stages", path)
    assert refused.exit_code == 2
    assert f"--stages {path}" in refused.output
    assert "Traceback" not in refused.output
