"""Checks of a project's connection: rights, labels, addresses, the model's row, its webhook."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

import httpx

from plugin_config.addresses import shown
from plugin_config.controls import is_prompt
from plugin_config.doctor.findings import Finding, LabelRow, ok, waits, warning, wrong
from plugin_config.doctor.installation import ExaminedProject, Installation
from plugin_config.errors import LabelStudioError, QueueUnavailable, SettingsError, ZeromaskError
from plugin_config.label_studio.connecting import ConnectedModel
from plugin_config.label_studio.probes import (
    PRIVATE_ADDRESS_REMEDY,
    probe_model,
    probe_prediction,
    probe_webhook,
)
from plugin_config.label_studio.webhooks import SECRET_HEADER
from plugin_config.labeling_config import Tag, read_config
from plugin_config.model_version import ModelVersion, model_slug
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.presence import WorkerPresence
from plugin_config.vocabulary import Label, Vocabulary

_DESCRIPTIONS = ("prompt", "synonyms", "hint")
# What the vocabulary says of a control beside the one that draws, and of every smart tool: nothing to mend, and the
# first of them is in the table of labels.
_AS_IT_SHOULD_BE = re.compile(r" predicted by .*learned from\.$| its points are prompts, ")
_CONNECT = "Run `zeromask connect {}`."


def check_project(examined: ExaminedProject) -> Iterator[Finding]:
    """The token's user may read the project."""
    try:
        project = examined.project
    except LabelStudioError as error:
        if error.status not in (403, 404):
            raise
        yield wrong(
            f"Label Studio has no project {examined.id} for this user (HTTP {error.status})",
            "The number stands in the address of the project's page. Or use the token of a user who may see it.",
        )
        return
    yield ok(f"{project.title!r}, tasks: {project.tasks}")


def check_rights(examined: ExaminedProject) -> Iterator[Finding]:
    """The user may store predictions and connect a model; asked without storing anything."""
    api, missing = examined.installation.label_studio, []
    task = examined.sample_task
    if task is not None and (probe := probe_prediction(api, task.id)).verdict == "refused":
        missing.append(f"store predictions ({probe.said})")
    if (probe := probe_model(api, examined.id, examined.backend_url)).verdict == "refused":
        missing.append(f"connect a model ({probe.said})")
    if missing:
        yield wrong(
            f"the token's user may not {' nor '.join(missing)}",
            "Use the token of a user who may change this project, such as its owner.",
        )
    else:
        yield ok("may read the project, store predictions and connect a model")


def check_labels(examined: ExaminedProject) -> Iterator[Finding]:
    """The labeling config has labels that are drawn."""
    vocabulary = examined.vocabulary
    described = {
        tag.attributes.get("alias") or tag.value
        for tag in _tags(examined)
        if any(tag.attributes.get(name, "").strip() for name in _DESCRIPTIONS)
    }
    rows = label_rows(vocabulary, described)
    asked = [f"{row.control!r} has labels from each task's {row.variable!r}" for row in vocabulary.asked]
    told = "; ".join([f"{len(rows)} labels and choices are filled in", *asked])
    remarks = [remark for remark in vocabulary.remarks if not _AS_IT_SHOULD_BE.search(remark)]
    found = ok(told)
    if remarks:
        advice = "docs/guide/labeling_configs.md says what is served, and how."
        found = warning(f"{told}; {'; '.join(remarks)}", advice)
    yield replace(found, labels=rows)


def label_rows(vocabulary: Vocabulary, described: Collection[str]) -> tuple[LabelRow, ...]:
    """What becomes of each label and choice of a vocabulary.

    Args:
        vocabulary: of the project.
        described: keys of those whose tags say more than their names.
    """
    rows = [
        LabelRow(label.key, label.control, _filled(label), label.texts, label.key in described)
        for label in vocabulary.labels
    ]
    for choices in vocabulary.choices:
        rows += [
            LabelRow(choice.key, choices.control, "chosen for the image", choice.texts, choice.key in described)
            for choice in choices.choices
        ]
    return tuple(rows)


