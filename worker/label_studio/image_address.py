"""A task's data -> the address of its image, by the `value` of the labeling config's Image tag."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from plugin_config.errors import ImageUnavailable
from plugin_config.label_studio.client import Task
from plugin_config.task_variables import ABSENT, VARIABLE, value_at
from worker.label_studio.fetching import subject_of

_MOST_KEYS = 5  # in a sentence
_REMEDY = "Correct the task's data, or the Image's value in the labeling config."
_KINDS = ((bool, "true or false"), (int, "a number"), (float, "a number"), (Mapping, "an object"))


def address_in(task: Task, image_value: str) -> str:
    """Fill in the variables of an Image tag's `value`, as Label Studio's editor does.

    Two things are read that the editor shows no image for: `$a/$b.png`, where it looks for a key `png` in the text `b`,
    and a key with signs that end a variable, as in `$image-url`, where the task has no `image`.

    Args:
        task: whose data is asked.
        image_value: of the labeling config: an address, or a text with variables in it.

    Raises:
        ImageUnavailable: the task's data could not be read, or does not have what the variables name.
    """
    if task.unreadable:
        raise ImageUnavailable(subject_of(task.id), f"is not known: {task.unreadable}", "Then ask for the task again.")
    variable = VARIABLE.fullmatch(image_value)
    if variable is not None:
        return _checked(task, image_value, variable[1], value_at(task.data, variable[1]))
    key = image_value[1:] if image_value.startswith("$") else ""
    if key and not VARIABLE.search(image_value):
        return _checked(task, image_value, key, task.data.get(key, ABSENT))
    try:
        return VARIABLE.sub(lambda found: _written(task, image_value, found[1]), image_value)
    except ImageUnavailable:
        if key and isinstance(task.data.get(key), str):
            return _checked(task, image_value, key, task.data[key])
        raise


def address_count(task: Task, value_list: str) -> int:
    """How many images an Image tag's `valueList` stands for in a task: as many as its list has items.

    What is no list counts as one image, as in the editor; `address_at` tells where it is no address.
    """
    variable = VARIABLE.fullmatch(value_list)
    found = value_at(task.data, variable[1]) if variable else ABSENT
    return max(1, len(found)) if isinstance(found, list) else 1


def address_at(task: Task, value_list: str, index: int) -> str:
    """The address of one image of an Image tag's `valueList`.

    Args:
        task: whose data is asked.
        value_list: of the labeling config: a variable.
        index: of the image, from 0.

    Raises:
        ImageUnavailable: the task's data could not be read, or does not have the list, or no address there.
    """
    variable = VARIABLE.fullmatch(value_list)
    path = variable[1] if variable else value_list
    found = value_at(task.data, path)
    if not isinstance(found, list):
        return address_in(task, value_list)
    if index < len(found):
        return _checked(task, value_list, f"{path}[{index}]", found[index])
    problem = "has no image: the list is empty" if not found else f"has {len(found)} images, none at {index}"
    raise ImageUnavailable(subject_of(task.id), f"{path[:200]!r} of its data {problem}", _REMEDY)


def _checked(task: Task, image_value: str, path: str, found: object) -> str:
    """What a variable stands for that is the whole address."""
    if isinstance(found, str) and found.strip():
        return found
    raise _unusable(task, image_value, path, found)


def _written(task: Task, image_value: str, path: str) -> str:
    """What a variable in a text stands for, as JavaScript writes it."""
    found, rest = value_at(task.data, path), ""
    while found is ABSENT and "." in path.lstrip("."):
        path, _, ending = path.rpartition(".")
        found, rest = value_at(task.data, path), f".{ending}{rest}"
    if isinstance(found, str):
        return found + rest
    if isinstance(found, bool):
        return f"{found}".lower() + rest
    if isinstance(found, int):
        return f"{found}{rest}"
    if isinstance(found, float) and isfinite(found):
        return f"{int(found) if found.is_integer() else found}{rest}"
    raise _unusable(task, image_value, path + rest, found)


def _unusable(task: Task, image_value: str, path: str, found: object) -> ImageUnavailable:
    asked = f"the labeling config's value={image_value[:200]!r} asks for {path[:200]!r}"
    keys = ", ".join(repr(str(key)[:60]) for key in list(task.data)[:_MOST_KEYS])
    if found is ABSENT:
        problem = f"the task's data does not have (it has {keys or 'nothing'})"
    elif isinstance(found, list):
        problem = "is a list; several images are read from an Image's valueList"
    else:
        kind = next((name for kind, name in _KINDS if isinstance(found, kind)), "null" if found is None else "empty")
        problem = f"is {kind}"
    return ImageUnavailable(subject_of(task.id), f"has no address: {asked}, which {problem}", _REMEDY)
