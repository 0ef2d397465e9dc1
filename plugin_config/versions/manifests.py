"""The versions of a project on disk, and the pointer to the one that is served. This is the truth about both.

    <place>/<Label Studio>/<project>/<model>/served.json               the pointer, and the last attempt to learn
    <place>/<Label Studio>/<project>/<model>/<version>/adapter.safetensors
    <place>/<Label Studio>/<project>/<model>/<version>/manifest.json   written last: without it there is no version
    <place>/<Label Studio>/<project>/<model>/offer-<name>/             an adapter folder that waits for its verdict
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.json_records import make_dataclass
from plugin_config.model_version import ZEROSHOT, Learned, adapter_number, model_slug
from plugin_config.versions.storage import Storage

log = logging.getLogger(__name__)

KEPT = 5
QUICK = "quick"
"""Name of the recipe that learns from every correction; of others, versions name it."""

OFFERED = "offered"
"""Of contenders: those that a person offered."""

_POINTER, _MANIFEST, _ADAPTER = "served.json", "manifest.json", "adapter.safetensors"
_OFFER, _OFFERED_RECORD = "offer-", "adapter.json"
_PROBE, _PROBE_BYTES = "room.probe", 4 << 20
_MOST_BYTES = 64 << 20
_REMEDY = "Serve another one with `zeromask rollback`, or put the file back; see `zeromask versions`."


@dataclass(frozen=True)
class Owner:
    """What versions were learned for; they are loaded for nothing else.

    Attributes:
        label_studio: its address.
        project: id of the project there.
        created: when the project was created there: a Label Studio set up anew gives the same ids again.
        model: the MODEL setting.
    """

    label_studio: str
    project: int
    created: str
    model: str

    @property
    def folder(self) -> str:
        """Path of its versions below the place of all versions."""
        address = self.label_studio.rstrip("/").lower()
        host = re.sub(r"[^a-z0-9]+", "-", address.partition("://")[2] or address).strip("-")
        return f"{host}-{_short(address)}/{self.project}-{_short(self.created)}/{model_slug(self.model)}"


@dataclass(frozen=True)
class VerdictRecord:
    """The gate's verdict on something learned, and its figures."""

    promoted: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything about one version but its tensors.

    Attributes:
        name: `a<number>-<first digits of sha256>`, as in the version string of predictions.
        owner: what it was learned for.
        weights: fingerprint of the model it was learned on. (An attempt's holds the recipe's form as well.)
        recipe, about: name of the recipe, and what it needs when the version is loaded.
        base: name of the version served when it was made.
        at: when it was made, UTC.
        digest: of the content of the corrections it was made from; an attempt's `content`.
        learned_from: keys of the examples it was learned from.
        verdict: of the gate.
        sha256, size: of the file of its tensors.
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
        """Its number; versions of a project count from 1."""
        return adapter_number(self.name)

    @property
    def learned(self) -> Learned:
        """What the names of its predictions' version say of it: recipe, unless it is `quick`, what it learned from, and
        the day.
        """
        recipe = "" if self.recipe == QUICK else f"{_words(self.recipe)} "
        images = len(self.learned_from)
        source = f"{recipe}+{images} corrected" if images else f"{recipe}offered"
        try:
            return Learned(source, self.at[:10])
        except ValueError:  # of a manifest that somebody edited
            return Learned()


