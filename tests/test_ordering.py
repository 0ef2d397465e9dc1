"""When the order of annotation is set, from what, with how many requests, and when it is left alone; real Redis,
stand-in Label Studio. `test_order_label_studio.py` has the real one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from redis import Redis

from plugin_config.cli.main import zeromask
from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.client import Project, Task
from plugin_config.label_studio.next_task import BY_SCORE, DEFAULT_SAMPLING, seen_tasks
from plugin_config.overview.control import QueueControl
from plugin_config.queue import order as order_module
from plugin_config.queue.jobs import TaskRef, refresh_queue
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import HEAD_BELOW, ImageRecord, Place, ProjectOrder
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Attempt, Owner, Pointer, VerdictRecord, VersionFolder
from plugin_config.vocabulary import parse_vocabulary
from tests import order_load
from tests.order_project import CONFIG, FINGERPRINT, OrderedProject, record
from tests.queue_states import make_known
from tests.stand_ins import PROJECT, StandInContext, context_fixture, refuse_once
from worker.learning.acceptance import Calibration, PlattMap
from worker.learning.selection.candidates import Candidate
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmentation, Segmenter
from worker.service import order_writing, ordering, stages
from worker.service.image_records import describe_image, make_record, read_candidate
from worker.service.ordering import HEAD, keep_order
from worker.service.places import place_scores
from worker.service.sampling import VIEW_TITLE

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


class ScoredLabelStudio:
    """Knows the scores of predictions, who has seen which task, and what was asked; `refuse` may raise."""

    def __init__(self) -> None:
        self.sampling, self.shown, self.created = DEFAULT_SAMPLING, "v1", "2026-01-01"
        self.scores: dict[int, float] = {}
        self.seen: dict[int, bool] = {}
        self.changes = 0
        self.views: list[dict[str, Any]] = [{"data": {"title": "Default"}}]
        self.asked: list[str] = []
        self.refuse: Callable[[str, str], None] = lambda method, path: None

    def project(self, project: int) -> Project:
        return Project(project, "t", CONFIG, self.shown, len(self.scores), self.created, self.sampling)

    def tasks(self, project: int, ids: Sequence[int], *, data: bool) -> list[Task]:
        assert not data, "data may be large"
        self.asked.append("GET /api/tasks/ of the head")
        return [Task(task, {}, frozenset({self.shown}), 0) for task in ids if 1000 + task in self.scores]

    def annotate(self, task: int, *, annotated: bool = True) -> None:
        self.seen[task] = annotated
        self.changes += 1

    def request(self, method: str, path: str, **options: Any) -> Any:
        self.asked.append(f"{method} {path}")
        self.refuse(method, path)
        if path == "/api/tasks/":
            return self._seen(options["params"])
        if path.startswith("/api/predictions/"):
            return self._score(int(path.split("/")[3]), options["json"]["score"])
        if path == "/api/dm/views/":
            if method == "POST":
                self.views.append(options["json"])
            return self.views
        assert (method, path) == ("PATCH", "/api/projects/1/")
        self.sampling = options["json"]["sampling"]
        return {}

    def _seen(self, params: dict[str, Any]) -> Any:
        since = json.loads(params["query"])["filters"]["items"][0].get("child_filter")
        rows = [
            {"id": task, "total_annotations": int(annotated), "updated_at": str(self.changes)}
            for task, annotated in sorted(self.seen.items())
        ]
        start = (params["page"] - 1) * params["page_size"]
        del since  # an older Label Studio knows no child filters: all tasks are returned
        return {"tasks": rows[start : start + params["page_size"]], "total": len(rows)}

    def _score(self, prediction: int, score: float) -> Any:
        if prediction not in self.scores:
            raise LabelStudioError("PATCH prediction", "was refused (HTTP 404)", "Look.", status=404)
        self.scores[prediction] = score
        return {}

    def patches(self) -> int:
        """How many scores were changed, or tried to."""
        return sum(asked.startswith("PATCH /api/predictions/") for asked in self.asked)

    def in_order(self) -> list[int]:
        """Tasks of the predictions, the lowest score first, as annotators get them."""
        return [number - 1000 for number in sorted(self.scores, key=lambda number: self.scores[number])]


def put(ordered: OrderedProject, *records: ImageRecord) -> None:
    for one in records:
        ordered.order.put(ordered.project, one.prediction - 1000, one)
        ordered.label_studio.scores[one.prediction] = one.shown


@pytest.fixture
def ordered(redis: Redis, tmp_path: Path) -> OrderedProject:
    """Twelve predicted images, the one with the highest number the least certain."""
    made = OrderedProject(ScoredLabelStudio(), redis, tmp_path)
    put(made, *[record(number, score=1 - number / 20) for number in range(1, 13)])
    return made


def later_s(ordered: OrderedProject) -> float | None:
    """Seconds until a worker looks at the project again, the periodic look left aside; None = it does not."""
    moment: Any = ordered.redis.zscore("zeromask:again", ordered.project)
    seconds, micros = ordered.redis.time()
    return None if moment is None else moment / 1000 - seconds - micros / 1e6


def test_annotators_get_the_chosen_order_and_the_rest_by_score(ordered: OrderedProject) -> None:
    put(ordered, *[record(number, score=0.6 + number / 1000) for number in range(13, 13 + HEAD)])
    ordered.keep()
    head, studio = ordered.head(), ordered.label_studio
    assert studio.sampling == BY_SCORE
    assert len(head) == HEAD
    got = studio.in_order()
    assert got[:HEAD] == head
    rest = got[HEAD:]
    assert [studio.scores[1000 + task] for task in rest] == sorted(studio.scores[1000 + task] for task in rest)
    assert all(studio.scores[1000 + task] >= HEAD_BELOW for task in rest)
    reasons = [place.reason for place in ordered.order.places(1).values()]
    assert reasons[0] == "the most typical image"
    assert [place.rank for place in ordered.order.places(1).values()] == list(range(HEAD))


def test_a_correction_moves_the_rest_up_with_hardly_a_request(ordered: OrderedProject) -> None:
    ordered.keep()
    before = ordered.head()
    studio = ordered.label_studio
    studio.asked.clear()
    ordered.keep()
    assert studio.asked == ["GET /api/tasks/"], "nothing changed: one look at who has seen what"
    studio.annotate(before[0])
    studio.asked.clear()
    ordered.keep()
    assert sorted(ordered.head()) == sorted(before[1:])
    assert studio.patches() <= 3, "most are in order as they stand"
    assert [task for task in studio.in_order() if task != before[0]] == ordered.head()


def test_the_order_is_not_set_twice_within_seconds(ordered: OrderedProject) -> None:
    ordered.keep()
    before = ordered.head()
    ordered.label_studio.annotate(before[0])
    assert later_s(ordered) is None
    keep_order(ordered.context, ordered.plan())
    assert ordered.head() == before
    assert 5 < (later_s(ordered) or 0) <= 10, "a worker looks again when the pause is over"
    ordered.keep()
    assert sorted(ordered.head()) == sorted(before[1:])


def test_corrections_that_vanish_are_open_again(ordered: OrderedProject) -> None:
    studio = ordered.label_studio
    studio.annotate(1)
    studio.annotate(2, annotated=False)
    ordered.keep()
    assert ordered.order.seen(1) == (frozenset({1}), frozenset({2}))
    assert set(ordered.head()) == set(range(3, 13))
    del studio.seen[1]
    studio.changes += 1
    ordered.keep()
    assert set(ordered.head()) == {1, *range(3, 13)}


def test_labels_that_are_corrected_often_count_for_less(ordered: OrderedProject) -> None:
    folder = VersionFolder(str(ordered.folder), Owner("http://localhost", 1, "", "builtin"))
    one = {"accepted": 40, "changed": 2, "added": 8, "deleted": 3}
    outcomes = {"cat": one, "a label of before": one}
    attempt = Attempt("d", 9, "", "h", "", VerdictRecord(False, ""), outcomes=outcomes)
    folder.point(Pointer(attempt=attempt))
    dogs = [replace(record(number, score=0.5), labels={"dog": 0.5}) for number in range(13, 16)]
    put(ordered, *dogs)
    for task in range(1, 10):
        ordered.label_studio.annotate(task)
    ordered.keep()
    reasons = {task: place.reason for task, place in ordered.order.places(1).items()}
    assert any("dog" in reasons.get(task, "") for task in range(13, 16)), reasons
    assert not any("cat" in reason for reason in reasons.values()), reasons


def test_after_a_promotion_tasks_keep_their_places_until_they_are_predicted_again(ordered: OrderedProject) -> None:
    ordered.keep()
    before, places, studio = ordered.head(), ordered.order.places(1), ordered.label_studio
    ordered.version = studio.shown = "v2"
    again = before[:3]
    put(ordered, *[record(task, version="v2", score=0.3) for task in again])
    studio.annotate(before[5])
    studio.annotate(before[6], annotated=False)
    studio.asked.clear()
    del studio.scores[1000 + before[-1]]
    ordered.keep()
    assert studio.patches() == 3, "predictions that are replaced soon are left as they are"
    now = ordered.order.places(1)
    assert set(now) == set(before[:-1]) - {before[5], before[6]}, "nor does one that is gone wait"
    assert [now[task].score for task in before[7:-1]] == [places[task].score for task in before[7:-1]]
    assert [place.rank for place in now.values()] == list(range(9))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param({"sampling": "Uniform sampling"}, "a person chose 'Uniform sampling'", id="sampling"),
        pytest.param({"shown": "theirs"}, "a person chose to show predictions of theirs", id="version"),
        pytest.param({"shown": ""}, "a person chose to show predictions of no version", id="no version"),
    ],
)
def test_what_a_person_chose_is_left_alone_and_told_once(
    ordered: OrderedProject, change: dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    ProjectLedger(ordered.redis).set_shown_version(1, "v1")
    ordered.keep()
    for name, value in change.items():
        setattr(ordered.label_studio, name, value)
    ordered.keep()
    assert ordered.label_studio.scores == {1000 + number: 1 - number / 20 for number in range(1, 13)}
    ordered.label_studio.asked.clear()
    ordered.keep()
    assert ordered.label_studio.asked == []
    remark = f"the order of tasks is left alone: {told}"
    assert [line for line in caplog.messages if "left alone" in line] == [f"project 1: {remark}"]
    make_known(ordered.redis, 1)
    (row,) = QueueControl(ordered.redis, Settings(model="builtin")).state().projects
    assert row.remarks == (remark,)
    ordered.label_studio.sampling, ordered.label_studio.shown = BY_SCORE, "v1"
    ordered.keep()
    assert ordered.label_studio.in_order() == ordered.head(), "given back"
    assert ordered.order.remark(1) == ""


def test_what_another_process_has_set_meanwhile_is_no_persons_choice(ordered: OrderedProject) -> None:
    ordered.label_studio.shown = "older"
    before = ordered.plan()
    ordered.label_studio.shown = "v1"
    ProjectLedger(ordered.redis).set_shown_version(1, "v1")
    unset = ordered.plan()
    for plan in (before, unset):
        ordered.keep()
        ordered.redis.delete("zeromask:1:ordered")
        keep_order(ordered.context, plan)
        assert ordered.order.remark(1) == ""
        assert ordered.label_studio.in_order() == ordered.head()


def test_nothing_is_ordered_before_predictions_of_the_version_are_shown(ordered: OrderedProject) -> None:
    ordered.label_studio.shown = "older"
    ordered.keep()
    assert ordered.label_studio.asked == []
    assert ordered.order.remark(1) == ""


def test_turned_off_it_asks_for_nothing_and_says_so(ordered: OrderedProject) -> None:
    ordered.settings = Settings(model="builtin", order=False)
    ordered.keep()
    assert ordered.label_studio.asked == []
    assert ordered.order.remark(1) == "the order of tasks is left alone: ZEROMASK_ORDER is off"


def test_a_control_arm_would_come_last_and_has_its_order_left_alone(ordered: OrderedProject) -> None:
    ordered.keep()
    ordered.settings = Settings(model="builtin", control_share=0.1)
    ordered.keep()
    assert ordered.label_studio.sampling == DEFAULT_SAMPLING
    assert "without a prediction would come last (ZEROMASK_CONTROL_SHARE)" in ordered.order.remark(1)
    ordered.label_studio.sampling = BY_SCORE
    ordered.keep()
    assert ordered.label_studio.sampling == BY_SCORE, "a person's choice"
    assert ordered.order.remark(1) == (
        "tasks of the control arm come last: set the project's sampling to 'Sequential sampling' "
        "(ZEROMASK_CONTROL_SHARE)"
    )


@pytest.mark.parametrize("before", [DEFAULT_SAMPLING, BY_SCORE])
def test_turned_off_later_it_undoes_what_it_set(ordered: OrderedProject, before: str) -> None:
    on, studio = ordered.settings, ordered.label_studio
    studio.sampling, scores = before, dict(studio.scores)
    ordered.keep()
    assert (studio.sampling, studio.in_order()) == (BY_SCORE, ordered.head())
    ordered.settings = replace(on, order=False)
    ordered.keep()
    assert (studio.sampling, studio.scores) == (before, scores)
    ordered.settings = on
    ordered.keep()
    assert (studio.sampling, studio.in_order()) == (BY_SCORE, ordered.head())


def test_without_the_right_to_make_a_view_the_order_is_set_all_the_same(ordered: OrderedProject) -> None:
    def refuse(method: str, path: str) -> None:
        if path == "/api/dm/views/" and method == "POST":
            raise LabelStudioError("POST views", "was refused (HTTP 403)", "Ask for the right.", status=403)

    ordered.label_studio.refuse = refuse
    ordered.keep()
    assert ordered.label_studio.in_order() == ordered.head()
    assert ordered.order.remark(1) == (
        f"the view {VIEW_TITLE!r} cannot be made: POST views: was refused (HTTP 403). Ask for the right."
    )
    ordered.label_studio.refuse = lambda method, path: None
    ordered.keep()
    assert ordered.order.remark(1) == ""
    assert [row["data"]["title"] for row in ordered.label_studio.views] == ["Default", VIEW_TITLE]


@pytest.mark.parametrize("path", ["/api/projects/1/", "/api/predictions/"])
def test_without_the_right_to_order_a_line_says_so(ordered: OrderedProject, path: str) -> None:
    def refuse(method: str, asked: str) -> None:
        if method == "PATCH" and asked.startswith(path):
            raise LabelStudioError(f"PATCH {path}", "was refused (HTTP 403)", "Ask for the right.", status=403)

    ordered.label_studio.refuse = refuse
    ordered.keep()
    assert ordered.order.remark(1) == (
        f"the order of tasks cannot be set: PATCH {path}: was refused (HTTP 403). Ask for the right."
    )


def test_what_was_interrupted_is_finished_the_next_time(ordered: OrderedProject) -> None:
    left = [5]

    def refuse(method: str, path: str) -> None:
        if path.startswith("/api/predictions/"):
            left[0] -= 1
            if left[0] == 0:
                raise LabelStudioFailing("Label Studio", "answered HTTP 503", "Later.", status=503)

    ordered.label_studio.refuse = refuse
    with pytest.raises(LabelStudioFailing):
        ordered.keep()
    assert ordered.label_studio.in_order() != ordered.head()
    ordered.keep()
    assert ordered.label_studio.in_order() == ordered.head()


def test_predictions_deleted_by_hand_lose_their_place_to_others(ordered: OrderedProject) -> None:
    del ordered.label_studio.scores[1003], ordered.label_studio.scores[1004]
    ordered.keep()
    ordered.keep()
    assert sorted(ordered.head()) == [1, 2, *range(5, 13)]
    assert ordered.label_studio.in_order() == ordered.head()


def test_a_deleted_task_whose_score_would_not_change_loses_its_place_too(ordered: OrderedProject) -> None:
    ordered.keep()
    first, second = ordered.head()[:2]
    del ordered.label_studio.scores[1000 + first]
    ordered.label_studio.annotate(second)
    ordered.keep()
    assert first not in ordered.head()
    assert ordered.order.place(1, first) is None
    assert first not in dict(ordered.order.records(1))
    ordered.keep()
    assert [task for task in ordered.label_studio.in_order() if task != second] == ordered.head()


def test_a_score_changed_late_does_not_overwrite_the_record_of_a_newer_prediction(ordered: OrderedProject) -> None:
    newer = record(5, version="v2", prediction=77)

    def store(method: str, path: str) -> None:
        if path == "/api/predictions/1005/":
            ordered.order.put(1, 5, newer)

    ordered.label_studio.refuse = store
    ordered.keep()
    assert ordered.order.some_records(1, [5]) == {5: newer}
    del ordered.label_studio.scores[1006]
    assert not ordered.order.forget_prediction(1, 5, 1005)
    assert ordered.order.forget_prediction(1, 5, 77)
    assert ordered.order.some_records(1, [5]) == {}


def test_one_worker_at_a_time_sets_the_order(ordered: OrderedProject) -> None:
    others: list[int] = []

    def order_as_well(method: str, path: str) -> None:
        if path.startswith("/api/predictions/") and not others:
            before = ordered.label_studio.patches()
            keep_order(ordered.context, ordered.plan())
            others.append(ordered.label_studio.patches() - before)

    ordered.label_studio.refuse = order_as_well
    ordered.keep()
    assert others == [0]
    assert ordered.label_studio.in_order() == ordered.head()
    ordered.order.end(1, "another", pause_s=0)
    left_ms: Any = ordered.redis.pttl("zeromask:1:ordered")
    assert 0 < left_ms <= 10_000, "the pause, which only its owner ends"


def test_a_clock_that_is_set_back_stops_no_order(ordered: OrderedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis keeps a key until a moment of its machine's clock, which is a day farther away then."""
    monkeypatch.setattr(ordering, "HEAD", 12)
    ordered.pending.add(1, [TaskRef("v1", 99)])
    keep_order(ordered.context, ordered.plan())
    put(ordered, record(13, score=0.01))
    keep_order(ordered.context, ordered.plan())
    assert 13 not in ordered.head(), "the pause after the last one"
    for key in ("ordered", "resting"):
        assert ordered.redis.pexpire(f"zeromask:1:{key}", 86_400_000), key
    keep_order(ordered.context, ordered.plan())
    assert 13 in ordered.head()
    ordered.redis.set("zeromask:1:ordered", "nobody of ours")
    assert ordered.order.begin(1, "me", hold_s=60, pause_s=1)
    assert not ordered.order.begin(1, "another", hold_s=60, pause_s=1)


