"""The doctor without Label Studio: what figures mean, time limits, hostile answers, the process of the worker."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import RedisError

from plugin_config.cli.doctor import labels_table, line, summary
from plugin_config.cli.main import zeromask
from plugin_config.doctor import checkup, machine_checks, sample
from plugin_config.doctor.checkup import INSTALLATION_CHECKS, PROJECT_CHECKS, examine
from plugin_config.doctor.findings import Finding, LabelRow, first_cause, ok, warning, wrong
from plugin_config.doctor.installation import ExaminedProject, Installation
from plugin_config.doctor.machine_checks import clock_finding, disk_finding, release_finding
from plugin_config.doctor.project_checks import check_interactive, check_labels
from plugin_config.doctor.queue_checks import check_redis_memory, check_redis_persistence, check_workers
from plugin_config.doctor.sample import SampleProcess
from plugin_config.errors import EnvironmentBroken
from plugin_config.label_studio.client import Project
from plugin_config.label_studio.connecting import ConnectedModel
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from tests.broken_set_ups import SET_UPS, set_ups_table
from tests.house import PATIENCE_S
from tests.http_server import Answer, Asked, as_json, serving

ROOT = Path(__file__).resolve().parent.parent
CHECKS = {check.name: check.needs for check in INSTALLATION_CHECKS}
CHECKS |= {check.name: check.needs for check in PROJECT_CHECKS}
GUIDE = ROOT / "docs" / "guide" / "doctor.md"


@pytest.mark.parametrize(
    ("release", "state", "part"),
    [
        ("1.23.2", "ok", "1.23.2"),
        ("1.23.9", "ok", "1.23.9"),  # a correction of the release that was tried
        ("1.24.0", "warning", "newer"),
        ("2.0.0.dev3", "warning", "newer"),
        ("1.22.9", "warning", "older"),
        ("0.9", "warning", "older"),
        ("nightly", "warning", "not known"),
    ],
)
def test_a_release_newer_or_older_than_tried_is_told(release: str, state: str, part: str) -> None:
    found = release_finding(release, "http://localhost:8080")
    assert (found.state, part in found.sentence) == (state, True)


@pytest.mark.parametrize(("free", "state"), [(400_000_000, "wrong"), (2_900_000_000, "warning"), (3_100_000_000, "ok")])
def test_a_full_disk_is_told(free: int, state: str) -> None:
    assert disk_finding("/state", free).state == state


@pytest.mark.parametrize(
    ("skews", "state", "part"),
    [
        ({"Label Studio": 2.0, "Redis": -29.0}, "ok", "Label Studio and Redis"),
        ({"Label Studio": 2.0, "Redis": 31.0}, "warning", "Redis is 31 s ahead of this machine"),
        ({"Label Studio": -3600.0}, "warning", "Label Studio is 3600 s behind this machine"),
    ],
)
def test_clocks_that_disagree_are_told(skews: dict[str, float], state: str, part: str) -> None:
    found = clock_finding(skews)
    assert (found.state, part in found.sentence) == (state, True)


@pytest.mark.parametrize(
    ("missing", "state", "remedy"),
    [(("torch",), "warning", "--no-mask"), (("torch", "rq"), "wrong", "deployment.md#install"), ((), "ok", "")],
)
def test_a_part_that_draws_no_mask_is_told_and_not_wrong(
    missing: tuple[str, ...], state: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version_of(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(machine_checks, "version", version_of)
    with Installation(environ(tmp_path)) as installation:
        (found,) = machine_checks.check_versions(installation)
    assert (found.state, remedy in found.remedy) == (state, True)


def test_what_is_wrong_comes_before_what_is_to_be_known() -> None:
    rows = [ok("a"), warning("b", "b"), wrong("c", "c"), wrong("d", "d")]
    assert first_cause(rows) == rows[2]
    assert first_cause(rows[:2]) == rows[1]
    assert first_cause(rows[:1]) is None
    assert str(summary(rows[:1])).strip() == "Nothing is wrong."
    assert str(summary([*rows, rows[1]])).strip() == "2 wrong, 2 warnings. Begin with: ."


def test_every_check_stands_behind_those_it_needs() -> None:
    seen: set[str] = set()
    for name, needs in CHECKS.items():
        assert set(needs) <= seen, name
        seen.add(name)
    assert len(CHECKS) == len(INSTALLATION_CHECKS) + len(PROJECT_CHECKS), "each name once"


def environ(tmp_path: Path, **changed: str) -> dict[str, str]:
    return {"LABEL_STUDIO_URL": "http://localhost:1", "LABEL_STUDIO_API_KEY": "f" * 40, "MODEL": "builtin",
            "REDIS_URL": f"unix://{tmp_path}/nobody.sock", "ZEROMASK_STATE_DIR": str(tmp_path / "state"),
            "ZEROMASK_PORT": "1", **changed}  # fmt: skip


def examined(environ: dict[str, str]) -> dict[str, Finding]:
    with Installation(environ, (7,), draw=False) as installation:
        return {row.check: row for row in examine(installation)}


def test_a_label_studio_that_answers_byte_by_byte_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "WITHIN_S", 0.5)
    short = tuple(replace(check, within_s=0.5) for check in INSTALLATION_CHECKS)
    monkeypatch.setattr(checkup, "INSTALLATION_CHECKS", short)

    def drip(_: Asked) -> Answer:
        return Answer(body=b"x" * 1000, pieces=1000, pause_s=0.06)

    with serving(drip) as server:
        started = time.monotonic()
        found = examined(environ(tmp_path, LABEL_STUDIO_URL=server.url))
        assert time.monotonic() - started < 40, "it would take a minute"
        assert found["label studio"].sentence == "did not end within 0 s"
        assert found["token"].state == "waits"
        server.closing.set()
        wait_for_checks_to_end()


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), RuntimeError("odd"), RedisError("gone"), KeyError("id")])
def test_a_check_that_breaks_is_told_and_is_none_that_found_nothing(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Installation) -> list[Finding]:
        raise error

    checks = tuple(
        replace(check, run=breaks) if check.name in ("versions", "token") else check for check in INSTALLATION_CHECKS
    )
    monkeypatch.setattr(checkup, "INSTALLATION_CHECKS", checks)
    with serving(lambda _: as_json({"release": "1.23.2"})) as server:
        found = examined(environ(tmp_path, LABEL_STUDIO_URL=server.url))
    assert (found["versions"].state, type(error).__name__ in found["versions"].sentence) == ("wrong", True)
    assert (found["token"].state, found["project"].state) == ("wrong", "waits")


def wait_for_checks_to_end() -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(thread.name == "check" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_network_that_is_away_is_told_in_time(tmp_path: Path) -> None:
    assert checkup.WITHIN_S < 15
    started = time.monotonic()
    found = examined(environ(tmp_path, LABEL_STUDIO_URL="http://192.0.2.1:8080"))  # TEST-NET-1: nobody answers
    assert time.monotonic() - started < 60, "the system itself would try for two minutes"
    assert found["label studio"].state == "wrong"
    assert found["project"].sentence == "not checked before these are in order: token"


def test_settings_that_cannot_be_read_are_a_finding_and_no_end(tmp_path: Path) -> None:
    found = examined(environ(tmp_path, ZEROMASK_DRAIN_TASKS="0"))
    assert "ZEROMASK_DRAIN_TASKS" in found["settings"].sentence
    assert found["versions"].state == "ok"
    assert found["label studio"].state == "waits"


def test_an_answer_cannot_control_the_terminal() -> None:
    assert "\x1b" not in str(line(wrong("it says \x1b[2Jgone", "look\x07")))
    assert len(wrong("x" * 10_000, "").sentence) < 1000


def test_redis_that_keeps_snapshots_or_nothing_is_told(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    with Installation(environ(tmp_path, REDIS_URL=redis_url)) as installation:
        (nothing,) = check_redis_persistence(installation)
        redis.config_set("save", "900 1")
        try:
            (snapshots,) = check_redis_persistence(installation)
        finally:
            redis.config_set("save", "")
    assert (nothing.state, "nothing to disk" in nothing.sentence) == ("warning", True)
    assert (snapshots.state, "snapshots only (save 900 1)" in snapshots.sentence) == ("warning", True)


def test_redis_that_is_nearly_full_is_told(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 1000)
    try:
        with Installation(environ(tmp_path, REDIS_URL=redis_url)) as installation:
            (found,) = check_redis_memory(installation)
    finally:
        redis.config_set("maxmemory", 0)
    assert (found.state, "are in use" in found.sentence) == ("warning", True)


@pytest.mark.parametrize(
    ("workers", "state", "part"),
    [
        pytest.param([], "wrong", "no worker lives", id="none"),
        pytest.param([{"model": "builtin", "device": "cpu"}] * 2, "ok", "2 workers live", id="two"),
        pytest.param([{"model": "builtin"}, {"model": "builtin-vit"}], "wrong", "different models", id="two models"),
        pytest.param([{"model": "builtin", "trouble": "its disk"}], "warning", "worker 0: its disk", id="trouble"),
        pytest.param([{"model": "builtin", "contract": "2"}], "warning", "has contract 2, here it is 1", id="contract"),
    ],
)
def test_workers_are_told(
    workers: list[dict[str, str]], state: str, part: str, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    for number, about in enumerate(workers):
        WorkerPresence(redis).heartbeat(f"worker {number}", about)
    with Installation(environ(tmp_path, REDIS_URL=redis_url)) as installation:
        first, *_ = check_workers(installation)
    assert (first.state, part in first.sentence) == (state, True)


@pytest.fixture(name="of_worker")
def of_worker_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a process that runs a script in place of the worker's module."""

    def start(script: str) -> SampleProcess:
        monkeypatch.setattr(sample, "module_command", lambda _: [sys.executable, "-c", script])
        settings = Settings.from_env(environ(tmp_path))
        started.append(SampleProcess(settings, (7,), model="builtin", draw=False))
        return started[-1]

    started: list[SampleProcess] = []
    yield start
    for process in started:
        process.close()


