"""Figures of the rows of a paper have: IoU under one argmax, or panoptic quality, each of seen and unseen labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

PARTS = ("seen", "unseen", "hm")
"""Seen labels, unseen labels, and the harmonic mean of both, which each figure has of its own."""

PANOPTIC_FIGURES = ("pq", "sq", "rq", "ap50", "miou")
"""Class means in [0, 1]; AP50 is that of things alone."""

_MISSING = "-"


@dataclass(frozen=True)
class FigureKind:
    """The figures of a row and how they are printed.

    Attributes:
        names: of the figures of a row; "seen.pq" is the figure "pq" of the mapping "seen".
        columns: titles of a line's figures.
        lines: titles of the lines of a row, each with as many figures as there are columns, in the order of `names`.
        judged: name of the figure whose standard error is given.
        judged_title: its title.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[str, ...]
    judged: str
    judged_title: str

    def means(self, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Means over the seeds in the form of one seed's figures, and the standard error of the judged one; None where
        nothing, or one seed alone, is measured, or all seeds give the same. A seed's figure is None where no
        test image shows such a label.
        """
        found: dict[str, Any] = {}
        for name in self.names:
            part, _, inner = name.rpartition(".")
            known = [value for one in seeds if (value := _figure(one, name)) is not None]
            value = round(mean(known), 4) if known else None
            if part:
                found.setdefault(part, {})[inner] = value
            else:
                found[name] = value
        judged = [value for one in seeds if (value := _figure(one, self.judged)) is not None]
        varies = any(one != seeds[0] for one in seeds)  # training-free rows draw nothing
        found["stderr"] = round(stdev(judged) / math.sqrt(len(judged)), 4) if varies and len(judged) > 1 else None
        return found

    def printed(self, summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """The lines of a row, each its title and its figures."""
        values = [_figure(summary, name) for name in self.names]
        texts = [_MISSING if value is None else f"{value:.3f}" for value in values]
        width = len(self.columns)
        return [(title, texts[k * width : (k + 1) * width]) for k, title in enumerate(self.lines)]


_ZERO_SHOT = FigureKind(
    names=("seen", "unseen", "hiou", "bf2"), columns=("seen", "unseen", "hIoU", "BF@2"), lines=("",), judged="hiou",
    judged_title="hIoU",
)  # fmt: skip
_PANOPTIC = FigureKind(
    names=tuple(f"{part}.{name}" for part in PARTS for name in PANOPTIC_FIGURES),
    columns=("PQ", "SQ", "RQ", "AP50", "mIoU"), lines=("seen", "unseen", "HM"), judged="hm.pq", judged_title="HM-PQ",
)  # fmt: skip


def kind_of(paper: str) -> FigureKind:
    """The figures of a paper's rows."""
    return _PANOPTIC if paper == "pading" else _ZERO_SHOT


def _figure(values: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values
