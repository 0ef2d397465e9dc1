"""Labels of several controls that are one label for annotators: which of them draws, and what is told of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from plugin_config.controls import Control
from plugin_config.labels import OfferedLabel, listed

_MOST_DRAWING = 3  # controls named in a remark


@dataclass
class LabelGroup:
    """Labels of several controls that are one label, the one that draws before the others."""

    members: list[OfferedLabel]

    @property
    def texts(self) -> tuple[str, ...]:
        """A prompt where one of them has one, else the words of the one that draws."""
        return next((label.texts for label in self.members if label.has_prompt), self.members[0].texts)

    @property
    def drawing(self) -> list[OfferedLabel]:
        """The first; with it another where one draws the whole class by `segments="semantic"`, and one its things. None
        where all are for annotators alone.
        """
        first = self.members[0]
        if first.skip:
            return []
        others = (row for row in self.members if not row.skip)
        other = (row for row in others if row.semantic != first.semantic and row.stuff != first.stuff)
        return [first, *islice(other, 1)]


def same_labels(offered: Sequence[OfferedLabel]) -> list[LabelGroup]:
    """Group labels that are one for annotators: those of one name, unless each has a prompt of its own, and those of
    the same words.

    In each group that of the control which draws is the first, by `Control.rank`, and the first in the config among
    equals; those for annotators alone are the last.

    Args:
        offered: by the controls of one image.
    """
    ranked = sorted(offered, key=lambda label: (label.skip, label.control.rank))
    groups: list[LabelGroup] = []
    of_key: dict[str, LabelGroup] = {}
    of_prompt: dict[tuple[str, tuple[str, ...]], LabelGroup] = {}
    unprompted: dict[str, LabelGroup] = {}
    for label in ranked:
        if label.has_prompt:
            group = of_prompt.get((label.key, label.texts)) or unprompted.pop(label.key, None)
        else:
            group = of_key.get(label.key)
        if group is None:
            group = LabelGroup([])
            groups.append(group)
            of_key.setdefault(label.key, group)
            if not label.has_prompt:
                unprompted[label.key] = group
        if label.has_prompt:
            of_prompt[label.key, label.texts] = group
        group.members.append(label)
    merged: dict[tuple[str, ...], LabelGroup] = {}
    for group in groups:
        alike = _alike(group.texts)
        if alike in merged:
            merged[alike].members += group.members
        else:
            merged[alike] = group
    return list(merged.values())


def undrawn_remarks(controls: Sequence[Control], groups: Sequence[LabelGroup]) -> list[str]:
    """Remarks on the labels that another control, or another label of the same words, draws, or that points do."""
    remarks: list[str] = []
    points: dict[Control, list[str]] = {}
    keys: dict[Control, list[str]] = {control: [] for control in controls}
    drawn_by: dict[Control, list[str]] = {control: [] for control in controls}
    for group in groups:
        first, drawing = group.members[0], group.drawing
        for other in group.members[1:]:
            if other in drawing or not drawing:
                continue
            if other.control is first.control:
                same = f"label {other.key[:60]!r} looks for the same as {first.key[:60]!r}, which alone is predicted"
                remarks.append(f"{first.control.tag.title}: {same}.")
            else:
                keys[other.control].append(other.key)
                drawn_by[other.control].append(first.control.tag.title)
        if drawing and first.control.output == "keypoint":
            points.setdefault(first.control, []).append(first.key)
    for control in controls:
        if control in points:
            told = f"{_labels_named(points[control])} predicted as points, which tell no area"
            remarks.append(f"{control.tag.title}: {told}; an image with points alone is not learned from.")
        if keys[control]:
            by = " and ".join(list(dict.fromkeys(drawn_by[control]))[:_MOST_DRAWING])
            one = f"{_labels_named(keys[control])} predicted by {by}, one region per thing"
            read = "points are not" if control.output == "keypoint" else "regions drawn with this control are"
            remarks.append(f"{control.tag.title}: {one}; {read} learned from.")
    return remarks


def _alike(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()) for text in texts)  # models read no more of white space


def _labels_named(keys: Sequence[str]) -> str:
    return f"label {listed(keys)} is" if len(keys) == 1 else f"labels {listed(keys)} are"
