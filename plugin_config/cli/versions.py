"""`zeromask versions` and `zeromask rollback`: what was learned of a project, and serving another version of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plugin_config.errors import ZeromaskError
from plugin_config.local.embedded_redis import connect_briefly
from plugin_config.model_version import ZEROSHOT
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Attempt, Manifest, Pointer, VersionFolder
from plugin_config.versions.rollback import Move, find_copy, manifests, roll_back

MEANINGS = {
    "versions": "What was learned from a project's corrections, and which version of it is served.",
    "rollback": "Serve an older version again; its predictions come back.",
}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command. Returns 0; 2 when it could not."""
    found = _parse(arguments)
    try:
        settings = Settings.from_env(environ)
        with connect_briefly(settings) as redis:
            if found.command == "rollback":
                move = roll_back(redis, found.project, settings.model, found.version)
                sys.stdout.write(_told(found.project, move) + "\n")
            else:
                copy = find_copy(redis, found.project, settings.model)
                folder = VersionFolder(copy.place, copy.owner)
                if found.json:
                    sys.stdout.write(json.dumps(as_json(folder, copy.trouble)) + "\n")
                else:
                    Console().print(render(folder, copy.trouble))
    except ZeromaskError as error:
        sys.stderr.write(f"zeromask {found.command}: {error}\n")
        return 2
    return 0


def as_json(folder: VersionFolder, trouble: str) -> dict[str, Any]:
    """For programs: the pointer, every version, and what could not be read; `trouble` as the workers told it."""
    rows = manifests(folder)
    pointer = folder.pointer()
    return {
        "project": folder.owner.project, "served": pointer.served, "moved_by": pointer.moved_by,
        "moved_at": pointer.moved_at, "trouble": trouble,
        "attempt": None if pointer.attempt is None else asdict(pointer.attempt),
        "versions": [asdict(row) for row in rows if isinstance(row, Manifest)],
        "damaged": [str(row) for row in rows if not isinstance(row, Manifest)],
    }  # fmt: skip


def render(folder: VersionFolder, trouble: str) -> Table:
    """For a terminal: one line a version, the served one marked."""
    pointer = folder.pointer()
    table = Table(title=f"Project {folder.owner.project}, model {folder.owner.model}", title_justify="left",
                  caption=_caption(pointer, trouble), caption_justify="left")  # fmt: skip
    for name in ("", "version", "made (UTC)", "learned from", "on top of", "verdict"):
        table.add_column(name)
    table.add_row(_mark(pointer, ZEROSHOT), ZEROSHOT, "", "", "", "the model as it came")
    for row in manifests(folder):
        if isinstance(row, Manifest):
            images = f"{len(row.learned_from)} images"
            table.add_row(_mark(pointer, row.name), row.name, row.at[:16].replace("T", " "), images, row.base,
                          Text(row.verdict.reason))  # fmt: skip
        else:
            table.add_row("", row.subject.removeprefix("version "), "", "", "", Text(str(row), style="red"))
    return table


def _caption(pointer: Pointer, trouble: str) -> Text:
    lines = []
    if pointer.attempt is not None:
        attempt = pointer.attempt
        images = f"{attempt.tasks - len(attempt.missing)} images"
        if attempt.missing:
            images += f", {len(attempt.missing)} left out ({next(iter(attempt.missing.values()))})"
        lines.append(f"Last learned at {attempt.at} from {images}: {attempt.verdict.reason}")
        lines += _accepted(attempt)
    if pointer.moved_by:
        lines.append(f"Served since {pointer.moved_at}, as the {pointer.moved_by} decided.")
    told = Text("\n".join(lines))
    if trouble:
        told.append(f"\nServed zero-shot instead. {trouble}", style="red")
    return told


def _accepted(attempt: Attempt) -> list[str]:
    """What annotators made of predicted regions, the label least often right first."""
    rows = []
    for key, row in attempt.outcomes.items():
        predicted = row["accepted"] + row["changed"] + row["deleted"]
        if predicted:
            rows.append((row["accepted"] / predicted, f"{key} {row['accepted']} of {predicted}"))
    told = ", ".join(told for _, told in sorted(rows))
    return [f"Predicted regions that annotators left as they were: {told}"] if told else []


def _mark(pointer: Pointer, name: str) -> str:
    return "served" if pointer.served == name else ""


def _told(project: int, move: Move) -> str:
    gone = f" ({move.skipped}, which was before, is deleted)" if move.skipped else ""
    return (
        f"project {project}: {move.after} is served again instead of {move.before}{gone}. Its predictions come back, "
        "see `zeromask status`; the same corrections will not bring the other one back by themselves."
    )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    command = arguments[0]
    parser = argparse.ArgumentParser(prog=f"zeromask {command}", description=MEANINGS[command])
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    if command == "rollback":
        told = "as `zeromask versions` lists it, or zeroshot (default: the one before)"
        parser.add_argument("version", nargs="?", default="", help=told)
    else:
        parser.add_argument("--json", action="store_true", help="print it as one JSON line")
    found = parser.parse_args(arguments[1:])
    found.command = command
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
