"""The tags of a labeling config -> the controls that draw on its image, and why others do not.

Every control over an image that gets no predictions is told with the reason: as the refusal where nothing else is left,
else among the remarks on the project.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from plugin_config.control_tags import LABELLING_TAGS, OUTPUT_KINDS, OUTPUTS, RANKS, SHAPE_TAGS, OutputKind, listed_tags
from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import EXAMPLE, SUBJECT, Tag
from plugin_config.options import OUTPUT, read_option
from plugin_config.task_tags import labels_variable, repeater_flag
from plugin_config.task_variables import VARIABLE

_WITH_LABELS = frozenset(tag.lower() for tag in OUTPUT_KINDS)
_SHAPES = frozenset(tag.lower() for tag in SHAPE_TAGS)
_CONTROLS = LABELLING_TAGS
_TEXTS = frozenset({"text", "hypertext"})
_OBJECTS = _TEXTS | {"audio", "audioplus", "chat", "custominterface", "image", "list", "pairwise", "paragraphs", "pdf",
                     "ranker", "table", "timeseries", "video"}  # fmt: skip
_ONE_IMAGE = 'Write the key of its address behind a $, as in value="$image".'


@dataclass(frozen=True, eq=False)
class Control:
    """A control with labels over an image, or with choices for it.

    Attributes:
        tag: the control.
        image: the Image that it labels; a control with several in its toName is as many of these.
        labels: the Label or Choice tags in it, one or more; none only where tasks bring them along.
        shape: the tag that draws its regions: itself, or beside a Labels control a Brush, a Polygon and so on. Choices
            have no regions.
    """

    tag: Tag
    image: Tag
    labels: tuple[Tag, ...]
    shape: Tag

    @property
    def image_list(self) -> bool:
        """Whether the Image has a list of addresses (`valueList`) and not one."""
        return bool(self.image.attributes.get("valuelist", "").strip())

    @property
    def image_value(self) -> str:
        """The Image's `valueList`, or else its `value`."""
        return self.image.attributes["valuelist"].strip() if self.image_list else self.image.value

    @property
    def labels_from(self) -> str:
        """The variable in the tasks' data that has further labels, without its `$`; "" = there is none."""
        return labels_variable(self.tag)

    @property
    def output(self) -> OutputKind:
        """The region type of a control that draws."""
        return OUTPUTS[self.shape.kind]

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Of several controls with the same label, the one of the lowest rank draws: one that tells an area, and no
        prompt where there is another.
        """
        return self.output == "keypoint", is_prompt(self.shape) or is_prompt(self.tag), RANKS[self.output]


@dataclass(frozen=True)
class Controls:
    """What a labeling config has for its images.

    Attributes:
        drawn: controls whose regions can be predicted.
        choices: Choices that are answered for an image as a whole. One of both has one or more.
        passed_over: why other controls and images are not served.
        elsewhere: names of the other objects, which regions may be about.
        repeated: whether a Repeater holds one of these controls.
    """

    drawn: tuple[Control, ...]
    choices: tuple[Control, ...]
    passed_over: tuple[LabelingConfigError, ...]
    elsewhere: frozenset[str]
    repeated: bool


def is_prompt(tag: Tag) -> bool:
    """Whether regions of a tag are meant as prompts for a model: `smart="true"` or `smartOnly="true"`."""
    return any(_is_true(tag, name) for name in ("smart", "smartonly"))


def find_controls(root: Tag) -> Controls:
    """Find the controls that can be served, and their images.

    Raises:
        LabelingConfigError: there is none; the message names the tag that stands in the way.
    """
    found = _Found([], [], [], [])
    found.add(root)
    served: list[Control] = []
    in_the_way: list[LabelingConfigError] = []  # of controls whose regions could be predicted
    beside: list[LabelingConfigError] = []
    repeated = False
    for placed in found.controls:
        reasons = in_the_way if placed.tag.kind in _WITH_LABELS and not is_prompt(placed.tag) else beside
        try:
            images = _images_of(placed, found)
        except LabelingConfigError as reason:
            reasons.append(reason)
            continue
        for image in images:
            try:
                _check_image(placed, image, found)
                served.append(_control(placed, image.tag, found))
                repeated = repeated or bool(placed.repeaters)
                if _has_labels_of_tasks(placed.tag) and not labels_variable(placed.tag):
                    reasons.append(_labels_of_tasks(placed.tag))
            except LabelingConfigError as reason:
                reasons.append(reason)
    if not served:
        refusal = next(iter([*in_the_way, *beside]), _nothing_found(found))
        raise LabelingConfigError(refusal.subject, refusal.problem, f"{refusal.remedy} {EXAMPLE}".strip())
    names = {control.image.name for control in served}
    others = [_other_image(placed.tag) for placed in found.objects
              if placed.tag.kind == "image" and placed.tag.name not in names]  # fmt: skip
    return Controls(
        drawn=tuple(control for control in served if control.tag.kind != "choices"),
        choices=tuple(control for control in served if control.tag.kind == "choices"),
        passed_over=tuple({str(reason): reason for reason in [*in_the_way, *beside, *others]}.values()),
        elsewhere=frozenset(found.objects_by_name) - names,
        repeated=repeated,
    )


@dataclass
class _Placed:
    """A tag, the Repeaters that it stands in, and the labels or choices in it."""

    tag: Tag
    repeaters: tuple[Tag, ...]
    labels: list[Tag] = field(default_factory=list)


@dataclass(frozen=True)
class _Found:
    """The tags that matter, in the order of the config."""

    objects: list[_Placed]
    controls: list[_Placed]
    shapes: list[_Placed]
    others: list[Tag]

    def add(self, tag: Tag, *, repeaters: tuple[Tag, ...] = (), control: _Placed | None = None) -> None:
        """Add a tag and all that is in it. `control`: the one whose labels these are."""
        if tag.kind in ("label", "choice"):
            if control is not None and (control.tag.kind == "choices") == (tag.kind == "choice"):
                control.labels.append(tag)
                # The editor shows choices inside a choice as parts of it, which cannot be chosen.
                control = None if tag.kind == "choice" else control
        elif tag.kind in _CONTROLS:
            control = _Placed(tag, repeaters)
            self.controls.append(control)
        elif tag.kind in _SHAPES:
            self.shapes.append(_Placed(tag, repeaters))
        elif tag.kind in _OBJECTS:
            self.objects.append(_Placed(tag, repeaters))
        elif "toname" in tag.attributes:
            self.others.append(tag)
        for child in tag.children:
            inside = (*repeaters, tag) if tag.kind == "repeater" else repeaters
            self.add(child, repeaters=inside, control=control)

    @cached_property
    def names(self) -> Counter[str]:
        """How often each name is given."""
        tags = [*(row.tag for row in [*self.objects, *self.controls, *self.shapes]), *self.others]
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


def _images_of(placed: _Placed, found: _Found) -> list[_Placed]:
    """The Images that a control draws on; none where it is about something else and would draw nothing here.

    Raises:
        LabelingConfigError: it would draw, and is connected to none.
    """
    control = placed.tag
    targets = [part.strip() for part in control.attributes.get("toname", "").split(",") if part.strip()]
    targets = list(dict.fromkeys(targets)) or found.lone_object
    objects = [found.objects_by_name[name] for name in targets if name in found.objects_by_name]
    images = [row for row in objects if row.tag.kind == "image"]
    if not images and control.kind in _WITH_LABELS:
        shown = ", ".join(row.tag.title for row in objects) or f"toName={control.attributes.get('toname', '')[:60]!r}"
        raise LabelingConfigError(
            control.title, f"is not connected to an Image ({shown[:200]})", "Give its toName the name of an Image."
        )
    return images


def _check_image(placed: _Placed, image: _Placed, found: _Found) -> None:
    """Check that a control can draw on an Image.

    Raises:
        LabelingConfigError: it cannot.
    """
    _check_address(image.tag)
    for tag in (placed.tag, image.tag):
        if not tag.name:
            raise LabelingConfigError(tag.title, "is what no region can refer to", "Give it a name.")
        if found.names[tag.name] > 1:
            raise LabelingConfigError(tag.title, "shares its name with another tag", "Give each a name of its own.")
    _check_repeaters(placed, image)


def _check_address(image: Tag) -> None:
    """Check that an Image has an address in every task.

    Raises:
        LabelingConfigError: it cannot have one.
    """
    listed, value = image.attributes.get("valuelist", "").strip(), image.value.strip()
    if listed:
        if not VARIABLE.fullmatch(listed):
            problem = f"valueList={listed[:60]!r} is no variable, which alone can be a list of images"
            raise LabelingConfigError(image.title, problem, 'Write the key behind a $, as in valueList="$images".')
        return
    if not value:
        raise LabelingConfigError(image.title, "has no value", _ONE_IMAGE)
    if _is_no_address(value):
        problem = f"value={value[:60]!r} names no key of the task's data, and is no address"
        raise LabelingConfigError(image.title, problem, 'Write the key behind a $, as in value="$image".')


def _check_repeaters(placed: _Placed, image: _Placed) -> None:
    """Check that a control and its Image are a pair in each turn of the Repeaters that they stand in.

    Raises:
        LabelingConfigError: they are not.
    """
    if placed.repeaters[: len(image.repeaters)] != image.repeaters:
        problem = f"is not in the Repeater that its {image.tag.title} stands in"
        raise LabelingConfigError(placed.tag.title, problem, "Put both into it.")
    if image.repeaters and not placed.tag.attributes.get("toname", "").strip():
        raise LabelingConfigError(placed.tag.title, "has no toName", f"Write toName={image.tag.name[:60]!r} into it.")
    for row in (placed, image):
        for repeater in row.repeaters:
            flag, on = repeater_flag(repeater), repeater.attributes.get("on", "")
            if flag not in row.tag.name:
                problem = "has the same name in each turn of its Repeater"
                raise LabelingConfigError(row.tag.title, problem, f"Write {flag[:60]} into its name and into toName.")
            if not VARIABLE.search(on):
                problem = f"on={on[:60]!r} names no list of the task's data ({row.tag.title} stands in it)"
                raise LabelingConfigError("Repeater", problem, 'Write the key behind a $, as in on="$images".')


def _is_no_address(value: str) -> bool:
    """Whether the value of an Image is the same for every task, and can be no address: a key without its `$`."""
    names_a_key = bool(VARIABLE.search(value)) or (value.startswith("$") and value != "$")
    return not names_a_key and not {"/", ":"} & set(value)


def _has_labels_of_tasks(control: Tag) -> bool:
    return bool(VARIABLE.search(control.value))


def _labels_of_tasks(control: Tag) -> LabelingConfigError:
    problem = f"value={control.value[:60]!r} is no variable, which alone can be a list of labels of the task's data"
    return LabelingConfigError(control.title, problem, 'Write the key behind a $, as in value="$labels".')


def _control(placed: _Placed, image: Tag, found: _Found) -> Control:
    """Make a control of its tag.

    Raises:
        LabelingConfigError: it has no labels, or nothing of it can be predicted.
    """
    tag = placed.tag
    shape = _shape_for(tag, image, found) if tag.kind == "labels" else tag
    wanted = read_option(OUTPUT, tag)
    if wanted and wanted != OUTPUTS.get(shape.kind):
        problem = f"has output={wanted!r}, and draws {OUTPUTS.get(shape.kind, 'nothing')} alone"
        raise LabelingConfigError(tag.title, problem, "Take the attribute out, or take another control.")
    refusal = _why_unanswered(tag) if tag.kind == "choices" else _why_undrawn(shape)
    if refusal is not None:
        raise refusal
    if not placed.labels and not labels_variable(tag):
        if _has_labels_of_tasks(tag):
            raise _labels_of_tasks(tag)
        problem = "has no choices" if tag.kind == "choices" else "has no labels"
        raise LabelingConfigError(tag.title, problem, "Write them into it.")
    return Control(tag, image, tuple(placed.labels), shape)


def _shape_for(labels: Tag, image: Tag, found: _Found) -> Tag:
    """The tag that draws the regions of a Labels control: of those over its image, that of the lowest rank.

    Raises:
        LabelingConfigError: there is none, or none of them can be predicted.
    """
    refusals: list[LabelingConfigError] = []
    shapes: list[Tag] = []
    for placed in found.shapes:
        try:
            if any(row.tag is image for row in _images_of(placed, found)):
                refusal = _why_undrawn(placed.tag)
                refusals += [refusal] if refusal else []
                shapes += [] if refusal else [placed.tag]
        except LabelingConfigError as refusal:
            refusals.append(refusal)
    wanted = read_option(OUTPUT, labels)
    if wanted and shapes and all(OUTPUTS[tag.kind] != wanted for tag in shapes):
        known = ", ".join(dict.fromkeys(OUTPUTS[tag.kind] for tag in shapes))
        problem = f"has output={wanted!r}, which no tag beside it draws"
        raise LabelingConfigError(labels.title, problem, f"Write {known}.")
    shapes = [tag for tag in shapes if wanted in (None, OUTPUTS[tag.kind])]
    if shapes:
        return min(shapes, key=lambda tag: (OUTPUTS[tag.kind] == "keypoint", is_prompt(tag), RANKS[OUTPUTS[tag.kind]]))
    if refusals:
        raise refusals[0]
    remedy = f"Put one of {', '.join(SHAPE_TAGS)} beside it, or its labels into {listed_tags()}."
    raise LabelingConfigError(labels.title, f"has no tag that draws its regions on {image.title}", remedy)


def _why_undrawn(shape: Tag) -> LabelingConfigError | None:
    """Why no regions of a tag are predicted; None = they are."""
    output = OUTPUTS[shape.kind]
    if output == "keypoint" and is_prompt(shape):
        problem = "its points are prompts, neither predicted nor learned from"
        return LabelingConfigError(shape.title, problem, f"Labels to be predicted need {listed_tags()}.")
    if output == "vector" and (not _is_true(shape, "closable") or _is_true(shape, "skeleton")):
        problem = "draws lines, which are neither predicted nor learned from"
        return LabelingConfigError(shape.title, problem, 'Outlines are, with closable="true" and without skeleton.')
    return None


def _why_unanswered(choices: Tag) -> LabelingConfigError | None:
    """Why Choices are not answered for the image as a whole; None = they are."""
    when = choices.attributes.get("visiblewhen", "").strip().lower()
    if _is_true(choices, "perregion"):
        problem = "asks about single regions (perRegion)"
    elif _is_true(choices, "peritem"):
        problem = "asks about single items (perItem)"
    elif when and when != "no-region-selected":
        problem = "is shown only sometimes (visibleWhen)"
    elif _is_true(choices, "allownested"):
        problem = "has choices inside choices (allowNested)"
    else:
        return None
    remedy = "Choices about the whole image, always shown, are answered."
    return LabelingConfigError(choices.title, f"{problem} and is not answered", remedy)


def _is_true(tag: Tag, attribute: str) -> bool:
    return tag.attributes.get(attribute, "").strip().lower() == "true"


def _other_image(image: Tag) -> LabelingConfigError:
    problem = "is not segmented, because no control that is predicted is connected to it"
    return LabelingConfigError(image.title, problem, "Put its name into the toName of one.")


def _nothing_found(found: _Found) -> LabelingConfigError:
    controls = [tag.title for tag in [*(row.tag for row in [*found.controls, *found.shapes]), *found.others]]
    shown = ", ".join(controls) or "no control at all"
    return LabelingConfigError(
        SUBJECT, f"no {', '.join(OUTPUT_KINDS)}, Labels or Choices over an Image; found: {shown[:300]}", ""
    )