@dataclass(frozen=True)
class Attempt:
    """The last attempt to learn from corrections, whatever its verdict.

    Attributes:
        digest: of the corrections and the labels as Label Studio lists them; it changes more often than their content.
        tasks: how many annotated tasks there were.
        latest: when the last of them changed, as Label Studio writes it.
        vocabulary: hash of the labels.
        at: when, UTC.
        verdict: of the gate.
        version: name of the version where one was made.
        weights: fingerprint of the model and form of the recipe; "" = of a release that did not record it.
        content: digest of the content of the corrections, and of `weights`; "" likewise.
        missing: id of a task, or key of one of its several images, "task/...", -> why it was left out, where the cause
            is likely to pass, such as a server that is down.
        missing_at: when these were tried last, UTC.
        left_out: task -> why it is not learned from until somebody changes it, such as a malformed annotation.
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
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """An adapter that did not come from the recipe `quick`, as the gate judged it last.

    Attributes:
        recipe: that made it.
        source: where it comes from, for people: "offered, lseg of drawn:words", "learned beside quick".
        at: when it was judged, UTC.
        verdict: of the gate.
        version: name of the version where one was made.
        content: digest of the corrections it was judged on, and where it learned from them of its recipe.
    """

    recipe: str
    source: str
    at: str
    verdict: VerdictRecord
    version: str = ""
    content: str = ""


@dataclass(frozen=True)
class Pointer:
    """Which version is served.

    Attributes:
        served: its name, or ZEROSHOT.
        serial: grows with every move.
        moved_by: "gate" or "person"; `moved_at` when, UTC.
        newest: the highest number that a version had so far.
        rejected: digests of corrections whose version a person rolled back from; learning from the same corrections
            does not promote it again.
        attempt: the last one.
        contenders: the last of each kind: OFFERED, or the name of the recipe that learns beside `quick`.
    """

    served: str = ZEROSHOT
    serial: int = 0
    moved_by: str = ""
    moved_at: str = ""
    newest: int = 0
    rejected: tuple[str, ...] = ()
    attempt: Attempt | None = None
    contenders: Mapping[str, Contender] = field(default_factory=dict)

    def moved(self, served: str, *, by: str) -> Pointer:
        """The pointer to another version."""
        return replace(self, served=served, serial=self.serial + 1, moved_by=by, moved_at=now())


class VersionFolder:
    """The versions of one owner. Every method raises VersionsUnavailable where their place cannot be reached.

    Args:
        place: a folder, or an fsspec URL; the ZEROMASK_VERSIONS setting.
        owner: whose versions.
    """

    def __init__(self, place: str, owner: Owner) -> None:
        self.owner = owner
        self._storage = Storage(f"{place}/{owner.folder}")

    def pointer(self) -> Pointer:
        """Read the pointer.

        Raises:
            LearningError: its file is damaged.
        """
        data = self._storage.read(_POINTER, most=_MOST_BYTES)
        if data is None:
            return Pointer()
        found: Pointer = _decoded(_pointer, data, self._storage.address(_POINTER))
        return found

    def point(self, pointer: Pointer) -> None:
        """Write the pointer, whole or not at all."""
        self._storage.write(_POINTER, _encoded(pointer))

    def names(self) -> list[str]:
        """Names of the versions that have a manifest, oldest first."""
        found = [name for name in self._storage.folders() if adapter_number(name)]
        return sorted((name for name in found if self._storage.exists(f"{name}/{_MANIFEST}")), key=adapter_number)

    def manifest(self, name: str) -> Manifest:
        """Read the manifest of a version.

        Raises:
            LearningError: there is no such version, or its manifest is damaged or of another owner.
        """
        data = self._storage.read(f"{name}/{_MANIFEST}", most=_MOST_BYTES) if adapter_number(name) else None
        if data is None:
            raise LearningError(f"version {name}", f"is not in {self._storage.address('')}", _REMEDY)
        found: Manifest = _decoded(_manifest, data, self._storage.address(f"{name}/{_MANIFEST}"))
        if found.owner != self.owner or found.name != name:
            theirs = f"project {found.owner.project} of {found.owner.label_studio}, model {found.owner.model}"
            raise LearningError(f"version {name}", f"was learned as {found.name} for {theirs}, not here", _REMEDY)
        return found

    def adapter(self, name: str) -> tuple[Manifest, bytes]:
        """Read a version: its manifest, and its tensors checked against that.

        Raises:
            LearningError: as `manifest`, or the tensors are missing or damaged.
        """
        manifest = self.manifest(name)
        data = self._storage.read(f"{name}/{_ADAPTER}", most=manifest.size)
        if data is None or hashlib.sha256(data).hexdigest() != manifest.sha256:
            problem = "has lost its tensors" if data is None else "is damaged: its tensors are not those written"
            raise LearningError(f"version {name}", f"{problem} ({self._storage.address(name)})", _REMEDY)
        return manifest, data

    def add(self, manifest: Manifest, data: bytes) -> None:
        """Write a version: tensors first, the manifest last."""
        self._storage.write(f"{manifest.name}/{_ADAPTER}", data)
        self._storage.write(f"{manifest.name}/{_MANIFEST}", _encoded(manifest))

    def add_offer(self, name: str, record: bytes, data: bytes) -> None:
        """Keep an adapter folder until a learner has judged it; what earlier offers left goes.

        Args:
            name: `offer-...`.
            record: its adapter.json.
            data: its tensors.
        """
        for left in self._storage.folders():
            if left.startswith(_OFFER):
                self.delete_offer(left)
        try:
            self._storage.write(f"{name}/{_ADAPTER}", data)
            self._storage.write(f"{name}/{_OFFERED_RECORD}", record)
        except VersionsUnavailable:
            with suppress(VersionsUnavailable):
                self.delete_offer(name)
            raise

    def offer(self, name: str) -> tuple[bytes, bytes]:
        """Read an offer: its adapter.json and its tensors.

        Raises:
            LearningError: it is not there, or not whole.
        """
        record = self._storage.read(f"{name}/{_OFFERED_RECORD}", most=_MOST_BYTES)
        data = None if record is None else self._storage.read(f"{name}/{_ADAPTER}")
        if record is None or data is None:
            problem = f"its files are not in {self._storage.address(name)}, where the learner looks"
            remedy = "Offer it from a machine or container that sees the same ZEROMASK_VERSIONS."
            raise LearningError("the offer", problem, remedy)
        return record, data

    def delete_offer(self, name: str) -> None:
        """Delete the files of an offer, if there are any."""
        self._storage.delete_folder(name)

    def check_room(self) -> None:
        """Write a file of a version's size and delete it again: cheaper than learning what cannot be stored."""
        try:
            self._storage.write(_PROBE, bytes(_PROBE_BYTES))
        finally:
            self._storage.delete(_PROBE)

    def prune(self, keep: Collection[str]) -> list[str]:
        """Delete all versions but these and the newest few, and unfinished files; returns the names deleted."""
        whole = self.names()
        spared = {*keep, *whole[-KEPT:]}
        spare = [name for name in self._storage.folders() if adapter_number(name) and name not in spared]
        for name in spare:
            self._storage.delete(f"{name}/{_MANIFEST}")  # first: without it the rest is no version
            self._storage.delete_folder(name)
        self._storage.delete_leftovers(but=_OFFER)  # somebody may be writing one now; the next offer deletes it
        return spare


