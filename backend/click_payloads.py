"""What a click brings in the body of /predict: the regions that point at a thing, and what is drawn already.

Label Studio sends the whole task with every region of its drafts, annotations and predictions, which grows with each
region. Regions are kept up to a size, with the fields that draw them; the others are skipped without being built. Of
drafts and predictions the regions of those are kept that may be in front of the user.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.json_stream import JsonReader
from plugin_config.model_version import ModelVersion

_MOST_REGION, _MOST_REGIONS_TEXT = 512 * 1024, 2 * 1024 * 1024  # characters: of one region, of all in one place
_MOST_REGIONS = 500
_MOST_ROWS = 200  # drafts, annotations or predictions of a task
_MOST_PREDICTIONS = 2  # whose regions are kept: the version that is asked for is known only after the tasks are read
_KEPT = ("id", "type", "from_name", "to_name", "item_index", "original_width", "original_height", "is_positive",
         "value")  # fmt: skip
_ABOUT = ("updated_at", "model_version")

Region = Mapping[str, Any]


@dataclass(frozen=True)
class StoredRegions:
    """A draft, an annotation or a prediction of a task.

    Attributes:
        updated_at: as Label Studio writes it; "" = it is not there.
        version: of a prediction; "" = none.
        regions: those that are kept.
    """

    updated_at: str = ""
    version: str = ""
    regions: tuple[Region, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is a prediction of a version of this product."""
        return ModelVersion.parse(self.version) is not None


@dataclass(frozen=True)
class TaskInside:
    """What a task of the request holds.

    Attributes:
        drafts: of the user who clicked; Label Studio sends no others.
        annotations: how many there are, of all users.
        predictions: all of them, the last ones, and those of this product before others, with their regions.
    """

    drafts: Sequence[StoredRegions] = ()
    annotations: int = 0
    predictions: Sequence[StoredRegions] = ()

    @property
    def versions(self) -> frozenset[str]:
        """Versions of the predictions."""
        return frozenset(row.version for row in self.predictions)

    def drawn(self, version: str) -> tuple[Region, ...]:
        """The regions in front of the user: those of the newest draft; without a draft and while nobody has annotated
        the task, those of the prediction that the editor has copied, at best of a version, else of one of this product.
        Annotations may be of other users, who are not to be mixed with this one; nothing in the request tells who
        clicked, or what the project shows.
        """
        if self.drafts:
            return max(self.drafts, key=lambda draft: (draft.updated_at, bool(draft.regions))).regions
        if self.annotations or not self.predictions:
            return ()
        return max(self.predictions, key=lambda row: (row.version == version, row.is_ours, bool(row.regions))).regions


def read_regions(reader: JsonReader) -> tuple[Region, ...]:
    """Read a list of regions up to the limits; whatever else stands there is skipped."""
    return tuple(_regions(reader, _Budget(_MOST_REGIONS_TEXT)))


def read_task(reader: JsonReader) -> tuple[Any, TaskInside]:
    """Read a task, an object: its id, as it stands there, and what is inside."""
    number, inside = None, dict[str, Any]()
    for name in reader.fields():
        if name == "id":
            number = reader.value()
        elif name == "drafts":
            inside[name] = _rows(reader, 1, lambda row: row.updated_at)
        elif name == "predictions":
            inside[name] = _rows(reader, _MOST_PREDICTIONS, lambda row: row.is_ours)
        elif name == "annotations":
            inside[name] = _count(reader)
        else:
            reader.value()
    return number, TaskInside(**inside)


class _Budget:
    """Characters that are left."""

    def __init__(self, left: int) -> None:
        self.left = left


def _rows(reader: JsonReader, most: int, worth: Callable[[StoredRegions], Any]) -> list[StoredRegions]:
    """The rows of a list, `most` of them with their regions: those of most worth, and the last of equals."""
    if reader.peek() != "[":
        reader.value()
        return []
    rows = list[StoredRegions]()
    for count, _ in enumerate(reader.items()):
        if count == _MOST_ROWS:
            reader.skip_rest()
            break
        if reader.peek() != "{":
            reader.value()
            continue
        regions, about = tuple[Region, ...](), dict[str, str]()
        for name in reader.fields():
            if name == "result":
                regions = tuple(_regions(reader, _Budget(_MOST_REGIONS_TEXT)))
            else:
                value = reader.value()
                if name in _ABOUT and isinstance(value, str):
                    about[name] = value
        rows.append(StoredRegions(about.get("updated_at", ""), about.get("model_version", ""), regions))
        full = [place for place, row in enumerate(rows) if row.regions]
        if len(full) > most:
            least = min(full, key=lambda place: worth(rows[place]))
            rows[least] = replace(rows[least], regions=())
    return rows


def _count(reader: JsonReader) -> int:
    if reader.peek() != "[":
        reader.value()
        return 0
    count = 0
    for _ in reader.items():
        reader.value()
        count += 1
    return count


def _regions(reader: JsonReader, budget: _Budget) -> Iterator[Region]:
    if reader.peek() != "[":
        reader.value()
        return
    for count, _ in enumerate(reader.items()):
        if count == _MOST_REGIONS or budget.left <= 0:
            reader.skip_rest()
            return
        region, size = reader.whole(min(_MOST_REGION, budget.left))
        budget.left -= size
        if isinstance(region, dict) and isinstance(region.get("value"), dict):
            yield {name: region[name] for name in _KEPT if name in region} | {"value": _packed(region["value"])}


def _packed(value: Region) -> Region:
    """A region's value with its `rle` as a text, which is a tenth of the work to pass on."""
    if not isinstance(value.get("rle"), list):
        return value
    try:
        return {**value, "rle": base64.b64encode(bytes(value["rle"])).decode()}
    except (ValueError, TypeError):  # no bytes: nobody can read it
        return {**value, "rle": ""}
