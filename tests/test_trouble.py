"""docs/guide/trouble.md keeps its word: its rows name tests that exist; and tests of rows that no other module has."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from redis import Redis

from plugin_config.cli.up import next_step
from plugin_config.local.services import Services
from plugin_config.queue.jobs import DrainProject, TaskRef
from plugin_config.settings import Settings
from tests.stand_ins import StandInContext, StandInLabelStudio, context_fixture, version
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import Picture
from worker.segmentation.segmenter import Segmenter
from worker.service.admission import drain
from worker.service.context import WorkerContext
from worker.service.pipeline import Pipeline
from worker.service.stages import PredictionStages

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "guide" / "trouble.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^### (\d+\. .+?)\n\n(.+?)(?=\n\n|\Z)", PAGE, re.DOTALL | re.MULTILINE))
# What `doctor` examines. Its module's own names are compared where it is there.
CHECKS = {
    "settings", "versions", "state folder", "label studio", "token", "redis", "redis memory", "redis persistence",
    "backend", "workers", "learner", "clock", "project", "rights", "labels", "private addresses", "model", "same model",
    "webhook", "interactive", "image", "words", "mask", "predictions", "shown version", "tasks",
}  # fmt: skip


@cache
def names_in(name: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (TESTS / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_group_has_a_row() -> None:
    assert [int(title.partition(".")[0]) for title in ROWS] == list(range(1, 16))


@pytest.mark.parametrize("title", ROWS)
def test_a_row_says_why_or_how_it_is_told_and_names_tests_that_exist(title: str) -> None:
    row = ROWS[title]
    assert re.search(r"^- \*\*(Cannot happen|Told)\.\*\* ", row, re.MULTILINE)
    named = re.findall(r"\[(test_\w+\.py)\]\(\.\./\.\./tests/\1\) `(test_\w+)`", row)
    assert named, "it has no test"
    assert [test for file, test in named if test not in names_in(file)] == []
    reported = re.findall(r"\[(\d+)\]\(https://github\.com/HumanSignal/[a-z-]+/issues/(\d+)\)", row)
    assert all(shown == linked for shown, linked in reported)
    (count,) = re.findall(r"\((\d+)\)$", title)
    assert len(set(reported)) == int(count)


@pytest.mark.parametrize("title", ROWS)
def test_a_row_names_checks_that_there_are(title: str) -> None:
    (told,) = re.findall(r"^- \*\*Doctor:\*\* (.+)\.$", ROWS[title], re.MULTILINE)
    assert set(re.findall(r"`([a-z ]+)`", told)) <= CHECKS


def test_the_checks_are_those_of_doctor() -> None:
    checkup: Any = pytest.importorskip("plugin_config.doctor.checkup", reason="doctor is built beside this page")
    assert {check.name for check in (*checkup.INSTALLATION_CHECKS, *checkup.PROJECT_CHECKS)} == CHECKS


def test_up_names_both_variables_without_which_label_studio_does_not_connect() -> None:
    settings = Settings(label_studio_url="http://ls", label_studio_api_key="key")
    told = next_step(settings, Services("unix:///s", "http://127.0.0.1:9090"))
    assert "ML_BLOCK_LOCAL_IP=false" in told
    assert "SSRF_PROTECTION_ENABLED=false" in told


def test_one_model_serves_every_project_of_a_worker(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = list[Segmenter](), Segmenter.from_settings

    def counted(given: Settings) -> Segmenter:
        loaded.append(load(given))
        return loaded[-1]

    def picture(*_: object, **__: object) -> Picture:
        return Picture(np.full((48, 64, 3), 200, dtype=np.uint8), (64, 48))

    monkeypatch.setattr(Segmenter, "from_settings", counted)
    monkeypatch.setattr(ImageLoader, "load", picture)
    context = WorkerContext(
        replace(settings, label_studio_url="http://ls", label_studio_api_key="key", threads=1), redis
    )
    context.label_studio.close()
    label_studio = StandInLabelStudio(6)
    context.label_studio = cast("Any", label_studio)
    pipeline = Pipeline(
        PredictionStages(context), capacity=16, batch=8, stopping=context.stopping, watch=context.watch,
        turns=context.turns,
    )  # fmt: skip
    try:
        for project, tasks in ((7, (1, 2, 3)), (8, (4, 5, 6))):
            context.pending.add(project, [TaskRef(version(), task) for task in tasks])
            drain(context, pipeline, DrainProject(project=project, slot=0, limit=8))
            assert pipeline.wait_empty(60)
    finally:
        pipeline.close(grace_s=1.0)
    assert [(row.task, row.version) for row in sorted(label_studio.stored, key=lambda row: row.task)] == [
        (task, version()) for task in range(1, 7)
    ]
    assert len(loaded) == 1


def test_a_version_of_another_model_that_a_person_chose_stays_shown(context: StandInContext) -> None:
    context.label_studio.shown = "someone elses-1"
    context.ask(1, 2)
    context.drain()
    assert context.stored() == [(1, version()), (2, version())]
    assert context.label_studio.shown == "someone elses-1"
