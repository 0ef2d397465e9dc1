"""The model as Label Studio's ML backend framework sees it; the only file that imports `label_studio_ml`.

`label-studio-ml` 1.0.9, the newest on PyPI, serves its models with a Flask of 2020, keeps one model for all projects
in a global, answers errors with a traceback, logs bodies and has no answer to Label Studio's GET /versions. Its base
class of models needs none of that and is kept; the routes are our own (`app.py`). A 2.x changes this file only.
"""

from __future__ import annotations

import logging
import sys
import time
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

from backend.payloads import PredictPayload  # noqa: E402
from backend.queue_client import QueueClient  # noqa: E402
from backend.task_queue import PredictionRequest  # noqa: E402
from plugin_config.errors import QueueUnavailable  # noqa: E402
from plugin_config.label_studio.webhook_actions import Effect, effect_of  # noqa: E402
from plugin_config.model_version import ModelVersion  # noqa: E402
from plugin_config.queue.clicks import ClickAnswer  # noqa: E402
from plugin_config.settings import Settings  # noqa: E402
from plugin_config.vocabulary import parse_vocabulary  # noqa: E402

_MAX_REMEMBERED = 1000
_SETUP_COUNTS_S = 2.0  # Label Studio sends /setup milliseconds before a /predict whose answer it stores
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

    def __init__(self, label_config: str, *, project: int, queues: QueueClient) -> None:
        super().__init__()  # without the config, which it would parse in its own way, and without the access token
        self.label_config = label_config
        vocabulary = parsed(label_config)
        self.remarks = list(vocabulary.remarks)
        self.model_version = queues.version(project, vocabulary)
        self._project = project
        self._queues = queues

    def predict(self, tasks: Sequence[int], **_: Any) -> list[list[dict[str, Any]]]:
        """Request predictions of tasks, by id. Returns one empty list per task: "accepted, will be stored later".

        Anything else than empty lists would be stored a second time beside the worker's, and a `{"result": []}` would
        keep Label Studio from ever asking for the task again.

        Raises:
            QueueUnavailable: Redis does not take them, and they cannot be kept until it does.
        """
        request = PredictionRequest(self._project, self.model_version, tuple(dict.fromkeys(tasks)))
        self._queues.request_predictions(request)
        return [[] for _ in tasks]

    def answer_click(self, payload: PredictPayload, *, large: bool) -> list[dict[str, Any]]:
        """Wait for the mask of what was clicked on in the first task, the only one Label Studio sends.

        An empty `result` tells the editor that there is no mask; where suggestions are accepted by themselves, it takes
        the prompt away. An empty list in its place would leave the prompt there. `large`: whether its body was.
        """
        answers = [ClickAnswer(version=self.model_version)] * len(payload.tasks)
        if payload.tasks:
            answers[0] = self._queues.clicks.ask(
                payload, kind="mask", version=self.model_version, redis_up=self._queues.status().redis, large=large
            )
        return [_as_prediction(answer) for answer in answers]

    def answer_test(self, payload: PredictPayload, *, large: bool) -> list[Any]:
        """Answer Label Studio's "Send Test Request" with the masks of its task, which Label Studio shows and does not
        store; a worker stores them as always, where they are not stored yet.
        """
        stored = self.model_version in payload.first.versions
        if not stored:
            self.predict(payload.tasks)
        answer = self._queues.clicks.ask(
            payload, kind="prediction", version=self.model_version, redis_up=self._queues.status().redis, large=large,
            noted=stored,
        )  # fmt: skip
        if not stored and not answer.result:
            # Without `result` Label Studio stores nothing, should this be no test; its dialog shows the reason.
            return [[{"reason": answer.reason}]] if answer.reason else [[]]
        if not stored:  # in case it was no test
            self._queues.expect_second(self._project, self.model_version, payload.tasks[0])
        return [_as_prediction(answer)]


def _as_prediction(answer: ClickAnswer) -> dict[str, Any]:
    reason = {"reason": answer.reason} if answer.reason else {}
    return {"result": list(answer.result), "score": answer.score, "model_version": answer.version, **reason}


class Projects:
    """What Label Studio asks about its projects: a model per request, webhooks, training, versions."""

    def __init__(self, settings: Settings, queues: QueueClient) -> None:
        self._settings = settings
        self._queues = queues
        self._versions: dict[int, str] = {}
        self._set_up: dict[int, float] = {}

    def set_up(self, project: int, label_config: str) -> PreannotationBackend:
        """The model of a project that Label Studio prepares for its next requests.

        Raises:
            LabelingConfigError: the labeling config names nothing that could be segmented.
        """
        model = self.model(project, label_config)
        if len(self._set_up) >= _MAX_REMEMBERED:
            self._set_up.clear()
        self._set_up[project] = time.monotonic()
        return model

    def is_test(self, payload: PredictPayload, version: str) -> bool:
        """Whether Label Studio shows the answer to a request, and stores nothing of it: its "Send Test Request" sends
        one task, whether that has predictions of this version or not, and sends no /setup before.
        """
        if payload.interactive or len(payload.tasks) != 1:
            return False
        since = time.monotonic() - self._set_up.get(payload.project, float("-inf"))
        return version in payload.first.versions or since > _SETUP_COUNTS_S

    def model(self, project: int, label_config: str) -> PreannotationBackend:
        """The model of a project: works while Redis is away, and loads no weights.

        Raises:
            LabelingConfigError: the labeling config names nothing that could be segmented.
        """
        model = PreannotationBackend(label_config, project=project, queues=self._queues)
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
        """Label Studio's button: learn now, from however few corrections. `job` as Label Studio keeps it, and in
        `detail` what happens next; Label Studio's page shows neither (docs/guide/learning.md).

        Raises:
            QueueUnavailable: Redis does not answer.
        """
        job = self._queues.request_training(project)
        return {"status": "ok", "refresh": True, "job": job, "detail": self._queues.training_outlook(project)}

    def is_training(self, project: int | None = None) -> dict[str, Any]:
        """Whether a learner learns from the project's corrections now; this process never does."""
        try:
            return {"is_training": project is not None and self._queues.is_learning(project)}
        except QueueUnavailable as error:
            logger.warning("project %s: whether it is being learned from is unknown. %s", project, error)
            return {"is_training": False}

    def versions(self, project: int | None) -> list[str]:
        """Versions known of a project, or of all, the newest of each model last: Label Studio's GET /versions does not
        say which project it means.
        """
        recent = {version for known, version in list(self._versions.items()) if project in (None, known)}
        try:
            return sorted(recent.union(self._queues.versions(project)), key=_by_age)
        except QueueUnavailable as error:
            logger.warning("versions: only those since the start are known. %s", error)
            return sorted(recent, key=_by_age)


def _by_age(version: str) -> tuple[str, int, str]:
    found = ModelVersion.parse(version)
    return ("", 0, version) if found is None else found.order
