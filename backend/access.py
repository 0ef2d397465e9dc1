"""What every request must pass before anything is done for it: its host, its size, its sign-in.

Asked twice: by the server as soon as the headers are there, so that a body nobody will read is not kept, and by the
app, which refuses. It must not know the web framework.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from backend.hosts import AllowedHosts
from backend.sign_in import Shown, SignIn, Verdict
from plugin_config.errors import RequestRefused
from plugin_config.settings import Settings

_MB = 1024 * 1024
# Only /predict may be as large as the setting says. Webhooks hold annotations, but Label Studio waits for their answer
# for a second; and what the others need has long ended at two megabytes.
_MOST_MB = {"/webhook": 32, "/train": 32}
_MOST_MB_ELSEWHERE = 2
_WITH_BODY = frozenset({"/setup", "/predict", "/webhook", "/versions", "/train"})

logger = logging.getLogger(__name__)


class Doors:
    """The checks over one set of settings. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._max_body_mb = settings.max_body_mb
        self._hosts = AllowedHosts(settings)
        self._sign_in = SignIn(settings)

    def check(self, environ: Mapping[str, Any], route: str) -> None:
        """Let a request in: once for each, as wrong guesses are counted.

        Args:
            environ: its WSGI environment.
            route: what the log may call it.

        Raises:
            RequestRefused: it is not let in.
        """
        self._hosts.check(environ)
        shown = Shown.of(environ)
        verdict = self._sign_in.admit(shown)
        if verdict is Verdict.TOO_OFTEN:
            wait_s = self._sign_in.wait_s(shown.peer)
            raise RequestRefused("sign-in", f"too many wrong guesses from {shown.peer}", f"Wait {wait_s} s.",
                                 status=429, headers={"Retry-After": str(wait_s)})  # fmt: skip
        if verdict is not Verdict.IN:
            if verdict is Verdict.WRONG:
                logger.warning("sign-in: wrong guess from %s at %s", shown.peer, route)
            remedy = "Give ZEROMASK_USER and ZEROMASK_PASSWORD in the model's settings in Label Studio (basic auth)."
            raise RequestRefused("sign-in", "user or password is missing or wrong", remedy, status=401,
                                 headers={"WWW-Authenticate": 'Basic realm="zeromask", charset="UTF-8"'})  # fmt: skip

    def body_limit(self, environ: Mapping[str, Any]) -> int:
        """Most bytes of the request's body that will be read: none of one that is not let in, or where none is read."""
        if environ["PATH_INFO"] not in _WITH_BODY:
            return 0  # or whoever need not sign in, at /health, would crowd out the bodies of those who do
        try:
            self._hosts.check(environ)
        except RequestRefused:
            return 0
        return self.most(environ["PATH_INFO"]) if self._sign_in.judge(Shown.of(environ)) is Verdict.IN else 0

    def most(self, path: str) -> int:
        """Largest body of a route, in bytes."""
        return _MB * self._most_mb(path)

    def too_large(self, path: str) -> RequestRefused:
        """What is raised for a body that is larger."""
        most = self._most_mb(path)
        remedy = "Send what Label Studio's ML backend client sends."
        if most == self._max_body_mb:
            remedy = "Raise ZEROMASK_MAX_BODY_MB or ask for fewer tasks at a time."
        return RequestRefused("request body", f"is larger than {most} MB", remedy, status=413)

    def _most_mb(self, path: str) -> int:
        if path == "/predict":
            return self._max_body_mb
        return min(_MOST_MB.get(path, _MOST_MB_ELSEWHERE), self._max_body_mb)
