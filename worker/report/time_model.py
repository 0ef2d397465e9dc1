"""How long annotators take, by assumption: what a prediction saved where nobody could measure it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from plugin_config.errors import SettingsError
from worker.label_studio.outcomes import RegionRecord

_OUTLINED = frozenset(("brush", "bitmask", "polygon", "vector"))


def _assumed(default: float, meaning: str, source: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True)
class TimeModel:
    """Seconds per region. Looking at the image for what is missing takes as long with a prediction as without, and is
    left out.

    Raises:
        SettingsError: a number is negative, or not finite.
    """

    draw: float = _assumed(79.2, "to draw an outline", "COCO: 79.2 s per polygon mask (Lin et al., 2014, as Cheng et "
                           "al., 2022, give it)")  # fmt: skip
    box: float = _assumed(7.0, "to draw a box, an ellipse or a point", "7 s per box by extreme clicking (Papadopoulos "
                          "et al., 2017); dragged boxes take 35 s there")  # fmt: skip
    check: float = _assumed(2.0, "to look at a predicted region", "assumed")
    correct: float = _assumed(26.4, "to correct an outline, after looking; never more than drawing it", "a third of "
                              "drawing it: corrections with a model are 3 times faster than polygons (Benenson et "
                              "al., 2019)")  # fmt: skip
    delete: float = _assumed(1.0, "to delete a region, after looking", "assumed")

    def __post_init__(self) -> None:
        for item in fields(self):
            if not 0 <= getattr(self, item.name) < float("inf"):
                remedy = "Leave it out for the default."
                raise SettingsError(f"--seconds {item.name}", "must be a number, 0 or more", remedy)

    @classmethod
    def parse(cls, text: str) -> TimeModel:
        """Read `name=seconds` pairs with commas between them; what is not named keeps its default.

        Raises:
            SettingsError: a name or a number is none.
        """
        found: dict[str, float] = {}
        names = ", ".join(item.name for item in fields(cls))
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, seconds = part.partition("=")
            try:
                if name.strip() not in names.split(", "):
                    raise ValueError(name)
                found[name.strip()] = float(seconds)
            except ValueError as error:
                remedy = f"Write --seconds draw=60,check=3; the names are {names}."
                raise SettingsError("--seconds", f"has {part!r}, which is no name=seconds", remedy) from error
        return replace(cls(), **found)

    def from_scratch(self, output: str) -> float:
        """Seconds to draw a region of a kind."""
        return self.draw if output in _OUTLINED else self.box

    def saved(self, record: RegionRecord, output: str) -> float:
        """Seconds that the prediction of a region saved; negative where it cost more than it gave.

        Args:
            record: what became of it.
            output: the kind of its label's regions.
        """
        drawn = self.from_scratch(output)
        if record.outcome == "accepted":
            return drawn - self.check
        if record.outcome == "changed":
            return drawn - self.check - min(self.correct, drawn)
        return -self.check - self.delete if record.outcome == "deleted" else 0.0

    def total_saved(self, records: Iterable[tuple[RegionRecord, str]]) -> float:
        """Seconds that a prediction saved, of records with the kinds of their labels' regions."""
        return sum(self.saved(record, output) for record, output in records)


@dataclass(frozen=True)
class Assumption:
    """One row of the time model as people read it."""

    name: str
    seconds: float
    meaning: str
    source: str


def assumptions(model: TimeModel) -> list[Assumption]:
    """The time model as a table; a number that was given on the command line has that as its source."""
    return [
        Assumption(item.name, value, item.metadata["meaning"],
                   item.metadata["source"] if value == item.default else "given with --seconds")
        for item in fields(model)
        for value in (float(getattr(model, item.name)),)
    ]  # fmt: skip
