"""Files that appear whole or not at all, in a folder or behind any fsspec URL."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from plugin_config.errors import VersionsUnavailable
from plugin_config.files import ASIDE, written_whole

_REMEDY = "Make room or mend its rights, or set ZEROMASK_VERSIONS to another place; what is there now is unchanged."
_KEY_REMEDY = (
    "Give this process the key of the store, for S3 by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the key the "
    "right to list, read, write and delete there; what is there now is unchanged."
)
_BUCKET_REMEDY = "Make it, or correct ZEROMASK_VERSIONS."
_AWAY_REMEDY = (
    "Start it, or correct ZEROMASK_VERSIONS and the store's address, for S3 AWS_ENDPOINT_URL; what is there now is "
    "unchanged."
)
_S3 = ("s3", "s3a")

_SIGN_IN = re.compile(r"(?<=://)[^/\s]*@")


def without_sign_in(text: str) -> str:
    """A text without the user and password of the URLs in it: people who may read it may not have them."""
    return _SIGN_IN.sub("", text)


class Storage:
    """Holds a folder. Every method raises VersionsUnavailable where it cannot be reached, read or written.

    In a local folder a file is written under another name, flushed to the disk and renamed. Elsewhere it is written in
    one request, or in parts that one request completes: object stores do this or drop it, and nobody reads half a file.
    Listings are not cached, because processes on other machines write there, too.

    Args:
        folder: its path, or an fsspec URL.
    """

    def __init__(self, folder: str) -> None:
        # Here, because `zeromask status` imports this module and opens no folder: a fifth of its time.
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self._folder = folder
        with _unavailable(folder, "cannot be opened"):
            self._files, self._path = fsspec.core.url_to_fs(folder, use_listings_cache=False)
        self._local = isinstance(self._files, LocalFileSystem)

    def address(self, name: str) -> str:
        """Path or URL of a file, for messages: without a password."""
        return without_sign_in(f"{self._folder}/{name}".rstrip("/"))

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """A file's content; None where there is no file. Of one longer than `most` bytes, `most` + 1 are read."""
        with _unavailable(self.address(name), "cannot be read"):
            try:
                return self._cat(self._at(name), None if most is None else most + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                _check_bucket(error)
                return None

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with _unavailable(self.address(name), "cannot be read"):
            return bool(self._files.exists(self._at(name)))

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        with _unavailable(self._folder, "cannot be read"):
            self._files.invalidate_cache()
            try:
                rows = self._files.ls(self._path, detail=True)
            except FileNotFoundError as error:
                _check_bucket(error)
                return []
        return sorted(str(row["name"]).rstrip("/").rsplit("/", 1)[-1] for row in rows if row["type"] == "directory")

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of an earlier one."""
        with _unavailable(self.address(name), "cannot be written"):
            if self._local:
                _write_durably(Path(self._at(name)), data)
            else:
                self._files.pipe_file(self._at(name), data)

    def delete(self, name: str) -> None:
        """Delete a file, if there is one."""
        with _unavailable(self.address(name), "cannot be deleted"), suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        """Delete a folder and what is in it, if there is one."""
        with _unavailable(self.address(name), "cannot be deleted"), suppress(FileNotFoundError):
            self._files.rm(self._at(name), recursive=True)

    def delete_leftovers(self, *, but: str) -> None:
        """Delete unfinished files of writers that were killed, except in folders whose name begins with `but`."""
        if self._local:
            for left in Path(self._path).rglob(f"*{ASIDE}"):
                if not left.parent.name.startswith(but):
                    with suppress(OSError):
                        left.unlink()

    def _cat(self, path: str, end: int | None) -> bytes:
        try:
            return bytes(self._files.cat_file(path, end=end))
        except OSError as error:
            if end is None or error.errno != errno.EINVAL:
                raise
            return bytes(self._files.cat_file(path))  # S3 knows no range of an empty file

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


def _write_durably(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, durable=True) as aside:
        aside.write_bytes(data)


def _check_bucket(error: OSError) -> None:
    """Raise what says that there is no such bucket: only a file, or a folder, may be missing."""
    answer = getattr(error.__cause__, "response", None) or {}  # of botocore, from which s3fs makes its errors
    if answer.get("Error", {}).get("Code") == "NoSuchBucket":
        raise _BucketMissing(str(error)) from error


class _BucketMissing(OSError):
    pass


@contextmanager
def _unavailable(subject: str, problem: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # fsspec's drivers raise errors of their own, which have no base in common
        reason = f"{problem} ({error or type(error).__name__})"
        raise VersionsUnavailable(
            without_sign_in(subject), without_sign_in(reason), _remedy(error, subject)
        ) from error  # fmt: skip


def _remedy(error: Exception, folder: str) -> str:
    scheme, _, rest = folder.partition("://")
    if not rest:
        return _REMEDY
    if isinstance(error, ImportError):
        if scheme in _S3:
            return 'Install the extra s3 from the clone: pip install ".[worker,s3]" (docs/guide/deployment.md#install).'
        return "Install the package that it names, beside zeromask."
    kind = type(error).__name__
    if isinstance(error, PermissionError) or "Credentials" in kind:
        return _KEY_REMEDY
    if isinstance(error, _BucketMissing) or "bucket does not exist" in str(error):
        return _BUCKET_REMEDY
    if isinstance(error, ConnectionError | TimeoutError) or any(word in kind for word in ("Connect", "Timeout")):
        return _AWAY_REMEDY
    return _REMEDY
