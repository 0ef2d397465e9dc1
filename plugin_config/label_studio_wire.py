"""How requests to Label Studio are signed, and how its bad answers become our errors.

It must not know what is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from urllib.parse import urlsplit

import httpx

from plugin_config.errors import LabelStudioError, LabelStudioUnreachable

_ACCESS_TOKEN_S = 240  # Label Studio's access tokens live 300 s
TOKEN_REMEDY = (
    "Create a personal access token under Account & Settings in Label Studio and set LABEL_STUDIO_API_KEY to it."
)


class TokenAuth(httpx.Auth):
    """Both kinds of Label Studio token: legacy ones are sent as they are; personal access tokens are JSON web tokens
    that only buy short-lived access tokens.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._refresh_url = f"{url}/api/token/refresh/"
        self._api_key = api_key
        self._personal = api_key.count(".") == 2
        self._access = ""
        self._expires = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request; trade the personal token for an access token when that one is old or refused."""
        if not self._personal:
            request.headers["Authorization"] = f"Token {self._api_key}"
            yield request
            return
        if time.monotonic() > self._expires:
            self._keep((yield self._refresh()))
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == 401:
            self._keep((yield self._refresh()))
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _refresh(self) -> httpx.Request:
        return httpx.Request("POST", self._refresh_url, json={"refresh": self._api_key})

    def _keep(self, response: httpx.Response) -> None:
        # Read here and not by `requires_response_body`, which would read images whole before their size is checked.
        response.read()
        if is_down(response):
            raise unreachable(self._url, f"answered HTTP {response.status_code}", response.status_code)
        if response.status_code != 200:
            raise LabelStudioError(
                "Label Studio token", f"was refused (HTTP {response.status_code})", TOKEN_REMEDY,
                status=response.status_code,
            )  # fmt: skip
        try:
            self._access = str(response.json()["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise not_json("Label Studio token", response) from error
        self._expires = time.monotonic() + _ACCESS_TOKEN_S


def refused(method: str, path: str, response: httpx.Response) -> LabelStudioError:
    """The error of an answer that says no; quotes what Label Studio says, never what was sent."""
    remedy = "Check the address and that the user of LABEL_STUDIO_API_KEY may see this project."
    if response.status_code in (401, 403):
        remedy = TOKEN_REMEDY
    try:
        body = response.json()
        detail = str(body.get("validation_errors") or body.get("detail") or "") if isinstance(body, dict) else ""
    except ValueError:
        detail = ""
    problem = f"was refused (HTTP {response.status_code}) {detail[:300]}".rstrip()
    return LabelStudioError(f"{method} {path}", problem, remedy, status=response.status_code)


def origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port of an address, the port filled in; None for what is none."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def is_loopback(url: str) -> bool:
    """Whether a proxy has no business between us and this address."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def is_address(url: str) -> bool:
    """Whether this is an http or https address with a host."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def is_down(response: httpx.Response) -> bool:
    """Whether an answer means "not now" and not "no"."""
    return response.status_code == 429 or response.status_code >= 500


def unreachable(url: str, problem: str, status: int = 0) -> LabelStudioUnreachable:
    """The error of no answer: worth trying again."""
    remedy = "Check that it runs and that LABEL_STUDIO_URL is right; the work is kept and goes on by itself."
    return LabelStudioUnreachable(f"Label Studio at {url}", problem, remedy, status=status)


def not_json(subject: str, response: httpx.Response) -> LabelStudioError:
    """The error of an answer in some other language, a login page for one."""
    remedy = "Check that LABEL_STUDIO_URL is Label Studio itself and not a login page or a proxy."
    return LabelStudioError(subject, "answered something that is not JSON", remedy, status=response.status_code)
