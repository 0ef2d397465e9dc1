"""Clicks from the prediction and from nothing, answered by the version that is served or named, on drawn pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from PIL import Image

from plugin_config.errors import LearningError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import LabelStudio, Project, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.model_version import ZEROSHOT
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner, Pointer, VerdictRecord, VersionFolder
from plugin_config.vocabulary import parse_vocabulary
from tests.house import CONFIG, SIZE, picture
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import Picture
from worker.label_studio.regions import encode_region
from worker.learning.interfaces import UNLABELLED, Example
from worker.learning.recipes import recipe_named
from worker.report.clicks import ClickMeasures, ClickSample, measure_clicks
from worker.report.reading import AnnotationRecord, HistoryReader
from worker.report.versions import ReportedVersion, load_version
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.clicks.robot import MOST_CLICKS
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import save_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = parse_vocabulary(CONFIG.format(more=""))
TOP, LEARNED = 40, "a1-0123ab"
PIXELS = np.array(Image.open(io.BytesIO(picture(top=TOP))).convert("RGB"))


def red(width: int, name: str) -> dict[str, Any]:
    """The red square as far as `width` pixels; it has 47."""
    mask = np.zeros(SIZE[::-1], dtype=np.bool_)
    mask[TOP : TOP + 47, 8 : 8 + width] = True
    (made,) = encode_region(
        mask, kind="brush", control="brush", to_name="image", label="red/thing", score=0.8, region_id=name
    )
    return made


class DrawnProject:
    """Tasks whose red square was predicted: all of it by the model as it came (1), half of it (2), and half of it by
    what was learned (3). Annotators submitted all of it, of task 4 what they drew from nothing.
    """

    predicted: ClassVar = {1: (47, ZEROSHOT), 2: (23, ZEROSHOT), 3: (23, LEARNED)}

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        return [Task(task, {"image": f"/{task}.png"}, frozenset(), 1) for task in ids]

    def predictions(self, task: int) -> list[StoredPrediction]:
        if task not in self.predicted:
            return []
        width, adapter = self.predicted[task]
        version = f"builtin-{adapter}-{VOCABULARY.hash}"
        return [StoredPrediction(task, task, version, [red(width, f"red {task}")], 0.5)]

    def annotations(self, task: int) -> list[Annotation]:
        parent = task if task in self.predicted else None
        return [Annotation(10 * task, task, [red(47, f"red {task}")], False, False, parent, 1, "2026-01-01T00:00:00Z")]

    def records(self) -> list[AnnotationRecord]:
        """As the report reads them."""
        reader = HistoryReader(cast(LabelStudio, self), 1, VOCABULARY, control_share=0.0)
        tasks = self.tasks(1, [1, 2, 3, 4])
        return [record for task in tasks for record in reader._task(task, [10 * task.id])]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageLoader, "load", lambda *_, **__: Picture(PIXELS, SIZE[::-1]))


def clicked(segmenter: Segmenter, version: ReportedVersion, *, most: int = 10) -> ClickMeasures:
    project, sample = DrawnProject(), ClickSample(most, version.name)
    for record in project.records():
        sample.add(record)
    loader = ImageLoader.__new__(ImageLoader)
    return measure_clicks(cast(LabelStudio, project), 1, VOCABULARY, loader, segmenter, sample.chosen(), version)


@dataclass
class Head:
    """Says what the model says, and counts how often; `error` is raised instead."""

    asked: int = 0
    error: LearningError | None = None
    refinement: ClassVar[Method] = ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return image.zero_shot


def test_clicks_are_counted_from_the_prediction_and_from_nothing(segmenter: Segmenter) -> None:
    found = clicked(segmenter, ReportedVersion("builtin", ZEROSHOT, None))
    assert (found.from_prediction.n, found.from_nothing.n) == (2, 2), "of what it predicted itself"
    assert found.unreached == 0
    assert found.from_nothing.value is not None
    assert found.from_prediction.value is not None
    assert 1 <= found.from_nothing.value < MOST_CLICKS
    assert 0.5 <= found.from_prediction.value < found.from_nothing.value + 1
    assert (found.version, found.remark) == ("builtin-zeroshot", "")
    alone = clicked(segmenter, ReportedVersion("builtin", ZEROSHOT, None), most=1)
    assert alone.from_prediction.n == 1


def test_what_was_learned_answers_in_images_that_it_was_shown_in(segmenter: Segmenter) -> None:
    head = Head()
    found = clicked(segmenter, ReportedVersion("builtin", LEARNED, cast(Any, head)))
    assert (found.from_prediction.n, head.asked, found.version) == (1, 1, f"builtin-{LEARNED}")
    head.error = LearningError("version a1-0123ab", "gives no usable scores", "Serve another.")
    found = clicked(segmenter, ReportedVersion("builtin", LEARNED, cast(Any, head)))
    assert found.from_nothing.n == 0
    assert found.remark == (
        "Clicking stopped at task 3: the figures are of the regions before it. version a1-0123ab: gives no usable "
        "scores. Serve another."
    )


def test_a_version_that_nobody_has_annotated_yet_is_told(segmenter: Segmenter) -> None:
    found = clicked(segmenter, ReportedVersion("builtin", "a2-0123ab", None))
    assert found.from_prediction.n == 0
    assert found.remark.startswith("Nothing to click on: no annotation that can be read was made from a prediction of "
                                   "builtin-a2-0123ab.")  # fmt: skip


def test_the_served_version_is_loaded_or_the_one_that_is_named(segmenter: Segmenter, tmp_path: Path) -> None:
    settings = Settings(model="builtin", label_studio_url="http://ls", versions=str(tmp_path))
    project = Project(1, "p", CONFIG, "", created="2026-01-01")
    assert load_version(settings, project, segmenter) == ReportedVersion("builtin", ZEROSHOT, None)
    truth = np.full(PIXELS.shape[:2], UNLABELLED, dtype=np.int16)
    truth[TOP : TOP + 47, 8:55] = 0
    example = Example("1", PIXELS, segmenter.embed([PIXELS])[0], VOCABULARY.words, truth)
    folder = VersionFolder(str(tmp_path), Owner("http://ls", 1, "2026-01-01", "builtin"))

    def save(weights: str) -> str:
        adapter = recipe_named("quick").fit([example], VOCABULARY.words, segmenter)
        verdict = VerdictRecord(True, "promoted", {})
        return save_adapter(folder, adapter, newest=0, weights=weights, base=ZEROSHOT, digest="d", learned_from=("1",),
                            verdict=verdict).name  # fmt: skip

    name, foreign = save(segmenter.encoder.fingerprint), save("another")
    folder.point(replace(Pointer(), served=name))
    found = load_version(settings, project, segmenter)
    assert (found.name, found.adapter is None) == (f"builtin-{name}", False)
    assert load_version(settings, project, segmenter, ZEROSHOT).adapter is None
    with pytest.raises(LearningError, match=f"version {foreign}: was learned on other weights"):
        load_version(settings, project, segmenter, foreign)
    with pytest.raises(LearningError, match="version a9-0123ab: is not in"):
        load_version(settings, project, segmenter, "a9-0123ab")
