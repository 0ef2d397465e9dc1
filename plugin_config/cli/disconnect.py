"""`zeromask disconnect`: take a project out again. What was predicted and learned stays."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
from redis import Redis

from plugin_config.cli.connect import ASKING_S
from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.client import LabelStudio, Project
from plugin_config.label_studio.connecting import disconnect_model
from plugin_config.label_studio.next_task import BY_SCORE, DEFAULT_SAMPLING, set_sampling, set_score
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.order import HEAD_BELOW, ImageRecord, ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings


@click.command(epilog="PROJECT is the project's number in Label Studio, as in the address of its page.")
@click.argument("project", type=click.IntRange(min=1))
@click.option(
    "--url", default="", help="address of the connection, as `connect` lists it (default: all that lead here)"
)
def disconnect(project: int, *, url: str) -> None:
    """Disconnect a project: model, webhook, order, waiting tasks. Predictions and learned versions stay."""
    settings = Settings.from_env(os.environ).require("label_studio_url", "label_studio_api_key")
    with label_studio_of(settings, timeout_s=ASKING_S) as label_studio, connect_briefly(settings) as redis:
        for sentence in disconnect_project(label_studio, redis, settings, project, url=url):
            click.echo(sentence)


def disconnect_project(
    label_studio: LabelStudio, redis: Redis, settings: Settings, project: int, *, url: str = ""
) -> Iterator[str]:
    """Disconnect a project, and tell what was done, a sentence each.

    Args:
        label_studio: the client.
        redis: of the queue.
        settings: of the backend.
        project: its id.
        url: as `disconnect_model` takes it.

    Raises:
        LabelStudioError: Label Studio refuses something; what was told before is done.
        QueueUnavailable: Redis does not answer.
    """
    found = label_studio.project(project)
    yield f"Project {project}, {found.title!r}"
    yield from disconnect_model(label_studio, project, settings, url=url)
    order = ProjectOrder(redis)
    sampling, corrected = order.sampling(project), order.seen(project)[0]
    placed = [record for task, record in order.records(project) if record.shown < HEAD_BELOW and task not in corrected]
    # Before the order is given back: a worker would set it again. After the model is: else Label Studio asks anew.
    PendingTasks(redis, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s).forget_project(project)
    yield "Its waiting tasks are dropped, and no worker or learner looks at it any more."
    yield from _order_back(label_studio, found, sampling, placed)
    yield f"Predictions and what was learned stay; `zeromask connect {project}` goes on from there."


def _order_back(
    label_studio: LabelStudio, project: Project, sampling: str, placed: list[ImageRecord]
) -> Iterator[str]:
    """Undo the order: the sampling, where it was set for it, and the scores that are places."""
    if sampling == "set" and project.sampling == BY_SCORE:
        set_sampling(label_studio, project.id, DEFAULT_SAMPLING)
        yield f"Label All Tasks goes by {DEFAULT_SAMPLING!r} again."
    for record in placed:
        try:
            set_score(label_studio, record.prediction, max(record.score, HEAD_BELOW))
        except (LabelStudioUnreachable, LabelStudioFailing):
            raise
        except LabelStudioError as error:
            if error.status != 404:  # the prediction was deleted
                raise
    if placed:
        yield f"The scores of {len(placed)} predictions are no places in an order any more."
