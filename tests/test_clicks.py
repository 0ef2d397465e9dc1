<<<<<<< HEAD
"""Clicks between backend and worker over a real Redis: what is asked, taken, answered, and what anyone may write."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from backend.clicks import MOST_WAITING
from backend.server.connections import ConnectionLimits
from plugin_config.errors import JobError, QueueFull
from plugin_config.queue import clicks
from plugin_config.queue.clicks import ClickAnswer, ClickQueue, ClickRequest
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from tests.backend_client import (
    VERSION,
    Client,
    ClientOf,
    answer_of,
    client_fixture,
    client_of_fixture,
    config,
    patient_fixture,
    predict_body,
    setup_body,
)
from tests.served_backend import backend

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

REGION = {"id": "abcdefghij", "type": "brushlabels", "from_name": "b", "to_name": "i", "value": {"rle": [1, 2]}}
POINT = {"id": "p1", "type": "keypointlabels", "from_name": "k", "to_name": "i", "value": {"x": 10, "y": 20}}


def request(number: int = 1, **changes: Any) -> ClickRequest:
    made = ClickRequest(f"{number:032x}", "mask", 7, number, VERSION, "00ff", (POINT,), (REGION,))
    return replace(made, **changes)


def click_body(task: int = 5, *, inside: dict[str, Any] | None = None, **context: Any) -> dict[str, Any]:
    """The body of a click; `inside`: what its task holds."""
    body = predict_body(task)
    body["tasks"][0] |= inside or {}
    body["params"]["context"] = {"result": [POINT], **context}
    return body


@contextmanager
def answering(redis_url: str, *, seconds: float = 0.0) -> Iterator[list[ClickRequest]]:
    """A worker that answers each click with a region that names its task; yields the clicks it took."""
    redis, taken, over = Redis.from_url(redis_url), list[ClickRequest](), threading.Event()
    queue, presence = ClickQueue(redis), WorkerPresence(redis, clickers=True)

    def work() -> None:
        while not over.is_set():
            found = queue.take(timeout_s=0.05)
            if found is not None:
                taken.append(found)
                time.sleep(seconds)
                queue.answer(found.id, ClickAnswer([{**REGION, "task": found.task}], 0.5, found.version))

    presence.heartbeat("me")
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()
        redis.close()


@pytest.fixture(name="queue")
def queue_fixture(redis: Redis) -> ClickQueue:
    WorkerPresence(redis, clickers=True).heartbeat("me")
    return ClickQueue(redis)


def test_a_click_is_taken_once_and_its_answer_reaches_the_one_who_asked(queue: ClickQueue, redis: Redis) -> None:
    assert queue.ask(request(1), patience_s=5)
    assert queue.ask(request(2), patience_s=5)
    assert queue.waiting() == 2
    assert [queue.take(timeout_s=1), queue.take(timeout_s=1)] == [request(1), request(2)]
    assert queue.take(timeout_s=0.01) is None
    queue.answer(request(2).id, ClickAnswer([REGION], 0.25, VERSION))
    queue.answer(request(1).id, ClickAnswer(reason="not here"))
    assert queue.wait(request(1).id, timeout_s=1) == ClickAnswer((), 0.0, "", "not here")
    assert queue.wait(request(2).id, timeout_s=1) == ClickAnswer((REGION,), 0.25, VERSION)
    assert queue.wait(request(2).id, timeout_s=0.01) is None
    queue.answer(request(3).id, ClickAnswer())
    [left] = redis.keys("zeromask:clicks*")
    assert 0 < redis.ttl(left) <= 30, "an answer for which nobody waits goes by itself"


def test_without_a_worker_that_answers_clicks_nothing_is_queued(redis: Redis) -> None:
    WorkerPresence(redis).heartbeat("one that predicts only")
    queue = ClickQueue(redis)
    assert queue.ask(request(), patience_s=5) is False
    assert queue.waiting() == 0


def test_so_many_clicks_wait_and_no_more(queue: ClickQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clicks, "MOST_WAITING", 2)
    for number in (1, 2):
        assert queue.ask(request(number), patience_s=5)
    with pytest.raises(QueueFull, match="2 wait already"):
        queue.ask(request(3), patience_s=5)


def test_a_click_for_which_nobody_waits_any_more_is_dropped(queue: ClickQueue) -> None:
    queue.ask(request(1), patience_s=0.02)
    queue.ask(request(2), patience_s=5)
    time.sleep(0.05)
    assert [queue.take(timeout_s=0.01), queue.take(timeout_s=0.01)] == [None, request(2)]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"|", b"99999999999999|", b"99999999999999|[]", b'99999999999999|{"id":1}', b"no|{}",
        b"99999999999999|" + json.dumps({**dict.fromkeys(("id", "kind", "version", "config"), "x"), "project": 1,
                                         "task": 1, "prompts": [], "drawn": []}).encode(),
    ],
)  # fmt: skip
def test_what_nobody_here_wrote_is_dropped_with_a_sentence(queue: ClickQueue, redis: Redis, content: bytes) -> None:
    redis.rpush("zeromask:clicks", content)
    with pytest.raises(JobError, match="look who else"):
        queue.take(timeout_s=0.1)
    redis.rpush(f"zeromask:clicks:{request().id}", content)
    assert queue.wait(request().id, timeout_s=0.1) is None


def test_a_key_of_another_type_is_set_aside(queue: ClickQueue, redis: Redis) -> None:
    redis.set("zeromask:clicks", "x")
    assert queue.ask(request(), patience_s=5)
    assert queue.take(timeout_s=0.1) == request()


def test_the_last_clicks_without_a_mask_are_kept(queue: ClickQueue, redis: Redis) -> None:
    for number in range(105):
        queue.note_unanswered(7, number + 1, f"reason {number}")
    assert (redis.llen("zeromask:unanswered"), queue.unanswered(1)[0].reason) == (100, "reason 104")
    redis.lpush("zeromask:unanswered", "{}")
    assert [row.task for row in queue.unanswered(3)] == [105, 104]


def test_a_click_is_answered_in_the_request(client: Client, redis_url: str) -> None:
    with answering(redis_url) as taken:
        found = answer_of(client.post("/predict", json=click_body(5)))
    [answer] = found["results"]
    assert answer == {"result": [{**REGION, "task": 5}], "score": 0.5, "model_version": VERSION}
    assert (taken[0].project, taken[0].task, taken[0].version, taken[0].prompts) == (7, 5, VERSION, (POINT,))


def test_two_users_get_each_their_own(client: Client, redis_url: str) -> None:
    with answering(redis_url, seconds=0.01), ThreadPoolExecutor(8) as users:
        found = users.map(lambda task: answer_of(client.post("/predict", json=click_body(task))), range(1, 41))
        assert [row["results"][0]["result"][0]["task"] for row in found] == list(range(1, 41))


@pytest.mark.parametrize(
    ("inside", "drawn"),
    [
        pytest.param({"predictions": [{"model_version": VERSION, "result": [REGION]}, {}]}, 1, id="predicted"),
        pytest.param({"predictions": [{"result": [REGION]}], "annotations": [{"result": []}]}, 0, id="annotated"),
        pytest.param({"drafts": [{"updated_at": "2026-01-02", "result": [REGION, REGION]},
                                 {"updated_at": "2026-01-01", "result": [REGION]}]}, 2, id="the newest draft"),
        pytest.param({"drafts": [3], "predictions": 3, "annotations": {}}, 0, id="ids"),
        pytest.param({"drafts": [{"result": [REGION, 3, {"value": 3}, None]}]}, 1, id="odd regions"),
        pytest.param({"drafts": [{"result": [{**REGION, "value": {"rle": [7] * 400_000}}, REGION]}]}, 1, id="vast"),
        pytest.param({"drafts": [{"result": [{**REGION, "value": {"rle": [7] * 90_000}}] * 10}]}, 8, id="many large"),
    ],
)  # fmt: skip
def test_what_is_drawn_comes_along_bounded(
    client_of: ClientOf, settings: Settings, redis: Redis, redis_url: str, patient: None, inside: Any, drawn: int
) -> None:
    with answering(redis_url) as taken:
        body = click_body(5, inside=inside)
        answer = answer_of(client_of(replace(settings, max_body_mb=64)).post("/predict", json=body))
    assert answer["results"][0]["result"]
    assert len(taken[0].drawn) == drawn


@pytest.mark.parametrize(
    "context",
    [{"result": []}, {"result": None}, {"result": [3, "x", {}]}, {"other": 1}, {}, [], 0, "x", True],
    ids=str,
)
def test_any_context_is_a_click(client: Client, redis_url: str, context: Any) -> None:
    body = click_body()
    body["params"]["context"] = context
    with answering(redis_url) as taken:
        assert answer_of(client.post("/predict", json=body))["results"][0]["result"]
    assert taken[0].prompts == ()


def test_a_click_without_a_task_is_answered(client: Client, redis: Redis) -> None:
    assert answer_of(client.post("/predict", json={**click_body(), "tasks": []}))["results"] == []


def test_without_a_worker_it_is_said_at_once(client: Client, redis: Redis) -> None:
    started = time.monotonic()
    [answer] = answer_of(client.post("/predict", json=click_body()))["results"]
    assert time.monotonic() - started < 2
    assert (answer["result"], answer["model_version"]) == ([], VERSION)
    assert "no worker" in answer["reason"]
    [noted] = ClickQueue(redis).unanswered(5)
    assert (noted.project, noted.task, noted.reason) == (7, 5, answer["reason"])


def test_a_worker_that_died_costs_the_patience_and_no_more(
    client_of: ClientOf, settings: Settings, redis: Redis, patient: None
) -> None:
    WorkerPresence(redis, clickers=True).heartbeat("dead since a second")
    started = time.monotonic()
    [answer] = answer_of(client_of(replace(settings, click_wait_s=1.0)).post("/predict", json=click_body()))["results"]
    assert 1 <= time.monotonic() - started < 5
    assert (answer["result"], "within 1 s" in answer["reason"]) == ([], True)


def test_without_redis_a_click_is_empty(client_of: ClientOf, settings: Settings, dead_redis_url: str) -> None:
    client = client_of(replace(settings, redis_url=dead_redis_url))
    [answer] = answer_of(client.post("/predict", json=click_body()))["results"]
    assert (answer["result"], answer["reason"]) == ([], "Redis does not answer.")


def test_five_hundred_clicks_at_once(settings: Settings, redis: Redis, redis_url: str, patient: None) -> None:
    settings = replace(settings, click_wait_s=10.0)
    with (
        answering(redis_url, seconds=0.01) as taken, backend(settings, limits=ConnectionLimits()) as running,
        ThreadPoolExecutor(500) as users,
    ):  # fmt: skip
        started = time.monotonic()
        found = list(users.map(lambda task: running.ask("POST", "/predict", click_body(task)), range(1, 501)))
        assert time.monotonic() - started < 30
        assert running.ask("POST", "/setup", setup_body()).status == 200
    answers = [answer.content["results"][0] for answer in found if answer.status == 200]
    assert len(answers) == 500
    masks = [answer for answer in answers if answer["result"]]
    assert len(masks) == len(taken) >= MOST_WAITING
    assert {answer["reason"].partition(".")[0] for answer in answers if not answer["result"]} <= {
        "too many clicks wait for an answer already"
    }
    assert len(ClickQueue(redis).unanswered(100)) < 10, "the same reason is noted once in a while"


def test_a_test_request_answers_the_masks(client: Client, redis: Redis, redis_url: str) -> None:
    stored = predict_body(5)
    stored["tasks"][0]["predictions"] = [{"model_version": VERSION, "result": [REGION]}]
    opened = predict_body(6)
    with answering(redis_url) as taken:
        client.post("/setup", json=setup_body())
        assert answer_of(client.post("/predict", json=stored))["results"][0]["result"], "it has what is asked for"
        assert answer_of(client.post("/predict", json=opened))["results"] == [[]], "Label Studio would store it"
        assert answer_of(client.post("/predict", json=predict_body(6, project="8.1")))["results"][0]["result"]
        assert answer_of(client.post("/predict", json=predict_body(1, 2, project="8.1")))["results"] == [[], []]
    assert [(row.kind, row.project, row.task) for row in taken] == [("prediction", 7, 5), ("prediction", 8, 6)]
    assert redis.zcard("zeromask:8:doubts") == 1, "should it be stored twice, one is deleted"
    assert client.post("/predict", json={**predict_body(6), "label_config": config("dog")}).status_code == 200
=======
"""Clicks and boxes on a picture give one mask, and do what the clicks say."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import PromptError
from worker.lab.evaluation.click_robot import box_of
from worker.lab.evaluation.panoptic_scenes import STUFF_FROM, PanopticScene, TrueSegment, panoptic_scene
from worker.segmentation.clicks.prompts import Prompt, pixel_of
from worker.segmentation.clicks.scene import ClickScene, prepare
from worker.segmentation.clicks.segmentation import segment_prompt
from worker.segmentation.clicks.superpixels import superpixels
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.refiner import Prompt as RefinerPrompt
from worker.segmentation.instances.refiner import Redrawn
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]
SIZE = (240, 320)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


