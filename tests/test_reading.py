"""Projects with more annotated images than are held in memory: which are learned from, and that all else is noted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from tests.test_corrections import LIMITS, SIZE, VOCABULARY, StandInLabelStudio, embed
from worker.label_studio.image_cache import OFF
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import Picture
from worker.learning.corrections.balance import balanced
from worker.learning.gate.splits import is_held_out
from worker.service.context import WorkerContext
from worker.service.trainer import reading
from worker.service.trainer.corrections import LeftOutTask, SurveyedImage, survey_corrections
from worker.service.trainer.lease_guard import LeaseGuard
from worker.service.trainer.reading import CorrectionsReader, RetryLater, choose_images

PAGES = parse_vocabulary(
    """<View><Image name="image" valueList="$pages"/>
    <BrushLabels name="brush" toName="image"><Label value="cat"/></BrushLabels></View>"""
)


@pytest.fixture(name="loaded", autouse=True)
def loaded_fixture(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The task of each image that was loaded."""
    loaded: list[int] = []

    def load(self: ImageLoader, url: str, *, task: int, **_: object) -> Picture:
        loaded.append(task)
        return Picture(np.full((*SIZE, 3), 100, dtype=np.uint8), SIZE)

    monkeypatch.setattr(ImageLoader, "load", load)
    return loaded


@pytest.fixture(name="label_studio")
def label_studio_fixture() -> StandInLabelStudio:
    """Fifty tasks."""
    made = StandInLabelStudio()
    made.rows = {task: [Annotation(10 * task, task, made.result, False, False, task, 1, "2026-01-01T00:00:00Z")]
                 for task in range(1, 51)}  # fmt: skip
    made.urls = {task: f"/{task}.png" for task in made.rows}
    return made


@pytest.fixture(name="told")
def told_fixture() -> list[str]:
    """What people were told meanwhile."""
    return []


def reader_of(
    label_studio: StandInLabelStudio, told: list[str], *, vocabulary: Vocabulary = VOCABULARY, patient: bool = False
) -> CorrectionsReader:
    context = SimpleNamespace(
        label_studio=label_studio, limits=LIMITS, image_cache=OFF, embeddings=SimpleNamespace(embed=embed),
        ledger=SimpleNamespace(versions=lambda project: ["ours"]),
    )  # fmt: skip
    lease = SimpleNamespace(report=told.append)
    return CorrectionsReader(
        cast("WorkerContext", context), 1, vocabulary, cast("LeaseGuard", lease), patient=patient, missing={},
        left_out={},
    )  # fmt: skip


def image(task: int, *labels: str) -> SurveyedImage:
    return SurveyedImage(task, str(task), frozenset(labels), {})


def keys(images: Collection[SurveyedImage]) -> set[str]:
    return {one.key for one in images}


def test_a_survey_knows_labels_and_what_became_of_regions_and_loads_no_image(
    label_studio: StandInLabelStudio, loaded: list[int]
) -> None:
    label_studio.rows[2] = [Annotation(20, 2, [], False, False, None, 1, "2026-01-01T00:00:00Z")]
    cast("list[Any]", label_studio.result)[:] = [None]  # of all other tasks
    label_studio.rows[4] = [Annotation(40, 4, [], False, False, None, 1, "", malformed="its result is a number")]
    found = list(survey_corrections(cast("Any", label_studio), 1, VOCABULARY, ours=["ours"]))
    assert not loaded
    (nothing,) = (row for row in found if isinstance(row, SurveyedImage))
    assert (nothing.key, nothing.labels, [record.outcome for record in nothing.records]) == ("2", frozenset(), [])
    left_out = {row.task: row.reason for row in found if isinstance(row, LeftOutTask)}
    assert left_out.keys() == {1, *range(3, 51)}
    assert "item 1 of a result" in left_out[3]
    assert "its result is a number" in left_out[4]


