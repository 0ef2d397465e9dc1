"""All corrections of a project as examples, and what happens to annotated images that cannot be read now."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from plugin_config.vocabulary import Vocabulary, joined
from worker.label_studio.outcomes import EmptyRecord, RegionOutcomes, RegionRecord, sum_outcomes
from worker.label_studio.task_images import task_of
from worker.learning.corrections.balance import balanced
from worker.learning.corrections.examples import with_words
from worker.learning.gate.splits import hash_share, is_held_out
from worker.learning.interfaces import Example
from worker.service.context import WorkerContext
from worker.service.trainer.corrections import (
    Correction,
    LeftOutTask,
    SurveyedImage,
    UnreadTask,
    read_corrections,
    survey_corrections,
)
from worker.service.trainer.lease_guard import LeaseGuard

MOST_READ = 500
"""Images read in full, at most; each takes some 4 MB of memory, and an embedding where none is kept."""

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
        """Read everything that can be read; of more images than MOST_READ, those that `choose_images` takes.

        Args:
            tasks: how many there should be; several images of a task count one by one.

        Raises:
            RetryLater: an image cannot be read now, and the reader is patient.
            LabelStudioError: as `read_corrections`.
            RoundAborted: as `LeaseGuard.check`.
        """
        known = frozenset(self.missing)
        if tasks <= MOST_READ:
            examples = self._read(known, tasks)
            if len(examples) <= MOST_READ:
                return examples
        return self._read(known, tasks, self._choose(known, tasks))

    def _choose(self, known: Collection[str], tasks: int) -> list[SurveyedImage]:
        """Note what became of all predictions, and choose the images to learn from."""
        self._forget()
        images: list[SurveyedImage] = []
        context, looked = self._context, f"of {tasks} annotated images to choose those that are learned from"
        ours = context.ledger.versions(self._project)
        for number, found in enumerate(survey_corrections(context.label_studio, self._project, self._asked, ours=ours)):
            if number % _REPORT_EVERY == 0:
                self._lease.report(f"has looked at {number} {looked}")
            if isinstance(found, SurveyedImage):
                self._note(found)
                images.append(replace(found, outcomes={}, records=(), empty=()))
            else:
                self._pass_over(found, known)
        return choose_images(images)

    def _read(
        self, known: Collection[str], tasks: int, chosen: Collection[SurveyedImage] | None = None
    ) -> list[Example]:
        """Read images in full.

        Args:
            known: what was left out the last time.
            tasks: how many there should be.
            chosen: those to read, of which all else is noted; None = all, but no more than one above MOST_READ.
        """
        if chosen is None:
            self._forget()
        keys = None if chosen is None else {image.key for image in chosen}
        number, parts = tasks if chosen is None else len(chosen), [self._asked]
        examples: list[Example] = []
        self._lease.report(f"reads {number} annotated images")
        for found in self._corrections(only=None if chosen is None else {image.task for image in chosen}):
            if not isinstance(found, Correction):
                self._pass_over(found, known, noted=keys is not None)
                continue
            if keys is None:
                self._note(found)
            elif found.example.key not in keys:
                continue
            examples.append(found.example)
            parts.append(found.vocabulary)
            if len(examples) % _REPORT_EVERY == 0:
                self._lease.report(f"has read {len(examples)} of {number} annotated images")
            if keys is None and len(examples) > MOST_READ:
                break  # tasks of several images each
        self.vocabulary = joined(parts)
        return [with_words(example, self.vocabulary.words) for example in examples]

    def _forget(self) -> None:
        self.missing, self.left_out, self.outcomes, self.records, self.empty = {}, {}, {}, [], []

    def _note(self, found: Correction | SurveyedImage) -> None:
        self.outcomes = sum_outcomes([self.outcomes, found.outcomes])
        self.records += found.records
        self.empty += found.empty

    def _pass_over(
        self, found: UnreadTask | LeftOutTask, known: Collection[str], *, noted: bool = False
    ) -> None:
        """Note what cannot be read. `noted`: what became of its predictions is known already.

        Raises:
            RetryLater: as `read`.
        """
        if isinstance(found, LeftOutTask):
            self._leave_out(found)
            return
        if self._patient and found.key not in known and str(found.task) not in known:
            raise RetryLater(found.reason)
        few = len(self.missing) < _MOST_LEFT_OUT  # else not each image by itself: served.json has a bound
        self.missing[found.key if few else str(found.task)] = found.reason
        if not noted:
            self.records += found.records
            self.empty += found.empty

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


def choose_images(images: Sequence[SurveyedImage]) -> list[SurveyedImage]:
    """Of many annotated images those to learn from, MOST_READ at most: a fifth to be held out, the first by hash; of
    the others such that each label is shown as often as can be.

    The choice hardly changes with further images, and not with the order in which they were annotated.
    """
    held_out = [image for image in images if is_held_out(image.key)]
    held_out = sorted(held_out, key=lambda image: hash_share(image.key))[: MOST_READ // 5]
    others = [image for image in images if not is_held_out(image.key)]
    numbers = {label: k for k, label in enumerate(sorted({label for image in others for label in image.labels}))}
    shown = [{numbers[label] for label in image.labels} for image in others]
    kept = balanced(shown, [image.key for image in others], MOST_READ - len(held_out))
    return [*held_out, *(others[k] for k in kept)]


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
