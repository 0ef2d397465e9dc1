"""Which adapter each project is served with.

The pointer on disk decides. Redis' copy of it is read at every drain, and written again from disk at every reconcile. A
project whose adapter is missing or damaged is served zero-shot, and `zeromask status` shows the reason. One that this
process alone cannot use stays served, and its tasks are left to the workers that can; see
`plugin_config.versions.refusals`.
"""

from __future__ import annotations

import logging
import threading
import uuid
from contextlib import AbstractContextManager
from dataclasses import replace

from redis import Redis

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT, Learned, engine_name
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.calibrations import CalibrationFile
from plugin_config.versions.manifests import Manifest, Owner, Pointer, VersionFolder
from plugin_config.versions.refusals import Refusal, VersionRefusals
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.versions.storage import without_sign_in
from plugin_config.versions.verdicts import verdict_of, write_verdict
from worker.learning.acceptance import IDENTITY, Calibration
from worker.learning.interfaces import Adapter
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_cache import AdapterCache

log = logging.getLogger(__name__)

_MOST_TOLD = 3
_ONE_PLACE = "Give all workers the same ZEROMASK_VERSIONS."


class ProjectAdapters:
    """Decides what each project is served with, and holds what is loaded of it. Safe to share between threads.

    Args:
        settings: where versions are kept, and of which Label Studio and model.
        redis: a connection.
        segmenter: the model that is loaded.
        learner: whether this process writes versions: then its disk is right whatever Redis says. It predicts nothing:
            what it cannot use itself changes nothing for others.
        worker: name of this process among the workers, never used again by another.
    """

    def __init__(
        self, settings: Settings, redis: Redis, segmenter: Segmenter, *, learner: bool = False, worker: str = ""
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._served = ServedAdapters(redis)
        self._learners = WorkerPresence(redis, learners=True)
        self._cache = AdapterCache(segmenter)
        self._learner = learner
        self._worker = worker or f"unnamed-{uuid.uuid4().hex}"
        self._refusals = VersionRefusals(redis, settings.model)
        self._lock = threading.RLock()

    def folder(self, project: Project) -> VersionFolder:
        """Where the project's versions are kept: by the address under which the learner reaches Label Studio, which
        need not be that of this process.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return self._folder_of(project, self._copy(project))

    def calibrations(self, project: Project) -> CalibrationFile:
        """How the raw scores of its versions are mapped."""
        return CalibrationFile(self._settings.versions_url, self.folder(project).owner)

    def moving(self, project: int) -> AbstractContextManager[None]:
        """Lock the project's pointer: nobody else moves it meanwhile."""
        return self._served.pointer_lock(project)

    def served(self, project: Project, *, from_disk: bool = False) -> tuple[str, Adapter | None]:
        """The served adapter's name, and the adapter; "zeroshot" has none, nor has a version that this process cannot
        use: its tasks are for other workers. A learner that cannot use it goes on from the zero-shot model.

        Args:
            project: as Label Studio has it.
            from_disk: read the pointer from disk; else Redis' copy is enough where there is one.

        Raises:
            VersionsUnavailable: the place of the versions does not answer, or is not the one they are served from.
            QueueUnavailable: Redis does not answer.
        """
        with self._lock:
            return self._find_served(project, from_disk=from_disk)

    def served_with_keys(self, project: Project) -> tuple[Adapter | None, tuple[str, ...]]:
        """The served adapter, and the keys of the corrections it was trained on, which the gate asks for; the zero-shot
        model is None, and was trained on none.

        Raises:
            LearningError: the version was damaged meanwhile.
            VersionsUnavailable, QueueUnavailable: as `served`.
        """
        with self._lock:
            name, adapter = self._find_served(project, from_disk=False)
            return adapter, () if name == ZEROSHOT else self.adapter(self.folder(project), name)[0].learned_from

    def _find_served(self, project: Project, *, from_disk: bool) -> tuple[str, Adapter | None]:
        copy = self._copy(project)
        folder = self._folder_of(project, copy)
        if from_disk or copy is None:
            copy = self._copy_from_disk(folder, copy)
        try:
            return self._loaded_copy(folder, copy)
        except LearningError:
            copy = self._copy_from_disk(folder, copy)  # the disk has changed since the copy was made
        try:
            return self._loaded_copy(folder, copy)
        except LearningError as error:
            if self._cache.refusal(folder.owner, copy.served) is not None:
                return (ZEROSHOT if self._learner else copy.served), None
            raise VersionsUnavailable(error.subject, error.problem, _ONE_PLACE) from error

    def calibration(self, project: Project, name: str) -> Calibration:
        """How the raw scores of the served version `name` are mapped, as Redis' copy has it; the identity where only
        other settings of the engine have a map.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        copy = self._copy(project)
        if copy is None or copy.served != name or not copy.calibration:
            return IDENTITY
        found = copy.calibration.get(engine_name(self._settings))
        subject = f"project {project.id}, version {name}"
        return IDENTITY if found is None else Calibration.from_json(found, subject=subject)

    def learned(self, project: Project, name: str) -> Learned:
        """What versions of predictions say of the served adapter, as Redis' copy has it, which the backend reads, too.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        copy = self._copy(project)
        return Learned() if copy is None or copy.served != name else copy.told

    def adapter(self, folder: VersionFolder, name: str) -> tuple[Manifest, Adapter]:
        """A version, from the cache or loaded.

        Raises:
            LearningError: it is damaged or missing, or this process cannot use it.
            VersionsUnavailable: the place does not answer.
        """
        return self._cache.adapter(folder, name)

    def refuse(self, project: Project, name: str, error: LearningError) -> None:
        """Use a version no more that gives nothing usable, until this process is started again. The next look at what
        is served (`leaves`, `served`) tells the other workers: Redis may be away just now.
        """
        if name != ZEROSHOT:
            self._cache.refuse(self._owner(project), name, error)

    def leaves(self, project: int) -> bool:
        """Whether this process leaves a project's tasks to other workers: it cannot use what is served, and one lives
        that perhaps can. Costs nothing where it can use everything.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        copy = self._served.copy(project, self._settings.model) if self._cache.refused() else None
        if copy is None or self._cache.refusal(copy.owner, copy.served) is None:
            return False
        return not self._withdrawn(copy.owner, copy.served)

    def trouble(self) -> str:
        """What is served and this process cannot use, why, and what to do, for `zeromask status`; "" = nothing.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if self._learner:
            return ""
        told = [
            f"version {name} of project {project} {problem}"
            for project, name, problem in self._cache.refused()
            if self._served.served(project, self._settings.model) == name
        ]
        if not told:
            return ""
        more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        return (f"cannot use what is served, and leaves it to other workers: {'; '.join(told[:_MOST_TOLD])}{more}. "
                "Give this worker the settings and weights of the others, or stop it.")  # fmt: skip

    def tell(self, owner: Owner, pointer: Pointer) -> None:
        """Copy to Redis what people see of a pointer: what annotators did, and the last verdict.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        if pointer.attempt is not None:
            self._served.write_outcomes(owner, pointer.attempt.outcomes)
        write_verdict(self._redis, owner, verdict_of(pointer))

    def _withdrawn(self, owner: Owner, name: str) -> str:
        """Why no living worker can use a version; "" = it is served. First this one tells whether it can."""
        refusal = None if self._learner else self._cache.refusal(owner, name)
        if refusal is None:
            return self._refusals.reason(owner.project, name)
        self._refusals.note(owner.project, self._worker, Refusal(name, str(refusal)))
        return self._refusals.reason(owner.project, name, worker=self._worker)

    def _owner(self, project: Project) -> Owner:
        return Owner(self._settings.label_studio_url, project.id, project.created, self._settings.model)

    def _folder_of(self, project: Project, copy: ServedCopy | None) -> VersionFolder:
        return VersionFolder(self._settings.versions_url, copy.owner if copy else self._owner(project))

    def _copy(self, project: Project) -> ServedCopy | None:
        """Redis' copy, where it is of this project, whose number may have been given to a new one. Of a learner that
        reaches Label Studio under another address it counts as soon as something was promoted there.
        """
        copy, owner = self._served.copy(project.id, self._settings.model), self._owner(project)
        if copy is None or copy.owner == owner:
            return copy
        is_same = replace(copy.owner, label_studio=owner.label_studio) == owner
        return copy if is_same and copy.serial and not self._learner else None

    def _loaded_copy(self, folder: VersionFolder, copy: ServedCopy) -> tuple[str, Adapter | None]:
        return copy.served, None if copy.served == ZEROSHOT else self.adapter(folder, copy.served)[1]

    def _copy_from_disk(self, folder: VersionFolder, before: ServedCopy | None) -> ServedCopy:
        """Write Redis' copy again from the pointer on disk."""
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
        maps = CalibrationFile(place, folder.owner)
        try:
            pointer = folder.pointer()
            if pointer.serial < serial and not self._learner and self._learners.count():
                # Most likely a folder of this machine alone: a learner elsewhere writes to another one.
                problem = f"does not hold what is served of project {folder.owner.project}"
                raise VersionsUnavailable(f"folder {without_sign_in(place)}", problem, _ONE_PLACE)
            serial = pointer.serial
            self.tell(folder.owner, pointer)
            learned = Learned()
            if pointer.served != ZEROSHOT:
                learned = self._cache.manifest(folder, pointer.served).learned
                if reason := self._withdrawn(folder.owner, pointer.served):
                    return ServedCopy(ZEROSHOT, serial, place, folder.owner, reason, maps.of(ZEROSHOT))
        except LearningError as error:
            return ServedCopy(ZEROSHOT, serial, place, folder.owner, str(error), maps.of(ZEROSHOT))
        return ServedCopy(pointer.served, serial, place, folder.owner, calibration=maps.of(pointer.served),
                          learned=learned.source, made=learned.made)  # fmt: skip
