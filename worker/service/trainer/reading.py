"""All corrections of a project as examples, and what happens to annotated images that cannot be read now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from plugin_config.vocabulary import Vocabulary
from worker.label_studio.outcomes import RegionOutcomes, sum_outcomes
from worker.learning.interfaces import Example
from worker.service.context import WorkerContext
from worker.service.trainer.corrections import Correction, UnreadTask, read_corrections
from worker.service.trainer.lease_guard import LeaseGuard

_REPORT_EVERY = 10
_RETRY_S = 3600.0
_RETRIED_AT_ONCE = 10  # each may take ZEROMASK_IMAGE_TIMEOUT_S


class RetryLater(Exception):
    """An annotated image cannot be read for a reason that should pass soon: a version learned without it would be
    final for these corrections. Try again in a while.
    """


class CorrectionsReader:
    """Reads the corrections of one project.

    Args:
        context: of this process.
        project: its id.
        vocabulary: of the project now.
        lease: of the project, checked while reading.
        patient: whether to raise RetryLater where an image cannot be read now; else it is left out.
        missing: what was left out the last time, task -> reason. These tasks do not cause RetryLater.

    Attributes:
        missing: what is left out so far because it cannot be read now, task -> reason.
        outcomes: what annotators did with the predicted regions of everything read, by label key.
    """

    def __init__(
        self, context: WorkerContext, project: int, vocabulary: Vocabulary, lease: LeaseGuard, *, patient: bool,
        missing: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._context, self._project, self._vocabulary = context, project, vocabulary
        self._lease, self._patient = lease, patient
        self.missing = dict(missing)
        self.outcomes: dict[str, RegionOutcomes] = {}

    def retry_missing(self) -> bool:
        """Try to read a few of the images that were left out; those that fail again are the last to be tried next time.

        Returns:
            whether one of them can be read now.

        Raises:
            LabelStudioError: as `read_corrections`.
            RoundAborted: as `LeaseGuard.check`.
        """
        tried = list(self.missing)[:_RETRIED_AT_ONCE]
        self._lease.report(f"tries again to read {len(tried)} annotated images that were left out")
        still: dict[str, str] = {}
        for found in self._corrections(only={int(task) for task in tried}):
            if isinstance(found, Correction):
                return True
            still[str(found.task)] = found.reason
        self.missing = {task: reason for task, reason in self.missing.items() if task not in tried} | still
        return False

    def read(self, tasks: int) -> list[Example]:
        """Read everything that can be read.

        Args:
            tasks: how many there should be, for the report to people.

        Raises:
            RetryLater: an image cannot be read now, and the reader is patient.
            LabelStudioError: as `read_corrections`.
            RoundAborted: as `LeaseGuard.check`.
        """
        examples, known = [], frozenset(self.missing)
        self.missing, self.outcomes = {}, {}
        self._lease.report(f"reads {tasks} annotated images")
        for found in self._corrections():
            if isinstance(found, UnreadTask):
                if self._patient and str(found.task) not in known:
                    raise RetryLater(found.reason)
                self.missing[str(found.task)] = found.reason
                continue
            examples.append(found.example)
            self.outcomes = sum_outcomes([self.outcomes, found.outcomes])
            if len(examples) % _REPORT_EVERY == 0:
                self._lease.report(f"has read {len(examples)} of {tasks} annotated images")
        return examples

    def _corrections(self, only: Collection[int] | None = None) -> Iterator[Correction | UnreadTask]:
        context = self._context
        ours = context.ledger.versions(self._project)
        return read_corrections(
            context.label_studio, self._project, self._vocabulary, embed=context.embeddings.embed,
            limits=context.limits, cache=context.image_cache, ours=ours, only=only,
        )  # fmt: skip


def retry_is_due(tried_at: str) -> bool:
    """Whether images left out are to be tried again; `tried_at` is the last time, UTC, ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(tried_at)).total_seconds() >= _RETRY_S


def mention_missing(detail: str, missing: Mapping[str, str]) -> str:
    """Add to the result of a round, for people, what was left out; `missing` as `CorrectionsReader` has it."""
    if not missing:
        return detail
    images = f"{len(missing)} annotated image{'s' * (len(missing) > 1)}"
    return f"{detail.rstrip('.')}; {images} left out, to be tried again every hour ({next(iter(missing.values()))})"