def test_while_predictions_come_the_order_is_set_for_corrections_and_else_seldom(
    ordered: OrderedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "HEAD", 12)
    ordered.pending.add(1, [TaskRef("v1", 99)])
    ordered.keep()
    put(ordered, record(13, score=0.01))
    ordered.keep()
    assert 13 not in ordered.head()
    assert 10 < (later_s(ordered) or 0) <= 15, "the last of them may come before that"
    ordered.label_studio.annotate(ordered.head()[0])
    ordered.keep()
    assert 13 in ordered.head()
    put(ordered, record(14, score=0.01))
    ordered.keep()
    assert 14 not in ordered.head()
    ordered.pending.cancel(1, [TaskRef("v1", 99)])
    ordered.redis.delete("zeromask:again")
    ordered.keep()
    assert 14 in ordered.head(), "all are there"
    assert later_s(ordered) is None


def test_while_the_first_predictions_of_a_version_come_its_order_is_set_from_those_there_are(
    ordered: OrderedProject,
) -> None:
    ordered.keep()
    ordered.version = ordered.label_studio.shown = "v2"
    ordered.pending.add(1, [TaskRef("v2", task) for task in range(1, 13)])
    ordered.keep()
    assert len(ordered.head()) == 12, "their places of before"
    for number in (13, 14):
        put(ordered, record(number, version="v2", score=0.4))
        ordered.keep()
        assert number in ordered.head()


