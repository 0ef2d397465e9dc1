"""A look at corrections, step by step: when it learns, what it keeps, what is served, and whatever goes wrong in it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from plugin_config.cli.versions import render
from plugin_config.errors import (
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    QueueUnavailable,
    VersionsUnavailable,
)
from plugin_config.label_studio.annotations import AnnotationMark
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.jobs import LearnProject, refresh_queue
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.learning import ProjectLearning
from plugin_config.versions.manifests import KEPT, VersionFolder
from plugin_config.versions.rollback import roll_back
from plugin_config.versions.served import ServedAdapters
from plugin_config.vocabulary import parse_vocabulary
from tests.learning_house import LEARNED_ON, WEIGHTS, LearningHouse, NumberRecipe, OneNumber, learning_house_fixture
from tests.queue_states import time_passes
from tests.stand_ins import CONFIG, PROJECT
from worker.label_studio.outcomes import RegionOutcomes
from worker.learning.gate.splits import is_held_out
from worker.learning.interfaces import AdapterState
from worker.segmentation.segmenter import Segmenter
from worker.service.trainer import learner, reading, training_round
from worker.service.trainer.corrections import Correction
from worker.service.trainer.learner import Learner, learner_heartbeat
from worker.service.trainer.lease_guard import LeaseGuard

__all__ = ["learning_house_fixture"]  # pytest finds the fixture by its being here


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    return learning_house


def copied(house: LearningHouse) -> str:
    return ServedAdapters(house.redis).served(PROJECT, "builtin")


def test_enough_corrections_make_a_version_that_is_served(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    told = house.look()
    assert (told.state, told.detail) == ("idle", "promoted at strength 1: better.")
    (name,) = house.folder.names()
    assert (house.served, copied(house)) == (name, name)
    manifest = house.folder.manifest(name)
    assert (manifest.base, manifest.learned_from, manifest.verdict.promoted) == (ZEROSHOT, ("1", "2"), True)
    assert refresh_queue(house.redis).job_ids, "the project is looked at again, and predicted"
    assert house.learning.due() == []


def test_the_next_one_is_judged_against_it_and_lies_on_top_of_it(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    house.annotate(6, digest="two")
    house.look()
    first, second = house.folder.names()
    served, seen = house.judged[1]
    assert (served.number, seen) == (1.0, ("1", "2"))
    assert house.folder.manifest(second).base == first
    assert house.served == second


@pytest.mark.parametrize(
    ("tasks", "changed", "pressed", "state", "told"),
    [
        pytest.param(0, 0, False, "idle", "no image is annotated", id="none"),
        pytest.param(2, 2, False, "waiting", "2 of 3 new", id="too few"),
        pytest.param(9, 0, False, "idle", "nothing is new", id="nothing changed"),
        pytest.param(2, 2, True, "idle", "promoted", id="too few but a person asks"),
        pytest.param(0, 0, True, "idle", "no image is annotated", id="a person asks for nothing"),
    ],
)
def test_when_it_learns(
    house: LearningHouse, tasks: int, changed: int, pressed: bool, state: str, told: str
) -> None:
    house.mark = AnnotationMark(tasks, "2026" if tasks else "", changed)
    progress = house.look(pressed=pressed)
    assert progress.state == state
    assert told in progress.detail


def test_other_annotations_have_the_project_reconciled_since_other_images_are_next(house: LearningHouse) -> None:
    house.mark = AnnotationMark(2, "2026", 2)
    assert house.look().state == "waiting"
    assert len(refresh_queue(house.redis).job_ids) == 1
    house.redis.delete(refresh_queue(house.redis).key)
    house.look()
    assert refresh_queue(house.redis).job_ids == [], "the same as before"
    house.mark = AnnotationMark(2, "2027", 2)
    house.look()
    assert len(refresh_queue(house.redis).job_ids) == 1


def test_the_same_corrections_are_learned_from_once(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.promotes = False
    assert "no better" in house.look().detail
    assert house.look(pressed=True).detail == "nothing is new"
    assert len(house.judged) == 1
    assert house.folder.names() == []


def test_the_button_is_pressed_once_though_annotators_work_meanwhile(house: LearningHouse) -> None:
    def annotators_go_on() -> None:
        time_passes(house.redis, 1)
        house.learning.request_after_pause(PROJECT, quiet_s=0)

    house.annotate(1, digest="one")
    house.while_judging = annotators_go_on
    assert "promoted" in house.look(pressed=True).detail
    house.annotate(2, digest="two")
    assert "1 of 3 new" in house.look().detail
    assert len(house.judged) == 1


def test_other_labels_are_learned_from_the_same_corrections(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    house.label_studio.config = CONFIG.format("dog")
    house.mark = replace(house.mark, changed=0)
    house.look()
    assert len(house.judged) == 2


def other_model(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.read_otherwise("ba9876543210")


def other_form(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release, which cannot load the first version."""
    load = NumberRecipe.load

    def newer(recipe: NumberRecipe, state: AdapterState, segmenter: Segmenter) -> OneNumber:
        if state.tensors["number"][0] == 1:
            raise LearningError("adapter", "was learned by another release", "Serve another.")
        return load(recipe, state, segmenter)

    monkeypatch.setattr(NumberRecipe, "form", 2)
    monkeypatch.setattr(NumberRecipe, "load", newer)
    house.read_otherwise(WEIGHTS)