def now() -> str:
    """The present time as files and messages have it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _words(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", " ", name).strip()[:20]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _encoded(value: Pointer | Manifest) -> bytes:
    row = asdict(value)
    if isinstance(value, Pointer) and value.attempt is not None and not value.attempt.left_out:
        del row["attempt"]["left_out"]  # an earlier release, to which one may go back, does not know it
    if isinstance(value, Pointer) and not value.contenders:
        del row["contenders"]  # likewise
    return json.dumps(row, indent=1).encode()


def _decoded(make: Any, data: bytes, subject: str) -> Any:
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is longer than {_MOST_BYTES >> 20} MB")
        return make(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        problem = f"is damaged ({type(error).__name__}: {str(error)[:100]})"
        raise LearningError(subject, problem, "Put it back from a copy, or delete it.") from error


def _pointer(row: Any) -> Pointer:
    attempt = row["attempt"]
    made = None
    if attempt is not None:
        made = make_dataclass(Attempt, attempt, verdict=make_dataclass(VerdictRecord, attempt["verdict"]))
    if made is not None:
        _check_attempt(made)
    contenders = {
        str(kind): make_dataclass(Contender, found, verdict=make_dataclass(VerdictRecord, found["verdict"]))
        for kind, found in row.get("contenders", {}).items()
    }
    pointer = make_dataclass(Pointer, {**row, "contenders": contenders}, attempt=made, contenders=contenders)
    if pointer.served != ZEROSHOT and not adapter_number(pointer.served):
        raise ValueError(f"served {pointer.served!r} is no version")
    return pointer


def _check_attempt(attempt: Attempt) -> None:
    if not all(type(why) is str for why in (*attempt.missing.values(), *attempt.left_out.values())):
        raise TypeError("missing and left_out must hold texts")
    counts = [count for row in attempt.outcomes.values() for count in row.values()]
    if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
        raise TypeError("outcomes must hold counts")


def _manifest(row: Any) -> Manifest:
    owner, verdict = make_dataclass(Owner, row["owner"]), make_dataclass(VerdictRecord, row["verdict"])
    return make_dataclass(Manifest, row, owner=owner, verdict=verdict)
