"""Image embeddings on disk, so that processes share them: what one worker has embedded, a click at another needs not.

This is only a cache. Its folder is bounded and may be deleted at any time; a damaged file is embedded again, and a full
disk means no cache.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from plugin_config.files import private_folder, trim_folder, written_whole
from worker.segmentation.encoders.encoder import ImageEmbedding

log = logging.getLogger(__name__)

_SHARE_PER_FILE = 8  # a file larger than this part of the cache would drive out all others
_SHARE_PER_LOOK = 20  # after writing this part of the cache a process looks what the others have written
_LEAST_FREE = 1_000_000_000  # bytes of the disk that are left to learned versions, logs and the queue
_PAUSE_S = 600.0  # without keeping anything, once the disk refused
_MOST_UNWRITTEN = 16  # embeddings; beyond it the disk is too slow to keep all
_LENGTH_TOLERANCE = 1e-3
_SUFFIX = ".safetensors"


class EmbeddingStore:
    """Holds embeddings up to a size, those used last. Thread-safe; processes may share a folder. Files are written by a
    thread of its own, so that nobody waits for the disk.

    Args:
        folder: made at the first file, private to this user.
        most_bytes: of all files together; 0 = nothing is kept or found. Each process may be a twentieth above it.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._unseen = most_bytes  # bytes written since the last look; the first file looks
        self._paused_until = 0.0
        self._warned = False
        self._unwritten: queue.Queue[tuple[str, ImageEmbedding]] = queue.Queue(_MOST_UNWRITTEN)
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None

    def load(self, key: str) -> ImageEmbedding | None:
        """The embedding of a key, on the CPU; None where none is kept."""
        if not self._most or time.monotonic() < self._paused_until:
            return None
        path = self._folder / f"{key}{_SUFFIX}"
        try:
            found = _read(path)
            os.utime(path)  # what was used last goes last
        except FileNotFoundError:
            return None
        except OSError as error:  # a folder of another machine may be away
            self._pause(str(error))
            return None
        except (SafetensorError, ValueError, KeyError) as error:
            log.warning("image embedding %s is damaged (%s): the image is embedded again", path.name, error)
            with suppress(OSError):
                path.unlink()
            return None
        return found

    def save(self, key: str, embedding: ImageEmbedding) -> None:
        """Keep an embedding, soon; where the disk cannot follow, it is not kept.

        Args:
            key: lower-case letters, digits and dashes: whatever distinguishes image and encoder from all others.
            embedding: of the image.
        """
        if not self._most or time.monotonic() < self._paused_until:
            return
        with suppress(queue.Full):
            self._unwritten.put_nowait((key, embedding))
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, name="embedding-writer", daemon=True)
                self._writer.start()

    def flush(self) -> None:
        """Wait until all is written that is to be kept."""
        self._unwritten.join()

    def _write_all(self) -> None:
        while True:
            key, embedding = self._unwritten.get()
            try:
                self._write(key, embedding)
            except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
                self._pause(str(error))
            except Exception:  # the last resort: the thread must go on, and nothing depends on this
                log.exception("image embedding %s: unexpected", key)
            finally:
                self._unwritten.task_done()

    def _write(self, key: str, embedding: ImageEmbedding) -> None:
        tensors = {"features": embedding.features.detach().cpu().contiguous()}
        if embedding.affinity is not None:
            tensors["affinity"] = embedding.affinity.detach().cpu().contiguous()
        length = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        path = self._folder / f"{key}{_SUFFIX}"
        if length > self._most // _SHARE_PER_FILE or path.exists():
            return
        private_folder(self._folder)
        self._make_room(length)
        with written_whole(path) as aside:
            save_file(tensors, aside, {"size": f"{embedding.size[0]} {embedding.size[1]}"})
            aside.chmod(0o600)

    def _make_room(self, length: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < _LEAST_FREE + length:
            trim_folder(self._folder, self._most // 2)
            raise OSError(f"only {free // 1_000_000} MB of the disk are free")
        self._unseen += length
        if self._unseen > self._most // _SHARE_PER_LOOK:
            self._unseen = length
            trim_folder(self._folder, self._most - self._most // _SHARE_PER_LOOK)

    def _pause(self, why: str) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        if not self._warned:
            self._warned = True
            log.warning("image embeddings are not kept in %s (%s): images are embedded again", self._folder, why)


OFF = EmbeddingStore(Path(os.devnull), 0)
"""Keeps nothing."""


def _read(path: Path) -> ImageEmbedding:
    """Read what `EmbeddingStore.save` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    with path.open("rb"):  # safetensors tells of a missing file in words only
        pass
    with safe_open(os.fspath(path), framework="pt") as file:
        height, width = map(int, (file.metadata() or {})["size"].split())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    for tensor in tensors.values():
        error = (tensor.float().norm(dim=-1) - 1).abs()
        if tensor.dtype != torch.float32 or tensor.dim() != 3 or not bool((error < _LENGTH_TOLERANCE).all()):
            raise ValueError("its features are not of unit length")
    return ImageEmbedding(tensors["features"], (height, width), tensors.get("affinity"))
