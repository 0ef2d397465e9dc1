"""The report as one HTML page: it asks for nothing from elsewhere, and follows a light or dark screen."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from worker.report.charts import Bar, Drawing, as_svg, bar_chart, line_chart, round_range
from worker.report.clicks import ClickMeasures
from worker.report.examples import ExamplePicture
from worker.report.measures import LeadTimeMeasures, Measures, RegionMeasures, Shown
from worker.report.statistics import Estimate
from worker.report.time_model import TimeModel, assumptions
from worker.segmentation.clicks.robot import GOAL, MOST_CLICKS

_MOST_BARS = 40
_MOST_ROWS = 200
_SHOWN: dict[Shown, str] = {"all": "all images", "labels": "images with labels", "none": "images without"}
_ARMS = {"prediction": "with a prediction", "control": "control arm, without", "nothing": "other tasks without"}

_STYLE = """
:root { --ink: #1b1f24; --muted: #5b6470; --grid: #d7dce2; --series: #1f6feb; --faint: #9ec3fb; --paper: #fff;
  --note: #fff8e1; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --muted: #9aa4af; --grid: #333b45; --series: #58a6ff;
  --faint: #1d4476; --paper: #12161b; --note: #2b2615; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1.5rem; }
.lead b { display: block; font-size: 1.7rem; } .lead span, .small { color: var(--muted); font-size: .9rem; }
ul.remarks { background: var(--note); padding: .8rem 2rem; border-radius: 6px; }
body { overflow-wrap: anywhere; } .scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
td, th { border-bottom: 1px solid var(--grid); padding: .3rem .4rem; text-align: right; vertical-align: top;
  background: var(--paper); overflow-wrap: normal; }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; } tr.sum td { font-weight: 600; }
