"""Text that can be printed, stored and sent, from file names that are no text."""

from __future__ import annotations

import re

# Python reads a byte of a file name that is not UTF-8 as a lone surrogate, which no encoding holds.
_NO_TEXT = re.compile("[\ud800-\udfff]")


def printable(name: object) -> str:
    """The text of a path, a name or a message, with what no encoding holds replaced by U+FFFD."""
    return _NO_TEXT.sub("\ufffd", str(name))
