"""Files that are written whole or not at all, and files and folders private to their owner, whatever the umask."""

from __future__ import annotations

import os
import resource
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from plugin_config.errors import EnvironmentBroken

ASIDE = ".aside"
"""Suffix of a file that is still being written."""

_ABANDONED_S = 3600.0  # a file still being written for longer was left behind by a killed process

PRIVATE_UMASK = 0o077
"""The permissions that no file of this project grants: all of the group and of others."""


def keep_private(state: Path) -> None:
    """Make this process and its children write private files only; every process that writes under `state` calls it
    first. It also forbids core dumps, and makes private what an earlier run left open there.

    Raises:
        EnvironmentBroken: something there is open to others and cannot be made private.
    """
    os.umask(PRIVATE_UMASK)
    _, hardest = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hardest))  # a core dump would hold the token and the passwords
    try:
        close_to_others(state)
    except OSError as error:  # for example of a read-only file system
        remedy = "Take the rights of others away (chmod -R go-rwx), or set ZEROMASK_STATE_DIR."
        raise EnvironmentBroken(f"folder {state}", f"cannot be closed to others ({error})", remedy) from error


def private_folder(path: Path) -> Path:
    """Make a folder and its missing parents with mode 0700; an existing folder of this user is made private.

    Raises:
        OSError: it cannot be made.
    """
    if not path.parent.is_dir():
        private_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    if not _is_shared(path):
        _close(path)
    return path


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file of mode 0600 as `open` does, in a binary mode; an existing file of this user is made private. Links
    are not followed.

    Raises:
        OSError: it cannot be opened.
    """
    file = open(path, mode, opener=_open_private)  # noqa: SIM115 - Path.open takes no opener; the caller closes
    _close(path)
    return file


def write_private(path: Path, content: str) -> None:
    """Write a private file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with written_whole(path) as aside, open_private(aside, "wb") as file:
        file.write(content.encode())


@contextmanager
def written_whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all: the block writes to the path it is given, which then replaces `path`.

    When the block or the last step fails, the old file stays and nothing is left beside it. A killed process leaves a
    file whose name ends in `ASIDE`.

    Args:
        path: of the file; its folder exists.
        durable: flush the file and its folder to the disk, so that they outlive a power cut.

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
    except BaseException:  # a Ctrl-C too must leave nothing beside the file
        with suppress(OSError):
            aside.unlink()
        raise


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def trim_folder(folder: Path, most_bytes: int) -> None:
    """Delete the files of a cache that were used longest ago, by their times, until the others fit, and what a killed
    process left behind. Several processes may do this at a time.

    Raises:
        OSError: the folder cannot be read, or a file cannot be deleted.
    """
    found, now = [], time.time()
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # another process trims, too
            status = entry.stat(follow_symlinks=False)
            abandoned = entry.name.endswith(ASIDE) and now - status.st_mtime > _ABANDONED_S
            found.append((-1.0 if abandoned else status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= most_bytes and used >= 0:
            break
        with suppress(FileNotFoundError):
            Path(path).unlink()
        total -= size


def close_to_others(folder: Path) -> None:
    """Make a folder and everything in it private. A shared folder such as /tmp, and what belongs to other users, are
    left alone.

    Raises:
        OSError: a mode cannot be changed.
    """
    if not folder.is_dir() or _is_shared(folder):
        return
    _close(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            _close(Path(parent, name))


def is_private(folder: Path) -> bool:
    """Whether a folder exists, is no link, belongs to this user, and is closed to all others."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & PRIVATE_UMASK


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _close(path: Path) -> None:
    with suppress(FileNotFoundError):  # another process may delete files here
        found = path.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & PRIVATE_UMASK and found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode):
            path.chmod(mode & ~PRIVATE_UMASK)


def _is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_ISVTX)
