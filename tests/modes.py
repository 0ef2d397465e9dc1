"""The rights of files, for tests of who may read what."""

from __future__ import annotations

import stat
from pathlib import Path


def modes(folder: Path) -> dict[str, int]:
    """The rights of a folder (as ".") and of all that lies in it, links left out, by path within it."""
    found = [folder, *(path for path in folder.rglob("*") if not path.is_symlink())]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in found}


def open_to_others(folder: Path) -> dict[str, str]:
    """What in a folder the group or others have any right to, with its mode."""
    return {name: oct(mode) for name, mode in modes(folder).items() if mode & 0o077}
