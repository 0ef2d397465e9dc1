"""Tasks with several images: one prediction holds the regions of all, and a broken image costs itself alone."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from plugin_config.model_version import ModelVersion
from plugin_config.queue.jobs import TaskRef
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary
from tests.stand_ins import PROJECT, StandInContext, context_fixture
from tests.test_task_tags import DYNAMIC, LISTED, REPEATED, TWO
from worker.label_studio import results
from worker.segmentation.segmenter import Segmentation
from worker.service import stages

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


def serve(context: StandInContext, config: str, *data: dict[str, Any]) -> str:
    """Give the project this config and these tasks, numbered from 1, and predict them. Returns the version."""
    studio = context.label_studio
    studio.config, studio.data = config, dict.fromkeys(range(1, len(data) + 1), "")
    studio.data_of = dict(enumerate(data, 1))
    version = str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(config)))
    context.pending.add(PROJECT, [TaskRef(version, task) for task in studio.data])
    context.drain()
    return version


def regions(context: StandInContext, task: int = 1) -> list[tuple[Any, ...]]:
    """Control, image, item and label of what is stored for a task, in one prediction."""
    (stored,) = context.label_studio.predictions(task)
    return [
        (row["from_name"], row["to_name"], row.get("item_index"), row["value"]["brushlabels"][0])
        for row in stored.result
    ]


def test_one_prediction_holds_the_regions_of_all_images(context: StandInContext) -> None:
    version = serve(context, LISTED, {"pages": ["/a.png", "/b.png", "/c.png"]})
    assert regions(context) == [("b", "i", 0, "cat"), ("b", "i", 1, "cat"), ("b", "i", 2, "cat")]
    assert context.label_studio.predictions(1)[0].version == version
    assert context.label_studio.predictions(1)[0].score == pytest.approx(0.9)
    assert context.pending.counts(PROJECT).done == 1
    assert context.pending.last_failures(5) == []


def test_each_image_is_drawn_by_its_own_controls(context: StandInContext) -> None:
    serve(context, REPEATED, {"document": [{"page": "/a.png"}, {"page": "/b.png"}]})
    assert regions(context) == [("labels_0", "page_0", None, "cat"), ("labels_1", "page_1", None, "cat")]


def test_a_second_image_tag_is_segmented_with_its_labels(context: StandInContext) -> None:
    two = TWO.replace("RectangleLabels", "BrushLabels")
    serve(context, two, {"a": "/a.png", "b": "/b.png"})
    assert regions(context) == [("b", "left", None, "cat"), ("r", "right", None, "dog")]


def draw_many(context: StandInContext, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The model finds its square so many times in each image."""
    one = context.segmenter.segment

    def segment(*arguments: Any, **more: Any) -> Segmentation:
        found = one(*arguments, **more)
        return replace(found, segments=found.segments * count)

    monkeypatch.setattr(context.segmenter, "segment", segment)


