"""Which requests are let in: the host they name, the size of their bodies, their sign-in.

Asked twice: by the server as soon as the headers are there, so that a body that will not be read is not kept, and by
the app, which refuses.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from backend.sign_in import Credentials, SignIn, SignInResult
from plugin_config.errors import RequestRefused
from plugin_config.settings import Settings

_MB = 1024 * 1024
# Only /predict may be as large as the setting says. Webhooks hold annotations, but Label Studio waits for their answer
# for a second; two megabytes are more than any of the others needs.
_MAX_MB = {"/webhook": 32, "/train": 32}
_MAX_MB_ELSEWHERE = 2
_ROUTES_WITH_BODY = frozenset({"/setup", "/predict", "/webhook", "/versions", "/train", "/status/project"})
# "name", "name:port" or "[IPv6]:port"; nothing else can stand in a Host header of ours.
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?")
_MAX_NAME_SHOWN = 80
_BASIC = "Give ZEROMASK_USER and ZEROMASK_PASSWORD in the model's settings in Label Studio (basic auth)."
_SECRET = (
    "Label Studio's webhook carries ZEROMASK_WEBHOOK_SECRET once `zeromask connect PROJECT` or a worker with that "
    "setting has put it there."
)
_SIGN_IN = "Sign in with the ZEROMASK_USER and ZEROMASK_PASSWORD of the backend."

logger = logging.getLogger(__name__)


class AccessControl:
    """The checks over one set of settings. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._max_body_mb = settings.max_body_mb
        self._hosts = _AllowedHosts(settings)
        self._sign_in = SignIn(settings)

    def check(self, environ: Mapping[str, Any], route: str) -> None:
        """Let a request in. Call it once for each, as wrong guesses are counted.

        Args:
            environ: its WSGI environment.
            route: what the log may call it.

        Raises:
            RequestRefused: it is not let in.
        """
        self._hosts.check(environ)
        credentials = Credentials.of(environ)
        result = self._sign_in.admit(credentials)
        if result is SignInResult.TOO_MANY_GUESSES:
            wait_s = self._sign_in.wait_s(credentials.peer)
            raise RequestRefused("sign-in", f"too many wrong guesses from {credentials.peer}", f"Wait {wait_s} s.",
                                 status=429, headers={"Retry-After": str(wait_s)})  # fmt: skip
        if result is not SignInResult.ACCEPTED:
            if result is SignInResult.WRONG:
                logger.warning("sign-in: wrong guess from %s at %s", credentials.peer, route)
            raise RequestRefused("sign-in", "user or password is missing or wrong", _remedy(environ["PATH_INFO"]),
                                 status=401,
                                 headers={"WWW-Authenticate": 'Basic realm="zeromask", charset="UTF-8"'})  # fmt: skip

    def body_limit(self, environ: Mapping[str, Any]) -> int:
        """Most bytes of the request's body that will be read: 0 where the request is not let in or needs no body."""
        if environ["PATH_INFO"] not in _ROUTES_WITH_BODY:
            return 0  # or clients that need not sign in, at /health, would crowd out the bodies of those that do
        try:
            self._hosts.check(environ)
        except RequestRefused:
            return 0
        accepted = self._sign_in.judge(Credentials.of(environ)) is SignInResult.ACCEPTED
        return self.largest_body(environ["PATH_INFO"]) if accepted else 0

    def largest_body(self, path: str) -> int:
        """Largest body of a route, in bytes."""
        return _MB * self._max_mb(path)

    def too_large(self, path: str) -> RequestRefused:
        """The error for a body that is larger."""
        max_mb = self._max_mb(path)
        remedy = "Send what Label Studio's ML backend client sends."
        if max_mb == self._max_body_mb:
            remedy = "Raise ZEROMASK_MAX_BODY_MB or ask for fewer tasks at a time."
        return RequestRefused("request body", f"is larger than {max_mb} MB", remedy, status=413)

    def _max_mb(self, path: str) -> int:
        if path == "/predict":
            return self._max_body_mb
        return min(_MAX_MB.get(path, _MAX_MB_ELSEWHERE), self._max_body_mb)


class _AllowedHosts:
    """Host names under which this backend answers: plain addresses, localhost, the host listened on, and those set.

    A page in somebody's browser can point a name of its own at this machine's address and then read every answer (DNS
    rebinding); the browser still sends that name as Host, and there it is refused.
    """

    def __init__(self, settings: Settings) -> None:
        names = [settings.host, *settings.allowed_hosts.split(",")]
        self._names = frozenset(filter(None, (name.strip().lower().rstrip(".") for name in names)))

    def check(self, environ: Mapping[str, str]) -> None:
        """Check the host in the WSGI environment of a request. Headers in which proxies name others are not read.

        Raises:
            RequestRefused: it is not ours (421); it is missing, there twice, or cannot be read (400).
        """
        self._check(environ.get("HTTP_HOST", ""))  # two headers arrive as one with a comma, which no name may have
        target = environ.get("REQUEST_URI", "/")
        if not target.startswith("/") and "://" in target:  # "GET http://host/path": this host counts as well
            try:
                self._check(urlsplit(target).netloc)
            except ValueError:  # brackets that hold no address
                self._check("")

    def _check(self, authority: str) -> None:
        match = _AUTHORITY.fullmatch(authority)
        if match is None:
            problem = "must be there once and hold a host name or address, and a port or none"
            raise RequestRefused("header Host", problem, "Send requests as HTTP/1.1 clients do.", status=400)
        name = (match["v6"] or match["name"]).lower().removesuffix(".")
        if name == "localhost" or name.endswith(".localhost") or name in self._names or _is_address(name):
            return
        problem = f"names {name[:_MAX_NAME_SHOWN]!r}, which is not a name of this backend"
        remedy = "Name it in ZEROMASK_ALLOWED_HOSTS if this backend is to be reached under it."
        raise RequestRefused("header Host", problem, remedy, status=421)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _remedy(path: str) -> str:
    """What to do where nobody signed in: it depends on who asks there."""
    if path == "/webhook":
        return _SECRET
    return _SIGN_IN if path == "/metrics" or path.startswith("/status") else _BASIC
