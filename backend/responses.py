"""HTTP answers as JSON; every error is `{"status": code, "detail": sentence}`, without traceback or token."""

from __future__ import annotations

import json
from typing import Any

from falcon import Request, Response
from falcon.errors import HTTPError
from falcon.util import code_to_http_status

JSON = "application/json"
# Keeps pages of other origins from reading an answer, and browsers from guessing another content type.
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
_MAX_REASON = 300  # characters of a status line
_PROBLEMS = {404: "no such route is here", 405: "its route does not take its method"}


def error_body(status: int, detail: str) -> bytes:
    """The body of an error."""
    return json.dumps({"status": status, "detail": detail}).encode()


def request_sentence(problem: str, remedy: str) -> str:
    """The sentence of an error about a request as a whole, from what a library says of it."""
    return f"request: {problem.rstrip('.')}. {remedy}."


def answer(response: Response, content: dict[str, Any], *, status: int = 200) -> None:
    """Answer with JSON."""
    response.status = status
    response.content_type = JSON
    response.data = json.dumps(content).encode()


def refuse(response: Response, status: int, sentence: str) -> None:
    """Answer with an error whose sentence also stands in the status line.

    Label Studio drops the body of an error and shows its user the status line only.
    """
    reason = "".join(char if " " <= char <= "~" else "?" for char in sentence)
    fail(response, status, sentence)
    response.status = f"{status} {reason[:_MAX_REASON]}"


def fail(response: Response, status: int, sentence: str) -> None:
    """Answer with an error."""
    response.status = status
    response.content_type = JSON
    response.data = error_body(status, sentence)


def fail_as_http(_: Request, response: Response, error: HTTPError, __: dict[str, Any]) -> None:
    """Answer with an error of the web framework: no such route, not this method ..."""
    status = int(code_to_http_status(error.status)[:3])
    problem = _PROBLEMS.get(status) or error.description or error.title or "cannot be answered"
    fail(response, status, request_sentence(problem, "GET /openapi.json describes what is answered here"))
    response.set_headers(error.headers or {})
