"""Image files of tasks on disk, so that relearning and new labels do not fetch them again over the network.

A file is handed out only where the same request would be answered with it: an upload of Label Studio, which never
changes, or a file whose server says that it has not changed (`ETag`, `Last-Modified`). Whoever asks has checked the
address before. Several processes may share the folder, and nothing in it is needed: it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from plugin_config.files import open_private, private_folder, trim_folder, written_whole

log = logging.getLogger(__name__)

_MOST_HEADER = 2048  # bytes of the first line
_MOST_ETAG = 512  # characters
_SHARE_PER_FILE = 8  # a file larger than this part of the cache would drive out all others
_SHARE_PER_LOOK = 20  # after writing this part of the cache a process looks what the others have written
_LEAST_FREE = 1_000_000_000  # bytes of the disk that are left to learned versions, logs and the queue
_PAUSE_S = 600.0  # without keeping anything, once the disk refused
_SETTLED_S = 60.0  # a file may change twice within the second that `Last-Modified` counts in (RFC 9110, 8.8.2.2)


@dataclass(frozen=True)
class Recalled:
    """What is known of a file that was kept.

    Attributes:
        path: where it is; None = nothing is known of it.
        length: of the file, bytes.
        digest: of its content.
        place: digest of the address that sent it, without its query where the server gave an `ETag`: presigned
            addresses have their signature in it.
        etag, modified: what its server said; "" = nothing.
    """

    path: Path | None = None
    length: int = 0
    digest: str = ""
    place: str = ""
    etag: str = ""
    modified: str = ""

    def conditions(self, url: httpx.URL) -> Mapping[str, str]:
        """Headers by which a server answers 304 where the file is still the same; none for another address' file."""
        if self.path is None or self.place != _place(url, with_query=not self.etag):
            return {}
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.modified} if self.modified else {}

    def read(self) -> bytes | None:
        """The content; None where it is damaged, and thrown away, or gone."""
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                file.readline(_MOST_HEADER)
                content = file.read(self.length + 1)
            if len(content) == self.length and _digest(content) == self.digest:
                os.utime(self.path)  # what was used last goes last
                return content
            log.warning("file %s of the image cache is damaged: it is fetched again", self.path.name)
            self.path.unlink()
        except OSError:  # another process may have deleted it
            return None
        return None


class ImageCache:
    """Holds files up to a size, those used last. Thread-safe; processes may share a folder.

    Args:
        folder: made at the first file, private to this user.
        most_bytes: of all files together; 0 = nothing is kept or recalled. Each process may be a twentieth above it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._lock = threading.Lock()
        self._unseen = most_bytes  # bytes written since the last look; the first file looks
        self._paused_until = 0.0
        self._warned = False

    def recall(self, *identity: object) -> Recalled:
        """Look a file up.

        Args:
            identity: whatever distinguishes it from all others: Label Studio, project, address.
        """
        if not self._most:
            return Recalled()
        path = self._path(identity)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline(_MOST_HEADER))
            texts = [head[name] for name in ("digest", "place", "etag", "modified")]
            if all(isinstance(text, str) for text in texts) and isinstance(head["bytes"], int):
                return Recalled(path, head["bytes"], *texts)
        except FileNotFoundError:
            return Recalled()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("file %s of the image cache cannot be read (%r)", path.name, error)
        with suppress(OSError):
            path.unlink()
        return Recalled()

    def keep(
        self, *identity: object, content: bytes, url: httpx.URL, headers: Mapping[str, str], lasting: bool = False
    ) -> None:
        """Keep a file, where its server lets one ask whether it has changed.

        Args:
            identity: as for `recall`.
            content: of the file.
            url: that sent it.
            headers: of the answer, by names in lower case.
            lasting: whether it never changes.
        """
        etag, modified = _validators(headers)
        if len(content) > self._most // _SHARE_PER_FILE or not (lasting or etag or modified):
            return
        if "no-store" in headers.get("cache-control", "").lower() and not lasting:
            return
        with self._lock:
            if time.monotonic() < self._paused_until:
                return
        head = {"digest": _digest(content), "place": _place(url, with_query=not etag), "etag": etag,
                "modified": modified, "bytes": len(content)}  # fmt: skip
        try:
            private_folder(self._folder)
            self._make_room(len(content))
            path = self._path(identity)
            with written_whole(path) as aside, open_private(aside, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n")
                file.write(content)
        except OSError as error:
            self._pause(str(error))

    def _make_room(self, length: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < _LEAST_FREE + length:
            trim_folder(self._folder, self._most // 2)
            raise OSError(f"only {free // 1_000_000} MB of the disk are free")
        with self._lock:
            self._unseen += length
            due = self._unseen > self._most // _SHARE_PER_LOOK
            if due:
                self._unseen = length
        if due:
            trim_folder(self._folder, self._most - self._most // _SHARE_PER_LOOK)

    def _pause(self, why: str) -> None:
        with self._lock:
            self._paused_until = time.monotonic() + _PAUSE_S
            warned, self._warned = self._warned, True
        if not warned:
            log.warning("images are not kept in %s (%s): they are fetched each time", self._folder, why)

    def _path(self, identity: tuple[object, ...]) -> Path:
        return self._folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()


OFF = ImageCache(Path(os.devnull), 0)
"""Keeps nothing."""


def _validators(headers: Mapping[str, str]) -> tuple[str, str]:
    """`ETag` and `Last-Modified` of an answer, each "" where it cannot be relied on."""
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if not (etag.isascii() and etag.isprintable() and len(etag) <= _MOST_ETAG):
        etag = ""
    try:
        settled = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(modified)
        return etag, modified if len(modified) < 64 and settled.total_seconds() >= _SETTLED_S else ""
    except (TypeError, ValueError):
        return etag, ""


def _place(url: httpx.URL, *, with_query: bool) -> str:
    """Digest of an address. Its query may say which file is meant: a date alone does not tell two of them apart."""
    url = url.copy_with(fragment=None)
    return _digest(str(url if with_query else url.copy_with(query=None)).encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
