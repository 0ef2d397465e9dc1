"""`zeromask`: a thin table of commands. Each starts the half it belongs to by module path; nothing is imported here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CliCommand:
    """One command: what it is called, the module that runs it, one line of help, and what the module is told first."""

    name: str
    module: str
    meaning: str
    arguments: tuple[str, ...] = ()


COMMANDS = (
    CliCommand("up", "plugin_config.cli.up", "Redis, backend and a worker beside your Label Studio"),
    CliCommand("backend", "backend", "the web half alone (needs REDIS_URL)"),
    CliCommand("worker", "worker", "one worker alone (needs REDIS_URL and Label Studio's address and token)"),
    CliCommand("versions", "plugin_config.cli.versions", "what was learned of a project", ("versions",)),
    CliCommand("rollback", "plugin_config.cli.versions", "serve an older version again", ("rollback",)),
    CliCommand("status", "plugin_config.cli.status", "projects, tasks by state, pace, workers and last errors, live"),
    CliCommand("cancel", "plugin_config.cli.queue", "take back what was asked for", ("cancel",)),
    CliCommand("retry", "plugin_config.cli.queue", "ask again for what failed", ("retry",)),
    CliCommand("pause", "plugin_config.cli.queue", "let a project's tasks wait", ("pause",)),
    CliCommand("resume", "plugin_config.cli.queue", "go on with a paused project", ("resume",)),
    CliCommand("segment", "worker.segment", "masks for pictures on disk, without Label Studio"),
    CliCommand("bench", "worker.lab.bench", "how fast the product is, as ratios within one run"),
    CliCommand("evaluate", "worker.lab.evaluate", "figures of quality, for drawn scenes or your own pictures"),
    CliCommand("demo", "plugin_config.demo.run", "what `make demo` runs"),
)


def main() -> int:
    """Become the module of the command named on the command line; returns a status only when there is none."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    for command in COMMANDS:
        if command.name == arguments[0]:
            _become(command.module, [*command.arguments, *arguments[1:]])
    sys.stderr.write(f"zeromask: there is no command {arguments[0]!r}.\n\n{usage()}")
    return 2


def usage() -> str:
    """The text of `zeromask --help`."""
    rows = "".join(f"  {command.name:<9} {command.meaning}\n" for command in COMMANDS)
    closing = "`zeromask COMMAND --help` tells the options; README.md the settings."
    return f"usage: zeromask COMMAND [OPTIONS]\n\n{rows}\n{closing}\n"


def _become(module: str, arguments: Sequence[str]) -> None:
    # -m of this very interpreter: the halves stay apart, and signals go straight to the one that runs. -P, or a folder
    # named backend where a person happens to stand would be run instead of ours.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


if __name__ == "__main__":
    sys.exit(main())
