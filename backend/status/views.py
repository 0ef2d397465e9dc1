"""What the routes of the status page answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files

from falcon import Request, Response

from backend.queue_client import QueueClient
from backend.status.actions import Action, told
from backend.status.forms import FormToken, read_form, require_same_origin
from backend.status.page import Page, lead
from backend.status.project_page import project_page
from backend.status.projects_page import projects_page
from backend.status.reading import ProjectView
from plugin_config.errors import (
    JobError,
    LearningError,
    QueueUnavailable,
    RequestRefused,
    VersionsUnavailable,
    ZeromaskError,
)
from plugin_config.queue.jobs import parse_id
from plugin_config.settings import Settings

_HEADERS = {
    # Nothing from elsewhere, no script or style in the page itself, and in no other page's frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    # Not "no-referrer": browsers then name no origin with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_HTML, _JSON = "text/html; charset=utf-8", "application/json"
_MOST_PAGES = 999_999
_STATUSES = ((JobError, 400), (LearningError, 409), (VersionsUnavailable, 503), (QueueUnavailable, 503))

logger = logging.getLogger(__name__)


class StatusViews:
    """`on_<method>_<route>`, as Falcon calls them.

    Args:
        queues: whose `pages` read what is shown.
        settings: of this process.
    """

    def __init__(self, queues: QueueClient, settings: Settings) -> None:
        self._queues, self._settings = queues, settings
        # Tasks may name several public addresses; the first is that which people open.
        self._public = settings.label_studio_public_url.split(",")[0].strip()
        self._files = {name: (files(__package__) / name).read_bytes() for name in ("status.css", "status.js")}

    def on_get_status(self, request: Request, response: Response) -> None:
        """The page of all projects."""
        self._answer(response, lambda: self._overview(request))

    def on_get_status_project(self, request: Request, response: Response) -> None:
        """The page of one project."""
        token = FormToken.of(request.cookies)
        message = told(request.get_param("done") or "", request.get_param("what") or "")

        def made() -> Page:
            request.context.project = project = _project(request)
            found = self._found(project)
            return project_page(found, public=self._public, token=token.value, message=message)

        self._answer(response, made, root="../")
        if token.made:
            response.append_header("Set-Cookie", token.header)

    def on_post_status_project(self, request: Request, response: Response) -> None:
        """A button that was pressed: the page of the project again, with what was done or went wrong."""
        try:
            require_same_origin(request.env)
            action = Action.of(read_form(request.context.body, request.cookies))
            request.context.project = action.project
            what = action.carry_out(self._queues.bulk_redis, self._settings)
        except ZeromaskError as error:
            _fail(response, error, "That was not done.", root="../")
            return
        self._queues.pages.forget()
        logger.info("project %d: %s %s, as a person asked on the status page", action.project, action.name, what)
        response.status = 303
        response.set_headers({**_HEADERS, "Location": f"project?id={action.project}&done={action.name}&what={what}"})

    def on_get_status_update(self, request: Request, response: Response) -> None:
        """What changed of a page, for its script: of a project's page with `id`, else of all projects."""
        if request.get_param("id") is None:
            page = self._overview(request)
        else:
            page = project_page(self._found(_project(request)), public=self._public, token="")
        _send(response, page.changes(request.get_param("have") or ""), kind=_JSON)

    def on_get_status_style(self, _: Request, response: Response) -> None:
        """The style of the pages."""
        _send(response, self._files["status.css"], kind="text/css; charset=utf-8")

    def on_get_status_script(self, _: Request, response: Response) -> None:
        """The script of the pages."""
        _send(response, self._files["status.js"], kind="text/javascript; charset=utf-8")

    on_head_status = on_get_status
    on_head_status_project = on_get_status_project
    on_head_status_update = on_get_status_update
    on_head_status_style = on_get_status_style
    on_head_status_script = on_get_status_script

    def _overview(self, request: Request) -> Page:
        asked = request.get_param("page")
        number = 1 if asked is None else parse_id(asked)
        if number is None or number > _MOST_PAGES:
            raise JobError("page", "must be a whole number from 1", "Follow a link of the status page.")
        self._require_redis()
        return projects_page(self._queues.pages.overview(number), public=self._public)

    def _found(self, project: int) -> ProjectView:
        self._require_redis()
        found = self._queues.pages.project(project)
        if found is None:
            problem = "has asked for no predictions yet"
            raise RequestRefused(f"project {project}", problem, "Look at all projects.", status=404)
        return found

    def _require_redis(self) -> None:
        if not self._queues.status().redis:  # within 0.1 s, whatever Redis does
            raise QueueUnavailable("Redis", "does not answer", "Start it; this page shows more when it is back.")

    def _answer(self, response: Response, made: Callable[[], Page], *, root: str = "") -> None:
        """Answer with a page, and with one that says what is wrong where nothing can be shown: a person reads it."""
        try:
            page = made()
        except ZeromaskError as error:
            _fail(response, error, "Nothing can be shown.", root=root)
            return
        _send(response, page.html)


def _fail(response: Response, error: ZeromaskError, sentence: str, *, root: str) -> None:
    """Answer with a page that says what is wrong; `root` as `Page` has it."""
    logger.info("status page: %s", error)
    status = error.status if isinstance(error, RequestRefused) else \
        next((status for kind, status in _STATUSES if isinstance(error, kind)), 503)  # fmt: skip
    nav = f'<a href="{root}status">All projects</a>'
    page = Page("Zeromask", (lead(sentence),), root=root, message=_for_people(error), failed=True, nav=nav)
    _send(response, page.html, status=status)


def _for_people(error: ZeromaskError) -> str:
    # Of Redis, no more than that: its errors name addresses of this network.
    return "Redis: does not answer. Try again when it does." if error.subject == "Redis" else str(error)


def _send(response: Response, data: bytes, *, kind: str = _HTML, status: int = 200) -> None:
    response.status = status
    response.content_type = kind
    response.data = data
    response.set_headers(_HEADERS)


def _project(request: Request) -> int:
    project = parse_id(request.get_param("id") or "")
    if project is None:
        raise JobError("id", "must be the number of a project", "Follow a link of the status page.")
    return project