def _filled(label: Label) -> str:
    if label.skip:
        return "left to annotators"
    if not label.draws:
        return "drawn by another control"
    return f"{label.output}, {'all in one' if label.stuff else 'one per thing'}"


def check_private_addresses(examined: ExaminedProject) -> Iterator[Finding]:
    """Label Studio accepts the backend's address, for models and for webhooks; it is asked, and stores nothing."""
    api, url = examined.installation.label_studio, examined.backend_url
    model, webhook = probe_model(api, examined.id, url), probe_webhook(api, examined.id, f"{url.rstrip('/')}/webhook")
    refused = [
        name
        for name, probe in (("ML_BLOCK_LOCAL_IP", model), ("SSRF_PROTECTION_ENABLED", webhook))
        if probe.verdict == "private"
    ]
    if len(refused) == 2:
        yield wrong(
            f"Label Studio refuses {url} as a private address, for models and for webhooks",
            f"{PRIVATE_ADDRESS_REMEDY} Then run `zeromask connect {examined.id}`.",
        )
    elif refused:
        what = "webhooks, so that it connects a model without one" if webhook.verdict == "private" else "models"
        yield wrong(
            f"Label Studio refuses {url} as a private address for {what} ({refused[0]} is not false)",
            f"{PRIVATE_ADDRESS_REMEDY} Then run `zeromask connect {examined.id}`.",
        )
    elif "unknown host" in (model.verdict, webhook.verdict):
        yield wrong(
            f"Label Studio cannot resolve the host of {url}",
            f"Connect it under a name that Label Studio knows: `zeromask connect {examined.id} --url ...`.",
        )
    else:
        yield ok(f"Label Studio accepts {url}")


def check_model(examined: ExaminedProject) -> Iterator[Finding]:
    """The backend is connected, Label Studio reaches it, and asks it and no other."""
    model, others = examined.model, [row for row in examined.models if row != examined.model]
    if model is None:
        if others:
            yield wrong(
                f"connected is {shown(others[0].url)}, which is not known to be this backend",
                "Name its host in ZEROMASK_ALLOWED_HOSTS if it is, or give this command the ZEROMASK_HOST and "
                f"ZEROMASK_PORT of the backend. If it is not: `zeromask connect {examined.id} --replace`.",
            )
        else:
            yield wrong("no model is connected", _CONNECT.format(examined.id))
        return
    if model.state == "DI":
        yield _unreached(examined, model)
    elif model.state == "ER":
        yield wrong(f"Label Studio reaches {model.url}, which refuses: {model.error}", _refusal_remedy(examined, model))
    elif examined.models[0] != model:
        yield wrong(
            f"{shown(others[0].url)} is connected first, and Label Studio asks the first model only",
            f"Delete it under Settings -> Model, or run `zeromask connect {examined.id} --replace`.",
        )
    else:
        yield ok(f"connected at {model.url}, Label Studio reaches it")


def _unreached(examined: ExaminedProject, model: ConnectedModel) -> Finding:
    """Why Label Studio does not reach the model."""
    try:
        status = examined.installation.ask_backend(model.url, "/health").status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return wrong(
            f"nothing answers at {model.url}, neither Label Studio nor this machine",
            f"Start the backend there; if it has another address now: `zeromask connect {examined.id} --url ADDRESS`.",
        )
    if status != 200:
        return wrong(f"{model.url} answers HTTP {status}", "See the backend's log.")
    remedy = (
        "If Label Studio runs in Docker, start Zeromask with a sign-in, ZEROMASK_HOST=0.0.0.0 and "
        f"ZEROMASK_ALLOWED_HOSTS=host.docker.internal, and `zeromask connect {examined.id} --url http://host.docker.internal:9090`."
    )
    return wrong(f"this machine reaches {model.url}, and Label Studio does not", remedy)


