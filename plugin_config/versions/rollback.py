"""Serve another version, as a person chooses: `zeromask rollback`.

The pointer on disk is moved, then the copy in Redis, and then the project is queued to be read again, so that tasks
without annotations are predicted again. A version's files are checked before the pointer names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from redis import Redis

from plugin_config.errors import LearningError
from plugin_config.model_version import ZEROSHOT, Learned, ModelVersion, adapter_number, model_slug
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.presence import WorkerPresence
from plugin_config.versions.calibrations import CalibrationFile
from plugin_config.versions.manifests import Manifest, Pointer, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy

_SHOWN = re.compile(r"v([0-9]{1,18})")


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
    """The copy in Redis that says where the project's versions are.

    Args:
        redis: a connection.
        project: the project's number.
        model: the MODEL setting; it matters only where several models serve the project.

    Raises:
        LearningError: no worker has served the project, or several models do and none of them is this.
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
    models = ", ".join(copy.owner.model for copy in copies)
    raise LearningError(f"project {project}", f"is served by several models: {models}", "Set MODEL to one of them.")


def roll_back(redis: Redis, project: int, model: str, version: str = "") -> Rollback:
    """Serve a version again.

    Args:
        redis: a connection.
        project: the project's number.
        model: as for `find_copy`.
        version: name, number (`a3`, or `v003` as Label Studio shows it), "zeroshot", or the whole version of a
            prediction; "" = the one before.

    Raises:
        LearningError: there is no such version, it is damaged, or it is of a model that no running worker serves while
            workers with another model run.
        VersionsUnavailable: the versions can be neither read nor written, or are not those that workers serve.
        QueueUnavailable: Redis does not answer.
    """
    copy = find_copy(redis, project, model)
    _require_live(redis, copy)
    folder, served = VersionFolder(copy.place, copy.owner), ServedAdapters(redis)
    with served.pointer_lock(project):
        pointer = folder.pointer()
        copy.check_place(pointer)
        target, skipped = (_named(folder, version), "") if version else _before(folder, pointer)
        if target == pointer.served:
            raise LearningError(f"version {target}", "is what is served", f"See `zeromask versions {project}`.")
        learned = Learned()
        if target != ZEROSHOT:
            learned = folder.adapter(target)[0].learned  # raises where it is not whole
        moved = replace(pointer.moved(target, by="person"), rejected=_rejected(folder, pointer, target))
        folder.point(moved)
        calibration = CalibrationFile(copy.place, copy.owner).of(target)
        served.write(project, ServedCopy(target, moved.serial, copy.place, copy.owner, calibration=calibration,
                                         learned=learned.source, made=learned.made))  # fmt: skip
    hints = ProjectHints(redis)
    hints.begin_refresh(project)  # a refresh noted long ago may have no job in the queue any more
    hints.request_refresh(project)
    return Rollback(pointer.served, target, skipped)


def manifests(folder: VersionFolder) -> list[Manifest | LearningError]:
    """The manifests of a project's versions, oldest first; for one that cannot be read, the error."""
    found: list[Manifest | LearningError] = []
    for name in folder.names():
        try:
            found.append(folder.manifest(name))
        except LearningError as error:
            found.append(error)
    return found


def _require_live(redis: Redis, copy: ServedCopy) -> None:
    """Refuse to move a pointer that no running worker follows: predictions would stay as they are."""
    live = sorted({worker.about["model"] for worker in WorkerPresence(redis).workers() if worker.about.get("model")})
    mine = copy.owner.model
    if live and model_slug(mine) not in map(model_slug, live):
        models = " and ".join(live)
        problem = f"is served by model {models} now; no worker serves {mine}, whose version this would move"
        remedy = f"Set MODEL={live[0]}, or start workers with MODEL={mine} first."
        raise LearningError(f"project {copy.owner.project}", problem, remedy)


def _before(folder: VersionFolder, pointer: Pointer) -> tuple[str, str]:
    """The version served before and ""; where it is deleted, ZEROSHOT and its name."""
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
    """The version that a person means; see `roll_back`."""
    known = [*folder.names(), ZEROSHOT]
    prediction = ModelVersion.parse(version)
    wanted = prediction.adapter if prediction else version
    if found := _SHOWN.fullmatch(version):
        wanted = f"a{int(found[1])}" if int(found[1]) else ZEROSHOT
    for name in known:
        if wanted in (name, name.partition("-")[0]):
            return name
    raise LearningError(f"version {version}", f"is none of {', '.join(known)}", "Choose one of them.")


def _rejected(folder: VersionFolder, pointer: Pointer, target: str) -> tuple[str, ...]:
    """Digests of the corrections that shall not promote their version again: those rejected before and those of every
    version above the target; not the target's own.
    """
    digests = dict.fromkeys(pointer.rejected)
    for found in manifests(folder):
        if isinstance(found, Manifest):
            if adapter_number(target) < found.number <= adapter_number(pointer.served):
                digests[found.digest] = None
            if found.name == target:
                digests.pop(found.digest, None)
    return tuple(digests)
