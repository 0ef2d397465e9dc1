"""What the report counts, on records and annotations made here; its figures are exact."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from plugin_config.control_arm import in_control_arm
from plugin_config.errors import LabelStudioError, SettingsError
from plugin_config.label_studio.annotations import AnnotatedTask, Annotation
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.label_studio.predictions import StoredPrediction
from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.outcomes import RegionRecord
from worker.label_studio.seeded import SeededOutcomes, seeded_region_id
from worker.report.charts import as_image, as_svg, round_range
from worker.report.examples import MostCorrected
from worker.report.history import History
from worker.report.measures import Measures, RegionMeasures
from worker.report.page import Heading, draw_charts, render_page
from worker.report.reading import AnnotationRecord, HistoryReader, ImageRecord, UnreadTask
from worker.report.statistics import (
    NOTHING,
    Estimate,
    estimate_difference,
    estimate_mean,
    estimate_median,
    estimate_share,
)
from worker.report.tables import RecordTables, write_labels
from worker.report.time_model import TimeModel, assumptions

VOCABULARY = parse_vocabulary(
    """<View><Image name="image" value="$image"/><PolygonLabels name="polygon" toName="image">
    <Label value="cat"/><Label value="dog"/></PolygonLabels></View>"""
)
OURS, LEARNED = f"builtin-zeroshot-{VOCABULARY.hash}", f"builtin-a3-0123ab-{VOCABULARY.hash}"
OUTPUTS = {"cat": "polygon", "dog": "polygon"}
MODEL = TimeModel(look=2, click=1, outline=60, box=7, wrong=2)
CONTROL = next(task for task in range(1, 99) if in_control_arm(task, 0.5))
OTHER = next(task for task in range(1, 99) if not in_control_arm(task, 0.5))


def record(*regions: RegionRecord, present: Sequence[str] = (), number: int = 1, **more: Any) -> AnnotationRecord:
    images = (ImageRecord(str(number), regions, frozenset(present), OUTPUTS),)
    made = AnnotationRecord(number, 10 * number, 1, f"2026-01-{number:02}", "ours", "builtin-zeroshot", False, 30.0,
                            images=images)  # fmt: skip
    return replace(made, **more)


def was(label: str, outcome: Any, edit_iou: float | None = None) -> RegionRecord:
    iou = {"accepted": 1.0, "deleted": 0.0}.get(outcome, edit_iou)
    return RegionRecord(label, outcome, 0.5, iou)


def measured(*records: AnnotationRecord | UnreadTask, **more: Any) -> Measures:
    history = History(MODEL, **more)
    for found in records:
        history.add(found)
    return history.measures()


def row(measures: Measures, label: str = "", version: str = "") -> RegionMeasures:
    (found,) = [found for found in measures.regions if (found.label, found.version) == (label, version)]
    return found


def interval(found: Estimate) -> list[Any]:
    return [found.value, found.low, found.high]


def test_a_share_is_less_certain_where_regions_of_one_image_are_alike() -> None:
    alone = estimate_share([(1, 1)] * 8 + [(0, 1)] * 2)
    assert (alone.value, alone.n) == (0.8, 10)
    assert interval(alone) == pytest.approx([0.8, 0.490, 0.943], abs=2e-3), "Wilson's"
    together = estimate_share([(8, 8), (0, 2)])
    assert together.value == 0.8
    assert cast(float, together.low) < cast(float, alone.low)
    assert cast(float, together.high) > cast(float, alone.high)
    one = estimate_share([(9, 9)])
    assert interval(one) == pytest.approx([1.0, 0.207, 1.0], abs=2e-3), "one image says what one says"
    assert estimate_share([(0, 0)]) == NOTHING == estimate_share([])


def test_medians_have_the_bootstraps_intervals() -> None:
    rng = np.random.default_rng(1)
    for count in (20, 21):
        values = rng.lognormal(3.0, 1.0, count)
        drawn = np.median(values[rng.integers(count, size=(20_000, count))], axis=1)
        found = estimate_median(values.tolist())
        assert found.value == np.median(values)
        assert interval(found)[1:] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist(), rel=0.05)
    few = estimate_median([1.0, 2.0, 9.0, 4.0, 5.0])
    assert (few.value, few.low, few.high, few.n) == (4.0, None, None, 5)
    assert estimate_median([]) == NOTHING


def test_differences_and_means_have_intervals_where_there_are_enough_values() -> None:
    slow, quick = [100.0 + number for number in range(30)], [50.0 + number for number in range(40)]
    found = estimate_difference(slow, quick)
    assert (found.value, found.n) == (114.5 - 69.5, 70)
    assert 30 < cast(float, found.low) < 45 < cast(float, found.high) < 60
    assert estimate_difference(slow, quick[:5]).low is None
    assert estimate_difference(slow, []).value is None
    mean = estimate_mean([1.0] * 10 + [3.0] * 10)
    assert interval(mean) == pytest.approx([2.0, 1.55, 2.45], abs=0.1)
    many = estimate_mean([1.0, 3.0] * 4000)
    assert interval(many) == pytest.approx([2.0, 1.978, 2.022], abs=1e-3)


@pytest.mark.parametrize(
    ("outcome", "edit_iou", "output", "saved_s"),
    [
        pytest.param("accepted", None, "brush", 60 - 2, id="accepted"),
        pytest.param("changed", 0.8, "polygon", 60 - 2 - 1 - 24, id="changed a little"),
        pytest.param("changed", 0.1, "polygon", -3, id="changed so much that drawing it anew was quicker"),
        pytest.param("changed", None, "polygon", -3, id="changed, nobody knows how much"),
        pytest.param("changed", 1.0, "bitmask", 60 - 2 - 1, id="given another label"),
        pytest.param("deleted", None, "brush", -3, id="deleted"),
        pytest.param("added", None, "brush", 0, id="added"),
        pytest.param("accepted", None, "rectangle", 7 - 2, id="an accepted box"),
        pytest.param("changed", 0.5, "rectangle", -3, id="a changed box"),
    ],
)
def test_the_time_model(outcome: Any, edit_iou: float | None, output: str, saved_s: float) -> None:
    assert MODEL.saved(was("cat", outcome, edit_iou), output) == pytest.approx(saved_s)
    assert (MODEL.redraw, MODEL.edit(0.5)) == (61, 61)


def test_the_time_model_is_told_and_may_be_changed() -> None:
    found = TimeModel.parse("outline=60, look=3")
    assert (found.outline, found.look, found.click) == (60, 3, TimeModel().click)
    sources = {one.name: one.source for one in assumptions(found)}
    assert sources["outline"] == "given with --seconds"
    assert "Benenson" in sources["wrong"]
    for wrong in ("outline", "speed=3", "outline=fast", "outline=-1", "outline=nan"):
        with pytest.raises(SettingsError, match="--seconds"):
            TimeModel.parse(wrong)


def test_regions_are_counted_by_label_and_version() -> None:
    found = measured(
        record(was("cat", "accepted"), was("cat", "changed", 0.6), was("dog", "deleted"), present=["cat"], number=1),
        record(was("cat", "changed", 0.8), was("dog", "added"), present=["cat", "dog"], number=2,
               version="builtin-a3-0123ab"),
        record(number=3),
        record(was("cat", "changed"), present=["dog"], number=4),
    )  # fmt: skip
    everything, cat, dog = row(found), row(found, "cat"), row(found, "dog")
    assert (everything.accepted, everything.changed, everything.deleted, everything.added) == (1, 3, 1, 1)
    assert (everything.accepted_share.value, everything.accepted_share.n) == (0.2, 5)
    assert (everything.edit_iou.n, everything.undrawn) == (2, 1)
    assert everything.edit_iou.value == pytest.approx(0.7)
    assert (everything.images, everything.present, everything.left_empty, everything.false_alarms) == (4, 3, 1, 0)
    assert everything.saved_minutes == pytest.approx((58 + 9 - 3 + 33 - 3) / 60) == pytest.approx(found.saved_minutes)
    assert (cat.images, cat.present, cat.left_empty, cat.false_alarms) == (4, 2, 1, 1)
    assert (dog.images, dog.present, dog.left_empty, dog.false_alarms) == (4, 2, 1, 1)
    assert (dog.accepted_share.value, dog.added) == (0.0, 1)
    assert dog.saved_minutes == pytest.approx(-3 / 60)
    learned = row(found, "cat", "builtin-a3-0123ab")
    assert (learned.images, learned.changed, learned.accepted_share.n) == (1, 1, 1)
    assert row(found, "", "builtin-zeroshot").images == 3
    assert any("rightly left empty: 1 image." in remark for remark in found.remarks)
    assert any("those of 1 changed region." in remark for remark in found.remarks)


def test_versions_come_in_the_order_of_the_first_that_was_submitted() -> None:
    versions = "builtin-zeroshot", "builtin-a2-ff", "builtin-a10-00"
    records = [record(was("cat", "accepted"), present=["cat"], number=n, version=version,
                      at=f"2026-02-{20 - n}", created_at=f"2026-01-{n:02}")
               for n, version in enumerate(versions, start=1)]  # fmt: skip
    found = measured(*reversed(records))
    assert [(one.label, one.version) for one in found.regions if one.label != "dog"] == [
        ("", ""), *(("", one) for one in versions), ("cat", ""), *(("cat", one) for one in versions),
    ]  # fmt: skip
    assert [one.version for one in found.lead_times if one.shown == "all"] == ["", *versions]


def test_an_image_that_is_rightly_empty_saves_no_drawing() -> None:
    found = measured(*(record(number=number) for number in range(1, 10)))
    assert (found.saved_minutes, found.saved_s.value) == (0.0, 0.0)
    assert row(found).accepted_share == NOTHING


def test_lead_times_are_compared_between_arms_and_what_is_odd_is_left_out_and_counted() -> None:
    seen = [record(was("cat", "accepted"), present=["cat"], number=n, lead_time_s=20.0 + n) for n in range(1, 9)]
    control = [record(was("cat", "added"), present=["cat"], number=n, basis="nothing", version="", control=True,
                      lead_time_s=100.0 + n) for n in range(11, 19)]  # fmt: skip
    odd = [record(number=n, lead_time_s=time) for n, time in ((21, None), (22, 0.0), (23, -4.0), (24, 2 * 86400.0))]
    found = measured(*seen, *control, *odd)
    times = {(one.arm, one.version, one.shown): one.median_s for one in found.lead_times}
    assert times["prediction", "", "all"].value == 24.5
    assert times["prediction", "builtin-zeroshot", "labels"].n == 8
    assert times["control", "", "labels"].value == 114.5
    assert found.difference_s["labels"].value == 90.0
    assert cast(float, found.difference_s["labels"].low) > 80
    assert found.left_out_times == {"not noted": 1, "zero or less": 2, "longer than 30 minutes": 1}
    assert "Lead times left out: 1 longer than 30 minutes, 1 not noted, 2 zero or less." in found.remarks
    assert row(found).images == 12, "an annotation of the control arm shows no prediction"
    assert "longer than 4 minutes" in measured(record(lead_time_s=300.0), longest_s=240.0).left_out_times


def test_control_annotations_from_before_the_first_prediction_are_not_compared() -> None:
    control: dict[str, Any] = {"basis": "nothing", "version": "", "control": True}
    early = [record(number=n, lead_time_s=900.0, at="2026-09", created_at=f"2026-01-{n:02}", **control)
             for n in (1, 2)]  # fmt: skip
    late = [record(number=n, lead_time_s=40.0, **control) for n in (5, 6)]
    seen = [record(number=n, lead_time_s=20.0, at="2026-09", created_at=f"2026-01-{n:02}") for n in (4, 5, 7)]
    found = measured(*early, *late, *seen)
    times = {one.arm: (one.median_s.value, one.median_s.n) for one in found.lead_times if one.shown == "all"}
    assert times["control"] == (40.0, 2)
    assert times["nothing"] == (900.0, 2)
    assert found.difference_s["all"].value == 20.0
    assert any("Left out of the control arm: 2 times" in remark for remark in found.remarks)
    alone = measured(*early, *late)
    assert {one.arm for one in alone.lead_times} == {"nothing"}, "nothing was predicted yet"


def test_times_with_a_seeded_mask_are_left_out_and_tasks_that_hold_one_are_named_once() -> None:
    left, deleted = SeededOutcomes(left=1), SeededOutcomes(deleted=1)
    found = measured(
        record(number=1, seeded=left, holds_seeded=True), record(number=1, seeded=left, holds_seeded=True),
        record(number=2, seeded=deleted), record(number=3, lead_time_s=7.0),
        record(number=4, basis="deleted", version="", holds_seeded=True),
    )  # fmt: skip
    assert found.left_in == (1, 4)
    assert found.left_out_times == {"with a seeded mask": 3}
    assert {(one.arm, one.median_s.value, one.median_s.n) for one in found.lead_times} == {("prediction", 7.0, 1)}
    assert any("in annotations of 2 tasks, 1, 4: delete them" in remark for remark in found.remarks)


def test_a_control_task_that_was_shown_a_prediction_is_of_no_arm() -> None:
    assert measured(record(control=True), record(number=2, basis="theirs")).lead_times == ()


@pytest.mark.parametrize(
    ("records", "told"),
    [
        pytest.param([], "No task of this project is annotated or skipped yet", id="no history"),
        pytest.param([record(number=n, basis="nothing", skipped=True, images=()) for n in (1, 2, 3)],
                     "Annotator 1 skipped every task that they submitted, 3 in all", id="skips everything"),
        pytest.param([record(basis="deleted", version="")], "predictions that are deleted since: 1 annotation.",
                     id="predictions deleted by hand"),
        pytest.param([record(basis="theirs", version="")], "another model, counted nowhere: 1 annotation.",
                     id="another model"),
        pytest.param([record(basis="nothing", version="")], "No annotation was made from a prediction", id="of none"),
        pytest.param([record()], "Few were made from a prediction, 1 annotation", id="one"),
        pytest.param([UnreadTask(3, "task 3: <odd>")], "Left out: 1 task, the first because of task 3", id="odd"),
    ],
)  # fmt: skip
def test_what_a_reader_must_know_is_told(records: list[Any], told: str) -> None:
    found = measured(*records)
    assert any(told in remark for remark in found.remarks), found.remarks
    page = render_page(Heading(1, "p", "now", 0.0), found, MODEL, draw_charts(found), [])
    assert told in page
    assert [one.skipped for one in found.annotators if one.skipped] == [
        sum(isinstance(one, AnnotationRecord) and one.skipped for one in records)
    ] * any(isinstance(one, AnnotationRecord) and one.skipped for one in records)


def test_the_curve_shows_the_last_twenty_and_what_was_saved_so_far() -> None:
    outcomes = ["deleted"] * 20 + ["accepted"] * 20
    records = [record(was("cat", outcome), number=n, at=f"2026-{n:03}") for n, outcome in enumerate(outcomes, start=1)]
    found = measured(*reversed(records))
    assert [one.annotations for one in found.curve] == list(range(1, 41))
    assert [found.curve[place].accepted_share for place in (19, 29, 39)] == [0.0, 0.5, 1.0]
    assert found.curve[39].saved_minutes == pytest.approx((20 * 58 - 20 * 3) / 60)
    assert len(measured(*(record(number=1) for _ in range(2000))).curve) == 400


class _Page(HTMLParser):
    """What a browser would fetch, the tags, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_what_others_wrote_and_fetches_nothing() -> None:
    wild = '<script>alert("x")</script>'
    regions = (RegionRecord(wild, "accepted", 0.5, 1.0),)
    found = measured(record(images=(ImageRecord("1", regions, frozenset([wild]), {wild: "brush"}),), version=wild),
                     record(number=2, version="b"), UnreadTask(9, f"task 9: {wild}"))  # fmt: skip
    charts = draw_charts(found)
    page = _Page(render_page(Heading(1, f"A {wild}", "now", 0.1), found, MODEL, charts, [], [wild]))
    assert "script" not in page.tags
    assert page.text.count(wild) >= 5
    assert page.fetched == []
    assert "@import" not in page.text
    assert set(charts) == {"accepted_by_label", "accepted_over_time", "saved_over_time"}


