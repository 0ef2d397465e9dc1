"""Ids of new regions, as Label Studio's editor makes them."""

from __future__ import annotations

import secrets
import string

ID_LENGTH = 10
"""Characters of an id: those of the editor, whose Info panel has room for no more."""

ALPHABET = string.ascii_letters + string.digits + "_-"
"""Of nanoid, which the editor uses."""


def new_region_id() -> str:
    """Make an id for a new region: `ID_LENGTH` random characters of letters, digits, `_` and `-`, 60 random bits.

    Regions are matched by their whole id within one task (see `outcomes`), where two of a thousand are the same once in
    a trillion tasks. Ids of other lengths, as older versions and other programs wrote them, are read as they are.
    """
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_LENGTH))
