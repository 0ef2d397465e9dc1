"""Who may press a button: somebody on a page of this backend, not a page of another origin in the same browser.

Two checks, both needed. Browsers say where a form comes from in headers that no page can change. And each form brings
back a token that also is in a cookie, which other pages can neither read nor set (double submit cookie, OWASP
Cross-Site Request Forgery Prevention Cheat Sheet).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from plugin_config.errors import JobError, RequestRefused

COOKIE = "zeromask-form"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_MOST_BYTES = 4096
_MOST_FIELDS = 8


class _Body(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class FormToken:
    """The token of a browser's forms.

    Attributes:
        value: 43 letters, digits and signs.
        made: whether it is new, so that the browser must be told.
    """

    value: str
    made: bool

    @classmethod
    def of(cls, cookies: Mapping[str, str]) -> FormToken:
        """That of the request's cookie, or a new one."""
        found = cookies.get(COOKIE, "")
        if _TOKEN.fullmatch(found):
            return cls(found, made=False)
        return cls(secrets.token_urlsafe(32), made=True)

    @property
    def header(self) -> str:
        """For Set-Cookie. Not `Secure`: behind a proxy with TLS, and on this machine, this backend speaks HTTP."""
        return f"{COOKIE}={self.value}; Path=/; HttpOnly; SameSite=Strict"


def require_same_origin(environ: Mapping[str, Any]) -> None:
    """Check the headers in which a browser says where a form comes from.

    Raises:
        RequestRefused: it comes from elsewhere, or no browser sent it.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE", ""), environ.get("HTTP_ORIGIN", "")
    try:
        parts = urlsplit(origin)
        here = parts.scheme in ("http", "https") and parts.netloc.lower() == environ.get("HTTP_HOST", "").lower()
    except ValueError:  # brackets that hold no address
        here = False
    if site in ("", "same-origin") and here:
        return
    problem = "was not sent from a page of this backend"
    remedy = "Press the button on its status page; a proxy in between must hand on the header Host as it came."
    raise RequestRefused("form", problem, remedy, status=403)


def read_form(body: _Body, cookies: Mapping[str, str]) -> dict[str, str]:
    """Read a form's fields.

    Args:
        body: of the request.
        cookies: of the request.

    Raises:
        JobError: it is no form, or a larger one than any page here has.
        RequestRefused: it lacks the token of this browser.
    """
    data = b""
    while part := body.read(_MOST_BYTES + 1 - len(data)):
        data += part
    if len(data) > _MOST_BYTES:
        raise JobError("form", f"is longer than {_MOST_BYTES} bytes", "Press a button of the status page.")
    try:
        fields = dict(parse_qsl(data.decode("ascii"), max_num_fields=_MOST_FIELDS, errors="strict"))
    except ValueError as error:
        raise JobError("form", "cannot be read", "Press a button of the status page.") from error
    token = cookies.get(COOKIE, "")
    if not _TOKEN.fullmatch(token) or not hmac.compare_digest(token.encode(), fields.get("token", "").encode()):
        remedy = "Open the page again and press the button there; cookies must be allowed."
        raise RequestRefused("form", "is of a page that was opened before this sign-in", remedy, status=403)
    return fields
