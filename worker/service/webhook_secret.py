"""The secret by which the backend knows Label Studio's webhooks, put into those that lead to it and into no other.

Label Studio signs in with what it asks a model, and not with its webhooks: those carry the headers they are given.
Whoever may list webhooks there reads the secret, which lets in hints to look at a project and nothing else. It must not
know what a look at a project does besides.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.webhooks import SECRET_HEADER, connected_models, leads_here, put_header, webhooks
from worker.service.context import Resident

log = logging.getLogger(__name__)

_LONGEST_HOST = 80
_HOST = re.compile(r"[\w.:-]+")  # whoever edits projects writes it: no signs that steer a terminal


def install_webhook_secret(resident: Resident, project: int) -> None:
    """Make sure that the webhooks of a project which lead to this backend carry its secret, where it has one. What
    stands in the way is told by `zeromask status` and once in the log: events are caught up with by the periodic look.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot be asked now; the next reconcile tries again.
    """
    told = ""
    if resident.settings.webhook_secret:
        try:
            told = _install(resident, project)
        except (LabelStudioUnreachable, LabelStudioFailing):
            raise
        except LabelStudioError as error:
            told = f"its webhooks do not carry ZEROMASK_WEBHOOK_SECRET and are refused: {error}"
    if told != resident.ledger.warning(project):
        resident.ledger.warn(project, told)
        if told:
            log.warning("project %d: %s", project, told)


def _install(resident: Resident, project: int) -> str:
    """Returns what stands in the way; "" = nothing."""
    settings, label_studio = resident.settings, resident.label_studio
    connected = connected_models(label_studio, project)
    ours = {f"{url.rstrip('/')}/webhook" for url in connected if leads_here(url, settings)}
    if connected and not ours:
        return (
            f"its model is connected under {_hosts(connected)}, which is not known to be this backend, so that its "
            "webhooks get no secret and are refused. If it is, name the host in ZEROMASK_ALLOWED_HOSTS, or give the "
            "worker the ZEROMASK_HOST and ZEROMASK_PORT of the backend."
        )
    found = [hook for hook in webhooks(label_studio, project) if hook.active and hook.url in ours]
    for hook in found:
        if not hook.carries(SECRET_HEADER, settings.webhook_secret):
            put_header(label_studio, hook, SECRET_HEADER, settings.webhook_secret)
            log.info("project %d: webhook %d carries the secret now", project, hook.id)
    if ours and not found:
        return (
            "Label Studio has no webhook to the model connected to it, so that changes are found by the periodic look "
            "only. Start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, delete the model "
            "in the project's settings and connect it again."
        )
    return ""


def _hosts(urls: list[str]) -> str:
    """Hosts and nothing else: addresses of others may hold their passwords."""
    found = set()
    for url in urls:
        try:
            host = urlsplit(url).hostname or ""
            found.add(host[:_LONGEST_HOST] if _HOST.fullmatch(host) else "?")
        except ValueError:
            found.add("?")
    return ", ".join(sorted(found))