def scene_of(segmenter: Segmenter, image: NDArray[np.uint8], labels: tuple[str, ...]) -> ClickScene:
    words = [(label,) for label in labels]
    return prepare(segmenter, segmenter.score(segmenter.embed([image])[0], words, image))


def middle(mask: Mask) -> tuple[float, float]:
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(np.zeros(SIZE, np.uint8), (x, y), radius, 1, -1) > 0)


RED, BLUE, FAR_RED = disc(90, 120, 38), disc(160, 120, 38), disc(270, 60, 30)


@pytest.fixture(scope="module")
def discs(segmenter: Segmenter) -> ClickScene:
    """Two red discs far apart, and a blue one that touches the first, on a plain ground."""
    rng = np.random.default_rng(0)
    image = np.full((*SIZE, 3), 190, dtype=np.uint8)
    image[RED], image[FAR_RED], image[BLUE] = (200, 30, 30), (200, 30, 30), (40, 60, 200)
    noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    return scene_of(segmenter, noisy, ("red shape", "blue shape"))


def test_one_click_gives_one_thing_among_others_of_its_class(segmenter: Segmenter) -> None:
    ious, of_class = [], []
    for number in (0, 1, 2, 4, 5, 6):
        drawn = panoptic_scene(11, number)
        scene = scene_of(segmenter, drawn.scene.image, drawn.labels)
        for thing in crowded(drawn):
            found = segment_prompt(scene, Prompt((middle(thing.mask),)), class_index=thing.index)
            together = np.any([other.mask for other in drawn.truth if other.index == thing.index], axis=0)
            ious.append(mask_iou(found.mask, thing.mask))
            of_class.append(mask_iou(together, thing.mask))
    assert len(ious) >= 8
    assert np.mean(ious) > np.mean(of_class) + 0.15, (np.mean(ious), np.mean(of_class))


