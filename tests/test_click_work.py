"""A worker's answers to clicks, with stand-ins for Label Studio and the model: whatever is wrong is a reason."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from redis import Redis

from plugin_config.background import DutyWatch
from plugin_config.errors import ImageUnavailable, LearningError
from plugin_config.labeling_config import Tag
from plugin_config.model_version import ZEROSHOT, ModelVersion
from plugin_config.queue.clicks import ClickQueue, ClickRequest
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.task_tags import FilledConfig, fill_config
from plugin_config.versions.manifests import Owner
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.vocabulary import parse_vocabulary
from tests.house import wait_until
from tests.stand_ins import (
    PROJECT,
    StandInAdapters,
    StandInContext,
    StandInHead,
    StandInLabelStudio,
    StandInModel,
    context_fixture,
    version,
)
from tests.test_task_tags import LISTED
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.image_cache import OFF
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits, Picture
from worker.label_studio.regions import decode_region
from worker.label_studio.results import encode_segments
from worker.segmentation.clicks.prompts import Prompt, PromptedMask, pixel_of
from worker.segmentation.clicks.scene import ClickScene
from worker.service import click_scenes, interactive
from worker.service.context import WorkerContext
from worker.service.interactive import ClickThread, ClickWork
from worker.service.model_turns import ModelTurns

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

CONFIG = """<View><Image name="i" value="$image"/>
  <KeyPointLabels name="k" toName="i" smart="true"><Label value="cat"/><Label value="dog"/></KeyPointLabels>
  <RectangleLabels name="r" toName="i" smart="true"><Label value="cat"/><Label value="dog"/></RectangleLabels>
  <BrushLabels name="b" toName="i"><Label value="cat" alias="felis"/></BrushLabels>
  <PolygonLabels name="p" toName="i"><Label value="dog"/></PolygonLabels></View>"""
SHAPE = (40, 60)


def region(kind: str, label: str = "cat", name: str = "p1", **value: Any) -> dict[str, Any]:
    control = {"keypoint": "k", "rectangle": "r", "ellipse": "e", "brush": "b", "polygon": "p"}.get(kind, "?")
    return {"id": name, "type": f"{kind}labels", "from_name": control, "to_name": "i",
            "value": {**value, f"{kind}labels": [label]}}  # fmt: skip


def point(x: float, y: float, label: str = "cat", *, positive: bool = True, name: str = "p1") -> dict[str, Any]:
    """A click at a pixel of the image."""
    place = {"x": 100 * x / SHAPE[1], "y": 100 * y / SHAPE[0]}
    return {**region("keypoint", label, name, **place), "is_positive": positive}


def drawn(left: int, right: int, label: str = "felis", name: str = "d1") -> dict[str, Any]:
    """A brush region over all rows of some columns."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[:, left:right] = True
    return {**region("brush", label, name, format="rle", rle=list(encode_rle(mask))),
            "original_width": SHAPE[1], "original_height": SHAPE[0]}  # fmt: skip


def asked(*prompts: Any, task: int = 1, **changes: Any) -> ClickRequest:
    made = ClickRequest("0" * 32, "mask", PROJECT, task, "some-version", "00ff", prompts)
    return replace(made, **changes)


