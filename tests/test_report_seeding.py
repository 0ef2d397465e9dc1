"""What `zeromask seed-wrong` passes over, what it tells when it breaks off, and when clicking stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.client import LabelStudio, Project, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.picture_regions import item_id
from worker.label_studio.regions import encode_region
from worker.label_studio.seeded import is_seeded, seed_region
from worker.label_studio.task_images import images_of
from worker.report import clicks, seed
from worker.report.clicks import measure_clicks
from worker.report.history import History
from worker.report.page import Heading, render_page
from worker.report.seed import main, remove_seeded, seed_tasks
from worker.report.time_model import TimeModel
from worker.report.versions import ReportedVersion
from worker.segmentation.segmenter import Segmenter

CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels></View>'
)
VOCABULARY = parse_vocabulary(CONFIG)
VERSION = f"builtin-zeroshot-{VOCABULARY.hash}"
PROJECT = Project(1, "p", CONFIG, VERSION)


def region() -> dict[str, Any]:
    mask = np.zeros((80, 100), dtype=np.bool_)
    mask[5:25, 5:35] = True
    (made,) = encode_region(mask, kind="brush", control="b", to_name="i", label="cat", score=0.75)
    return made


class StandInLabelStudio:
    """Three tasks with a prediction each; `refused` are those whose prediction cannot be stored, with the status."""

    url = "http://localhost:8080"

    def __init__(self, *_: object, **__: object) -> None:
        self.stored = {task: StoredPrediction(task, task, VERSION, [region()], 0.5) for task in (1, 2, 3)}
        self.made: dict[int, list[Annotation]] = {}
        self.drafts: dict[int, list[object]] = {}
        self.refused: dict[int, int] = {}

    def __enter__(self) -> StandInLabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def project(self, project: int) -> Project:
        return replace(PROJECT, id=project)

    def all_tasks(self, project: int) -> Iterator[Task]:
        return iter(self.tasks(project, list(self.stored)))

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        return [Task(task, {"image": "x"}, frozenset((VERSION,)), 0) for task in ids]

    def predictions(self, task: int) -> list[StoredPrediction]:
        return [self.stored[task]]

    def annotations(self, task: int) -> list[Annotation]:
        return self.made.get(task, [])

    def request(self, method: str, path: str, **options: Any) -> Any:
        number = int(path.split("/")[3])
        if method == "GET":
            assert path == f"/api/tasks/{number}/drafts"
            return self.drafts.get(number, [])
        if number in self.refused:
            raise LabelStudioError(path, "was refused", "Check.", status=self.refused[number])
        self.stored[number] = replace(self.stored[number], result=options["json"]["result"])
        return None

    def seeded(self) -> list[int]:
        return [task for task, found in self.stored.items() if any(is_seeded(item_id(row)) for row in found.result)]


def annotation(task: int, *regions: dict[str, Any]) -> Annotation:
    return Annotation(task, task, regions, False, False, task, 1, "2026")


@pytest.fixture
def label_studio(monkeypatch: pytest.MonkeyPatch) -> StandInLabelStudio:
    made = StandInLabelStudio()
    monkeypatch.setenv("LABEL_STUDIO_URL", made.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    monkeypatch.setattr(seed, "label_studio_of", lambda *_, **__: made)
    return made


def test_tasks_with_a_draft_or_annotated_meanwhile_or_gone_are_passed_over(label_studio: StandInLabelStudio) -> None:
    api = cast(LabelStudio, label_studio)
    label_studio.drafts = {1: [{"id": 4}]}
    label_studio.made = {2: [annotation(2)]}
    assert list(seed_tasks(api, PROJECT, 3)) == [3] == label_studio.seeded()
    label_studio.drafts, label_studio.made, label_studio.refused = {}, {}, {1: 404}
    assert list(seed_tasks(api, PROJECT, 3)) == [2]
    assert label_studio.seeded() == [2, 3]
    label_studio.made = {2: [annotation(2)]}
    assert list(remove_seeded(api, PROJECT)) == [3]
    assert label_studio.seeded() == [2]


def test_no_more_tasks_are_seeded_than_asked_for(label_studio: StandInLabelStudio) -> None:
    assert sorted(seed_tasks(cast(LabelStudio, label_studio), PROJECT, 2)) == label_studio.seeded()
    assert len(label_studio.seeded()) == 2


def test_a_command_that_breaks_off_names_what_it_seeded(
    label_studio: StandInLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = seed_order(label_studio)
    label_studio.refused = {second: 403}
    assert main(["1"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"Seeded so far: tasks {first}. `zeromask seed-wrong 1 --remove` takes these masks out." in told
    assert label_studio.seeded() == [first]
    label_studio.refused = {first: 403}
    assert main(["1", "--remove"]) == 2
    assert "Seeded so far" not in capsys.readouterr().err


def seed_order(label_studio: StandInLabelStudio) -> list[int]:
    """The order in which tasks are seeded, as another one like it shows."""
    return list(seed_tasks(cast(LabelStudio, StandInLabelStudio()), PROJECT, len(label_studio.stored)))


def measured(label_studio: StandInLabelStudio) -> clicks.ClickMeasures:
    chosen = [(task, task, "") for task in sorted(label_studio.made)]
    keys = [(task, number, images_of(label_studio.tasks(1, [task])[0], VOCABULARY).images[0].key)
            for task, number, _ in chosen]  # fmt: skip
    return measure_clicks(cast(LabelStudio, label_studio), 1, VOCABULARY, cast(ImageLoader, None),
                          cast(Segmenter, None), keys, ReportedVersion("builtin", "zeroshot", None))  # fmt: skip


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory."),
                                   RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])  # fmt: skip
def test_clicking_stops_where_memory_runs_out_and_keeps_what_was_measured(
    error: Exception, label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.made = {task: [annotation(task, region())] for task in (1, 2, 3)}
    answers: list[Any] = [([0.9], [0.1, 0.5, 0.9]), error, AssertionError("it goes on")]

    def click(*_: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(clicks, "_click", click)
    found = measured(label_studio)
    assert (found.from_prediction.value, found.from_nothing.value, found.from_nothing.n) == (0, 2, 1)
    assert "Clicking stopped at task 2 for lack of memory" in found.remark
    model = TimeModel()
    page = render_page(Heading(1, "p", "now", 0.0), History(model).measures(), model, {}, [], clicks=found)
    assert found.remark in page
    answers[:] = [RuntimeError("shapes differ")]
    with pytest.raises(RuntimeError, match="shapes differ"):
        measured(label_studio)


def test_a_seeded_region_is_no_truth_to_click_on(
    label_studio: StandInLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wrong,) = seed_region(label_studio.stored[1], VOCABULARY)
    right = region()
    label_studio.made = {1: [annotation(1, wrong)], 2: [annotation(2, wrong, right)]}
    reached = []

    def click(*given: Any) -> None:
        reached.append(given[-1].identity)

    monkeypatch.setattr(clicks, "_click", click)
    measured(label_studio)
    assert reached == [right["id"]]