td span { white-space: nowrap; }
td.name, th.name { text-align: left; min-width: 5rem; max-width: 20rem; } td.name { overflow-wrap: anywhere; }
td.name:nth-child(n + 3) { min-width: 9rem; } tr > .name:first-child { position: sticky; left: 0; }
svg { min-width: 30rem; max-width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif; }
.line { fill: none; } .line.grid { stroke: var(--grid); } .line.series { stroke: var(--series); }
text.ink { fill: var(--ink); } text.muted { fill: var(--muted); } rect.series { fill: var(--series); }
rect.faint { fill: var(--faint); } figure { margin: 1rem 0; } figure img { max-width: min(100%, 48rem); }
"""


@dataclass(frozen=True)
class Heading:
    """What the report is of.

    Attributes:
        project: its id; `title` as Label Studio has it.
        at: when the report was made, for people.
        control_share: the ZEROMASK_CONTROL_SHARE setting.
    """

    project: int
    title: str
    at: str
    control_share: float


def draw_charts(measures: Measures) -> dict[str, Drawing]:
    """The charts that there is something for, by the name of their files."""
    charts: dict[str, Drawing] = {}
    labels = [row for row in measures.regions if row.label and not row.version and row.accepted_share.n]
    if labels:
        chosen = sorted(labels, key=lambda row: -row.accepted_share.n)[:_MOST_BARS]
        chosen.sort(key=lambda row: (row.accepted_share.value or 0.0, row.label))
        charts["accepted_by_label"] = bar_chart([_bar(row.label, row) for row in chosen],
                                                title="Predicted regions accepted as they were, by label")  # fmt: skip
    versions = [row for row in measures.regions if row.version and not row.label and row.accepted_share.n]
    if len(versions) > 1:
        bars = [_bar(row.version, row) for row in versions[:_MOST_BARS]]
        charts["accepted_by_version"] = bar_chart(bars, title="Predicted regions accepted as they were, by version")
    x_label = "annotations made from a prediction"
    shares = [(float(row.annotations), row.accepted_share) for row in measures.curve]
    known = [(x, share) for x, share in shares if share is not None]
    if known:
        charts["accepted_over_time"] = line_chart(known, title="Accepted as they were, of the last 20 annotations",
                                                  x_label=x_label, y_range=(0.0, 1.0), percent=True)  # fmt: skip
    saved = [(float(row.annotations), row.saved_minutes) for row in measures.curve]
    if saved:
        y_range = round_range(min(0.0, *(y for _, y in saved)), max(1.0, *(y for _, y in saved)))
        charts["saved_over_time"] = line_chart([(0.0, 0.0), *saved], title="Minutes saved so far, by the time model",
                                               x_label=x_label, y_range=y_range)  # fmt: skip
    return charts


def render_page(
    heading: Heading, measures: Measures, model: TimeModel, charts: Mapping[str, Drawing],
    examples: Sequence[ExamplePicture], left_out: Sequence[str] = (), clicks: ClickMeasures | None = None,
) -> str:  # fmt: skip
    """The page. Titles, labels and reasons are escaped.

    Args:
        heading: what it is of.
        measures: what it tells.
        model: that the minutes are of.
        charts: as `draw_charts` makes them.
        examples: pictures.
        left_out: why others are left out, a sentence each.
        clicks: of the simulated annotator; None = not measured.
    """
    title = f"Zeromask: {heading.title} (project {heading.project})"
    parts = [
        f"<h1>{_text(title)}</h1><p class=small>{_text(heading.at)}. Intervals are 95 %.</p>",
        _lead(measures),
        _remarks(measures.remarks),
        "<h2>Regions</h2>" + _figures(charts, ("accepted_by_label", "accepted_by_version", "accepted_over_time")),
        _regions(measures.regions),
        _images(measures.regions),
        "<h2>Time</h2>" + _times(heading, measures),
        "<h2>Minutes saved, by assumption</h2>" + _figures(charts, ("saved_over_time",)) + _model(measures, model),
        _seeded(measures),
        _clicks(clicks),
        "<h2>Annotators</h2>" + _annotators(measures),
        _examples(examples, left_out),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _remarks(remarks: Sequence[str]) -> str:
    return f"<ul class=remarks>{''.join(f'<li>{_text(row)}</li>' for row in remarks)}</ul>" if remarks else ""


def _lead(measures: Measures) -> str:
    everything = next((row for row in measures.regions if not row.label and not row.version), None)
    share = "?" if everything is None else percent(everything.accepted_share)
    boxes = [
        (str(measures.tasks), f"tasks with {measures.annotations} annotations and {measures.skips} skips"),
        (str(measures.from_prediction), "annotations made from a prediction"),
        (share, "of the predicted regions accepted as they were"),
        (f"{measures.saved_minutes:.1f} min", "saved, by the time model below"),
    ]
    shown = "".join(f"<div><b>{_text(figure)}</b><span>{_text(meaning)}</span></div>" for figure, meaning in boxes)
    return f"<div class=lead>{shown}</div>"


def _regions(rows: Sequence[RegionMeasures]) -> str:
    if not rows:
        return "<p>No annotation was made from a prediction.</p>"
    shown, more = _listed_regions(rows)
    head = ("label", "version", "accepted as is", "accepted", "changed", "deleted", "added", "edit IoU (median)",
            "minutes saved")  # fmt: skip
    body = [
        (*_names(row), percent(row.accepted_share), row.accepted, row.changed, row.deleted, row.added,
         number(row.edit_iou, ".2f"), f"{row.saved_minutes:.1f}")
        for row in shown
    ]  # fmt: skip
    note = (
        "<p class=small>Accepted as is: of the predicted regions, none where nothing was predicted; regions of one "
        "image count for less where they are alike. Edit IoU: of a changed region before and after; n: of so few that "
        "there is no interval. A version that finds more may have a lower share: look at what was added, too. An "
        "annotator who trusts too much accepts too much: the share alone shows no quality. See the control arm.</p>"
    )
    return _table("Regions", head, body, names=2, sums=_sums(shown)) + more + note


def _images(rows: Sequence[RegionMeasures]) -> str:
    if not rows:
        return ""
    shown, more = _listed_regions(rows)
    head = ("label", "version", "images", "showing it", "left empty", "false alarms")
    body = [(*_names(row), row.images, row.present, row.left_empty, row.false_alarms) for row in shown]
    note = (
        "<p class=small>Images: shown with a prediction. Showing it: the annotation has a region of the label, of any "
        "one in the row of all labels. The others are left empty where none was predicted either: right, and no saved "
        "drawing. Else they are false alarms.</p>"
    )
    return "<h2>Images</h2>" + _table("Images", head, body, names=2, sums=_sums(shown)) + more + note


def _listed_regions(rows: Sequence[RegionMeasures]) -> tuple[list[RegionMeasures], str]:
    """The rows of a table, label by label, and what is told of others. Of one version, those of all are the same."""
    several = len({row.version for row in rows if row.version}) > 1
    listed = [row for row in rows if several or row.version]
    shown = sorted(listed[:_MOST_ROWS], key=lambda row: (bool(row.label), row.label))
    left_out = len(listed) - len(shown)
    return shown, f"<p class=small>{left_out} more rows are in labels.csv.</p>" if left_out else ""


def _names(row: RegionMeasures) -> tuple[str, str]:
    return row.label or "all labels", row.version or "all versions"


def _sums(rows: Sequence[RegionMeasures]) -> set[int]:
    return {place for place, row in enumerate(rows) if not row.version}


def _listed_times(rows: Sequence[LeadTimeMeasures]) -> list[LeadTimeMeasures]:
    """The rows without those that say the same as another: of all versions where there is one, and of images with
    labels where all images have some. Only what was made from a prediction has a version.
    """
    several = len({row.version for row in rows if row.version}) > 1
    empty = {(row.arm, row.version) for row in rows if row.shown == "none"}
    return [
        row
        for row in rows
        if (several or bool(row.version) == (row.arm == "prediction"))
        and (row.arm == "prediction" or not row.version)
        and (row.shown == "all" or (row.arm, row.version) in empty)
    ]


def _times(heading: Heading, measures: Measures) -> str:
    body = [
        (_ARMS[row.arm], row.version or ("all versions" if row.arm == "prediction" else "none"), _SHOWN[row.shown],
         number(row.median_s, ".1f"), row.median_s.n)
        for row in _listed_times(measures.lead_times)
    ]  # fmt: skip
    head = ("tasks", "version", "images", "median seconds", "n")
    shown = _table("Time", head, body, names=3) if body else "<p>No time is known.</p>"
    if not heading.control_share:
        return shown + (
            "<p>There is no control arm: whether predictions save time is not measured. Set ZEROMASK_CONTROL_SHARE, "
            "such as 0.1, to show that share of the tasks without a prediction. The other tasks without one are no "
            "control: they may be the first ones, or those that failed.</p>"
        )
    if not measures.difference_s:
        return shown + f"<p>The control arm, {heading.control_share:.0%} of the tasks, has no time to compare yet.</p>"
    rows = [
        (_SHOWN[kind], number(found, "+.1f"), found.n)
        for kind, found in measures.difference_s.items()
        if kind == "all" or found != measures.difference_s.get("all")  # where all images have labels
    ]
    return (
        shown
        + _table("Time saved", ("images", "seconds saved per task, measured", "n"), rows, names=1)
        + "<p class=small>Median of the control arm less the median with a prediction. In both, smart tools may have "
        "been clicked with. The time an open page lies untouched is in both, too.</p>"
    )


def _model(measures: Measures, model: TimeModel) -> str:
    rows = [(row.name, f"{row.value:g}", row.meaning, row.source) for row in assumptions(model)]
    saved = number(measures.saved_s, ".1f")
    table = _table("Time model", ("name", "number", "for what", "source"), rows, names=4)
    return (
        f"<p>{measures.saved_minutes:.1f} minutes in all, {_text(saved)} seconds per annotation made from a prediction."
        " This is what the outcomes above would have saved with these times per region, and no measurement. "
        f"<code>--seconds outline=40</code> changes one.</p>{table}"
    )


def _seeded(measures: Measures) -> str:
    seeded = measures.seeded
    if not measures.caught.n:
        return (
            "<h2>Seeded wrong regions</h2><p>None were shown. <code>zeromask seed-wrong</code> puts some into "
            "predictions, to see how many are caught.</p>"
        )
    row = (percent(measures.caught), seeded.deleted, seeded.changed, seeded.left)
    head = ("caught", "deleted", "changed", "left as they were")
    return "<h2>Seeded wrong regions</h2>" + _table("Seeded wrong regions", head, [row], names=0)


def _clicks(clicks: ClickMeasures | None) -> str:
    if clicks is None:
        return ""
    found = (("the prediction", clicks.from_prediction), ("nothing", clicks.from_nothing))
    rows = [(name, number(row, ".1f"), row.n) for name, row in found]
    missed = f" ({clicks.unreached} of the regions not reached from nothing)" if clicks.unreached else ""
    return (
        f"<h2>Clicks to an IoU of {GOAL:g}</h2>"
        + _table("Clicks", ("beginning with", "mean clicks", "regions"), rows, names=1)
        + f"<p class=small>A simulated annotator clicks on the middle of the largest error until the mask is what was "
        f"submitted, {MOST_CLICKS} times at most{missed}. Version "
        f"{_text(clicks.version)} answers, in images that annotators got its prediction of. A region that was accepted "
        "is one that the model had drawn: from nothing, too, it may be reached sooner than one drawn by hand.</p>"
        + (f"<p>{_text(clicks.remark)}</p>" if clicks.remark else "")
    )


def _annotators(measures: Measures) -> str:
    rows = [
        ("not known" if row.annotator is None else row.annotator, row.annotations, row.skipped,
         percent(row.accepted_share), number(row.median_s, ".1f"))
        for row in measures.annotators
    ]  # fmt: skip
    if not rows:
        return "<p>Nobody has annotated yet.</p>"
    head = ("annotator (id)", "annotations", "skipped", "accepted as is", "median seconds")
    return _table("Annotators", head, rows, names=1)


def _examples(examples: Sequence[ExamplePicture], left_out: Sequence[str]) -> str:
    if not examples and not left_out:
        return ""
    figures = "".join(
        f'<figure><img alt="{_text(row.title)}" src="data:image/png;base64,{base64.b64encode(row.png).decode()}">'
        f"<figcaption class=small>{_text(row.title)}</figcaption></figure>"
        for row in examples
    )
    reasons = "".join(f"<p class=small>{_text(row)}</p>" for row in left_out)
    return f"<h2>Most corrected</h2>{figures}{reasons}"


def _figures(charts: Mapping[str, Drawing], names: Iterable[str]) -> str:
    return "".join(
        f"<figure><figcaption>{_text(charts[name].title)}</figcaption>"
        f"{_scrolling(charts[name].title, as_svg(charts[name]))}</figure>"
        for name in names
        if name in charts
    )


def _table(
    title: str, head: Sequence[str], body: Iterable[Sequence[object]], *, names: int, sums: Collection[int] = ()
) -> str:
    """A table whose first columns are `names`, to the left; rows `sums`, from 0, are of all that the next ones tell."""

    def cells(row: Sequence[object]) -> str:
        return "".join(
            f"<td class=name>{_text(cell)}</td>" if place < names else f"<td>{_figure(cell)}</td>"
            for place, cell in enumerate(row)
        )

    rows = "".join(f"<tr{' class=sum' if place in sums else ''}>{cells(row)}</tr>" for place, row in enumerate(body))
    headings = "".join(f"<th{' class=name' if place < names else ''}>{_text(cell)}</th>"
                       for place, cell in enumerate(head))  # fmt: skip
    return _scrolling(title, f"<table><tr>{headings}</tr>{rows}</table>")


def _scrolling(title: str, content: str) -> str:
    """A box that scrolls by itself, with the keyboard too, where its content is wider than the page."""
    return f'<div class=scroll tabindex=0 role=region aria-label="{_text(title)}">{content}</div>'


def _figure(cell: object) -> str:
    """A figure and its interval, which may stand below it."""
    figure, bracket, rest = _text(cell).partition(" (")
    return f"<span>{figure}</span> <span>({rest}</span>" if bracket else f"<span>{figure}</span>"


def percent(share: Estimate) -> str:
    """A share with its interval for people, "80 % (61-91)"."""
    if share.value is None:
        return "none"
    if share.low is None or share.high is None:
        return f"{100 * share.value:.0f} %"
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f}-{100 * share.high:.0f})"


def number(found: Estimate, form: str) -> str:
    """A figure with its interval for people, or with how few values it is of; `form` as `format` takes it."""
    if found.value is None:
        return "none"
    if found.low is None or found.high is None:
        return f"{found.value:{form}} (n {found.n})"
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _bar(name: str, row: RegionMeasures) -> Bar:
    return Bar(name, f"{row.accepted} of {row.accepted_share.n}", row.accepted_share)


def _text(value: object) -> str:
    return html.escape(str(value))
