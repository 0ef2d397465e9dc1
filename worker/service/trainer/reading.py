"""All of a project's corrections as examples, and what becomes of images that cannot be read just now.

It must not know recipes, nor what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime

from plugin_config.vocabulary import Vocabulary
from worker.label_studio.outcomes import Outcomes, sum_outcomes
from worker.learning.interfaces import Example
from worker.service.context import WorkerContext
from worker.service.trainer.corrections import Correction, read_corrections

_TOLD_EVERY = 10
_RETRY_S = 3600.0
_TRIED_AT_ONCE = 10  # each may take ZEROMASK_IMAGE_TIMEOUT_S


class HeldUp(Exception):
    """Something that most likely passes keeps an annotated image from being read: to learn without it would settle
    what is learned. Try again in a while.
    """


class Reading:
    """Reads the corrections of one project.

    Args:
        resident: of this process.
        project: its id.
        vocabulary: of the project now.
        patient: whether to raise HeldUp where an image cannot be read for what may pass; else it is left out.
        missing: what was left out the last time, task -> why. It is not waited for again.
        step: takes what is being done now, for people; may raise, which ends the reading.

    Attributes:
        missing: what is left out by now for what may pass, task -> why.
        outcomes: what became of the predicted regions of all that was read, by label key.
    """

    def __init__(
        self, resident: WorkerContext, project: int, vocabulary: Vocabulary, *, patient: bool,
        missing: Mapping[str, str], step: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._resident, self._project, self._vocabulary = resident, project, vocabulary
        self._patient, self._step = patient, step
        self.missing = dict(missing)
        self.outcomes: dict[str, Outcomes] = {}

    def some_are_back(self) -> bool:
        """Whether an image that was left out can be read now. Some are tried at once, and those tried in vain last the
        next time.

        Raises:
            LabelStudioError: as `read_corrections`.
        """
        some = list(self.missing)[:_TRIED_AT_ONCE]
        self._step(f"tries again to read {len(some)} annotated images that were left out")
        still: dict[str, str] = {}

        def passing(task: int, reason: str) -> None:
            still[str(task)] = reason

        if next(self._corrections(passing, only={int(task) for task in some}), None) is not None:
            return True
        self.missing = {task: reason for task, reason in self.missing.items() if task not in some} | still
        return False

    def read(self, tasks: int) -> list[Example]:
        """All that can be read; `tasks` is how many there should be, for people.

        Raises:
            HeldUp: one cannot be read now, and there is patience.
            LabelStudioError: as `read_corrections`.
        """
        found, known = [], frozenset(self.missing)
        self.missing, self.outcomes = {}, {}

        def passing(task: int, reason: str) -> None:
            if self._patient and str(task) not in known:
                raise HeldUp(reason)
            self.missing[str(task)] = reason

        self._step(f"reads {tasks} annotated images")
        for correction in self._corrections(passing):
            found.append(correction.example)
            self.outcomes = sum_outcomes([self.outcomes, correction.outcomes])
            if len(found) % _TOLD_EVERY == 0:
                self._step(f"has read {len(found)} of {tasks} annotated images")
        return found

    def _corrections(
        self, passing: Callable[[int, str], None], only: Collection[int] | None = None
    ) -> Iterator[Correction]:
        resident = self._resident
        ours = resident.ledger.versions(self._project)
        return read_corrections(
            resident.label_studio, self._project, self._vocabulary, embed=resident.embeddings.embed,
            limits=resident.limits, ours=ours, only=only, passing=passing,
        )  # fmt: skip


def is_due(tried_at: str) -> bool:
    """Whether what was left out is to be tried again; `tried_at` is when it was tried last, UTC, ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(tried_at)).total_seconds() >= _RETRY_S


def say_without(told: str, missing: Mapping[str, str]) -> str:
    """How a look ended, for people, and what was left out; `missing` as `Reading` has it."""
    if not missing:
        return told
    images = f"{len(missing)} annotated image{'s' * (len(missing) > 1)}"
    return f"{told.rstrip('.')}; {images} left out, to be tried again every hour ({next(iter(missing.values()))})"