def written_before_that_was_noted(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = Path(house.settings.versions).rglob("served.json")
    row = json.loads(path.read_text())
    assert row["attempt"].pop("weights") == LEARNED_ON
    assert LEARNED_ON in row["attempt"].pop("content")
    path.write_text(json.dumps(row))


@pytest.mark.parametrize("changed", [other_model, other_form, written_before_that_was_noted])
def test_what_cannot_be_served_any_more_is_learned_again_from_the_same_corrections(
    changed: Callable[[LearningHouse, pytest.MonkeyPatch], None], house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.annotate(3, digest="one")
    house.look()
    (first,) = house.folder.names()
    house.mark = replace(house.mark, changed=0)
    assert house.look(pressed=True).detail == "nothing is new"
    changed(house, monkeypatch)
    assert house.look().detail.startswith("promoted")
    assert house.served == copied(house) == house.folder.names()[-1] != first
    if changed is other_model:
        assert house.judged[1] == (None, ()), "nothing learned on the other model judges"
    if changed is other_form:
        assert house.folder.manifest(house.served).base == ZEROSHOT, "nobody could go back to the first"
    assert house.look(pressed=True).detail == "nothing is new"


def test_another_release_may_bring_back_what_a_rollback_took(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.annotate(3, digest="one")
    house.look()
    roll_back(house.redis, PROJECT, "builtin")
    house.mark = replace(house.mark, changed=0)
    assert house.look(pressed=True).detail == "nothing is new"
    other_form(house, monkeypatch)
    assert house.look().detail.startswith("promoted")


def test_a_damaged_version_is_no_reason_to_learn_again(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    for path in Path(house.settings.versions).rglob("manifest.json"):
        path.write_text("{")
    assert house.look(pressed=True).detail == "nothing is new"


def test_without_webhooks_annotations_that_stood_still_are_enough(house: LearningHouse) -> None:
    house.annotate(3, digest="one")

    def look() -> str:
        house.learning.request(PROJECT)
        house.learner.learn(LearnProject(project=PROJECT))
        told = house.learning.progress(PROJECT)
        assert told is not None
        return told.detail

    assert look() == "until annotators pause"
    house.annotate(7, digest="two")
    time_passes(house.redis, 11)
    assert look() == "until annotators pause"
    time_passes(house.redis, 11)
    assert look().startswith("promoted")


def test_versions_tells_which_labels_are_accepted_as_predicted(house: LearningHouse) -> None:
    house.others = frozenset({2})
    house.outcomes = {
        "cat": RegionOutcomes(accepted=3, changed=1),
        "dog": RegionOutcomes(accepted=1, deleted=2, added=4),
        "cow": RegionOutcomes(added=1),
    }
    house.annotate(3, digest="one")
    house.look()
    assert house.attempt.outcomes["dog"] == {"accepted": 2, "changed": 0, "added": 8, "deleted": 4}
    told = str(render(house.folder, "").caption)
    assert "left as they were: dog 2 of 6, cat 6 of 8" in told
    assert "cow" not in told


def test_what_the_served_version_was_trained_on_is_learned_from_again(house: LearningHouse) -> None:
    chosen = [key for key in map(str, range(1, 25)) if is_held_out(key)]
    house.learns_from = tuple(chosen[:-2])
    house.others = frozenset(range(2, 20))
    house.annotate(19, digest="one")
    house.look()
    assert house.held_out == set()
    house.others = frozenset(range(2, 25))
    house.annotate(24, digest="two")
    house.look()
    assert house.held_out == set(chosen[-2:])
    assert house.judged[-1][1] == house.learns_from


def test_the_gate_may_go_back_to_the_zero_shot_model(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    house.back_to_zeroshot = True
    house.annotate(6, digest="two")
    assert "went back" in house.look().detail
    assert (house.served, copied(house)) == (ZEROSHOT, ZEROSHOT)


def test_what_was_rolled_back_does_not_come_back_by_itself(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    house.annotate(6, digest="two")
    house.look()
    first, second = house.folder.names()
    move = roll_back(house.redis, PROJECT, "builtin")
    assert (move.before, move.after) == (second, first)
    assert house.look(pressed=True).detail == "nothing is new"
    house.annotate(9, digest="three")
    house.promotes = False
    house.look()
    house.annotate(6, digest="two")  # the last ones are deleted again
    assert "rolled back" in house.look(pressed=True).detail
    assert house.served == first
    house.promotes = True
    house.annotate(12, digest="four")
    house.look()
    assert house.folder.names()[-1] == house.served != second, "other corrections start again"


def test_opening_annotated_tasks_does_not_undo_a_rollback(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    roll_back(house.redis, PROJECT, "builtin")
    house.open_annotated(digest="opened")
    for pressed in (False, True):
        assert house.look(pressed=pressed).detail == "nothing is new"
    house.annotate(6, digest="two")
    house.promotes = False
    house.look()
    house.annotate(9, digest="the first again")
    house.content = "one"
    assert "rolled back" in house.look().detail
    house.open_annotated(digest="opened again")
    assert house.look().detail == "nothing is new"
    assert (house.served, len(house.judged)) == (ZEROSHOT, 2)


@pytest.mark.parametrize("config", [
    pytest.param(CONFIG.format('dog"/><Label value="cat'), id="one more label"),
    pytest.param(CONFIG.format('cat" hint="of the neighbours'), id="a hint"),
])  # fmt: skip
def test_labels_changed_after_a_rollback_do_not_undo_it(house: LearningHouse, config: str) -> None:
    house.annotate(3, digest="one")
    house.look()
    roll_back(house.redis, PROJECT, "builtin")
    house.label_studio.config = config
    assert "rolled back" in house.look().detail
    assert house.look(pressed=True).detail == "nothing is new"
    house.annotate(6, digest="two")
    assert house.look().detail.startswith("promoted"), "other corrections start again"


def test_opening_annotated_tasks_does_not_cost_a_learning(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    before = house.folder.pointer()
    house.open_annotated(digest="opened")
    assert house.look().detail == "nothing is new"
    assert len(house.judged) == 1
    after = house.folder.pointer()
    assert before.attempt and after == replace(before, attempt=after.attempt)
    assert after.attempt == replace(before.attempt, digest=after.attempt.digest if after.attempt else "",
                                    latest="opened")  # fmt: skip


def test_a_person_who_chooses_while_it_learns_has_the_last_word(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    (first,) = house.folder.names()
    house.annotate(6, digest="two")
    house.while_judging = partial(roll_back, house.redis, PROJECT, "builtin")
    told = house.look()
    assert "was chosen while this was learned" in told.detail
    assert (house.served, copied(house)) == (ZEROSHOT, ZEROSHOT)
    house.while_judging = lambda: None
    assert house.look(pressed=True).detail == "nothing is new"
    assert roll_back(house.redis, PROJECT, "builtin", first.partition("-")[0]).after == first


def test_a_version_that_a_person_goes_back_to_is_not_deleted_under_the_pointer(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, prune = "", VersionFolder.prune
    movers: list[Thread] = []

    def go_back() -> None:
        with suppress(LearningError):  # it is gone already: they are told so
            roll_back(house.redis, PROJECT, "builtin", oldest)

    def pruning(folder: VersionFolder, keep: Collection[str]) -> list[str]:
        movers.append(Thread(target=go_back, daemon=True))
        movers[-1].start()
        movers[-1].join(timeout=0.5)
        return prune(folder, keep)

    for count in range(1, KEPT + 2):
        house.annotate(3 * count, digest=str(count))
        if count == KEPT + 1:
            oldest = house.folder.names()[0]
            monkeypatch.setattr(VersionFolder, "prune", pruning)
        house.look()
    movers[-1].join(timeout=60)
    assert not any(mover.is_alive() for mover in movers)
    assert house.served in house.folder.names()


def refuse(error: Exception) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        pytest.param(LabelStudioUnreachable("Label Studio", "is away", "Start it."), "waiting", "away", id="away"),
        pytest.param(LabelStudioFailing("LS", "answered HTTP 502", "Log.", status=502), "waiting", "502", id="502"),
        pytest.param(LabelStudioError("GET", "was refused", "Token.", status=401), "blocked", "refused", id="token"),
        pytest.param(VersionsUnavailable("folder", "is full", "Make room."), "blocked", "full", id="full disk"),
        pytest.param(LabelingConfigError("config", "has no labels", "Add some."), "blocked", "labels", id="labels"),
        pytest.param(RuntimeError("a fault of ours"), "blocked", "unexpected RuntimeError", id="a fault"),
        pytest.param(MemoryError(), "blocked", "unexpected MemoryError", id="memory"),
    ],
)
def test_whatever_goes_wrong_is_told_and_tried_again_and_nothing_is_lost(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, said: str
) -> None:
    house.annotate(3, digest="one")
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_corrections", refuse(error))
        told = house.look()
        assert (told.state, said in told.detail) == (state, True), told
        assert house.served == ZEROSHOT
    assert house.learning.due() == []
    if not isinstance(error, LabelingConfigError):  # that needs a person; the round looks again
        for _ in range(10):
            time_passes(house.redis, 10)
        assert house.learning.due() == [PROJECT]
    house.learning.request(PROJECT)
    house.learner.learn(LearnProject(project=PROJECT))
    assert house.served != ZEROSHOT or house.look().detail.startswith("promoted")


def test_a_fault_that_comes_again_for_months_is_told_each_time(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.annotate(3, digest="one")
    house.learning.request_now(PROJECT)
    house.redis.hset(ProjectKeys(PROJECT).learn, "deaths", 5000)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_corrections", refuse(RuntimeError("a fault of ours")))
        house.learner.learn(LearnProject(project=PROJECT))
    told = house.learning.progress(PROJECT)
    assert told is not None and told.state == "blocked" and "unexpected RuntimeError" in told.detail, told
    time_passes(house.redis, 3500)
    assert house.learning.due() == []
    time_passes(house.redis, 200)
    assert house.learning.due() == [PROJECT], "an hour later"


def again(house: LearningHouse) -> str:
    """A minute is over: the look that waits comes again."""
    for _ in range(6):
        time_passes(house.redis, 10)
    assert house.learning.due() == [PROJECT]
    house.learner.learn(LearnProject(project=PROJECT))
    return getattr(house.learning.progress(PROJECT), "detail", "")


def test_an_image_host_that_is_away_is_waited_for(house: LearningHouse) -> None:
    house.others, house.away = frozenset({2, 3}), frozenset({2})
    house.annotate(3, digest="one")
    told = house.look()
    assert told.state == "waiting"
    assert "tried again for 10 minutes" in told.detail and "HTTP 503" in told.detail
    assert "HTTP 503" in again(house)
    assert (house.judged, house.folder.pointer().attempt) == ([], None), "nothing is settled"
    house.away = frozenset()
    assert again(house) == "promoted at strength 1: better."
    assert house.folder.pointer().attempt == replace(house.attempt, missing={}, missing_at="")


def test_an_image_host_that_is_gone_for_good_does_not_hold_up_learning(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.others, house.away = frozenset({2, 3}), frozenset({2})
    house.annotate(3, digest="one")
    assert house.look().state == "waiting"
    with monkeypatch.context() as patch:
        patch.setattr(learner, "_PATIENCE_S", 0.0)
        told = again(house)
    assert told.startswith("promoted at strength 1: better; 1 annotated image left out"), told
    assert "image of task 2: was answered with HTTP 503" in told
    assert list(house.attempt.missing) == ["2"]
    assert "from 2 tasks, 1 left out (image of task 2: was answered with HTTP 503" in str(
        render(house.folder, "").caption
    )
    house.reads.clear()
    told = house.look().detail
    assert told.startswith("nothing is new; 1 annotated image left out"), told
    house.annotate(6, digest="two")
    assert house.look().detail.startswith("promoted"), "it is not waited for twice"
    assert house.reads == [None]


def test_an_image_that_was_left_out_is_tried_again_every_hour_and_learned_from(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.others, house.away = frozenset({2, 3}), frozenset({2, 3})
    house.annotate(3, digest="one")
    with monkeypatch.context() as patch:
        patch.setattr(learner, "_PATIENCE_S", 0.0)
        assert "2 annotated images left out" in house.look().detail
    house.mark = replace(house.mark, changed=0)
    house.reads.clear()

    def an_hour_later() -> str:
        pointer = house.folder.pointer()
        house.folder.point(replace(pointer, attempt=replace(house.attempt, missing_at="2026-01-01T00:00:00+00:00")))
        return house.look().detail

    assert "2 annotated images left out" in an_hour_later()
    assert "2 annotated images left out" in house.look().detail
    assert house.reads == [(2, 3)], "these alone, and once"
    house.away = frozenset({3})
    assert an_hour_later().startswith("promoted at strength 1: better; 1 annotated image left out")
    house.away = frozenset()
    assert house.look(pressed=True).detail == "promoted at strength 1: better.", "a person does not wait for the hour"
    assert len(house.judged) == 3
    assert house.look().detail == "nothing is new"


def test_a_broken_image_beside_others_of_its_task_does_not_have_everything_read_every_hour(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.others, house.several = frozenset({2, 3}), frozenset({2})
    house.away_images = frozenset({"2/page/0", "2/page/2"})
    house.annotate(3, digest="one")
    with monkeypatch.context() as patch:
        patch.setattr(learner, "_PATIENCE_S", 0.0)
        assert "2 annotated images left out" in house.look().detail
    assert "from 2 tasks, 2 left out" in str(render(house.folder, "").caption)
    house.mark = replace(house.mark, changed=0)
    house.reads.clear()
    for _ in range(3):
        assert "nothing is new; 2 annotated images left out" in house.look(pressed=True).detail
    assert house.reads == [(2,)] * 3, "its other image can be read, as it could before"
    assert list(house.attempt.missing) == ["2/page/0", "2/page/2"]
    house.away_images, house.content = frozenset({"2/page/0"}), "one more"
    assert house.look(pressed=True).detail.startswith("promoted at strength 1: better; 1 annotated image left out")
    assert house.reads[3:] == [(2,), None]
    assert list(house.attempt.missing) == ["2/page/0"]


def test_a_task_of_several_images_that_an_earlier_release_left_out_is_read_again_once(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.others, house.several, house.away_images = frozenset({2, 3}), frozenset({2}), frozenset({"2/page/0"})
    house.annotate(3, digest="one")
    with monkeypatch.context() as patch:
        patch.setattr(learner, "_PATIENCE_S", 0.0)
        house.look()
    pointer = house.folder.pointer()
    left_out = replace(pointer, attempt=replace(house.attempt, missing={"2": "was answered with HTTP 503"}))
    house.folder.point(left_out)
    house.mark = replace(house.mark, changed=0)
    house.reads.clear()
    for _ in range(3):
        house.look(pressed=True)
    assert house.reads == [(2,), None, (2,), (2,)]


def test_malformed_annotations_are_named_and_hold_up_nothing(house: LearningHouse) -> None:
    house.others, house.broken = frozenset({2, 3, 4}), frozenset({2, 4})
    house.annotate(4, digest="one")
    told = house.look()
    reason = "item 1 of a result: is null and no region. Open the task"
    named = f"2 annotated images left out until changed (task 2: {reason} | task 4: {reason})"
    assert (told.state, told.detail) == ("idle", f"promoted at strength 1: better; {named}")
    assert list(house.attempt.left_out) == ["2", "4"]
    assert house.attempt.missing == {}, "they are not tried again every hour"
    assert "from 2 tasks, 2 left out (task 2: item 1" in str(render(house.folder, "").caption)
    house.reads.clear()
    assert house.look().detail == f"nothing is new; {named}"
    assert house.reads == []
    house.broken = frozenset({4})
    house.annotate(5, digest="two")
    assert "1 annotated image left out until changed (task 4" in house.look(pressed=True).detail
    house.broken = frozenset()
    house.annotate(6, digest="three")
    assert house.look(pressed=True).detail == "promoted at strength 1: better."
    (pointer,) = Path(house.settings.versions).rglob("served.json")
    assert "left_out" not in pointer.read_text(), "an earlier release does not know it"


def test_what_was_left_out_for_a_while_may_be_left_out_for_good(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.others, house.away = frozenset({2}), frozenset({2})
    house.annotate(3, digest="one")
    with monkeypatch.context() as patch:
        patch.setattr(learner, "_PATIENCE_S", 0.0)
        assert "1 annotated image left out, to be tried again" in house.look().detail
    house.away, house.broken = frozenset(), frozenset({2})
    house.mark = replace(house.mark, changed=0)
    told = house.look(pressed=True).detail
    assert told.startswith("nothing is new; 1 annotated image left out until changed (task 2")
    assert (house.attempt.missing, list(house.attempt.left_out)) == ({}, ["2"])


def test_what_is_left_out_is_told_within_bounds() -> None:
    left_out = {str(task): f"task {task}: {'x' * 390}" for task in range(1000)}
    told = reading.mention_missing("nothing is new", {"7": "y" * 10_000}, left_out)
    assert "1000 or more annotated images left out until changed (task 0: x" in told
    assert "| and tasks 5, 6, 7," in told and told.endswith("49, ...)")
    assert len(told) < 3000


def test_images_left_out_take_turns(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_RETRIED_AT_ONCE", 2)
    house.away = frozenset({2, 3, 4})
    missing = dict.fromkeys("234", "away")
    house.learning.request_now(PROJECT)
    assert house.learning.begin(PROJECT, house.resident.name)
    lease = LeaseGuard(house.resident, PROJECT)
    reader = reading.CorrectionsReader(house.resident, PROJECT, parse_vocabulary(CONFIG.format("cat")), lease,
                                       patient=True, missing=missing, left_out={})  # fmt: skip
    assert not reader.retry_missing()
    assert list(reader.missing) == ["4", "2", "3"]
    house.away = frozenset({2, 3})
    assert reader.retry_missing()
    assert house.reads == [(2, 3), (2, 4)]


def test_a_store_that_takes_nothing_keeps_what_is_served(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.annotate(3, digest="one")
    house.look()
    before = house.served
    house.annotate(6, digest="two")
    with monkeypatch.context() as patch:
        patch.setattr(VersionFolder, "add", refuse(VersionsUnavailable("folder", "is full", "Make room.")))
        assert house.look().state == "blocked"
        assert (house.served, copied(house)) == (before, before)
    house.look()
    assert house.served != before


def test_where_nothing_can_be_kept_nothing_is_read_or_learned(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.annotate(3, digest="one")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def read(*_: object, **__: object) -> Iterator[Correction]:
        reads.append("all")
        return iter(())

    reads: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_corrections", read)
        patch.setattr(os, "fsync", full)
        told = house.look()
    assert (told.state, "No space left" in told.detail, "ZEROMASK_VERSIONS" in told.detail) == ("blocked", True, True)
    assert (reads, house.judged) == ([], [])
    assert house.look(pressed=True).detail.startswith("promoted"), "room was made"
    assert not [path for path in Path(house.settings.versions).rglob("*") if "probe" in path.name]


def test_redis_that_goes_away_leaves_the_look_asked_for(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.annotate(3, digest="one")
    away = QueueUnavailable("Redis", "does not answer", "Start it.")
    with monkeypatch.context() as patch, pytest.raises(QueueUnavailable):
        patch.setattr(ProjectLearning, "set_progress", refuse(away))
        house.look()
    time_passes(house.redis, 10)
    time_passes(house.redis, 10)
    time_passes(house.redis, 11)
    assert house.learning.due() == [PROJECT]
    house.learner.learn(LearnProject(project=PROJECT))
    assert house.served != ZEROSHOT


def test_a_deleted_project_is_forgotten(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    house.label_studio.gone = True
    house.learning.request_now(PROJECT)
    house.learner.learn(LearnProject(project=PROJECT))
    assert list(house.redis.scan_iter(match=f"zeromask:{PROJECT}:*")) == []
    assert house.learning.due() == []


def test_a_page_that_is_missing_forgets_no_project(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.annotate(3, digest="one")
    missing = LabelStudioError("GET /api/tasks/", "was refused (HTTP 404) Invalid page", "Check.", status=404)
    with monkeypatch.context() as patch:
        patch.setattr(training_round, "corrections_digest", refuse(missing))
        assert "Invalid page" in house.look().detail
    assert house.redis.sismember("zeromask:projects", str(PROJECT))


def test_of_two_that_race_one_learns(house: LearningHouse) -> None:
    other = Learner(house.make_resident("other"))
    house.annotate(3, digest="one")
    house.while_judging = lambda: other.learn(LearnProject(project=PROJECT))
    house.look()
    assert len(house.judged) == 1
    assert len(house.folder.names()) == 1


def test_one_that_was_taken_over_changes_nothing_any_more(house: LearningHouse) -> None:
    """It was stopped for longer than its lease, and goes on in the middle."""
    house.annotate(3, digest="one")
    other = Learner(house.make_resident("other"))

    def stall() -> None:
        house.while_judging = lambda: None
        house.redis.delete(f"zeromask:{PROJECT}:learner")
        other.learn(LearnProject(project=PROJECT))

    house.while_judging = stall
    house.look()
    assert len(house.judged) == 2
    assert house.folder.pointer().serial == 1
    assert house.folder.manifest(house.served).verdict.promoted
    assert copied(house) == house.served


def test_one_that_is_told_to_stop_leaves_the_look_asked_for(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.while_judging = house.resident.stopping.set
    house.look()
    assert (house.served, house.learning.due()) == (ZEROSHOT, [PROJECT])


def test_what_was_moved_before_a_death_is_told_by_the_next(house: LearningHouse) -> None:
    house.annotate(3, digest="one")
    house.look()
    name = house.served
    house.redis.delete(f"zeromask:{PROJECT}:adapters", f"zeromask:{PROJECT}:refresh")
    house.redis.delete(refresh_queue(house.redis).key)
    house.resident.ledger.start_rollout(PROJECT, "builtin-zeroshot-12345678")
    house.look(pressed=True)
    assert copied(house) == name
    assert refresh_queue(house.redis).job_ids


def test_a_damaged_pointer_blocks_learning_and_is_told(house: LearningHouse, tmp_path: Path) -> None:
    house.annotate(3, digest="one")
    house.look()
    (path,) = tmp_path.rglob("served.json")
    path.write_text("{")
    told = house.look(pressed=True)
    assert (told.state, "damaged" in told.detail) == ("blocked", True)
    assert copied(house) == ZEROSHOT


def test_the_heartbeat_requests_rounds_queues_them_once_and_shows_the_process(house: LearningHouse) -> None:
    heartbeat = learner_heartbeat(house.resident, house.learner)
    house.redis.sadd("zeromask:projects", PROJECT)
    heartbeat.beat()
    assert house.redis.llen("rq:queue:zeromask-learn") == 1, "the round"
    assert [row.name for row in house.resident.presence.workers()] == ["me"]
    heartbeat.beat()
    assert house.redis.llen("rq:queue:zeromask-learn") == 1
