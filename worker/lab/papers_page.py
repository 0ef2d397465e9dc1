"""docs/results/papers.json as values and as the page docs/research/papers.md: what was measured here, what the papers
published, and what nobody here has measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from worker.lab.paper_figures import kind_of
from worker.lab.results import EMPTY, RESULTS_FOLDER, ROOT, as_json, read_json, write_file

RESULTS = RESULTS_FOLDER / "papers.json"
PAGE = ROOT / "docs" / "research" / "papers.md"
_TITLES = {"lseg": "LSeg", "sazs": "SAZS", "zegclip": "ZegCLIP", "pading": "PADing"}
_INTRO = """# The four papers: measured, published, not measured

<!-- Made of docs/results/papers.json by `python -m worker.lab.papers --page`; change that file, not this one. -->

Seen and unseen are class means of IoU under one argmax over all labels; hIoU is their harmonic mean; BF@2 is the
boundary F within 2 pixels. Rows of PADing have class means of PQ, SQ, RQ, IoU and, of things, AP50, and of each the
harmonic mean of seen and unseen labels. Published figures stand on other data and under other protocols: they are not
comparable with those measured here, nor always with each other. [How to measure](../guide/measuring.md).
"""


@dataclass(frozen=True)
class MeasuredRow:
    """A row that this project measures.

    Attributes:
        paper: lseg, sazs, zegclip or pading.
        row: what was measured, in words.
        split: words, pairs, things or photographs.
        command: that measures it.
        date: of the measurement; empty = not measured yet.
        seeds: seed of the training -> the figures of `paper_figures.kind_of` the paper; possibly more.
    """

    paper: str
    row: str
    split: str
    command: str
    date: str = ""
    seeds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells rows apart."""
        return self.paper, self.row, self.split

    def summary(self) -> dict[str, Any]:
        """See `worker.lab.paper_figures.FigureKind.means`."""
        figures = kind_of(self.paper).means(list(self.seeds.values()))
        return {"paper": self.paper, "row": self.row, "split": self.split, **figures}


@dataclass(frozen=True)
class PublishedRow:
    """A row that a paper or its README published, in percent.

    Attributes:
        paper, row: as `MeasuredRow` has them.
        dataset: with its protocol.
        source: where it stands.
        quirk: what is peculiar about the protocol.
        figures: by name: `seen`, `unseen`, `hiou`; or `mean`.
        folds: mIoU of folds 0 to 3, whose mean is the figure `mean`.
    """

    paper: str
    row: str
    dataset: str
    source: str
    quirk: str
    figures: Mapping[str, float]
    folds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Papers:
    """The file.

    Attributes:
        measured, published: rows.
        unmeasured: sentences about what is not measured, and why.
        notes: sentences about what the measured rows show.
    """

    measured: tuple[MeasuredRow, ...]
    published: tuple[PublishedRow, ...]
    unmeasured: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def with_rows(self, rows: Sequence[MeasuredRow]) -> Papers:
        """The same where these rows replace those of the same key; new ones come last."""
        new = {row.key: row for row in rows}
        kept = [new.pop(row.key, row) for row in self.measured]
        return replace(self, measured=(*kept, *new.values()))


def read_papers(path: Path = RESULTS) -> Papers:
    """Read the file.

    Raises:
        EnvironmentBroken: it is not there, or not what `write_papers` writes.
    """
    return read_json(path, _papers)


def _papers(found: Any) -> Papers:
    published = [{**row, "folds": tuple(row.get("folds", ()))} for row in found["published"]]
    return Papers(
        tuple(MeasuredRow(**row) for row in found["measured"]), tuple(PublishedRow(**row) for row in published),
        tuple(found["unmeasured"]), tuple(found["notes"]),
    )  # fmt: skip


def write_papers(papers: Papers, path: Path = RESULTS, page_path: Path = PAGE) -> None:
    """Write the file and the page.

    Raises:
        EnvironmentBroken: one of them cannot be written.
    """
    write_file(path, as_json(asdict(papers)))
    write_file(page_path, page(papers))


