"""The rights of files, for tests of who may read what."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path


def modes(folder: Path) -> dict[str, int]:
    """The rights of a folder (as ".") and of all that lies in it, links left out, by path within it. Files that go
    meanwhile, such as the journal of a database in use, are passed over.
    """
    found: dict[str, int] = {}
    for path in [folder, *folder.rglob("*")]:
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                found[str(path.relative_to(folder))] = stat.S_IMODE(mode)
    return found


def open_to_others(folder: Path) -> dict[str, str]:
    """What in a folder the group or others have any right to, with its mode."""
    return {name: oct(mode) for name, mode in modes(folder).items() if mode & 0o077}
