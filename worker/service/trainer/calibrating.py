"""What annotators did with the predictions of each version -> the maps of its scores, stored beside the pointer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from plugin_config.label_studio.client import Project
from plugin_config.model_version import ModelVersion, adapter_number, engine_name
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from worker.label_studio.outcomes import EmptyRecord, RegionRecord, count_records
from worker.learning.acceptance import Calibration, JudgedScore, VersionHistory, fit_versions
from worker.service.context import WorkerContext
from worker.service.trainer.lease_guard import LeaseGuard

log = logging.getLogger(__name__)

_MOST_JUDGED = 20  # versions of a project


@dataclass(frozen=True)
class _Seen:
    """What annotators did with the predictions of one version; see `VersionHistory`."""

    regions: list[JudgedScore] = field(default_factory=list)
    nothing: list[JudgedScore] = field(default_factory=list)


def fit_maps(
    records: Iterable[RegionRecord], settings: Settings, empty: Iterable[EmptyRecord] = ()
) -> dict[str, Calibration]:
    """Fit the maps of each version that annotators have seen predictions of.

    Every record is honest: a version predicts images that nobody has annotated yet. Predictions of another model, or of
    other settings that change masks, have scores on another scale and are left out, as are added regions and those
    whose prediction is gone.

    Args:
        records: what became of each region.
        settings: of this process.
        empty: what became of predictions without regions.
    """
    engine = engine_name(settings)
    history: dict[str, _Seen] = {}

    def of(name: str) -> _Seen | None:
        version = ModelVersion.parse(name)
        if version is None or version.model != engine:
            return None
        return history.setdefault(version.adapter, _Seen())

    for record in records:
        if record.raw_score is not None and (seen := of(record.version)) is not None:
            seen.regions.append(JudgedScore(record.raw_score, record.outcome == "accepted"))
    for one in empty:
        if (seen := of(one.version)) is not None:
            seen.nothing.append(JudgedScore(one.raw_score, one.right))
    return fit_versions(
        (name, VersionHistory(history[name].regions, history[name].nothing))
        for name in sorted(history, key=adapter_number)
    )


def refit(
    context: WorkerContext, project: Project, records: Iterable[RegionRecord], empty: Iterable[EmptyRecord],
    lease: LeaseGuard,
) -> None:  # fmt: skip
    """Fit the maps of all versions again, and have what is served use its own from now on. A version without records,
    as one that is made now, uses that of the version before.

    Raises:
        RoundAborted, QueueUnavailable: as `LeaseGuard.check`; nothing is written.
        VersionsUnavailable: the maps cannot be written.
        LearningError: the pointer is damaged.
    """
    maps = {name: one.to_json() for name, one in fit_maps(records, context.settings, empty).items()}
    file, engine = context.adapters.calibrations(project), engine_name(context.settings)
    if maps == file.read().get(engine, {}):
        return
    with context.adapters.moving(project.id):
        lease.check()
        file.write(engine, maps)
    context.adapters.served(project, from_disk=True)
    told = ", ".join(f"{name} {_told(one)}, of nothing {_told(one['nothing'])}" for name, one in maps.items())
    log.info("project %d: slope and bias of the scores (judged ones fitted on): %s", project.id, told or "none")


def note_judged(context: WorkerContext, project: int, records: Sequence[RegionRecord]) -> None:
    """Note for people what annotators did with the regions of each of our versions: of those with most regions.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    ours = context.ledger.versions(project)
    by_version: dict[str, list[RegionRecord]] = {}
    for record in records:
        if record.version in ours:
            by_version.setdefault(record.version, []).append(record)
    most = sorted(by_version, key=lambda version: len(by_version[version]), reverse=True)[:_MOST_JUDGED]
    judged = {
        version: {label: asdict(found) for label, found in count_records(by_version[version]).items()}
        for version in most
    }
    ServedAdapters(context.redis).write_judged(project, judged)


def _told(one: Mapping[str, Any]) -> str:
    return f"{one['slope']:.2f} {one['bias']:+.2f} ({one['records']})"
