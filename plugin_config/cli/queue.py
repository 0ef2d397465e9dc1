"""`zeromask cancel|retry|pause|resume PROJECT`: what a person may do to the queue from a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from plugin_config.errors import JobError, ZeromaskError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.queue.control import QueueControl
from plugin_config.settings import Settings

MEANINGS = {
    "cancel": "Take back what was asked for: pending tasks, and those that are being worked on.",
    "retry": "Ask again for tasks that failed.",
    "pause": "Take no more tasks of a project until `zeromask resume`.",
    "resume": "Go on with a paused project.",
}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command. Returns 0; 2 when it could not."""
    try:
        command, project, tasks = _parse(arguments)
        settings = Settings.from_env(environ)
        with connect_briefly(settings) as redis:
            sys.stdout.write(act(QueueControl(redis, settings), command, project, tasks) + "\n")
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask: {error}\n")
        return 2
    return 0


def act(control: QueueControl, command: str, project: int, tasks: Sequence[int]) -> str:
    """Do it, and say in one sentence what was done.

    Raises:
        JobError: nothing is known of the project.
        QueueUnavailable: Redis does not answer.
    """
    if not control.knows(project):
        remedy = "See `zeromask status` for those that asked; the number is in the address of the project's page."
        raise JobError(f"project {project}", "has not asked for anything", remedy)
    if command == "cancel":
        return f"project {project}: {control.cancel(project, tasks)} tasks cancelled."
    if command == "retry":
        return f"project {project}: {control.retry(project, tasks)} failed tasks asked for again."
    if command == "pause":
        control.pause(project)
        return f"project {project}: paused; `zeromask resume {project}` goes on with it."
    control.resume(project)
    return f"project {project}: goes on."


def _parse(arguments: Sequence[str]) -> tuple[str, int, list[int]]:
    command = arguments[0]
    parser = argparse.ArgumentParser(prog=f"zeromask {command}", description=MEANINGS[command])
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    if command in ("cancel", "retry"):
        parser.add_argument("task", type=int, nargs="*", help="these tasks only (default: all of the project)")
    found = parser.parse_args(arguments[1:])
    return command, found.project, list(getattr(found, "task", []))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
