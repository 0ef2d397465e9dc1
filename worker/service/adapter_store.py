"""Adapters to and from versions on disk: safetensors and JSON, checked before an adapter is made of them."""

from __future__ import annotations

import hashlib

from plugin_config.errors import LearningError
from plugin_config.model_version import adapter_name, adapter_number
from plugin_config.versions.manifests import Manifest, VerdictRecord, VersionFolder, now
from worker.learning.adapter_files import check_affinity_tower, pack_tensors, unpack_adapter
from worker.learning.interfaces import Adapter
from worker.segmentation.segmenter import Segmenter

_REMEDY = "Serve another version with `zeromask rollback`; the next corrections make a new one."


def save_adapter(
    folder: VersionFolder, adapter: Adapter, *, newest: int, weights: str, base: str, digest: str,
    learned_from: tuple[str, ...], verdict: VerdictRecord,
) -> Manifest:  # fmt: skip
    """Write an adapter as a new version, whole or not at all. It is not served until the pointer names it.

    Args:
        folder: of its project.
        adapter: to store.
        newest: highest number given so far, also to versions that were deleted.
        weights: fingerprint of the model it was trained on.
        base, digest, learned_from, verdict: as `Manifest` has them.

    Raises:
        VersionsUnavailable: it could not be written.
    """
    state = adapter.state()
    data = pack_tensors(state)
    checksum = hashlib.sha256(data).hexdigest()
    number = 1 + max([newest, *map(adapter_number, folder.names())])
    manifest = Manifest(
        adapter_name(number, checksum), folder.owner, weights, state.recipe, dict(state.about), base, now(), digest,
        learned_from, verdict, checksum, len(data),
    )  # fmt: skip
    folder.add(manifest, data)
    return manifest


def load_adapter(folder: VersionFolder, name: str, segmenter: Segmenter) -> tuple[Manifest, Adapter]:
    """Load a version.

    Args:
        folder: of its project.
        name: of the version.
        segmenter: the model that is loaded.

    Raises:
        LearningError: it is missing, damaged, of another project or model, or not what its recipe writes.
        VersionsUnavailable: the place does not answer.
    """
    manifest, data = folder.adapter(name)
    return manifest, make_adapter(manifest, data, segmenter)


def make_adapter(manifest: Manifest, data: bytes, segmenter: Segmenter) -> Adapter:
    """Make an adapter of the whole files of a version.

    Raises:
        LearningError: this process cannot use it: it was learned on other weights, or is not what its recipe writes.
    """
    subject = f"version {manifest.name}"
    check_affinity_tower(subject, manifest.about, segmenter)
    if manifest.weights != segmenter.encoder.fingerprint:
        problem = f"was learned on other weights of {manifest.owner.model} than those loaded, or read in another way"
        raise LearningError(subject, problem, _REMEDY)
    return unpack_adapter(subject, manifest.recipe, manifest.about, data, segmenter, remedy=_REMEDY)
