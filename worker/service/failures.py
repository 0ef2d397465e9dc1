"""What becomes of a task after an error: one table from stage and error to treatment, read by every stage.

An error in no row is a fault of this program: it is raised on, and the pipeline fails that one task with `UNEXPECTED`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntEnum

from plugin_config.errors import (
    AnswerMalformed,
    AnswerTooLarge,
    ImageHostBusy,
    ImageHostTrouble,
    ImageUnavailable,
    LabelingConfigError,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    LearningError,
    ProjectGone,
    QueueDamaged,
    QueueUnavailable,
    RegionError,
    TaskDataError,
    VersionsUnavailable,
)
from plugin_config.queue.jobs import TaskRef
from plugin_config.queue.pending import MAX_ATTEMPTS
from worker.segmentation.memory import is_out_of_memory
from worker.service.context import WorkerContext

# Three tries take 20 s: an image server that is down for longer counts as an answer, too.
_IMAGE_ATTEMPTS = 3


class Stage(Enum):
    """Where an error is met."""

    ADMISSION = "admission"  # a project is read; the error concerns all tasks that were leased together
    FETCH = "fetch"
    EMBED = "embed"
    DRAW = "draw"
    POST = "post"
    RECONCILE = "reconcile"  # a project is reconciled; no task is leased


class Action(Enum):
    """What is done."""

    FAIL = "fail"  # trying again would not help
    RETRY = "retry"  # perhaps the task's fault: later again, a number of attempts in all
    GIVE_BACK = "give back"  # not the task's fault: pending again
    HOLD = "hold"  # the task stays leased, and the stage tries again by itself
    FORGET_PROJECT = "forget project"  # it was deleted, and all its tasks with it
    LEAVE = "leave"  # nothing, until the next periodic reconcile


class Sign(IntEnum):
    """What shows that a trouble is over; a higher one shows what the lower ones do, too."""

    ANSWER = 1  # Label Studio has answered about a project
    PLAN = 2  # so have all places that what a project wants is read from
    STORED = 3  # a prediction is stored


@dataclass(frozen=True)
class Treatment:
    """What becomes of a task.

    Attributes:
        action: see `Action`.
        attempts: of RETRY: how many in all.
        delay_s: of GIVE_BACK: the time until the task is due again, seconds.
        pause_s: how long the worker admits nothing afterwards, seconds.
        concerns_all: whether other tasks meet the same error; the worker's status shows it then.
        over: where it concerns all: the least sign that shows that the trouble is over.
        reason: of FAIL and RETRY: the text kept with the task; `{error}` and `{kind}` are filled in.
    """

    action: Action
    attempts: int = 0
    delay_s: float = 0.0
    pause_s: float = 0.0
    concerns_all: bool = False
    over: Sign = Sign.ANSWER
    reason: str = "{error}"


class OutOfMemory(Exception):
    """Stands in the table for every error that `is_out_of_memory` is true of. Never raised."""


@dataclass(frozen=True)
class Row:
    """One row of the table. `status`: the HTTP status it is limited to; None = any."""

    stage: Stage
    error: type[Exception]
    treatment: Treatment
    status: int | None = None


UNEXPECTED = Treatment(Action.FAIL, reason="unexpected {kind}: {error}; the worker's log tells where")
"""The treatment of an error that is in no row."""

WAIT_FOR_LABEL_STUDIO = Treatment(Action.HOLD, concerns_all=True)
"""The treatment of a post while Label Studio as a whole is in trouble."""

WAIT_FOR_STORAGE = replace(WAIT_FOR_LABEL_STUDIO, over=Sign.STORED)
"""The treatment of a post while Label Studio stores nothing, whatever it answers beside."""

_FAIL = Treatment(Action.FAIL)
_FORGET = Treatment(Action.FORGET_PROJECT)
_LEAVE = Treatment(Action.LEAVE)
_RETRY_500 = Treatment(Action.RETRY, attempts=MAX_ATTEMPTS)
_LATER = Treatment(Action.GIVE_BACK, delay_s=5.0, concerns_all=True)
_AWAY = Treatment(Action.GIVE_BACK, pause_s=2.0, concerns_all=True)  # the others meet the same: all keep their places
_REFUSED = Treatment(Action.GIVE_BACK, pause_s=5.0, concerns_all=True)
_NO_VERSIONS = replace(_AWAY, over=Sign.PLAN)
_TOKEN = Treatment(Action.GIVE_BACK, delay_s=30.0, concerns_all=True)
_MAY_NOT_STORE = replace(_TOKEN, over=Sign.STORED)  # it may read all the same


def _no_memory(reason: str) -> Treatment:
    """Other tasks may have taken the memory just now."""
    return Treatment(Action.RETRY, attempts=_IMAGE_ATTEMPTS, reason=reason)


TABLE: tuple[Row, ...] = (  # the first row that fits
    Row(Stage.ADMISSION, LabelingConfigError, _FAIL),
    Row(Stage.ADMISSION, LabelStudioUnreachable, _AWAY),
    Row(Stage.ADMISSION, LabelStudioFailing, _LATER, status=500),  # perhaps of this project alone
    Row(Stage.ADMISSION, LabelStudioFailing, _AWAY),
    Row(Stage.ADMISSION, ProjectGone, _FORGET),
    Row(Stage.ADMISSION, LabelStudioError, _REFUSED),
    Row(Stage.ADMISSION, VersionsUnavailable, _NO_VERSIONS),
    Row(Stage.FETCH, ImageHostBusy, Treatment(Action.RETRY, attempts=MAX_ATTEMPTS)),  # five tries take six minutes
    Row(Stage.FETCH, ImageHostTrouble, Treatment(Action.RETRY, attempts=_IMAGE_ATTEMPTS)),
    Row(Stage.FETCH, ImageUnavailable, _FAIL),
    Row(Stage.FETCH, TaskDataError, _FAIL),
    Row(Stage.FETCH, LabelStudioFailing, _RETRY_500, status=500),
    Row(Stage.FETCH, LabelStudioError, _LATER),
    Row(Stage.FETCH, OutOfMemory, _no_memory("its image, or a text of its labels, does not fit the memory")),
    Row(Stage.EMBED, OutOfMemory, _no_memory("its image does not fit the memory ({error})")),
    Row(Stage.EMBED, Exception, Treatment(Action.FAIL, reason="its image cannot be embedded ({error})")),
    Row(Stage.DRAW, LearningError, Treatment(Action.GIVE_BACK)),  # its adapter is refused: not used again here
    Row(Stage.DRAW, RegionError, _FAIL),
    Row(Stage.DRAW, OutOfMemory, _no_memory("its masks do not fit the memory ({error})")),
    Row(Stage.POST, QueueDamaged, Treatment(Action.GIVE_BACK)),  # waiting would not help; a sweep finds the task
    Row(Stage.POST, QueueUnavailable, Treatment(Action.HOLD)),  # another worker may have the task by now
    Row(Stage.POST, LabelStudioUnreachable, WAIT_FOR_LABEL_STUDIO),
    Row(Stage.POST, LabelStudioFailing, _RETRY_500, status=500),  # see `worker.service.posting.Outage`
    Row(Stage.POST, LabelStudioFailing, WAIT_FOR_LABEL_STUDIO),
    Row(Stage.POST, LabelStudioError, _TOKEN, status=401),
    Row(Stage.POST, LabelStudioError, _MAY_NOT_STORE, status=403),
    Row(Stage.POST, LabelStudioError, _FAIL),  # a task that was deleted is dropped instead
    Row(Stage.RECONCILE, ProjectGone, _FORGET),
    Row(Stage.RECONCILE, LabelStudioError, _LEAVE),
    Row(Stage.RECONCILE, LabelingConfigError, _LEAVE),
    Row(Stage.RECONCILE, VersionsUnavailable, _LEAVE),
)


def treatment_of(stage: Stage, error: Exception) -> Treatment | None:
    """The treatment of an error met at a stage; None = it is in no row."""
    return next((row.treatment for row in TABLE if row.stage is stage and _fits(row, error)), None)


def is_about_one_task(error: LabelStudioError) -> bool:
    """Whether Label Studio may refuse something of this one task, and not of all: the others are not to wait for it."""
    if isinstance(error, LabelStudioFailing):
        return error.status == 500
    return isinstance(error, (AnswerTooLarge, AnswerMalformed)) or error.status in (400, 404)


def treat(context: WorkerContext, treatment: Treatment, error: Exception, project: int, ref: TaskRef) -> None:
    """Settle a leased task as FAIL, RETRY and GIVE_BACK say; HOLD only shows its trouble."""
    if treatment.concerns_all:
        context.trouble_over, context.trouble = treatment.over, str(error)
    reason = treatment.reason.format(error=error, kind=type(error).__name__)
    if treatment.action is Action.FAIL:
        context.leases.fail(project, ref, reason)
    elif treatment.action is Action.RETRY:
        context.leases.retry(project, ref, reason, most=treatment.attempts)
    elif treatment.action is Action.GIVE_BACK:
        context.leases.give_back(project, ref, delay_s=treatment.delay_s)


def note_sign(context: WorkerContext, sign: Sign) -> None:
    """Take back the trouble that the worker's status shows, where this is a sign that it is over."""
    if sign >= context.trouble_over:
        context.trouble = ""


def _fits(row: Row, error: Exception) -> bool:
    if row.error is OutOfMemory:
        return is_out_of_memory(error)
    return isinstance(error, row.error) and row.status in (None, getattr(error, "status", None))
