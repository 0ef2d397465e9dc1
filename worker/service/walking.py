"""Reads all tasks of a project, of any size, in parts: a job reads one part, and the next job goes on.

Between two parts there is a pause, in which jobs that predict run: a worker runs one job at a time, in turns. Whoever
looks at the project while another reads, does the rest of the look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum

from plugin_config.label_studio.client import Task
from plugin_config.queue.walks import Held, Walk
from worker.service.context import WorkerContext

log = logging.getLogger(__name__)

WALK_S = 15.0
"""Seconds after which a part ends: an annotator's task waits behind it where there is one worker."""

PAUSE_S = 5.0
"""Seconds between two parts, and up to one heartbeat more."""

_PART = 500  # tasks between two notes of how far the walk is: one page of Label Studio


class Progress(Enum):
    """How far a reading of all tasks is."""

    DONE = "all are read, and what follows from it is done"
    LATER = "the next part is to be read after PAUSE_S"
    ELSEWHERE = "another process reads, and sees to the next part"


def progress_of(held: Held) -> Progress:
    """What to do about a walk that does not go on now. A look that begins in the pause stands for the one that was
    noted for its end.
    """
    return Progress.LATER if held is Held.PAUSED else Progress.ELSEWHERE


def read_part(
    context: WorkerContext, project: int, walk: Walk, *, visit: Callable[[Task], None], note: Callable[[int], bool]
) -> bool:
    """Read tasks from where a walk is.

    Args:
        context: of this process.
        project: its id.
        walk: what is read.
        visit: called with each task.
        note: called after each page with the id of its last task; it keeps what was found, and tells whether the walk
            is to go on here.

    Returns:
        whether all are read; if not, the time is over, this process is to end, or `note` said no.

    Raises:
        LabelStudioError: Label Studio cannot answer, or refuses; what was noted until then stays read.
    """
    until, worked = time.monotonic() + WALK_S, 0.0
    last, read = walk.after, 0
    for task in context.label_studio.all_tasks(project, after=walk.after):
        started = time.monotonic()
        visit(task)
        last, read, now = task.id, read + 1, time.monotonic()
        worked += now - started
        is_page = read % _PART == 0
        # Of a page that came slowly nothing is thrown away: what ends a part in its middle is the work on its tasks.
        is_over = worked >= WALK_S or (is_page and now >= until) or context.stopping.is_set()
        if (is_page or is_over) and not note(last):
            return False
        if is_over:
            log.info("project %d: its tasks up to %d are read; the next part follows", project, last)
            return False
    return note(last)
