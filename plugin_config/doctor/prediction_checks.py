"""Checks of a project's predictions: whose they are, which ones annotators see, and what waits or failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from plugin_config.doctor.findings import Finding, ok, warning, wrong
from plugin_config.doctor.installation import ExaminedProject
from plugin_config.errors import ZeromaskError
from plugin_config.label_studio.model_cards import given_title
from plugin_config.label_studio.version_counts import version_counts
from plugin_config.model_version import ModelVersion
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.states import TaskStates

_MOST_NAMED = 5


def check_predictions(examined: ExaminedProject) -> Iterator[Finding]:
    """The stored predictions are ours."""
    counts = version_counts(examined.installation.label_studio, examined.id)
    ours: set[str] = set()
    with suppress(ZeromaskError):  # Redis has a check of its own
        ours |= ProjectLedger(examined.installation.redis).versions(examined.id)
    foreign = {name: count for name, count in counts.items() if name not in ours and ModelVersion.parse(name) is None}
    without = "" in foreign  # Label Studio counts none of those whose version is null
    told = f"{sum(counts.values())} stored, versions: {len(counts)}"
    unnamed, named = foreign.pop("", 0), [f"{name!r} ({count})" for name, count in foreign.items()]
    parts = [f"{unnamed or 'some'} without a version"] * without
    parts += [f"of other models: {', '.join(named[:_MOST_NAMED])}"] * bool(named)
    if parts:
        yield warning(
            f"{told}; {'; '.join(parts)}: zeromask neither replaces nor deletes these",
            "Delete what nobody needs under Settings -> Predictions, or leave it.",
        )
    else:
        yield ok(told)


def check_shown_version(examined: ExaminedProject) -> Iterator[Finding]:
    """Annotators are shown predictions that exist."""
    shown, counts = examined.project.model_version, version_counts(examined.installation.label_studio, examined.id)
    titles = {given_title(model.title) for model in examined.models}  # a worker may have written behind one meanwhile
    settings = "Choose a version under Settings -> Annotation -> Live Predictions"
    if not examined.row.get("show_collab_predictions", True):
        yield warning(
            "predictions are hidden from annotators",
            "Switch on Settings -> Annotation -> Use predictions to prelabel tasks.",
        )
    elif not counts:
        yield ok("nothing is predicted yet; the first stored prediction sets it")
    elif not shown:
        yield wrong(
            "annotators are shown predictions of no version", f"{settings}, or run `zeromask connect {examined.id}`."
        )
    elif given_title(shown) in titles:
        yield ok(f"the present one of model {given_title(shown)!r}")
    elif not counts.get(shown):
        yield wrong(
            f"annotators are shown predictions of {shown!r}, of which there are none",
            f"{settings}, or run `zeromask connect {examined.id}`.",
        )
    else:
        yield ok(f"{shown}, {counts[shown]} predictions")


def check_tasks(examined: ExaminedProject) -> Iterator[Finding]:
    """The project's requests are worked off, and none failed."""
    states = TaskStates(examined.installation.redis)
    counts = states.counts(examined.id)
    told = f"{counts.done} done, {counts.pending + counts.leased} waiting or at work, {counts.failed} failed"
    if examined.id in states.paused_projects():
        yield warning(f"the project is paused; {told}", f"`zeromask resume {examined.id}` goes on.")
    elif counts.failed:
        reasons = list(dict.fromkeys(states.failures(examined.id).values()))
        yield warning(
            f"{told}; for example: {reasons[0] if reasons else '?'}",
            f"Mend the cause, then `zeromask retry {examined.id}`.",
        )
    else:
        yield ok(told)
