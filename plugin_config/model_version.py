"""The version stamped on predictions: a name that people read, in parentheses what tells versions apart, the number.

    ViT-B-16 v000 zero-shot (ViT-B-16-datacomp-xl-s13b-b90k-zeroshot-3f2a91c0) v000
    ViT-B-16 v007 +9 corrected (2026-11-29 ViT-B-16-datacomp-xl-s13b-b90k-a7-0f3b21-3f2a91c0) v007

Label Studio's editor (1.23.2) shows the first 8 and the last 6 characters of it in the tab of a prediction,
`ViT-B-16...) v007`, and all of it where the pointer rests: that is why the number stands at the end once more. Of one
model, texts sort by the number, which is why it has zeros in front. There is no comma in it: Label Studio lists
versions with commas.

It follows from settings, labels and the version served, not from weights, so that the backend needs none to compute it.
Earlier releases wrote what tells versions apart alone, `<model>-<adapter>-<vocabulary hash>`; that is read
as the same version.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plugin_config.settings import Settings

if TYPE_CHECKING:  # `zeromask status` reads versions and no labeling configs: it starts sooner without
    from plugin_config.vocabulary import Vocabulary

ZEROSHOT = "zeroshot"
"""In place of an adapter's name: nothing learned is served."""

_ADAPTER = re.compile(r"a([1-9][0-9]{0,17})-[0-9a-f]{6}")
_IDENTITY = rf"(?P<model>.+)-(?P<adapter>{ZEROSHOT}|{_ADAPTER.pattern})-(?P<vocabulary>[0-9a-f]{{8}})"
_FORMER = re.compile(_IDENTITY)
_VERSION = re.compile(
    rf"(?P<name>[^ ()]+) v(?P<number>[0-9]{{3,18}}) (?P<learned>[^()]+) \((?:(?P<made>[0-9-]{{10}}) )?{_IDENTITY}\)"
    r"(?: v(?P=number))?"
)
_LEARNED = re.compile(r"[A-Za-z0-9+][A-Za-z0-9+ -]{0,38}[A-Za-z0-9]")
_MADE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOST_NAME = 11  # characters of a model's name in front


@dataclass(frozen=True)
class Learned:
    """What people are told of an adapter in the version's name.

    Attributes:
        source: what it learned from, such as "+9 corrected"; "" = not known.
        made: when, as YYYY-MM-DD, UTC; "" = not known.

    Raises:
        ValueError: it holds other characters than a version may, or is too long.
    """

    source: str = ""
    made: str = ""

    def __post_init__(self) -> None:
        if self.source and not _LEARNED.fullmatch(self.source):
            raise ValueError(f"source must be a few words, got {self.source[:60]!r}")
        if self.made and not _MADE.fullmatch(self.made):
            raise ValueError(f"made must be YYYY-MM-DD, got {self.made[:20]!r}")


@dataclass(frozen=True)
class ModelVersion:
    """What a prediction was made with; `str()` gives the version. Equal versions may be spelled differently.

    Attributes:
        model: slug of the MODEL setting, followed by a hash of the settings that change masks where one of them is not
            the default; see `Settings.engine`.
        adapter: name of the adapter, or ZEROSHOT.
        vocabulary: hash of the labels; see `Vocabulary.hash`.
        learned: what the name says of the adapter; it tells no versions apart.
    """

    model: str
    adapter: str
    vocabulary: str
    learned: Learned = field(default_factory=Learned, compare=False)

    @classmethod
    def of(
        cls, settings: Settings, vocabulary: Vocabulary, *, adapter: str = ZEROSHOT, learned: Learned | None = None
    ) -> ModelVersion:
        """The version that these settings stamp on predictions of these labels."""
        return cls(engine_name(settings), adapter, vocabulary.hash, learned or Learned())

    @classmethod
    def parse(cls, text: str) -> ModelVersion | None:
        """Parse a version, as this or a former release spells it; None where the text is none of ours, such as the
        version of another model.
        """
        found = _FORMER.fullmatch(text) if "(" not in text else _VERSION.fullmatch(text)
        if found is None:
            return None
        parts = found.groupdict()
        source = parts.get("learned") or ""
        try:
            learned = Learned("" if source in _UNTOLD else source, parts.get("made") or "")
        except ValueError:
            return None
        if int(parts.get("number") or adapter_number(found["adapter"])) != adapter_number(found["adapter"]):
            return None
        return cls(found["model"], found["adapter"], found["vocabulary"], learned)

    @property
    def identity(self) -> str:
        """What tells it from all other versions: letters, digits and dashes."""
        return f"{self.model}-{self.adapter}-{self.vocabulary}"

    @property
    def order(self) -> tuple[str, int, str]:
        """Sorts versions by model, then by age."""
        return self.model, adapter_number(self.adapter), self.identity

    def __str__(self) -> str:
        told = self.learned.source or _UNTOLD[self.adapter != ZEROSHOT]
        made = f"{self.learned.made} " if self.learned.made else ""
        number = f"v{adapter_number(self.adapter):03}"
        return f"{_short(self.model)} {number} {told} ({made}{self.identity}) {number}"


_UNTOLD = ("zero-shot", "learned")  # without and with an adapter of which nothing is known


def spelled(version: ModelVersion, stored: str) -> str:
    """The text of a version: as the project's predictions have it, where they are of this version; so they stay as they
    are when a release, or what is known of an adapter, would spell it differently.

    Args:
        version: that is served.
        stored: the version of the last rollout, see `ProjectLedger.target_version`; "" = there was none.
    """
    return stored if ModelVersion.parse(stored) == version else str(version)


def _short(model: str) -> str:
    """The beginning of a model's name, whole parts of it where they fit."""
    fit = [end for end in range(1, _MOST_NAME + 1) if model[end : end + 1] in ("", "-")]
    return model[: fit[-1] if fit else _MOST_NAME].rstrip("-")


def engine_name(settings: Settings) -> str:
    """`ModelVersion.model` of these settings."""
    return "-".join(part for part in (model_slug(settings.model), settings.engine) if part)


def model_slug(model: str) -> str:
    """The MODEL setting in letters, digits and dashes, as versions and folders name it."""
    name = model.removeprefix("local-dir:")
    if "/" in name and name[:1] in "/.~":  # a path: its last part is the name, the rest keeps equal names apart
        stem = re.sub(r"\.(pt|bin|safetensors)$", "", name.rstrip("/").rsplit("/", 1)[-1])
        name = f"{stem}-{_six_digits(name)}"
    elif not name.isascii():  # what is dropped of it keeps equal names apart
        name = f"{name}-{_six_digits(name)}"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def _six_digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def adapter_name(number: int, sha256: str) -> str:
    """Name of an adapter: its number, counted from 1 in each project, and the first digits of its file's SHA-256."""
    return f"a{number}-{sha256[:6]}"


def adapter_number(name: str) -> int:
    """Number of an adapter; 0 = the name is ZEROSHOT, or none that `adapter_name` makes."""
    found = _ADAPTER.fullmatch(name)
    return int(found[1]) if found else 0
