"""All corrections of a project as examples, and what happens to annotated images that cannot be read now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime

from plugin_config.vocabulary import Vocabulary, joined
from worker.label_studio.outcomes import EmptyRecord, RegionOutcomes, RegionRecord, sum_outcomes
from worker.label_studio.task_images import task_of
from worker.learning.corrections.examples import with_words
from worker.learning.interfaces import Example
from worker.service.context import WorkerContext
from worker.service.trainer.corrections import Correction, LeftOutTask, UnreadTask, read_corrections
from worker.service.trainer.lease_guard import LeaseGuard

_REPORT_EVERY = 10
_RETRY_S = 3600.0
_RETRIED_AT_ONCE = 10  # each may take ZEROMASK_IMAGE_TIMEOUT_S
_MOST_LEFT_OUT = 1000  # named in served.json
_MOST_CHARACTERS = 400  # of a reason
_NAMED = 5  # of them, in the result of a round


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
        missing: what was left out the last time, key of the image or id of the task -> reason. It does not cause
            RetryLater.
        left_out: what could not be learned from the last time until it is changed, task -> reason.

    Attributes:
        missing: what is left out so far because it cannot be read now, key of the image or id of the task -> reason.
        left_out: what cannot be learned from until somebody changes it, task -> reason; the first thousand.
        outcomes: what annotators did with the predicted regions of everything read, by label key.
        records: what became of each of these regions, and of those of images that cannot be read now.
        empty: what became of predictions without regions, likewise.
        vocabulary: of the project, with the labels that tasks bring along themselves once these are read.
    """

    def __init__(
        self, context: WorkerContext, project: int, vocabulary: Vocabulary, lease: LeaseGuard, *, patient: bool,
        missing: Mapping[str, str], left_out: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._context, self._project = context, project
        self._asked = self.vocabulary = vocabulary
        self._lease, self._patient = lease, patient
        self.missing, self.left_out = dict(missing), dict(left_out)
        self.outcomes: dict[str, RegionOutcomes] = {}
        self.records: list[RegionRecord] = []
        self.empty: list[EmptyRecord] = []

    def retry_missing(self) -> bool:
        """Try to read a few of the images that were left out; those that fail again are the last to be tried next time.

        Returns:
            whether one of them can be read now.

        Raises:
            LabelStudioError: as `read_corrections`.
            RoundAborted: as `LeaseGuard.check`.
        """
        before = self.missing
        tried = list(before)[:_RETRIED_AT_ONCE]
        self._lease.report(f"tries again to read {len(tried)} annotated images that were left out")
        still: dict[str, str] = {}
        for found in self._corrections(only=set(map(task_of, tried))):
            if isinstance(found, Correction):
                # Other images of the same task could be read before: they are no reason to read everything again.
                if found.example.key in before or str(found.task) in before:
                    return True
            elif isinstance(found, LeftOutTask):
                self._leave_out(found)
            else:
                still[found.key] = found.reason
        self.missing = {key: reason for key, reason in before.items() if key not in tried} | still
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
        examples, parts, known = [], [self._asked], frozenset(self.missing)
        self.missing, self.left_out, self.outcomes, self.records, self.empty = {}, {}, {}, [], []
        self._lease.report(f"reads {tasks} annotated images")
        for found in self._corrections():
            if isinstance(found, UnreadTask):
                if self._patient and known.isdisjoint((found.key, str(found.task))):
                    raise RetryLater(found.reason)
                few = len(self.missing) < _MOST_LEFT_OUT  # else not each image by itself: served.json has a bound
                self.missing[found.key if few else str(found.task)] = found.reason
                self.records += found.records
                self.empty += found.empty
                continue
            if isinstance(found, LeftOutTask):
                self._leave_out(found)
                continue
            examples.append(found.example)
            parts.append(found.vocabulary)
            self.outcomes = sum_outcomes([self.outcomes, found.outcomes])
            self.records += found.records
            self.empty += found.empty
            if len(examples) % _REPORT_EVERY == 0:
                self._lease.report(f"has read {len(examples)} of {tasks} annotated images")
        self.vocabulary = joined(parts)
        return [with_words(example, self.vocabulary.words) for example in examples]

    def _leave_out(self, found: LeftOutTask) -> None:
        if len(self.left_out) < _MOST_LEFT_OUT:
            self.left_out[str(found.task)] = _shortened(found.reason)

    def _corrections(self, only: Collection[int] | None = None) -> Iterator[Correction | UnreadTask | LeftOutTask]:
        context = self._context
        ours = context.ledger.versions(self._project)
        return read_corrections(
            context.label_studio, self._project, self._asked, embed=context.embeddings.embed,
            limits=context.limits, cache=context.image_cache, ours=ours, only=only,
        )  # fmt: skip


def retry_is_due(tried_at: str) -> bool:
    """Whether images left out are to be tried again; `tried_at` is the last time, UTC, ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(tried_at)).total_seconds() >= _RETRY_S


def mention_missing(detail: str, missing: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    """Add to the result of a round, for people, what was left out; the mappings as `CorrectionsReader` has them."""
    if missing:
        reason = _shortened(next(iter(missing.values())))
        detail = f"{detail.rstrip('.')}; {_images(missing)} left out, to be tried again every hour ({reason})"
    if left_out:
        reasons = [reason.rstrip(".") for reason in list(left_out.values())[:_NAMED]]
        more = f" | and tasks {', '.join(list(left_out)[_NAMED : 10 * _NAMED])}" if len(left_out) > _NAMED else ""
        more += ", ..." if len(left_out) > 10 * _NAMED else ""
        detail = f"{detail.rstrip('.')}; {_images(left_out)} left out until changed ({' | '.join(reasons)}{more})"
    return detail


def _images(tasks: Mapping[str, str]) -> str:
    more = " or more" if len(tasks) >= _MOST_LEFT_OUT else ""
    return f"{len(tasks)}{more} annotated image{'s' * (len(tasks) > 1)}"


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _MOST_CHARACTERS else f"{reason[:_MOST_CHARACTERS]}..."
