"""Adapters as bytes, and as a folder of two files that the command line trains, evaluates and segments with.

    <folder>/adapter-<first digits of sha256>.safetensors
    <folder>/adapter.json                                   written last: names the file above, so that both fit
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from plugin_config.errors import EnvironmentBroken, LearningError
from plugin_config.files import written_whole
from worker.learning.interfaces import AFFINITY_TOWER, Adapter, AdapterState
from worker.learning.recipes import recipe_named
from worker.segmentation.segmenter import Segmenter

FORM = 1
"""Number of the format of the folder."""

MANIFEST = "adapter.json"
"""Name of the file that makes a folder an adapter."""

_DIGITS = 12  # of the checksum in a name
_MOST_BYTES = 8 << 30
_ROOM = "Make room on the disk or name another folder; what was there before is whole."
_AGAIN = "Train it again with `zeromask train`."


@dataclass(frozen=True)
class AdapterRecord:
    """Everything about a folder's adapter but its tensors.

    Attributes:
        recipe, about: as `AdapterState` has them.
        model: name of the model it was trained on.
        weights: fingerprint of that model.
        training: JSON about how it was trained, such as command, steps and the labels that were never shown.
        file: name of the file of its tensors.
        sha256: of that file.
    """

    recipe: str
    about: Mapping[str, Any]
    model: str
    weights: str
    training: Mapping[str, Any]
    file: str
    sha256: str


def pack_tensors(state: AdapterState) -> bytes:
    """The tensors of an adapter as safetensors."""
    return save({name: values.detach().contiguous() for name, values in state.tensors.items()})


def unpack_adapter(
    subject: str, recipe: str, about: Mapping[str, Any], data: bytes, segmenter: Segmenter, *, remedy: str
) -> Adapter:
    """Make an adapter of what `pack_tensors` returned.

    Args:
        subject: what the error is about.
        recipe, about: as `AdapterState` has them.
        data: safetensors.
        segmenter: holds the frozen weights.
        remedy: where the data are damaged.

    Raises:
        LearningError: the data are no tensors, hold no numbers, or are not what the recipe writes.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise LearningError(subject, f"holds no tensors ({error})", remedy) from error
    for part, values in tensors.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise LearningError(subject, f"holds no numbers (NaN or infinite) in {part!r}", remedy)
    return recipe_named(recipe).load(AdapterState(recipe, tensors, about), segmenter)


def save_adapter_folder(
    folder: Path, adapter: Adapter, segmenter: Segmenter, training: Mapping[str, Any]
) -> AdapterRecord:
    """Write an adapter to a folder, whole or not at all; an adapter that was there before is replaced.

    Args:
        folder: made where it is missing.
        adapter: to store.
        segmenter: the model it was trained on.
        training: JSON about how.

    Raises:
        EnvironmentBroken: it cannot be written; what was there before is whole.
    """
    state = adapter.state()
    data = pack_tensors(state)
    checksum = hashlib.sha256(data).hexdigest()
    encoder = segmenter.encoder
    record = AdapterRecord(state.recipe, dict(state.about), encoder.name, encoder.fingerprint, dict(training),
                           f"adapter-{checksum[:_DIGITS]}.safetensors", checksum)  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / record.file) as aside:
            aside.write_bytes(data)
        with written_whole(folder / MANIFEST, durable=True) as aside:
            aside.write_text(json.dumps({"form": FORM, **vars(record)}, indent=1) + "\n")
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"the adapter cannot be written ({error})", _ROOM) from error
    for old in folder.glob("adapter-*.safetensors"):
        if old.name != record.file:
            with suppress(OSError):
                old.unlink()
    return record


