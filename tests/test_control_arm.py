"""A share of tasks that gets no prediction: nobody asks for one, and nobody asks again; real Redis, stand-ins else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from backend.task_queue import PredictionRequest, TaskQueue
from plugin_config.control_arm import in_control_arm
from plugin_config.errors import SettingsError
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.stand_ins import ALL, CONFIG, PROJECT, StandInContext, context_fixture, version
from worker.learning.gate.splits import is_held_out

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

OTHERS = [task for task in ALL if not in_control_arm(task, 0.5)]
CONTROL = [task for task in ALL if in_control_arm(task, 0.5)]


@pytest.fixture
def halved(context: StandInContext) -> StandInContext:
    """A worker that leaves half of the tasks without a prediction."""
    context.settings = replace(context.settings, control_share=0.5)
    return context


def test_the_id_decides_and_independently_of_what_is_held_out() -> None:
    many = range(1, 20_001)
    arm = {task for task in many if in_control_arm(task, 0.1)}
    assert len(arm) / len(many) == pytest.approx(0.1, abs=0.01)
    assert arm < {task for task in many if in_control_arm(task, 0.2)}, "a larger share adds tasks"
    assert not any(in_control_arm(task, 0.0) for task in many)
    held_out = sum(is_held_out(str(task)) for task in arm) / len(arm)
    assert held_out == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("share", ["0.6", "-0.1", "nan", "half"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(SettingsError, match="ZEROMASK_CONTROL_SHARE"):
        Settings.from_env({"ZEROMASK_CONTROL_SHARE": share})


def test_the_backend_does_not_ask_for_them(redis: Redis, settings: Settings, pending: PendingTasks) -> None:
    queue = TaskQueue(redis, redis, replace(settings, control_share=0.5))
    queue.add(PredictionRequest(PROJECT, "v1", ALL))
    assert sorted(ref.task for ref in pending.open_refs(PROJECT)) == OTHERS
    queue.add_late(PredictionRequest(2, "v1", tuple(CONTROL)))
    assert pending.open_refs(2) == []


def test_a_worker_drops_what_was_asked_for_before(halved: StandInContext) -> None:
    halved.ask(*ALL)
    halved.drain()
    assert halved.stored() == [(task, version()) for task in OTHERS]
    assert halved.pending.open_refs(PROJECT) == []
    assert halved.pending.failures(PROJECT) == {}


def test_they_are_not_asked_for_again_and_again(halved: StandInContext) -> None:
    halved.settings = replace(halved.settings, prelabel=True)
    for _ in range(2):
        halved.hints.hint_tasks(PROJECT, ALL)
        halved.ledger.set_task_count(PROJECT, -1)
        halved.reconcile()
        assert [ref.task for ref in halved.pending.open_refs(PROJECT)] == [
            task for task in OTHERS if (task, version()) not in halved.stored()
        ]
        halved.drain()
    assert halved.stored() == [(task, version()) for task in OTHERS]


def test_a_new_version_takes_the_predictions_they_had(context: StandInContext) -> None:
    context.ask(*ALL)
    context.drain()
    context.label_studio.annotated = {CONTROL[0]}
    context.settings = replace(context.settings, control_share=0.5)
    context.label_studio.config = CONFIG.format("dog")
    context.reconcile()
    context.drain()
    stored = dict(context.stored())
    assert stored == {CONTROL[0]: version()} | {task: version("dog") for task in OTHERS}, "annotated ones keep theirs"


def test_status_says_that_there_is_a_control_arm(halved: StandInContext) -> None:
    halved.reconcile()
    (remark,) = halved.ledger.label_remarks(PROJECT)
    assert remark == "50% of the tasks are shown without a prediction (ZEROMASK_CONTROL_SHARE)."
    halved.settings = replace(halved.settings, control_share=0.0)
    halved.reconcile()
    assert halved.ledger.label_remarks(PROJECT) == ()