class ClickHouse:
    """What `WorkerContext` has for clicks, with stand-ins for the model and Label Studio, and without a pipeline."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.name, self.settings = redis, "me", Settings(model="builtin")
        self.pending, self.ledger = PendingTasks(redis, drain_tasks=8, lease_s=30), ProjectLedger(redis)
        self.label_studio, self.adapters = StandInLabelStudio(8), StandInAdapters()
        self.segmenter = self.embeddings = StandInModel()
        self.limits, self.image_cache = ImageLimits.from_settings(self.settings), OFF
        self.turns, self.watch, self.click = ModelTurns(), DutyWatch(), ""
        self.calls: Any = SimpleNamespace(scenes=0, taken=None, current=None, prompt=None, index=None)


@pytest.fixture(name="house")
def house_fixture(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> ClickHouse:
    """Pictures of SHAPE, and a click library that paints a block of five by five pixels, as far as it is free."""
    context = ClickHouse(redis)
    context.label_studio.config = CONFIG
    calls = context.calls

    def read(self: ImageLoader, url: object, **_: Any) -> Picture:
        if url == "gone":
            raise ImageUnavailable("image of task 1", "is gone", "Put it back.")
        if url == "vast":
            raise MemoryError
        pixels = np.full((*SHAPE, 3), 200, dtype=np.uint8)
        return Picture(pixels, (2 * SHAPE[0], 2 * SHAPE[1]) if url == "large" else SHAPE)

    def prepare(segmenter: Any, scores: Any, head: Any) -> Any:
        calls.scenes += 1
        if head is not None:
            raise LearningError("version v", "gives no usable scores", "Learn again.")
        return SimpleNamespace(size=SHAPE, bytes=1000)

    def segment(scene: ClickScene, prompt: Prompt, *, class_index: int, taken: Any, current: Any) -> PromptedMask:
        calls.taken, calls.current, calls.prompt, calls.index = taken, current, prompt, class_index
        mask = np.zeros(SHAPE, dtype=np.bool_) if current is None else current.copy()
        for place in prompt.positive:
            row, column = pixel_of(place, SHAPE)
            mask[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = True
        for box in prompt.boxes:
            left, top, right, bottom = map(round, box)
            mask[top:bottom, left:right] = True
        for place in prompt.negative:
            mask[pixel_of(place, SHAPE)] = False
        return PromptedMask(mask if taken is None else mask & ~taken, 0.75)

    monkeypatch.setattr(ImageLoader, "load", read)
    monkeypatch.setattr(click_scenes, "prepare", prepare)
    monkeypatch.setattr(interactive, "segment_prompt", segment)
    cast("Any", context.segmenter).score = lambda embedding, words, image, classes: image
    return context


@pytest.fixture(name="work")
def work_fixture(house: ClickHouse) -> ClickWork:
    return ClickWork(cast("WorkerContext", house))


@pytest.mark.parametrize(
    ("prompt", "control", "kind", "label"),
    [
        pytest.param(point(30, 20), "b", "brush", "felis", id="keypoint, by the value"),
        pytest.param(point(30, 20, "dog"), "p", "polygon", "dog", id="another label's control"),
        pytest.param(region("rectangle", x=10, y=10, width=50, height=50), "b", "brush", "felis", id="rectangle"),
        pytest.param(region("ellipse", x=50, y=50, radiusX=20, radiusY=20), "b", "brush", "felis", id="ellipse"),
    ],
)
def test_the_mask_goes_to_the_control_that_draws_the_label(
    work: ClickWork, prompt: Any, control: str, kind: str, label: str
) -> None:
    answer = work.answer(asked(prompt))
    assert (answer.reason, answer.score) == ("", 0.75)
    [found] = answer.result
    assert (found["from_name"], found["to_name"], found["type"]) == (control, "i", f"{kind}labels")
    assert found["value"][f"{kind}labels"] == [label]
    assert decode_region(found, SHAPE[1], SHAPE[0])[20, 30]
    assert answer.version == str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(CONFIG)))


def test_a_label_apart_from_its_keypoint_is_read(work: ClickWork) -> None:
    shape = {"id": "a", "type": "keypoint", "from_name": "kp", "to_name": "i", "value": {"x": 50, "y": 50}}
    label = {"id": "a", "type": "labels", "from_name": "l", "to_name": "i", "value": {"x": 50, "labels": ["dog"]}}
    assert work.answer(asked(shape, label)).result[0]["value"]["polygonlabels"] == ["dog"]
    assert work.answer(asked({**shape, "value": {"x": 50, "y": 50, "labels": ["dog"]}})).result


@pytest.mark.parametrize("other", ["brushlabels", "rectanglelabels"])
def test_a_label_that_is_chosen_in_another_control_too_does_not_hide_the_click(
    house: ClickHouse, work: ClickWork, other: str
) -> None:
    click = point(30, 20)
    place = {name: click["value"][name] for name in ("x", "y")}
    repeated = {**click, "type": other, "from_name": other[0], "value": {**place, other: ["felis"]}}
    for prompts in ((click, repeated), (repeated, click)):
        assert work.answer(asked(*prompts)).result[0]["value"]["brushlabels"] == ["felis"]
        assert house.calls.prompt.positive == ((30.0, 20.0),)


def test_only_smart_controls_are_answered_in_their_own_kind(house: ClickHouse, work: ClickWork) -> None:
    house.label_studio.config = """<View><Image name="i" value="$image"/><RectangleLabels name="r" toName="i"
        smart="true"><Label value="cat"/></RectangleLabels></View>"""
    [found] = work.answer(asked(region("rectangle", x=10, y=10, width=50, height=50))).result
    assert (found["from_name"], found["type"]) == ("r", "rectanglelabels")


def test_clicks_outside_of_the_thing_and_those_of_another_label_are_told_apart(
    house: ClickHouse, work: ClickWork
) -> None:
    clicks = point(5, 5, "dog", name="x"), point(30, 20, name="y"), point(31, 20, positive=False, name="z")
    assert work.answer(asked(*clicks)).result
    prompt = house.calls.prompt
    assert (prompt.positive, prompt.negative) == (((30.0, 20.0),), ((31.0, 20.0),))


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        pytest.param([point(90, 20)], "outside of the image", id="beyond the right edge"),
        pytest.param([point(-1, 20)], "outside of the image", id="before the left edge"),
        pytest.param([region("rectangle", x=10, y=10, width=0, height=20)], "no size", id="flat box"),
        pytest.param([region("rectangle", x=10, y=10, width=-5, height=20)], "no size", id="negative box"),
        pytest.param([region("rectangle", x=120, y=10, width=5, height=20)], "outside", id="box outside"),
        pytest.param([region("ellipse", x=50, y=50, radiusX=0, radiusY=9)], "no size", id="flat ellipse"),
        pytest.param([point(30, 20, "zebra")], "label 'zebra'", id="unknown label"),
        pytest.param([region("keypoint", x=50)], "has no y", id="half a place"),
        pytest.param([region("keypoint", x="50", y=float("nan"))], "has no x", id="a text as place"),
        pytest.param([region("keypoint", x=True, y=1)], "has no x", id="a bool as place"),
        pytest.param([region("lasso", x=1, y=1)], "no point and no box (lassolabels)", id="unknown tool"),
        pytest.param([{}], "no point and no box", id="nothing"),
        pytest.param([], "no point and no box (nothing)", id="no prompt"),
        pytest.param([{"id": "a", "type": "keypoint", "value": {"x": 1, "y": 1}}], "carries no label", id="no label"),
        pytest.param([{**point(3, 3), "to_name": "j"}], "image 'j'", id="another image"),
        pytest.param([{**region("rectangle", x=1, y=1, width=5, height=5), "is_positive": False}],
                     "outside of the thing. Draw it without Alt.", id="no"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_an_empty_answer_with_the_reason(work: ClickWork, prompts: Any, says: str) -> None:
    answer = work.answer(asked(*prompts))
    assert answer.result == ()
    assert says in answer.reason


def test_a_task_or_an_image_that_is_gone_and_a_label_studio_that_refuses(
    house: ClickHouse, work: ClickWork
) -> None:
    house.label_studio.data = {1: "gone", 2: "vast"}
    assert "is gone" in work.answer(asked(point(3, 3))).reason
    assert "memory" in work.answer(asked(point(3, 3), task=2)).reason
    assert "not in project 1 any more" in work.answer(asked(point(3, 3), task=3)).reason
    house.label_studio.refuses = True
    assert "HTTP 401" in work.answer(asked(point(3, 3), config="other")).reason
    house.label_studio.refuses, house.label_studio.config = False, "<View/>"
    assert "labeling config" in work.answer(asked(point(3, 3), config="third")).reason
    cast("Any", house.label_studio).project = lambda project: 1 / 0
    assert work.answer(asked(point(3, 3), config="fourth")).reason.startswith("unexpected ZeroDivisionError")
    assert house.click == ""


def test_a_second_click_asks_label_studio_for_nothing_and_a_changed_config_does(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work.answer(asked(point(3, 3))).result
    asks = list[str]()
    monkeypatch.setattr(house.label_studio, "tasks", lambda *_: asks.append("tasks"))
    monkeypatch.setattr(house.label_studio, "project", lambda *_: asks.append("project"))
    monkeypatch.setattr(house.embeddings, "embed", lambda *_: asks.append("embed"))
    assert work.answer(asked(point(30, 20))).result
    assert (asks, house.calls.scenes) == ([], 1)
    work.answer(asked(point(30, 20), config="another"))
    assert asks == ["project"]


def serve(house: ClickHouse, name: str) -> None:
    """A learner promotes a version, or a person goes back to one."""
    house.adapters.name, house.adapters.head = name, StandInHead()
    owner = Owner("http://label-studio", PROJECT, "", "builtin")
    ServedAdapters(house.redis).write(PROJECT, ServedCopy(name, 1, "/versions", owner))


def test_a_worker_that_cannot_use_what_is_served_answers_zero_shot_and_asks_no_more_often(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(house, "a1-00000a")
    monkeypatch.setattr(house.adapters, "served", lambda *_, **__: ("a1-00000a", None))
    answer = work.answer(asked(point(3, 3)))
    assert answer.result
    assert ZEROSHOT in answer.version
    asks = list[str]()
    monkeypatch.setattr(house.label_studio, "project", lambda *_: asks.append("project"))
    assert work.answer(asked(point(30, 20))).result
    assert asks == []


def test_a_click_on_a_kept_image_uses_what_is_served_now(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = list[str]()

    def prepare(segmenter: Any, scores: Any, head: Any) -> Any:
        used.append(ZEROSHOT if head is None else house.adapters.name)
        return SimpleNamespace(size=SHAPE, bytes=1000)

    monkeypatch.setattr(click_scenes, "prepare", prepare)
    served = [ZEROSHOT, "a1-00000a", "a2-00000b", "a1-00000a", ZEROSHOT]
    for name in served:
        serve(house, name)
        for _ in range(2):  # the backend still names the version before
            answer = work.answer(asked(point(3, 3)))
            found = ModelVersion.parse(answer.version)
            assert found is not None and found.adapter == name
    assert used == served


def test_a_version_that_is_promoted_while_an_image_is_fetched_is_used_from_the_next_click_on(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, read_words = list[bool](), house.segmenter.read_words

    def prepare(segmenter: Any, scores: Any, head: Any) -> Any:
        used.append(head is not None)
        return SimpleNamespace(size=SHAPE, bytes=1000)

    monkeypatch.setattr(click_scenes, "prepare", prepare)
    monkeypatch.setattr(house.segmenter, "read_words", lambda words: serve(house, "a1-00000a"))
    assert ZEROSHOT in work.answer(asked(point(3, 3))).version
    monkeypatch.setattr(house.segmenter, "read_words", read_words)
    assert "a1-00000a" in work.answer(asked(point(3, 3))).version
    serve(house, ZEROSHOT)
    assert ZEROSHOT in work.answer(asked(point(3, 3))).version
    assert used == [False, True, False]


def test_what_is_served_no_more_leaves_the_memory(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_scenes, "prepare", lambda *_: SimpleNamespace(size=SHAPE, bytes=1000))
    serve(house, "a1-00000a")
    before = weakref.ref(house.adapters.head)
    assert work.answer(asked(point(3, 3))).result
    serve(house, "a2-00000b")
    assert work.answer(asked(point(3, 3), task=2)).result
    gc.collect()
    assert before() is None


def test_thousands_of_labels_of_a_task_are_read_once_and_not_at_every_click(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[int]()

    def counted(root: Tag, task: int, data: Mapping[str, Any]) -> FilledConfig:
        reads.append(task)
        return fill_config(root, task, data)

    monkeypatch.setattr("plugin_config.vocabulary.fill_config", counted)
    house.label_studio.config = CONFIG.replace('<Label value="cat" alias="felis"/>', "").replace(
        '<BrushLabels name="b" toName="i">', '<BrushLabels name="b" toName="i" value="$labels">'
    )
    labels = ["cat", *(f"thing {number}" for number in range(4_999))]
    for task, names in ((1, labels), (2, labels), (3, [*labels[:-1], "another"])):
        house.label_studio.data_of[task] = {"image": "x", "labels": names}
    for task in (1, 1, 2, 2, 3, 1):  # of another config digest: the plan is read again, the labels are not
        [found] = work.answer(asked(point(30, 20), task=task, config=f"{task:04x}")).result
        assert found["value"]["brushlabels"] == ["cat"]
    assert reads == [1, 3], "tasks of the same labels share them"


def test_what_is_drawn_is_left_alone_but_not_what_is_clicked_on(house: ClickHouse, work: ClickWork) -> None:
    other, under = drawn(31, 60, name="d1"), drawn(0, 30, "dog", name="d2")
    [found] = work.answer(asked(point(30, 20), drawn=(other, under))).result
    mask = decode_region(found, SHAPE[1], SHAPE[0])
    assert (bool(mask[20, 30]), bool(mask[20, 31]), bool(mask[20, 28])) == (True, False, False)
    assert house.calls.taken[:, 31:].all() and house.calls.taken[:, :30].all()
    assert work.answer(asked(point(40, 20), drawn=(other,))).result, "it lies under the click"
    assert house.calls.taken is None
    box = region("rectangle", x=50, y=0, width=50, height=100)
    work.answer(asked(box, drawn=(other,)))
    assert house.calls.taken is None, "it fills the box"
    box = region("rectangle", x=0, y=0, width=99, height=9)
    zigzag = {"points": 2000 * [[0, 0], [99, 99]], "polygonlabels": ["cat"]}
    endless = {**other, "type": "polygonlabels", "value": zigzag}
    unread = ({**other, "value": {"rle": "%"}}, {**other, "value": {}}, box, endless)
    assert work.answer(asked(point(30, 20), drawn=unread)).result
    assert house.calls.taken is None


def test_prompts_that_come_back_as_drawn_regions_are_no_obstacle(house: ClickHouse, work: ClickWork) -> None:
    click = point(30, 20)
    assert work.answer(asked(click, drawn(0, 3, name="d"), drawn=(click,))).result
    assert house.calls.taken[:, :3].all()


def test_a_click_outside_of_the_thing_corrects_the_region_under_it(house: ClickHouse, work: ClickWork) -> None:
    wrong = drawn(20, 40, name="keepThisId")
    click = point(30, 20, positive=False)
    [found] = work.answer(asked(click, drawn=(drawn(0, 10, name="o"), wrong))).result
    assert (found["id"], found["from_name"]) == ("keepThisId", "b")
    mask = decode_region(found, SHAPE[1], SHAPE[0])
    assert (bool(mask[20, 30]), bool(mask[20, 31])) == (False, True)
    assert house.calls.taken[:, :10].all() and not house.calls.taken[:, 20:40].any()
    work.answer(asked(point(30, 20, "dog", positive=False), drawn=(wrong,)))
    assert house.calls.current is None, "of another label"


def test_clicks_after_one_outside_of_the_thing_correct_the_same_region(house: ClickHouse, work: ClickWork) -> None:
    wrong = drawn(20, 40, name="keepThisId")
    outside, inside = point(30, 20, positive=False, name="p1"), point(50, 20, name="p2")
    [found] = work.answer(asked(outside, inside, drawn=(wrong,))).result
    assert found["id"] == "keepThisId"
    mask = decode_region(found, SHAPE[1], SHAPE[0])
    assert (bool(mask[20, 30]), bool(mask[20, 31]), bool(mask[20, 50])) == (False, True, True)
    [other] = work.answer(asked(inside, outside, drawn=(wrong,))).result
    assert other["id"] != "keepThisId", "it begins with a click inside of another thing"


def test_what_was_answered_a_moment_ago_is_corrected_before_a_draft_has_it(
    house: ClickHouse, work: ClickWork
) -> None:
    old = drawn(0, 60, name="predicted1")  # what Label Studio sends without a draft
    [first] = work.answer(asked(point(30, 20))).result
    for column in (30, 29):
        [found] = work.answer(asked(point(column, 20, positive=False), drawn=(old,))).result
        assert found["id"] == first["id"]
    mask = decode_region(found, SHAPE[1], SHAPE[0])
    assert [bool(mask[20, column]) for column in (28, 29, 30, 31)] == [True, False, False, True]
    elsewhere = work.answer(asked(point(5, 5, positive=False), drawn=(old,))).result
    assert elsewhere[0]["id"] == "predicted1"
    assert work.answer(asked(point(33, 20), task=2)).result
    assert house.calls.taken is None
    work.answer(asked(point(36, 20), task=2))
    assert house.calls.taken is None, "the first may not have been accepted"


def test_clicks_that_follow_a_correction_without_a_draft_correct_the_same_region(
    house: ClickHouse, work: ClickWork
) -> None:
    old = drawn(0, 60, name="predicted1")
    [first] = work.answer(asked(point(30, 20))).result
    outside, inside = point(30, 20, positive=False, name="p1"), point(33, 20, name="p2")
    work.answer(asked(outside, drawn=(old,)))
    [found] = work.answer(asked(outside, inside, drawn=(old,))).result
    assert found["id"] == first["id"]
    mask = decode_region(found, SHAPE[1], SHAPE[0])
    assert (bool(mask[20, 30]), bool(mask[20, 33])) == (False, True)


def test_a_click_on_another_page_is_none_on_this_one(house: ClickHouse, work: ClickWork) -> None:
    there = {**point(3, 3), "item_index": 1}
    work.answer(asked(there, point(30, 20)))
    assert house.calls.prompt.positive == ((30.0, 20.0),)


def test_large_images_are_answered_in_their_own_size(house: ClickHouse, work: ClickWork) -> None:
    house.label_studio.data[1] = "large"
    [found] = work.answer(asked(point(30, 20))).result
    assert (found["original_width"], found["original_height"]) == (2 * SHAPE[1], 2 * SHAPE[0])
    assert decode_region(found, 2 * SHAPE[1], 2 * SHAPE[0])[40, 60]


def test_what_was_learned_and_gives_no_scores_is_not_used_again(house: ClickHouse, work: ClickWork) -> None:
    house.adapters.name = "v-1"
    assert "no usable scores" in work.answer(asked(point(3, 3))).reason
    assert house.adapters.refused
    assert work.answer(asked(point(3, 3))).result, "zero-shot from now on"


def test_a_test_request_gets_what_is_stored_else_masks_made_now(house: ClickHouse, work: ClickWork) -> None:
    made = work.answer(asked(kind="prediction"))
    assert made.result and not made.reason
    assert house.label_studio.stored == []
    house.label_studio.create_prediction(1, [{"id": "x"}], score=0.5, version=version())
    answer = work.answer(asked(kind="prediction", version=version()))
    assert (answer.result, answer.score, answer.version) == (({"id": "x"},), 0.5, version())


def test_a_test_request_of_many_images_shows_no_part_that_passes_for_all(
    house: ClickHouse, work: ClickWork
) -> None:
    """Label Studio may store the answer, as that of this version."""
    house.label_studio.config = LISTED
    house.label_studio.data_of = {1: {"pages": [f"/{page}.png" for page in range(5)]},
                                  2: {"pages": [f"/{page}.png" for page in range(4)]}}  # fmt: skip
    many, few = (work.answer(asked(kind="prediction", task=task)) for task in (1, 2))
    assert (list(many.result), "its 5 images" in many.reason) == ([], True)
    assert {row["item_index"] for row in few.result} == set(range(4))


def test_a_test_request_scores_the_least_certain_of_its_images(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what is stored."""
    house.label_studio.config = LISTED
    house.label_studio.data_of = {1: {"pages": ["/a.png", "/b.png"]}}
    segment, scores = house.segmenter.segment, iter((0.8, 0.2))
    monkeypatch.setattr(house.segmenter, "segment", lambda *a, **k: replace(segment(*a, **k), score=next(scores)))
    assert work.answer(asked(kind="prediction")).score == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        pytest.param({"most_bytes": 10}, "cannot be drawn: without 1 of 1 masks: a result has at most", id="too large"),
        pytest.param({"most_regions": 0}, "cannot be drawn: without 1 of 1 masks", id="too many"),
    ],
)
def test_a_mask_that_no_result_can_have_is_told(
    bound: dict[str, int], says: str, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactive, "encode_segments", partial(encode_segments, **bound))  # type: ignore[arg-type]
    answer = work.answer(asked(point(30, 20)))
    assert not answer.result
    assert says in answer.reason