def crowded(drawn: PanopticScene) -> list[TrueSegment]:
    """Things of a scene that share their class with another one."""
    things = [segment for segment in drawn.truth if segment.index < STUFF_FROM and segment.mask.sum() > 200]
    return [thing for thing in things if sum(other.index == thing.index for other in things) > 1]


def test_a_click_leaves_alone_what_is_alike_but_elsewhere(discs: ClickScene) -> None:
    found = segment_prompt(discs, Prompt((middle(RED),)), class_index=0)
    assert mask_iou(found.mask, RED) > 0.85
    assert not (found.mask & FAR_RED).any()
    assert 0 < found.score <= 1


def test_a_negative_click_takes_away(discs: ClickScene) -> None:
    both = RED | BLUE
    found = segment_prompt(discs, Prompt(negative=(middle(BLUE),)), class_index=0, current=both)
    assert mask_iou(found.mask, RED) > mask_iou(both, RED) + 0.2
    assert not found.mask[pixel_of(middle(BLUE), SIZE)]


def test_a_positive_click_adds_to_what_is_corrected(discs: ClickScene) -> None:
    half = RED.copy()
    half[:, 90:] = False
    found = segment_prompt(discs, Prompt(((110.0, 120.0),)), class_index=0, current=half)
    assert mask_iou(found.mask, RED) > mask_iou(half, RED) + 0.2


