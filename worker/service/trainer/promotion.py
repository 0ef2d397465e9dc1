"""What the gate promotes becomes a version, and the pointer moves to it, in one write with the verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from plugin_config.errors import LearningError, QueueUnavailable, VersionsUnavailable
from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT, adapter_number
from plugin_config.versions.manifests import Manifest, Pointer, VerdictRecord, VersionFolder
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import Adapter
from worker.service.adapter_store import save_adapter
from worker.service.context import WorkerContext
from worker.service.trainer.lease_guard import LeaseGuard

log = logging.getLogger(__name__)

Note = Callable[[Pointer, VerdictRecord, str], Pointer]
"""(pointer, verdict, name of the version or "") -> the pointer with the verdict noted in it"""


class Promotion:
    """Carries out verdicts for one project.

    Args:
        context: of this process, which holds the project's lease.
        project: as Label Studio has it.
        folder: of its versions.
        lease: of the project, checked right before what is served changes.
    """

    def __init__(self, context: WorkerContext, project: Project, folder: VersionFolder, lease: LeaseGuard) -> None:
        self._context, self._project, self._folder, self._lease = context, project, folder, lease

    def carry_out(self, verdict: Verdict, before: Pointer, *, digest: str, note: Note) -> VerdictRecord:
        """Store what is promoted, then move the pointer and note the verdict, in one write; then have the project's
        unannotated tasks predicted again.

        Args:
            verdict: of the gate.
            before: the pointer that it was judged against; where a person has moved it meanwhile, it stays there.
            digest: of what was learned from, for `Manifest.digest`.
            note: notes the verdict in the pointer.

        Returns:
            the verdict as it is noted.

        Raises:
            RoundAborted, QueueUnavailable: as `LeaseGuard.check`; nothing is moved.
            VersionsUnavailable: the version or the pointer cannot be written.
        """
        context, folder = self._context, self._folder
        record = VerdictRecord(verdict.promoted, verdict.reason, dict(verdict.figures))
        target, newest, version = None, before.newest, ""
        if verdict.promoted:
            target = ZEROSHOT
            if verdict.adapter is not None:
                manifest = self._save(before, verdict.adapter, verdict.learned_from, digest, record)
                target = version = manifest.name
                newest = manifest.number
        with context.adapters.moving(self._project.id):
            self._lease.check()
            pointer = folder.pointer()
            if target is not None and pointer.serial != before.serial:
                reason = f"{pointer.served} was chosen while this was learned: {record.reason}"
                record, target = replace(record, promoted=False, reason=reason), None
            pointer = note(replace(pointer, newest=max(newest, pointer.newest)), record, version)
            pointer = pointer if target is None else pointer.moved(target, by="gate")
            folder.point(pointer)
            context.adapters.tell(folder.owner, pointer)
        log.info("project %d: %s", self._project.id, record.reason)
        if target is not None:
            context.adapters.served(self._project, from_disk=True)
        context.hints.request_refresh(self._project.id)  # to predict again, and to tell the verdict in Label Studio
        if target is not None:
            self._prune()
        return record

    def _save(
        self, before: Pointer, adapter: Adapter, learned_from: tuple[str, ...], digest: str, verdict: VerdictRecord
    ) -> Manifest:
        self._lease.report("keeps the new version")
        # The version to go back to: not one that cannot be loaded any more.
        base, _ = self._context.adapters.served(self._project)
        return save_adapter(
            self._folder, adapter, newest=before.newest, weights=self._context.segmenter.encoder.fingerprint,
            base=base, digest=digest, learned_from=learned_from, verdict=verdict,
        )  # fmt: skip

    def _prune(self) -> None:
        """Delete old versions: all but what is served, what was served before it, and the newest few. The pointer is
        locked meanwhile: else a version that a person has just gone back to would be deleted.
        """
        folder, project = self._folder, self._project.id
        try:
            with self._context.adapters.moving(project):
                served = folder.pointer().served
                before = folder.manifest(served).base if adapter_number(served) else ZEROSHOT
                for name in folder.prune({served, before}):
                    log.info("project %d: version %s is deleted: old and not served", project, name)
        except (LearningError, VersionsUnavailable, QueueUnavailable) as error:  # the next promotion tries again
            log.warning("project %d: %s", project, error)
