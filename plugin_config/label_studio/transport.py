"""Reads answers of Label Studio's API within limits, and makes errors of those that are no success."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from plugin_config.certificates import tls_trouble
from plugin_config.errors import (
    AnswerMalformed,
    AnswerTooLarge,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
)
from plugin_config.http_responses import CompressedResponse, ResponseTooLong, body_chunks, redirect_location
from plugin_config.label_studio.tokens import remedy_for

MOST_ANSWER_BYTES = 64_000_000
"""The longest answer that is read: several tasks with detailed brush regions fit."""

PROXY_REMEDY = "correct it, or name Label Studio's host in NO_PROXY."
_MOST_CONTAINERS = 2_000_000
_OWN_FIELDS = {"status_code", "version", "detail"}  # what the API of Label Studio (1.23.2) tells with every refusal
_TOO_LARGE = "Look at the data and annotations of these tasks in Label Studio: something in them is far too large."


def read_body(subject: str, response: httpx.Response) -> bytes:
    """Read the body of an answer, not decompressed and no longer than MOST_ANSWER_BYTES.

    Raises:
        AnswerTooLarge: it is longer.
        LabelStudioError: it is compressed.
        httpx.TransportError: the connection broke.
    """
    try:
        return b"".join(body_chunks(response, MOST_ANSWER_BYTES))
    except ResponseTooLong as error:
        problem = f"was answered with more than {MOST_ANSWER_BYTES // 1_000_000} MB"
        raise AnswerTooLarge(subject, problem, _TOO_LARGE, status=response.status_code) from error
    except CompressedResponse as error:
        remedy = "Turn compression off in the proxy before Label Studio: it was asked for the answer as it is."
        problem = f"was answered in the coding {error}"
        raise LabelStudioError(subject, problem, remedy, status=response.status_code) from error


def read_json(subject: str, response: httpx.Response, body: bytes) -> Any:
    """Parse the body of an answer.

    Raises:
        AnswerTooLarge: it holds millions of lists and objects, or is nested too deeply.
        LabelStudioError: it is not JSON.
    """
    if body.count(b"[") + body.count(b"{") > _MOST_CONTAINERS:  # an empty list of two bytes takes 64 in memory
        problem = f"was answered with more than {_MOST_CONTAINERS} lists and objects"
        raise AnswerTooLarge(subject, problem, _TOO_LARGE, status=response.status_code)
    try:
        return json.loads(body)
    except RecursionError as error:
        problem = "answered something that is not JSON as it is written here: it is nested too deeply"
        raise AnswerTooLarge(subject, problem, _TOO_LARGE, status=response.status_code) from error
    except ValueError as error:
        raise not_json(subject, response) from error


def refused(url: str, subject: str, response: httpx.Response) -> LabelStudioError:
    """The error for a refusal or a redirect. It quotes what Label Studio answers, never what was sent.

    Args:
        url: of Label Studio.
        subject: what was asked for.
        response: not read yet.

    Returns:
        LabelStudioFailing for an HTTP 404 that is not Label Studio's own: nothing is known to be missing there.

    Raises:
        httpx.TransportError: the connection broke.
    """
    status = response.status_code
    if response.is_redirect:
        remedy = "Set LABEL_STUDIO_URL to where it leads, without the path of a page."
        problem = f"is redirected to {redirect_location(response)[:200] or 'nowhere'}"
        return LabelStudioError(subject, problem, remedy, status=status)
    answer = _read_refusal(subject, response)
    if status == 404 and not answer.keys() >= _OWN_FIELDS:
        return not_its_own(url, status)
    detail = _detail(answer).rstrip(".")
    remedy = "Check the address and that the user of LABEL_STUDIO_API_KEY may see this project."
    if status in (401, 403):
        remedy = remedy_for(status, detail)
    return LabelStudioError(subject, f"was refused (HTTP {status}) {detail[:300]}".rstrip(), remedy, status=status)


def not_its_own(url: str, status: int) -> LabelStudioFailing:
    """The error for a refusal that is not Label Studio's own, such as a proxy's while Label Studio restarts. It has no
    status: nobody may take it for what Label Studio says.
    """
    remedy = (
        "Check that LABEL_STUDIO_URL leads to it; if a proxy before it answers so while it restarts, the work is kept "
        "and goes on by itself."
    )
    return LabelStudioFailing(f"Label Studio at {url}", f"answered HTTP {status}, but not as it does itself", remedy)


def read_detail(subject: str, response: httpx.Response) -> str:
    """What the answer to a refused request says; "" where it says nothing that can be read.

    Raises:
        httpx.TransportError: the connection broke.
    """
    return _detail(_read_refusal(subject, response))


def _read_refusal(subject: str, response: httpx.Response) -> Mapping[str, Any]:
    try:
        answer = read_json(subject, response, read_body(subject, response))
    except LabelStudioError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _detail(answer: Mapping[str, Any]) -> str:
    return str(answer.get("validation_errors") or answer.get("detail") or "")


def is_down(response: httpx.Response) -> bool:
    """Whether an answer says that Label Studio cannot serve the request now, not that the request is wrong."""
    return response.status_code == 429 or response.status_code >= 500


def failing(url: str, status: int) -> LabelStudioFailing:
    """The error for an answer of which `is_down` is true."""
    remedy = "See its log, or that of a proxy before it; the work is kept and goes on by itself."
    return LabelStudioFailing(f"Label Studio at {url}", f"answered HTTP {status}", remedy, status=status)


def unreachable(url: str, error: httpx.TransportError) -> LabelStudioUnreachable:
    """The error where there was no answer."""
    subject, goes_on = f"Label Studio at {url}", "The work is kept and goes on by itself."
    if trouble := tls_trouble(error):
        problem, remedy = trouble
        return LabelStudioUnreachable(subject, problem, f"{remedy} {goes_on}")
    remedy = "Check that it runs and that LABEL_STUDIO_URL is right; the work is kept and goes on by itself."
    if isinstance(error, httpx.ProxyError):
        remedy = f"A proxy of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) is asked: {PROXY_REMEDY} {goes_on}"
    return LabelStudioUnreachable(subject, f"{type(error).__name__}: {error}", remedy)


def not_json(subject: str, response: httpx.Response) -> LabelStudioError:
    """The error for an answer that is not JSON, such as a login page."""
    remedy = "Check that LABEL_STUDIO_URL is Label Studio itself and not a login page or a proxy."
    return LabelStudioError(subject, "answered something that is not JSON", remedy, status=response.status_code)


def unexpected_answer(subject: str, error: Exception) -> AnswerMalformed:
    """The error for an answer whose JSON has another form than in the Label Studio that this is written for."""
    remedy = "This version of Label Studio is not known here; 1.23 is."
    return AnswerMalformed(f"Label Studio's answer about {subject}", f"is not as expected ({error!r:.200})", remedy)