@pytest.mark.parametrize(
    ("lowest", "highest", "found"),
    [
        pytest.param(0.0, 35.9, (0, 40), id="above"),
        pytest.param(0.0, 1.0, (0, 1), id="round already"),
        pytest.param(0.0, 1234.0, (0, 2000), id="large"),
        pytest.param(-0.3, 1.0, (-0.5, 1.5), id="below too"),
        pytest.param(-12.0, 1.0, (-15, 5), id="mostly below"),
    ],
)
def test_ticks_are_round(lowest: float, highest: float, found: tuple[float, float]) -> None:
    assert round_range(lowest, highest) == pytest.approx(found)


def test_charts_are_drawn_as_pictures_too() -> None:
    regions = was("cat", "accepted"), was("dog", "deleted")
    records = [record(*regions, number=n, version=f"v{n % 2}") for n in range(1, 9)]
    charts = draw_charts(measured(*records))
    assert "accepted_by_version" in charts
    for drawing in charts.values():
        image = as_image(drawing)
        assert image.size == (round(2 * drawing.width), round(2 * drawing.height))
        assert (31, 111, 235) in {colour for _, colour in image.getcolors(1 << 20) or ()}, "the series is there"
        assert as_svg(drawing).count("<svg") == 1


def test_tables_hold_a_row_for_each_and_no_formula(tmp_path: Path) -> None:
    wild = "=HYPERLINK(1)"
    made = record(was("cat", "changed", 0.25), was(wild, "accepted"), present=["cat", wild])
    made = replace(made, images=(replace(made.images[0], outputs={**OUTPUTS, wild: "brush"}),))
    with RecordTables(tmp_path) as tables:
        tables.add(made)
        tables.add(record(number=2, skipped=True, images=(), basis="nothing", version=""))
    write_labels(tmp_path, measured(made))
    regions, annotations, labels = (
        list(csv.DictReader((tmp_path / name).open(newline="")))
        for name in ("regions.csv", "annotations.csv", "labels.csv")
    )
    assert [(one["label"], one["outcome"], one["edit_iou"]) for one in regions] == [
        ("cat", "changed", "0.25"), (f"'{wild}", "accepted", "1.0"),
    ]  # fmt: skip
    assert [(one["task"], one["skipped"], one["labels"]) for one in annotations] == [
        ("1", "0", f"'{wild}|cat"), ("2", "1", ""),
    ]  # fmt: skip
    assert {(one["label"], one["version"]): one["accepted_share_n"] for one in labels}["", ""] == "2"


