"""What a monitoring system is given: the numbers of the queue, and a dashboard and alerts that name nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.connection import AbstractConnection

from backend.queue_snapshot import read_snapshot
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.pending import PendingTasks, Priority
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.states import Counts
from plugin_config.queue.totals import StageTotal, Totals
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner
from plugin_config.versions.served import ServedAdapters
from tests.backend_client import Client, client_fixture, client_of_fixture, patient_fixture
from tests.queue_states import PROJECT, refs, take, time_passes
from tests.served_backend import backend
from tests.status_projects import fill as fill_projects

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guide" / "monitoring.md").read_text(encoding="utf-8")
FILES = ROOT / "plugin_config" / "deploy" / "helm" / "zeromask" / "files"
DASHBOARD: Mapping[str, Any] = json.loads((FILES / "zeromask.json").read_text(encoding="utf-8"))
ALERTS: list[Mapping[str, Any]] = yaml.safe_load(
    (FILES / "zeromask.rules.yml").read_text(encoding="utf-8")
)["groups"][0]["rules"]
EXPRESSIONS = {
    **{f"{panel['title']}, {target['refId']}": target["expr"] for panel in DASHBOARD["panels"]
       for target in panel["targets"]},
    **{variable["name"]: variable["definition"] for variable in DASHBOARD["templating"]["list"]
       if variable["type"] == "query"},
    **{rule["alert"]: rule["expr"] for rule in ALERTS},
}  # fmt: skip
OF_THE_SCRAPE = {"job", "instance"}
"""Labels that a Prometheus server adds."""

Series = Mapping[str, set[str]]
"""Name -> its labels."""


def fill(redis: Redis, pending: PendingTasks) -> None:
    """A queue with tasks in every state, a worker, a learner, and what annotators did."""
    pending.add(PROJECT, refs(1, 2, 3, 4))
    done, failed = take(pending, "w", limit=2)
    take(pending, "w", limit=1)
    pending.done(PROJECT, "w", done)
    pending.fail(PROJECT, "w", failed, "its image is gone")
    pending.confirm_project(PROJECT)
    Totals(redis).add_stages({"fetch": 20.0, "embed": 400.0, "segment": 80.5, "post": 1.0})
    for kind in ({}, {"learners": True}, {"clickers": True}):
        WorkerPresence(redis, **kind).heartbeat("w")
    counts = {"cat": {"accepted": 3, "changed": 1, "deleted": 0, "added": 2}}
    ServedAdapters(redis).write_outcomes(Owner("http://ls", PROJECT, "2026", "builtin"), counts)


@pytest.fixture(name="series", scope="module")
def series_fixture(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Series]:
    """What `/metrics` of a backend on a real port has, after a request to each kind of route."""
    redis = Redis.from_url(redis_url)
    redis.flushall()
    fill(redis, PendingTasks(redis, drain_tasks=4, lease_s=30))
    with backend(Settings(redis_url=redis_url, model="builtin", state_dir=str(tmp_path_factory.mktemp("state")))) as it:
        it.ask("GET", "/health")
        it.ask("POST", "/webhook", {"action": "PROJECT_UPDATED", "project": {"id": PROJECT}})
        families = text_string_to_metric_families(it.ask("GET", "/metrics").content.decode())
        yield {row.name: set(row.labels) for family in families for row in family.samples}
    redis.close()


@pytest.mark.parametrize("place", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_there_are(series: Series, place: str) -> None:
    expression = EXPRESSIONS[place]
    named = set(re.findall(r"zeromask_\w+", expression))
    assert named, "it is about something else"
    assert named <= set(series)
    chosen = re.findall(r"(zeromask_\w+)\{([^}]*)\}", expression)
    for metric, selectors in chosen:
        labels = {part.partition("=")[0].strip(" !~") for part in re.sub(r'"[^"]*"', '""', selectors).split(",")}
        assert labels <= series[metric] | OF_THE_SCRAPE, metric
    grouped = {label.strip() for part in re.findall(r"\b(?:by|without|on) \(([^)]*)\)", expression)
               for label in part.split(",")}  # fmt: skip
    assert all(any(label in series[metric] | OF_THE_SCRAPE for metric in named) for label in grouped)
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_a_panel_has_what_grafana_needs(panel: Mapping[str, Any]) -> None:
    assert panel["type"] in {"stat", "timeseries"}
    place = panel["gridPos"]
    assert place["w"] > 0
    assert place["h"] > 0
    assert place["x"] + place["w"] <= 24
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    for target in panel["targets"]:
        labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        kept = re.findall(r"by \(([^)]*)\)", target["expr"]) or [",".join(labels)]
        assert set(labels) <= {label.strip() for label in kept[0].split(",")}


def test_the_panels_of_the_dashboard_stand_beside_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = (one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
                 or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])  # fmt: skip
        assert apart, (one, other)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job"]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["remedy"].endswith(".")
    assert f"| `{rule['alert']}` |" in PAGE


def test_the_page_describes_every_metric_and_no_other(series: Series) -> None:
    described = re.findall(r"^\| `(zeromask_\w+)(?:\{([\w, ]+)\})?` \|", PAGE, re.MULTILINE)
    suffixes = re.compile(r"(?<=_seconds)_(sum|count|bucket)$")
    families: dict[str, set[str]] = {}
    for name, labels in series.items():
        families.setdefault(suffixes.sub("", name), set()).update(labels - {"le"})
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in described} == families


def test_many_projects_are_read_in_few_requests(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, needed = list[int](), list[int]()
    send: Any = AbstractConnection.send_packed_command

    def counted(self: AbstractConnection, *args: Any, **kwargs: Any) -> Any:
        sent.append(1)
        return send(self, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", counted)
    for projects in (2, 40):
        redis.flushall()
        fill_projects(redis, projects=projects, tasks=projects * 4)
        sent.clear()
        assert len(read_snapshot(redis, settings).projects) == projects
        needed.append(len(sent))
    assert needed[0] == needed[1] <= 20, needed


def test_what_is_open_leaves_out_paused_projects(redis: Redis, settings: Settings, pending: PendingTasks) -> None:
    fill(redis, pending)
    pending.add(8, refs(1, 2, 3))
    snapshot = read_snapshot(redis, settings)
    assert snapshot.open_tasks == 2 + 3
    assert {row.project: row.counts for row in snapshot.projects}[PROJECT] == Counts(1, 1, 1, 1)
    pending.pause(8)
    snapshot = read_snapshot(redis, settings)
    assert snapshot.open_tasks == 2
    assert [row.is_paused for row in snapshot.projects] == [False, True]


def test_the_longest_wait_is_that_of_any_priority(redis: Redis, settings: Settings, pending: PendingTasks) -> None:
    assert read_snapshot(redis, settings).longest_wait_s == 0
    pending.add(PROJECT, refs(1), priority=Priority.LATER)
    time_passes(redis, 100)
    pending.add(PROJECT, refs(2), priority=Priority.OPENED)
    pending.add(PROJECT, refs(3), priority=Priority.ASKED)
    time_passes(redis, 50)
    assert pending.longest_wait_s(PROJECT) == pytest.approx(150, abs=10)
    assert take(pending, "w", limit=2) == refs(2, 3)
    assert pending.longest_wait_s(PROJECT) == pytest.approx(150, abs=10)
    take(pending, "w")
    assert pending.longest_wait_s(PROJECT) == 0
    pending.add(PROJECT, refs(4), priority=Priority.OPENED)
    time_passes(redis, 70)
    assert pending.longest_wait_s(PROJECT) == pytest.approx(70, abs=10)
    pending.pause(PROJECT)
    assert read_snapshot(redis, settings).longest_wait_s == 0


def test_a_retry_waits_from_when_it_is_due(redis: Redis, pending: PendingTasks) -> None:
    pending.add(PROJECT, refs(1))
    time_passes(redis, 5)
    (ref,) = take(pending, "w")
    pending.retry(PROJECT, "w", ref, "its host is down")
    assert pending.longest_wait_s(PROJECT) == 0, "it is due in four seconds"
    time_passes(redis, 9)
    assert pending.longest_wait_s(PROJECT) == pytest.approx(5, abs=3)


@pytest.mark.parametrize("score", ["-inf", "inf", "-1e300", "1e300"])
def test_a_foreign_score_ends(redis: Redis, pending: PendingTasks, score: str) -> None:
    redis.zadd("zeromask:7:pending", {"v1|5": float(score)})
    assert pending.longest_wait_s(PROJECT) == 0


def test_tasks_that_end_are_counted_for_good(redis: Redis, hasty: PendingTasks) -> None:
    totals = Totals(redis)
    assert totals.ended() == {"done": 0, "failed": 0}
    for _ in range(2):
        hasty.add(PROJECT, refs(1, 2))
        one, other = take(hasty, "w")
        hasty.done(PROJECT, "w", one)
        hasty.fail(PROJECT, "w", other, "gone")
    hasty.retry_failed(PROJECT, hasty.failures(PROJECT))
    hasty.forget_project(PROJECT)
    assert totals.ended() == {"done": 2, "failed": 2}
    redis.hset("zeromask:ended", mapping={"done": "x", "failed": "-1"})
    assert totals.ended() == {"done": 0, "failed": 0}
    redis.delete("zeromask:ended")
    redis.set("zeromask:ended", "foreign")
    hasty.add(PROJECT, refs(3))
    assert hasty.done(PROJECT, "w", take(hasty, "w")[0])
    assert totals.ended()["done"] == 1


def test_a_task_that_kills_its_workers_is_counted_as_failed_once(redis: Redis, hasty: PendingTasks) -> None:
    hasty.add(PROJECT, refs(1))
    for _ in range(5):
        take(hasty, "w")
        time_passes(redis)
        hasty.sweep()
        time_passes(redis)
    assert hasty.counts(PROJECT).failed == 1
    assert Totals(redis).ended() == {"done": 0, "failed": 1}


def test_stage_times_add_up(redis: Redis) -> None:
    totals = Totals(redis)
    assert totals.stages()["embed"] == StageTotal(0, 0.0)
    totals.add_stages({"fetch": 1500.0, "embed": 0.25})
    totals.add_stages({"embed": 0.5, "made up": 1.0})
    assert totals.stages() == {
        "fetch": StageTotal(1, 1.5), "embed": StageTotal(2, 0.00075), "segment": StageTotal(0, 0.0),
        "post": StageTotal(0, 0.0),
    }  # fmt: skip
    redis.hset("zeromask:stages", mapping={"embed": "nan", "embed:us": "1e999"})
    totals.add_stages({"embed": 1.0})
    assert totals.stages()["embed"] == StageTotal(1, 0.001)


def test_invented_projects_and_too_many_stand_together(
    client: Client, redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.metrics._MOST_PROJECTS", 2)
    for project in range(1, 5):
        pending.add(project, refs(*range(1, project + 1)))
        pending.confirm_project(project)
    pending.add(50, refs(1))
    pending.add(51, refs(1, 2, 3, 4, 5, 6))
    page = client.get("/metrics").text
    found = dict(re.findall(r'^zeromask_tasks\{project="(\w+)",state="pending"\} (\d+)', page, re.MULTILINE))
    assert found == {"4": "4", "3": "3", "other": "3", "unknown": "7"}


def test_regions_have_a_bounded_number_of_series(
    client: Client, redis: Redis, pending: PendingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.metrics._MOST_REGION_SERIES", 20)
    for project in (7, 8):
        pending.add(project, refs(1))
        labels = {f"label {number}": {"accepted": 1, "changed": 0, "deleted": 1, "added": 2} for number in range(9)}
        ServedAdapters(redis).write_outcomes(Owner("http://ls", project, "2026", "builtin"), labels)
    assert client.get("/metrics").text.count("\nzeromask_regions{") == 20


def test_a_damaged_project_does_not_hide_the_others(
    redis: Redis, settings: Settings, pending: PendingTasks, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fill(redis, pending)
    pending.add(8, refs(1))
    monkeypatch.setattr("plugin_config.queue.connection.quarantine_keys", lambda *_: [])
    redis.set("zeromask:8:outcomes", "foreign")
    assert [row.project for row in read_snapshot(redis, settings).projects] == [PROJECT]
    assert "metrics: project 8 is left out" in caplog.text


def test_learning_that_needs_a_person_is_counted(redis: Redis, settings: Settings, pending: PendingTasks) -> None:
    for project in (7, 8):
        pending.add(project, [TaskRef("v1", 1)])
    learning = ProjectLearning(redis, lease_s=30)
    learning.set_progress(7, Progress("blocked", "the disk is full", "2026-11-30T00:00:00+00:00"))
    learning.set_progress(8, Progress("waiting", "for a pause", "2026-11-30T00:00:00+00:00"))
    assert [row.is_blocked for row in read_snapshot(redis, settings).projects] == [True, False]
