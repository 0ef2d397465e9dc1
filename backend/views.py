"""What each route answers, in place of the framework's views, and how errors read.

Every answer is JSON (but /metrics), every error `{"status": code, "detail": sentence}`: no traceback, no address, no
token. It must not know Redis or `label_studio_ml`.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from flask import Response, g, request
from werkzeug.exceptions import HTTPException

from backend import metrics
from backend.bodies import project_id, read_object, read_predict, read_setup, read_webhook
from backend.model import PreannotationBackend, ProjectManager
from backend.queues import WebQueues
from plugin_config.errors import JobError, LabelingConfigError, QueueUnavailable

# What Label Studio sends; others are accepted and counted together.
_ACTIONS = frozenset({
    "PROJECT_UPDATED", "TASKS_CREATED", "TASKS_DELETED", "ANNOTATION_CREATED", "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED",
    "START_TRAINING",
})  # fmt: skip
_MOST_REASON = 300

logger = logging.getLogger(__name__)


class Views:
    """The routes' answers over one manager, its queues and the counters."""

    def __init__(self, manager: ProjectManager, queues: WebQueues, counter: metrics.RequestCounter) -> None:
        self._manager = manager
        self._queues = queues
        self._counter = counter

    def health(self) -> Response:
        """UP as long as requests are answered: a Redis that is gone is told, not a reason to be dropped."""
        pulse = self._queues.pulse()
        return _json({
            "status": "UP",
            "model_class": PreannotationBackend.__name__,
            "redis": pulse.redis,
            "workers": pulse.workers,
            "tasks_waiting_for_redis": self._queues.waiting(),
        })

    def setup(self) -> Response:
        """The version that predictions will carry."""
        body = read_setup(_body())
        g.project = body.project
        return _json({"model_version": self._manager.fetch(body.project, body.label_config).model_version})

    def predict(self) -> Response:
        """Exactly one empty list per task."""
        body = read_predict(_body())
        g.project, g.tasks = body.project, len(body.tasks)
        results, model = self._manager.predict(
            body.tasks, body.project, body.label_config, interactive=body.interactive
        )
        return _json({"results": results, "model_version": model.model_version})

    def webhook(self) -> Response:
        """201 when it caused a job, 200 when it was only noted."""
        body = read_webhook(_body())
        g.project = body.project
        self._counter.count_webhook(body.action if body.action in _ACTIONS else "other")
        return _hinted(self._manager.webhook(body.action, {"project": body.project, "tasks": body.tasks}))

    def versions(self) -> Response:
        """GET names the project in the query or not at all (Label Studio does not), POST in the body."""
        named = request.args.get("project") if request.method == "GET" else read_object(_body()).get("project")
        return _json({"versions": self._manager.versions(None if named is None else project_id(named))})

    def train(self) -> Response:
        """What Label Studio called before 1.4.1 where it sends START_TRAINING now."""
        project = read_object(_body()).get("project")
        g.project = project_id(project.get("id") if isinstance(project, dict) else project)
        return _hinted(self._manager.train(g.project))

    def is_training(self) -> Response:
        """Whether a learner is at it."""
        named = request.args.get("project")
        return _json(self._manager.is_training(None if named is None else project_id(named)))

    def metrics(self) -> Response:
        """Prometheus text."""
        pulse = self._queues.pulse()
        try:
            tasks = self._queues.counts() if pulse.redis else {}
        except QueueUnavailable as error:
            logger.warning("metrics: tasks not counted. %s", error)
            tasks = {}
        text = metrics.render(self._counter, redis_up=pulse.redis, workers=pulse.workers, tasks=tasks)
        return Response(text, content_type=metrics.CONTENT_TYPE)


def install(app: Any, views: Views, counter: metrics.RequestCounter) -> None:
    """Put the views, the error answers and the request log into the framework's app. Calling again is harmless."""
    table: dict[str, Callable[[], Response]] = {
        "health": views.health,
        "_setup": views.setup,
        "_predict": views.predict,
        "webhook": views.webhook,
        "get_version": views.versions,
        "_train": views.train,
        "_is_training": views.is_training,
        "metrics": views.metrics,
    }
    if "versions_by_get" not in app.view_functions:
        app.add_url_rule("/versions", endpoint="versions_by_get", methods=["GET"], view_func=views.versions)
    app.view_functions.update(table, versions_by_get=views.versions)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(JobError, _bad_request)
    app.register_error_handler(LabelingConfigError, _bad_request)
    app.register_error_handler(QueueUnavailable, _away)
    app.register_error_handler(Exception, _unexpected)  # the last resort: whatever else happens is logged and told
    app.before_request(_begin)
    app.after_request(lambda response: _end(response, counter))


def error_body(status: int, detail: str) -> bytes:
    """The one shape of an error."""
    return json.dumps({"status": status, "detail": detail}).encode()


def _body() -> bytes:
    if request.mimetype != "application/json":
        # A page in somebody's browser can post plain text to any address it likes, JSON only where it is allowed to.
        problem = f"must be sent as application/json, got {request.mimetype!r}"
        raise JobError("request body", problem, "Set the header Content-Type.")
    return bytes(request.get_data(cache=False))


def _json(content: dict[str, Any], *, status: int = 200) -> Response:
    return Response(json.dumps(content), status=status, content_type="application/json")


def _hinted(answer: dict[str, Any]) -> Response:
    return _json(answer, status=201 if answer["refresh"] else 200)


def _away(error: QueueUnavailable) -> Response:
    logger.warning("request %s: %s", g.get("request_id", "-"), error)
    detail = "Redis does not answer; ask again when it does"
    return Response(error_body(503, detail), status=503, content_type="application/json")


def _bad_request(error: JobError | LabelingConfigError) -> Response:
    response = Response(error_body(400, str(error)), content_type="application/json")
    # Label Studio drops the body of an error and shows its user the status line only, so the sentence stands there too.
    reason = "".join(sign if " " <= sign <= "~" else "?" for sign in str(error))
    response.status = f"400 {reason[:_MOST_REASON]}"
    return response


def _http_error(error: HTTPException) -> Response:
    code = error.code or 500
    response: Response = error.get_response()
    response.set_data(error_body(code, f"{error.name}: {error.description}"))
    response.content_type = "application/json"
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("request %s failed", g.get("request_id", "-"), exc_info=error)
    detail = f"something went wrong here; the log tells more under request {g.get('request_id', '-')}"
    return Response(error_body(500, detail), status=500, content_type="application/json")


def _begin() -> None:
    g.request_id = uuid.uuid4().hex[:8]
    g.started = time.perf_counter()


def _end(response: Response, counter: metrics.RequestCounter) -> Response:
    # The rule, not the address: the address is the caller's text and belongs neither in a log nor in a counter.
    route = request.url_rule.rule if request.url_rule else "none"
    counter.count_request(route, response.status_code)
    spent = (time.perf_counter() - g.get("started", time.perf_counter())) * 1000
    about = f"project={g.get('project', '-')} tasks={g.get('tasks', '-')}"
    logger.info(
        "%s %s %d %s ms=%.0f id=%s", request.method, route, response.status_code, about, spent, g.get("request_id", "-")
    )
    return response