def page(papers: Papers) -> str:
    """The page in Markdown."""
    parts = [_INTRO, "## Measured here\n"]
    for paper, split in dict.fromkeys((row.paper, row.split) for row in papers.measured):
        rows = [row for row in papers.measured if (row.paper, row.split) == (paper, split)]
        parts.append(f"### {_TITLES[paper]}, {split}\n\n{_measured_table(rows)}\n{_curves(rows)}{_commands(rows)}")
    if papers.notes:
        parts.append("## What they show\n\n" + "\n".join(f"- {note}" for note in papers.notes) + "\n")
    parts.append("## Published\n")
    for paper in dict.fromkeys(row.paper for row in papers.published):
        rows_of = [row for row in papers.published if row.paper == paper]
        parts.append(f"### {_TITLES[paper]}, as published\n\n{_published_table(rows_of)}")
    parts.append("## Not measured\n\n" + "\n".join(f"- {sentence}" for sentence in papers.unmeasured) + "\n")
    return "\n".join(parts)


def _measured_table(rows: Sequence[MeasuredRow]) -> str:
    kind = kind_of(rows[0].paper)
    labels = ["labels"] if len(kind.lines) > 1 else []
    titles = ["row", *labels, *kind.columns, f"± {kind.judged_title}", "seeds", "date"]
    lines = [f"| {' | '.join(titles)} |", "|" + len(titles) * "---|"]
    for row in rows:
        found = row.summary()
        if not row.seeds:
            lines.append(f"| {row.row} | {EMPTY} |{(len(titles) - 2) * ' |'}")
            continue
        error = "" if found["stderr"] is None else f"{found['stderr']:.3f}"
        for title, figures in kind.printed(found):
            is_last = title == kind.lines[-1]
            cells = [row.row, *([title] if labels else []), *figures, error if is_last else ""]
            lines.append(f"| {' | '.join(cells)} | {len(row.seeds)} | {row.date} |")
    return "\n".join(lines) + "\n"


def _curves(rows: Sequence[MeasuredRow]) -> str:
    """Seen labels lowered, and the unseen alone, where they were measured: means over the seeds."""
    lines = []
    for row in rows:
        values = list(row.seeds.values())
        offsets = [point["offset"] for point in values[0].get("lowered", ())] if values else []
        for place, offset in enumerate(offsets):
            means = [mean(one["lowered"][place][name] for one in values) for name in ("seen", "unseen", "hiou")]
            figures = " | ".join(f"{value:.3f}" for value in means)
            lines.append(f"| {row.row} | seen labels lowered by {offset:g} | {figures} |")
        if values and all("unseen_alone" in one for one in values):
            alone = mean(one["unseen_alone"] for one in values)
            lines.append(f"| {row.row} | among the unseen alone | | {alone:.3f} | |")
    if not lines:
        return ""
    return "\n".join(["| row | | seen | unseen | hIoU |", "|---|---|---|---|---|", *lines]) + "\n\n"


def _commands(rows: Sequence[MeasuredRow]) -> str:
    return "```\n" + "\n".join(dict.fromkeys(row.command for row in rows)) + "\n```\n"


def _published_table(rows: Sequence[PublishedRow]) -> str:
    lines = ["| row | data | figures, % | source | to know |", "|---|---|---|---|---|"]
    for row in rows:
        figures = ", ".join(f"{name} {value:g}" for name, value in row.figures.items())
        if row.folds:
            figures = f"folds {' / '.join(f'{fold:g}' for fold in row.folds)}, {figures}"
        lines.append(f"| {row.row} | {row.dataset} | {figures} | {row.source} | {row.quirk} |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format summaries of rows for a person."""
    lines: list[str] = []
    header = ""
    for row in rows:
        kind = kind_of(row["paper"])
        titles = f"{'':<58}" + "".join(f"{title:>7}" for title in (*kind.columns, f"± {kind.judged_title}"))
        if titles != header:
            lines.append(titles)
            header = titles
        for title, figures in kind.printed(row):
            name = f"{row['split']}, {row['paper']}: {row['row']}{', ' if title else ''}{title}"
            error = row["stderr"] if title == kind.lines[-1] else None
            lines.append(f"{name:<58}" + "".join(f"{one:>7}" for one in (*figures, "" if error is None else
                                                                         f"{error:.3f}")))  # fmt: skip
    return "\n".join(lines) + "\n"
