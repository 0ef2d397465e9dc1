"""Text embeddings on disk, so that a label is encoded once per model and not once per process.

This is only a cache: unreadable files are replaced, and a failing write is logged once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plugin_config.files import written_whole

log = logging.getLogger(__name__)

TEXTS_FOLDER = "texts"
"""Folder of the text embeddings, within the state folder."""

_MOST_TEXTS = 10_000  # per file: 20 MB at 512 numbers each
_MOST_FILES = 8  # one per model and set of templates
_SUFFIX = ".safetensors"
_LENGTH_TOLERANCE = 1e-3


class TextStore:
    """Reads and writes a folder with one file of embeddings per key. Processes may share it; the last write wins.

    Args:
        folder: created at the first save.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._warned = False

    def load(self, key: str) -> dict[str, Tensor]:
        """Load embeddings by text, (D,) float32 of unit length on the CPU, oldest first; empty if there are none."""
        path = self._path(key)
        if not path.is_file():
            return {}
        try:
            texts, embeddings = _read(path)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("text embeddings %s: cannot be read (%s). Labels are encoded again.", path, error)
            return {}
        return dict(zip(texts, embeddings, strict=True))

    def save(self, key: str, embeddings: Mapping[str, Tensor]) -> None:
        """Add embeddings to those of a key; beyond the limits the oldest texts and the oldest files are dropped.

        Args:
            key: name of the file without its suffix.
            embeddings: (D,) float32 of unit length, by text.
        """
        merged = {**self.load(key), **{text: row.detach().cpu() for text, row in embeddings.items()}}
        kept = dict(list(merged.items())[-_MOST_TEXTS:])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._path(key)) as aside:
                save_file({"embeddings": torch.stack(list(kept.values()))}, aside, {"texts": json.dumps(list(kept))})
            self._drop_oldest()
        except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
            if not self._warned:
                self._warned = True
                log.warning("text embeddings %s: cannot be saved (%s). Labels are encoded again at every start.",
                            self._folder, error)  # fmt: skip

    def _drop_oldest(self) -> None:
        files = sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in files[:-_MOST_FILES]:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"


def _read(path: Path) -> tuple[list[str], Tensor]:
    """Read the texts of a file and their (n, D) float32 embeddings.

    Raises:
        ValueError: the file does not hold what `TextStore.save` writes.
    """
    with safe_open(os.fspath(path), framework="pt") as file:
        texts = json.loads((file.metadata() or {})["texts"])
        embeddings = file.get_tensor("embeddings")
    if not isinstance(texts, list) or embeddings.dim() != 2 or len(texts) != len(embeddings):
        raise ValueError(f"it holds {len(texts)} texts and embeddings of shape {tuple(embeddings.shape)}")
    error = (embeddings.float().norm(dim=1) - 1).abs()
    if embeddings.dtype != torch.float32 or not bool((error < _LENGTH_TOLERANCE).all()):
        raise ValueError("its embeddings are not of unit length")
    return texts, embeddings
