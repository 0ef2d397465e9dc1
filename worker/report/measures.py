"""What the report tells of a project: per label and version, per arm, per annotator, over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from worker.label_studio.seeded import SeededOutcomes
from worker.report.statistics import Estimate

LONGEST_LEAD_TIME_S = 1800.0
"""Lead times above it are left out by default: the page was left open."""

Arm = Literal["prediction", "control", "nothing"]
"""Whom a lead time is of: made from a prediction of ours, of the control arm, or of other tasks without one. One of a
control task from before the first annotation made from a prediction is of the last.
"""

Shown = Literal["all", "labels", "none"]
"""Of which images: all, those whose annotation shows a label, those where it shows none."""


@dataclass(frozen=True)
class RegionMeasures:
    """What became of the regions of one label and version.

    Attributes:
        label: its key; "" = of all labels.
        version: as `AnnotationRecord.version`; "" = of all versions.
        accepted, changed, deleted, added: numbers of regions.
        accepted_share: of the predicted regions, those accepted as they were.
        edit_iou: median IoU of changed regions before and after.
        undrawn: changed regions whose masks cannot be compared.
        images: that were shown with a prediction.
        present: of them, those whose annotation shows the label; any label, where it is "".
        left_empty: those without the label, where none was predicted either. They are no saved drawing.
        false_alarms: those without the label, where one was predicted.
        saved_minutes: by the time model.
    """

    label: str
    version: str
    accepted: int
    changed: int
    deleted: int
    added: int
    accepted_share: Estimate
    edit_iou: Estimate
    undrawn: int
    images: int
    present: int
    left_empty: int
    false_alarms: int
    saved_minutes: float


@dataclass(frozen=True)
class LeadTimeMeasures:
    """Median lead time, seconds, of an arm and of some of its images."""

    arm: Arm
    version: str
    shown: Shown
    median_s: Estimate


@dataclass(frozen=True)
class AnnotatorMeasures:
    """One annotator: annotations, skipped tasks, the share of predicted regions accepted, the median lead time."""

    annotator: int | None
    annotations: int
    skipped: int
    accepted_share: Estimate
    median_s: Estimate


@dataclass(frozen=True)
class CurvePoint:
    """State after some annotations, in the order of their last change.

    Attributes:
        annotations: made from a prediction so far.
        accepted_share: of the predicted regions of the last 20 of them; None where they had none.
        saved_minutes: by the time model, so far.
    """

    annotations: int
    accepted_share: float | None
    saved_minutes: float


@dataclass(frozen=True)
class Measures:
    """Everything that the report tells.

    Attributes:
        tasks, annotations, skips: how many were read.
        from_prediction: annotations made from a prediction of ours.
        regions: all labels and versions together, then each version, each label, each label and version; versions in
            the order in which annotators first submitted something made from them.
        lead_times: per arm, version and kind of images.
        left_out_times: why a lead time is left out -> how many are.
        difference_s: median lead time of the control arm less that with a prediction, seconds, by kind of images.
        saved_s: seconds saved per annotation by the time model.
        saved_minutes: their sum.
        annotators: each of them.
        curve: over time.
        seeded: what annotators did with the seeded wrong regions that they were shown; `caught` is the share that they
            deleted or changed.
        left_in: ids of the tasks in which one was left, the first hundred, also where its prediction is gone.
        unread: tasks left out.
        remarks: what a reader must know, a sentence each.
    """

    tasks: int
    annotations: int
    skips: int
    from_prediction: int
    regions: tuple[RegionMeasures, ...]
    lead_times: tuple[LeadTimeMeasures, ...]
    left_out_times: Mapping[str, int]
    difference_s: Mapping[Shown, Estimate]
    saved_s: Estimate
    saved_minutes: float
    annotators: tuple[AnnotatorMeasures, ...]
    curve: tuple[CurvePoint, ...]
    seeded: SeededOutcomes
    caught: Estimate
    left_in: tuple[int, ...]
    unread: int
    remarks: tuple[str, ...]
