"""`zeromask up`: Redis, backend, workers and a learner beside an existing Label Studio; what ends is started again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import click

from plugin_config.cli.connect import ASKING_S, connect_project
from plugin_config.cli.parts import require_parts
from plugin_config.errors import ZeromaskError
from plugin_config.files import keep_private
from plugin_config.label_studio.opening import label_studio_of
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.local.services import Services, start_services
from plugin_config.local.supervisor import Supervisor, stop_on_signals
from plugin_config.settings import Settings


@click.command()
@click.option("--model", help="in place of the MODEL setting")
@click.option("--workers", default=1, show_default=True, help="worker processes")
@click.option(
    "--learners", default=1, show_default=True,
    help="processes that learn from corrections, each with a model of its own",
)  # fmt: skip
@click.option(
    "--clickers", default=0, show_default=True,
    help="processes that only answer clicks, each with a model of its own; without any, the workers do",
)  # fmt: skip
@click.option(
    "--connect", "projects", metavar="PROJECT", multiple=True, type=click.IntRange(min=1),
    help="connect this project, as `zeromask connect` does; may be given several times",
)  # fmt: skip
def up(model: str | None, workers: int, learners: int, clickers: int, projects: tuple[int, ...]) -> None:
    """Run Redis, backend and workers beside Label Studio, until Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s up %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings.from_env(os.environ)
    if model is not None:
        settings = replace(settings, model=model)
    settings.require("label_studio_url", "label_studio_api_key").require_guarded()
    require_parts("backend", "worker", *() if settings.redis_url else ("all",))
    keep_private(settings.state_path)
    try:
        with label_studio_of(settings, timeout_s=ASKING_S) as label_studio:
            label_studio.request("GET", "/api/projects/", params={"page_size": 1})
        with stop_on_signals(), Supervisor(settings.state_path) as supervisor:
            services = start_services(
                supervisor, settings, workers=max(1, workers), learners=max(0, learners), clickers=max(0, clickers)
            )
            settings = replace(settings, redis_url=services.redis_url)
            connect_all(settings, projects)
            click.echo(next_step(settings, services, projects))
            threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("zeromask up: stopped.", err=True)


def connect_all(settings: Settings, projects: Sequence[int]) -> None:
    """Connect projects; one that cannot be is told, and everything goes on running."""
    if not projects:
        return
    with label_studio_of(settings, timeout_s=ASKING_S) as label_studio, connect_briefly(settings) as redis:
        for project in projects:
            try:
                for sentence in connect_project(label_studio, redis, settings, project):
                    click.echo(sentence)
            except ZeromaskError as error:
                click.echo(f"project {project} is not connected: {error}", err=True)


def next_step(settings: Settings, services: Services, projects: Sequence[int] = ()) -> str:
    """What a person does once everything runs; without passwords.

    Args:
        settings: of all processes.
        services: that run.
        projects: that are connected.
    """
    if projects:
        return (
            f"\nZeromask runs with model {settings.model} at {services.backend_url}; `zeromask doctor` checks it.\n"
            f"To watch it: {services.backend_url}/status\n"
            f"Logs: {settings.state_path / 'logs'}. Ctrl-C stops everything."
        )
    signing_in = ""
    if settings.signs_in:
        signing_in = (
            f",\nauthentication method Basic Authentication, user {settings.user}, password as ZEROMASK_PASSWORD"
        )
    return (
        f"\nZeromask runs with model {settings.model}.\n"
        "In a second terminal with the same settings, `zeromask connect PROJECT` connects a project by the number in\n"
        "its page's address, and `zeromask doctor PROJECT` checks it. By hand:\n"
        f"in Label Studio ({settings.label_studio_url}): project -> Settings -> Model -> Connect Model,\n"
        f"address {services.backend_url}{signing_in}, then select tasks -> Actions -> Retrieve Predictions.\n"
        "For clicks with smart tools, switch on Interactive preannotations there, too.\n"
        "Label Studio must allow private addresses: set ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false in\n"
        "its environment.\n"
        f"To watch it: {services.backend_url}/status\nLogs: {settings.state_path / 'logs'}. Ctrl-C stops everything."
    )