def test_another_project_with_the_same_id_starts_anew(ordered: OrderedProject) -> None:
    ordered.keep()
    studio = ordered.label_studio
    studio.created, studio.sampling, studio.seen = "2027-01-01", DEFAULT_SAMPLING, {}
    studio.views = [{"data": {"title": "Default"}}]
    ordered.keep()
    assert (ordered.head(), ordered.order.count(1)) == ([], 0)
    put(ordered, *[record(number, score=1 - number / 20) for number in range(1, 5)])
    ordered.keep()
    assert studio.sampling == BY_SCORE
    assert sorted(ordered.head()) == [1, 2, 3, 4]
    assert studio.views[-1]["data"]["title"] == VIEW_TITLE


def test_what_a_person_chose_outlives_redis(ordered: OrderedProject) -> None:
    ordered.keep()
    ordered.label_studio.sampling = DEFAULT_SAMPLING
    ordered.redis.flushall()
    ordered.order.put(1, 3, record(3))
    ordered.keep()
    ordered.keep()
    assert ordered.label_studio.sampling == DEFAULT_SAMPLING
    assert "a person chose 'Sequential sampling'" in ordered.order.remark(1)


def test_scores_come_back_where_that_was_interrupted_and_not_those_of_annotated_tasks(
    ordered: OrderedProject,
) -> None:
    ordered.keep()
    studio, annotated = ordered.label_studio, ordered.head()[0]
    studio.annotate(annotated)
    studio.sampling = "Uniform sampling"
    studio.asked.clear()

    def refuse(method: str, path: str) -> None:
        if studio.patches() == 5:
            raise LabelStudioFailing("Label Studio", "answered HTTP 503", "Later.", status=503)

    studio.refuse = refuse
    with pytest.raises(LabelStudioFailing):
        ordered.keep()
    studio.refuse = lambda method, path: None
    ordered.keep()
    own = {1000 + number: 1 - number / 20 for number in range(1, 13) if number != annotated}
    assert {number: score for number, score in studio.scores.items() if number in own} == own
    assert studio.scores[1000 + annotated] < HEAD_BELOW
    ordered.label_studio.asked.clear()
    ordered.keep()
    assert ordered.label_studio.asked == []


