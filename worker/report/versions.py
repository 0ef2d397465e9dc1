"""The version of a project that clicks are answered with, loaded from where versions are kept."""

from __future__ import annotations

from dataclasses import dataclass

from plugin_config.errors import LearningError
from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT, engine_name
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner, VersionFolder
from worker.learning.adapter_files import unpack_adapter
from worker.learning.interfaces import Adapter
from worker.segmentation.segmenter import Segmenter

_REMEDY = "Name another with --version: `zeromask versions` lists them."


@dataclass(frozen=True)
class ReportedVersion:
    """A version of a project's predictions, without the labels.

    Attributes:
        engine: the model, with the settings that change masks.
        adapter_name: of the version, or ZEROSHOT.
        adapter: what was learned; None = zero-shot.
    """

    engine: str
    adapter_name: str
    adapter: Adapter | None

    @property
    def name(self) -> str:
        """As `AnnotationRecord.version` has it."""
        return f"{self.engine}-{self.adapter_name}"


def load_version(settings: Settings, project: Project, segmenter: Segmenter, name: str = "") -> ReportedVersion:
    """Load a version.

    Args:
        settings: where versions are kept.
        project: whose.
        segmenter: the model that is loaded.
        name: of the version, or ZEROSHOT; "" = the one that is served.

    Raises:
        LearningError: it is missing, damaged, or was learned on other weights than those loaded.
        VersionsUnavailable: the place does not answer.
    """
    owner = Owner(settings.label_studio_url, project.id, project.created, settings.model)
    folder = VersionFolder(settings.versions_url, owner)
    name = name or folder.pointer().served
    if name == ZEROSHOT:
        return ReportedVersion(engine_name(settings), name, None)
    manifest, data = folder.adapter(name)
    if manifest.weights != segmenter.encoder.fingerprint:
        problem = f"was learned on other weights of {settings.model} than those loaded, or read in another way"
        raise LearningError(f"version {name}", problem, _REMEDY)
    adapter = unpack_adapter(f"version {name}", manifest.recipe, manifest.about, data, segmenter, remedy=_REMEDY)
    return ReportedVersion(engine_name(settings), name, adapter)
