"""The version stamped on predictions: `<model>-<adapter>-<vocabulary hash>`, letters, digits and dashes.

It follows from settings, labels and the version served, not from weights, so that the backend needs none to compute it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary

ZEROSHOT = "zeroshot"
"""In place of an adapter's name: nothing learned is served."""

_ADAPTER = re.compile(r"a([1-9][0-9]{0,17})-[0-9a-f]{6}")
_VERSION = re.compile(rf"(?P<model>.+)-(?P<adapter>{ZEROSHOT}|{_ADAPTER.pattern})-(?P<vocabulary>[0-9a-f]{{8}})")


@dataclass(frozen=True)
class ModelVersion:
    """What a prediction was made with; `str()` gives the version.

    Attributes:
        model: slug of the MODEL setting, followed by a hash of the settings that change masks where one of them is not
            the default; see `Settings.engine`.
        adapter: name of the adapter, or ZEROSHOT.
        vocabulary: hash of the labels; see `Vocabulary.hash`.
    """

    model: str
    adapter: str
    vocabulary: str

    @classmethod
    def of(cls, settings: Settings, vocabulary: Vocabulary, *, adapter: str = ZEROSHOT) -> ModelVersion:
        """The version that these settings stamp on predictions of these labels."""
        return cls(engine_name(settings), adapter, vocabulary.hash)

    @classmethod
    def parse(cls, text: str) -> ModelVersion | None:
        """Parse a version; None where the text is none of ours, such as the version of another model."""
        found = _VERSION.fullmatch(text)
        return None if found is None else cls(found["model"], found["adapter"], found["vocabulary"])

    def __str__(self) -> str:
        return f"{self.model}-{self.adapter}-{self.vocabulary}"


def engine_name(settings: Settings) -> str:
    """`ModelVersion.model` of these settings."""
    return "-".join(part for part in (model_slug(settings.model), settings.engine) if part)


def model_slug(model: str) -> str:
    """The MODEL setting in letters, digits and dashes, as versions and folders name it."""
    name = model.removeprefix("local-dir:")
    if "/" in name and name[:1] in "/.~":  # a path: its last part is the name, the rest keeps equal names apart
        stem = re.sub(r"\.(pt|bin|safetensors)$", "", name.rstrip("/").rsplit("/", 1)[-1])
        name = f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def adapter_name(number: int, sha256: str) -> str:
    """Name of an adapter: its number, counted from 1 in each project, and the first digits of its file's SHA-256."""
    return f"a{number}-{sha256[:6]}"


def adapter_number(name: str) -> int:
    """Number of an adapter; 0 = the name is ZEROSHOT, or none that `adapter_name` makes."""
    found = _ADAPTER.fullmatch(name)
    return int(found[1]) if found else 0