def test_clicks_are_obeyed_wherever_they_are(discs: ClickScene) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        points = [(float(x), float(y)) for x, y in rng.uniform((0, 0), SIZE[::-1], (6, 2))]
        prompt = Prompt(tuple(points[:3]), tuple(points[3:]))
        mask = segment_prompt(discs, prompt, class_index=None, current=disc(200, 150, 60)).mask
        assert all(mask[pixel_of(point, SIZE)] for point in prompt.positive)
        assert not any(mask[pixel_of(point, SIZE)] for point in prompt.negative)


def test_a_box_bounds_the_mask(discs: ClickScene) -> None:
    left, top, right, bottom = box_of(BLUE)
    whole = segment_prompt(discs, Prompt(boxes=((left - 3, top - 3, right + 3, bottom + 3),)), class_index=1)
    assert mask_iou(whole.mask, BLUE) > 0.8
    half = segment_prompt(discs, Prompt(((145.0, 120.0),), boxes=((left, top, 160.0, bottom),)), class_index=1)
    assert mask_iou(half.mask[:, :160], BLUE[:, :160]) > 0.7
    assert not half.mask[:, 160:].any()


def test_a_click_outside_of_the_box_lifts_the_bound(discs: ClickScene) -> None:
    box = (60.0, 90.0, 100.0, 140.0)
    bounded, lifted = (
        segment_prompt(discs, Prompt(points, boxes=(box,)), class_index=0).mask
        for points in (((80.0, 120.0),), ((80.0, 120.0), (120.0, 120.0)))
    )
    assert not bounded[:, 100:].any()
    assert lifted[120, 120]


