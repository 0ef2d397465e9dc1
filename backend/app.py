"""The backend as a WSGI app: its routes, what happens before and after each request, and its answers to errors."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import falcon
from falcon import MEDIA_URLENCODED, Request, Response
from falcon.errors import HTTPError

from backend.access import AccessControl
from backend.metrics import Metrics
from backend.model import Projects
from backend.queue_client import QueueClient
from backend.responses import JSON, SAFE_HEADERS, fail, fail_as_http, refuse
from backend.views import Views
from plugin_config.errors import JobError, LabelingConfigError, QueueFull, QueueUnavailable, RequestRefused
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
    "/status": "status",
    "/status/project": "status_project",
    "/status/update": "status_update",
    "/status.css": "status_style",
    "/status.js": "status_script",
}
_FORMS = frozenset({"/status/project"})  # their bodies are forms; those of all others are JSON

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings, queues: QueueClient, access: AccessControl | None = None
) -> falcon.App[_Request, Response]:
    """Make the app, for any WSGI server.

    Args:
        settings: all settings.
        queues: of the same settings; close it when the app is served no more.
        access: the one that the server asks as well, so that wrong guesses are counted in one place.
    """
    metrics = Metrics(queues, settings.model)
    views = Views(Projects(settings, queues), queues, metrics, settings)
    app = falcon.App(middleware=[_Middleware(access or AccessControl(settings), metrics)], request_type=_Request)
    for path, name in ROUTES.items():
        app.add_route(path, views, suffix=name)
    app.add_error_handler(HTTPError, fail_as_http)
    app.add_error_handler(JobError, _answer_400)
    app.add_error_handler(LabelingConfigError, _answer_400)
    app.add_error_handler(RequestRefused, _answer_refusal)
    app.add_error_handler(QueueUnavailable, _answer_503)
    app.add_error_handler(Exception, _answer_500)  # the last resort: whatever else happens is logged and answered
    return app


class RequestBody:
    """A request's body, read in pieces and never past the largest one of its route.

    Args:
        request: the request.
        most: the largest body of its route, in bytes.
        too_large: what to raise for a larger one.
        media: the content type that its route takes.
    """

    def __init__(self, request: Request, most: int, too_large: RequestRefused, *, media: str) -> None:
        self._request = request
        self._too_large = too_large
        self._left = most
        self._media = media

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            JobError: the body is not sent as what its route takes.
            RequestRefused: the body is larger than its route takes.
        """
        media = (self._request.content_type or "").partition(";")[0].strip().lower()
        if media != self._media:
            # A page in somebody's browser can post plain text and forms to any address it likes, JSON only where it is
            # allowed; what takes forms checks where they come from.
            problem = f"must be sent as {self._media}, got {media!r}"
            raise JobError("request body", problem, "Set the header Content-Type.")
        part: bytes = self._request.stream.read(min(size, self._left + 1))
        self._left -= len(part)
        if self._left < 0:
            raise self._too_large
        return part


@dataclass
class _Context:
    """What is known of a request, for its log line, and its body."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    started: float = field(default_factory=time.perf_counter)
    project: int | str = "-"
    tasks: int | str = "-"
    body: RequestBody | None = None


class _Request(Request):
    context_type = _Context


class _Middleware:
    """Checks each request before it is answered; counts and logs it afterwards."""

    def __init__(self, access: AccessControl, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    def process_request(self, request: Request, _: Response) -> None:
        self._access.check(request.env, _route(request))
        most, too_large = self._access.largest_body(request.path), self._access.too_large(request.path)
        length = request.env.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdecimal()):
            raise JobError("header Content-Length", "must be a whole number", "Send the length of the body in bytes.")
        if len(length) > len(str(most)) or int(length) > most:
            raise too_large
        media = MEDIA_URLENCODED if request.path in _FORMS else JSON
        request.context.body = RequestBody(request, most, too_large, media=media)

    def process_response(self, request: Request, response: Response, _: Any, __: bool) -> None:
        response.set_headers(SAFE_HEADERS)
        context, route = request.context, _route(request)
        status = int(falcon.code_to_http_status(response.status)[:3])
        seconds = time.perf_counter() - context.started
        self._metrics.count_request(route, status, seconds)
        about = f"project={context.project} tasks={context.tasks}"
        method = request.method if request.method in falcon.HTTP_METHODS else "other"  # the client's text, see `_route`
        logger.info("%s %s %d %s ms=%.0f id=%s", method, route, status, about, seconds * 1000, context.request_id)


def _route(request: Request) -> str:
    # One of our own, never the path of the request: that is the client's text and belongs neither in a log nor in a
    # counter.
    return request.path if request.path in ROUTES else "none"


def _answer_400(_: Request, response: Response, error: JobError | LabelingConfigError, __: dict[str, Any]) -> None:
    refuse(response, 400, str(error))


def _answer_refusal(_: Request, response: Response, error: RequestRefused, __: dict[str, Any]) -> None:
    refuse(response, error.status, str(error))
    response.set_headers(error.headers)


def _answer_503(request: Request, response: Response, error: QueueUnavailable, _: dict[str, Any]) -> None:
    logger.warning("request %s: %s", request.context.request_id, error)
    # Of Redis, no more than that: its errors name addresses of this network.
    sentence = str(error) if isinstance(error, QueueFull) else "Redis: does not answer. Ask again when it does."
    fail(response, 503, sentence)


def _answer_500(request: Request, response: Response, error: Exception, _: dict[str, Any]) -> None:
    number = request.context.request_id
    logger.error("request %s failed", number, exc_info=error)
    fail(response, 500, f"something went wrong here; the log has details under request {number}")
