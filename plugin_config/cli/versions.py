"""`zeromask versions` and `zeromask rollback`: what was learned of a project, and serving an older version of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.model_version import ZEROSHOT
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Attempt, Manifest, Pointer, VersionFolder
from plugin_config.versions.rollback import Rollback, find_copy, manifests, roll_back

_PROJECT_HELP = "PROJECT is the project's number in Label Studio, as in the address of its page."


@click.command(epilog=_PROJECT_HELP)
@click.argument("project", type=int)
@click.option("--json", "for_programs", is_flag=True, help="print it as one JSON line")
def versions(project: int, *, for_programs: bool) -> None:
    """List the versions learned from a project's corrections, and which one is served."""
    settings = Settings.from_env(os.environ)
    with connect_briefly(settings) as redis:
        copy = find_copy(redis, project, settings.model)
        folder = VersionFolder(copy.place, copy.owner)
        copy.check_place(folder.pointer())
        if for_programs:
            click.echo(json.dumps(as_json(folder, copy.trouble)))
        else:
            Console().print(render(folder, copy.trouble))


@click.command(
    epilog=f"{_PROJECT_HELP} VERSION is as `zeromask versions` lists it, or zeroshot; without it, the one before."
)
@click.argument("project", type=int)
@click.argument("version", default="")
def rollback(project: int, version: str) -> None:
    """Serve an older version again; its predictions come back."""
    settings = Settings.from_env(os.environ)
    with connect_briefly(settings) as redis:
        click.echo(_rolled_back(project, roll_back(redis, project, settings.model, version)))


def as_json(folder: VersionFolder, trouble: str) -> dict[str, Any]:
    """The versions for programs.

    Args:
        folder: of the project.
        trouble: why workers do not serve what the pointer names; "" = they do.

    Returns:
        The pointer, every version, and what could not be read.
    """
    rows = manifests(folder)
    pointer = folder.pointer()
    return {
        "project": folder.owner.project, "served": pointer.served, "moved_by": pointer.moved_by,
        "moved_at": pointer.moved_at, "trouble": trouble,
        "attempt": None if pointer.attempt is None else asdict(pointer.attempt),
        "contenders": {kind: asdict(found) for kind, found in pointer.contenders.items()},
        "versions": [asdict(row) for row in rows if isinstance(row, Manifest)],
        "damaged": [str(row) for row in rows if not isinstance(row, Manifest)],
    }  # fmt: skip


def render(folder: VersionFolder, trouble: str) -> Table:
    """The versions for a terminal: one line each, the served one marked; `trouble` as in `as_json`."""
    pointer = folder.pointer()
    table = Table(title=f"Project {folder.owner.project}, model {folder.owner.model}", title_justify="left",
                  caption=_caption(pointer, trouble), caption_justify="left")  # fmt: skip
    for name in ("", "version", "made (UTC)", "learned from", "on top of", "verdict"):
        table.add_column(name)
    table.add_row(_mark(pointer, ZEROSHOT), ZEROSHOT, "", "", "", "the model as it came")
    for row in manifests(folder):
        if isinstance(row, Manifest):
            table.add_row(_mark(pointer, row.name), row.name, row.at[:16].replace("T", " "), Text(_learned_from(row)),
                          row.base, Text(row.verdict.reason))  # fmt: skip
        else:
            table.add_row("", row.subject.removeprefix("version "), "", "", "", Text(str(row), style="red"))
    return table


def _caption(pointer: Pointer, trouble: str) -> Text:
    lines = []
    if pointer.attempt is not None:
        attempt = pointer.attempt
        unread = {key.partition("/")[0] for key in (*attempt.missing, *attempt.left_out)}
        images = f"{max(0, attempt.tasks - len(unread))} tasks"
        left_out = [*attempt.missing.values(), *attempt.left_out.values()]
        if left_out:
            images += f", {len(left_out)} left out ({left_out[0]})"
        lines.append(f"Last learned at {attempt.at} from {images}: {attempt.verdict.reason}")
        lines += _acceptance(attempt)
    lines += [f"{found.source}, at {found.at}: {found.verdict.reason}" for found in pointer.contenders.values()]
    if pointer.moved_by:
        lines.append(f"Served since {pointer.moved_at}, as the {pointer.moved_by} decided.")
    caption = Text("\n".join(lines))
    if trouble:
        caption.append(f"\nServed zero-shot instead. {trouble}", style="red")
    return caption


def _acceptance(attempt: Attempt) -> list[str]:
    """How many predicted regions annotators left as they were, the label with the smallest share first."""
    rows = []
    for key, counts in attempt.outcomes.items():
        predicted = counts["accepted"] + counts["changed"] + counts["deleted"]
        if predicted:
            rows.append((counts["accepted"] / predicted, f"{key} {counts['accepted']} of {predicted}"))
    labels = ", ".join(label for _, label in sorted(rows))
    return [f"Predicted regions that annotators left as they were: {labels}"] if labels else []


def _learned_from(version: Manifest) -> str:
    images, source = f"{len(version.learned_from)} images", str(version.verdict.figures.get("source", ""))
    return ", ".join([source, images] if source and version.learned_from else [source or images])


def _mark(pointer: Pointer, name: str) -> str:
    return "served" if pointer.served == name else ""


def _rolled_back(project: int, move: Rollback) -> str:
    missing = f" ({move.missing}, which was before, is deleted)" if move.missing else ""
    return (
        f"project {project}: {move.after} is served again instead of {move.before}{missing}. Its predictions come "
        "back, see `zeromask status`; the same corrections will not bring the other one back by themselves."
    )