def test_steps_are_read_between_what_libraries_print(of_worker: Any) -> None:
    row = {"step": "image", "project": 7, "task": 1}
    process = of_worker(f"print('hello'); print('[]'); print({json.dumps(row)!r}, flush=True)")
    assert process.step("image", 7, within_s=PATIENCE_S)["task"] == 1


@pytest.mark.parametrize(
    ("script", "within_s", "message"),
    [
        pytest.param("import sys; sys.exit('no model here')", PATIENCE_S, "ended: no model here", id="ends"),
        pytest.param("pass", PATIENCE_S, "ended: it said nothing", id="silent"),
        pytest.param("import time; time.sleep(60)", 0.2, "did not end this within 0 s", id="hangs"),
    ],
)
def test_a_process_that_tells_nothing_is_told(of_worker: Any, script: str, within_s: float, message: str) -> None:
    with pytest.raises(EnvironmentBroken, match=message):
        of_worker(script).step("image", 7, within_s=within_s)


CLICKS = """<View><Image name="image" value="$image"/>
  <KeyPointLabels name="point" toName="image" smart="true"><Label value="cat"/></KeyPointLabels>
  <RectangleLabels name="frame" toName="image" smart="true"><Label value="cat"/></RectangleLabels>
  <BrushLabels name="brush" toName="image"><Label value="cat" hint="tabby"/><Label value="dog"/></BrushLabels></View>"""

