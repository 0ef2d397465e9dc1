"""The versions of a project with the gate's reports, and what annotators did with the regions of each.

Figures come from files and from Redis, where anybody may have written: one that is no number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from backend.status.curve import draw_curve
from backend.status.page import Box, Part, Row, button, plain, table, text
from backend.status.reading import ProjectView
from backend.status.wording import moment, percent, version_name
from plugin_config.errors import LearningError
from plugin_config.model_version import ZEROSHOT, ModelVersion, adapter_number
from plugin_config.versions.manifests import Manifest, Pointer, VerdictRecord

_MOST_LABELS = 25  # of a report: those that changed most
_MOST_ROWS = 60
_OUTCOMES = ("accepted", "changed", "deleted", "added")


def verdict_box(found: ProjectView) -> Box:
    """How far the learning is, and the last verdict with its reason, until there is a newer one."""
    parts = [Part(f"verdict-{number}", "p", inner) for number, inner in enumerate(_verdicts(found))]
    return plain("verdict", "Learning", parts)


def curve_box(found: ProjectView) -> Box:
    """How good each version was when it was judged."""
    points = []
    for row in found.versions.rows:
        figures = _mean_iou(row.verdict) if isinstance(row, Manifest) else {}
        if isinstance(row, Manifest) and (after := _share(figures.get("candidate"))) is not None:
            points.append((row.name, after, _share(figures.get("served"))))
    if not points:
        inner = "<p>There is no version yet whose report has figures.</p>"
        return plain("curve", "Quality over versions", [Part("curve-none", "div", inner)])
    said = ", ".join(f"{name} {after:.3f}" for name, after, _ in points)
    picture = draw_curve(points, said=f"Mean IoU by version: {said}")
    caption = (
        '<figcaption><span class="key after"></span> mean IoU of a version on corrections it had not learned from; '
        '<span class="key before"></span> of what was served before it, on the same images. Each version is judged on '
        "the images there were then.</figcaption>"
    )
    return plain("curve", "Quality over versions", [Part("curve-drawn", "div", f"<figure>{picture}{caption}</figure>")])


def versions_box(found: ProjectView) -> Box:
    """Every version with its verdict and the button that serves it."""
    pointer = found.versions.pointer
    rows = []
    if pointer is not None:
        rows.append(Row("v-zeroshot", ("zero-shot", "", "", "", "the model as it came", _serve(pointer, ZEROSHOT))))
        rows += [_version(row, pointer) for row in found.versions.rows]
    return table("versions", "Versions", ("Version", "Made", "Learned from", "On top of", "~Verdict of the gate",
                                          "Serve"),
                 rows, empty=found.versions.trouble or "No worker has served this project yet.")  # fmt: skip


def judged_box(found: ProjectView) -> Box:
    """What annotators did with the predicted regions, by version and label; the label with the lowest share first."""
    counted = _by_adapter(found)
    several = len({model for model, _, _ in counted}) > 1
    rows = sorted(counted, key=lambda row: (-adapter_number(row[1]), row[:2], _accepted_share(counted[row]), row[2]))
    made = []
    for number, row in enumerate(rows[:_MOST_ROWS]):
        model, adapter, label = row
        accepted, changed, deleted, added = (counted[row].get(key, 0) for key in _OUTCOMES)
        shown, version = accepted + changed + deleted, version_name(adapter)
        made.append(Row(f"j{number}", (
            text(label, most=60), text(f"{version}, {model}" if several and model else version, most=80),
            percent(accepted, shown), percent(changed, shown), percent(deleted, shown), f"{added:,}",
        )))  # fmt: skip
    more = f"<p>{len(rows) - _MOST_ROWS} more are in <code>zeromask versions</code>.</p>" \
        if len(rows) > _MOST_ROWS else ""  # fmt: skip
    note = (
        "<p>Of the predicted regions in the annotations last learned from: left as they are, redrawn or given another "
        f"label (edited), deleted; and how many annotators added.</p>{more}"
    )
    return table("judged", "What annotators did", ("Label", "Version", "#Accepted as is", "#Edited", "#Deleted",
                                                   "#Added"),
                 made, note=note, empty="Nothing is known yet: corrections are read after the first few "
                 "annotations.")  # fmt: skip


def _by_adapter(found: ProjectView) -> dict[tuple[str, str, str], Mapping[str, int]]:
    """(model, name of a version, label key) -> its counts; versions of predictions also name the labels there were."""
    counted: dict[tuple[str, str, str], Mapping[str, int]] = {}
    for version, labels in found.judged.items():
        parsed = ModelVersion.parse(version)
        for label, counts in labels.items():
            key = (parsed.model, parsed.adapter, label) if parsed else ("", version, label)
            before = counted.get(key, {})
            counted[key] = {name: before.get(name, 0) + counts.get(name, 0) for name in _OUTCOMES}
    return counted


def _accepted_share(counts: Mapping[str, int]) -> float:
    shown = counts["accepted"] + counts["changed"] + counts["deleted"]
    return counts["accepted"] / shown if shown else 1.0


def _verdicts(found: ProjectView) -> list[str]:
    state, pointer = found.state.learning, found.versions.pointer
    told = [f"<strong>{text(row.progress.state)}</strong>: {text(row.progress.detail, most=600)}" for row in state[:1]]
    told += [f'<span class="trouble">Served zero-shot instead of what should be. {text(row.trouble, most=600)}</span>'
             for row in state if row.trouble]  # fmt: skip
    told += [f"Last verdict, {text(moment(row.verdict.at))}, on {text(row.verdict.source)}: "
             f"{text(row.verdict.reason, most=800)}" for row in state if row.verdict is not None]  # fmt: skip
    if pointer is not None:
        told += _earlier(pointer, {row.verdict.reason for row in state if row.verdict is not None})
        if pointer.moved_by:
            told.append(f"Served since {text(moment(pointer.moved_at))}, as the {text(pointer.moved_by)} decided.")
    return told or ["Nothing has been learned yet."]


def _earlier(pointer: Pointer, known: set[str]) -> list[str]:
    """Verdicts that are on disk and not among those that are told already."""
    rows = [(row.source, row.at, row.verdict.reason) for row in pointer.contenders.values()]
    if pointer.attempt is not None:
        attempt, left = pointer.attempt, len(pointer.attempt.missing) + len(pointer.attempt.left_out)
        out = f", {left} left out" if left else ""
        rows.insert(0, (f"{attempt.tasks:,} annotated tasks{out}", attempt.at, attempt.verdict.reason))
    return [f"Verdict, {text(moment(at))}, on {text(source)}: {text(reason, most=800)}"
            for source, at, reason in rows if reason and reason not in known]  # fmt: skip


def _version(row: Manifest | LearningError, pointer: Pointer) -> Row:
    if not isinstance(row, Manifest):
        name = row.subject.removeprefix("version ")
        return Row(f"v-{_safe(name)}", (text(name, most=40), "", "", "",
                                        f'<span class="trouble">{text(row, most=600)}</span>', ""))  # fmt: skip
    source = row.verdict.figures.get("source", "")
    learned = ", ".join(filter(None, (str(source), f"{len(row.learned_from)} images" if row.learned_from else "")))
    return Row(f"v-{_safe(row.name)}", (
        text(row.name), text(moment(row.at)), text(learned, most=80), text(version_name(row.base), most=40),
        text(row.verdict.reason, most=500) + _report(row), _serve(pointer, row.name),
    ))  # fmt: skip


def _serve(pointer: Pointer, name: str) -> str:
    if pointer.served == name:
        return "<strong>served</strong>"
    newer = adapter_number(name) > adapter_number(pointer.served)
    shown = "Promote" if newer else "Roll back"
    described = f"{shown} to {version_name(name)}: serve it from now on"
    return button(f"serve-{_safe(name)}", f"serve:{name}", shown, described=described)


def _report(row: Manifest) -> str:
    """The gate's figures: judged on what, and each label before and after."""
    figures = row.verdict.figures
    labels = _labels(figures.get("labels"))
    if not labels:
        return ""
    judged = figures.get("judged_on")
    counts = judged.items() if isinstance(judged, Mapping) else ()
    images = ", ".join(f"{value} {str(key).replace('_', '-')}" for key, value in counts if type(value) is int and value)
    rows = "".join(
        f'<tr><th scope="row">{text(name, most=60)}</th><td class="number">{before:.3f}</td>'
        f'<td class="number">{after:.3f}</td><td class="number {_verdict_class(after - before)}">'
        f"{_verdict(after - before)}</td></tr>"
        for name, before, after in labels[:_MOST_LABELS]
    )
    more = f"<p>{len(labels) - _MOST_LABELS} labels that changed less are not shown.</p>" \
        if len(labels) > _MOST_LABELS else ""  # fmt: skip
    key = _safe(row.name)
    return (
        f'<details id="report-{key}"><summary id="summary-{key}">Report by label</summary>'
        f"<p>Judged on images: {text(images or 'not noted')}.</p><table><thead><tr>"
        '<th scope="col">Label</th><th scope="col" class="number">IoU before</th>'
        '<th scope="col" class="number">IoU after</th><th scope="col" class="number">Verdict</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{more}</details>"
    )


def _verdict(gain: float) -> str:
    if abs(gain) < 0.0005:
        return "the same"
    return f"better by {gain:.3f}" if gain > 0 else f"worse by {-gain:.3f}"


def _verdict_class(gain: float) -> str:
    return "good" if gain >= 0.0005 else "trouble" if gain <= -0.0005 else ""


def _labels(found: Any) -> list[tuple[str, float, float]]:
    """Name, IoU before and after of each label; the one that changed most first."""
    rows = found.items() if isinstance(found, Mapping) else ()
    labels = [
        (str(name), before, after)
        for name, row in rows
        if isinstance(row, Mapping)
        and (before := _share(row.get("served"))) is not None
        and (after := _share(row.get("candidate"))) is not None
    ]
    return sorted(labels, key=lambda row: -abs(row[2] - row[1]))


def _mean_iou(verdict: VerdictRecord) -> Mapping[str, Any]:
    found = verdict.figures.get("mean_iou")
    return found if isinstance(found, Mapping) else {}


def _share(value: Any) -> float | None:
    """A number in [0, 1]; None for anything else."""
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:
        return None
    return float(value)


def _safe(name: str) -> str:
    return "".join(char for char in name if char.isascii() and (char.isalnum() or char == "-"))[:40]
