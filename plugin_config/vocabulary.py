"""Labeling config -> Vocabulary: which labels to look for, in which words, and which control tag draws them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.controls import Control, find_controls
from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import SUBJECT, read_config, refusal
from plugin_config.labels import OfferedLabel, listed, offered_labels

__all__ = ["OUTPUT_KINDS", "Choice", "Choices", "Label", "OutputKind", "Vocabulary", "parse_vocabulary"]

MOST_TEXTS = 20_000
"""Texts of all labels together: each is encoded by the model once per worker."""
_MOST_REMARKS = 12
_MOST_DRAWING = 3  # controls named in a remark


@dataclass(frozen=True)
class Label:
    """One label of one control.

    Attributes:
        key: what regions of the label carry: its `alias`, or its `value` where it has none.
        texts: what to look for: its `prompt` attribute (comma list), or without one its value, its `synonyms` (comma
            list), and the value with its `hint`, which annotators see as a tooltip.
        control: name of the control tag.
        to_name: name of the Image tag that the control draws on.
        image_value: the Image tag's `value`: an address with variables (`$image`) that the task's data fills in.
        output: the region type that predictions of the label are drawn as.
        stuff: whether all pixels of the label make one region (semantic), or each thing its own (instance). With
            `segments="panoptic"`, the default, its `kind="stuff"` decides (sky, grass); with "semantic" every label is
            stuff, with "instance" none. `segments` is an attribute of the control, or of a label that differs.
        draws: whether its control draws the predictions. Of several controls with a label one does; regions that
            annotators draw with the others are read as the same label.
        shape: name of the tag that draws the regions of a Labels control (Brush, Polygon and so on), which has no
            labels; "" = the control does.
    """

    key: str
    texts: tuple[str, ...]
    control: str
    to_name: str
    image_value: str
    output: OutputKind
    stuff: bool = False
    draws: bool = True
    shape: str = ""


@dataclass(frozen=True)
class Choice:
    """One choice of a Choices control.

    Attributes:
        key: what the answer carries: its `alias`, or its `value` where it has none.
        texts: what to look for; see `Label`.
    """

    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """A question about the image as a whole.

    Attributes:
        control: name of the Choices tag.
        to_name: name of the Image tag that it is about.
        image_value: the Image tag's `value`; see `Label`.
        multiple: whether several may be chosen.
        choices: what can be chosen, one or more, in the order of the config.
    """

    control: str
    to_name: str
    image_value: str
    multiple: bool
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Vocabulary:
    """All labels and choices of a labeling config for its (first) image, in the order of the config; one or more.

    Attributes:
        labels: the labels of each control. All that are one label for annotators have the same texts.
        remarks: what of the config is not served, a sentence each.
        elsewhere: names of its other objects; a region of any other name may lie on the image.
        choices: the Choices about the image as a whole.
    """

    labels: tuple[Label, ...]
    remarks: tuple[str, ...] = field(default=(), compare=False)
    elsewhere: frozenset[str] = field(default=frozenset(), compare=False)
    choices: tuple[Choices, ...] = ()

    @property
    def drawn(self) -> tuple[Label, ...]:
        """The labels that predictions are made of."""
        return tuple(label for label in self.labels if label.draws)

    @cached_property
    def hash(self) -> str:
        """8 hex digits that change with everything that changes predictions; the order of labels does not."""
        rows = sorted(json.dumps(_row(label), sort_keys=True) for label in self.drawn)
        rows += sorted(json.dumps(asdict(choices), sort_keys=True) for choices in self.choices)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The texts of each class. A label that several controls have is one class."""
        return tuple(dict.fromkeys(label.texts for label in self.labels))

    def is_elsewhere(self, to_name: str) -> bool:
        """Whether a name is that of another object of the config; a Repeater counts them up, as `page_{{idx}}`."""
        return to_name in self.elsewhere or any(
            to_name.startswith(name.partition("{{")[0]) for name in self.elsewhere if "{{" in name
        )

    @property
    def image_value(self) -> str:
        """The `value` of the Image tag: an address with variables that the task's data fills in."""
        return self._any.image_value

    @property
    def to_name(self) -> str:
        """Name of the Image tag."""
        return self._any.to_name

    @property
    def _any(self) -> Label | Choices:
        return self.labels[0] if self.labels else self.choices[0]


def parse_vocabulary(label_config: str) -> Vocabulary:
    """Parse the vocabulary of a labeling config.

    Args:
        label_config: the project's labeling config, XML.

    Raises:
        LabelingConfigError: not XML, beyond a limit, nothing in it can be served (the message names the tag in the way
            and what to do), or `segments` that is none of SEGMENTS.
    """
    controls = find_controls(read_config(label_config))
    offered: list[OfferedLabel] = []
    remarks: list[str] = []
    for control in controls.drawn:
        found_in_it, told = offered_labels(control)
        offered += found_in_it
        remarks += told
    choices, told = _choices(controls.choices)
    remarks += told
    if not offered and not choices:
        subject = [*controls.drawn, *controls.choices][0].tag.title
        raise refusal(subject, f"no label in it can be looked for ({'; '.join(remarks)[:300]})", "Give labels a value.")
    texts = [len(label.texts) for label in offered] + [len(one.texts) for row in choices for one in row.choices]
    if sum(texts) > MOST_TEXTS:
        problem = f"has more than {MOST_TEXTS:,} labels, synonyms, hints and prompts"
        raise LabelingConfigError(SUBJECT, problem, "Take out some, or split the project.")
    groups = _same_labels(offered)
    found = {member: label for group in groups for member, label in _labels(group)}
    labels = [found[label] for label in offered]
    remarks += [*_undrawn(controls.drawn, groups), *map(str, controls.passed_over)]
    return Vocabulary(tuple(labels), _bounded(remarks), controls.elsewhere, choices)