@pytest.mark.parametrize(
    ("config", "data", "most"),
    [
        pytest.param(TWO.replace("RectangleLabels", "BrushLabels"), {"a": "/a.png", "b": "/b.png"}, 4, id="two tags"),
        pytest.param(LISTED, {"pages": ["/a.png", "/b.png"]}, 8, id="a list, of which one is shown"),
        pytest.param(REPEATED, {"document": [{"page": "/a.png"}, {"page": "/b.png"}]}, 8, id="pages"),
    ],
)
def test_images_that_are_on_the_page_at_once_share_what_the_editor_bears(
    config: str, data: Any, most: int, context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MOST_CANVAS_PIXELS", {"brush": 4 * 64})  # four regions of an image of 8 x 8
    draw_many(context, monkeypatch, 6)
    serve(context, config, data)
    assert len(regions(context)) == most
    (told,) = context.pending.last_failures(5)
    first = told.reason.removeprefix("predicted without Image ")
    assert first != told.reason
    assert f": {6 - most // 2} of 6 masks: a result has at most" in first
    assert context.pending.counts(PROJECT).done == 1
    assert context.pending.failures(PROJECT) == {}


@pytest.mark.parametrize("labels", ["RectangleLabels", "Labels"])
def test_a_region_of_two_items_counts_once_for_the_images_that_follow(
    labels: str, context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "MOST_REGIONS_OF_TASK", 10)
    draw_many(context, monkeypatch, 6)
    shape = '<Rectangle name="r" toName="i"/>' if labels == "Labels" else ""
    serve(context, f'''<View><Image name="i" valueList="$pages"/><{labels} name="b" toName="i">
        <Label value="cat"/></{labels}>{shape}</View>''', {"pages": ["/a.png", "/b.png"]})
    (stored,) = context.label_studio.predictions(1)
    assert len({row["id"] for row in stored.result if row["item_index"] == 1}) == 5


def test_each_task_has_its_own_labels(context: StandInContext) -> None:
    one = serve(context, DYNAMIC.format(""), {"image": "/a", "labels": ["owl"]}, {"image": "/b", "labels": ["elk"]},
                {"image": "/c"})  # fmt: skip
    assert [regions(context, task)[0][3] for task in (1, 2)] == ["owl", "elk"]
    assert {row.version for row in context.label_studio.stored} == {one}
    (failed,) = context.pending.failures(PROJECT).items()
    assert failed[0].task == 3
    assert "has its labels from 'labels', which its data does not have" in failed[1]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        pytest.param("broken", "image of task 1: is broken", id="no image"),
        pytest.param("odd", "its image cannot be embedded", id="an image the model does not take"),
        pytest.param(None, "which is null", id="no address"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_image_does_not_lose_the_others(
    context: StandInContext, address: str | None, reason: str, place: int
) -> None:
    pages = ["/a.png", "/b.png", "/c.png"]
    pages[place : place + 1] = [address]  # type: ignore[list-item]
    serve(context, LISTED, {"pages": pages})
    assert [row[2] for row in regions(context)] == [number for number in range(3) if number != place]
    (told,) = context.pending.last_failures(5)
    assert told.task == 1
    assert f"predicted without Image 'i', item {place}: " in told.reason
    assert reason in told.reason
    assert context.pending.failures(PROJECT) == {}


def test_a_task_fails_when_all_its_images_are_broken(context: StandInContext) -> None:
    serve(context, LISTED, {"pages": ["broken", "broken"]})
    assert context.label_studio.stored == []
    (reason,) = context.pending.failures(PROJECT).values()
    assert reason.count("is broken") == 2


def test_an_image_that_may_come_later_is_tried_again_before_it_is_left_out(
    context: StandInContext, redis: Redis
) -> None:
    version = serve(context, LISTED, {"pages": ["/a.png", "slow"]})
    assert context.label_studio.stored == []
    assert context.pending.counts(PROJECT).pending == 1
    redis.hset(f"zeromask:{PROJECT}:tries", f"{version}|1", 2)
    redis.zadd(f"zeromask:{PROJECT}:pending", {f"{version}|1": 0})
    context.drain()
    assert [row[2] for row in regions(context)] == [0]
    assert "did not arrive" in context.pending.last_failures(1)[0].reason


def test_images_of_one_task_are_in_memory_one_at_a_time(
    context: StandInContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, most, lock = [0], [0], threading.Lock()
    fetch, draw = stages.PredictionStages.fetch, stages.PredictionStages.draw

    def fetched(self: Any, turn: Any) -> Any:
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        return fetch(self, turn)

    def drawn(self: Any, embedded: Any) -> Any:
        found = draw(self, embedded)
        with lock:
            held[0] -= 1
        return found

    monkeypatch.setattr(stages.PredictionStages, "fetch", fetched)
    monkeypatch.setattr(stages.PredictionStages, "draw", drawn)
    serve(context, LISTED, {"pages": [f"/{number}.png" for number in range(60)]})
    assert most == [1]
    assert [row[2] for row in regions(context)] == list(range(50))
    assert "10 of 60 images are left out" in context.pending.last_failures(1)[0].reason
