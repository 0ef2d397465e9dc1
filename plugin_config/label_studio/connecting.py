"""The models connected to a project; connecting the backend as one, with its webhook, and disconnecting it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugin_config.addresses import read_address, shown
from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.model_cards import given_title
from plugin_config.label_studio.probes import PRIVATE_ADDRESS_REMEDY, Probe, probe_model, probe_webhook
from plugin_config.label_studio.transport import unexpected_answer
from plugin_config.label_studio.webhooks import SECRET_HEADER, Webhook, leads_here, put_header, webhooks
from plugin_config.settings import Settings

_TAG = re.compile(r"<[^<>]*>")  # Label Studio writes its advice in HTML
TITLE = "Zeromask"
"""The title of the model in Label Studio."""


@dataclass(frozen=True)
class ConnectedModel:
    """A model connected to a project, as Label Studio found it just now: it asks each for its health and its version.

    Attributes:
        id: of the connection.
        url: where Label Studio asks.
        title: for people.
        state: "CO" = it answers; "DI" = it does not; "ER" = it refuses the project.
        error: why it refuses, "" = it does not.
        interactive: whether smart tools ask it.
        version: that it said its predictions carry.
        user: with which Label Studio signs in to it; "" = it does not.
    """

    id: int
    url: str
    title: str
    state: str
    error: str
    interactive: bool
    version: str
    user: str

    @property
    def webhook_url(self) -> str:
        """Where its webhook is sent."""
        return f"{self.url.rstrip('/')}/webhook"


def models(label_studio: LabelStudio, project: int) -> list[ConnectedModel]:
    """The models connected to a project, in the order in which Label Studio has them: it asks the first one only.

    Raises:
        LabelStudioError: Label Studio refuses, or its answer is not as expected.
    """
    rows = label_studio.request("GET", "/api/ml/", params={"project": project})
    try:
        return [
            ConnectedModel(
                int(row["id"]),
                str(row["url"]),
                str(row.get("title") or ""),
                str(row.get("state") or ""),
                str(row.get("error_message") or ""),
                bool(row.get("is_interactive")),
                str(row.get("model_version") or ""),
                str(row.get("basic_auth_user") or "") if row.get("auth_method") == "BASIC_AUTH" else "",
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unexpected_answer("the connected models", error) from error


def connect_model(
    label_studio: LabelStudio,
    project: int,
    settings: Settings,
    *,
    url: str = "",
    interactive: bool | None = None,
    replaced: Callable[[str], bool] = lambda url: False,
    title: str = TITLE,
) -> list[str]:
    """Connect the backend as a project's model, with its webhook. What is there already stays; doing it twice is doing
    it once.

    Args:
        label_studio: the client.
        project: its id.
        settings: of the backend: its address, sign-in and webhook secret.
        url: address under which Label Studio reaches the backend; "" = that of an existing connection, or
            `Settings.backend_url`.
        interactive: whether smart tools ask the backend; None = as it is, and yes for a new connection.
        replaced: whether another model, at this address, is disconnected.
        title: of a new connection.

    Returns:
        what was done and what was there, a sentence each.

    Raises:
        LabelStudioError: Label Studio refuses the address or anything else; where it refuses the address, nothing was
            changed.
    """
    url = _checked(url)
    found = models(label_studio, project)
    ours = _ours(found, settings, url)
    address = ours[0].url if ours else url or settings.backend_url
    _check_address(label_studio, project, address)
    others = [model for model in found if model not in ours[:1]]
    told = [
        _put_model(label_studio, project, address, ours, settings, title=title, interactive=interactive),
        _put_webhook(label_studio, project, f"{address.rstrip('/')}/webhook", settings),
    ]
    # Last: where the backend cannot be connected, the others stay.
    told += _disconnect(label_studio, project, others, settings, replaced=replaced, moved=not ours and bool(url))
    if not leads_here(address, settings):
        told.append(
            f"{shown(address)} is not known to be this backend's, so that its webhook gets no secret: name its host in "
            "ZEROMASK_ALLOWED_HOSTS, for backend, workers and this command."
        )
    return told


def disconnect_model(label_studio: LabelStudio, project: int, settings: Settings, *, url: str = "") -> list[str]:
    """Disconnect the backend from a project, and delete its webhook. Predictions stay.

    Args:
        label_studio: the client.
        project: its id.
        settings: of the backend.
        url: address of the connection; "" = every one that leads to this backend.

    Returns:
        what was done, a sentence each.

    Raises:
        LabelStudioError: Label Studio does not answer, or refuses.
    """
    found, url = models(label_studio, project), _checked(url)
    ours = _ours(found, settings, url)
    told = [_remove(label_studio, project, model) for model in ours]
    if not ours:
        told.append("No model of this backend is connected.")
        left = [hook for hook in webhooks(label_studio, project) if _leads_back(hook.url, settings, url)]
        for hook in left:  # else the next annotation would bring the project back
            label_studio.request("DELETE", f"/api/webhooks/{hook.id}/")
        told += ["Its webhook, which was left, is deleted."] * bool(left)
    others = ", ".join(shown(model.url) for model in found if model not in ours)
    return [*told, f"Still connected: {others}. If that is this backend, give it with --url."] if others else told


def _ours(found: Sequence[ConnectedModel], settings: Settings, url: str) -> list[ConnectedModel]:
    return [model for model in found if (model.url.rstrip("/") == url if url else leads_here(model.url, settings))]


def _leads_back(hook: str, settings: Settings, url: str) -> bool:
    """Whether a webhook's address is that of this backend, or of the connection at `url`."""
    address = hook.removesuffix("/webhook")
    return address != hook and (address == url if url else leads_here(address, settings))


