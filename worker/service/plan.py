"""What a project wants now, and what is done once per version or after a prediction is stored.

It must not know how a task is predicted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache

from plugin_config.label_studio.client import Project, Task
from plugin_config.model_version import ZEROSHOT, ModelVersion
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.learning.interfaces import Adapter
from worker.service.context import Resident

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a project wants now: its labels, the version that stamps what is drawn for them, and what was learned from
    its corrections where that is served, with its name.
    """

    project: Project
    vocabulary: Vocabulary
    version: str
    adapter: Adapter | None = None
    adapter_name: str = ZEROSHOT

    @property
    def encoder_part(self) -> str:
        """What is changed in the encoder for it; "" = nothing."""
        return self.adapter.encoder_part if self.adapter else ""


def read_order(resident: Resident, project: int, *, afresh: bool = False) -> Order:
    """Read a project's labeling config from Label Studio and derive its version.

    Args:
        resident: of this worker.
        project: the project's id.
        afresh: look on the disk which version is served, and not only at Redis' copy of that.

    Raises:
        LabelingConfigError: the config names nothing to segment.
        LabelStudioError: the project cannot be read; `status` 404 when it is gone.
        VersionsUnavailable: what is served cannot be had now.
    """
    found = resident.label_studio.project(project)
    resident.pending.confirm_project(project)
    vocabulary = _parsed(found.label_config)
    name, adapter = resident.adapters.serve(found, afresh=afresh)
    version = str(ModelVersion.of(resident.settings, vocabulary, adapter=name))
    return Order(found, vocabulary, version, adapter, name)


_parsed = lru_cache(maxsize=16)(parse_vocabulary)  # a config of thousands of labels takes half a second at every drain


def make_remarks(resident: Resident, order: Order) -> None:
    """Say which labels the model cannot read and was not taught: to `zeromask status` where that tells of another
    version, and once in the log.
    """
    project = order.project.id
    if resident.ledger.label_remarks_version(project) == order.version:
        return
    taught = order.adapter.taught(order.vocabulary.words) if order.adapter else ()
    remarks = resident.segmenter.remarks(order.vocabulary, taught)
    resident.ledger.set_label_remarks(project, order.version, remarks)
    if (project, order.version) not in resident.explained:
        resident.explained.add((project, order.version))
        for remark in remarks:
            log.warning("project %d: %s", project, remark)


def replace_older(resident: Resident, order: Order, task: Task) -> None:
    """Delete our older predictions of a task nobody annotated: annotations keep the prediction they came from."""
    older = (task.versions - {order.version}) & resident.ledger.versions(order.project.id)
    if older and not task.annotations:
        for prediction in resident.label_studio.predictions(task.id):
            if prediction.version in older:
                resident.label_studio.delete_prediction(prediction.id)


def show(resident: Resident, order: Order) -> None:
    """Show annotators the version just stored, unless they chose a version that is not ours. Once per version."""
    project, shown = order.project.id, order.project.model_version
    if shown == order.version or resident.ledger.shown_version(project) == order.version:
        return
    ours = resident.ledger.versions(project) | resident.label_studio.model_titles(project) | {""}
    if shown in ours:
        resident.label_studio.show_version(project, order.version)
    resident.ledger.set_shown_version(project, order.version)
