"""Labeling config -> Vocabulary: which labels to look for, in which words, and which control tag draws them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.controls import Control, Controls, find_controls
from plugin_config.errors import LabelingConfigError, TaskDataError
from plugin_config.labeling_config import SUBJECT, Tag, read_config, refusal
from plugin_config.labels import OfferedLabel, offered_labels
from plugin_config.options import CONTROL_OPTIONS, SKIP, read_option
from plugin_config.same_labels import LabelGroup, same_labels, undrawn_remarks
from plugin_config.task_tags import fill_config

__all__ = ["OUTPUT_KINDS", "Choice", "Choices", "Label", "OutputKind", "Vocabulary", "joined", "parse_vocabulary"]

MOST_TEXTS = 20_000
"""Texts of all labels together: each is encoded by the model once per worker."""
_MOST_REMARKS = 12


@dataclass(frozen=True)
class Label:
    """One label of one control.

    Attributes:
        key: what regions of the label carry: its `alias`, or its `value` where it has none.
        texts: what to look for: its `prompt` attribute (comma list), or without one its value, its `synonyms` (comma
            list), and the value with its `hint`, which annotators see as a tooltip.
        control: name of the control tag.
        to_name: name of the Image tag that the control draws on.
        image_value: the Image tag's `value`: an address with variables (`$image`) that the task's data fills in; or its
            `valueList`, a variable that has a list of addresses.
        output: the region type that predictions of the label are drawn as.
        stuff: whether all pixels of the label make one region (semantic), or each thing its own (instance). With
            `segments="panoptic"`, the default, its `kind="stuff"` decides (sky, grass); with "semantic" every label is
            stuff, with "instance" none. `segments` is an attribute of the control, or of a label that differs.
        draws: whether its control draws the predictions. Of several controls with a label one does; regions that
            annotators draw with the others are read as the same label.
        shape: name of the tag that draws the regions of a Labels control (Brush, Polygon and so on), which has no
            labels; "" = the control does.
        image_list: whether `image_value` is a `valueList`.
        least_score: regions of a lower score are left out; None = the setting ZEROMASK_LEAST_SCORE.
        least_pixels: regions of a smaller area are left out, pixels of the image as it is stored.
        least_share: regions of a smaller area are left out, as a share of the image's.
        negatives: words that are rivals of the labels: what looks more like them is background.
        skip: whether nothing is predicted for the label because it is for annotators alone. It is looked for
            nevertheless, as a rival of the others, and learned.
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
    image_list: bool = False
    least_score: float | None = None
    least_pixels: float = 0.0
    least_share: float = 0.0
    negatives: tuple[str, ...] = ()
    skip: bool = False


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
        image_value: the Image tag's `value` or `valueList`; see `Label`.
        multiple: whether several may be chosen.
        choices: what can be chosen, one or more, in the order of the config.
        image_list: whether `image_value` is a `valueList`.
    """

    control: str
    to_name: str
    image_value: str
    multiple: bool
    choices: tuple[Choice, ...]
    image_list: bool = False


@dataclass(frozen=True)
class ImageTag:
    """An Image of a labeling config: its name, and its `value`, or its `valueList` where that is a list."""

    name: str
    value: str
    is_list: bool


@dataclass(frozen=True)
class AskedLabels:
    """A control that has labels from the data of each task (`value="$labels"`).

    Attributes:
        variable: that has them, without its `$`.
        control: name of the control.
        to_name: name of the Image tag that it labels.
        image_value: the Image tag's `value` or `valueList`; see `Label`.
        output: the region type, or "choices".
        options: attributes of the control that change predictions, with their values.
    """

    variable: str
    control: str
    to_name: str
    image_value: str
    output: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Vocabulary:
    """All labels and choices of a labeling config, in the order of its images and in these of the config.

    That of a project may leave something to its tasks: `for_task` fills it in, and `of_image` has what concerns one
    image, which is what a picture is segmented by.

    Attributes:
        labels: the labels of each control. All that are one label of an image for annotators have the same texts.
        remarks: what of the config is not served, a sentence each.
        elsewhere: names of its other objects; a region of any other name may lie on the image.
        choices: the Choices about an image as a whole.
        asked: controls that have labels from the data of each task.
        item_index: place of the image in a `valueList`, where this is the vocabulary of one such image.
        template: the config, where tasks fill something in: labels, or the turns of a Repeater.
    """

    labels: tuple[Label, ...]
    remarks: tuple[str, ...] = field(default=(), compare=False)
    elsewhere: frozenset[str] = field(default=frozenset(), compare=False)
    choices: tuple[Choices, ...] = ()
    asked: tuple[AskedLabels, ...] = ()
    item_index: int | None = None
    template: Tag | None = field(default=None, compare=False, repr=False)

    @property
    def drawn(self) -> tuple[Label, ...]:
        """The labels that predictions are made of."""
        return tuple(label for label in self.labels if label.draws)

    @cached_property
    def hash(self) -> str:
        """8 hex digits that change with everything that changes predictions; the order of labels does not."""
        rows = sorted(json.dumps(_row(label), sort_keys=True) for label in self.labels if label.draws or label.skip)
        rows += sorted(json.dumps(_choices_row(choices), sort_keys=True) for choices in self.choices)
        rows += sorted(json.dumps(asdict(asked), sort_keys=True) for asked in self.asked)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The texts of each class. A label that several controls have is one class."""
        return tuple(dict.fromkeys(label.texts for label in self.labels))

    @cached_property
    def negatives(self) -> tuple[str, ...]:
        """The rival words of all labels that are predicted."""
        return tuple(dict.fromkeys(word for label in self.drawn for word in label.negatives))

    @cached_property
    def images(self) -> tuple[ImageTag, ...]:
        """The images that have labels or choices."""
        rows: tuple[Label | Choices, ...] = (*self.labels, *self.choices)
        return tuple(dict.fromkeys(ImageTag(row.to_name, row.image_value, row.image_list) for row in rows))

    @property
    def is_plain(self) -> bool:
        """Whether every task has one image, with these labels."""
        return self.template is None and len(self.images) == 1 and not self.images[0].is_list

    def for_task(self, task: int, data: Mapping[str, Any]) -> tuple[Vocabulary, tuple[str, ...]]:
        """Fill in what the config leaves to a task.

        Args:
            task: its id.
            data: of the task.

        Returns:
            the vocabulary of the task, and what of its data is left out, a sentence each.

        Raises:
            TaskDataError: the data does not have what the config asks for.
        """
        if self.template is None:
            return self, ()
        filled = fill_config(self.template, task, data)
        try:
            found = _vocabulary(find_controls(filled.root))
        except LabelingConfigError as error:
            problem = f"its data leaves nothing to predict ({error.subject}: {error.problem})"
            raise TaskDataError(f"task {task}", problem, "Correct the task's data, or the labeling config.") from error
        names = {image.name for image in self.images} | {asked.to_name for asked in self.asked}
        return replace(found, elsewhere=found.elsewhere | self.elsewhere | names), filled.remarks

    def of_image(self, image: ImageTag) -> Vocabulary:
        """What concerns one of the images alone."""
        others = {other.name for other in self.images if other != image}
        if not others:
            return self
        return replace(
            self, labels=tuple(label for label in self.labels if label.to_name == image.name),
            choices=tuple(choices for choices in self.choices if choices.to_name == image.name),
            elsewhere=self.elsewhere | others,
        )  # fmt: skip

    def at(self, item_index: int) -> Vocabulary:
        """The same for one image of a `valueList`."""
        return replace(self, item_index=item_index)

    def is_elsewhere(self, to_name: str) -> bool:
        """Whether a name is that of another object of the config; a Repeater counts them up, as `page_{{idx}}`."""
        if any(image.name == to_name for image in self.images):
            return False
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
            and what to do), or an option has a value that it cannot have.
    """
    root = read_config(label_config)
    controls = find_controls(root)
    found = _vocabulary(controls)
    return replace(found, template=root) if found.asked or controls.repeated else found


def joined(parts: Sequence[Vocabulary]) -> Vocabulary:
    """The first vocabulary, with the labels that only others have behind its own."""
    labels = tuple(dict.fromkeys(label for part in parts for label in part.labels))
    return parts[0] if labels == parts[0].labels else replace(parts[0], labels=labels)


def _vocabulary(controls: Controls) -> Vocabulary:
    """Make a vocabulary of the controls that can be served. Raises as `parse_vocabulary`."""
    offered: list[OfferedLabel] = []
    remarks: list[str] = []
    for control in controls.drawn:
        found_in_it, told = offered_labels(control)
        offered += found_in_it
        remarks += told
    choices, told = _choices(controls.choices)
    remarks += told
    asked = tuple(_asked(control) for control in (*controls.drawn, *controls.choices) if control.labels_from)
    if not offered and not choices and not asked:
        subject = [*controls.drawn, *controls.choices][0].tag.title
        raise refusal(subject, f"no label in it can be looked for ({'; '.join(remarks)[:300]})", "Give labels a value.")
    texts = [len(label.texts) + len(label.negatives) for label in offered]
    texts += [len(one.texts) for row in choices for one in row.choices]
    if sum(texts) > MOST_TEXTS:
        problem = f"has more than {MOST_TEXTS:,} labels, synonyms, hints and prompts"
        raise LabelingConfigError(SUBJECT, problem, "Take out some, or split the project.")
    images = dict.fromkeys(control.image.name for control in controls.drawn)
    of_image = [[label for label in offered if label.control.image.name == image] for image in images]
    groups = [group for labels in of_image for group in same_labels(labels)]
    found = {member: label for group in groups for member, label in _labels(group)}
    labels = tuple(found[label] for labels in of_image for label in labels)
    if not choices and not asked and not any(label.draws for label in labels):
        raise refusal(SUBJECT, "leaves every label to annotators (model_skip)", "Take that off the labels to predict.")
    remarks += [*undrawn_remarks(controls.drawn, groups), *map(str, controls.passed_over)]
    return Vocabulary(labels, _bounded(list(dict.fromkeys(remarks))), controls.elsewhere, choices, asked)


def _asked(control: Control) -> AskedLabels:
    """What is known of a control's labels before a task brings them along."""
    output = "choices" if control.tag.kind == "choices" else control.output
    attributes = control.tag.attributes
    options = tuple((name, text) for name in sorted(CONTROL_OPTIONS) if (text := attributes.get(name, "").strip()))
    return AskedLabels(
        control.labels_from, control.tag.name, control.image.name, control.image_value, output, options
    )


