"""What a text given as a token is: legacy, personal, or something else that people paste; and why one is refused."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from plugin_config.errors import LabelStudioError

TOKEN_REMEDY = (
    "Create a personal access token under Account & Settings in Label Studio and set LABEL_STUDIO_API_KEY to it."
)

SUBJECT = "Label Studio token"
LEGACY_REMEDY = (
    "Create a personal access token under Account & Settings in Label Studio and set LABEL_STUDIO_API_KEY to it, or "
    "let an owner allow legacy tokens under Organization, API Tokens Settings."
)
_QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("\u201c", "\u201d"), ("\u2018", "\u2019"), ("<", ">"))
_SCHEME = re.compile(r"(?:authorization\s*:\s*)?(?:token|bearer)\s+", re.IGNORECASE)


def is_token(text: str) -> bool:
    """Whether a text can stand in a header as a token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def read_token(text: str) -> str:
    """The token in what a person pasted: without white space and quotes around it, `Token ` and `Bearer `.

    Raises:
        LabelStudioError: it is no token, or a kind that cannot be used; the message does not quote it.
    """
    token, before = text.strip(), ""
    while token != before:
        before, token = token, _SCHEME.sub("", token, count=1) if _SCHEME.match(token) else token
        for left, right in _QUOTES:
            if len(token) > 1 and token.startswith(left) and token.endswith(right):
                token = token[1:-1].strip()
    if not is_token(token):
        problem = "holds characters that no token has" if token else "is empty"
        raise LabelStudioError(SUBJECT, problem, TOKEN_REMEDY)
    if token.count(".") == 1 and _payload(token):
        problem = "is a personal access token without its last part, as Label Studio lists them"
        raise LabelStudioError(SUBJECT, problem, f"It is shown whole only when it is made. {TOKEN_REMEDY}")
    if token.count(".") == 2 and _payload(token).get("token_type") == "access":
        problem = "is an access token, which ends after minutes, and not the personal access token it was made from"
        raise LabelStudioError(SUBJECT, problem, TOKEN_REMEDY)
    return token


def token_kind(token: str) -> str:
    """What people call a token that `read_token` returned."""
    return "personal access token" if token.count(".") == 2 else "legacy token"


def token_ends(token: str) -> float:
    """When a personal token ends by its own date, seconds since 1970; 0 where it does not tell."""
    return _number(_payload(token).get("exp"))


def personal_token_refused(token: str, status: int, detail: str) -> LabelStudioError:
    """The error where Label Studio trades a personal token for no access token.

    Args:
        token: the personal one.
        status: HTTP status of the answer.
        detail: what Label Studio says.
    """
    said, ends = detail.lower(), _number(_payload(token).get("exp"))
    problem = f"was refused (HTTP {status})"
    if "blacklist" in said:
        problem = f"has been revoked (HTTP {status})"
    elif "expired" in said or (status == 401 and ends and ends < time.time()):
        problem = f"has expired{_on(ends)} (HTTP {status})"
    elif detail:
        problem = f"{problem} {detail[:300]}"
    return LabelStudioError(SUBJECT, problem, TOKEN_REMEDY, status=status)


def access_life_s(token: str) -> float:
    """How long an access token lives by its own dates, seconds; 0 where it does not tell. No clock is asked."""
    payload = _payload(token)
    issued, ends = _number(payload.get("iat")), _number(payload.get("exp"))
    return max(0.0, ends - issued) if issued else 0.0


def remedy_for(status: int, detail: str) -> str:
    """What to do about a request that is refused for its token."""
    if status == 401 and "legacy token" in detail.lower():
        return f"Legacy tokens are off for this organization, as by default. {LEGACY_REMEDY}"
    if status == 403:  # the token was accepted
        return "Use the token of a user who may do this, such as the owner of the project."
    return TOKEN_REMEDY


def _payload(token: str) -> Mapping[str, Any]:
    """The claims of a JSON web token, not verified; empty where it is none."""
    parts = token.split(".")
    if len(parts) < 2:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float:
    """A date of a token, seconds since 1970; 0 where it is none."""
    return float(value) if isinstance(value, int | float) and 0 < value < 1e11 else 0.0


def _on(ends: float) -> str:
    return f" on {datetime.fromtimestamp(ends, UTC):%Y-%m-%d}" if ends else ""