def test_the_most_corrected_images_are_shown() -> None:
    corrected = MostCorrected(2)
    for number, touched in ((1, 1), (2, 3), (3, 0), (4, 2)):
        corrected.add(record(*[was("cat", "deleted")] * touched, was("dog", "accepted"), number=number))
    corrected.add(record(*[was("cat", "added")] * 9, number=5, basis="nothing"))
    assert corrected.chosen() == [(2, 20, "2"), (4, 40, "4")]
    nothing = MostCorrected(0)
    nothing.add(record(was("cat", "deleted")))
    assert nothing.chosen() == []


def region(name: str, label: str = "cat", *, x: float = 0.0, **more: Any) -> dict[str, Any]:
    value = {"points": [[x, 0], [50, 0], [50, 50], [x, 50]], "closed": True, "polygonlabels": [label]}
    return {"id": name, "from_name": "polygon", "to_name": "image", "type": "polygonlabels", "value": value,
            "original_width": 100, "original_height": 100, "score": 0.9} | more  # fmt: skip


class StandInLabelStudio:
    """Annotations and predictions by task; a task of `refused` cannot be read."""

    def __init__(self, annotations: Sequence[Annotation], predictions: Sequence[StoredPrediction] = ()) -> None:
        self.rows, self.stored = annotations, predictions
        self.refused: dict[int, int] = {}

    def annotated_tasks(self, project: int, *, skipped: bool = False) -> Iterator[AnnotatedTask]:
        for task in dict.fromkeys(one.task for one in self.rows if skipped or not one.cancelled):
            yield AnnotatedTask(task, tuple(one.id for one in self.rows if one.task == task), "2026")

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        return [Task(task, {"image": "x"}, frozenset(), 1) for task in ids]

    def annotations(self, task: int) -> list[Annotation]:
        if task in self.refused:
            raise LabelStudioError("GET", "was refused", "Check.", status=self.refused[task])
        return [one for one in self.rows if one.task == task and not one.cancelled]

    def request(self, method: str, path: str, **options: Any) -> Any:
        (found,) = [one for one in self.rows if path == f"/api/annotations/{one.id}/"]
        return {"id": found.id, "task": found.task, "result": list(found.result), "was_cancelled": found.cancelled}

    def predictions(self, task: int) -> list[StoredPrediction]:
        return [one for one in self.stored if one.task == task]


