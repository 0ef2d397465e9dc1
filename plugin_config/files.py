"""Files that appear whole or not at all, and files and folders for their owner alone, whatever the umask."""

from __future__ import annotations

import os
import resource
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from plugin_config.errors import EnvironmentBroken

ASIDE = ".aside"
"""How the name of a file ends while it is being written."""

PRIVATE_UMASK = 0o077
"""The rights that no file of ours grants: any of the group and of others."""


def keep_private(state: Path) -> None:
    """What every process that writes under `state` does first: from now on what it and its children write is for their
    owner alone, they leave no picture of their memory behind, and what an earlier run left open is closed to others.

    Raises:
        EnvironmentBroken: something there is open to others and cannot be closed.
    """
    os.umask(PRIVATE_UMASK)
    _, hardest = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hardest))  # a core file would hold the token and the passwords
    try:
        close_to_others(state)
    except OSError as error:  # a file system that is read only, say
        remedy = "Take the rights of others away (chmod -R go-rwx), or set ZEROMASK_STATE_DIR."
        raise EnvironmentBroken(f"folder {state}", f"cannot be closed to others ({error})", remedy) from error


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it that are missing, with 0700; one of ours that is there is closed to others.

    Raises:
        OSError: it cannot be made.
    """
    if not path.parent.is_dir():
        private_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    if not _is_everybodys(path):
        _close(path)
    return path


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file of 0600, as `open` with a binary mode does; one of ours that is there is closed to others. A link is
    not followed.

    Raises:
        OSError: it cannot be opened.
    """
    file = open(path, mode, opener=_open_private)  # noqa: SIM115 - Path.open takes no opener; the caller closes
    _close(path)
    return file


def write_private(path: Path, content: str) -> None:
    """Put a file of 0600 there, whole, in place of the one that is.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(path) as aside, open_private(aside, "wb") as file:
        file.write(content.encode())


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all: the block writes to the path it is given, which then takes the place of `path`.

    When the block or the last step fails, the file of before stays and nothing is left beside it; what a killed
    process leaves ends in `ASIDE`.

    Args:
        path: of the file; its folder is there.
        durable: flush the file and its folder to the disk, so that it is kept through a power cut.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{ASIDE}")
    try:
        yield aside
        if durable:
            _flush(aside)
        aside.replace(path)
        if durable:
            _flush(path.parent)  # a rename is kept only when its folder is flushed
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def close_to_others(folder: Path) -> None:
    """Take from the group and from others every right to a folder of ours and to what lies in it. A folder that is
    everybody's, as /tmp is, and what belongs to somebody else are left alone.

    Raises:
        OSError: they cannot be taken.
    """
    if not folder.is_dir() or _is_everybodys(folder):
        return
    _close(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _close(Path(parent, name))


def is_private(folder: Path) -> bool:
    """Whether a folder is there, is no link, is ours, and nobody else may enter it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & PRIVATE_UMASK


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _close(path: Path) -> None:
    with suppress(FileNotFoundError):  # another process of ours may be at work there
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & PRIVATE_UMASK and found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
            path.chmod(mode & ~PRIVATE_UMASK)


def _is_everybodys(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_ISVTX)
