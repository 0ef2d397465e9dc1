"""What each route answers. It must not know Redis or `label_studio_ml`."""

from __future__ import annotations

import logging
from typing import Any

from falcon import Request, Response

from backend import metrics
from backend.model import PreannotationBackend, ProjectManager
from backend.openapi import document
from backend.queue_client import WebQueues
from backend.requests import project_id, read_predict, read_project, read_setup, read_webhook
from backend.responses import JSON, answer
from plugin_config.errors import JobError, QueueUnavailable, RequestRefused

# What Label Studio sends; others are accepted and counted together.
_ACTIONS = frozenset({
    "PROJECT_UPDATED", "TASKS_CREATED", "TASKS_DELETED", "ANNOTATION_CREATED", "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED",
    "START_TRAINING",
})  # fmt: skip

logger = logging.getLogger(__name__)


class JsonBody:
    """A request's body, read bit by bit and never past the largest one of its route."""

    def __init__(self, request: Request, too_large: RequestRefused, most: int) -> None:
        media = (request.content_type or "").partition(";")[0].strip().lower()
        if media != JSON:
            # A page in somebody's browser can post plain text to any address it likes, JSON only where it is allowed.
            raise JobError("request body", f"must be sent as {JSON}, got {media!r}", "Set the header Content-Type.")
        self._stream = request.stream
        self._too_large = too_large
        self._left = most

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            RequestRefused: the body is larger than its route takes.
        """
        part = self._stream.read(min(size, self._left + 1))
        self._left -= len(part)
        if self._left < 0:
            raise self._too_large
        return part


class Views:
    """The routes' answers over one manager, its queues and the counters; `on_<method>_<route>`, as Falcon calls them.

    Each gets its body as `request.context.body()`.
    """

    def __init__(self, manager: ProjectManager, queues: WebQueues, counter: metrics.RequestCounter) -> None:
        self._manager = manager
        self._queues = queues
        self._counter = counter

    def on_get_health(self, _: Request, response: Response) -> None:
        """UP as long as requests are answered: a Redis that is gone is told, not a reason to be dropped."""
        pulse = self._queues.pulse()
        answer(response, {
            "status": "UP",
            "model_class": PreannotationBackend.__name__,
            "redis": pulse.redis,
            "workers": pulse.workers,
            "workers_in_trouble": pulse.troubled,
            "tasks_waiting_for_redis": self._queues.waiting(),
        })  # fmt: skip

    def on_post_setup(self, request: Request, response: Response) -> None:
        """The version that predictions will carry."""
        body = read_setup(request.context.body())
        request.context.project = body.project
        answer(response, {"model_version": self._manager.fetch(body.project, body.label_config).model_version})

    def on_post_predict(self, request: Request, response: Response) -> None:
        """Exactly one empty list per task."""
        body = read_predict(request.context.body())
        request.context.project, request.context.tasks = body.project, len(body.tasks)
        model = self._manager.fetch(body.project, body.label_config)
        results = model.predict(body.tasks, interactive=body.interactive)
        answer(response, {"results": results, "model_version": model.model_version})

    def on_post_webhook(self, request: Request, response: Response) -> None:
        """201 when it caused a job, 200 when it was only noted."""
        body = read_webhook(request.context.body())
        request.context.project = body.project
        self._counter.count_webhook(body.action if body.action in _ACTIONS else "other")
        _hinted(response, self._manager.webhook(body.action, {"project": body.project, "tasks": body.tasks}))

    def on_get_versions(self, request: Request, response: Response) -> None:
        """Of the project named in the query, or of all: Label Studio names none."""
        answer(response, {"versions": self._manager.versions(_named(request))})

    def on_post_versions(self, request: Request, response: Response) -> None:
        """Of the project named in the body, or of all."""
        answer(response, {"versions": self._manager.versions(read_project(request.context.body()))})

    def on_post_train(self, request: Request, response: Response) -> None:
        """What Label Studio called before 1.4.1 where it sends START_TRAINING now."""
        project = read_project(request.context.body())
        if project is None:
            raise JobError("request body", "project is missing", "Send what Label Studio's ML backend client sends.")
        request.context.project = project
        _hinted(response, self._manager.train(project))

    def on_get_is_training(self, request: Request, response: Response) -> None:
        """Whether a learner is at it."""
        answer(response, self._manager.is_training(_named(request)))

    def on_get_metrics(self, _: Request, response: Response) -> None:
        """Prometheus text."""
        pulse = self._queues.pulse()
        try:
            tasks = self._queues.counts() if pulse.redis else {}
        except QueueUnavailable as error:
            logger.warning("metrics: tasks not counted. %s", error)
            tasks = {}
        response.content_type = metrics.CONTENT_TYPE
        response.text = metrics.render(self._counter, redis_up=pulse.redis, workers=pulse.workers, tasks=tasks)

    def on_get_openapi(self, _: Request, response: Response) -> None:
        """What stands here, for machines."""
        answer(response, document())

    on_head_health = on_get_health
    on_head_versions = on_get_versions
    on_head_is_training = on_get_is_training
    on_head_metrics = on_get_metrics
    on_head_openapi = on_get_openapi


def _named(request: Request) -> int | None:
    named = request.get_param("project")
    return None if named is None else project_id(named)


def _hinted(response: Response, told: dict[str, Any]) -> None:
    answer(response, told, status=201 if told["refresh"] else 200)