def made(task: int, *regions: Any, parent: int | None = None, **more: Any) -> Annotation:
    return replace(Annotation(10 * task, task, regions, False, False, parent, 1, "2026", lead_time_s=9.0), **more)


def read(label_studio: StandInLabelStudio, share: float = 0.0) -> dict[int, Any]:
    reader = HistoryReader(cast(LabelStudio, label_studio), 1, VOCABULARY, control_share=share)
    found = {}
    for records in reader.read(reader.tasks()):
        for one in (records,) if isinstance(records, UnreadTask) else records:
            found[one.task] = one
    return found


def test_annotations_are_read_with_what_they_were_made_from() -> None:
    predicted = [StoredPrediction(task, task, version, [region("a"), region("b", "dog")], 0.5)
                 for task, version in ((1, OURS), (2, LEARNED), (3, "somebody-elses"))]  # fmt: skip
    found = read(StandInLabelStudio([
        made(1, region("a", origin="prediction"), region("b", "dog", x=25, origin="prediction-changed"), parent=1),
        made(2, region("a", origin="prediction"), region("c"), parent=2),
        made(3, region("a", origin="prediction"), parent=3),
        made(4, region("z", origin="prediction")),
        made(5, region("y", origin="manual")),
        made(6, cancelled=True),
        made(7, region("i"), imported=True),
        made(8, malformed="its result is null"),
        made(9, {"no": "type"}),
        made(11, 7),
    ], predicted))  # fmt: skip
    assert {task: getattr(one, "basis", "unread") for task, one in found.items()} == {
        1: "ours", 2: "ours", 3: "theirs", 4: "deleted", 5: "nothing", 6: "nothing", 8: "unread", 9: "unread",
        11: "unread",
    }  # fmt: skip
    assert (found[1].version, found[2].version, found[3].version) == ("builtin-zeroshot", "builtin-a3-0123ab", "")
    (image,) = found[1].images
    assert [(one.label, one.outcome) for one in image.regions] == [("cat", "accepted"), ("dog", "changed")]
    assert image.regions[1].edit_iou == pytest.approx(0.5)
    assert (image.present, image.outputs) == ({"cat", "dog"}, OUTPUTS)
    assert [(one.label, one.outcome) for one in found[2].images[0].regions] == [
        ("cat", "accepted"), ("cat", "added"), ("dog", "deleted"),
    ]  # fmt: skip
    assert [one.outcome for one in found[3].images[0].regions] == ["added"], "theirs says nothing of ours"
    assert (found[6].skipped, found[6].images, found[1].lead_time_s) == (True, (), 9.0)
    assert "its result is null" in found[8].reason


