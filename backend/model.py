"""The model as Label Studio's ML backend framework sees it; the only file that imports `label_studio_ml`.

`label-studio-ml` 1.0.9, the newest on PyPI, serves its models with a Flask of 2020, keeps one model for all projects
in a global, answers errors with a traceback, logs bodies and has no answer to Label Studio's GET /versions. Its base
class of models needs none of that and is kept; the routes are our own (`app.py`). A 2.x changes this file only. It must
not know how masks are made: it only asks for them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

# label_studio_ml imports torch.multiprocessing wherever torch is installed, only to start processes we never start:
# 549 MB instead of 50 in the half that answers in milliseconds. None in sys.modules makes that import fail, which it
# handles; afterwards torch is importable again, for whoever shares the process (the tests do).
_torch: Any = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]

from label_studio_ml.model import LabelStudioMLBase  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

from backend.queue_client import WebQueues  # noqa: E402
from plugin_config.errors import QueueUnavailable  # noqa: E402
from plugin_config.model_version import ModelVersion  # noqa: E402
from plugin_config.settings import Settings  # noqa: E402
from plugin_config.vocabulary import parse_vocabulary  # noqa: E402

REFRESH_ACTIONS = frozenset({"PROJECT_UPDATED", "TASKS_DELETED"})
PRELABEL_ACTIONS = frozenset({"TASKS_CREATED"})
LEARN_ACTIONS = frozenset({"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"})
TRAIN_ACTION = "START_TRAINING"
_MOST_REMEMBERED = 1000

logger = logging.getLogger(__name__)


class PreannotationBackend(LabelStudioMLBase):  # type: ignore[misc]
    """One project as one request describes it: made for the request, gone with it.

    Raises:
        LabelingConfigError: the labeling config names nothing that could be segmented.
    """

    def __init__(self, label_config: str, *, project: int, settings: Settings, queues: WebQueues) -> None:
        super().__init__()  # without the config, which it would parse in its own way, and without the access token
        self.label_config = label_config
        vocabulary = parse_vocabulary(label_config)
        self.model_version = str(ModelVersion.of(settings, vocabulary, adapter=queues.served(project)))
        self._project = project
        self._queues = queues

    def predict(self, tasks: Sequence[int], *, interactive: bool = False, **_: Any) -> list[list[dict[str, Any]]]:
        """Ask for the masks of the tasks, by id. Returns one empty list per task: "accepted, will be stored later".

        Anything else than empty lists would be stored a second time beside the worker's, and a `{"result": []}` would
        keep Label Studio from ever asking for the task again.
        """
        if interactive:
            logger.info("project %d: interactive request for %d task(s) answered empty", self._project, len(tasks))
            return [[] for _ in tasks]
        try:
            self._queues.ask(self._project, self.model_version, list(tasks))
        except QueueUnavailable as error:
            logger.warning("project %d: %d task(s) wait for Redis. %s", self._project, len(tasks), error)
        return [[] for _ in tasks]


class ProjectManager:
    """A model per call, from the project and labeling config of that call."""

    def __init__(self, settings: Settings, queues: WebQueues) -> None:
        self._settings = settings
        self._queues = queues
        self._latest: dict[int, str] = {}

    def fetch(self, project: int, label_config: str) -> PreannotationBackend:
        """The model of a project: works while Redis is away, and loads no weights."""
        model = PreannotationBackend(label_config, project=project, settings=self._settings, queues=self._queues)
        self._remember(project, model.model_version)
        return model

    def webhook(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """Take a hint: a changed project is looked at soon, changed annotations when there is a pause; what changed is
        found when the worker reads it.
        """
        project = int(data["project"])
        logger.debug("project %d: webhook %s", project, event)
        if event == TRAIN_ACTION:
            return self.train(project)
        try:
            if event in LEARN_ACTIONS:
                self._queues.annotated(project, event)
                return {"status": "ok", "refresh": True}
            actions = REFRESH_ACTIONS | (PRELABEL_ACTIONS if self._settings.prelabel else frozenset())
            queued = self._queues.hint(project, event, data.get("tasks", ()), refresh=event in actions)
        except QueueUnavailable as error:
            logger.warning("project %d: webhook %s not passed on. %s", project, event, error)
            queued = False
        return {"status": "ok", "refresh": queued}

    def train(self, project: int) -> dict[str, Any]:
        """Label Studio's button: learn now, from however few corrections. `job` as Label Studio keeps it.

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        return {"status": "ok", "refresh": True, "job": self._queues.train(project)}

    def is_training(self, project: int | None = None) -> dict[str, Any]:
        """Whether a learner is at the project's corrections; this process never is."""
        try:
            return {"is_training": project is not None and self._queues.learning_now(project)}
        except QueueUnavailable as error:
            logger.warning("project %s: not known whether it is learned from. %s", project, error)
            return {"is_training": False}

    def versions(self, project: int | None) -> list[str]:
        """Versions known of a project, or of all: Label Studio's GET /versions does not say which one it means."""
        latest = {version for known, version in list(self._latest.items()) if project in (None, known)}
        try:
            return sorted(latest.union(self._queues.versions(project)))
        except QueueUnavailable as error:
            logger.warning("versions: only those since the start are known. %s", error)
            return sorted(latest)

    def _remember(self, project: int, version: str) -> None:
        if len(self._latest) >= _MOST_REMEMBERED:  # anyone can name projects without end
            self._latest.clear()
        self._latest[project] = version

