"""How requests to Label Studio are signed, how its answers are read, and how bad ones become our errors.

It must not know what is asked for.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import httpx

from plugin_config.addresses import origin_of
from plugin_config.answers import LongAnswer, PackedAnswer, parts_of, redirect_of
from plugin_config.errors import AnswerTooLarge, LabelStudioError, LabelStudioFailing, LabelStudioUnreachable

MOST_ANSWER_BYTES = 64_000_000
"""The longest answer of Label Studio's API that is read: several tasks with detailed brush regions fit."""

_MOST_NESTS = 2_000_000
_ACCESS_TOKEN_S = 240  # Label Studio's access tokens live 300 s
TOKEN_REMEDY = (
    "Create a personal access token under Account & Settings in Label Studio and set LABEL_STUDIO_API_KEY to it."
)


class TokenAuth:
    """The one place that adds a token, and only to a request that is about to go to Label Studio's own origin.

    Both kinds of token: legacy ones are sent as they are; personal access tokens are JSON web tokens that only buy
    short-lived access tokens. Not an `httpx.Auth`, because httpx reads the answers in between whole and unpacked.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._origin = origin_of(httpx.URL(url))
        self._api_key = api_key
        self._personal = api_key.count(".") == 2
        self._access = ""
        self._expires = 0.0

    def send(self, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        """Sign and send; trade the personal token for an access token when that one is old or refused. The answer is
        for the caller to read and close; redirects are not followed.

        Raises:
            LabelStudioError: the request goes elsewhere (nothing was sent), or the personal token is refused.
            LabelStudioFailing: Label Studio could not trade the token now.
            httpx.TransportError: it does not answer.
        """
        if not self._personal:
            return self._signed(client, request, f"Token {self._api_key}")
        if time.monotonic() > self._expires:
            self._trade(client)
        response = self._signed(client, request, f"Bearer {self._access}")
        if response.status_code == 401:
            response.close()
            self._trade(client)
            response = self._signed(client, request, f"Bearer {self._access}")
        return response

    def _signed(self, client: httpx.Client, request: httpx.Request, token: str) -> httpx.Response:
        self._prove(request)
        request.headers["Authorization"] = token
        return client.send(request, stream=True, auth=None, follow_redirects=False)

    def _prove(self, request: httpx.Request) -> None:
        if origin_of(request.url) != self._origin:
            remedy = "Nothing was sent. Report this: an address was taken for Label Studio's that is not."
            raise LabelStudioError("Label Studio token", f"was about to go to {request.url.host[:100]!r}", remedy)

    def _trade(self, client: httpx.Client) -> None:
        refresh = f"{self._url}/api/token/refresh/"
        request = client.build_request("POST", refresh, json={"refresh": self._api_key})
        self._prove(request)
        subject = "Label Studio token"
        with closing(client.send(request, stream=True, auth=None, follow_redirects=False)) as response:
            status = response.status_code
            if is_down(response):
                raise failing(self._url, status)
            if status != 200:
                raise LabelStudioError(subject, f"was refused (HTTP {status})", TOKEN_REMEDY, status=status)
            body = read_body(subject, response)
        try:
            access = str(read_json(subject, response, body)["access"])
        except (KeyError, TypeError) as error:
            raise not_json(subject, response) from error
        if not is_token(access):
            raise not_json(subject, response)
        self._access = access
        self._expires = time.monotonic() + _ACCESS_TOKEN_S


def is_token(text: str) -> bool:
    """Whether a text can stand in a header as a token."""
    return text.isascii() and text.isprintable() and " " not in text


def read_body(subject: str, response: httpx.Response) -> bytes:
    """The body of an answer of Label Studio's API, bounded, not unpacked.

    Raises:
        LabelStudioError: too long, or compressed.
        httpx.TransportError: it broke off.
    """
    try:
        return b"".join(parts_of(response, MOST_ANSWER_BYTES))
    except LongAnswer as error:
        problem = f"was answered with more than {MOST_ANSWER_BYTES // 1_000_000} MB"
        remedy = "Look at the data and annotations of these tasks in Label Studio: something in them is far too large."
        raise AnswerTooLarge(subject, problem, remedy, status=response.status_code) from error
    except PackedAnswer as error:
        remedy = "Turn compression off in the proxy before Label Studio: it was asked for the answer as it is."
        problem = f"was answered in the coding {error}"
        raise LabelStudioError(subject, problem, remedy, status=response.status_code) from error


def read_json(subject: str, response: httpx.Response, body: bytes) -> Any:
    """What the body of an answer says.

    Raises:
        LabelStudioError: it is not JSON, or JSON that is nested or split up without end.
    """
    if body.count(b"[") + body.count(b"{") > _MOST_NESTS:  # an empty list of two bytes takes 64 in memory
        remedy = "Look at the data and annotations of these tasks in Label Studio: something in them is far too large."
        problem = f"was answered with more than {_MOST_NESTS} lists and objects"
        raise AnswerTooLarge(subject, problem, remedy, status=response.status_code)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise not_json(subject, response) from error


def refused(subject: str, response: httpx.Response) -> LabelStudioError:
    """The error of an answer that says no, or says to go elsewhere; quotes what Label Studio says, never what was sent.

    Raises:
        httpx.TransportError: it broke off.
    """
    status = response.status_code
    if response.is_redirect:
        remedy = "Set LABEL_STUDIO_URL to where it leads, without the path of a page."
        problem = f"is redirected to {redirect_of(response)[:200] or 'nowhere'}"
        return LabelStudioError(subject, problem, remedy, status=status)
    remedy = "Check the address and that the user of LABEL_STUDIO_API_KEY may see this project."
    if status in (401, 403):
        remedy = TOKEN_REMEDY
    try:
        told = read_json(subject, response, read_body(subject, response))
        detail = str(told.get("validation_errors") or told.get("detail") or "") if isinstance(told, dict) else ""
    except LabelStudioError:
        detail = ""
    return LabelStudioError(subject, f"was refused (HTTP {status}) {detail[:300]}".rstrip(), remedy, status=status)


def is_loopback(url: httpx.URL) -> bool:
    """Whether a proxy has no business between us and this address."""
    return url.host in ("localhost", "::1") or url.host.startswith("127.")


def is_down(response: httpx.Response) -> bool:
    """Whether an answer means "not now" and not "no"."""
    return response.status_code == 429 or response.status_code >= 500


def failing(url: str, status: int) -> LabelStudioFailing:
    """The error of an answer that `is_down` is true of."""
    remedy = "See its log, or that of a proxy before it; the work is kept and goes on by itself."
    return LabelStudioFailing(f"Label Studio at {url}", f"answered HTTP {status}", remedy, status=status)


def unreachable(url: str, error: httpx.TransportError) -> LabelStudioUnreachable:
    """The error of no answer."""
    remedy = "Check that it runs and that LABEL_STUDIO_URL is right; the work is kept and goes on by itself."
    return LabelStudioUnreachable(f"Label Studio at {url}", f"{type(error).__name__}: {error}", remedy)


def not_json(subject: str, response: httpx.Response) -> LabelStudioError:
    """The error of an answer in some other language, a login page for one."""
    remedy = "Check that LABEL_STUDIO_URL is Label Studio itself and not a login page or a proxy."
    return LabelStudioError(subject, "answered something that is not JSON", remedy, status=response.status_code)
