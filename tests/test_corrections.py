"""Reading a project's corrections: what cannot be read is left out with its reason, and nothing else is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plugin_config.errors import (
    AnswerMalformed,
    AnswerTooLarge,
    ImageHostTrouble,
    ImageUnavailable,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
)
from plugin_config.label_studio.annotations import AnnotatedTask, Annotation
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import joined, parse_vocabulary
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits, Picture
from worker.label_studio.outcomes import RegionOutcomes
from worker.label_studio.regions import encode_region
from worker.learning.corrections.examples import content_digest, with_words
from worker.learning.gate.splits import hash_share
from worker.learning.interfaces import UNLABELLED, Example
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.metrics import VOID
from worker.service.trainer.corrections import (
    Correction,
    LeftOutTask,
    UnreadTask,
    corrections_digest,
    read_corrections,
)

VOCABULARY = parse_vocabulary(
    """<View><Image name="image" value="$image"/>
    <BrushLabels name="brush" toName="image"><Label value="cat"/></BrushLabels></View>"""
)
LIMITS = ImageLimits(1_000_000, 1_000_000, 1.0, allow_private=False)
SIZE = (20, 30)


def region() -> dict[str, Any]:
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:15, 5:15] = True
    (made,) = encode_region(mask, kind="brush", control="brush", to_name="image", label="cat", score=0.5)
    return made


class StandInLabelStudio:
    """Five tasks with one annotation each, made from a prediction; a test may break some of it."""

    def __init__(self) -> None:
        self.result = [region()]
        self.rows = {
            task: [Annotation(10 * task, task, self.result, False, False, task, 1, "2026-01-01T00:00:00Z")]
            for task in range(1, 6)
        }
        self.urls = {task: f"/{task}.png" for task in self.rows}
        self.broken: dict[int, LabelStudioError] = {}
        self.asked: list[int] = []

    def annotated_tasks(self, project: int) -> Iterator[AnnotatedTask]:
        for task, rows in self.rows.items():
            if rows:
                yield AnnotatedTask(task, tuple(row.id for row in rows), max(row.updated_at for row in rows))

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        return [Task(task, {"image": self.urls[task]}, frozenset(), 1) for task in ids if task in self.rows]

    def annotations(self, task: int) -> list[Annotation]:
        self.asked.append(task)
        if task in self.broken:
            raise self.broken[task]
        return self.rows[task]

    def predictions(self, task: int) -> list[StoredPrediction]:
        return [StoredPrediction(task, task, "ours", self.result, 0.5)]


@pytest.fixture
def label_studio() -> StandInLabelStudio:
    return StandInLabelStudio()


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(
        self: ImageLoader, url: object, *, task: int, project: int, label_studio: object, urgent: bool
    ) -> Picture:
        if url == "gone":
            raise ImageUnavailable(f"image of task {task}", "was answered with HTTP 404", "Check.")
        if url == "down":
            raise ImageHostTrouble(f"image of task {task}", "was answered with HTTP 503", "Look at its server.")
        return Picture(np.full((*SIZE, 3), 66 if url == "vast" else 100, dtype=np.uint8), SIZE)

    monkeypatch.setattr(ImageLoader, "load", read)


def embed(images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
    if images[0][0, 0, 0] == 66:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")
    return [ImageEmbedding(torch.zeros(2, 3, 4), (image.shape[0], image.shape[1])) for image in images]


def read_all(label_studio: StandInLabelStudio, **more: Any) -> Iterator[Correction | UnreadTask | LeftOutTask]:
    return read_corrections(cast("LabelStudio", label_studio), 1, VOCABULARY, embed=embed, limits=LIMITS, **more)


def read(label_studio: StandInLabelStudio, **more: Any) -> Iterator[Correction]:
    return (row for row in read_all(label_studio, **more) if isinstance(row, Correction))


def digest(label_studio: StandInLabelStudio) -> str:
    return corrections_digest(cast("LabelStudio", label_studio), 1)


def test_each_annotated_task_becomes_an_example(label_studio: StandInLabelStudio) -> None:
    found = list(read(label_studio))
    assert [row.task for row in found] == [1, 2, 3, 4, 5]
    assert found[0].annotations == (10,)
    assert found[0].outcomes == {"cat": RegionOutcomes(accepted=1)}
    example = found[0].example
    assert example.key == "1"
    assert example.words == VOCABULARY.words
    assert (example.truth == 0).sum() == 100
    assert (example.truth == UNLABELLED).sum() == 500


SEVERAL = parse_vocabulary(
    """<View><Image name="page" valueList="$pages"/><Image name="image" value="$image"/>
    <BrushLabels name="brush" toName="page,image"><Label value="cat"/></BrushLabels>
    <BrushLabels name="more" toName="image"><Label value="dog"/></BrushLabels></View>"""
)


def several(label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch, *pages: str) -> list[Any]:
    """Read one task of these pages and another image; its region lies on the second page."""
    label_studio.rows = {1: label_studio.rows[1]}
    task = Task(1, {"pages": list(pages), "image": "/4.png"}, frozenset(), 1)
    monkeypatch.setattr(label_studio, "tasks", lambda project, ids: [task])
    label_studio.result[:] = [region() | {"to_name": "page", "item_index": 1}]
    return list(read_corrections(cast("LabelStudio", label_studio), 1, SEVERAL, embed=embed, limits=LIMITS))


def test_each_image_of_a_task_is_an_example_of_its_own(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = several(label_studio, monkeypatch, "/1.png", "/2.png", "/3.png")
    assert [row.example.key for row in found] == ["1/page/0", "1/page/1", "1/page/2", "1/image/0"]
    assert [int((row.example.truth == 0).sum()) for row in found] == [0, 100, 0, 0]
    assert [row.example.words for row in found] == [(("cat",),)] * 3 + [(("cat",), ("dog",))]
    assert [row.outcomes for row in found] == [{}, {"cat": RegionOutcomes(accepted=1)}, {}, {}]
    assert len({hash_share(row.example.key) for row in found}) == 1, "all of a task are held out, or none"
    assert joined([SEVERAL, *(row.vocabulary for row in found)]) is SEVERAL


def test_an_image_that_cannot_be_read_does_not_lose_the_others_of_its_task(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, second, down, too, other = several(label_studio, monkeypatch, "gone", "/2.png", "down", "down")
    assert isinstance(gone, LeftOutTask)
    assert [isinstance(row, UnreadTask) for row in (down, too)] == [True, True]
    assert (down.key, too.key) == ("1/page/2", "1/page/3"), "each is tried again by itself"
    assert (second.example.key, other.example.key) == ("1/page/1", "1/image/0")


def test_a_malformed_annotation_is_told_once_for_all_images(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.rows[1][0] = replace(label_studio.rows[1][0], malformed="its result is a text")
    (told,) = several(label_studio, monkeypatch, "/1.png", "/2.png")
    assert isinstance(told, LeftOutTask)
    assert "its result is a text" in told.reason


def test_labels_of_tasks_are_learned_under_their_words(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = """<View><Image name="image" value="$image"/>
      <BrushLabels name="brush" toName="image" value="$labels"><Label value="cow"/></BrushLabels></View>"""
    given = {1: [{"value": "Cat", "alias": "cat"}], 2: None, 3: ["dog", "cat"]}
    label_studio.rows = {task: label_studio.rows[task] for task in given}
    monkeypatch.setattr(label_studio, "tasks", lambda project, ids: [
        Task(task, {"image": f"/{task}.png", "labels": labels}, frozenset(), 1) for task, labels in given.items()
    ])  # fmt: skip
    vocabulary = parse_vocabulary(config)
    found = list(read_corrections(cast("LabelStudio", label_studio), 1, vocabulary, embed=embed, limits=LIMITS))
    first, left_out, third = found
    assert isinstance(left_out, LeftOutTask)
    assert left_out.reason.startswith("task 2: BrushLabels 'brush' has its labels from 'labels', which is null")
    assert isinstance(first, Correction)
    assert isinstance(third, Correction)
    assert [row.example.words[np.bincount(row.example.truth[row.example.truth >= 0]).argmax()]
            for row in (first, third)] == [("Cat",), ("cat",)]  # fmt: skip
    learned = joined([vocabulary, first.vocabulary, third.vocabulary])
    assert learned.words == (("cow",), ("Cat",), ("dog",), ("cat",))
    assert with_words(third.example, learned.words).truth.max() == 3


def test_tasks_are_read_one_at_a_time(label_studio: StandInLabelStudio) -> None:
    reading = read(label_studio)
    next(reading)
    assert label_studio.asked == [1]


def test_what_cannot_be_read_is_left_out_with_its_reason(
    label_studio: StandInLabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    label_studio.urls[1], label_studio.urls[4] = "gone", "vast"
    broken = region() | {"value": {"brushlabels": ["cat"], "format": "rle", "rle": [1, 2, 3]}}
    label_studio.rows[2] = [replace(label_studio.rows[2][0], result=[broken])]
    label_studio.broken[5] = LabelStudioError("GET annotations", "was refused (HTTP 404)", "Check.", status=404)
    with caplog.at_level(logging.WARNING):
        assert [row.task for row in read(label_studio)] == [3]
    told = "\n".join(caplog.messages)
    for task, reason in ((1, "HTTP 404"), (2, "brush"), (4, "not enough memory"), (5, "was refused")):
        assert any(f"task {task} " in line and reason in line for line in caplog.messages), told


def test_tasks_that_may_be_readable_later_are_told_apart_from_the_others(label_studio: StandInLabelStudio) -> None:
    label_studio.urls[1], label_studio.urls[2], label_studio.urls[3] = "gone", "vast", "down"
    label_studio.broken[4] = LabelStudioFailing("Label Studio", "answered HTTP 500", "Check.", status=500)
    label_studio.broken[5] = LabelStudioError("GET annotations", "was refused (HTTP 404)", "Check.", status=404)
    found = list(read_all(label_studio))
    unread = {row.task: row.reason for row in found if isinstance(row, UnreadTask)}
    assert list(unread) == [2, 3, 4]
    assert [row.key for row in found if isinstance(row, UnreadTask)] == ["2", "3", "4"]
    assert [(row.task, row.reason) for row in found if isinstance(row, LeftOutTask)] == [
        (1, "image of task 1: was answered with HTTP 404. Check.")
    ], "and what is deleted is not left out"
    for task, reason in ((2, "not enough memory"), (3, "HTTP 503"), (4, "HTTP 500")):
        assert reason in unread[task]


def test_what_became_of_regions_is_known_without_the_image(label_studio: StandInLabelStudio) -> None:
    readable = next(read(label_studio)).records
    label_studio.urls[1] = "down"
    unread = next(read_all(label_studio))
    assert isinstance(unread, UnreadTask)
    assert [(row.label, row.outcome) for row in unread.records] == [("cat", "accepted")]
    assert unread.records == readable
    label_studio.rows[1] = [replace(label_studio.rows[1][0], result=["no region"])]
    assert next(read_all(label_studio)) == replace(unread, records=())


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        pytest.param(None, "task 2: item 2 of a result: is null and no region. Open", id="null"),
        pytest.param("x", "task 2: item 2 of a result: is a text", id="a text"),
        pytest.param(region() | {"value": None}, "of type 'brushlabels': it has no value", id="value null"),
        pytest.param(region() | {"original_width": SIZE[0], "original_height": SIZE[1]}, "turned since", id="turned"),
    ],
)
def test_a_malformed_item_costs_its_task_alone(label_studio: StandInLabelStudio, item: Any, reason: str) -> None:
    label_studio.rows[2] = [replace(label_studio.rows[2][0], result=[region(), item])]
    found = list(read_all(label_studio))
    assert [row.task for row in found if isinstance(row, Correction)] == [1, 3, 4, 5]
    (left_out,) = (row for row in found if isinstance(row, LeftOutTask))
    assert left_out.reason.startswith("task 2: ") and reason in left_out.reason


def test_a_malformed_annotation_that_does_not_count_costs_nothing(label_studio: StandInLabelStudio) -> None:
    (good,) = label_studio.rows[2]
    earlier = replace(good, id=19, result=[None], updated_at="2025-01-01T00:00:00Z")
    label_studio.rows[2] = [earlier, replace(good, id=18, malformed="its result is a text", cancelled=True), good]
    assert [row.task for row in read(label_studio)] == [1, 2, 3, 4, 5]
    label_studio.rows[2].append(replace(good, id=21, annotator=2, result=[], malformed="its result is a text"))
    (left_out,) = (row for row in read_all(label_studio) if isinstance(row, LeftOutTask))
    assert left_out.reason.startswith("task 2: annotation 21: cannot be read: its result is a text and no list.")


def test_answers_about_one_task_that_are_strange_cost_that_task(label_studio: StandInLabelStudio) -> None:
    label_studio.broken[2] = AnswerMalformed("Label Studio's answer about annotations", "is not as expected", "Check.")
    label_studio.broken[4] = AnswerTooLarge("GET", "was answered with more than 64 MB", "Look.", status=200)
    found = list(read_all(label_studio))
    assert [row.task for row in found if isinstance(row, Correction)] == [1, 3, 5]
    reasons = [row.reason for row in found if isinstance(row, LeftOutTask)]
    assert reasons == [
        "task 2: Label Studio's answer about annotations: is not as expected. Check.",
        "task 4: GET: was answered with more than 64 MB. Look.",
    ]


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("x"), TypeError("x"), OverflowError()])
def test_what_nobody_thought_of_costs_its_task_alone(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("worker.service.trainer.annotated_example.draw_class_map", fail)
        found = list(read_all(label_studio))
    assert [row.task for row in found if isinstance(row, LeftOutTask)] == [1, 2, 3, 4, 5]
    monkeypatch.setattr("worker.service.trainer.corrections.region_records", fail)
    assert all(isinstance(row, LeftOutTask) for row in read_all(label_studio))


def test_some_tasks_alone_are_read(label_studio: StandInLabelStudio) -> None:
    assert [row.task for row in read(label_studio, only={2, 4, 9})] == [2, 4]
    assert label_studio.asked == [2, 4]


def test_a_label_studio_that_is_away_ends_the_reading(label_studio: StandInLabelStudio) -> None:
    label_studio.broken[3] = LabelStudioUnreachable("Label Studio", "does not answer", "Start it.")
    reading = read(label_studio)
    assert [next(reading).task, next(reading).task] == [1, 2]
    with pytest.raises(LabelStudioUnreachable):
        next(reading)


def test_a_task_whose_annotations_are_all_cancelled_is_none(label_studio: StandInLabelStudio) -> None:
    label_studio.rows[2] = [replace(label_studio.rows[2][0], cancelled=True)]
    assert [row.task for row in read(label_studio)] == [1, 3, 4, 5]


def test_an_empty_annotation_says_that_nothing_is_there(label_studio: StandInLabelStudio) -> None:
    label_studio.rows[2] = [replace(label_studio.rows[2][0], result=[])]
    found = list(read(label_studio))[1]
    assert (found.example.truth == UNLABELLED).all()
    assert found.outcomes == {"cat": RegionOutcomes(deleted=1)}


def test_the_digest_changes_with_every_annotation(label_studio: StandInLabelStudio) -> None:
    seen = {digest(label_studio)}
    assert digest(label_studio) in seen
    label_studio.rows[1] = [replace(label_studio.rows[1][0], updated_at="2026-01-02T00:00:00Z")]
    seen.add(digest(label_studio))
    label_studio.rows[1].append(replace(label_studio.rows[1][0], id=11))
    seen.add(digest(label_studio))
    label_studio.rows[2] = []
    seen.add(digest(label_studio))
    assert len(seen) == 4


def content(*rows: tuple[str, list[list[int]]], labels: str = "cat,dog") -> str:
    tags = "".join(f'<Label value="{label}"/>' for label in labels.split(","))
    vocabulary = parse_vocabulary(f'''<View><Image name="image" value="$image"/>
        <BrushLabels name="brush" toName="image">{tags}</BrushLabels></View>''')
    blank = ImageEmbedding(torch.zeros(2, 3, 4), (1, 2))
    return content_digest([Example(key, np.zeros((1, 2, 3), dtype=np.uint8), blank, vocabulary.words,
                                   np.array(truth, dtype=np.int16)) for key, truth in rows], vocabulary)  # fmt: skip


def test_the_content_changes_with_what_is_learned_from_and_with_nothing_else() -> None:
    one, two = ("1", [[0, UNLABELLED]]), ("2", [[1, VOID]])
    known = content(one, two)
    assert content(two, one) == known
    assert content(("1", [[1, UNLABELLED]]), ("2", [[2, VOID]]), labels="ant,cat,dog") == known
    assert content(("1", [[1, UNLABELLED]]), ("2", [[0, VOID]]), labels="dog,cat") == known
    others = [
        content(one), content(one, ("3", [[1, VOID]])), content(one, ("2", [[1, UNLABELLED]])),
        content(("1", [[1, UNLABELLED]]), two), content(("1", [[0], [UNLABELLED]]), two),
        content(one, two, labels="cat,cow"), content(("1", [[UNLABELLED, 0]]), two), content(),
    ]  # fmt: skip
    assert len({known, *others}) == 1 + len(others)


def test_digests_on_disk_stay_what_they_are(label_studio: StandInLabelStudio) -> None:
    """They are kept in served.json: another value for the same corrections would have every project learn again."""
    assert content(("1", [[0, UNLABELLED]]), ("2", [[1, VOID]])) == "03c114f9247a21ef"
    assert content(("7", [[VOID, 1, 0]]), labels="dog,cat") == "826649b1fc2e3512"
    assert digest(label_studio) == "8c053d34d583e78d"


def test_labels_of_one_name_keep_their_order_in_the_digest() -> None:
    """Two controls may have a label of the same name, with different prompts: two classes, of which the first comes
    first in the digest however many classes lie between them.
    """
    tags = "".join(f'<Label value="{label}" prompt="{label}"/>' for label in ("a", "cat", "b", "c", "d", "e", "f", "g"))
    vocabulary = parse_vocabulary(f'''<View><Image name="image" value="$image"/>
        <BrushLabels name="brush" toName="image">{tags}</BrushLabels>
        <PolygonLabels name="polygon" toName="image"><Label value="cat" prompt="tabby"/></PolygonLabels></View>''')
    blank = ImageEmbedding(torch.zeros(2, 3, 4), (1, 2))
    truth = np.array([[1, 8]], dtype=np.int16)
    example = Example("1", np.zeros((1, 2, 3), dtype=np.uint8), blank, vocabulary.words, truth)
    assert content_digest([example], vocabulary) == "9ce2fa6e17487d75"


@pytest.mark.parametrize(("key", "share"), [("1", 0.22258238007813347), ("12345", 0.38963676607278686)])
def test_hold_out_hashes_stay_what_they_are(key: str, share: float) -> None:
    assert hash_share(key) == share
