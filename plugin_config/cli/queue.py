"""`zeromask cancel|retry|pause|resume PROJECT`: change the queue from a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from plugin_config.errors import JobError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.overview.control import QueueControl
from plugin_config.settings import Settings

_PROJECT_HELP = "PROJECT is the project's number in Label Studio, as in the address of its page."
_TASKS_HELP = f"{_PROJECT_HELP} With TASKs, only these; without, all of the project."


@click.command(epilog=_TASKS_HELP)
@click.argument("project", type=int)
@click.argument("task", type=int, nargs=-1)
def cancel(project: int, task: tuple[int, ...]) -> None:
    """Drop pending tasks, and those that are being worked on."""
    with _control(project) as control:
        click.echo(f"project {project}: {control.cancel(project, task)} tasks cancelled.")


@click.command(epilog=_TASKS_HELP)
@click.argument("project", type=int)
@click.argument("task", type=int, nargs=-1)
def retry(project: int, task: tuple[int, ...]) -> None:
    """Queue tasks that failed again."""
    with _control(project) as control:
        click.echo(f"project {project}: {control.retry(project, task)} failed tasks queued again.")


@click.command(epilog=_PROJECT_HELP)
@click.argument("project", type=int)
def pause(project: int) -> None:
    """Take no more tasks of a project until `zeromask resume`."""
    with _control(project) as control:
        control.pause(project)
        click.echo(f"project {project}: paused; `zeromask resume {project}` goes on with it.")


@click.command(epilog=_PROJECT_HELP)
@click.argument("project", type=int)
def resume(project: int) -> None:
    """Go on with a paused project."""
    with _control(project) as control:
        control.resume(project)
        click.echo(f"project {project}: resumed.")


@contextmanager
def _control(project: int) -> Iterator[QueueControl]:
    """Connect to the queue of the environment's settings.

    Raises:
        JobError: the queue never had a task of the project.
        QueueUnavailable: Redis does not answer.
        SettingsError: the settings name no Redis.
    """
    settings = Settings.from_env(os.environ)
    with connect_briefly(settings) as redis:
        control = QueueControl(redis, settings)
        if not control.knows(project):
            remedy = "`zeromask status` lists those that have; the number is in the address of the project's page."
            raise JobError(f"project {project}", "has asked for no predictions yet", remedy)
        yield control