def _choices(controls: Sequence[Control]) -> tuple[tuple[Choices, ...], list[str]]:
    """The questions of Choices controls, and remarks on choices that are left out."""
    found: list[Choices] = []
    remarks: list[str] = []
    for control in controls:
        offered, told = offered_labels(control)
        remarks += told
        if offered:
            multiple = control.tag.attributes.get("choice", "").strip().lower() == "multiple"
            choices = tuple(Choice(label.key, label.texts) for label in offered)
            found.append(Choices(control.tag.name, control.image.name, control.image.value, multiple, choices))
    return tuple(found), remarks


def _row(label: Label) -> dict[str, object]:
    """A label as versions were made of it when the image's value could only be `$` and a key."""
    row = asdict(label)
    del row["draws"]
    if not label.shape:
        del row["shape"]
    value = row.pop("image_value")
    row["image_key"] = value[1:] if value.startswith("$") else f"${value}"
    return row


@dataclass
class _Group:
    """Labels of several controls that are one label, the one that draws before the others."""

    members: list[OfferedLabel]

    @property
    def texts(self) -> tuple[str, ...]:
        """A prompt where one of them has one, else the words of the one that draws."""
        return next((label.texts for label in self.members if label.has_prompt), self.members[0].texts)

    @property
    def drawing(self) -> list[OfferedLabel]:
        """The first; with it another where one draws the whole class by `segments="semantic"`, and one its things."""
        first = self.members[0]
        other = (row for row in self.members if row.semantic != first.semantic and row.stuff != first.stuff)
        return [first, *islice(other, 1)]


def _same_labels(offered: Sequence[OfferedLabel]) -> list[_Group]:
    """Group labels that are one for annotators: those of one name, unless each has a prompt of its own, and those of
    the same words.

    In each group that of the control which draws is the first, by `Control.rank`, and the first in the config among
    equals.
    """
    ranked = sorted(offered, key=lambda label: label.control.rank)
    groups: list[_Group] = []
    of_key: dict[str, _Group] = {}
    of_prompt: dict[tuple[str, tuple[str, ...]], _Group] = {}
    unprompted: dict[str, _Group] = {}
    for label in ranked:
        if label.has_prompt:
            group = of_prompt.get((label.key, label.texts)) or unprompted.pop(label.key, None)
        else:
            group = of_key.get(label.key)
        if group is None:
            group = _Group([])
            groups.append(group)
            of_key.setdefault(label.key, group)
            if not label.has_prompt:
                unprompted[label.key] = group
        if label.has_prompt:
            of_prompt[label.key, label.texts] = group
        group.members.append(label)
    merged: dict[tuple[str, ...], _Group] = {}
    for group in groups:
        alike = _alike(group.texts)
        if alike in merged:
            merged[alike].members += group.members
        else:
            merged[alike] = group
    return list(merged.values())


def _labels(group: _Group) -> Iterable[tuple[OfferedLabel, Label]]:
    """The labels of a group, each with the one it was offered as."""
    texts, drawing = group.texts, group.drawing
    first = _label(drawing[0], texts)
    yield drawing[0], first
    for other in group.members[1:]:
        if other in drawing:
            yield other, _label(other, texts)
        else:
            control = other.control
            yield other, replace(
                first, key=other.key, control=control.tag.name, draws=False, shape=_shape_name(control)
            )


def _label(offered: OfferedLabel, texts: tuple[str, ...]) -> Label:
    control = offered.control
    return Label(
        key=offered.key,
        texts=texts,
        control=control.tag.name,
        to_name=control.image.name,
        image_value=control.image.value,
        output=control.output,
        stuff=offered.stuff,
        shape=_shape_name(control),
    )


def _shape_name(control: Control) -> str:
    return "" if control.shape is control.tag else control.shape.name


def _undrawn(controls: Sequence[Control], groups: Sequence[_Group]) -> list[str]:
    """Remarks on the labels that another control, or another label of the same words, draws, or that points do."""
    remarks: list[str] = []
    points: dict[Control, list[str]] = {}
    keys: dict[Control, list[str]] = {control: [] for control in controls}
    drawn_by: dict[Control, list[str]] = {control: [] for control in controls}
    for group in groups:
        first, drawing = group.members[0], group.drawing
        for other in group.members[1:]:
            if other in drawing:
                continue
            if other.control is first.control:
                same = f"label {other.key[:60]!r} looks for the same as {first.key[:60]!r}, which alone is predicted"
                remarks.append(f"{first.control.tag.title}: {same}.")
            else:
                keys[other.control].append(other.key)
                drawn_by[other.control].append(first.control.tag.title)
        if first.control.output == "keypoint":
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


def _bounded(remarks: Sequence[str]) -> tuple[str, ...]:
    left = len(remarks) - _MOST_REMARKS
    return (*remarks[:_MOST_REMARKS], *([f"labeling config: {left} more remarks of this kind"] if left > 0 else []))
