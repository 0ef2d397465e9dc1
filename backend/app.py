"""The web half as a WSGI app: which routes there are, what stands before all of them, how errors and the log read.

It must not know what the routes do.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import falcon
from falcon import Request, Response
from falcon.errors import HTTPError

from backend.access import Doors
from backend.metrics import RequestCounter
from backend.model import ProjectManager
from backend.queue_client import WebQueues
from backend.responses import SAFE_HEADERS, fail, fail_as_http, refuse
from backend.views import JsonBody, Views
from plugin_config.errors import JobError, LabelingConfigError, QueueUnavailable, RequestRefused
from plugin_config.settings import Settings

# Path -> name of its views. None holds a variable, so a path that is none of these has no route.
ROUTES = {
    "/": "health",
    "/health": "health",
    "/setup": "setup",
    "/predict": "predict",
    "/webhook": "webhook",
    "/versions": "versions",
    "/train": "train",
    "/is_training": "is_training",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
}

logger = logging.getLogger(__name__)


def create_app(settings: Settings, queues: WebQueues, doors: Doors | None = None) -> falcon.App[_Asked, Response]:
    """The web half, for any WSGI server.

    Args:
        settings: all settings.
        queues: of the same settings; to be closed when the app is served no more.
        doors: those that the server asks as well, so that wrong guesses are counted in one place.
    """
    counter = RequestCounter()
    views = Views(ProjectManager(settings, queues), queues, counter)
    app = falcon.App(middleware=[_Entry(doors or Doors(settings), counter)], request_type=_Asked)
    for path, name in ROUTES.items():
        app.add_route(path, views, suffix=name)
    app.add_error_handler(HTTPError, fail_as_http)
    app.add_error_handler(JobError, _bad_request)
    app.add_error_handler(LabelingConfigError, _bad_request)
    app.add_error_handler(RequestRefused, _refused)
    app.add_error_handler(QueueUnavailable, _away)
    app.add_error_handler(Exception, _unexpected)  # the last resort: whatever else happens is logged and told
    return app


@dataclass
class _About:
    """What is known of a request, for its log line."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    started: float = field(default_factory=time.perf_counter)
    project: int | str = "-"
    tasks: int | str = "-"
    body: Callable[[], JsonBody] | None = None


class _Asked(Request):
    context_type = _About


class _Entry:
    """Stands before and behind every request."""

    def __init__(self, doors: Doors, counter: RequestCounter) -> None:
        self._doors = doors
        self._counter = counter

    def process_request(self, request: Request, _: Response) -> None:
        self._doors.check(request.env, _route(request))
        most, too_large = self._doors.most(request.path), self._doors.too_large(request.path)
        length = request.env.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdecimal()):
            raise JobError("header Content-Length", "must be a whole number", "Send the length of the body in bytes.")
        if len(length) > len(str(most)) or int(length) > most:
            raise too_large
        request.context.body = lambda: JsonBody(request, too_large, most)

    def process_response(self, request: Request, response: Response, _: Any, __: bool) -> None:
        response.set_headers(SAFE_HEADERS)
        context, route = request.context, _route(request)
        status = int(falcon.code_to_http_status(response.status)[:3])
        self._counter.count_request(route, status)
        spent = (time.perf_counter() - context.started) * 1000
        about = f"project={context.project} tasks={context.tasks}"
        method = request.method if request.method in falcon.HTTP_METHODS else "other"  # the caller's text, see `_route`
        logger.info("%s %s %d %s ms=%.0f id=%s", method, route, status, about, spent, context.request_id)


def _route(request: Request) -> str:
    # One of our own, never the address asked for: that is the caller's text and belongs neither in a log nor in a
    # counter.
    return request.path if request.path in ROUTES else "none"


def _bad_request(_: Request, response: Response, error: JobError | LabelingConfigError, __: dict[str, Any]) -> None:
    refuse(response, 400, str(error))


def _refused(_: Request, response: Response, error: RequestRefused, __: dict[str, Any]) -> None:
    refuse(response, error.status, str(error))
    response.set_headers(error.headers)


def _away(request: Request, response: Response, error: QueueUnavailable, _: dict[str, Any]) -> None:
    logger.warning("request %s: %s", request.context.request_id, error)
    fail(response, 503, "Redis does not answer; ask again when it does")


def _unexpected(request: Request, response: Response, error: Exception, _: dict[str, Any]) -> None:
    number = request.context.request_id
    logger.error("request %s failed", number, exc_info=error)
    fail(response, 500, f"something went wrong here; the log tells more under request {number}")