OVER_NOTHING = '<BrushLabels name="x" toName="no"><Label value="a"/></BrushLabels>'


@pytest.mark.parametrize(
    ("config", "state", "part"),
    [
        pytest.param(CLICKS, "ok", "3 labels and choices are filled in", id="smart tools beside what draws"),
        pytest.param(CLICKS.replace("</View>", f"{OVER_NOTHING}</View>"), "warning", "BrushLabels 'x'",
                     id="a control over nothing"),
    ],
)  # fmt: skip
def test_labels_are_told_with_what_is_not_served(config: str, state: str, part: str, tmp_path: Path) -> None:
    with Installation(environ(tmp_path)) as installation:
        of_project = ExaminedProject(installation, 7)
        of_project.__dict__["project"] = Project(7, "cats", config, "")  # as if Label Studio had been asked
        (found,) = check_labels(of_project)
    assert (found.state, part in found.sentence) == (state, True), found
    assert {(row.label, row.control, row.filled, row.described) for row in found.labels} == {
        ("cat", "brush", "brush, one per thing", True), ("dog", "brush", "brush, one per thing", False),
        ("cat", "frame", "drawn by another control", True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "lives", "state", "part"),
    [
        pytest.param(True, True, "ok", "smart tools are there", id="a worker answers"),
        pytest.param(True, False, "warning", "no worker that lives answers clicks", id="none answers"),
        pytest.param(False, True, "warning", "the model is not asked", id="not asked"),
    ],
)
def test_smart_tools_need_to_ask_and_a_worker_that_answers(
    asked: bool, lives: bool, state: str, part: str, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    if lives:
        WorkerPresence(redis, clickers=True).heartbeat("elsewhere-12-abcdef")
    # This terminal's ZEROMASK_INTERACTIVE tells nothing of workers elsewhere.
    settings = environ(tmp_path, REDIS_URL=redis_url, ZEROMASK_INTERACTIVE="0" if lives else "1")
    with Installation(settings) as installation:
        of_project = ExaminedProject(installation, 7)
        url = installation.settings.backend_url
        connected = ConnectedModel(1, url, "Zeromask", "CO", "", interactive=asked, version="", user="")
        of_project.__dict__ |= {"project": Project(7, "cats", CLICKS, ""), "models": [connected]}
        (found,) = check_interactive(of_project)
    assert (found.state, part in found.sentence) == (state, True), found


def test_the_table_of_labels_says_what_is_filled_in_and_not_read() -> None:
    rows = (LabelRow("cat", "brush", "brush, one per thing", ("cat", "kitten"), described=True),
            LabelRow("xqz", "brush", "left to annotators", ("xqz",), described=False))  # fmt: skip
    finding = Finding("labels", "ok", "", labels=rows)
    cells = [list(column.cells) for column in labels_table(finding, [("xqz", ("xqz",))]).columns]
    assert [list(map(str, column)) for column in cells] == [
        ["cat", "xqz"], ["brush", "brush"], ["brush, one per thing", "left to annotators"],
        ["cat, kitten (described)", "xqz"], ["", "xqz"],
    ]  # fmt: skip
    assert len(labels_table(finding, None).columns) == 4


def test_the_command_tells_programs_where_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(zeromask, ["doctor", "--json", "--no-mask", "7"], prog_name="zeromask")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["begin_with"]) == (1, False, "label studio")
    assert {"check", "state", "sentence"} <= set(told["findings"][0])


def test_the_guide_has_the_broken_set_ups_and_every_check() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert len(SET_UPS) >= 15
    assert all(row.says and row.remedy and f"{row.says}{row.remedy}".count("`") % 2 == 0 for row in SET_UPS)
    assert set_ups_table(SET_UPS) in text, "python -m tests.broken_set_ups prints it"
    for name in CHECKS:
        assert f"| `{name}` |" in text
