"""What a labeling config leaves to each task: Repeaters and labels from the task's data, filled in as the editor does.

Label Studio's editor repeats the tags in a Repeater for each item of a list (`tagIntoObject` in its sources), and adds
the labels of `value="$labels"` behind those that are written in the control (`DynamicChildrenMixin`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plugin_config.control_tags import LABELLING_TAGS
from plugin_config.errors import TaskDataError
from plugin_config.json_records import json_name
from plugin_config.labeling_config import MOST_TAGS, Tag
from plugin_config.task_variables import ABSENT, VARIABLE, value_at

MOST_IMAGES = 50
"""Images of one task, and turns of one Repeater, that are read; further ones are left out."""

MOST_LABELS = 5_000
"""Labels that the data of one task may give one control."""

_FLAG = "{{idx}}"
_MOST_KEYS = 5  # in a sentence
_REMEDY = "Correct the task's data, or the labeling config."


def repeater_flag(repeater: Tag) -> str:
    """What stands for the number of a turn in the attributes of the tags in a Repeater."""
    return repeater.attributes.get("indexflag", _FLAG)


def labels_variable(control: Tag) -> str:
    """The variable that a control has its labels from, `labels` for `value="$labels"`; "" where it has none."""
    found = VARIABLE.fullmatch(control.value.strip())
    return found[1] if found else ""


@dataclass(frozen=True)
class FilledConfig:
    """A labeling config as it is for one task.

    Attributes:
        root: its tags.
        remarks: what of the task's data is left out, a sentence each.
    """

    root: Tag
    remarks: tuple[str, ...]


def fill_config(root: Tag, task: int, data: Mapping[str, Any]) -> FilledConfig:
    """Fill in what a labeling config leaves to a task.

    Args:
        root: of the labeling config.
        task: the task's id.
        data: of the task.

    Raises:
        TaskDataError: a list that the config asks for is missing, malformed or too long.
    """
    filling = _Filling(f"task {task}", data)
    (filled,) = filling.tags([root], {})
    return FilledConfig(filled, tuple(filling.remarks))


@dataclass
class _Filling:
    """Fills in one config for one task; see `fill_config`."""

    subject: str
    data: Mapping[str, Any]
    remarks: list[str] = field(default_factory=list)
    _count: int = 0

    def tags(self, tags: Sequence[Tag], numbers: Mapping[str, int]) -> Iterator[Tag]:
        """Fill in tags. `numbers`: what flags stand for in these tags, but not in those inside them."""
        for written in tags:
            self._count += 1
            if self._count > MOST_TAGS:
                problem = f"its data repeats the labeling config to more than {MOST_TAGS:,} tags"
                raise TaskDataError(self.subject, problem, "Split the task.")
            tag = replace(written, attributes=_numbered(written.attributes, numbers)) if numbers else written
            if tag.kind == "repeater":
                yield self._repeated(tag, numbers)
                continue
            children = tuple(self.tags(tag.children, {}))
            if tag.kind in LABELLING_TAGS and labels_variable(tag):
                rest = {name: text for name, text in tag.attributes.items() if name != "value"}
                yield replace(tag, attributes=rest, text="", children=(*children, *self._labels(tag)))
                continue
            unchanged = len(children) == len(tag.children) and all(map(_is, children, tag.children))
            yield tag if unchanged else replace(tag, children=children)

    def _repeated(self, repeater: Tag, numbers: Mapping[str, int]) -> Tag:
        """A View with a View for each turn."""
        variable = VARIABLE.fullmatch(repeater.attributes.get("on", ""))
        items = self._list("Repeater", "its turns", variable[1] if variable else "")
        if len(items) > MOST_IMAGES:
            left = len(items) - MOST_IMAGES
            self.remarks.append(f"{left} of {len(items)} items of {variable and variable[0]!r} are left out, "
                                f"because a Repeater is read for the first {MOST_IMAGES}")  # fmt: skip
        flag, turns = repeater_flag(repeater), []
        for number in range(min(len(items), MOST_IMAGES)):
            inside = [_turned(child, flag, number) for child in repeater.children]
            children = tuple(self.tags(inside, {**numbers, flag: number}))
            turns.append(Tag("view", "View", {}, "", children))
        return Tag("view", "View", {}, "", tuple(turns))

    def _labels(self, control: Tag) -> Iterator[Tag]:
        variable = labels_variable(control)
        items = self._list(control.title, "its labels", variable)
        if len(items) > MOST_LABELS:
            problem = f"{variable[:60]!r} of its data has {len(items):,} labels; at most {MOST_LABELS:,} are read"
            raise TaskDataError(self.subject, problem, "Take out the rest.")
        for place, item in enumerate(items):
            row = {"value": item} if isinstance(item, str) else item
            if not isinstance(row, Mapping) or not any(isinstance(row.get(key), str) for key in ("value", "alias")):
                shown = json_name(item) if not isinstance(item, Mapping) else "an object without a value"
                problem = f"item {place + 1} of {variable[:60]!r} in its data, of which {control.title} has its labels,"
                raise TaskDataError(self.subject, f"{problem} is {shown}", 'Write "cat" or {"value": "cat"}.')
            kind = "choice" if control.kind == "choices" else "label"
            attributes = {str(key): text for key, text in row.items() if isinstance(text, str)}
            yield Tag(kind, kind.capitalize(), attributes, "", ())

    def _list(self, asking: str, what: str, variable: str) -> Sequence[Any]:
        found = value_at(self.data, variable)
        if isinstance(found, list):
            return found
        asked = f"{asking} has {what} from {variable[:60]!r}, which"
        if found is ABSENT:
            keys = ", ".join(repr(str(key)[:60]) for key in list(self.data)[:_MOST_KEYS])
            problem = f"{asked} its data does not have (it has {keys or 'nothing'})"
        else:
            problem = f"{asked} is {json_name(found)} in its data and no list"
        raise TaskDataError(self.subject, problem, _REMEDY)


def _is(one: Tag, other: Tag) -> bool:
    return one is other


def _turned(tag: Tag, flag: str, number: int) -> Tag:
    """A tag and those in it with the first flag of each attribute replaced, as JavaScript's `replace` does."""
    children = tuple(_turned(child, flag, number) for child in tag.children)
    return replace(tag, attributes=_numbered(tag.attributes, {flag: number}), children=children)


def _numbered(attributes: Mapping[str, str], numbers: Mapping[str, int]) -> Mapping[str, str]:
    found = dict(attributes)
    for flag, number in numbers.items():
        found = {name: text.replace(flag, str(number), 1) for name, text in found.items()}
    return found
