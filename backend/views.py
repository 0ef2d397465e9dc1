"""What each route answers."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

from falcon import Request, Response

from backend.metrics import CONTENT_TYPE, Metrics
from backend.model import PreannotationBackend, Projects
from backend.openapi import document
from backend.payloads import parse_predict, parse_project, parse_setup, parse_webhook, project_id
from backend.queue_client import QueueClient
from backend.responses import answer
from backend.server.request_bodies import LARGE, LARGE_READ_AT_ONCE
from backend.status.views import StatusViews
from plugin_config.errors import JobError
from plugin_config.queue.contract import CONTRACT
from plugin_config.settings import Settings


class Views(StatusViews):
    """The routes' answers; `on_<method>_<route>`, as Falcon calls them. `request.context.body` is the body."""

    def __init__(self, projects: Projects, queues: QueueClient, metrics: Metrics, settings: Settings) -> None:
        super().__init__(queues, settings)
        self._projects = projects
        self._metrics = metrics
        self._reading = threading.BoundedSemaphore(LARGE_READ_AT_ONCE)

    def on_get_health(self, _: Request, response: Response) -> None:
        """UP as long as requests are answered: a Redis that is away is reported, and no reason to restart."""
        status = self._queues.status()
        answer(response, {
            "status": "UP",
            "model_class": PreannotationBackend.__name__,
            "redis": status.redis,
            "workers": status.workers,
            "workers_in_trouble": status.in_trouble,
            "tasks_waiting_for_redis": self._queues.outbox_tasks(),
            "contract": CONTRACT,
        })  # fmt: skip

    def on_post_setup(self, request: Request, response: Response) -> None:
        """The version that predictions will carry, and what of the labeling config is not served."""
        setup = parse_setup(request.context.body)
        request.context.project = setup.project
        model = self._projects.set_up(setup.project, setup.label_config)
        remarks = {"remarks": model.remarks} if model.remarks else {}
        answer(response, {"model_version": model.model_version, **remarks})

    def on_post_predict(self, request: Request, response: Response) -> None:
        """Exactly one empty list per task; the mask of a click; the masks of a test request."""
        large = (request.content_length or 0) > LARGE
        with self._reading if large else nullcontext():
            predict = parse_predict(request.context.body)
        request.context.project, request.context.tasks = predict.project, len(predict.tasks)
        model = self._projects.model(predict.project, predict.label_config)
        results: list[Any]
        if predict.interactive:
            results = model.answer_click(predict, large=large)
        elif self._projects.is_test(predict, model.model_version):
            results = model.answer_test(predict, large=large)
        else:
            results = model.predict(predict.tasks)
        answer(response, {"results": results, "model_version": model.model_version})

    def on_post_webhook(self, request: Request, response: Response) -> None:
        """201 when it caused a job, 200 when it was only noted."""
        webhook = parse_webhook(request.context.body)
        request.context.project = webhook.project
        self._metrics.count_webhook(webhook.action)
        _answer_created(response, self._projects.handle_webhook(webhook.project, webhook.action, webhook.tasks))

    def on_get_versions(self, request: Request, response: Response) -> None:
        """Of the project named in the query, or of all: Label Studio names none."""
        answer(response, {"versions": self._projects.versions(_project_in_query(request))})

    def on_post_versions(self, request: Request, response: Response) -> None:
        """Of the project named in the body, or of all."""
        answer(response, {"versions": self._projects.versions(parse_project(request.context.body))})

    def on_post_train(self, request: Request, response: Response) -> None:
        """What Label Studio called before 1.4.1 where it sends START_TRAINING now."""
        project = parse_project(request.context.body)
        if project is None:
            raise JobError("request body", "project is missing", "Send what Label Studio's ML backend client sends.")
        request.context.project = project
        _answer_created(response, self._projects.train(project))

    def on_get_is_training(self, request: Request, response: Response) -> None:
        """Whether the project is being learned from."""
        answer(response, self._projects.is_training(_project_in_query(request)))

    def on_get_metrics(self, _: Request, response: Response) -> None:
        """Prometheus text."""
        response.content_type = CONTENT_TYPE
        response.data = self._metrics.text()

    def on_get_openapi(self, _: Request, response: Response) -> None:
        """The OpenAPI description of these routes."""
        answer(response, document())

    on_head_health = on_get_health
    on_head_versions = on_get_versions
    on_head_is_training = on_get_is_training
    on_head_metrics = on_get_metrics
    on_head_openapi = on_get_openapi


def _project_in_query(request: Request) -> int | None:
    project = request.get_param("project")
    return None if project is None else project_id(project)


def _answer_created(response: Response, content: dict[str, Any]) -> None:
    answer(response, content, status=201 if content["refresh"] else 200)
