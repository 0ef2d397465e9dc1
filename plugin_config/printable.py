"""Text that can be printed, stored and sent, from file names that are no text."""

from __future__ import annotations

import re

# Python reads a byte of a file name that is not UTF-8 as a lone surrogate, which no encoding holds.
_NO_TEXT = re.compile("[\ud800-\udfff]")
# Line ends, and what terminals take for commands.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(name: object) -> str:
    """The text of a path, a name or a message, with what no encoding holds replaced by U+FFFD."""
    return _NO_TEXT.sub("\ufffd", str(name))


def one_line(name: object) -> str:
    """The text of a name as it stands in a line for people: as `printable`, and so are control characters replaced."""
    return _CONTROLS.sub("\ufffd", printable(name))