def _checked(url: str) -> str:
    """The address without a slash at its end. Raises LabelStudioError where it is none; "" stays."""
    try:
        if url:
            read_address(url)
    except ValueError as error:
        raise LabelStudioError("--url", f"is not an address: {error}", "Write http://host:9090.") from error
    return url.rstrip("/")


def _check_address(label_studio: LabelStudio, project: int, address: str) -> None:
    """Refuse an address before anything is changed: Label Studio would connect a model without its webhook."""
    subject = f"project {project}"
    probes: list[tuple[str, Probe]] = [
        ("a model", probe_model(label_studio, project, address)),
        ("a webhook", probe_webhook(label_studio, project, f"{address.rstrip('/')}/webhook")),
    ]
    for what, probe in probes:
        if probe.verdict == "private":
            raise LabelStudioError(
                subject, f"Label Studio refuses {what} at {address}: it is private", PRIVATE_ADDRESS_REMEDY, status=403
            )
        if probe.verdict == "unknown host":
            remedy = "Give the address under which Label Studio reaches the backend: --url http://host:9090."
            raise LabelStudioError(subject, f"Label Studio cannot resolve the host of {address}", remedy, status=500)
        if probe.verdict == "refused":
            raise LabelStudioError(subject, f"Label Studio refuses {what}: {probe.said}", _refused_remedy(probe))


def _refused_remedy(probe: Probe) -> str:
    if probe.status == 400:
        return "Give an address that it accepts, such as one whose host has a dot: --url http://masks.example.com:9090."
    if probe.status in (0, 429) or probe.status >= 500:
        return "Label Studio, or a proxy before it, is in trouble: try again."
    return "Use the token of a user who may change this project."


def _disconnect(
    label_studio: LabelStudio,
    project: int,
    others: Sequence[ConnectedModel],
    settings: Settings,
    *,
    replaced: Callable[[str], bool],
    moved: bool,
) -> Iterator[str]:
    """Disconnect other models where they are to be replaced, and this backend under an address it is moved from."""
    for model in others:
        if not replaced(model.url) and not (moved and leads_here(model.url, settings)):
            yield (
                f"{given_title(model.title) or 'a model'!r} at {shown(model.url)} is connected, too: Label Studio asks "
                "the first model only. Delete it under Settings -> Model, or give --replace."
            )
            continue
        yield _remove(label_studio, project, model)