def test_of_many_images_each_label_is_shown_as_often_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_READ", 100)
    rare = {3, 500, 1999}
    images = [image(task, "car", *["bus"] * (task in rare), *["sign"] * (task % 10 == 0)) for task in range(2000)]
    images += [image(task) for task in range(2000, 2100)]
    chosen = choose_images(images)
    assert len(keys(chosen)) == 100
    held_out = [one for one in chosen if is_held_out(one.key)]
    assert len(held_out) == 20
    assert not {one.key for one in held_out} & {one.key for one in chosen if one not in held_out}
    learned = [one for one in chosen if one not in held_out]
    counts = Counter(label for one in learned for label in one.labels or {"none"})
    assert counts["bus"] == sum(not is_held_out(str(task)) for task in rare)
    assert counts["sign"] >= 30
    assert counts["none"] >= 30
    assert keys(choose_images(images[::-1])) == keys(chosen)
    more = choose_images([*images, *(image(task, "car") for task in range(3000, 3020))])
    assert len(keys(more) & keys(chosen)) >= 90


def test_few_images_are_all_learned_from() -> None:
    assert balanced([{0}, set(), {1}], ["a", "b", "c"], 3) == [0, 1, 2]


def test_above_the_bound_some_are_loaded_and_all_are_noted(
    label_studio: StandInLabelStudio, loaded: list[int], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_READ", 10)
    reader = reader_of(label_studio, told)
    examples = reader.read(50)
    assert len(examples) == 10
    assert sorted(loaded) == sorted(int(example.key) for example in examples)
    assert len(reader.records) == 50
    assert reader.outcomes["cat"].accepted == 50
    assert told[0] == "has looked at 0 of 50 annotated images to choose those that are learned from"
    assert "has read 10 of 10 annotated images" in told
    assert {example.key for example in reader_of(label_studio, told).read(50)} == {one.key for one in examples}


def test_at_the_bound_all_are_read_at_once(
    label_studio: StandInLabelStudio, loaded: list[int], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_READ", 50)
    reader = reader_of(label_studio, told)
    assert len(reader.read(50)) == len(loaded) == len(reader.records) == 50
    assert Counter(label_studio.asked) == Counter(range(1, 51))


def test_images_of_one_task_count_one_by_one(
    label_studio: StandInLabelStudio, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_READ", 60)
    result = [{**label_studio.result[0], "item_index": page} for page in range(3)]

    def tasks(project: int, ids: Collection[int]) -> list[Task]:
        pages = ["/a.png", "/b.png", "/c.png"]
        return [Task(task, {"pages": pages}, frozenset(), 1) for task in ids if task in label_studio.rows]

    def predictions(task: int) -> list[StoredPrediction]:
        return [StoredPrediction(task, task, "ours", result, 0.5)]

    label_studio.result[:] = result
    monkeypatch.setattr(label_studio, "tasks", tasks)
    monkeypatch.setattr(label_studio, "predictions", predictions)
    reader = reader_of(label_studio, told, vocabulary=PAGES)
    examples = reader.read(50)
    assert len(examples) == len({example.key for example in examples}) == 60
    assert len(reader.records) == 150


def test_what_cannot_be_read_of_the_chosen_is_left_out_and_noted_once(
    label_studio: StandInLabelStudio, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_READ", 10)
    reader = reader_of(label_studio, told)
    chosen = {int(example.key) for example in reader.read(50)}
    away = min(chosen)

    def load(self: ImageLoader, url: str, *, task: int, **_: object) -> Picture:
        if task == away:
            raise MemoryError
        return Picture(np.full((*SIZE, 3), 100, dtype=np.uint8), SIZE)

    monkeypatch.setattr(ImageLoader, "load", load)
    assert {int(example.key) for example in reader.read(50)} == chosen - {away}
    assert list(reader.missing) == [str(away)]
    assert len(reader.records) == 50
    with pytest.raises(RetryLater):
        reader_of(label_studio, told, patient=True).read(50)


def test_the_documents_have_the_bounds() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    rules, guide = (docs / name for name in ("reference/learning_rules.md", "guide/learning.md"))
    assert f"So of more than {reading.MOST_READ} images, {reading.MOST_READ} are read;" in rules.read_text()
    assert f"At most {reading.MOST_READ // 5} of the {reading.MOST_READ} are to be [held out]" in rules.read_text()
    assert f"Above {reading.MOST_READ}, [{reading.MOST_READ} are read in full]" in guide.read_text()
