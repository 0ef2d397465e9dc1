"""The Image tags of a labeling config: whether they have an address, and whether a control can draw on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import Tag
from plugin_config.task_tags import repeater_flag
from plugin_config.task_variables import VARIABLE

_ONE_IMAGE = 'Write the key of its address behind a $, as in value="$image".'


@dataclass
class Placed:
    """A tag, the Repeaters that it stands in, and the labels or choices in it."""

    tag: Tag
    repeaters: tuple[Tag, ...]
    labels: list[Tag] = field(default_factory=list)


def check_address(image: Tag) -> None:
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


def check_repeaters(control: Placed, image: Placed) -> None:
    """Check that a control and its Image are a pair in each turn of the Repeaters that they stand in.

    Raises:
        LabelingConfigError: they are not.
    """
    if control.repeaters[: len(image.repeaters)] != image.repeaters:
        problem = f"is not in the Repeater that its {image.tag.title} stands in"
        raise LabelingConfigError(control.tag.title, problem, "Put both into it.")
    if image.repeaters and not control.tag.attributes.get("toname", "").strip():
        raise LabelingConfigError(control.tag.title, "has no toName", f"Write toName={image.tag.name[:60]!r} into it.")
    for row in (control, image):
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
