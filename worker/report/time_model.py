"""How long annotators take, by assumption: what a prediction saved where nobody could measure it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from plugin_config.errors import SettingsError
from worker.label_studio.outcomes import RegionRecord

_OUTLINED = frozenset(("brush", "bitmask", "polygon", "vector"))


def _assumed(default: float, meaning: str, source: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True)
class TimeModel:
    """Seconds that each step takes.

    Attributes:
        image: to open an image, look at it and submit it; what is saved does not depend on it.
        look: at a predicted region, to decide about it.
        click: to delete a region, to select it for editing, or to give it another label.
        outline: to draw a region from nothing.
        box: to draw a box, an ellipse or a point.
        wrong: times the outline, for the share of a region that is wrong (1 - IoU).

    Raises:
        SettingsError: a number is negative, or not finite.
    """

    image: float = _assumed(5.0, "s to open, look at and submit an image; not in what is saved", "assumed")
    look: float = _assumed(1.6, "s to look at a predicted region and decide", "1.6 s to verify a box (Papadopoulos et "
                           "al., 2016; from memory)")  # fmt: skip
    click: float = _assumed(2.4, "s to delete a region, to select it, or to change its label", "2.4 s for the first "
                            "point on a thing (Bearman et al., 2016; from memory)")  # fmt: skip
    outline: float = _assumed(54.0, "s to draw an outline", "54 s (Jain and Grauman, 2013; from memory) or 79 s for "
                              "COCO's polygons (Lin et al., 2014); the lower one")  # fmt: skip
    box: float = _assumed(7.0, "s to draw a box, an ellipse or a point", "7 s by extreme clicking (Papadopoulos et "
                          "al., 2017), whose abstract has 35 s for dragged boxes; the lower one")  # fmt: skip
    wrong: float = _assumed(2.0, "outlines for all of a region that is wrong: an edit takes this times 1 - IoU",
                            "assumed: an error has two borders; a third of an outline at an IoU of 0.85, as with "
                            "corrective clicks (Benenson et al., 2019)")  # fmt: skip

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
                remedy = f"Write --seconds outline=40,look=3; the names are {names}."
                raise SettingsError("--seconds", f"has {part!r}, which is no name=seconds", remedy) from error
        return replace(cls(), **found)

    def edit(self, iou: float) -> float:
        """Seconds to correct the outline of a region, of the IoU before and after."""
        return self.click + self.wrong * self.outline * (1 - iou)

    @property
    def redraw(self) -> float:
        """Seconds to delete a region and draw it from nothing."""
        return self.click + self.outline

    def saved(self, record: RegionRecord, output: str) -> float:
        """Seconds that the prediction of a region saved; negative where it cost more than it gave.

        Args:
            record: what became of it; where the IoU of a changed one is not known, it counts as drawn anew.
            output: the kind of its label's regions.
        """
        drawn = self.outline if output in _OUTLINED else self.box
        if record.outcome == "accepted":
            return drawn - self.look
        if record.outcome == "changed":
            edit = self.edit(0.0 if record.edit_iou is None else record.edit_iou)
            return drawn - self.look - min(edit, self.click + drawn)
        return -self.look - self.click if record.outcome == "deleted" else 0.0


@dataclass(frozen=True)
class Assumption:
    """One row of the time model as people read it; `meaning` begins with the unit."""

    name: str
    value: float
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
