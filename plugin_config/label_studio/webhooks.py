"""Label Studio's webhooks of a project, the models connected to it, and which of them are this backend.

It must not know what webhooks carry.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.settings import Settings

SECRET_HEADER = "X-Zeromask-Secret"
"""The header by which the backend knows Label Studio's webhooks."""

# What two readers of an address could take for different hosts (user names, backslashes, percent signs) is no address.
_ADDRESS = re.compile(
    r"https?://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?(?:/[A-Za-z0-9._~/-]*)?"
)


@dataclass(frozen=True)
class Webhook:
    """One webhook: where it leads, whether it is switched on, the headers it carries, and the actions it is limited to
    where it is not sent for all.
    """

    id: int
    url: str
    active: bool
    headers: Mapping[str, str]
    actions: tuple[str, ...]

    def carries(self, header: str, value: str) -> bool:
        """Whether it carries a header with this value, and nothing else by that name."""
        return [told for name, told in self.headers.items() if name.lower() == header.lower()] == [value]


def connected_models(label_studio: LabelStudio, project: int) -> list[str]:
    """Addresses of the models connected to a project.

    Raises:
        LabelStudioError: Label Studio refuses, or answers something unknown.
    """
    rows = label_studio.request("GET", "/api/ml/", params={"project": project})
    try:
        return [str(row["url"]) for row in rows]
    except (KeyError, TypeError) as error:
        raise _unknown("the connected models", error) from error


def webhooks(label_studio: LabelStudio, project: int) -> list[Webhook]:
    """The webhooks of a project.

    Raises:
        LabelStudioError: Label Studio refuses, or answers something unknown.
    """
    rows = label_studio.request("GET", "/api/webhooks/", params={"project": project})
    try:
        return [
            Webhook(int(row["id"]), str(row["url"]), bool(row["is_active"]),
                    {str(name): str(value) for name, value in (row.get("headers") or {}).items()},
                    tuple(map(str, row.get("actions") or ())))
            for row in rows
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unknown("the webhooks", error) from error


def put_header(label_studio: LabelStudio, webhook: Webhook, header: str, value: str) -> None:
    """Let a webhook carry a header beside those it carries.

    Raises:
        LabelStudioError: Label Studio refuses.
    """
    kept = {name: told for name, told in webhook.headers.items() if name.lower() != header.lower()}
    # The actions are told again because Label Studio (1.23) takes a change that leaves them out for "none".
    body = {"headers": {**kept, header: value}, "actions": list(webhook.actions)}
    label_studio.request("PATCH", f"/api/webhooks/{webhook.id}/", json=body)


def leads_here(url: str, settings: Settings) -> bool:
    """Whether an address is this backend's: its port on this machine or on the host it listens on, or a host that
    ZEROMASK_ALLOWED_HOSTS names.
    """
    found = _ADDRESS.fullmatch(url)
    if found is None:
        return False
    host = (found["v6"] or found["name"]).lower().removesuffix(".")
    if host in {name.strip().lower().strip("[]").removesuffix(".") for name in settings.allowed_hosts.split(",")}:
        return True
    port = int(found["port"] or (443 if url.startswith("https") else 80))
    return port == settings.port and (_is_this_machine(host) or host == settings.host.lower().strip("[]"))


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _unknown(subject: str, error: Exception) -> LabelStudioError:
    remedy = "This version of Label Studio is not known here; 1.23 is."
    return LabelStudioError(f"Label Studio's answer about {subject}", f"is not as expected ({error!r})", remedy)
