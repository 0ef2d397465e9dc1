"""Results that docs/results keeps, each with the day and the command of its measurement, and the parts of pages that
are made of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from plugin_config.errors import EnvironmentBroken
from plugin_config.files import written_whole

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the project."""

RESULTS_FOLDER = ROOT / "docs" / "results"
EMPTY = "not measured yet"
"""What a page says in the place of figures that no file has."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class StoredResult:
    """What one command measured.

    Attributes:
        date: year, month and day, in UTC.
        command: that measured it, with words for what lies elsewhere on each machine.
        figures: JSON, as the command prints it with `--json`.
    """

    date: str
    command: str
    figures: Mapping[str, Any]


def store_result(path: Path, command: str, figures: Mapping[str, Any]) -> StoredResult:
    """Write what was measured today.

    Raises:
        EnvironmentBroken: the file cannot be written; what was there before is whole.
    """
    stored = StoredResult(datetime.now(UTC).date().isoformat(), command, figures)
    write_file(path, as_json(asdict(stored)))
    return stored


def read_result(path: Path) -> StoredResult | None:
    """Read what `store_result` wrote; None where there is no file.

    Raises:
        EnvironmentBroken: it cannot be read, or is nothing of the kind.
    """
    if not path.exists():
        return None
    return read_json(path, _stored)


def _stored(found: Any) -> StoredResult:
    return StoredResult(str(found["date"]), str(found["command"]), dict(found["figures"]))


def read_json(path: Path, parse: Callable[[Any], Value]) -> Value:
    """Read a file of results, and make values of its JSON.

    Args:
        path: the file.
        parse: may raise ValueError, KeyError, TypeError or AttributeError for what is not such a file.

    Raises:
        EnvironmentBroken: it is not there, or cannot be read or parsed.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"it cannot be read ({type(error).__name__}: {error})"
        remedy = "Take it from the project's repository again, or measure it again with --store."
        raise EnvironmentBroken(f"file {path}", problem, remedy) from error


def as_json(values: Any) -> str:
    """The text of a file of results: its lines change one by one when figures do."""
    return json.dumps(values, indent=1) + "\n"


def write_file(path: Path, text: str) -> None:
    """Write results, or a page made of them.

    Raises:
        EnvironmentBroken: the file cannot be written; what was there before is whole.
    """
    try:
        with written_whole(path) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentBroken(f"file {path}", f"it cannot be written ({error})", "Check its folder.") from error


def write_part(page: Path, begin: str, end: str, text: str) -> None:
    """Write the part of a page between two of its lines.

    Args:
        page: in Markdown.
        begin, end: the lines, each of which the page has once.
        text: the part, without blank lines around it.

    Raises:
        EnvironmentBroken: the page cannot be read or written, or has no such lines.
    """
    try:
        before, rest = page.read_text(encoding="utf-8").split(begin)
        _, after = rest.split(end)
    except (OSError, ValueError) as error:
        remedy = "Take it from the project's repository again."
        raise EnvironmentBroken(f"page {page}", f"it cannot be written ({error})", remedy) from error
    write_file(page, f"{before}{made_part(begin, end, text)}{after}")


def made_part(begin: str, end: str, text: str) -> str:
    """The part of a page with the lines around it, as `write_part` writes it."""
    return f"{begin}\n\n{text}\n\n{end}"
