"""`zeromask doctor`: what is wrong, what to do about it, and a mask as proof of what works."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plugin_config.doctor.checkup import examine
from plugin_config.doctor.findings import Finding, first_cause
from plugin_config.doctor.installation import Installation
from plugin_config.local.supervisor import stop_on_signals
from plugin_config.printable import one_line

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "wrong": ("WRONG", "bold red"),
    "waits": ("waits", "dim"),
}
_MOST_LABELS = 50
_INDENT = 8  # of what stands below a line


@click.command(
    epilog="PROJECT is the project's number in Label Studio, as in the address of its page; none = every project that "
    "is connected to this backend. The exit status is 1 where something is wrong; warnings leave it 0."
)
@click.argument("projects", metavar="[PROJECT]...", nargs=-1, type=click.IntRange(min=1))
@click.option("--json", "for_programs", is_flag=True, help="print all of it as one JSON line")
@click.option("--mask/--no-mask", "draw", default=True, help="load the model and draw a mask (default: yes)")
@click.pass_context
def doctor(context: click.Context, projects: tuple[int, ...], *, for_programs: bool, draw: bool) -> None:
    """Check the installation and projects: a line each, with the remedy where one is needed."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    console = Console(stderr=for_programs, highlight=False)
    findings: list[Finding] = []
    with (
        stop_on_signals(),
        Installation(os.environ, projects, draw=draw) as installation,
        console.status("checking ...") as status,  # shows nothing where there is no terminal
    ):
        for finding in examine(installation, lambda name: status.update(f"checking {name} ...")):
            findings.append(finding)
            if not for_programs:
                _print(console, finding, findings, draw=draw)
    if for_programs:
        click.echo(json.dumps(as_json(findings)))
    else:
        console.print(summary(findings), soft_wrap=True)
    context.exit(0 if all(finding.state not in ("wrong", "waits") for finding in findings) else 1)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings for programs; `begin_with` is the check to look at first, null where nothing is to do."""
    cause = first_cause(findings)
    return {
        "ok": all(finding.state not in ("wrong", "waits") for finding in findings),
        "begin_with": None if cause is None else cause.check,
        "findings": [finding.as_json() for finding in findings],
    }


def line(finding: Finding) -> Text:
    """A finding as a line, and its remedy as another one."""
    mark, style = _MARKS[finding.state]
    of = "" if finding.project is None else f"{finding.project}: "
    text = Text.assemble((f"{mark:<{_INDENT}}", style), (f"{of}{finding.check}", "bold"), f"  {finding.sentence}")
    if finding.remedy:
        text.append(f"\n{'':{_INDENT}}-> {finding.remedy}")
    return text


def labels_table(finding: Finding, unread: Sequence[tuple[str, Sequence[str]]] | None) -> Table:
    """What becomes of each label of a project.

    Args:
        finding: that has the labels.
        unread: label -> words that the model does not know; None = it was not asked.
    """
    table, words = Table(), dict(unread or ())
    for name in ("label", "in", "is filled in as", "looked for as", *["not known to the model"] * (unread is not None)):
        table.add_column(name)
    for row in finding.labels[:_MOST_LABELS]:
        texts = ", ".join(row.texts[:4]) + ", ..." * (len(row.texts) > 4) + " (described)" * row.described
        cells = [row.label, row.control, row.filled, texts]
        cells += [", ".join(words.get(row.label, ()))] * (unread is not None)
        table.add_row(*(Text(one_line(cell)) for cell in cells))  # written by anyone who edits projects
    if len(finding.labels) > _MOST_LABELS:
        table.caption = f"and {len(finding.labels) - _MOST_LABELS} more"
    return table


def summary(findings: Sequence[Finding]) -> Text:
    """The last line: what to begin with."""
    cause = first_cause(findings)
    if cause is None:
        return Text("\nNothing is wrong.", style="green")
    names = (("wrong", "wrong"), ("warning", "warning"), ("waits", "not checked"))
    counts = [(sum(finding.state == state for finding in findings), name) for state, name in names]
    of = "" if cause.project is None else f" of project {cause.project}"
    told = ", ".join(f"{count} {name}{'s' * (name == 'warning' and count > 1)}" for count, name in counts if count)
    return Text(f"\n{told}. Begin with: {cause.check}{of}.", style="bold")


def _print(console: Console, finding: Finding, findings: Sequence[Finding], *, draw: bool) -> None:
    """Print a finding; with that of the words, or where no model is loaded of the labels, the table of the labels."""
    console.print(line(finding), soft_wrap=True)
    if finding.check != ("words" if draw else "labels"):
        return
    labels = next((row for row in findings if row.labels and row.project == finding.project), None)
    if labels is not None:
        read = finding.check == "words" and finding.state in ("ok", "warning")
        console.print(Padding(labels_table(labels, finding.unread if read else None), (0, 0, 0, _INDENT)))
