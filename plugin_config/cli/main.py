"""`zeromask`: the group of all commands.

A command's module is imported when that command is called. Commands of the backend and the worker are not imported at
all: they replace this process, so that the two stay apart and signals go straight to the one that runs.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import click

from plugin_config.cli.parts import require_parts
from plugin_config.closed_output import run_command
from plugin_config.errors import ZeromaskError


class CommandFailed(click.ClickException):
    """A command that could not do what it was asked for: its message on standard error, exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message."""
        click.echo(self.message, file=file, err=True)


class ModuleCommand(click.Command):
    """Runs a module in place of this process, with its own command line parser.

    Args:
        name: of the command.
        module: run as `python -m` runs it.
        parts: extras of the package that the module needs.
    """

    def __init__(self, name: str, module: str, parts: Sequence[str]) -> None:
        super().__init__(name, add_help_option=False)
        self.module = module
        self.parts = parts

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave every argument to the module."""
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> Any:
        """Become the module; does not return.

        Raises:
            EnvironmentBroken: a part of the product that the module needs is not installed.
        """
        require_parts(*self.parts)
        # -P: without it a folder named `backend` in the present folder would be run instead of ours.
        os.execv(sys.executable, [sys.executable, "-P", "-m", self.module, *ctx.args])


def _up() -> tuple[click.Command, ...]:
    from plugin_config.cli.up import up

    return (up,)


def _doctor() -> tuple[click.Command, ...]:
    from plugin_config.cli.doctor import doctor

    return (doctor,)


def _connect() -> tuple[click.Command, ...]:
    from plugin_config.cli.connect import connect

    return (connect,)


def _disconnect() -> tuple[click.Command, ...]:
    from plugin_config.cli.disconnect import disconnect

    return (disconnect,)


def _versions() -> tuple[click.Command, ...]:
    from plugin_config.cli.versions import rollback, versions

    return versions, rollback


def _offer() -> tuple[click.Command, ...]:
    from plugin_config.cli.offer import offer

    return (offer,)


def _capacity() -> tuple[click.Command, ...]:
    from plugin_config.cli.capacity import capacity

    return (capacity,)


def _next() -> tuple[click.Command, ...]:
    from plugin_config.cli.next_images import next_images

    return (next_images,)


def _status() -> tuple[click.Command, ...]:
    from plugin_config.cli.status import status

    return (status,)


def _alive() -> tuple[click.Command, ...]:
    from plugin_config.cli.alive import alive

    return (alive,)


def _queue() -> tuple[click.Command, ...]:
    from plugin_config.cli.queue import cancel, pause, resume, retry

    return cancel, retry, pause, resume


@dataclass(frozen=True)
class CommandEntry:
    """One line of `zeromask --help`.

    Attributes:
        name: of the command.
        summary: what it is for.
        source: the module that is run in place of this process, or a function that imports commands of this package,
            this one among them.
        parts: extras of the package that the module needs; commands of this package ask for theirs themselves.
    """

    name: str
    summary: str
    source: str | Callable[[], tuple[click.Command, ...]]
    parts: tuple[str, ...] = ()

    def command(self) -> click.Command:
        """The command itself."""
        if isinstance(self.source, str):
            return ModuleCommand(self.name, self.source, self.parts)
        return next(command for command in self.source() if command.name == self.name)


_BACKEND, _WORKER, _ALL = ("backend",), ("worker",), ("backend", "worker", "all")

COMMANDS = (
    CommandEntry("up", "Redis, backend and a worker beside your Label Studio", _up),
    CommandEntry("backend", "the backend alone (needs REDIS_URL)", "backend", _BACKEND),
    CommandEntry("worker", "one worker alone (needs REDIS_URL, Label Studio's address and token)", "worker", _WORKER),
    CommandEntry("connect", "connect a project of Label Studio, and ask for its first predictions", _connect),
    CommandEntry("disconnect", "take a project out again; what was predicted and learned stays", _disconnect),
    CommandEntry("doctor", "what is wrong, with the remedy, and a mask drawn as proof", _doctor),
    CommandEntry("versions", "versions learned from a project's corrections", _versions),
    CommandEntry("rollback", "serve an older version again", _versions),
    CommandEntry("offer", "let a project's learner judge an adapter that `train` wrote", _offer),
    CommandEntry("status", "projects, tasks by state, pace, workers and last errors, live", _status),
    CommandEntry("alive", "whether a worker of this machine is alive, for health checks", _alive),
    CommandEntry("capacity", "how long N workers take for M tasks, or how many workers it takes", _capacity),
    CommandEntry("next", "which images of a project are annotated next, and why", _next),
    CommandEntry("cancel", "drop a project's pending tasks", _queue),
    CommandEntry("retry", "queue a project's failed tasks again", _queue),
    CommandEntry("pause", "take no more tasks of a project for now", _queue),
    CommandEntry("resume", "go on with a paused project", _queue),
    CommandEntry("report", "what predictions saved in a project: a page, charts and tables", "worker.report", _WORKER),
    CommandEntry(
        "seed-wrong", "put wrong masks into predictions, to see how many are caught", "worker.report.seed", _WORKER
    ),
    CommandEntry("segment", "masks for pictures on disk, without Label Studio", "worker.segment", _WORKER),
    CommandEntry("bench", "how fast the product is, as ratios within one run", "worker.lab.bench", _ALL),
    CommandEntry("evaluate", "measure quality, on drawn scenes or your own pictures", "worker.lab.evaluate", _WORKER),
    CommandEntry("train", "train a dense recipe on drawn scenes or your own photographs", "worker.lab.train", _WORKER),
    CommandEntry("demo", "what `make demo` runs", "plugin_config.demo", _ALL),
)


class CommandGroup(click.Group):
    """The commands of `COMMANDS`, each loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the help."""
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None for an unknown name."""
        return next((entry.command() for entry in COMMANDS if entry.name == cmd_name), None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.summary) for entry in COMMANDS])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to call; an unknown name is answered with the closest one and the list."""
        name = args[0]
        if name == "help":
            click.echo(ctx.get_help())
            ctx.exit()
        names = self.list_commands(ctx)
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            question = f" Did you mean {close[0]!r}?" if close else ""
            raise CommandFailed(f"zeromask: there is no command {name!r}.{question}\n\n{ctx.get_help()}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; an error of ours ends it with one sentence and status 2."""
        try:
            return super().invoke(ctx)
        except ZeromaskError as error:
            raise CommandFailed(f"zeromask {ctx.invoked_subcommand}: {error}") from error


@click.group(
    cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`zeromask COMMAND --help` lists a command's options; docs/reference/settings.md lists the settings.",
)  # fmt: skip
@click.version_option(package_name="zeromask", message="%(prog)s %(version)s")
@click.pass_context
def zeromask(context: click.Context) -> None:
    """Masks for Label Studio from the words of its labels."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    Args:
        arguments: name and arguments of the command; None = the command line of this process.
    """
    run_command(lambda: zeromask(arguments, prog_name="zeromask"))
