"""The secret that Label Studio's webhooks carry, installed in those that lead to this backend and in no others.

Label Studio signs in when it asks a model, but its webhooks carry only the headers they are given. Everyone who may
list webhooks there can read the secret, which admits hints to reconcile a project and nothing else.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import urlsplit

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.webhooks import SECRET_HEADER, connected_models, leads_here, put_header, webhooks
from worker.service.context import WorkerContext

log = logging.getLogger(__name__)

_LONGEST_HOST = 80
_HOST = re.compile(r"[\w.:-]+")  # written by anyone who edits projects: no characters that control a terminal


def install_webhook_secret(context: WorkerContext, project: int) -> None:
    """Give the project's webhooks that lead to this backend the secret, if one is set. What prevents it is shown by
    `zeromask status` and logged once; the periodic reconcile then finds the changes.

    Raises:
        LabelStudioUnreachable, LabelStudioFailing: Label Studio cannot be asked now; the next reconcile tries again.
    """
    warning = ""
    if context.settings.webhook_secret:
        try:
            warning = _install(context, project)
        except (LabelStudioUnreachable, LabelStudioFailing):
            raise
        except LabelStudioError as error:
            warning = f"its webhooks do not carry ZEROMASK_WEBHOOK_SECRET and are refused: {error}"
    if warning != context.ledger.webhook_warning(project):
        context.ledger.set_webhook_warning(project, warning)
        if warning:
            log.warning("project %d: %s", project, warning)


def _install(context: WorkerContext, project: int) -> str:
    """Install the secret. Returns what prevents it; "" = nothing."""
    settings, label_studio = context.settings, context.label_studio
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
            "Label Studio has no webhook to the model connected to it, so that changes are found by the periodic "
            "reconcile only. Start Label Studio with ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false, and "
            f"run `zeromask connect {project}`."
        )
    return ""


def _hosts(urls: list[str]) -> str:
    """The hosts alone: addresses may hold passwords."""
    found = set()
    for url in urls:
        try:
            host = urlsplit(url).hostname or ""
            found.add(host[:_LONGEST_HOST] if _HOST.fullmatch(host) else "?")
        except ValueError:
            found.add("?")
    return ", ".join(sorted(found))