def test_what_is_taken_is_left_alone(discs: ClickScene) -> None:
    taken = disc(60, 120, 25)
    found = segment_prompt(discs, Prompt((middle(RED),)), class_index=0, taken=taken)
    assert not (found.mask & taken).any()
    assert found.mask.any()
    with pytest.raises(PromptError, match=r"the click at 60, 120: lies on a region that is drawn already\. Click"):
        segment_prompt(discs, Prompt(((60.0, 120.0),)), class_index=0, taken=taken)


def test_the_words_of_the_label_matter(segmenter: Segmenter) -> None:
    gains = []
    for number in range(6):
        drawn = panoptic_scene(12, number)
        scene = scene_of(segmenter, drawn.scene.image, drawn.labels)
        for thing in drawn.truth:
            if thing.index < STUFF_FROM and thing.mask.sum() > 200:
                prompt = Prompt((middle(thing.mask),))
                named, wrong = (
                    mask_iou(segment_prompt(scene, prompt, class_index=index).mask, thing.mask)
                    for index in (thing.index, STUFF_FROM)
                )
                gains.append(named - wrong)
    assert np.mean(gains) > 0.02, gains


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        pytest.param(Prompt(((400.0, 10.0),)), "the click at 400, 10: is outside of the image of 320 x 240 pixels",
                     id="beyond the right edge"),
        pytest.param(Prompt(negative=((5.0, -0.1),)), "the click at 5, -0.1: is outside", id="above the image"),
        pytest.param(Prompt(((math.nan, 10.0),)), "the click at nan, 10: is outside", id="no number"),
        pytest.param(Prompt(boxes=((5.0, 5.0, 5.0, 9.0),)), "the box 5, 5, 5, 9: is of no size", id="no width"),
        pytest.param(Prompt(boxes=((9.0, 9.0, 5.0, 5.0),)), "is of no size", id="turned inside out"),
        pytest.param(Prompt(boxes=((330.0, 5.0, 340.0, 9.0),)), "is outside of the image", id="a box elsewhere"),
        pytest.param(Prompt(), "the prompt: tells nowhere what is inside", id="nothing"),
        pytest.param(Prompt(negative=((5.0, 5.0),)), "tells nowhere what is inside", id="only a negative click"),
        pytest.param(Prompt(((5.2, 5.0),), ((5.7, 5.0),)), "is both inside and outside", id="contradicting"),
        pytest.param(Prompt(((5.0, 5.0),) * 500), "holds 500 clicks and boxes. Give at most 100", id="too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_a_sentence(discs: ClickScene, prompt: Prompt, said: str) -> None:
    with pytest.raises(PromptError) as caught:
        segment_prompt(discs, prompt, class_index=0)
    assert said in str(caught.value)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (300, 3), (40, 40)])
