"""A look at a project: new tasks, tasks that are gone, another version; real Redis, stand-in Label Studio."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.states import Counts
from tests.stand_ins import (
    ALL,
    CONFIG,
    PROJECT,
    StandInResident,
    resident_fixture,
    version,
)

__all__ = ["resident_fixture"]  # pytest finds the fixture by its being here


@pytest.fixture
def prelabelling(resident: StandInResident) -> StandInResident:
    resident.settings = replace(resident.settings, prelabel=True)
    return resident


def pending_tasks(resident: StandInResident) -> list[int]:
    return [ref.task for ref in resident.pending.open_refs(PROJECT)]


def test_new_tasks_are_asked_for_where_that_is_set(prelabelling: StandInResident) -> None:
    prelabelling.label_studio.annotated = {3}
    prelabelling.hints.hint_tasks(PROJECT, [2, 3, 4, 777])
    prelabelling.ledger.set_task_count(PROJECT, 6)  # with the three new ones and without the one that is gone: eight
    prelabelling.refresh()
    assert pending_tasks(prelabelling) == [2, 4]
    assert prelabelling.hints.hinted_tasks(PROJECT, most=9) == []


def test_a_lost_webhook_is_caught_up_with(prelabelling: StandInResident) -> None:
    prelabelling.refresh()
    assert pending_tasks(prelabelling) == list(ALL)
    for _ in ALL:
        prelabelling.drain()
    prelabelling.label_studio.data[9] = "x"
    prelabelling.refresh()
    assert pending_tasks(prelabelling) == [9]


def test_nothing_is_asked_for_by_itself_where_that_is_not_set(resident: StandInResident) -> None:
    resident.hints.hint_tasks(PROJECT, [1, 2])
    resident.refresh()
    assert pending_tasks(resident) == []


def test_tasks_that_are_gone_are_forgotten_and_only_those(resident: StandInResident) -> None:
    resident.label_studio.data[2] = "broken"
    resident.ask(1, 2)
    resident.drain()
    resident.ask(3, 4)
    for task in (1, 2, 3):
        del resident.label_studio.data[task]
    resident.hints.hint_tasks(PROJECT, [1, 2, 3, 4])
    resident.refresh()
    assert resident.pending.counts(PROJECT) == Counts(pending=1, leased=0, failed=0, done=0)
    assert pending_tasks(resident) == [4]


def test_after_a_change_of_labels_the_least_certain_go_first_behind_what_was_asked_for(
    resident: StandInResident,
) -> None:
    resident.ask(*ALL)
    resident.drain()
    resident.label_studio.scores = {1: 0.9, 2: 0.1, 3: 0.8, 4: 0.2, 5: 0.95, 6: 0.4, 7: 0.3, 8: 0.85}
    resident.label_studio.data[9] = "x"
    resident.ask(9)
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    taken = [lease.ref for lease in resident.pending.take(PROJECT, "w", limit=20)]
    assert taken == [TaskRef(version("dog"), task) for task in (9, 2, 4, 7, 6, 3, 8, 1, 5)]
    assert resident.pending.counts(PROJECT).done == 0, "what was done at the old labels counts no more"


def test_the_tasks_of_a_project_that_never_had_other_labels_are_not_read_for_that(
    resident: StandInResident, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident.ask(*ALL)
    resident.drain()
    resident.ledger.start_rollout(PROJECT, "")

    def read(project: int) -> None:
        raise AssertionError("a hundred thousand tasks take minutes")

    monkeypatch.setattr(resident.label_studio, "all_tasks", read)
    resident.refresh()
    assert resident.ledger.target_version(PROJECT) == version()


def test_what_failed_at_other_labels_is_asked_for_again(resident: StandInResident) -> None:
    resident.label_studio.data[2] = "broken"
    resident.ask(1, 2)
    resident.drain()
    assert [ref.task for ref in resident.pending.failures(PROJECT)] == [2]
    resident.label_studio.config = CONFIG.format("dog")
    resident.refresh()
    assert resident.pending.failures(PROJECT) == {}
    assert resident.pending.open_refs(PROJECT) == [TaskRef(version("dog"), 1), TaskRef(version("dog"), 2)]


def test_ten_webhooks_are_one_look_and_one_prediction_each(prelabelling: StandInResident, redis: Redis) -> None:
    for _ in range(10):
        prelabelling.hints.hint_tasks(PROJECT, ALL)
        prelabelling.refresh()
        prelabelling.drain()
    assert prelabelling.stored() == [(task, version()) for task in ALL]
    assert redis.scard(f"zeromask:{PROJECT}:hinted") == 0
