"""Under which host names this backend answers.

A page in somebody's browser can point a name of its own at this machine's address and then read every answer (DNS
rebinding); the browser still sends that name as Host, and there it is refused. It must not know the web framework.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from plugin_config.errors import RequestRefused
from plugin_config.settings import Settings

# "name", "name:port" or "[IPv6]:port"; nothing else can stand in a Host header of ours.
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?")
_LONGEST_SHOWN = 80


class AllowedHosts:
    """Plain addresses, localhost, the host listened on, and the names that are set."""

    def __init__(self, settings: Settings) -> None:
        named = [settings.host, *settings.allowed_hosts.split(",")]
        self._names = frozenset(filter(None, (name.strip().lower().rstrip(".") for name in named)))

    def check(self, environ: Mapping[str, str]) -> None:
        """Check the host of a request, given as its WSGI environment. What proxies say of other hosts is not read.

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
        problem = f"names {name[:_LONGEST_SHOWN]!r}, which is not a name of this backend"
        remedy = "Name it in ZEROMASK_ALLOWED_HOSTS if this backend is to be reached under it."
        raise RequestRefused("header Host", problem, remedy, status=421)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
