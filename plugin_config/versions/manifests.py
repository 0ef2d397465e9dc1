"""What is kept of a project's learning on disk, and which version of it is served: the truth about both.

    <place>/<Label Studio>/<project>/<model>/served.json               the pointer, and what was learned from last
    <place>/<Label Studio>/<project>/<model>/<version>/adapter.safetensors
    <place>/<Label Studio>/<project>/<model>/<version>/manifest.json   written last: without it there is no version

It must not know tensors, Redis, or who moves the pointer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from plugin_config.errors import LearningError
from plugin_config.json_records import make_dataclass
from plugin_config.model_version import ZEROSHOT, adapter_number, model_slug
from plugin_config.versions.storage import Storage

log = logging.getLogger(__name__)

KEPT = 5
_POINTER, _MANIFEST, _ADAPTER = "served.json", "manifest.json", "adapter.safetensors"
_PROBE, _PROBE_BYTES = "room.probe", 4 << 20
_MOST_BYTES = 64 << 20
_REMEDY = "Serve another one with `zeromask rollback`, or put the file back; see `zeromask versions`."


@dataclass(frozen=True)
class Owner:
    """Whose versions these are. Nobody else may load them.

    Attributes:
        label_studio: its address.
        project: number of the project there.
        created: when the project was made there: numbers are given again when a Label Studio starts anew.
        model: the MODEL setting.
    """

    label_studio: str
    project: int
    created: str
    model: str

    @property
    def folder(self) -> str:
        """Where its versions lie, below the place of all versions."""
        address = self.label_studio.rstrip("/").lower()
        host = re.sub(r"[^a-z0-9]+", "-", address.partition("://")[2] or address).strip("-")
        return f"{host}-{_short(address)}/{self.project}-{_short(self.created)}/{model_slug(self.model)}"


@dataclass(frozen=True)
class VerdictRecord:
    """What the gate said of something learned, and its figures."""

    promoted: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything about one version but its tensors.

    Attributes:
        name: `a<number>-<first digits of the sum>`, as it stands in the version string of predictions.
        owner: whose it is.
        weights: fingerprint of the model it was learned on; an attempt's tells the recipe's form besides.
        recipe, about: how it was learned, and what the recipe wants to know when it is loaded.
        base: the version served when it was made.
        at: when it was made, UTC.
        digest: of what the corrections said when it was made, an attempt's `content`.
        learned_from: keys of the examples it has seen.
        verdict: what the gate said.
        sha256, size: of its tensors' file.
    """

    name: str
    owner: Owner
    weights: str
    recipe: str
    about: Mapping[str, Any]
    base: str
    at: str
    digest: str
    learned_from: tuple[str, ...]
    verdict: VerdictRecord
    sha256: str
    size: int

    @property
    def number(self) -> int:
        """Versions of a project count from 1."""
        return adapter_number(self.name)


@dataclass(frozen=True)
class Attempt:
    """The last time corrections were learned from, whatever came of it.

    Attributes:
        digest: of the corrections and the labels as Label Studio lists them; changes more often than what they say.
        tasks: annotated images there were; `latest` when the last of them was changed, in Label Studio's words.
        vocabulary: hash of the labels.
        at: when, UTC.
        verdict: what came of it; `version` its name where one was made.
        weights: fingerprint of the model it was learned on, and form of the recipe; "" = written before that was noted.
        content: of what the corrections said, and of `weights`; "" likewise.
        missing: tasks left out for what most likely passes, such as a server that is down, and why; `missing_at` when
            they were tried last, UTC.
        outcomes: label key -> how many regions of it annotators left "accepted", "changed", "deleted" or "added".
    """

    digest: str
    tasks: int
    latest: str
    vocabulary: str
    at: str
    verdict: VerdictRecord
    version: str = ""
    weights: str = ""
    content: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    missing_at: str = ""
    outcomes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pointer:
    """What is served now. `serial` grows with every move; `rejected` are digests of corrections whose version a
    person rolled back from: they do not bring it back by themselves.
    """

    served: str = ZEROSHOT
    serial: int = 0
    moved_by: str = ""
    moved_at: str = ""
    newest: int = 0
    rejected: tuple[str, ...] = ()
    attempt: Attempt | None = None

    def moved(self, served: str, *, by: str) -> Pointer:
        """The pointer at another version."""
        return replace(self, served=served, serial=self.serial + 1, moved_by=by, moved_at=now())


