"""The versions of a project as they are on disk, and whether this process sees them at all."""

from __future__ import annotations

from dataclasses import dataclass

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.versions.manifests import Manifest, Pointer, VersionFolder
from plugin_config.versions.rollback import manifests
from plugin_config.versions.served import ServedCopy


@dataclass(frozen=True)
class ProjectVersions:
    """What was learned of a project.

    Attributes:
        pointer: to what is served; None where it cannot be read.
        rows: the versions, oldest first; for one that cannot be read, the error.
        trouble: why nothing can be read, as a sentence; "" = it was read.
    """

    pointer: Pointer | None = None
    rows: tuple[Manifest | LearningError, ...] = ()
    trouble: str = ""


def read_versions(copy: ServedCopy) -> ProjectVersions:
    """Read the versions from the place that workers name; what goes wrong is told in the result.

    Args:
        copy: Redis' copy of the pointer.
    """
    try:
        folder = VersionFolder(copy.place, copy.owner)
        pointer = folder.pointer()
        copy.check_place(pointer)
        return ProjectVersions(pointer, tuple(manifests(folder)))
    except (LearningError, VersionsUnavailable) as error:
        return ProjectVersions(trouble=str(error))