def _refusal_remedy(examined: ExaminedProject, model: ConnectedModel) -> str:
    if "401" in model.error or "sign-in" in model.error or "missing or wrong" in model.error:
        return f"Give Label Studio the sign-in: {_CONNECT.format(examined.id)}"
    return "Mend what it names; Label Studio asks again whenever the project's model is shown."


def check_same_model(examined: ExaminedProject) -> Iterator[Finding]:
    """The backend stamps predictions with the model that the workers have."""
    model, alive = examined.model, examined.installation.workers
    said = ModelVersion.parse(model.version) if model else None
    if said is None:
        yield warning(
            f"the backend gave no version that is known ({model.version if model else ''!r})",
            "Update backend and workers to the same release.",
        )
        return
    names = {worker.about.get("model", "") for worker in alive}
    if any(re.fullmatch(rf"{re.escape(model_slug(name))}(-[0-9a-f]{{4}})?", said.model) for name in names):
        yield ok(f"backend and workers have {said.model}")
        return
    yield wrong(
        f"the backend asks for {said.model}, and workers have {', '.join(sorted(names)) or 'none'}",
        "Give backend and workers the same MODEL and settings, and start both again.",
    )


def check_webhook(examined: ExaminedProject) -> Iterator[Finding]:
    """Label Studio tells the backend of changes, and the backend lets it in."""
    hook, settings = examined.webhook, examined.installation.settings
    connect = _CONNECT.format(examined.id)
    if examined.model is None:
        yield waits(("model",))
    elif hook is None:
        yield wrong(
            "the model is connected without a webhook: corrections and new labels are found only once a minute",
            f"{connect} It makes the webhook.",
        )
    elif not hook.active:
        yield wrong("the webhook is switched off", f"Switch it on under Settings -> Webhooks, or: {connect}")
    elif settings.webhook_secret and not hook.carries(SECRET_HEADER, settings.webhook_secret):
        yield wrong(
            "the webhook does not carry ZEROMASK_WEBHOOK_SECRET, and the backend refuses it",
            f"{connect} A worker with that setting puts it in, too.",
        )
    elif hook.actions:
        yield warning(
            f"the webhook is limited to {', '.join(hook.actions)[:200]}",
            "Choose all actions under Settings -> Webhooks.",
        )
    else:
        last = None
        with suppress(ZeromaskError):  # Redis has a check of its own
            last = ProjectHints(examined.installation.redis).last_webhook(examined.id)
        yield ok(f"present{', with the secret' if settings.webhook_secret else ''}; last heard: {last or 'not yet'}")


def check_interactive(examined: ExaminedProject) -> Iterator[Finding]:
    """Smart tools ask the backend, where there are any, and a worker answers."""
    if examined.model is None:
        yield waits(("model",))
        return
    on = examined.model.interactive
    smart = any(map(is_prompt, _tags(examined)))
    if smart and not on:
        yield warning(
            "the labeling config has smart tools, and the model is not asked for clicks",
            f"Switch on Interactive preannotations in Settings -> Model, or: zeromask connect {examined.id} "
            "--interactive",
        )
    elif smart and not _clicks_are_answered(examined.installation):
        yield warning(
            "the labeling config has smart tools, and no worker that lives answers clicks",
            "Start a worker without ZEROMASK_INTERACTIVE=0, or `zeromask worker --queue interactive`.",
        )
    else:
        yield ok(f"{'on' if on else 'off'}; {'smart tools are there' if smart else 'no smart tools in the config'}")


def _clicks_are_answered(installation: Installation) -> bool:
    """Whether a worker that answers clicks lives; also where Redis does not say, which has a check of its own."""
    try:
        return bool(WorkerPresence(installation.redis, clickers=True).workers())
    except (QueueUnavailable, SettingsError):
        return True


def _tags(examined: ExaminedProject) -> Iterator[Tag]:
    """All tags of the labeling config."""
    waiting = [read_config(examined.project.label_config)]
    while waiting:
        tag = waiting.pop()
        yield tag
        waiting += tag.children