def test_unreadable_records_are_set_aside(ordered: OrderedProject) -> None:
    good = record(1).encode()
    wrong = {
        "3": "no JSON", "4": "[]", "5": "{}", "6": good.replace("1001", '"x"'), "7": good.replace('"cat":0.5', '"c":7'),
        "8": json.dumps(["v1", 1008, 0.5, float("nan"), {}, "e", ""]), "x": good, "9": json.dumps(["v" * 9999] * 7),
    }  # fmt: skip
    ordered.redis.hset("zeromask:1:images", mapping=wrong)  # type: ignore[arg-type]
    ordered.redis.hset("zeromask:1:places", "2", "[0, 7, 1]")
    ordered.keep()
    assert set(ordered.head()) == {1, 2, 10, 11, 12}
    assert ordered.redis.hlen("zeromask:1:images") == 5


def test_vectors_of_another_encoder_or_of_nothing_are_not_known() -> None:
    assert read_candidate(1, record(1), FINGERPRINT[:8]).vector is not None
    assert read_candidate(1, record(1), "another1").vector is None
    for damaged in ("", "AAAA", "no base64!"):
        assert read_candidate(1, replace(record(1), vector=damaged), FINGERPRINT[:8]).vector is None


def test_a_drawn_image_is_described(one_thread: None) -> None:
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    image = np.full((96, 128, 3), 120, np.uint8)
    image[20:70, 20:70] = (215, 40, 40)
    embedding = segmenter.embed([image])[0]
    found = segmenter.segment(embedding, parse_vocabulary(CONFIG.replace("cat", "red shape")), image)
    made = describe_image("7", embedding, found)
    assert (made.key, made.margin) == ("7", found.score)
    assert made.labels == {"red shape": max(segment.score for segment in found.segments)}
    assert made.vector is not None
    assert np.linalg.norm(made.vector) == pytest.approx(1)