def test_a_test_request_without_masks_says_why(
    house: ClickHouse, work: ClickWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.label_studio.create_prediction(1, [], score=0.0, version=version())
    told = work.answer(asked(kind="prediction", version=version()))
    assert (list(told.result), told.reason) == ([], "nothing of its labels was found in this task")
    unread = "label 'cat': model builtin does not know 'cat'; no masks until learned from corrections"
    monkeypatch.setattr(house.segmenter, "remarks", lambda *_: [unread])
    assert work.answer(asked(kind="prediction", version=version())).reason == unread


def test_a_test_request_gets_nothing_of_another_projects_task(house: ClickHouse, work: ClickWork) -> None:
    house.label_studio.create_prediction(99, [{"id": "x"}], score=0.5, version=version())
    answer = work.answer(asked(kind="prediction", task=99, version=version()))
    assert not answer.result
    assert "is not in project" in answer.reason


def test_the_thread_answers_through_redis_and_ends(house: ClickHouse, redis: Redis) -> None:
    WorkerPresence(redis, clickers=True).heartbeat("me")
    queue, thread = ClickQueue(redis), ClickThread(cast("WorkerContext", house))
    thread.start()
    try:
        redis.rpush("zeromask:clicks", "nonsense")
        assert queue.ask(asked(point(3, 3)), patience_s=60)
        answer = queue.wait("0" * 32, timeout_s=60)
        assert answer is not None and answer.result
    finally:
        thread.stop()
    assert not thread.is_alive()


def test_a_batch_waits_for_the_click_and_clicks_without_end_do_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, order = ModelTurns(), list[str]()

    def batch() -> None:
        turns.let_clicks_go_first()
        order.append("batch")

    with turns.click():
        thread = threading.Thread(target=batch)
        thread.start()
        time.sleep(0.05)
        order.append("click")
    thread.join()
    assert order == ["click", "batch"]
    monkeypatch.setattr("worker.service.model_turns._LONGEST_S", 0.5)
    with turns.click():
        batch()
        began = time.monotonic()
        for _ in range(20):
            batch()
        assert time.monotonic() - began < 5, "one long click holds up one batch, not each"
    assert order[-1] == "batch"


def test_the_pipeline_begins_no_batch_during_a_click(context: StandInContext) -> None:
    with context.turns.click():
        context.ask(1)
        context.begin()
        time.sleep(0.3)
        assert context.stored() == []
    wait_until(lambda: len(context.label_studio.stored) == 1)