class VersionFolder:
    """The versions of one owner. Every method raises VersionsUnavailable when their place does not answer.

    Args:
        place: a folder, or an fsspec URL; the ZEROMASK_VERSIONS setting.
        owner: whose versions.
    """

    def __init__(self, place: str, owner: Owner) -> None:
        self.owner = owner
        self._storage = Storage(f"{place}/{owner.folder}")

    def pointer(self) -> Pointer:
        """What is served.

        Raises:
            LearningError: the pointer's file is damaged.
        """
        data = self._storage.read(_POINTER, most=_MOST_BYTES)
        if data is None:
            return Pointer()
        found: Pointer = _decoded(_pointer, data, self._storage.told(_POINTER))
        return found

    def point(self, pointer: Pointer) -> None:
        """Make this the pointer, whole or not at all."""
        self._storage.write(_POINTER, _encoded(pointer))

    def names(self) -> list[str]:
        """Versions that are there, whole by the look of it, oldest first."""
        found = [name for name in self._storage.folders() if adapter_number(name)]
        return sorted((name for name in found if self._storage.exists(f"{name}/{_MANIFEST}")), key=adapter_number)

    def manifest(self, name: str) -> Manifest:
        """What is written of a version.

        Raises:
            LearningError: there is no such version, or what is written of it is damaged or of another owner.
        """
        data = self._storage.read(f"{name}/{_MANIFEST}", most=_MOST_BYTES) if adapter_number(name) else None
        if data is None:
            raise LearningError(f"version {name}", f"is not in {self._storage.told('')}", _REMEDY)
        found: Manifest = _decoded(_manifest, data, self._storage.told(f"{name}/{_MANIFEST}"))
        if found.owner != self.owner or found.name != name:
            theirs = f"project {found.owner.project} of {found.owner.label_studio}, model {found.owner.model}"
            raise LearningError(f"version {name}", f"was learned as {found.name} for {theirs}, not here", _REMEDY)
        return found

    def adapter(self, name: str) -> tuple[Manifest, bytes]:
        """A version's manifest and tensors, checked against each other.

        Raises:
            LearningError: as `manifest`, or the tensors are missing or damaged.
        """
        manifest = self.manifest(name)
        data = self._storage.read(f"{name}/{_ADAPTER}", most=manifest.size)
        if data is None or hashlib.sha256(data).hexdigest() != manifest.sha256:
            problem = "has lost its tensors" if data is None else "is damaged: its tensors are not those written"
            raise LearningError(f"version {name}", f"{problem} ({self._storage.told(name)})", _REMEDY)
        return manifest, data

    def add(self, manifest: Manifest, data: bytes) -> None:
        """Keep a version: tensors first, the manifest last."""
        self._storage.write(f"{manifest.name}/{_ADAPTER}", data)
        self._storage.write(f"{manifest.name}/{_MANIFEST}", _encoded(manifest))

    def check_room(self) -> None:
        """Write something of a version's size and delete it again: cheap beside learning what could not be kept."""
        try:
            self._storage.write(_PROBE, bytes(_PROBE_BYTES))
        finally:
            self._storage.delete(_PROBE)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Delete versions but these and the newest few, and what was never finished; returns which."""
        whole = self.names()
        spared = {*keep, *whole[-KEPT:]}
        spare = [name for name in self._storage.folders() if adapter_number(name) and name not in spared]
        for name in spare:
            self._storage.delete(f"{name}/{_MANIFEST}")  # first: without it the rest is no version
            self._storage.delete_folder(name)
        self._storage.delete_leftovers()
        return spare


def now() -> str:
    """The moment as it is written down: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _encoded(value: Pointer | Manifest) -> bytes:
    return json.dumps(asdict(value), indent=1).encode()


def _decoded(make: Any, data: bytes, told: str) -> Any:
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is longer than {_MOST_BYTES >> 20} MB")
        return make(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        problem = f"is damaged ({type(error).__name__}: {str(error)[:100]})"
        raise LearningError(told, problem, "Put it back from a copy, or delete it.") from error


def _pointer(row: Any) -> Pointer:
    attempt = row["attempt"]
    made = None
    if attempt is not None:
        made = make_dataclass(Attempt, attempt, verdict=make_dataclass(VerdictRecord, attempt["verdict"]))
    if made is not None:
        _check_told(made)
    pointer = make_dataclass(Pointer, row, attempt=made)
    if pointer.served != ZEROSHOT and not adapter_number(pointer.served):
        raise ValueError(f"served {pointer.served!r} is no version")
    return pointer


def _check_told(attempt: Attempt) -> None:
    if not all(type(why) is str for why in attempt.missing.values()):
        raise TypeError("missing must hold texts")
    counts = [count for row in attempt.outcomes.values() for count in row.values()]
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        raise TypeError("outcomes must hold counts")


def _manifest(row: Any) -> Manifest:
    owner, verdict = make_dataclass(Owner, row["owner"]), make_dataclass(VerdictRecord, row["verdict"])
    return make_dataclass(Manifest, row, owner=owner, verdict=verdict)
