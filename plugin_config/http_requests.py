"""How the product introduces itself over HTTP."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import httpx

_ABOUT = "images of Label Studio tasks; contact: the operator of this network address"


@cache
def user_agent(contact: str = "") -> str:
    """The `User-Agent` of every request: the product, its version, whom to ask about it, and the library.

    Hosts such as Wikimedia's refuse anonymous programs, https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy.

    Args:
        contact: ZEROMASK_CONTACT, an address or mail address of whoever runs this; "" = not known.
    """
    return f"zeromask/{version('zeromask')} ({contact or _ABOUT}) httpx/{httpx.__version__}"
