"""How the raw scores of each version of a project are mapped, on disk beside the pointer.

    <place>/<Label Studio>/<project>/<model>/calibration.json          name of a version, or ZEROSHOT -> its map

The maps are fitted again whenever corrections are read, so they are no part of the manifests, which never change. What
a map is stands in `worker.learning.acceptance`; here it is any JSON object.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from plugin_config.json_records import parse_json
from plugin_config.model_version import adapter_number
from plugin_config.versions.manifests import Owner
from plugin_config.versions.storage import Storage

log = logging.getLogger(__name__)

ScoreMap = Mapping[str, Any]
"""A map as JSON; {} = scores stay as they are."""

_FILE = "calibration.json"
_MOST_BYTES = 1 << 20


class CalibrationFile:
    """The maps of one owner's versions. Every method raises VersionsUnavailable where their place cannot be reached.

    Args:
        place: a folder, or an fsspec URL; the ZEROMASK_VERSIONS setting.
        owner: whose versions.
    """

    def __init__(self, place: str, owner: Owner) -> None:
        self._storage = Storage(f"{place}/{owner.folder}")

    def read(self) -> dict[str, ScoreMap]:
        """Read the maps by name of the version. A file that cannot be read is logged and counts as none: the next
        corrections write it again.
        """
        data = self._storage.read(_FILE, most=_MOST_BYTES)
        found = {} if data is None else parse_json(data, _maps)
        if found is None:
            log.warning("%s is damaged: scores stay as they are until corrections are read the next time",
                        self._storage.address(_FILE))  # fmt: skip
        return found or {}

    def of(self, served: str) -> ScoreMap:
        """The map of a version: its own, or that of the newest version before it which has one; {} = none has."""
        found = self.read()
        known = [name for name in found if name == served or adapter_number(name) < adapter_number(served)]
        return found[max(known, key=adapter_number)] if known else {}

    def write(self, maps: Mapping[str, ScoreMap]) -> None:
        """Write the maps by name of the version, whole or not at all."""
        self._storage.write(_FILE, json.dumps(maps, indent=1).encode())


def _maps(row: Any) -> dict[str, ScoreMap]:
    if not all(isinstance(one, dict) for one in row.values()):
        raise TypeError("each version must have an object")
    return dict(row)