def _choices(controls: Sequence[Control]) -> tuple[tuple[Choices, ...], list[str]]:
    """The questions of Choices controls, and remarks on choices that are left out."""
    found: list[Choices] = []
    remarks: list[str] = []
    for control in controls:
        if read_option(SKIP, control.tag):
            continue
        offered, told = offered_labels(control)
        remarks += told
        choices = tuple(Choice(label.key, label.texts) for label in offered if not label.skip)
        if choices:
            multiple = control.tag.attributes.get("choice", "").strip().lower() == "multiple"
            image = control.image.name
            found.append(Choices(control.tag.name, image, control.image_value, multiple, choices, control.image_list))
    return tuple(found), remarks


def _row(label: Label) -> dict[str, object]:
    """A label as versions were made of it when the image's value could only be `$` and a key."""
    row = asdict(label)
    del row["draws"]
    for later in _LATER_FIELDS:  # labels without these had their versions before there were these
        if row[later.name] == later.default:
            del row[later.name]
    value = row.pop("image_value")
    row["image_key"] = value[1:] if value.startswith("$") else f"${value}"
    return row


def _choices_row(choices: Choices) -> dict[str, object]:
    row = asdict(choices)
    if not choices.image_list:
        del row["image_list"]
    return row


_LATER_FIELDS = fields(Label)[8:]


def _labels(group: LabelGroup) -> Iterable[tuple[OfferedLabel, Label]]:
    """The labels of a group, each with the one it was offered as."""
    texts, drawing = group.texts, group.drawing
    first = _label(group.members[0], texts)
    yield group.members[0], first
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
        image_value=control.image_value,
        output=control.output,
        stuff=offered.stuff,
        draws=not offered.skip,
        shape=_shape_name(control),
        image_list=control.image_list,
        least_score=offered.least_score,
        least_pixels=offered.least_area.pixels,
        least_share=offered.least_area.share,
        negatives=offered.negatives,
        skip=offered.skip,
    )


def _shape_name(control: Control) -> str:
    return "" if control.shape is control.tag else control.shape.name


def _bounded(remarks: Sequence[str]) -> tuple[str, ...]:
    left = len(remarks) - _MOST_REMARKS
    return (*remarks[:_MOST_REMARKS], *([f"labeling config: {left} more remarks of this kind"] if left > 0 else []))
