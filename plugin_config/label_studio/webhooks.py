"""The webhooks of a project, the models connected to it, and which of them lead to this backend."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.transport import unexpected_answer
from plugin_config.settings import Settings

SECRET_HEADER = "X-Zeromask-Secret"
"""The header that authenticates Label Studio's webhooks to the backend."""

# Without user names, backslashes and percent signs: two parsers of such an address may find different hosts in it.
_ADDRESS = re.compile(
    r"https?://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?(?:/[A-Za-z0-9._~/-]*)?"
)


@dataclass(frozen=True)
class Webhook:
    """A webhook.

    Attributes:
        id: of the webhook.
        url: where it is sent.
        active: whether it is switched on.
        headers: sent with it.
        actions: those it is limited to; none where it is sent for all.
    """

    id: int
    url: str
    active: bool
    headers: Mapping[str, str]
    actions: tuple[str, ...]

    def carries(self, header: str, value: str) -> bool:
        """Whether it carries a header exactly once, with this value."""
        return [held for name, held in self.headers.items() if name.lower() == header.lower()] == [value]


def connected_models(label_studio: LabelStudio, project: int) -> list[str]:
    """Addresses of the models connected to a project.

    Raises:
        LabelStudioError: Label Studio refuses, or its answer is not as expected.
    """
    rows = label_studio.request("GET", "/api/ml/", params={"project": project})
    try:
        return [str(row["url"]) for row in rows]
    except (KeyError, TypeError) as error:
        raise unexpected_answer("the connected models", error) from error


def webhooks(label_studio: LabelStudio, project: int) -> list[Webhook]:
    """The webhooks of a project.

    Raises:
        LabelStudioError: Label Studio refuses, or its answer is not as expected.
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
        raise unexpected_answer("the webhooks", error) from error


def put_header(label_studio: LabelStudio, webhook: Webhook, header: str, value: str) -> None:
    """Add a header to a webhook, or change its value.

    Raises:
        LabelStudioError: Label Studio refuses.
    """
    kept = {name: held for name, held in webhook.headers.items() if name.lower() != header.lower()}
    # With the actions: Label Studio (1.23) deletes them where a change leaves them out.
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
