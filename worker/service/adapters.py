"""Which version of each project this worker serves, loaded when it is needed.

The disk says what is served; Redis' copy of that is read for each handful of tasks and made anew at each look. What
cannot be loaded is not served: predictions are zero-shot then, and the reason stands in `zeromask status`. It must not
know how predictions or versions are made.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import AbstractContextManager

from redis import Redis

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Manifest, Owner, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy
from worker.learning.interfaces import Adapter
from worker.service.adapter_store import load_adapter

log = logging.getLogger(__name__)

_MOST_LOADED = 8
_MOST_REFUSED = 1000
_ONE_PLACE = "Give all workers the same ZEROMASK_VERSIONS."


class AdapterShelf:
    """Holds the adapters used last. For one thread, but for `refuse`.

    Args:
        settings: where versions are kept, of which Label Studio and model.
        redis: a connection.
        weights: fingerprint of the model that is loaded.
        learner: whether this process writes versions: then what its disk says is true whatever Redis says.
    """

    def __init__(self, settings: Settings, redis: Redis, *, weights: str, learner: bool = False) -> None:
        self._settings = settings
        self._served = ServedAdapters(redis)
        self._learners = WorkerPresence(redis, learners=True)
        self._weights = weights
        self._learner = learner
        self._refused: dict[tuple[str, str], LearningError] = {}
        self._loaded: OrderedDict[tuple[str, str], tuple[Manifest, Adapter]] = OrderedDict()

    def folder(self, project: Project) -> VersionFolder:
        """Where the project's versions are kept."""
        owner = Owner(self._settings.label_studio_url, project.id, project.created, self._settings.model)
        return VersionFolder(self._settings.versions_url, owner)

    def moving(self, project: int) -> AbstractContextManager[None]:
        """Keep others from moving the project's pointer meanwhile."""
        return self._served.pointer_lock(project)

    def serve(self, project: Project, *, afresh: bool = False) -> tuple[str, Adapter | None]:
        """The name of what is served, and the adapter; "zeroshot" has none.

        Raises:
            VersionsUnavailable: the place of the versions does not answer, or is not the one they are served from.
            QueueUnavailable: Redis does not answer.
        """
        folder = self.folder(project)
        copy = self._served.copy(project.id, self._settings.model)
        if copy is not None and copy.owner != folder.owner:  # the project's number was given to a new one
            copy = None
        if afresh or copy is None:
            copy = self._look(folder, copy)
        try:
            return self._loaded_copy(folder, copy)
        except LearningError:
            copy = self._look(folder, copy)  # something changed on the disk since the last one
        try:
            return self._loaded_copy(folder, copy)
        except LearningError as error:
            raise VersionsUnavailable(error.subject, error.problem, _ONE_PLACE) from error

    def adapter(self, folder: VersionFolder, name: str) -> tuple[Manifest, Adapter]:
        """A version, loaded or from the shelf.

        Raises:
            LearningError: it cannot be served; see `load_adapter`.
            VersionsUnavailable: the place does not answer.
        """
        key = (folder.owner.folder, name)
        if key in self._refused:
            raise self._refused[key]
        if key not in self._loaded:
            self._loaded[key] = load_adapter(folder, name, weights=self._weights)
            log.info("project %d: version %s is loaded", folder.owner.project, name)
            if len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def refuse(self, project: Project, name: str, error: LearningError) -> None:
        """A version turned out to be of no use: the project is served zero-shot until another one is, or until this
        process starts anew.
        """
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        told = LearningError(f"version {name}", error.problem, error.remedy)
        self._refused[(self.folder(project).owner.folder, name)] = told

    def _loaded_copy(self, folder: VersionFolder, copy: ServedCopy) -> tuple[str, Adapter | None]:
        return copy.served, None if copy.served == ZEROSHOT else self.adapter(folder, copy.served)[1]

    def _look(self, folder: VersionFolder, before: ServedCopy | None) -> ServedCopy:
        """Make Redis' copy anew from the disk."""
        with self._served.pointer_lock(folder.owner.project):
            try:
                found = self._on_disk(folder, before)
            except VersionsUnavailable as error:
                if before is None:
                    raise
                log.warning("project %d: %s", folder.owner.project, error)
                return before
            if found != before:
                if found.trouble:
                    log.error("project %d is served zero-shot. %s", folder.owner.project, found.trouble)
                self._served.write(folder.owner.project, found)
            return found

    def _on_disk(self, folder: VersionFolder, before: ServedCopy | None) -> ServedCopy:
        place, serial = self._settings.versions_url, before.serial if before else 0
        try:
            pointer = folder.pointer()
            if pointer.serial < serial and not self._learner and self._learners.live_workers():
                # A folder of its own on this machine, most likely: another worker serves what is learned elsewhere.
                problem = f"does not hold what is served of project {folder.owner.project}"
                raise VersionsUnavailable(f"folder {place}", problem, _ONE_PLACE)
            serial = pointer.serial
            if pointer.served != ZEROSHOT:
                self.adapter(folder, pointer.served)
        except LearningError as error:
            return ServedCopy(ZEROSHOT, serial, place, folder.owner, str(error))
        return ServedCopy(pointer.served, serial, place, folder.owner)
