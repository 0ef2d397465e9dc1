"""The recipe that learns beside `quick` where ZEROMASK_RECIPE names one: a dense recipe, which takes minutes.

It learns from the same corrections once enough are there to hold some out, for a slice of time in each round, so that
`quick` goes first whenever corrections are new, and other projects take turns. What a process has learned of it so far
is in its memory: another one begins anew, and what is served stays meanwhile. After the corrections come generated
examples of labels that have none, in what is left of the time. At the end the gate judges both, without and with these,
against what is served by then.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

from plugin_config.errors import LearningError, ModelUnavailable, SettingsError
from plugin_config.versions.manifests import Attempt, Contender, Owner, Pointer, VerdictRecord, VersionFolder, now
from worker.learning.gate.decision import judge
from worker.learning.gate.splits import FEWEST_HELD_OUT, HOLD_OUT_FROM, hold_out_split
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import Example, Fitted, Words
from worker.learning.recipes import RECIPES, recipe_named
from worker.learning.recipes.dense.recipe import DenseRecipe
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.segmenter import Segmenter
from worker.service.batching import free_memory
from worker.service.context import WorkerContext
from worker.service.plan import Plan, read_plan
from worker.service.trainer.lease_guard import LeaseGuard
from worker.service.trainer.promotion import Promotion
from worker.service.trainer.reading import CorrectionsReader
from worker.service.trainer.training_round import RECIPE, RoundResult

log = logging.getLogger(__name__)

SLICE_S = 20.0
"""Seconds of training in one round."""

MOST_S = 600.0
"""Seconds of training in all: what is learned by then is judged."""

_CHECK_EVERY_S = 1.0
_MOST_REASON = 300  # characters of an error of torch
_FORGOTTEN_S = 600.0  # a training whose project gets no round any more makes room for another one's


def check_recipe(name: str) -> None:
    """Check the ZEROMASK_RECIPE setting.

    Raises:
        SettingsError: no recipe of that name can learn in the background.
    """
    known = [RECIPE, *(name for name, made in RECIPES.items() if _is_dense(made))]
    if name not in known:
        problem = f"must be one of {', '.join(known)}, got {name!r}"
        raise SettingsError("setting ZEROMASK_RECIPE", problem, f"Unset it for {RECIPE}.")


def _is_dense(made: object) -> bool:
    return isinstance(made, type) and issubclass(made, DenseRecipe)


@dataclass
class DenseTraining:
    """A training in progress, in the memory of this process.

    Attributes:
        owner: of what it learns for.
        content: digest of the corrections and the recipe.
        train, held_out: the corrections; `words` the texts of each label in them.
        seconds: of training so far.
        touched: when it was last worked on, by the steady clock.
    """

    owner: Owner
    content: str
    train: list[Example]
    held_out: list[Example]
    recipe: DenseRecipe
    segmenter: Segmenter
    words: Words
    seconds: float = 0.0
    touched: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._training = self.recipe.staged(self.train, self.words, self.segmenter)
        self._first_seconds = 0.0  # until generated examples were there to learn from

    @property
    def over(self) -> bool:
        """Whether it has taken all its steps or all its time."""
        return self._training.over or self.seconds >= MOST_S

    @property
    def told(self) -> str:
        """How far it is, for people."""
        seconds = self.seconds if self._training.second is None else self.seconds - self._first_seconds
        return f"{self.recipe.name} has taken {self._training.told} in {seconds:.0f} s"

    def learn(self, lease: LeaseGuard, *, for_s: float) -> None:
        """Take steps for a while, one at least; between them the lease is checked.

        Raises:
            LearningError: the loss of the steps from corrections alone is no number.
            RoundAborted, QueueUnavailable: as `LeaseGuard.check`.
        """
        started = checked = time.monotonic()
        before = self.seconds
        on_cpu = self._training.first.network.tower.device.type == "cpu"
        lease.report(self.told)
        while True:
            with one_thread() if on_cpu else nullcontext():
                self._training.step()
            self.touched = time.monotonic()
            self.seconds = before + self.touched - started
            if self._training.second is None:
                self._first_seconds = self.seconds
            if self.over or self.touched - started >= for_s:
                return
            if self.touched - checked >= _CHECK_EVERY_S:
                lease.report(self.told)
                checked = self.touched

    def fitted(self) -> Fitted:
        """What has been learned so far."""
        return self._training.fitted()


class SecondRecipe:
    """Holds the one training in progress, if there is one."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._training: DenseTraining | None = None

    def advance(self, project: int, quick: RoundResult) -> RoundResult:
        """Go on with the project's second recipe after a round of `quick`.

        Args:
            project: its id.
            quick: how that round ended.

        Returns:
            how both ended.

        Raises:
            As `TrainingRound.run`.
        """
        name = self._context.settings.recipe
        if name == RECIPE:
            return quick
        plan = read_plan(self._context, project, from_disk=True)
        folder = self._context.adapters.folder(plan.project)
        turn = _Turn(self._context, plan, folder, LeaseGuard(self._context, project), name)
        training = self._training_of(turn)
        if training is None:
            return quick
        try:
            training.learn(turn.lease, for_s=SLICE_S)
        except (LearningError, MemoryError, RuntimeError) as error:  # such as too little memory
            self._training = None  # with its network and images: `quick` needs the memory
            free_memory()
            return turn.note(training.content, _not_promoted(str(error)[:_MOST_REASON]), quick)
        if not training.over:
            return replace(quick, state="learning", detail=f"{training.told}; {quick.detail}", again_s=0.0)
        self._training = None
        return turn.judge(training, quick)

    def _training_of(self, turn: _Turn) -> DenseTraining | None:
        """The training to go on with, begun where there is something new to learn from; else None."""
        training, owner = self._training, turn.folder.owner
        if training is not None and training.owner == owner:
            return training
        if training is not None and time.monotonic() - training.touched < _FORGOTTEN_S:
            return None  # another project's; this one's turn comes
        self._training = turn.begin()
        return self._training


