"""The tables of the report as CSV files: a row per region, per annotation, and per label and version."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from worker.report.measures import Measures
from worker.report.reading import AnnotationRecord

REGIONS, ANNOTATIONS, LABELS = "regions.csv", "annotations.csv", "labels.csv"

_REGION_HEAD = ("task", "annotation", "image", "version", "label", "outcome", "score", "edit_iou")
_ANNOTATION_HEAD = ("task", "annotation", "annotator", "changed_at", "basis", "version", "control", "skipped",
                    "lead_time_s", "labels")  # fmt: skip


class RecordTables:
    """Writes regions.csv and annotations.csv, row by row, so that nothing is kept in memory. Use `with`.

    Args:
        folder: that has them.
    """

    def __init__(self, folder: Path) -> None:
        self._open = ExitStack()
        self._regions = self._started(folder / REGIONS, _REGION_HEAD)
        self._annotations = self._started(folder / ANNOTATIONS, _ANNOTATION_HEAD)

    def __enter__(self) -> RecordTables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, record: AnnotationRecord) -> None:
        """Write the rows of one annotation."""
        present = sorted({key for image in record.images for key in image.present})
        self._annotations.writerow(_cells((
            record.task, record.annotation, record.annotator, record.at, record.basis, record.version,
            int(record.control), int(record.skipped), record.lead_time_s, "|".join(present),
        )))  # fmt: skip
        for image in record.images:
            self._regions.writerows(
                _cells((record.task, record.annotation, image.key, record.version, row.label, row.outcome, row.score,
                        row.edit_iou))
                for row in image.regions
            )  # fmt: skip

    def _started(self, path: Path, head: Sequence[str]) -> Any:
        table = csv.writer(self._open.enter_context(path.open("w", newline="", encoding="utf-8", errors="replace")))
        table.writerow(head)
        return table


def write_labels(folder: Path, measures: Measures) -> None:
    """Write labels.csv: the regions of each label and version; an empty one stands for all of them."""
    rows = [
        {name: value for name, value in asdict(row).items() if not isinstance(value, dict)}
        | {f"{name}_{part}": getattr(found, part)
           for name, found in (("accepted_share", row.accepted_share), ("edit_iou", row.edit_iou))
           for part in ("value", "low", "high", "n")}
        for row in measures.regions
    ]  # fmt: skip
    with (folder / LABELS).open("w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.writer(file)
        table.writerow(rows[0] if rows else ("label", "version"))
        table.writerows(_cells(row.values()) for row in rows)


def _cells(values: Iterable[object]) -> list[object]:
    """Cells that spreadsheets take for no formula: labels and versions are other people's words."""
    return [f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
            for value in values]  # fmt: skip
