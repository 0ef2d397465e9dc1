"""Serve another version of what was learned, as a person chooses: `zeromask rollback`. It must not know terminals.

It moves the pointer on disk, then Redis' copy, then asks for a look at the project, which predicts again what nobody
annotated. A version's files are checked before the pointer names it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from redis import Redis

from plugin_config.errors import LearningError
from plugin_config.model_version import ZEROSHOT, adapter_number, model_slug
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.presence import WorkerPresence
from plugin_config.versions.manifests import Manifest, Pointer, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        before: name of the version served before.
        after: name of the version served now.
        missing: the version that should have been served, where it is deleted; "" = it was there.
    """

    before: str
    after: str
    missing: str = ""


def find_copy(redis: Redis, project: int, model: str) -> ServedCopy:
    """Where the project's versions are, as its workers told.

    Args:
        redis: a connection.
        project: the project's number.
        model: the MODEL setting; only asked where several models serve the project.

    Raises:
        LearningError: no worker told anything of the project, or which model is not clear.
        QueueUnavailable: Redis does not answer.
    """
    copies = ServedAdapters(redis).copies(project)
    if len(copies) > 1:
        copies = [copy for copy in copies if model_slug(copy.owner.model) == model_slug(model)] or copies
    if len(copies) == 1:
        return copies[0]
    if not copies:
        remedy = "Start its worker and predict something; the number is in the address of the project's page."
        raise LearningError(f"project {project}", "no worker has served it yet", remedy)
    told = ", ".join(copy.owner.model for copy in copies)
    raise LearningError(f"project {project}", f"is served by several models: {told}", "Set MODEL to one of them.")


def roll_back(redis: Redis, project: int, model: str, version: str = "") -> Rollback:
    """Serve a version again.

    Args:
        redis: a connection.
        project: the project's number.
        model: as for `find_copy`.
        version: name, number (`a3`), "zeroshot", or the whole version string of a prediction; "" = the one before.

    Raises:
        LearningError: there is no such version, or it is damaged, or it is of a model that no worker serves now while
            workers of another one live.
        VersionsUnavailable: the versions can be neither read nor written.
        QueueUnavailable: Redis does not answer.
    """
    copy = find_copy(redis, project, model)
    _require_live(redis, copy)
    folder, served = VersionFolder(copy.place, copy.owner), ServedAdapters(redis)
    with served.moving(project):
        pointer = folder.pointer()
        target, skipped = (_named(folder, version), "") if version else _before(folder, pointer)
        if target == pointer.served:
            raise LearningError(f"version {target}", "is what is served", f"See `zeromask versions {project}`.")
        if target != ZEROSHOT:
            folder.adapter(target)  # raises where it is not whole
        moved = replace(pointer.moved(target, by="person"), rejected=_rejected(folder, pointer, target))
        folder.point(moved)
        served.copy(project, ServedCopy(target, moved.serial, copy.place, copy.owner))
    hints = ProjectHints(redis)
    hints.begin_refresh(project)  # a look that waits may have been asked for long ago and not be queued any more
    hints.request_refresh(project)
    return Rollback(pointer.served, target, skipped)


def manifests(folder: VersionFolder) -> list[Manifest | LearningError]:
    """Everything written of a project's versions, oldest first; for what cannot be read, why not."""
    found: list[Manifest | LearningError] = []
    for name in folder.names():
        try:
            found.append(folder.manifest(name))
        except LearningError as error:
            found.append(error)
    return found


def _require_live(redis: Redis, copy: ServedCopy) -> None:
    """What no worker serves can be moved without any effect on predictions: not what a person means by it."""
    live = sorted({worker.about["model"] for worker in WorkerPresence(redis).workers() if worker.about.get("model")})
    mine = copy.owner.model
    if live and model_slug(mine) not in map(model_slug, live):
        told = " and ".join(live)
        problem = f"is served by model {told} now; this would move what was learned for {mine}, which nobody serves"
        remedy = f"Set MODEL={live[0]}, or start workers with MODEL={mine} first."
        raise LearningError(f"project {copy.owner.project}", problem, remedy)


def _before(folder: VersionFolder, pointer: Pointer) -> tuple[str, str]:
    """What was served before, or the zero-shot model where that is gone; and what was skipped for that."""
    if pointer.served == ZEROSHOT:
        remedy = "Name a version to serve; see `zeromask versions`."
        raise LearningError(f"project {folder.owner.project}", "is served zero-shot: nothing is before that", remedy)
    try:
        wanted = folder.manifest(pointer.served).base
    except LearningError:
        older = [name for name in folder.names() if adapter_number(name) < adapter_number(pointer.served)]
        wanted = older[-1] if older else ZEROSHOT
    return (wanted, "") if wanted == ZEROSHOT or wanted in folder.names() else (ZEROSHOT, wanted)


def _named(folder: VersionFolder, version: str) -> str:
    known = [*folder.names(), ZEROSHOT]
    for name in known:
        if version in (name, name.partition("-")[0]) or f"-{name}-" in version:
            return name
    raise LearningError(f"version {version}", f"is none of {', '.join(known)}", "Choose one of them.")


def _rejected(folder: VersionFolder, pointer: Pointer, target: str) -> tuple[str, ...]:
    """The corrections that do not bring back by themselves what a person did not want: those of the versions passed
    over on the way down, and of the last attempt when that made one of them.
    """
    digests = dict.fromkeys(pointer.rejected)
    for found in manifests(folder):
        if isinstance(found, Manifest):
            if adapter_number(target) < found.number <= adapter_number(pointer.served):
                digests[found.digest] = None
            if found.name == target:
                digests.pop(found.digest, None)
    return tuple(digests)