def _remove(label_studio: LabelStudio, project: int, model: ConnectedModel) -> str:
    label_studio.request("DELETE", f"/api/ml/{model.id}")
    for hook in webhooks(label_studio, project):
        if hook.url == model.webhook_url:
            label_studio.request("DELETE", f"/api/webhooks/{hook.id}/")
    return f"{shown(model.url)} is disconnected."


def _put_model(
    label_studio: LabelStudio,
    project: int,
    address: str,
    ours: Sequence[ConnectedModel],
    settings: Settings,
    *,
    title: str,
    interactive: bool | None,
) -> str:
    wanted = (ours[0].interactive if ours else True) if interactive is None else interactive
    body: dict[str, Any] = {"project": project, "url": address, "is_interactive": wanted}
    if settings.signs_in:
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": settings.user, "basic_auth_pass": settings.password}
    clicks = f"clicks with smart tools {'ask it' if wanted else 'do not ask it'}"
    if not ours:
        _store_model(label_studio, "POST", "/api/ml/", body | {"title": title})
        return f"The backend is connected at {address}; {clicks}."
    model = ours[0]
    if model.interactive == wanted and (not settings.signs_in or model.user == settings.user) and model.state == "CO":
        return f"The backend was connected at {address}; {clicks}."
    # Without the title: a worker may write what it tells behind it meanwhile.
    _store_model(label_studio, "PATCH", f"/api/ml/{model.id}", body)
    return f"The connection to {address} is corrected; {clicks}."


def _store_model(label_studio: LabelStudio, method: str, path: str, body: Mapping[str, Any]) -> None:
    """Store a connection. Label Studio asks the model first, and refuses one that does not answer or refuses."""
    try:
        label_studio.request(method, path, json=dict(body))
    except (LabelStudioFailing, LabelStudioUnreachable):
        raise
    except LabelStudioError as error:
        if error.status != 400:
            raise
        problem = f"Label Studio does not connect {body['url']}: {_TAG.sub('', error.problem)}"
        remedy = (
            "Start the backend (`zeromask up`), and mend what it says of the labels; where Label Studio reaches it at "
            "another address, give that with --url, its host in ZEROMASK_ALLOWED_HOSTS where it is a name."
        )
        raise LabelStudioError(f"project {body['project']}", problem, remedy, status=400) from error


def _put_webhook(label_studio: LabelStudio, project: int, url: str, settings: Settings) -> str:
    secret = settings.webhook_secret
    hooks = _sent_to(webhooks(label_studio, project), url)
    if not hooks:
        body = {
            "project": project,
            "url": url,
            "send_payload": True,
            "send_for_all_actions": True,
            "headers": {SECRET_HEADER: secret} if secret else {},
        }
        label_studio.request("POST", "/api/webhooks/", json=body)
        return "Its webhook is made" + (", with the secret." if secret else ".")
    hook, done = hooks[0], []
    if not hook.active:
        label_studio.request(
            "PATCH", f"/api/webhooks/{hook.id}/", json={"is_active": True, "actions": list(hook.actions)}
        )
        done.append("is switched on")
    if secret and not hook.carries(SECRET_HEADER, secret):
        put_header(label_studio, hook, SECRET_HEADER, secret)
        done.append("carries the secret now")
    return f"Its webhook {' and '.join(done) or 'was there'}."


def webhook_of(model: ConnectedModel, hooks: Sequence[Webhook]) -> Webhook | None:
    """The webhook that is sent to a model; of several one that is switched on. None = there is none."""
    return next(iter(_sent_to(hooks, model.webhook_url)), None)


def _sent_to(hooks: Sequence[Webhook], url: str) -> list[Webhook]:
    """The webhooks that are sent to an address, those that are switched on first."""
    return sorted((hook for hook in hooks if hook.url == url), key=lambda hook: not hook.active)