@dataclass(frozen=True)
class _Turn:
    """One project's turn.

    Attributes:
        context: of this process.
        plan: what the project wants now.
        folder: of its versions.
        lease: of the project.
        name: of the second recipe.
    """

    context: WorkerContext
    plan: Plan
    folder: VersionFolder
    lease: LeaseGuard
    name: str

    def begin(self) -> DenseTraining | None:
        """Begin a training, unless the corrections that `quick` learned from last are too few or were learned from."""
        pointer = self.folder.pointer()
        recipe = recipe_named(self.name)
        attempt = pointer.attempt
        if not isinstance(recipe, DenseRecipe) or attempt is None or not attempt.content:
            return None
        content = f"{attempt.content}+{recipe.name}{recipe.form}"
        last = pointer.contenders.get(self.name)
        done = content in pointer.rejected or (last is not None and last.content == content)
        if done or (self.plan.vocabulary.is_plain and attempt.tasks < HOLD_OUT_FROM):  # each task is one image
            return None
        self.folder.check_room()
        examples, words = self._read(attempt)
        train, held_out = hold_out_split(examples)
        if len(held_out) < FEWEST_HELD_OUT:
            few = f"{len(held_out)} of {len(examples)} corrected images are held out, {FEWEST_HELD_OUT} are needed"
            self.note(content, _not_promoted(f"{few} to judge it: correct more"))
            return None
        try:
            return DenseTraining(self.folder.owner, content, train, held_out, recipe, self.context.segmenter, words)
        except (LearningError, ModelUnavailable, MemoryError, RuntimeError) as error:
            self.note(content, _not_promoted(str(error)[:_MOST_REASON]))
            return None

    def judge(self, training: DenseTraining, quick: RoundResult) -> RoundResult:
        """Let the gate judge what was learned, and carry out its verdict."""
        context, project = self.context, self.plan.project
        self.lease.report(f"judges what {self.name} has learned: {len(training.held_out)} images are held out")
        pointer = self.folder.pointer()
        served, seen = context.adapters.served_with_keys(project)
        verdict = judge(training.recipe, training.train, training.held_out, served, training.words,
                        context.segmenter, seen=seen, candidate=training.fitted())  # fmt: skip
        return self.note(training.content, verdict, quick, pointer)

    def note(
        self, content: str, verdict: Verdict, quick: RoundResult | None = None, before: Pointer | None = None
    ) -> RoundResult:
        """Carry out a verdict and note it, so that the same corrections are not learned from again."""
        source = f"learned beside {RECIPE}"
        verdict = replace(verdict, figures={**verdict.figures, "source": f"{self.name}, {source}"})
        made = Contender(self.name, source, now(), VerdictRecord(False, ""), content=content)

        def noted(pointer: Pointer, record: VerdictRecord, version: str) -> Pointer:
            contender = replace(made, verdict=record, version=version)
            return replace(pointer, contenders={**pointer.contenders, self.name: contender})

        promotion = Promotion(self.context, self.plan.project, self.folder, self.lease)
        record = promotion.carry_out(verdict, before or self.folder.pointer(), digest=content, note=noted)
        quick = quick or RoundResult("idle", "", "")
        return replace(quick, detail=f"{self.name}: {record.reason.rstrip('.')}; {quick.detail}")

    def _read(self, attempt: Attempt) -> tuple[list[Example], Words]:
        """The corrections, and the texts of each label, those that only tasks bring along among them."""
        reader = CorrectionsReader(
            self.context, self.plan.project.id, self.plan.vocabulary, self.lease, patient=False, missing={},
            left_out={},
        )  # fmt: skip
        return reader.read(attempt.tasks), reader.vocabulary.words


def _not_promoted(reason: str) -> Verdict:
    return Verdict(False, None, 0.0, f"kept what is served: {reason.rstrip('.')}.", {})
