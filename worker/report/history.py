"""What was read of a project so far -> its measures. Numbers alone are kept of each annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from worker.label_studio.outcomes import RegionRecord
from worker.label_studio.seeded import NONE_SEEDED, SeededOutcomes
from worker.report.measures import (
    LONGEST_LEAD_TIME_S,
    AnnotatorMeasures,
    Arm,
    CurvePoint,
    LeadTimeMeasures,
    Measures,
    RegionMeasures,
    Shown,
)
from worker.report.reading import AnnotationRecord, ImageRecord, UnreadTask
from worker.report.statistics import (
    FEWEST,
    Estimate,
    estimate_difference,
    estimate_mean,
    estimate_median,
    estimate_share,
)
from worker.report.time_model import TimeModel

_Times = dict[tuple[Arm, str, Shown], list[float]]  # seconds, by arm, version and what the annotations show

_WINDOW = 20  # annotations whose share of accepted regions is one point of the curve
_MOST_POINTS = 400
_FEW_IMAGES = 20
_MOST_NAMED = 100  # tasks


@dataclass
class _Regions:
    """Regions of one group so far; `shares` of each image: accepted and predicted."""

    counts: Counter[str] = field(default_factory=Counter)
    shares: list[tuple[int, int]] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    present: int = 0
    false_alarms: int = 0
    saved_s: float = 0.0

    def measures(self, label: str, version: str, images: int) -> RegionMeasures:
        counts, absent = self.counts, images - self.present
        return RegionMeasures(
            label, version, counts["accepted"], counts["changed"], counts["deleted"], counts["added"],
            estimate_share(self.shares), estimate_median(self.ious), counts["changed"] - len(self.ious),
            images, self.present, absent - self.false_alarms, self.false_alarms, self.saved_s / 60,
        )  # fmt: skip


@dataclass
class _Annotator:
    annotations: int = 0
    skipped: int = 0
    shares: list[tuple[int, int]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class History:
    """What was read so far. Numbers alone are kept of each annotation.

    Args:
        model: how long annotators take.
        longest_s: lead times above it are left out.
    """

    def __init__(self, model: TimeModel, *, longest_s: float = LONGEST_LEAD_TIME_S) -> None:
        self._model, self._longest_s = model, longest_s
        self._tasks: set[int] = set()
        self._bases: Counter[str] = Counter()
        self._skips = 0
        self._regions: dict[tuple[str, str], _Regions] = {}
        self._offered: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._times: _Times = {}
        self._control: list[tuple[str, Shown, float]] = []  # when it was first submitted, what it shows, seconds
        self._since: dict[str, str] = {}  # when the first annotation made from each version was submitted
        self._first = ""  # when the first annotation made from a prediction was submitted
        self._left_out: Counter[str] = Counter()
        self._annotators: dict[int | None, _Annotator] = {}
        self._curve: list[tuple[str, int, int, float]] = []
        self._seeded: list[SeededOutcomes] = []
        self._left_in: dict[int, None] = {}  # tasks, in their order
        self._unread: list[UnreadTask] = []

    def add(self, record: AnnotationRecord | UnreadTask) -> None:
        """Take in one annotation, skip or unread task."""
        if isinstance(record, UnreadTask):
            self._unread.append(record)
            return
        self._tasks.add(record.task)
        annotator = self._annotators.setdefault(record.annotator, _Annotator())
        if record.skipped:
            self._skips += 1
            annotator.skipped += 1
            return
        self._bases[record.basis] += 1
        annotator.annotations += 1
        if record.holds_seeded:
            self._left_in[record.task] = None
        if record.basis == "ours":
            at = _first_at(record)
            self._first = min(self._first or at, at)
            self._since[record.version] = min(self._since.get(record.version, at), at)
            saved_s = sum(self._add_image(image, record.version) for image in record.images)
            share = _shares(row for image in record.images for row in image.regions)
            annotator.shares.append(share)
            self._curve.append((record.at, *share, saved_s))
            if record.seeded != NONE_SEEDED:
                self._seeded.append(record.seeded)
        self._add_time(record, annotator)

    def _add_image(self, image: ImageRecord, version: str) -> float:
        """Take in an image shown with a prediction; returns the seconds it saved."""
        self._offered[version, tuple(image.outputs)] += 1
        for label in ("", *{row.label for row in image.regions} | image.present):
            rows = [row for row in image.regions if label in ("", row.label)]
            present = bool(image.present) if not label else label in image.present
            for group in ((label, version), (label, "")):
                found = self._regions.setdefault(group, _Regions())
                found.counts.update(row.outcome for row in rows)
                found.shares.append(_shares(rows))
                found.ious += [row.edit_iou for row in rows if row.outcome == "changed" and row.edit_iou is not None]
                found.present += present
                found.false_alarms += not present and _shares(rows)[1] > 0
                found.saved_s += self._saved_s(image, rows)
        return self._saved_s(image, image.regions)

    def _saved_s(self, image: ImageRecord, rows: Iterable[RegionRecord]) -> float:
        return sum(self._model.saved(row, image.outputs[row.label]) for row in rows)

    def _add_time(self, record: AnnotationRecord, annotator: _Annotator) -> None:
        arm = _arm(record)
        why = self._why_left_out(record)
        if arm is None:
            return
        if why or record.lead_time_s is None:
            self._left_out[why] += 1
            return
        annotator.times.append(record.lead_time_s)
        shown: Shown = "labels" if any(image.present for image in record.images) else "none"
        if arm == "control":  # whether it counts is known when all is read
            self._control.append((_first_at(record), shown, record.lead_time_s))
            return
        for version in dict.fromkeys(("", record.version)):
            for kind in ("all", shown):
                self._times.setdefault((arm, version, kind), []).append(record.lead_time_s)

    def _why_left_out(self, record: AnnotationRecord) -> str:
        lead_time_s = record.lead_time_s
        if record.seeded != NONE_SEEDED or record.holds_seeded:
            return "with a seeded mask"
        if lead_time_s is None:
            return "not noted"
        if lead_time_s <= 0:
            return "zero or less"
        return f"longer than {self._longest_s / 60:g} minutes" if lead_time_s > self._longest_s else ""

    def measures(self) -> Measures:
        """What all of it tells."""
        times = self._times_by_arm()
        lead_times = tuple(
            LeadTimeMeasures(*group, estimate_median(times[group]))
            for group in sorted(times, key=lambda group: (group[0], self._place(group[1]), group[2]))
        )
        saved = [row[3] for row in self._curve]
        annotators = tuple(
            AnnotatorMeasures(number, row.annotations, row.skipped, estimate_share(row.shares),
                              estimate_median(row.times))
            for number, row in sorted(self._annotators.items(), key=lambda item: item[0] or 0)
        )  # fmt: skip
        return Measures(
            len(self._tasks), sum(self._bases.values()), self._skips, self._bases["ours"],
            self._region_measures(), lead_times, dict(self._left_out),
            _differences(times), estimate_mean(saved), sum(saved) / 60, annotators, self._points(),
            sum(self._seeded, NONE_SEEDED), estimate_share(_caught(row) for row in self._seeded),
            tuple(self._left_in)[:_MOST_NAMED], len(self._unread), tuple(self._remarks()),
        )  # fmt: skip

    def _region_measures(self) -> tuple[RegionMeasures, ...]:
        images: Counter[tuple[str, str]] = Counter()
        for (version, labels), count in self._offered.items():
            for label in ("", *labels):
                images.update({(label, version): count, (label, ""): count})
        order = sorted(images, key=lambda group: (bool(group[0]), bool(group[1]), group[0], self._place(group[1])))
        return tuple(self._regions.get(group, _Regions()).measures(*group, images[group]) for group in order)

    def _place(self, version: str) -> tuple[str, str]:
        """What versions are sorted by: when annotators first submitted something made from each; "" comes first."""
        return self._since.get(version, ""), version

    def _times_by_arm(self) -> _Times:
        """The times of each arm. Those of control tasks from before predictions were there are of the other tasks
        without one: whoever learns a project's labels on its first images is slower for another reason.
        """
        times = {group: list(found) for group, found in self._times.items()}
        for at, shown, lead_time_s in self._control:
            arm: Arm = "nothing" if self._is_early(at) else "control"
            for kind in ("all", shown):
                times.setdefault((arm, "", kind), []).append(lead_time_s)
        return times

    def _is_early(self, at: str) -> bool:
        return not self._first or at < self._first

    def _points(self) -> tuple[CurvePoint, ...]:
        rows, points, saved_s = sorted(self._curve), [], 0.0
        every = max(1, -(-len(rows) // _MOST_POINTS))
        for number in range(1, len(rows) + 1):
            saved_s += rows[number - 1][3]
            if number % every == 0 or number == len(rows):
                last = rows[max(0, number - _WINDOW) : number]
                predicted = sum(row[2] for row in last)
                share = sum(row[1] for row in last) / predicted if predicted else None
                points.append(CurvePoint(number, share, saved_s / 60))
        return tuple(points)

    def _remarks(self) -> list[str]:
        bases, ours = self._bases, self._bases["ours"]
        if not self._tasks and not self._unread:
            return ["No task of this project is annotated or skipped yet: there is nothing to measure."]
        found: list[str] = []
        for number, row in sorted(self._annotators.items(), key=lambda item: item[0] or 0):
            if row.skipped and not row.annotations:
                found.append(f"Annotator {number} skipped every task that they submitted, {row.skipped} in all.")
        if bases and not ours:
            found.append("No annotation was made from a prediction of Zeromask: nothing is known of its regions.")
        if bases["deleted"]:
            found.append(f"Made from predictions that are deleted since: {_counted(bases['deleted'], 'annotation')}. "
                         "What was taken out of these predictions is not known, so they count in no share and no "
                         "time.")  # fmt: skip
        if bases["theirs"]:
            found.append(f"Made from predictions of another model, counted nowhere: "
                         f"{_counted(bases['theirs'], 'annotation')}.")  # fmt: skip
        if self._left_in:
            named = ", ".join(map(str, [*self._left_in][:_MOST_NAMED]))
            found.append(f"Seeded wrong masks were left in annotations of {_counted(len(self._left_in), 'task')}, "
                         f"{named}: delete them there before you use these annotations. They are not learned "
                         "from.")  # fmt: skip
        if self._first and (early := sum(self._is_early(at) for at, _, _ in self._control)):
            found.append(f"Left out of the control arm: {_counted(early, 'time')} of annotations older than the first "
                         "one made from a prediction.")  # fmt: skip
        if self._left_out:
            told = ", ".join(f"{count} {why}" for why, count in sorted(self._left_out.items()))
            found.append(f"Lead times left out: {told}.")
        everything = self._regions.get(("", ""), _Regions())
        if empty := sum(self._offered.values()) - everything.present - everything.false_alarms:
            found.append(f"Without any label, and rightly left empty: {_counted(empty, 'image')}. That is no saved "
                         "drawing.")  # fmt: skip
        if undrawn := everything.counts["changed"] - len(everything.ious):
            found.append(f"Masks that cannot be compared: those of {_counted(undrawn, 'changed region')}.")
        if 0 < ours < _FEW_IMAGES:
            found.append(f"Few were made from a prediction, {_counted(ours, 'annotation')}: read the intervals, not "
                         f"the figures. Medians of fewer than {FEWEST} times have none.")  # fmt: skip
        if self._unread:
            reason = self._unread[0].reason
            found.append(f"Left out: {_counted(len(self._unread), 'task')}, the first because of {reason}")
        return found


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _differences(times: _Times) -> dict[Shown, Estimate]:
    kinds: tuple[Shown, ...] = ("all", "labels", "none")
    found = {
        kind: estimate_difference(times.get(("control", "", kind), ()), times.get(("prediction", "", kind), ()))
        for kind in kinds
    }
    return {kind: row for kind, row in found.items() if row.value is not None}


def _first_at(record: AnnotationRecord) -> str:
    """When an annotation was first submitted; when it was last changed where that is not known."""
    return record.created_at or record.at


def _arm(record: AnnotationRecord) -> Arm | None:
    """Whose lead time it is; None where the annotation belongs to no comparison."""
    if record.basis == "ours" and not record.control:
        return "prediction"
    if record.basis == "nothing":
        return "control" if record.control else "nothing"
    return None


def _caught(seeded: SeededOutcomes) -> tuple[int, int]:
    """How many seeded regions were deleted or changed, and how many there were."""
    caught = seeded.deleted + seeded.changed
    return caught, caught + seeded.left


def _shares(rows: Iterable[RegionRecord]) -> tuple[int, int]:
    """How many regions were accepted, and how many predicted."""
    outcomes = [row.outcome for row in rows if row.outcome != "added"]
    return outcomes.count("accepted"), len(outcomes)
