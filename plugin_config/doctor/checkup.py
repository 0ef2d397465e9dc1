"""The checks in the order in which one needs the other, and running them: each within its time, none hiding another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from plugin_config.doctor import machine_checks as machine
from plugin_config.doctor import prediction_checks as prediction
from plugin_config.doctor import project_checks as project
from plugin_config.doctor import queue_checks as queue
from plugin_config.doctor import sample_checks as sample
from plugin_config.doctor.findings import Finding, ok, waits, warning, wrong, wrong_by
from plugin_config.doctor.installation import ExaminedProject, Installation
from plugin_config.errors import LabelStudioError, ZeromaskError
from plugin_config.label_studio.connecting import models
from plugin_config.label_studio.webhooks import leads_here
from plugin_config.queue.states import TaskStates

Subject = TypeVar("Subject")
WITHIN_S = 12.0
"""Longest time of a check, seconds, where it has none of its own: a network that is away is told before 15 s."""
_MOST_PROJECTS = 100
_LOOKING_S = 8.0


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One thing that is examined.

    Attributes:
        name: as people see it.
        run: makes the findings, one or more.
        needs: names of the checks without which it cannot be made.
        within_s: its longest time, seconds.
    """

    name: str
    run: Callable[[Subject], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    within_s: float = WITHIN_S


INSTALLATION_CHECKS: tuple[Check[Installation], ...] = (
    Check("settings", machine.check_settings),
    Check("versions", machine.check_versions),
    Check("state folder", machine.check_state_folder, ("settings",)),
    Check("label studio", machine.check_label_studio, ("settings",)),
    Check("token", machine.check_token, ("label studio",)),
    Check("redis", queue.check_redis, ("settings",)),
    Check("redis memory", queue.check_redis_memory, ("redis",)),
    Check("redis persistence", queue.check_redis_persistence, ("redis",)),
    Check("backend", queue.check_backend, ("settings",)),
    Check("workers", queue.check_workers, ("redis",)),
    Check("learner", queue.check_learner, ("redis",)),
    Check("clock", machine.check_clock, ("settings",)),
)
"""Made once."""

PROJECT_CHECKS: tuple[Check[ExaminedProject], ...] = (
    Check("project", project.check_project, ("token",)),
    Check("rights", project.check_rights, ("project",)),
    Check("labels", project.check_labels, ("project",)),
    Check("private addresses", project.check_private_addresses, ("project", "rights")),
    Check("model", project.check_model, ("project",)),
    Check("same model", project.check_same_model, ("model", "workers")),
    Check("webhook", project.check_webhook, ("project",)),
    Check("interactive", project.check_interactive, ("labels",)),
    Check("image", sample.check_image, ("project", "labels"), sample.IMAGE_S + sample.SPARE_S),
    Check("words", sample.check_words, ("image",), sample.MODEL_S + sample.MASK_S + sample.SPARE_S),
    Check("mask", sample.check_mask, ("words",), sample.MASK_S + sample.SPARE_S),
    Check("predictions", prediction.check_predictions, ("project",)),
    Check("shown version", prediction.check_shown_version, ("project",)),
    Check("tasks", prediction.check_tasks, ("project", "redis")),
)
"""Made for each project."""

_DRAWING = ("words", "mask")


def examine(installation: Installation, show: Callable[[str], object] = lambda _: None) -> Iterator[Finding]:
    """Make every check.

    Args:
        installation: to examine.
        show: called with the name of a check before it is made.

    Yields:
        one or more findings of each check, as soon as they are there.
    """
    broken: set[str] = set()
    for check in INSTALLATION_CHECKS:
        show(check.name)
        yield from _noted(broken, check.name, _made(check, installation, broken))
    if not installation.projects and "token" not in broken:
        show("projects")
        yield from _noted(broken, "projects", _bounded(lambda: _connected(installation), WITHIN_S))
    elif not installation.projects:
        yield replace(waits(("token",)), check="projects")
    for number in installation.projects:
        yield from (replace(row, project=number) for row in _of_project(installation, number, set(broken), show))


def _of_project(
    installation: Installation, number: int, broken: set[str], show: Callable[[str], object]
) -> Iterator[Finding]:
    """The findings of a project's checks. `broken`: names of checks that others wait for; it is added to."""
    examined: ExaminedProject | None = None
    for check in PROJECT_CHECKS:
        if check.name in _DRAWING and not installation.draw:
            continue
        show(f"project {number}: {check.name}")
        if "token" in broken:
            found = [waits(_missing(check.needs, broken))]
        else:
            examined = examined or ExaminedProject(installation, number)
            found = _made(check, examined, broken)
        yield from _noted(broken, check.name, found)


def _made(check: Check[Subject], subject: Subject, broken: set[str]) -> list[Finding]:
    """The findings of a check, or that it waits for others."""
    if missing := _missing(check.needs, broken):
        return [waits(missing)]
    return _bounded(lambda: check.run(subject), check.within_s)


def _missing(needs: Sequence[str], broken: set[str]) -> tuple[str, ...]:
    return tuple(name for name in needs if name in broken)


def _noted(broken: set[str], name: str, found: Sequence[Finding]) -> Iterator[Finding]:
    """The findings under the name of their check, which is noted where others must wait for it."""
    if any(row.state in ("wrong", "waits") for row in found):
        broken.add(name)
    return (replace(row, check=name) for row in found)


def _bounded(run: Callable[[], Iterable[Finding]], within_s: float) -> list[Finding]:
    """Run a check in a thread, which is left behind where it does not end in time: a name that is looked up, or a
    server that answers byte by byte, has no time limit of its own.
    """
    found: list[Finding] = []

    def work() -> None:
        try:
            found.extend(run())
        except ZeromaskError as error:
            found.append(wrong_by(error))
        except Exception as error:  # noqa: BLE001 - of any library: what broke must not read as in order
            found.append(
                wrong(
                    f"could not be made ({type(error).__name__}: {str(error)[:200]})",
                    "Report this with the output of `zeromask doctor --json`.",
                )
            )

    thread = threading.Thread(target=work, name="check", daemon=True)
    thread.start()
    thread.join(within_s)
    if thread.is_alive():
        return [
            wrong(f"did not end within {within_s:.0f} s", "Look at the network between this machine and the others.")
        ]
    return found


def _connected(installation: Installation) -> Iterator[Finding]:
    """Find the projects that are connected to this backend: first those that asked for something before, then the
    newest. Label Studio asks every model of a project meanwhile, and a dead one takes it seconds.
    """
    api, settings, until = installation.label_studio, installation.settings, time.monotonic() + _LOOKING_S
    answer = api.request("GET", "/api/projects/", params={"page_size": _MOST_PROJECTS})
    present = sorted((int(row["id"]) for row in answer["results"]), reverse=True)
    known: set[int] = set()
    with suppress(ZeromaskError):  # Redis has a check of its own
        known.update(TaskStates(installation.redis).projects())
    ours, looked = [], 0
    for number in sorted(present, key=lambda number: number not in known):
        if time.monotonic() > until:
            break
        looked += 1
        try:
            if any(leads_here(model.url, settings) for model in models(api, number)):
                ours.append(number)
        except LabelStudioError as error:
            if error.status not in (403, 404):  # of somebody else, or deleted just now
                raise
    installation.projects = tuple(sorted(ours))
    left = int(answer["count"]) - looked
    more = f"; {left} projects were not looked at: name one" if left > 0 else ""
    if ours:
        yield ok(f"connected: {', '.join(map(str, installation.projects))}{more}")
    else:
        yield warning(
            f"none of {looked} projects is connected to this backend{more}",
            "Run `zeromask connect PROJECT`, or name a project here.",
        )
