"""The tags of a labeling config -> the controls that draw on its image, and why others do not.

Every control over an image that gets no predictions is told with the reason: as the refusal where nothing else is left,
else among the remarks on the project.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import EXAMPLE, SUBJECT, Tag
from plugin_config.task_variables import VARIABLE

OutputKind = Literal["brush", "polygon", "rectangle"]
OUTPUT_KINDS: dict[str, OutputKind] = {
    "BrushLabels": "brush",
    "PolygonLabels": "polygon",
    "RectangleLabels": "rectangle",
}
"""The controls whose regions are predicted, by their tags; of several with the same label, the first of these does."""

_OUTPUTS = {tag.lower(): output for tag, output in OUTPUT_KINDS.items()}
_READ_ALONE = frozenset({"ellipselabels"})  # annotators' regions are read, none are predicted
_OTHER_LABELS = frozenset({"labels", "keypointlabels", "bitmasklabels", "vectorlabels"})
_TEXTS = frozenset({"text", "hypertext"})
_OBJECTS = _TEXTS | {"audio", "audioplus", "chat", "custominterface", "image", "list", "pairwise", "paragraphs", "pdf",
                     "ranker", "table", "timeseries", "video"}  # fmt: skip
_ONE_IMAGE = 'Give each task one image, in value="$image".'


@dataclass(frozen=True, eq=False)
class Control:
    """A control with labels over an image.

    Attributes:
        tag: the control.
        image: the Image that it draws on.
        labels: the Label tags in it, one or more.
    """

    tag: Tag
    image: Tag
    labels: tuple[Tag, ...]

    @property
    def draws(self) -> bool:
        """Whether its regions can be predicted."""
        return self.tag.kind in _OUTPUTS

    @property
    def output(self) -> OutputKind:
        """The region type of a control that draws."""
        return _OUTPUTS[self.tag.kind]

    @property
    def is_prompt(self) -> bool:
        """Whether its regions are meant as prompts for a model: `smart="true"` or `smartOnly="true"`."""
        return any(self.tag.attributes.get(name, "").strip().lower() == "true" for name in ("smart", "smartonly"))


@dataclass(frozen=True)
class Controls:
    """What a labeling config has for its image.

    Attributes:
        drawn: controls whose regions can be predicted, over one image; one or more.
        read: controls over this image whose regions are only read.
        passed_over: why other controls and images are not served.
        elsewhere: names of the other objects, which regions may be about.
    """

    drawn: tuple[Control, ...]
    read: tuple[Control, ...]
    passed_over: tuple[LabelingConfigError, ...]
    elsewhere: frozenset[str]


def find_controls(root: Tag) -> Controls:
    """Find the controls that can be served, over the image of the first of them that draws.

    Raises:
        LabelingConfigError: there is none; the message names the tag that stands in the way.
    """
    found = _Found([], [], [])
    found.add(root)
    served: list[Control] = []
    in_the_way: list[LabelingConfigError] = []  # of controls whose regions could be predicted
    beside: list[LabelingConfigError] = []
    for placed in found.controls:
        reasons = in_the_way if placed.tag.kind in _OUTPUTS else beside
        try:
            image = _image_of(placed, found)
            if image is None:
                continue
            served.append(_control(placed, image))
            if _has_labels_of_tasks(placed.tag):
                reasons.append(_labels_of_tasks(placed.tag))
        except LabelingConfigError as reason:
            reasons.append(reason)
    first = next((control.image for control in served if control.draws), None)
    if first is None:
        refusal = next(iter([*in_the_way, *beside]), _nothing_found(found))
        raise LabelingConfigError(refusal.subject, refusal.problem, f"{refusal.remedy} {EXAMPLE}".strip())
    chosen = [control for control in served if control.image is first]
    others = [_other_image(placed.tag, first) for placed in found.objects
              if placed.tag.kind == "image" and placed.tag is not first]  # fmt: skip
    return Controls(
        drawn=tuple(control for control in chosen if control.draws),
        read=tuple(control for control in chosen if not control.draws),
        passed_over=tuple({str(reason): reason for reason in [*in_the_way, *beside, *others]}.values()),
        elsewhere=frozenset(found.objects_by_name) - {first.name},
    )


@dataclass
class _Placed:
    """A tag, whether it stands in a Repeater, and the labels in it."""

    tag: Tag
    repeated: bool
    labels: list[Tag] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """The tags that matter, in the order of the config."""

    objects: list[_Placed]
    controls: list[_Placed]
    others: list[Tag]

    def add(self, tag: Tag, *, repeated: bool = False, control: _Placed | None = None) -> None:
        """Add a tag and all that is in it. `control`: the one whose labels these are."""
        if tag.kind == "label":
            if control is not None:
                control.labels.append(tag)
        elif tag.kind in _OUTPUTS or tag.kind in _READ_ALONE or tag.kind in _OTHER_LABELS:
            control = _Placed(tag, repeated)
            self.controls.append(control)
        elif tag.kind in _OBJECTS:
            self.objects.append(_Placed(tag, repeated))
        elif "toname" in tag.attributes:
            self.others.append(tag)
        for child in tag.children:
            self.add(child, repeated=repeated or tag.kind == "repeater", control=control)

    @cached_property
    def names(self) -> Counter[str]:
        """How often each name is given."""
        tags = [*(row.tag for row in [*self.objects, *self.controls]), *self.others]
        return Counter(tag.name for tag in tags if tag.name)

    @cached_property
    def objects_by_name(self) -> dict[str, _Placed]:
        """The objects that controls can be connected to."""
        return {placed.tag.name: placed for placed in self.objects if placed.tag.name}

    @cached_property
    def lone_object(self) -> list[str]:
        """The name of the object that the editor connects a control without toName to: the only one that is no text."""
        names = [placed.tag.name for placed in self.objects if placed.tag.kind not in _TEXTS]
        return names if len(names) == 1 else []


def _image_of(placed: _Placed, found: _Found) -> Tag | None:
    """The Image that a control draws on; None where it is about something else and would draw nothing here.

    Raises:
        LabelingConfigError: it cannot be drawn on.
    """
    control = placed.tag
    targets = [part.strip() for part in control.attributes.get("toname", "").split(",") if part.strip()]
    targets = targets or found.lone_object
    objects = [found.objects_by_name[name] for name in targets if name in found.objects_by_name]
    image = next((row for row in objects if row.tag.kind == "image"), None)
    if image is None:
        if control.kind not in _OUTPUTS:
            return None
        shown = ", ".join(row.tag.title for row in objects) or f"toName={control.attributes.get('toname', '')[:60]!r}"
        raise LabelingConfigError(
            control.title, f"is not connected to an Image ({shown[:200]})", "Give its toName the name of an Image."
        )
    if placed.repeated or image.repeated:
        raise LabelingConfigError(
            "Repeater", f"is not supported yet ({control.title} or its Image stands in it)", _ONE_IMAGE
        )
    if image.tag.attributes.get("valuelist", "").strip():
        raise LabelingConfigError(image.tag.title, "valueList is not supported yet", _ONE_IMAGE)
    if not image.tag.value.strip():
        raise LabelingConfigError(image.tag.title, "has no value", _ONE_IMAGE)
    if _is_no_address(image.tag.value.strip()):
        problem = f"value={image.tag.value.strip()[:60]!r} names no key of the task's data, and is no address"
        raise LabelingConfigError(image.tag.title, problem, 'Write the key behind a $, as in value="$image".')
    for tag in (control, image.tag):
        if not tag.name:
            raise LabelingConfigError(tag.title, "is what no region can refer to", "Give it a name.")
        if found.names[tag.name] > 1:
            raise LabelingConfigError(tag.title, "shares its name with another tag", "Give each a name of its own.")
    return image.tag


def _is_no_address(value: str) -> bool:
    """Whether the value of an Image is the same for every task, and can be no address: a key without its `$`."""
    names_a_key = bool(VARIABLE.search(value)) or (value.startswith("$") and value != "$")
    return not names_a_key and not {"/", ":"} & set(value)


def _has_labels_of_tasks(control: Tag) -> bool:
    return bool(VARIABLE.search(control.value))


def _labels_of_tasks(control: Tag) -> LabelingConfigError:
    problem = "labels that come from the task's data are not supported yet"
    return LabelingConfigError(control.title, problem, "Write them into the labeling config.")


def _control(placed: _Placed, image: Tag) -> Control:
    """Make a control of its tag.

    Raises:
        LabelingConfigError: it has no labels, or draws what is not supported.
    """
    tag = placed.tag
    if tag.kind == "labels":
        remedy = f"Put the labels into {listed_tags()}, and leave out the tags of the shapes."
        raise LabelingConfigError(
            tag.title, "labels apart from the shapes (Brush, Polygon, Rectangle) are not supported yet", remedy
        )
    if tag.kind in _OTHER_LABELS:
        remedy = f"Labels to be predicted need {listed_tags()}."
        raise LabelingConfigError(tag.title, "its regions are neither predicted nor learned from", remedy)
    if not placed.labels:
        if _has_labels_of_tasks(tag):
            raise _labels_of_tasks(tag)
        raise LabelingConfigError(tag.title, "has no labels", "Write them into it.")
    return Control(tag, image, tuple(placed.labels))


def _other_image(image: Tag, first: Tag) -> LabelingConfigError:
    remedy = "Give each task one image, or make a project for each."
    return LabelingConfigError(image.title, f"is not segmented, because only one image is, {first.title}", remedy)


def _nothing_found(found: _Found) -> LabelingConfigError:
    controls = [tag.title for tag in [*(row.tag for row in found.controls), *found.others]]
    shown = ", ".join(controls) or "no control at all"
    return LabelingConfigError(
        SUBJECT, f"no {', '.join(OUTPUT_KINDS)} with labels over an Image; found: {shown[:300]}", ""
    )


def listed_tags() -> str:
    """The tags of OUTPUT_KINDS, for a sentence."""
    *most, last = OUTPUT_KINDS
    return f"{', '.join(most)} or {last}"
