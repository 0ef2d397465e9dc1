"""One training round of a project: train where enough is new, let the gate decide, store and serve what it promotes.

Everything is read from Label Studio and from disk, so a round may end anywhere and start again: what is served changes
in one move, after everything that belongs to it is written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from plugin_config.label_studio.annotations import AnnotationMark, annotation_mark
from plugin_config.label_studio.client import Project
from plugin_config.queue.learning import LearningLease, State
from plugin_config.versions.manifests import Attempt, Pointer, VerdictRecord, VersionFolder, now
from plugin_config.vocabulary import Vocabulary
from worker.learning.corrections.examples import content_digest
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import hold_out_split
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import Example
from worker.learning.recipes import recipe_named
from worker.service.context import WorkerContext
from worker.service.plan import read_plan
from worker.service.trainer.calibrating import note_judged, refit
from worker.service.trainer.corrections import corrections_digest
from worker.service.trainer.lease_guard import LeaseGuard
from worker.service.trainer.promotion import Promotion
from worker.service.trainer.reading import CorrectionsReader, mention_missing, retry_is_due

RECIPE = "quick"
_ROLLED_BACK = "these corrections made a version that was rolled back; others are waited for"


@dataclass(frozen=True)
class RoundResult:
    """How a round ended.

    Attributes:
        state, detail: for people.
        mark: state of the annotations, see `AnnotationMark`.
        again_s: seconds until the next round; None = at the next webhook, button or periodic check.
    """

    state: State
    detail: str
    mark: str
    again_s: float | None = None


class TrainingRound:
    """One round for one project.

    Args:
        context: of this process.
        project: its id.
        request: how the round was requested.
        patient: whether to raise RetryLater where an image cannot be read now; else the round goes on without it.
    """

    def __init__(self, context: WorkerContext, project: int, request: LearningLease, *, patient: bool = False) -> None:
        self._context = context
        self._id = project
        self._request = request
        self._patient = patient
        self._lease = LeaseGuard(context, project)
        self._recipe = recipe_named(RECIPE)

    def run(self) -> RoundResult:
        """Train unless it is too early or nothing is new.

        Raises:
            RoundAborted: as `LeaseGuard.check`.
            RetryLater: an image cannot be read now, and the round is patient.
            ProjectGone: Label Studio has no such project.
            LabelStudioError: Label Studio does not answer, or refuses.
            LabelingConfigError: the project names nothing to segment.
            VersionsUnavailable: versions can be neither read nor written.
            LearningError: the pointer to what is served is damaged.
        """
        context = self._context
        plan = read_plan(context, self._id, from_disk=True)
        project, vocabulary = plan.project, plan.vocabulary
        if not vocabulary.labels and all(asked.output == "choices" for asked in vocabulary.asked):
            return RoundResult("idle", "the labeling config has choices alone, which are not learned from", "")
        if context.ledger.target_version(self._id) not in ("", plan.version):
            context.hints.request_refresh(self._id)  # a process died right after it had moved the pointer
        folder = context.adapters.folder(project)
        pointer = folder.pointer()
        last = pointer.attempt
        mark = annotation_mark(
            context.label_studio, self._id, tasks=last.tasks if last else 0, latest=last.latest if last else ""
        )
        if str(mark) != self._request.mark:
            context.hints.request_refresh(self._id)  # other images are next now
        weights = f"{context.segmenter.encoder.fingerprint}-{self._recipe.name}{self._recipe.form}"
        reader = CorrectionsReader(
            context, self._id, vocabulary, self._lease, patient=self._patient, missing=last.missing if last else {},
            left_out=last.left_out if last else {},
        )  # fmt: skip
        retrain = last is not None and (
            last.vocabulary != vocabulary.hash
            or last.weights != weights  # adapters trained on other weights cannot be served any more
            or self._missing_is_back(project, folder, last, reader)
        )
        early = self._too_early(mark, retrain, reader)
        if early is not None:
            return early
        digest = f"{corrections_digest(context.label_studio, self._id)}-{vocabulary.hash}"
        if last and last.digest == digest and not retrain:
            return RoundResult("idle", mention_missing("nothing is new", reader.missing, reader.left_out), str(mark))
        if digest in pointer.rejected:  # by versions made before `content` was recorded
            return RoundResult("idle", _ROLLED_BACK, str(mark))
        folder.check_room()  # else every round would read and train, only to fail at the last step
        unjudged = VerdictRecord(False, "")
        attempt = Attempt(digest, mark.tasks, mark.latest, vocabulary.hash, now(), unjudged, weights=weights)
        return self._train(project, folder, pointer, attempt, vocabulary, reader)

    def _too_early(self, mark: AnnotationMark, retrain: bool, reader: CorrectionsReader) -> RoundResult | None:
        """Decide from counts alone whether the round ends before anything is read.

        Args:
            mark: state of the annotations.
            retrain: whether the annotations there are must be learned from again, because the labels, the model or the
                recipe changed, or an image can be read again.
            reader: knows what still cannot be read.
        """
        settings, request = self._context.settings, self._request
        if not mark.tasks:
            return RoundResult("idle", "no image is annotated", str(mark))
        if not mark.changed and not retrain:
            return RoundResult("idle", mention_missing("nothing is new", reader.missing, reader.left_out), str(mark))
        if request.immediate:
            return None
        if mark.changed < settings.finetune_every and not retrain:
            detail = f"{mark.changed} of {settings.finetune_every} new or changed annotated images are there"
            return RoundResult("waiting", detail, str(mark))
        # A webhook has delayed the round until after the pause; without one, annotations must not have changed so long.
        unchanged_s = request.mark_s if request.mark == str(mark) else 0.0
        if request.quiet_s is None and unchanged_s < settings.finetune_quiet_s:
            left_s = settings.finetune_quiet_s - unchanged_s
            return RoundResult("waiting", "until annotators pause", str(mark), left_s)
        return None

    def _missing_is_back(
        self, project: Project, folder: VersionFolder, last: Attempt, reader: CorrectionsReader
    ) -> bool:
        """Whether an image that was left out the last time can be read by now."""
        if not last.missing or not (self._request.immediate or retry_is_due(last.missing_at)):
            return False
        back = reader.retry_missing()
        if not back:
            still = replace(last, missing=reader.missing, missing_at=now(), left_out=reader.left_out)
            self._record(project, folder, still, "")
        return back

    def _train(
        self, project: Project, folder: VersionFolder, pointer: Pointer, attempt: Attempt, vocabulary: Vocabulary,
        reader: CorrectionsReader,
    ) -> RoundResult:  # fmt: skip
        """Read the corrections, and train unless the same ones were learned from before. `attempt`: as far as known."""
        last, examples = pointer.attempt, reader.read(attempt.tasks)
        refit(self._context, project, reader.records, reader.empty, self._lease)
        note_judged(self._context, self._id, reader.records)
        vocabulary, asked = reader.vocabulary, vocabulary
        content = f"{content_digest(examples, vocabulary)}-{attempt.weights}"
        missing_at = now() if reader.missing else ""
        outcomes = {key: asdict(found) for key, found in reader.outcomes.items()}
        attempt = replace(
            attempt, content=content, missing=reader.missing, missing_at=missing_at, left_out=reader.left_out,
            outcomes=outcomes,
        )  # fmt: skip
        if last and last.content == content and last.vocabulary == asked.hash:
            attempt = replace(attempt, at=last.at, verdict=last.verdict, version=last.version)
            return self._record(project, folder, attempt, "nothing is new")
        if content in pointer.rejected:
            attempt = replace(attempt, verdict=VerdictRecord(False, _ROLLED_BACK))
            return self._record(project, folder, attempt, _ROLLED_BACK)
        verdict = self._judge(project, examples, vocabulary)
        return self._conclude(project, folder, pointer, attempt, verdict)

    def _judge(self, project: Project, examples: list[Example], vocabulary: Vocabulary) -> Verdict:
        context = self._context
        served, seen = context.adapters.served_with_keys(project)
        # A recipe that learns beside is judged by held-out images alone, so it needs some from the twentieth on.
        is_alone = context.settings.recipe == RECIPE
        train, held_out = hold_out_split(examples, seen if is_alone else ())
        self._lease.report(f"learns from {len(train)} annotated images, {len(held_out)} are held out")
        return judge(self._recipe, train, held_out, served, vocabulary.words, context.segmenter, seen=seen)

    def _record(self, project: Project, folder: VersionFolder, attempt: Attempt, detail: str) -> RoundResult:
        """Record that nothing is to be learned from these corrections, so that they are not read again and again."""
        with self._context.adapters.moving(project.id):
            self._lease.check()
            pointer = replace(folder.pointer(), attempt=attempt)
            folder.point(pointer)
            self._context.adapters.tell(folder.owner, pointer)
        told = mention_missing(detail, attempt.missing, attempt.left_out)
        return RoundResult("idle", told, f"{attempt.tasks} {attempt.latest}")

    def _conclude(
        self, project: Project, folder: VersionFolder, before: Pointer, attempt: Attempt, verdict: Verdict
    ) -> RoundResult:
        """Carry out the verdict and record the attempt, in one write."""
        def note(pointer: Pointer, record: VerdictRecord, version: str) -> Pointer:
            return replace(pointer, attempt=replace(attempt, verdict=record, version=version))

        promotion = Promotion(self._context, project, folder, self._lease)
        record = promotion.carry_out(verdict, before, digest=attempt.content, note=note)
        detail = mention_missing(record.reason, attempt.missing, attempt.left_out)
        return RoundResult("idle", detail, f"{attempt.tasks} {attempt.latest}")