def test_a_seeded_mask_is_found_in_annotations_of_any_origin() -> None:
    wrong = region(seeded_region_id(), origin="prediction")
    predicted = [StoredPrediction(1, 1, OURS, [region("a"), wrong], 0.5)]
    found = read(StandInLabelStudio([
        made(1, region("a"), wrong, parent=1, created_at="2025"),
        made(2, wrong), made(3, region("b")),
        made(4, wrong), made(4, region("b"), id=41, updated_at="2027"),
    ], predicted))  # fmt: skip
    assert {task: (one.basis, one.holds_seeded) for task, one in found.items()} == {
        1: ("ours", True), 2: ("deleted", True), 3: ("nothing", False), 4: ("nothing", True),
    }  # fmt: skip
    assert found[4].annotation == 41, "the older one does not count, but is in an export"
    assert (found[1].created_at, found[1].seeded, found[2].seeded) == ("2025", SeededOutcomes(left=1), SeededOutcomes())


def test_control_tasks_are_known_by_their_ids() -> None:
    found = read(StandInLabelStudio([made(CONTROL, region("a")), made(OTHER, region("a"))]), share=0.5)
    assert (found[CONTROL].control, found[OTHER].control) == (True, False)


def test_a_task_that_is_gone_or_cannot_be_read_costs_no_more_than_itself() -> None:
    label_studio = StandInLabelStudio([made(1), made(2), made(3)])
    label_studio.refused = {1: 404, 2: 500}
    found = read(label_studio)
    assert [type(one) for one in found.values()] == [UnreadTask, UnreadTask, AnnotationRecord]
    label_studio.refused = {1: 403}
    with pytest.raises(LabelStudioError):
        read(label_studio)


def test_many_annotations_are_measured_in_no_time() -> None:
    history = History(MODEL)
    given = record(was("cat", "accepted"), was("dog", "changed", 0.5), present=["cat", "dog"])
    started = time.process_time()
    for _ in range(30_000):
        history.add(given)
    found = history.measures()
    assert time.process_time() - started < 60
    assert row(found).accepted == 30_000
    assert len(json.dumps([one.annotations for one in found.curve])) < 10_000
