"""What becomes of a task after each error at each stage: the whole table, and what is done by it."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from redis import Redis

from plugin_config.errors import (
    AnswerTooLarge,
    ImageHostBusy,
    ImageHostTrouble,
    ImageTooLarge,
    ImageUnavailable,
    JobError,
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    ProjectGone,
    QueueDamaged,
    QueueFull,
    QueueUnavailable,
    RegionError,
    TaskDataError,
    VersionsUnavailable,
    ZeromaskError,
)
from plugin_config.queue.jobs import TaskRef
from tests.queue_states import time_passes
from tests.stand_ins import PROJECT, StandInContext, context_fixture, version
from worker.service import failures
from worker.service.context import WorkerContext
from worker.service.failures import TABLE, UNEXPECTED, Action, Stage, Treatment, treat, treatment_of

__all__ = ["context_fixture"]


def answered(status: int) -> LabelStudioError:
    kind = LabelStudioFailing if status == 429 or status >= 500 else LabelStudioError
    return kind("LS", f"answered HTTP {status}", "Look.", status=status)


def named(kind: type[ZeromaskError]) -> ZeromaskError:
    return kind("subject", "problem", "Remedy.")


NO_ANSWER = LabelStudioUnreachable("LS", "ReadTimeout", "Look.")
NO_MEMORY = RuntimeError("DefaultCPUAllocator: not enough memory")
FAIL, RETRY, GIVE_BACK, HOLD = Action.FAIL, Action.RETRY, Action.GIVE_BACK, Action.HOLD
FORGET, LEAVE = Action.FORGET_PROJECT, Action.LEAVE

# Stage, error, action, attempts, delay and pause in seconds, whether the worker's status shows it.
EXPECTED: list[tuple[Stage, Exception, Action, int, float, float, bool]] = [
    (Stage.ADMISSION, named(LabelingConfigError), FAIL, 0, 0, 0, False),
    (Stage.ADMISSION, NO_ANSWER, GIVE_BACK, 0, 0, 2, True),
    (Stage.ADMISSION, answered(500), GIVE_BACK, 0, 5, 0, True),
    (Stage.ADMISSION, answered(429), GIVE_BACK, 0, 0, 2, True),
    (Stage.ADMISSION, answered(503), GIVE_BACK, 0, 0, 2, True),
    (Stage.ADMISSION, named(ProjectGone), FORGET, 0, 0, 0, False),
    (Stage.ADMISSION, answered(404), GIVE_BACK, 0, 0, 5, True),
    (Stage.ADMISSION, answered(401), GIVE_BACK, 0, 0, 5, True),
    (Stage.ADMISSION, named(AnswerTooLarge), GIVE_BACK, 0, 0, 5, True),
    (Stage.ADMISSION, named(VersionsUnavailable), GIVE_BACK, 0, 0, 2, True),
    (Stage.FETCH, named(ImageHostBusy), RETRY, 5, 0, 0, False),
    (Stage.FETCH, named(ImageHostTrouble), RETRY, 3, 0, 0, False),
    (Stage.FETCH, named(ImageUnavailable), FAIL, 0, 0, 0, False),
    (Stage.FETCH, named(ImageTooLarge), FAIL, 0, 0, 0, False),
    (Stage.FETCH, named(TaskDataError), FAIL, 0, 0, 0, False),
    (Stage.FETCH, NO_ANSWER, GIVE_BACK, 0, 5, 0, True),
    (Stage.FETCH, answered(500), RETRY, 5, 0, 0, False),
    (Stage.FETCH, answered(429), GIVE_BACK, 0, 5, 0, True),
    (Stage.FETCH, answered(502), GIVE_BACK, 0, 5, 0, True),
    (Stage.FETCH, answered(401), GIVE_BACK, 0, 5, 0, True),
    (Stage.FETCH, answered(404), GIVE_BACK, 0, 5, 0, True),
    (Stage.FETCH, MemoryError(), RETRY, 3, 0, 0, False),
    (Stage.FETCH, NO_MEMORY, RETRY, 3, 0, 0, False),
    (Stage.EMBED, torch.OutOfMemoryError(), RETRY, 3, 0, 0, False),
    (Stage.EMBED, NO_MEMORY, RETRY, 3, 0, 0, False),
    (Stage.EMBED, RuntimeError("shapes do not match"), FAIL, 0, 0, 0, False),
    (Stage.EMBED, ValueError("shapes do not match"), FAIL, 0, 0, 0, False),
    (Stage.DRAW, named(LearningError), GIVE_BACK, 0, 0, 0, False),
    (Stage.DRAW, named(RegionError), FAIL, 0, 0, 0, False),
    (Stage.DRAW, MemoryError(), RETRY, 3, 0, 0, False),
    (Stage.POST, named(QueueDamaged), GIVE_BACK, 0, 0, 0, False),
    (Stage.POST, named(QueueUnavailable), HOLD, 0, 0, 0, False),
    (Stage.POST, named(QueueFull), HOLD, 0, 0, 0, False),
    (Stage.POST, NO_ANSWER, HOLD, 0, 0, 0, True),
    (Stage.POST, answered(500), RETRY, 5, 0, 0, False),
    (Stage.POST, answered(429), HOLD, 0, 0, 0, True),
    (Stage.POST, answered(504), HOLD, 0, 0, 0, True),
    (Stage.POST, answered(401), GIVE_BACK, 0, 30, 0, True),
    (Stage.POST, answered(403), GIVE_BACK, 0, 30, 0, True),
    (Stage.POST, answered(400), FAIL, 0, 0, 0, False),
    (Stage.POST, named(AnswerTooLarge), FAIL, 0, 0, 0, False),
    (Stage.RECONCILE, named(ProjectGone), FORGET, 0, 0, 0, False),
    (Stage.RECONCILE, answered(404), LEAVE, 0, 0, 0, False),
    (Stage.RECONCILE, answered(403), LEAVE, 0, 0, 0, False),
    (Stage.RECONCILE, answered(502), LEAVE, 0, 0, 0, False),
    (Stage.RECONCILE, NO_ANSWER, LEAVE, 0, 0, 0, False),
    (Stage.RECONCILE, named(LabelingConfigError), LEAVE, 0, 0, 0, False),
    (Stage.RECONCILE, named(VersionsUnavailable), LEAVE, 0, 0, 0, False),
]


@pytest.mark.parametrize(
    ("stage", "error", "action", "attempts", "delay_s", "pause_s", "shown"), EXPECTED,
    ids=[f"{row[0].value}-{type(row[1]).__name__}-{getattr(row[1], 'status', '')}" for row in EXPECTED],
)  # fmt: skip
def test_the_treatment_of_every_error(
    stage: Stage, error: Exception, action: Action, attempts: int, delay_s: float, pause_s: float, shown: bool
) -> None:
    found = treatment_of(stage, error)
    assert found is not None
    assert (found.action, found.attempts, found.delay_s) == (action, attempts, delay_s)
    assert (found.pause_s, found.concerns_all) == (pause_s, shown)


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_every_row_of_the_table_counts(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "TABLE", TABLE[:number] + TABLE[number + 1 :])
    treatments = [treatment_of(stage, error) for stage, error, *_ in EXPECTED]
    expected = [tuple(row[2:]) for row in EXPECTED]
    assert expected != [
        found and (found.action, found.attempts, found.delay_s, found.pause_s, found.concerns_all)
        for found in treatments
    ]


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        pytest.param(Stage.ADMISSION, named(QueueUnavailable), id="Redis away: the drain ends"),
        pytest.param(Stage.FETCH, RuntimeError("a fault"), id="a fault in fetching"),
        pytest.param(Stage.FETCH, named(QueueUnavailable), id="Redis away while fetching"),
        pytest.param(Stage.DRAW, RuntimeError("a fault"), id="a fault in drawing"),
        pytest.param(Stage.DRAW, NO_ANSWER, id="no business there"),
        pytest.param(Stage.POST, named(RegionError), id="a fault in posting"),
        pytest.param(Stage.POST, NO_MEMORY, id="no memory to post"),
        pytest.param(Stage.RECONCILE, named(QueueUnavailable), id="Redis away: the job ends"),
        pytest.param(Stage.RECONCILE, named(JobError), id="a fault in reconciling"),
    ],
)
def test_other_errors_are_faults_and_in_no_row(stage: Stage, error: Exception) -> None:
    assert treatment_of(stage, error) is None


def test_a_message_that_speaks_of_memory_is_not_yet_a_lack_of_it() -> None:
    """The text is Label Studio's, or a host's name."""
    error = LabelStudioError("LS", "was refused: memory.example is full", "Look.", status=403)
    assert treatment_of(Stage.POST, error) == treatment_of(Stage.POST, answered(403))


@pytest.mark.parametrize(
    ("treatment", "left", "reason"),
    [
        pytest.param(Treatment(FAIL, reason="it breaks ({error})"), "failed", "it breaks (a {fault})", id="fail"),
        pytest.param(UNEXPECTED, "failed", "unexpected KeyError: a {fault}; the worker's log tells where", id="fault"),
        pytest.param(Treatment(RETRY, attempts=1), "failed", "a {fault}", id="last attempt"),
        pytest.param(Treatment(RETRY, attempts=2), "pending", "", id="retry"),
        pytest.param(Treatment(GIVE_BACK, delay_s=30), "pending", "", id="give back"),
        pytest.param(Treatment(HOLD), "leased", "", id="hold"),
    ],
)
def test_a_task_is_settled_as_its_treatment_says(
    context: StandInContext, treatment: Treatment, left: str, reason: str
) -> None:
    class Fault(KeyError):
        def __str__(self) -> str:
            return "a {fault}"

    Fault.__name__ = "KeyError"
    context.ask(1)
    context.leases.take(PROJECT, limit=1)
    treat(cast("WorkerContext", context), treatment, Fault(), PROJECT, TaskRef(version(), 1))
    counts: Any = context.pending.counts(PROJECT)
    assert {name: getattr(counts, name) for name in ("pending", "leased", "failed")}[left] == 1
    assert [*context.pending.failures(PROJECT).values()] == ([reason] if reason else [])


def test_a_task_given_back_with_a_delay_is_due_after_it(context: StandInContext, redis: Redis) -> None:
    context.ask(1)
    context.leases.take(PROJECT, limit=1)
    treatment = Treatment(GIVE_BACK, delay_s=30, concerns_all=True)
    treat(cast("WorkerContext", context), treatment, answered(401), PROJECT, TaskRef(version(), 1))
    assert context.trouble == str(answered(401))
    assert context.leases.take(PROJECT, limit=1) == []
    time_passes(redis, 31)
    assert len(context.leases.take(PROJECT, limit=1)) == 1