def test_a_picture_of_any_size_can_be_clicked_on(segmenter: Segmenter, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scene = scene_of(segmenter, image, ("red shape",))
    for prompt in (Prompt(((0.0, 0.0),)), Prompt(((float(width), float(height)),)), Prompt(boxes=((0, 0, 1, 1),))):
        mask = segment_prompt(scene, prompt, class_index=0).mask
        assert mask.shape == (height, width)


def test_cells_cover_a_picture_and_touch() -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    cells = superpixels(image, 100)
    assert set(np.unique(cells.labels)) == set(range(cells.count))
    assert cells.area.sum() == 120 * 90
    assert (cells.ends[0] < cells.ends[1]).all()


class Circle:
    """A refiner that answers with a circle around the first click, and remembers what it was asked."""

    def __init__(self, radius: int, iou: float) -> None:
        self.radius, self.iou = radius, iou
        self.asked: list[RefinerPrompt] = []

    def look(self, image: NDArray[np.uint8]) -> Circle:
        return self

    def redraw(self, prompt: RefinerPrompt) -> Redrawn:
        self.asked.append(prompt)
        x, y = (int(value) for value in prompt.points[0])
        return Redrawn(disc(x, y, self.radius), self.iou)


def test_clicks_go_through_a_refiner_where_one_is_installed(discs: ClickScene) -> None:
    refiner = Circle(20, 0.9)
    scene = dataclasses.replace(discs, session=refiner.look(discs.image))
    box = box_of(RED)
    found = segment_prompt(scene, Prompt((middle(RED),), ((150.0, 120.0),), (box,)), class_index=0)
    (asked,) = refiner.asked
    assert np.array_equal(found.mask, disc(*map(int, middle(RED)), 20))
    assert found.score == 0.9
    assert asked.points.tolist() == [list(middle(RED))]
    assert asked.negatives.tolist() == [[150.0, 120.0]]
    assert asked.box == box
    assert (asked.logits[RED] > 0).mean() > 0.8


@pytest.mark.parametrize(
    ("refiner", "negative"),
    [
        pytest.param(Circle(20, 0.5), (300.0, 200.0), id="unsure of itself"),
        pytest.param(Circle(60, 0.9), (130.0, 140.0), id="over a negative click"),
    ],
)
def test_a_refiner_that_is_unsure_or_disobeys_is_passed_over(
    discs: ClickScene, refiner: Circle, negative: tuple[float, float]
) -> None:
    prompt = Prompt((middle(RED),), (negative,))
    scene = dataclasses.replace(discs, session=refiner)
    found, own = (segment_prompt(one, prompt, class_index=0) for one in (scene, discs))
    assert refiner.asked
    assert np.array_equal(found.mask, own.mask)


def test_prepare_lets_the_refiner_look_once(segmenter: Segmenter) -> None:
    refiner = Circle(5, 0.9)
    clicked = Segmenter(segmenter.encoder, refiner=refiner)
    scene = scene_of(clicked, np.full((40, 60, 3), 90, dtype=np.uint8), ("red shape",))
    assert scene.session is refiner
>>>>>>> clicks
