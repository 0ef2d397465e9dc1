"""`zeromask connect`: all that a project needs to be served, in one command that may be given again and again."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
from redis import Redis

from plugin_config.addresses import shown
from plugin_config.errors import LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio, Project
from plugin_config.label_studio.connecting import connect_model
from plugin_config.label_studio.connecting import models as connected
from plugin_config.label_studio.next_task import BY_SCORE, DEFAULT_SAMPLING, set_sampling
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.label_studio.version_counts import version_counts
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.model_version import ModelVersion, spelled
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.order import ProjectOrder
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from plugin_config.vocabulary import Vocabulary, parse_vocabulary

ASKING_S = 12.0
"""Longest wait for an answer of Label Studio where a person waits, seconds."""


@click.command(epilog="PROJECT is the project's number in Label Studio, as in the address of its page.")
@click.argument("project", type=click.IntRange(min=1))
@click.option(
    "--url",
    default="",
    help="address under which Label Studio reaches the backend (default: as now, or "
    "http://ZEROMASK_HOST:ZEROMASK_PORT)",
)
@click.option(
    "--interactive/--no-interactive",
    default=None,
    help="whether smart tools ask the model (default: as now, and yes at first)",
)
@click.option("--replace", is_flag=True, help="disconnect other models: Label Studio asks the first one only")
@click.option("--predict/--no-predict", default=True, help="ask for predictions of all tasks (default: yes)")
def connect(project: int, *, url: str, interactive: bool | None, replace: bool, predict: bool) -> None:
    """Connect a project: model, webhook, order, version shown, first predictions."""
    settings = Settings.from_env(os.environ).require("label_studio_url", "label_studio_api_key")
    with label_studio_of(settings, timeout_s=ASKING_S) as label_studio, connect_briefly(settings) as redis:
        for sentence in connect_project(
            label_studio, redis, settings, project, url=url, interactive=interactive, replace=replace, predict=predict
        ):
            click.echo(sentence)


def connect_project(
    label_studio: LabelStudio,
    redis: Redis,
    settings: Settings,
    project: int,
    *,
    url: str = "",
    interactive: bool | None = None,
    replace: bool = False,
    predict: bool = True,
) -> Iterator[str]:
    """Connect a project, and tell what was done and what was there, a sentence each.

    Args:
        label_studio: the client.
        redis: of the queue.
        settings: of the backend.
        project: its id.
        url, interactive: as `connect_model` takes them.
        replace: whether other models are disconnected.
        predict: whether predictions of all tasks are asked for.

    Raises:
        LabelStudioError: Label Studio refuses something; what was told before is done.
        LabelingConfigError: nothing in the labeling config can be served.
        QueueUnavailable: Redis does not answer.
    """
    found = label_studio.project(project)
    vocabulary = parse_vocabulary(found.label_config)  # before anything is changed
    yield f"Project {project}, {found.title!r}, tasks: {found.tasks}"
    yield from connect_model(
        label_studio, project, settings, url=url, interactive=interactive, replaced=lambda url: replace
    )
    ProjectLedger(redis).doubt_card_note(project)  # a new connection's card tells nothing yet
    yield _order(label_studio, redis, settings, found)
    yield _shown(label_studio, found, served_version(redis, settings, project, vocabulary))
    if predict and found.tasks:
        yield _asked(label_studio, found)
    yield f"`zeromask status` shows how far it is, `zeromask doctor {project}` whether all is well."


def served_version(redis: Redis, settings: Settings, project: int, vocabulary: Vocabulary) -> str:
    """The version that workers stamp on predictions of the project, as they spell it.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    copy = ServedAdapters(redis).copy(project, settings.model)
    version = ModelVersion.of(settings, vocabulary)
    if copy is not None:
        version = ModelVersion.of(settings, vocabulary, adapter=copy.served, learned=copy.told)
    return spelled(version, ProjectLedger(redis).target_version(project))


def _order(label_studio: LabelStudio, redis: Redis, settings: Settings, project: Project) -> str:
    """Set the order of tasks where nobody chose one; `worker.service.sampling` keeps it."""
    order = ProjectOrder(redis)
    if not settings.order:
        return f"The order of tasks is left as it is ({project.sampling}): ZEROMASK_ORDER is off."
    if project.sampling == BY_SCORE:
        return "Label All Tasks hands out the image that teaches most next, as before."
    if project.sampling != DEFAULT_SAMPLING or order.sampling(project.id):
        return f"The order of tasks is left as a person chose it ({project.sampling}); `zeromask next` can change it."
    set_sampling(label_studio, project.id, BY_SCORE)
    order.note_sampling(project.id, "set")
    return "Label All Tasks hands out the image that teaches most next."


def _shown(label_studio: LabelStudio, project: Project, version: str) -> str:
    """Show annotators the present version where it is stored already; else a worker does that with the first one."""
    if project.model_version == version:
        return f"Annotators were shown {version}."
    if version in version_counts(label_studio, project.id):
        label_studio.show_version(project.id, version)
        return f"Annotators are shown {version}."
    return f"Annotators are shown {version} as soon as its first prediction is stored."


def _asked(label_studio: LabelStudio, project: Project) -> str:
    """Ask for predictions as Actions -> Retrieve Predictions does, so that Label Studio proves to reach the backend."""
    params = {"id": "retrieve_tasks_predictions", "project": project.id}
    body = {"selectedItems": {"all": True, "excluded": []}}
    try:
        label_studio.request("POST", "/api/dm/actions/", params=params, json=body)
    except LabelStudioUnreachable as error:
        if "ReadTimeout" not in error.problem:
            raise
        return f"Predictions of all tasks ({project.tasks}) are asked for; Label Studio still hands them over."
    first = connected(label_studio, project.id)[:1]  # it asks no other
    if all(model.state == "CO" for model in first):
        return f"Predictions of all tasks ({project.tasks}) are asked for."
    return f"Label Studio does not reach {shown(first[0].url)}, so that no predictions are asked for."
