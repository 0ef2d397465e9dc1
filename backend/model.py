"""The model as Label Studio's ML backend framework sees it; the only file that imports `label_studio_ml`.

`label-studio-ml` 1.0.9, the newest on PyPI, serves its models with a Flask of 2020, keeps one model for all projects
in a global, answers errors with a traceback, logs bodies and has no answer to Label Studio's GET /versions. Its base
class of models needs none of that and is kept; the routes are our own (`app.py`). A 2.x changes this file only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

# label_studio_ml imports torch.multiprocessing wherever torch is installed, only to start processes we never start:
# 549 MB instead of 50 in the process that answers in milliseconds. None in sys.modules makes that import fail, which it
# handles; afterwards torch can be imported again by other code of the process (the tests do).
_torch: Any = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]

from label_studio_ml.model import LabelStudioMLBase  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

from backend.queue_client import QueueClient  # noqa: E402
from backend.task_queue import PredictionRequest  # noqa: E402
from plugin_config.errors import QueueUnavailable  # noqa: E402
from plugin_config.label_studio.webhook_actions import Effect, effect_of  # noqa: E402
from plugin_config.model_version import ModelVersion  # noqa: E402
from plugin_config.settings import Settings  # noqa: E402
from plugin_config.vocabulary import parse_vocabulary  # noqa: E402

_MAX_REMEMBERED = 1000
parsed = lru_cache(maxsize=4)(parse_vocabulary)
"""Parsing, remembered: every request brings its labeling config, and one of 1,200 labels takes 0.1 s."""

logger = logging.getLogger(__name__)


class PreannotationBackend(LabelStudioMLBase):  # type: ignore[misc]
    """One project as one request describes it: made for the request, dropped after it.

    Attributes:
        model_version: what its predictions will carry.
        remarks: what of its labeling config is not served.

    Raises:
        LabelingConfigError: the labeling config names nothing that could be segmented.
    """

    def __init__(self, label_config: str, *, project: int, settings: Settings, queues: QueueClient) -> None:
        super().__init__()  # without the config, which it would parse in its own way, and without the access token
        self.label_config = label_config
        vocabulary = parsed(label_config)
        self.remarks = list(vocabulary.remarks)
        self.model_version = str(ModelVersion.of(settings, vocabulary, adapter=queues.served_adapter(project)))
        self._project = project
        self._queues = queues

    def predict(self, tasks: Sequence[int], *, interactive: bool = False, **_: Any) -> list[list[dict[str, Any]]]:
        """Request predictions of tasks, by id. Returns one empty list per task: "accepted, will be stored later".

        Anything else than empty lists would be stored a second time beside the worker's, and a `{"result": []}` would
        keep Label Studio from ever asking for the task again.
        """
        if interactive:
            logger.info("project %d: interactive request for %d task(s) answered empty", self._project, len(tasks))
            return [[] for _ in tasks]
        request = PredictionRequest(self._project, self.model_version, tuple(dict.fromkeys(tasks)))
        try:
            self._queues.request_predictions(request)
        except QueueUnavailable as error:
            logger.warning("project %d: %d task(s) wait for Redis. %s", self._project, len(tasks), error)
        return [[] for _ in tasks]


class Projects:
    """What Label Studio asks about its projects: a model per request, webhooks, training, versions."""

    def __init__(self, settings: Settings, queues: QueueClient) -> None:
        self._settings = settings
        self._queues = queues
        self._versions: dict[int, str] = {}

    def model(self, project: int, label_config: str) -> PreannotationBackend:
        """The model of a project: works while Redis is away, and loads no weights.

        Raises:
            LabelingConfigError: the labeling config names nothing that could be segmented.
        """
        model = PreannotationBackend(label_config, project=project, settings=self._settings, queues=self._queues)
        if len(self._versions) >= _MAX_REMEMBERED:  # anyone can name projects without end
            self._versions.clear()
        self._versions[project] = model.model_version
        return model

    def handle_webhook(self, project: int, action: str, tasks: Sequence[int] = ()) -> dict[str, Any]:
        """Have workers or the learner read a project again, depending on the action. What changed is found there:
        anyone may send a webhook, so it counts as a hint only.

        Raises:
            QueueUnavailable: Redis does not answer, and a person waits for training to start.
        """
        effect = effect_of(action)
        logger.debug("project %d: webhook %s", project, action)
        if effect is Effect.TRAIN:
            return self.train(project)
        refresh = False
        try:
            if effect is Effect.LEARN:
                self._queues.annotations_changed(project, action)
                refresh = True
            elif effect is Effect.REFRESH or (effect is Effect.PRELABEL and self._settings.prelabel):
                refresh = self._queues.request_refresh(project, action, tasks)
            else:
                self._queues.note_webhook(project, action)
        except QueueUnavailable as error:
            logger.warning("project %d: webhook %s not passed on. %s", project, action, error)
        return {"status": "ok", "refresh": refresh}

    def train(self, project: int) -> dict[str, Any]:
        """Label Studio's button: learn now, from however few corrections. `job` as Label Studio keeps it.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return {"status": "ok", "refresh": True, "job": self._queues.request_training(project)}

    def is_training(self, project: int | None = None) -> dict[str, Any]:
        """Whether a learner learns from the project's corrections now; this process never does."""
        try:
            return {"is_training": project is not None and self._queues.is_learning(project)}
        except QueueUnavailable as error:
            logger.warning("project %s: whether it is being learned from is unknown. %s", project, error)
            return {"is_training": False}

    def versions(self, project: int | None) -> list[str]:
        """Versions known of a project, or of all: Label Studio's GET /versions does not say which one it means."""
        recent = {version for known, version in list(self._versions.items()) if project in (None, known)}
        try:
            return sorted(recent.union(self._queues.versions(project)))
        except QueueUnavailable as error:
            logger.warning("versions: only those since the start are known. %s", error)
            return sorted(recent)
