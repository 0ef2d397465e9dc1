"""What Label Studio would accept, asked without storing anything.

Each request holds fields that every release refuses. Label Studio (1.23) checks the user's rights and the address
before those, so that its answer tells which of them stands in the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio

PRIVATE_ADDRESS_REMEDY = (
    "Start Label Studio with both ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false in its environment: since "
    "1.23.1 each refuses private addresses by default."
)

_REFUSED_FIELD = "not stored"
_PRIVATE = ("reserved network address", "must not resolve to local")
Verdict = Literal["accepted", "private", "unknown host", "refused"]


@dataclass(frozen=True)
class Probe:
    """How Label Studio takes a request that is not to be stored.

    Attributes:
        verdict: "accepted": nothing but the fields that must be refused stands in the way; "private": the address is
            one that it refuses; "unknown host": it most likely cannot resolve the host; "refused": anything else.
        said: what it answered, for people.
        status: the HTTP status of a refusal; 0 where it is not Label Studio's own.
    """

    verdict: Verdict
    said: str = ""
    status: int = 0


def probe_model(label_studio: LabelStudio, project: int, url: str) -> Probe:
    """Ask whether a model at this address could be connected to a project. The model itself is not asked.

    Raises:
        LabelStudioUnreachable: Label Studio does not answer.
    """
    body = {"project": project, "url": url, "is_interactive": _REFUSED_FIELD, "timeout": _REFUSED_FIELD}
    return _probe(label_studio, "/api/ml/", body, "/api/ml/{}", resolves=True)


def probe_webhook(label_studio: LabelStudio, project: int, url: str) -> Probe:
    """Ask whether a webhook of a project could be sent to this address.

    Raises:
        LabelStudioUnreachable: Label Studio does not answer.
    """
    body = {"project": project, "url": url, "is_active": _REFUSED_FIELD, "actions": [_REFUSED_FIELD]}
    return _probe(label_studio, "/api/webhooks/", body, "/api/webhooks/{}/", resolves=True)


def probe_prediction(label_studio: LabelStudio, task: int) -> Probe:
    """Ask whether a prediction of a task could be stored.

    Raises:
        LabelStudioUnreachable: Label Studio does not answer.
    """
    body = {"task": task, "result": [], "score": _REFUSED_FIELD}
    return _probe(label_studio, "/api/predictions/", body, "/api/predictions/{}/", resolves=False)


def _probe(label_studio: LabelStudio, path: str, body: Mapping[str, Any], stored: str, *, resolves: bool) -> Probe:
    """Send the request. Where a Label Studio stores it nevertheless, that is deleted again.

    Args:
        label_studio: the client.
        path: where to send it.
        body: of the request.
        stored: path of what was stored, with its id to be filled in.
        resolves: whether Label Studio looks up a host meanwhile: it answers HTTP 500 where it cannot.
    """
    try:
        answer = label_studio.request("POST", path, json=body)
    except LabelStudioUnreachable:
        raise
    except LabelStudioFailing as error:
        return Probe("unknown host" if resolves and error.status == 500 else "refused", error.problem, error.status)
    except LabelStudioError as error:
        if error.status == 400 and _is_expected(error.problem):
            return Probe("accepted")
        private = error.status == 403 and any(part in error.problem for part in _PRIVATE)
        return Probe("private" if private else "refused", error.problem, error.status)
    if isinstance(answer, dict) and type(answer.get("id")) is int:
        label_studio.request("DELETE", stored.format(answer["id"]))
    return Probe("accepted")


def _is_expected(problem: str) -> bool:
    """Whether a refusal is about the fields that must be refused, and not about the address, project or task."""
    return not any(f"'{field}'" in problem for field in ("url", "project", "task", "result"))