def read_adapter_record(folder: Path) -> AdapterRecord:
    """Read what a folder says about its adapter.

    Raises:
        LearningError: the folder holds none, or one of another release.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        remedy = "Name the folder that `zeromask train --output-dir` wrote."
        raise LearningError(f"folder {folder}", f"holds no adapter: there is no {MANIFEST}", remedy) from error
    except OSError as error:
        problem = f"its {MANIFEST} cannot be read ({type(error).__name__}: {error})"
        raise LearningError(f"folder {folder}", problem, _AGAIN) from error
    return parse_adapter_record(f"folder {folder}", text)


def parse_adapter_record(subject: str, text: bytes) -> AdapterRecord:
    """Parse what a folder says about its adapter.

    Args:
        subject: what the error is about.
        text: of its `MANIFEST`.

    Raises:
        LearningError: it is none, or of another release.
    """
    try:
        found = json.loads(text)
        form = found.pop("form")
        record = AdapterRecord(**found)
        texts = (record.recipe, record.model, record.weights, record.file, record.sha256)
        fits = (
            form == FORM and all(type(one) is str for one in texts) and Path(record.file).name == record.file
            and isinstance(record.about, dict) and isinstance(record.training, dict)
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"its {MANIFEST} cannot be read ({type(error).__name__}: {error})"
        raise LearningError(subject, problem, _AGAIN) from error
    if not fits:
        raise LearningError(subject, f"its {MANIFEST} is not of this release", _AGAIN)
    return record


def load_adapter_folder(folder: Path, segmenter: Segmenter) -> Adapter:
    """Load an adapter that `save_adapter_folder` wrote.

    Raises:
        LearningError: there is none, it is damaged, or was trained on other weights than those loaded.
    """
    record = read_adapter_record(folder)
    subject = f"adapter {folder}"
    remedy = f"Give --model {record.model} and the settings it was trained under, or train another."
    _check_weights(subject, record, segmenter, remedy)
    try:
        path = folder / record.file
        data = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
    except OSError as error:
        raise LearningError(subject, f"its tensors cannot be read ({error})", _AGAIN) from error
    return load_recorded_adapter(subject, record, data, segmenter, remedy=remedy)


def load_recorded_adapter(
    subject: str, record: AdapterRecord, data: bytes, segmenter: Segmenter, *, remedy: str
) -> Adapter:
    """Load an adapter whose two files are read already.

    Args:
        subject: what the error is about.
        record: what its folder says about it.
        data: its tensors.
        segmenter: the model that is loaded.
        remedy: where it was trained on other weights.

    Raises:
        LearningError: it is damaged, or was trained on other weights than those loaded.
    """
    _check_weights(subject, record, segmenter, remedy)
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise LearningError(subject, f"{record.file} is damaged: it is not what was written", _AGAIN)
    return unpack_adapter(subject, record.recipe, record.about, data, segmenter, remedy=_AGAIN)


def check_affinity_tower(subject: str, about: Mapping[str, Any], segmenter: Segmenter) -> None:
    """Check that the affinity tower which an adapter needs, if any, is the one that is set.

    Args:
        subject: what the error is about.
        about: as `AdapterState` has it.
        segmenter: holds the frozen weights.

    Raises:
        LearningError: it is not.
    """
    needed = about.get(AFFINITY_TOWER)
    if not (isinstance(needed, list) and len(needed) == 2):  # it needs none, or its recipe finds it damaged
        return
    name, weights = map(str, needed)
    tower = segmenter.encoder.affinity_tower
    if tower is None:
        problem, remedy = f"needs the affinity tower {name}, and none is set", f"Set ZEROMASK_AFFINITY_TOWER={name}"
        raise LearningError(subject, problem, f"{remedy} (or {name}:FILE with its weights), or learn again without it.")
    if tower.fingerprint != weights:
        problem = f"needs the affinity tower {name} with other weights than the {tower.architecture} that is set"
        remedy = "Set ZEROMASK_AFFINITY_TOWER to the tower that it was learned with, or learn again with this one."
        raise LearningError(subject, problem, remedy)


def _check_weights(subject: str, record: AdapterRecord, segmenter: Segmenter, remedy: str) -> None:
    check_affinity_tower(subject, record.about, segmenter)
    encoder = segmenter.encoder
    if record.weights != encoder.fingerprint:
        problem = f"was trained on other weights ({record.model}) than those loaded ({encoder.name})"
        raise LearningError(subject, problem, remedy)
