"""The README keeps its word: commands, files and pictures it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plugin_config.cli.main import COMMANDS
from plugin_config.vocabulary import parse_vocabulary
from tests.browser import stored, walk
from tests.browser.summary import GROUPS, summary_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKS = [
    (page, target)
    for page in PAGES
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_exist(page: Path) -> None:
    named = set(re.findall(r"zeromask ([a-z]+)(?= |`|\n)", page.read_text(encoding="utf-8")))
    assert named <= {command.name for command in COMMANDS}


def test_the_commands_of_a_first_day_are_shown() -> None:
    for command in ("up", "segment", "status", "versions", "rollback", "retry"):
        assert f"zeromask {command}" in README


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, heading = target.partition("#")
    found = page.parent / path if path else page
    assert found.exists()
    if heading:
        text = found.read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_table_of_controls_is_that_of_the_stored_results() -> None:
    found = stored.read(stored.CONTROLS)
    assert summary_table(found) in README
    assert stored.filled(README) == README, "run python -m tests.browser --store"
    assert [row["control"] for row in found["controls"]] == [name for group in GROUPS for name in group]


def test_the_picture_series_is_that_of_the_stored_walk() -> None:
    assert walk.filled(README, stored.read(walk.RESULTS)) == README, "run python -m tests.browser.walk --store"


def test_the_walk_has_something_to_correct_and_to_find_again() -> None:
    labels = parse_vocabulary(walk.config()).labels
    assert [label.key for label in labels] == list(walk.LABELS)
    drawn = walk.pictures()
    made_up = list(walk.LABELS).index("wug")
    shown = [bool((picture.truth == made_up).any()) for picture in drawn]
    corrected = stored.read(walk.RESULTS)["corrected"]
    assert sum(shown[:corrected]) >= 3
    assert shown[corrected], "it is the picture that is shown before and after"


def test_the_worst_figure_of_a_row_counts() -> None:
    good = {"regions": 4, "stored": 4, "valid": True, "iou": 1.0, "against": "mask"}
    bad = good | {"control": "BitmaskLabels", "stored": 3, "iou": 0.51}
    edits = [{"control": "BrushLabels", "read": 0.97}, {"control": "BitmaskLabels", "read": 0.99}]
    found = {"controls": [good | {"control": "BrushLabels"}, bad, good | {"control": "KeyPointLabels"}], "edits": edits}
    assert summary_table(found).splitlines()[2:] == [
        "| `BrushLabels`, `BitmaskLabels` | no | yes | 0.510 of the mask | 0.970 |",
        "| `KeyPointLabels` | yes | no | 1.000 of the mask |  |",
    ]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_its_first_screen_says_what_it_is_and_shows_it_and_two_commands() -> None:
    before, _, rest = README.partition("## With your own")
    assert len(before.splitlines()) <= 45
    assert re.findall(r"^make ([a-z]+)", before, re.MULTILINE) == ["demo", "test"]
    assert before.count("](docs/images/walk/") == 4
    assert rest


def test_every_page_is_in_the_list_of_pages() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for page, target in LINKS if page == index}
    assert {page for page in (ROOT / "docs").rglob("*.md") if page != index} <= linked


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def flows() -> dict[str, list[str]]:
    """Heading of docs/architecture.md -> the lines of the flow below it."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.findall(r"^## (From .+?)\n\n```\n(.+?)```", text, re.DOTALL | re.MULTILINE)
    return {heading: lines.splitlines() for heading, lines in found}


@pytest.mark.parametrize(("heading", "lines"), flows().items())
def test_a_flow_is_short_and_names_files_that_are_there(heading: str, lines: list[str]) -> None:
    assert len(lines) <= 25, heading
    names = re.findall(r"(?:backend|plugin_config|worker)/[\w./]*\w|\w+\.py", "\n".join(lines))
    packages = ("backend", "plugin_config", "worker")
    modules = {path.name for package in packages for path in (ROOT / package).rglob("*.py")}
    assert [name for name in names if not ((ROOT / name).exists() or name in modules)] == []


def test_five_flows_are_told() -> None:
    assert len(flows()) == 5
