"""The adapters that this process used last, loaded, and why it cannot use others."""

from __future__ import annotations

import logging
import threading

from cachetools import LRUCache

from plugin_config.errors import LearningError
from plugin_config.versions.manifests import Manifest, Owner, VersionFolder
from worker.learning.interfaces import Adapter
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import make_adapter

log = logging.getLogger(__name__)

_MOST_LOADED, _MOST_BYTES = 8, 1 << 30  # one is held however large it is
_MOST_REFUSED = 1000


class AdapterCache:
    """Holds the adapters used last. Safe to share between threads.

    Args:
        segmenter: the model that is loaded.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._lock = threading.RLock()  # of what is loaded
        # Project, when that was created, version -> subject, problem and remedy. An error that is raised again and
        # again would collect the tracebacks of all that raised it.
        self._refused: dict[tuple[int, str, str], tuple[str, str, str]] = {}
        self._loaded: LRUCache[tuple[str, str], tuple[Manifest, Adapter]] = LRUCache(_MOST_BYTES, _room_for)

    def adapter(self, folder: VersionFolder, name: str) -> tuple[Manifest, Adapter]:
        """A version, from the cache or loaded.

        Raises:
            LearningError: it is damaged or missing, or this process cannot use it.
            VersionsUnavailable: the place does not answer.
        """
        owner, key = folder.owner, (folder.owner.folder, name)
        with self._lock:
            if (refusal := self.refusal(owner, name)) is not None:
                raise refusal
            if key not in self._loaded:
                manifest, data = folder.adapter(name)
                try:
                    self._loaded[key] = manifest, make_adapter(manifest, data, self._segmenter)
                except LearningError as error:
                    self.refuse(owner, name, error)
                    raise
                log.info("project %d: version %s is loaded", owner.project, name)
            return self._loaded[key]

    def manifest(self, folder: VersionFolder, name: str) -> Manifest:
        """The manifest of a version, which is loaded where this process can use it.

        Raises:
            LearningError: it is damaged or missing: nobody can use it.
            VersionsUnavailable: the place does not answer.
        """
        try:
            return self.adapter(folder, name)[0]
        except LearningError:
            if self.refusal(folder.owner, name) is None:
                raise
            return folder.manifest(name)

    def refuse(self, owner: Owner, name: str, error: LearningError) -> None:
        """Use a version no more that gives nothing usable, until this process is started again."""
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused[(owner.project, owner.created, name)] = (f"version {name}", error.problem, error.remedy)

    def refusal(self, owner: Owner, name: str) -> LearningError | None:
        """Why this process cannot use a version; None = it was not found to be unable."""
        found = self._refused.get((owner.project, owner.created, name))
        return None if found is None else LearningError(*found)

    def refused(self) -> list[tuple[int, str, str]]:
        """Project, name and problem of each version that this process cannot use."""
        return [(project, name, problem) for (project, _, name), (_, problem, _) in list(self._refused.items())]


def _room_for(loaded: tuple[Manifest, Adapter]) -> int:
    """Bytes that a version counts for in the cache."""
    return min(_MOST_BYTES, max(loaded[0].size, _MOST_BYTES // _MOST_LOADED))
