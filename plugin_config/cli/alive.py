"""`zeromask alive`: whether a worker of this machine is alive, as an exit status for a container's health check."""

from __future__ import annotations

import os
import socket

import click

from plugin_config.errors import EnvironmentBroken, QueueUnavailable
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings


@click.command()
@click.option(
    "--queue", "work", type=click.Choice(("predict", "finetune", "interactive")), default="predict", show_default=True,
    help="as the worker has it",
)  # fmt: skip
@click.option(
    "--redis-may-be-away", is_flag=True,
    help="exit with 0 where Redis does not answer: it is no reason to restart a worker",
)  # fmt: skip
def alive(work: str, *, redis_may_be_away: bool) -> None:
    """Exit with status 0 while a worker of this machine gives signs of life, else with 2."""
    host = socket.gethostname()
    with connect_briefly(Settings.from_env(os.environ)) as redis:
        presence = WorkerPresence(redis, learners=work == "finetune", clickers=work == "interactive")
        try:
            hosts = [state.host for state in presence.workers()]
        except QueueUnavailable:
            if redis_may_be_away:
                return
            raise
    if host not in hosts:
        problem = f"gave no sign of life for 15 s ({len(hosts)} on other machines did)"
        remedy = "It may still be loading its model; its log tells."
        raise EnvironmentBroken(f"worker --queue {work} of {host}", problem, remedy)