def test_a_record_keeps_what_the_selection_needs() -> None:
    vectors = [np.random.default_rng(seed).normal(size=128).astype(np.float32) for seed in range(2)]
    units = [vector / np.linalg.norm(vector) for vector in vectors]
    labels = ({"cat": 0.9}, {"cat": 0.5, "x": 0.5})
    images = [Candidate(f"7/a/{number}", units[number], 0.5, labels[number]) for number in range(2)]
    made = make_record(images, version="v", prediction=3, score=0.5, shown=0.001, encoder="e")
    assert ImageRecord(*json.loads(made.encode())) == made
    found = read_candidate(7, made, "e")
    assert (found.key, found.margin, found.labels) == ("7", 0.5, {"cat": 0.9, "x": 0.5})
    mapped = read_candidate(7, made, "e", Calibration(1.0, -1.0, 9))
    assert mapped.margin == mapped.labels["x"] == pytest.approx(1 / (1 + np.e)), "whichever map it was stored under"
    blank = make_record([*images, Candidate("7/a/2", None, 0.1)], version="v", prediction=3, score=0.1, shown=0.1,
                        encoder="e")  # fmt: skip
    assert read_candidate(7, blank, "e", Calibration(1.0, -1.0, 9)).margin == 0.1, "that of an image without regions"
    alone = make_record([Candidate("7", None, 0.9)], version="v", prediction=3, score=0.9, shown=0.9, encoder="e")
    assert read_candidate(7, alone, "e", Calibration(1.0, -1.0, 9)).margin == 0.9
    nothing = Calibration(nothing=PlattMap(1.0, -2.0, 9))
    assert read_candidate(7, alone, "e", nothing).margin == nothing.chance_of_nothing(0.9) < 0.6
    assert read_candidate(7, replace(alone, blank=0.0), "e", nothing).margin == 0.0, "labels that it cannot read"
    mean = units[0] + units[1]
    assert found.vector is not None
    assert float(found.vector @ mean / np.linalg.norm(mean)) > 0.999
    many = [Candidate("8", None, 0.5, {f"label {number}": number / 100 for number in range(50)})]
    made = make_record(many, version="v", prediction=3, score=0.5, shown=0.5, encoder="e")
    assert (list(made.labels), made.vector) == ([f"label {number}" for number in range(49, 41, -1)], "")


