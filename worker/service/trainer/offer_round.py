"""One offer to a project, judged: an adapter that was trained elsewhere, on the project's corrections."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from plugin_config.errors import LearningError, QueueUnavailable, ZeromaskError
from plugin_config.label_studio.annotations import annotation_mark
from plugin_config.queue.offers import Offer, OfferAnswer
from plugin_config.queue.pending import MAX_ATTEMPTS
from plugin_config.versions.manifests import OFFERED, Contender, Pointer, VerdictRecord, VersionFolder, now
from worker.learning.adapter_files import AdapterRecord, load_recorded_adapter, parse_adapter_record
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import HOLD_OUT_FROM, hold_out_split
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import Adapter, Example, Fitted, Words
from worker.learning.recipes import recipe_named
from worker.service.context import WorkerContext
from worker.service.plan import Plan, read_plan
from worker.service.trainer.lease_guard import LeaseGuard, RoundAborted
from worker.service.trainer.promotion import Promotion
from worker.service.trainer.reading import CorrectionsReader

log = logging.getLogger(__name__)

_SUBJECT = "the adapter offered"
_LEAKED = "It is leaked: its training knew where unseen labels are."


class OfferRound:
    """Judges one offer, under the project's lease.

    Args:
        context: of this process.
        project: its id.
        offer: that waits.
        deaths: how many learners died while they judged it; from `MAX_ATTEMPTS` on it is refused.
    """

    def __init__(self, context: WorkerContext, project: int, offer: Offer, *, deaths: int = 0) -> None:
        self._context, self._id, self._offer, self._deaths = context, project, offer, deaths
        self._lease = LeaseGuard(context, project)

    def run(self) -> OfferAnswer:
        """Judge the offer and carry out the verdict. Whatever hinders that ends the offer, with a reason: a person
        waits for it, and can offer again.

        Raises:
            RoundAborted, QueueUnavailable: as `LeaseGuard.check`; the offer still waits.
        """
        name, refusal = self._offer.name, ("", "", "")
        try:
            return self._answer()
        except (RoundAborted, QueueUnavailable):
            raise
        except ZeromaskError as error:
            refusal = (error.subject, error.problem, error.remedy)
        except Exception as error:  # the last resort, or the offer would be tried for ever
            log.exception("project %d: the offer fails", self._id)
            problem = f"fails on this project ({type(error).__name__}: {str(error)[:200]})"
            refusal = (_SUBJECT, problem, "The traceback is in the learner's log.")
        return OfferAnswer(name, False, "", "", refusal)

    def _answer(self) -> OfferAnswer:
        context, offer = self._context, self._offer
        plan = read_plan(context, self._id, from_disk=True)
        folder = context.adapters.folder(plan.project)
        pointer = folder.pointer()
        before = pointer.contenders.get(OFFERED)
        if before is not None and before.content == offer.name:  # a process died right after it had noted the verdict
            return OfferAnswer(offer.name, before.verdict.promoted, before.verdict.reason, pointer.served)
        self._require_harmless()
        adapter, offered = self._load(folder)
        folder.check_room()
        examples, words = self._read(plan)
        verdict = self._judge(plan, examples, words, adapter, offered.recipe)
        source = f"offered: {offer.source}"
        reason = f"{verdict.reason} {_LEAKED}" if offered.about.get("leaked") else verdict.reason
        verdict = replace(verdict, reason=reason, figures={**verdict.figures, "source": source})
        made = Contender(offered.recipe, source, now(), VerdictRecord(False, ""), content=offer.name)

        def note(pointer: Pointer, record: VerdictRecord, version: str) -> Pointer:
            contender = replace(made, verdict=record, version=version)
            return replace(pointer, contenders={**pointer.contenders, OFFERED: contender})

        promotion = Promotion(context, plan.project, folder, self._lease)
        record = promotion.carry_out(verdict, pointer, digest=offer.name, note=note)
        return OfferAnswer(offer.name, record.promoted, record.reason, folder.pointer().served)

    def clean_up(self) -> None:
        """Delete the offer's files once it is answered. What cannot be deleted now goes with the next offer."""
        with suppress(ZeromaskError):
            folder = self._context.adapters.folder(self._context.label_studio.project(self._id))
            folder.delete_offer(self._offer.name)

    def _require_harmless(self) -> None:
        """What ends a process natively raises no error, and would end one learner after the other."""
        if self._deaths < MAX_ATTEMPTS:
            return
        problem = f"ended {self._deaths} learners that judged it: by a crash, for want of memory, or they were killed"
        remedy = "See the end of the learner's log, and `dmesg`; offer it again with more memory, or a smaller one."
        raise LearningError(_SUBJECT, problem, remedy)

    def _load(self, folder: VersionFolder) -> tuple[Adapter, AdapterRecord]:
        self._lease.report(f"loads an adapter that is offered: {self._offer.source}")
        text, data = folder.offer(self._offer.name)
        record = parse_adapter_record(_SUBJECT, text)
        remedy = "Train one under the settings of the learner: MODEL, its files, and ZEROMASK_READOUT and the like."
        adapter = load_recorded_adapter(_SUBJECT, record, data, self._context.segmenter, remedy=remedy)
        return adapter, record

    def _read(self, plan: Plan) -> tuple[list[Example], Words]:
        """The corrections, and the texts of each label, those that only tasks bring along among them."""
        context = self._context
        tasks = annotation_mark(context.label_studio, self._id, tasks=0, latest="").tasks
        if plan.vocabulary.is_plain:  # each task is one image
            self._require_enough(tasks)
        reader = CorrectionsReader(
            context, self._id, plan.vocabulary, self._lease, patient=False, missing={}, left_out={}
        )  # fmt: skip
        examples = reader.read(tasks)
        left_out = [*reader.missing.values(), *reader.left_out.values()]
        self._require_enough(len(examples), left_out[0] if left_out else "")
        return examples, reader.vocabulary.words

    def _require_enough(self, images: int, left_out: str = "") -> None:
        if images >= HOLD_OUT_FROM:
            return
        more = f"; others are left out ({left_out.rstrip('.')})" if left_out else ""
        problem = f"has {images} corrected image{'s' * (images != 1)}, and an offer is judged from {HOLD_OUT_FROM} on"
        remedy = f"Correct {HOLD_OUT_FROM - images} more in Label Studio, then offer it again."
        raise LearningError(f"project {self._id}", f"{problem}{more}", remedy)

    def _judge(self, plan: Plan, examples: list[Example], words: Words, adapter: Adapter, recipe: str) -> Verdict:
        context = self._context
        served, seen = context.adapters.served_with_keys(plan.project)
        train, held_out = hold_out_split(examples, seen)
        self._lease.report(f"judges an adapter that is offered: {len(held_out)} of {len(examples)} corrected images "
                           "are held out")  # fmt: skip
        return judge(recipe_named(recipe), train, held_out, served, words, context.segmenter, seen=seen,
                     candidate=Fitted(adapter), offered=True)  # fmt: skip
