"""Variables in a labeling config (`$image`, `$pages[0].url`), and what they stand for in the data of a task.

The rules are those of Label Studio's editor: `parseValue` and the `get` of es-toolkit in its sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

VARIABLE = re.compile(r"\$([A-Za-z0-9_\[\].{}]+)")
"""A variable as the editor finds it: braces belong to its name, letters beyond ASCII and dashes end it."""
_PART = re.compile(r"\[([^\]]*)\]|[^.\[\]]+")


class _Absent:
    """There is no such value; null is one."""


ABSENT: Final = _Absent()


def value_at(data: Mapping[str, Any], path: str) -> Any:
    """Look a variable up in the data of a task.

    Args:
        data: of the task.
        path: name of the variable: a key, which may hold dots, or a path such as `a.b[0].c`.

    Returns:
        the value, or ABSENT.
    """
    if path in data:
        return data[path]
    found: Any = data
    for part in _parts(path):
        if isinstance(found, Mapping):
            found = found.get(part, ABSENT)
        elif isinstance(found, list) and re.fullmatch("0|[1-9][0-9]{0,8}", part) and int(part) < len(found):
            found = found[int(part)]
        else:
            return ABSENT
    return found


def _parts(path: str) -> list[str]:
    """`a.b[0].c` -> a, b, 0, c. What stands in brackets is one part."""
    return [found[1] if found[1] is not None else found[0] for found in _PART.finditer(path)]
