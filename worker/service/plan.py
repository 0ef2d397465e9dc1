"""What a project wants now: its labels, the adapter that is served, and the version that stamps its predictions."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import lru_cache

from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT, ModelVersion, spelled
from plugin_config.queue.titles import set_title
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.learning.acceptance import IDENTITY, Calibration
from worker.learning.interfaces import Adapter
from worker.service.context import WorkerContext

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One reading of a project.

    Attributes:
        project: as Label Studio has it.
        vocabulary: of its labeling config.
        version: what predictions drawn by this plan are stamped with.
        adapter: what was learned from its corrections; None = zero-shot, or see `is_left`.
        adapter_name: the adapter's name; "zeroshot" where there is none.
        calibration: how its raw scores are mapped.
    """

    project: Project
    vocabulary: Vocabulary
    version: str
    adapter: Adapter | None = None
    adapter_name: str = ZEROSHOT
    calibration: Calibration = IDENTITY

    @property
    def is_left(self) -> bool:
        """Whether this process cannot use the adapter: others draw with it. Nothing is drawn by such a plan."""
        return self.adapter is None and self.adapter_name != ZEROSHOT


def read_plan(
    context: WorkerContext, project: int, *, from_disk: bool = False, or_zeroshot: bool = False
) -> Plan:
    """Read a project from Label Studio, and which adapter is served for it.

    Args:
        context: of this process.
        project: the project's id.
        from_disk: read the served version from disk; else Redis' copy of it is enough.
        or_zeroshot: where this process cannot use what is served, plan without it, for what is not stored.

    Raises:
        LabelingConfigError: the config names nothing to segment.
        ProjectGone: Label Studio has no such project.
        LabelStudioError: the project cannot be read.
        VersionsUnavailable: what is served cannot be had now.
    """
    found = context.label_studio.project(project)
    context.pending.confirm_project(project)
    if context.ledger.belong_to(project, found.created):
        log.warning("project %d: another one had its id before; what was known of that is forgotten", project)
    set_title(context.redis, project, found.title)
    vocabulary = _parsed(found.label_config)
    name, adapter = context.adapters.served(found, from_disk=from_disk)
    if adapter is None and or_zeroshot:
        name = ZEROSHOT
    learned = context.adapters.learned(found, name)
    version = spelled(
        ModelVersion.of(context.settings, vocabulary, adapter=name, learned=learned),
        context.ledger.target_version(project),
    )
    return Plan(found, vocabulary, version, adapter, name, context.adapters.calibration(found, name))


_parsed = lru_cache(maxsize=16)(parse_vocabulary)  # a config of thousands of labels takes half a second at every drain


def report_remarks(context: WorkerContext, plan: Plan) -> None:
    """Report what of the labeling config is not served, labels that the model cannot read and has not learned, and a
    control arm: in `zeromask status` when the version or what is not served is new, and once in the log.
    """
    project, told = plan.project.id, plan.version
    if plan.vocabulary.remarks:  # these change without a new version
        told += f"+{hashlib.sha256(repr(plan.vocabulary.remarks).encode()).hexdigest()[:8]}"
    share = context.settings.control_share
    if share:
        told += f"+control{share:g}"
    if context.ledger.label_remarks_version(project) == told:
        return
    learned = plan.adapter.taught(plan.vocabulary.words) if plan.adapter else ()
    remarks = [*plan.vocabulary.remarks, *context.segmenter.remarks(plan.vocabulary, learned)]
    if share:
        remarks.append(f"{share:.0%} of the tasks are shown without a prediction (ZEROMASK_CONTROL_SHARE).")
    context.ledger.set_label_remarks(project, told, remarks)
    if (project, told) not in context.logged_versions:
        context.logged_versions.add((project, told))
        for remark in remarks:
            log.warning("project %d: %s", project, remark)