def test_records_of_an_earlier_release_are_read_as_they_are(redis: Redis) -> None:
    order, new = ProjectOrder(redis), record(1)
    redis.hset("zeromask:1:images", "1", json.dumps(json.loads(new.encode())[:7]))
    assert dict(order.records(1)) == {1: new}
    assert read_candidate(1, new, FINGERPRINT[:8], Calibration(1.0, -1.0, 9)).margin == new.score


def test_a_new_calibration_is_a_reason_to_order_again(ordered: OrderedProject) -> None:
    ordered.keep()
    ordered.redis.delete("zeromask:1:ordered")
    ordered.label_studio.asked.clear()
    keep_order(ordered.context, replace(ordered.plan(), calibration=Calibration(2.0, 0.5, 9)))
    assert "GET /api/tasks/ of the head" in ordered.label_studio.asked


def test_records_are_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "MOST_RECORDS", 3)
    order = ProjectOrder(redis)
    assert [order.put(1, task, record(task)) for task in (1, 2, 3, 4)] == [True, True, True, False]
    assert order.put(1, 2, record(2, score=0.1)), "a known one is replaced"
    assert dict(order.records(1))[2].score == 0.1
    assert order.count(1) == 3


def test_a_stored_prediction_leaves_a_record_and_takes_the_place_of_its_task(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(key: str, embedding: object, found: Segmentation) -> Candidate:
        return Candidate(key, None, found.score, {found.segments[0].label.key: found.segments[0].score})

    monkeypatch.setattr(stages, "describe_image", describe)
    context.settings = replace(context.settings, order=True)
    context.segmenter.encoder = SimpleNamespace(fingerprint=FINGERPRINT)  # type: ignore[attr-defined]
    context.order.set_places(PROJECT, {2: Place(0, 5e-4, "uncertain"), 3: Place(1, 6e-4, "uncertain")})
    context.label_studio.after_store = refuse_once(3, LabelStudioUnreachable("Label Studio", "is away", "Start it."))
    context.ask(1, 2, 3)
    context.drain()
    stored = {row.task: row for row in context.label_studio.stored}
    assert {task: row.score for task, row in stored.items()} == {1: 0.9, 2: 5e-4, 3: 6e-4}
    records = dict(context.order.records(PROJECT))
    assert {task: (found.prediction, found.shown) for task, found in records.items()} == {
        task: (row.id, row.score) for task, row in stored.items()
    }
    assert {(found.score, found.encoder, tuple(found.labels)) for found in records.values()} == {
        (0.9, FINGERPRINT[:8], ("cat",))
    }


def test_requests_do_not_grow_with_the_project(redis: Redis, tmp_path: Path) -> None:
    asked = []
    for count in (2 * HEAD, 20 * HEAD):
        redis.flushall()
        made = OrderedProject(ScoredLabelStudio(), redis, tmp_path)
        put(made, *[record(number, score=0.2 + (number % 700) / 1000) for number in range(1, count + 1)])
        made.keep()
        assert len(made.head()) == HEAD
        asked.append(len(made.label_studio.asked))
    assert asked[0] == asked[1] <= HEAD + 7


def test_a_slow_label_studio_gets_the_front_of_the_order_first_and_the_rest_later(
    ordered: OrderedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]  # this machine's own time would be over before the first one where it is busy
    monkeypatch.setattr("worker.service.order_writing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(order_writing, "WRITING_S", 0.05)
    studio = ordered.label_studio

    def takes_time(method: str, path: str) -> None:
        now[0] += 0.02 * path.startswith("/api/predictions/")

    studio.refuse = takes_time
    ordered.keep()
    head, placed = ordered.head(), [score for score in studio.scores.values() if score < HEAD_BELOW]
    assert 0 < len(placed) < len(head) == 12
    assert studio.in_order()[: len(placed)] == head[: len(placed)]
    for _ in head:
        ordered.keep()
    assert ordered.head() == head == studio.in_order()
    assert studio.patches() == len(head), "none of them twice"
    studio.sampling = DEFAULT_SAMPLING  # a person's choice
    for _ in range(3):
        ordered.keep()
    assert 0 < sum(score < HEAD_BELOW for score in studio.scores.values()) < len(head)
    for _ in head:
        ordered.keep()
    assert min(studio.scores.values()) >= HEAD_BELOW


def test_a_place_is_a_score_below_all_others() -> None:
    scores = place_scores([5, 3, 9], {5: 0.7, 3: 0.2, 9: HEAD_BELOW})
    assert 0 < scores[5] < scores[3] < scores[9] < HEAD_BELOW


def test_places_that_are_in_order_stay() -> None:
    first = place_scores([1, 2, 3, 4], dict.fromkeys([1, 2, 3, 4], 0.5))
    assert place_scores([2, 3, 4], first) == {task: first[task] for task in (2, 3, 4)}
    moved = place_scores([2, 5, 3, 1, 4], {**first, 5: 0.9})
    assert list(moved) == [2, 5, 3, 1, 4]
    assert {task for task in moved if moved[task] != first.get(task)} == {5, 1}


def test_places_never_run_out_or_collide() -> None:
    chance = random.Random(0)
    shown: dict[int, float] = {}
    order: list[int] = []
    for number in range(3000):
        place = chance.choice((0, len(order), chance.randrange(len(order) + 1)))
        order = [*order[:place], number, *order[place:]]
        if len(order) > 20:
            order.pop(chance.randrange(len(order)))
        scores = place_scores(order, {task: shown.get(task, 0.5) for task in order})
        values = list(scores.values())
        assert all(0 < value < HEAD_BELOW for value in values)
        assert all(before < after for before, after in pairwise(values))
        shown = scores


def test_the_next_images_are_listed_and_the_order_is_resumed(
    ordered: OrderedProject, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    empty = CliRunner().invoke(zeromask, ["next", "1"])
    assert empty.exit_code == 0, empty.output
    assert "no order yet" in empty.output
    ordered.keep()
    first = ordered.head()[0]
    listed = CliRunner().invoke(zeromask, ["next", "1", "--count", "3", "--json"])
    found = json.loads(listed.output)
    assert [row["task"] for row in found["next"]] == ordered.head()[:3]
    assert found["next"][0] == {
        "rank": 1, "task": first, "score": 1 - first / 20, "reason": ordered.order.places(1)[first].reason,
    }  # fmt: skip
    assert f"{1 - first / 20:.0%}" in CliRunner().invoke(zeromask, ["next", "1"]).output
    ordered.label_studio.sampling = DEFAULT_SAMPLING
    ordered.keep()
    assert "a person chose 'Sequential sampling'" in CliRunner().invoke(zeromask, ["next", "1", "--json"]).output
    assert CliRunner().invoke(zeromask, ["next", "1", "--resume"]).exit_code == 0
    assert len(refresh_queue(ordered.redis).job_ids) == 1
    ordered.keep()
    assert ordered.label_studio.sampling == BY_SCORE
    assert ordered.label_studio.in_order() == ordered.head()


def test_where_everything_was_skipped_nothing_is_reordered_and_a_line_says_so(
    ordered: OrderedProject, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    before = dict(ordered.label_studio.scores)
    for task in range(1, 13):
        ordered.label_studio.annotate(task, annotated=False)
    ordered.keep()
    assert (ordered.head(), ordered.label_studio.scores) == ([], before)
    told = " ".join(CliRunner().invoke(zeromask, ["next", "1"]).output.split())
    assert "no image is left to order: 0 annotated, 12 skipped" in told
    assert "no order yet" not in told


def test_any_sampling_is_resumed_once_the_served_version_is_shown(
    ordered: OrderedProject, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    ProjectLedger(ordered.redis).set_shown_version(1, "v1")
    ordered.label_studio.sampling, ordered.label_studio.shown = "Uniform sampling", "theirs"
    ordered.keep()
    told = CliRunner().invoke(zeromask, ["next", "1", "--resume"]).output
    assert "are shown predictions of the served version" in told
    ordered.keep()
    assert "it is set again once those of v1 are shown" in ordered.order.remark(1)
    ordered.label_studio.shown = "v1"
    ordered.keep()
    assert (ordered.label_studio.sampling, ordered.order.remark(1)) == (BY_SCORE, "")
    ordered.label_studio.sampling = "Uniform sampling"
    ordered.keep()
    assert ordered.label_studio.sampling == "Uniform sampling", "chosen after that"


def test_a_place_of_a_task_is_read_alone(redis: Redis) -> None:
    order = ProjectOrder(redis)
    order.set_places(1, {4: Place(0, 1e-6, "unlike any corrected image")})
    assert order.place(1, 4) == Place(0, 1e-6, "unlike any corrected image")
    assert order.place(1, 5) is None
    before = order.written(1)
    order.forget(1, [5, 4])
    assert order.places(1) == {}
    assert order.written(1) != before, "a reason to order again"


def test_the_stored_figures_keep_the_promise_and_are_those_of_the_documentation() -> None:
    found = json.loads(order_load.STORED.read_text())
    assert (found["tasks"], found["is_ours"]) == (100_000, True)
    assert all(found[name]["seconds"] < 10 for name in ("first", "after_annotations", "nothing_new"))
    assert found["memory_mb"] < 500
    text = order_load.DOCUMENT.read_text()
    assert order_load.filled(text) == text, f"run {order_load.COMMAND}"


class Shrinking:
    """A Label Studio in which tasks are deleted after the first page, so that it refuses the second one."""

    def __init__(self) -> None:
        self.pages: list[int] = []

    def request(self, method: str, path: str, **options: Any) -> Any:
        self.pages.append(options["params"]["page"])
        if self.pages[-1] > 1:
            raise LabelStudioError(f"{method} {path}", "was refused (HTTP 404) Invalid page", "Look.", status=404)
        return {"tasks": [{"id": task, "total_annotations": 1} for task in range(1, 501)], "total": 501}


def test_a_page_past_the_end_ends_the_list_of_seen_tasks() -> None:
    label_studio = Shrinking()
    assert len(list(seen_tasks(label_studio, PROJECT))) == 500
    assert label_studio.pages == [1, 2]
