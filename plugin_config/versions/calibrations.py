"""How the raw scores of each version of a project are mapped, on disk beside the pointer.

    <place>/<Label Studio>/<project>/<model>/calibration.json          engine -> name of a version, or ZEROSHOT -> map

An engine is what `plugin_config.model_version.engine_name` names: the same version has other scores in each.
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

    def read(self) -> dict[str, dict[str, ScoreMap]]:
        """Read the maps by engine and name of the version. A file that cannot be read, or that an earlier release
        wrote, is logged and counts as none: the next corrections write it again.
        """
        data = self._storage.read(_FILE, most=_MOST_BYTES)
        found = {} if data is None else parse_json(data, _maps)
        if found is None:
            log.warning("%s is damaged: scores stay as they are until corrections are read the next time",
                        self._storage.address(_FILE))  # fmt: skip
        return found or {}

    def of(self, served: str) -> dict[str, ScoreMap]:
        """The maps of a version by engine: its own, or that of the newest version before it which has one; without the
        engines of which none has.
        """
        found = {}
        for engine, maps in self.read().items():
            known = [name for name in maps if name == served or adapter_number(name) < adapter_number(served)]
            if known:
                found[engine] = maps[max(known, key=adapter_number)]
        return found

    def write(self, engine: str, maps: Mapping[str, ScoreMap]) -> None:
        """Write the maps of one engine by name of the version, whole or not at all; those of others stay."""
        self._storage.write(_FILE, json.dumps({**self.read(), engine: maps}, indent=1).encode())


def _maps(row: Any) -> dict[str, dict[str, ScoreMap]]:
    if not all(isinstance(one, dict) for maps in row.values() for one in maps.values()):
        raise TypeError("each version of each engine must have an object")
    return dict(row)
