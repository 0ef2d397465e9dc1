"""One look at a project's corrections: learn where enough is new, let the gate judge, keep and serve what it promotes.

Everything is read from Label Studio and from disk, so a look may be broken off anywhere and begun again: what is served
changes in one move, after all that belongs to it is written. It must not know queues or processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from plugin_config.errors import LearningError, QueueUnavailable, VersionsUnavailable
from plugin_config.label_studio.annotations import AnnotationMark, annotation_mark
from plugin_config.label_studio.client import Project
from plugin_config.model_version import ZEROSHOT, ModelVersion, adapter_number
from plugin_config.queue.learning import State, Visit
from plugin_config.versions.manifests import Attempt, Pointer, VerdictRecord, VersionFolder, now
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.learning.corrections.hold_out import split
from worker.learning.gate.decision import Verdict, judge
from worker.learning.interfaces import Example
from worker.learning.recipes import recipe_named
from worker.service.adapter_store import keep
from worker.service.context import Resident
from worker.service.trainer.corrections import content_digest, corrections_digest
from worker.service.trainer.reading import Reading, is_due, say_without

log = logging.getLogger(__name__)

RECIPE = "quick"
_ROLLED_BACK = "these corrections made a version that was rolled back; others are waited for"


class BrokenOff(Exception):
    """The look ends here and is begun again: the process stops, or another one has taken over."""


@dataclass(frozen=True)
class Outcome:
    """How a look ended.

    Attributes:
        state, detail: for people.
        mark: how the annotations stood.
        again_s: seconds until the next look; None = when something is said to have changed, or the round comes by.
    """

    state: State
    detail: str
    mark: str
    again_s: float | None = None


class Look:
    """A look at one project.

    Args:
        resident: of this process.
        project: its id.
        visit: how it was asked for.
        tell: takes what is being done now, for people.
        go_on: raises BrokenOff when the look must end; called between steps, and right before what is served changes.
        patient: whether to raise HeldUp where an image cannot be read for what may pass; else it is learned without.
    """

    def __init__(
        self, resident: Resident, project: int, visit: Visit, *, tell: Callable[[str], None],
        go_on: Callable[[], None], patient: bool = False,
    ) -> None:  # fmt: skip
        self._resident = resident
        self._id = project
        self._visit = visit
        self._tell = tell
        self._go_on = go_on
        self._patient = patient

    def run(self) -> Outcome:
        """Look.

        Raises:
            BrokenOff: as `go_on` does.
            HeldUp: an image cannot be read now, and there is patience.
            LabelStudioError: Label Studio does not answer, or refuses; status 404 when the project is gone.
            LabelingConfigError: the project names nothing to segment.
            VersionsUnavailable: versions can be neither read nor written.
            LearningError: the pointer to what is served is damaged.
        """
        resident = self._resident
        project = resident.label_studio.project(self._id)
        resident.pending.confirm(self._id)
        vocabulary = parse_vocabulary(project.label_config)
        name, _ = resident.adapters.serve(project, afresh=True)
        version = str(ModelVersion.of(resident.settings, vocabulary, adapter=name))
        if resident.ledger.served(self._id) not in ("", version):
            resident.hints.request_refresh(self._id)  # the pointer was moved, and who did died before telling
        folder = resident.adapters.folder(project)
        pointer = folder.pointer()
        last = pointer.attempt
        mark = annotation_mark(
            resident.label_studio, self._id, tasks=last.tasks if last else 0, latest=last.latest if last else ""
        )
        recipe = recipe_named(RECIPE)
        weights = f"{resident.segmenter.encoder.fingerprint}-{recipe.name}{recipe.form}"
        reading = Reading(
            resident, self._id, vocabulary, patient=self._patient, missing=last.missing if last else {}, step=self._step
        )
        anew = last is not None and (
            last.vocabulary != vocabulary.hash
            or last.weights != weights  # nothing that was learned on others can be served any more
            or self._some_are_back(project, folder, last, reading)
        )
        early = self._too_early(mark, anew, reading.missing)
        if early is not None:
            return early
        digest = f"{corrections_digest(resident.label_studio, self._id)}-{vocabulary.hash}"
        if last and last.digest == digest and not anew:
            return Outcome("idle", say_without("nothing is new", reading.missing), str(mark))
        if digest in pointer.rejected:  # by versions made before `content` was noted
            return Outcome("idle", _ROLLED_BACK, str(mark))
        folder.check_room()  # or all would be read and learned again and again, to fail at the last step
        unjudged = VerdictRecord(False, "")
        attempt = Attempt(digest, mark.tasks, mark.latest, vocabulary.hash, now(), unjudged, weights=weights)
        return self._learn(project, folder, pointer, attempt, vocabulary, reading)

    def _learn(
        self, project: Project, folder: VersionFolder, pointer: Pointer, attempt: Attempt, vocabulary: Vocabulary,
        reading: Reading,
    ) -> Outcome:  # fmt: skip
        """Read, and learn unless what is read was learned from before. `attempt`: what is known of it so far."""
        last, examples = pointer.attempt, reading.read(attempt.tasks)
        content = f"{content_digest(examples, vocabulary)}-{attempt.weights}"
        missing_at = now() if reading.missing else ""
        outcomes = {key: asdict(found) for key, found in reading.outcomes.items()}
        attempt = replace(attempt, content=content, missing=reading.missing, missing_at=missing_at, outcomes=outcomes)
        if last and last.content == content and last.vocabulary == vocabulary.hash:
            attempt = replace(attempt, at=last.at, verdict=last.verdict, version=last.version)
            return self._settle(project, folder, attempt, "nothing is new")
        if content in pointer.rejected:
            attempt = replace(attempt, verdict=VerdictRecord(False, _ROLLED_BACK))
            return self._settle(project, folder, attempt, _ROLLED_BACK)
        verdict = self._judge(project, folder, pointer, examples, vocabulary)
        return self._conclude(project, folder, pointer, replace(attempt, verdict=_record(verdict)), verdict)

    def _too_early(self, mark: AnnotationMark, anew: bool, missing: Mapping[str, str]) -> Outcome | None:
        """How the look ends before anything is read. `anew`: what is annotated already is a reason to learn, because
        the labels, the model or the recipe have changed since, or an image is back. `missing`: those that are not.
        """
        settings, visit = self._resident.settings, self._visit
        if not mark.tasks:
            return Outcome("idle", "no image is annotated", str(mark))
        if not mark.changed and not anew:
            return Outcome("idle", say_without("nothing is new", missing), str(mark))
        if visit.pressed:
            return None
        if mark.changed < settings.finetune_every and not anew:
            told = f"{mark.changed} of {settings.finetune_every} new or changed annotated images are there"
            return Outcome("waiting", told, str(mark))
        # A webhook has pushed the look behind the pause already; where none came, annotations must have stood still.
        stood_s = visit.mark_s if visit.mark == str(mark) else 0.0
        if visit.quiet_s is None and stood_s < settings.finetune_quiet_s:
            return Outcome("waiting", "until annotators pause", str(mark), settings.finetune_quiet_s - stood_s)
        return None

    def _some_are_back(self, project: Project, folder: VersionFolder, last: Attempt, reading: Reading) -> bool:
        """Whether there is to be learned anew because an image that was left out can be read by now."""
        if not last.missing or not (self._visit.pressed or is_due(last.missing_at)):
            return False
        back = reading.some_are_back()
        if not back:
            self._settle(project, folder, replace(last, missing=reading.missing, missing_at=now()), "")
        return back

    def _judge(
        self, project: Project, folder: VersionFolder, pointer: Pointer, examples: list[Example], vocabulary: Vocabulary
    ) -> Verdict:
        resident = self._resident
        learn, held_out = split(examples)
        self._step(f"learns from {len(learn)} annotated images, {len(held_out)} are held out")
        name, served = resident.adapters.serve(project)
        seen = () if name == ZEROSHOT else resident.adapters.adapter(folder, name)[0].learned_from
        recipe = recipe_named(RECIPE)
        return judge(recipe, learn, held_out, served, vocabulary.words, resident.segmenter, seen=seen)

    def _settle(self, project: Project, folder: VersionFolder, attempt: Attempt, told: str) -> Outcome:
        """Note that nothing is to be learned from these corrections, so that they are not read again and again."""
        with self._resident.adapters.moving(project.id):
            self._go_on()
            folder.point(replace(folder.pointer(), attempt=attempt))
        return Outcome("idle", say_without(told, attempt.missing), f"{attempt.tasks} {attempt.latest}")

    def _conclude(
        self, project: Project, folder: VersionFolder, before: Pointer, attempt: Attempt, verdict: Verdict
    ) -> Outcome:
        """Keep what was promoted, then move the pointer, in one write with the attempt."""
        resident, target, newest = self._resident, None, before.newest
        if verdict.promoted:
            target = ZEROSHOT
            if verdict.adapter is not None:
                self._step("keeps the new version")
                base, _ = resident.adapters.serve(project)  # not what cannot be loaded any more: nobody could go back
                manifest = keep(
                    folder, verdict.adapter, newest=before.newest, weights=resident.segmenter.encoder.fingerprint,
                    base=base, digest=attempt.content, learned_from=verdict.learned_from,
                    verdict=attempt.verdict,
                )  # fmt: skip
                target, newest = manifest.name, manifest.number
                attempt = replace(attempt, version=target)
        with resident.adapters.moving(project.id):
            self._go_on()
            pointer = folder.pointer()
            if target is not None and pointer.serial != before.serial:
                told = f"{pointer.served} was chosen while this was learned: {attempt.verdict.reason}"
                attempt = replace(attempt, verdict=replace(attempt.verdict, promoted=False, reason=told))
                target = None
            pointer = replace(pointer, attempt=attempt, newest=max(newest, pointer.newest))
            folder.point(pointer if target is None else pointer.moved(target, by="gate"))
        log.info("project %d: %s", project.id, attempt.verdict.reason)
        if target is not None:
            resident.adapters.serve(project, afresh=True)
            resident.hints.request_refresh(project.id)
            self._prune(project, folder)
        told = say_without(attempt.verdict.reason, attempt.missing)
        return Outcome("idle", told, f"{attempt.tasks} {attempt.latest}")

    def _prune(self, project: Project, folder: VersionFolder) -> None:
        """Leave what is served, what was served before it, and the newest few. Nobody may move the pointer meanwhile:
        a version that a person has just gone back to would be deleted under it.
        """
        try:
            with self._resident.adapters.moving(project.id):
                served = folder.pointer().served
                before = folder.manifest(served).base if adapter_number(served) else ZEROSHOT
                for name in folder.prune({served, before}):
                    log.info("project %d: version %s is deleted: old and not served", project.id, name)
        except (LearningError, VersionsUnavailable, QueueUnavailable) as error:  # the next promotion tries again
            log.warning("project %d: %s", project.id, error)

    def _step(self, told: str) -> None:
        self._go_on()
        self._tell(told)


def _record(verdict: Verdict) -> VerdictRecord:
    return VerdictRecord(verdict.promoted, verdict.reason, dict(verdict.figures))
