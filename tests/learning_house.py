"""A learner over a real Redis and real files, with stand-ins for Label Studio, the model, the recipe and the gate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self, cast

import numpy as np
import pytest
import torch
from redis import Redis

from plugin_config.background import DutyWatch
from plugin_config.errors import LearningError
from plugin_config.label_studio.annotations import AnnotationMark
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import LearnProject
from plugin_config.queue.learning import Progress, ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Attempt, VersionFolder
from plugin_config.vocabulary import Vocabulary
from tests.stand_ins import PROJECT, StandInLabelStudio
from worker.label_studio.image_cache import OFF
from worker.label_studio.outcomes import EmptyRecord, RegionOutcomes, RegionRecord
from worker.learning import adapter_files
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import UNLABELLED, Adapter, AdapterState, Example, Fitted
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.segmenter import Segmenter
from worker.service.adapters import ProjectAdapters
from worker.service.context import WorkerContext
from worker.service.trainer import offer_round, reading, training_round
from worker.service.trainer.corrections import Correction, LeftOutTask, UnreadTask
from worker.service.trainer.learner import Learner

WEIGHTS = "0123456789ab"
LEARNED_ON = f"{WEIGHTS}-number1"


@dataclass(frozen=True)
class OneNumber:
    """An adapter that is one number."""

    number: float
    refinement: ClassVar[Method] = ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        return ClassScores.from_logits(image.zero_shot.logits + self.number)

    def taught(self, words: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return words

    def at_strength(self, strength: float) -> Self:
        return replace(self, number=self.number * strength)

    def state(self) -> AdapterState:
        return AdapterState("number", {"number": torch.tensor([self.number])}, {"said": "so"})


def segmenter_with(weights: str) -> Segmenter:
    """A stand-in for a loaded model: its fingerprint alone."""
    return cast("Segmenter", SimpleNamespace(encoder=SimpleNamespace(fingerprint=weights)))


class NumberRecipe:
    """Makes such adapters again."""

    name = "number"
    form = 1

    def load(self, state: AdapterState, segmenter: Segmenter) -> OneNumber:
        if "number" not in state.tensors or state.about.get("said") != "so":
            raise LearningError("adapter", "is incomplete", "Learn it again.")
        return OneNumber(float(state.tensors["number"][0]))


@dataclass
class LearningHouse:
    """A learner and what it stands on; what a test changes is what annotators and the gate do."""

    redis: Redis
    settings: Settings
    label_studio: StandInLabelStudio = field(default_factory=lambda: StandInLabelStudio(8))
    mark: AnnotationMark = field(default_factory=lambda: AnnotationMark(0, "", 0))
    digest: str = "none"
    content: str = "none"
    drawn: str = "cat"
    outcomes: Mapping[str, RegionOutcomes] = field(default_factory=dict)
    records: tuple[RegionRecord, ...] = ()
    empty: tuple[EmptyRecord, ...] = ()
    others: frozenset[int] = frozenset()
    away: frozenset[int] = frozenset()
    several: frozenset[int] = frozenset()
    away_images: frozenset[str] = frozenset()
    broken: frozenset[int] = frozenset()
    brought: tuple[str, ...] = ()  # labels that each task has in its data
    reads: list[tuple[int, ...] | None] = field(default_factory=list)
    next_number: float = 0.0
    promotes: bool = True
    back_to_zeroshot: bool = False
    judged: list[tuple[Any, tuple[str, ...]]] = field(default_factory=list)
    while_judging: Callable[[], object] = lambda: None
    held_out: set[str] = field(default_factory=set)
    words: tuple[tuple[str, ...], ...] = ()
    learns_from: tuple[str, ...] = ("1", "2")

    def __post_init__(self) -> None:
        self.resident = self.make_resident("me")
        self.learner = Learner(self.resident)
        self.learning = ProjectLearning(self.redis, lease_s=30)

    def make_resident(self, name: str, *, learner: bool = True, weights: str = WEIGHTS) -> WorkerContext:
        made: Any = type("StandInContext", (), {})()
        made.name, made.redis, made.settings = name, self.redis, self.settings
        made.label_studio, made.limits, made.image_cache = self.label_studio, None, OFF
        made.learning = ProjectLearning(self.redis, lease_s=30)
        made.pending = PendingTasks(self.redis, drain_tasks=8, lease_s=30)
        made.hints, made.ledger = ProjectHints(self.redis), ProjectLedger(self.redis)
        assert made.hints.admit(PROJECT)
        made.presence = WorkerPresence(self.redis, learners=learner)
        made.adapters = ProjectAdapters(self.settings, self.redis, segmenter_with(weights), learner=learner)
        made.stopping, made.trouble, made.watch = threading.Event(), "", DutyWatch()
        made.segmenter = made.embeddings = made
        made.encoder, made.embed, made.fingerprint = made, None, weights
        made.about = lambda: {"model": "builtin"}
        return cast("WorkerContext", made)

    def read_otherwise(self, weights: str) -> None:
        """The learner was started again with a model of another fingerprint."""
        self.resident = self.make_resident("me", weights=weights)
        self.learner = Learner(self.resident)

    @property
    def folder(self) -> VersionFolder:
        return self.resident.adapters.folder(self.label_studio.project(PROJECT))

    @property
    def attempt(self) -> Attempt:
        """The last one."""
        found = self.folder.pointer().attempt
        assert found is not None
        return found

    @property
    def served(self) -> str:
        """As the disk says."""
        return self.folder.pointer().served

    def annotate(self, tasks: int, *, digest: str) -> None:
        """So many tasks are annotated by now."""
        known = self.mark.tasks
        self.mark, self.digest = AnnotationMark(tasks, digest, max(1, tasks - known)), digest
        self.content = digest

    def open_annotated(self, *, digest: str) -> None:
        """Annotated tasks were opened: Label Studio stored predictions for them, and calls the tasks changed."""
        self.mark, self.digest = AnnotationMark(self.mark.tasks, digest, self.mark.tasks), digest

    def read(
        self, label_studio: object, project: int, vocabulary: Vocabulary, *, only: Set[int] | None = None, **_: object
    ) -> Iterator[Correction | UnreadTask | LeftOutTask]:
        """Stands in for the reading: tasks 1 and `others`, but those `away` or `broken`; in each image the label
        `drawn` lies where `content` says. Those in `several` have three images each,
        which may be in `away_images` alone.
        """
        for task in sorted(self.away if only is None else self.away & set(only)):
            yield _unread(task, str(task))
        for task in sorted(self.broken if only is None else self.broken & set(only)):
            yield LeftOutTask(task, f"task {task}: item 1 of a result: is null and no region. Open the task.")
        self.reads.append(None if only is None else tuple(sorted(only)))
        vocabulary = vocabulary.for_sample(self.brought) if self.brought else vocabulary
        for task in sorted(({1, *self.others} if only is None else only) - self.away - self.broken):
            for key in [f"{task}/page/{number}" for number in range(3)] if task in self.several else [str(task)]:
                if key in self.away_images:
                    yield _unread(task, key)
                else:
                    example = self._example(key, vocabulary)
                    records, empty = self.records, self.empty
                    yield Correction(task, (task,), False, self.outcomes, example, vocabulary, records, empty)

    def _example(self, key: str, vocabulary: Vocabulary) -> Example:
        rows = np.frombuffer(sha256(self.content.encode()).digest(), dtype=np.uint8)
        labels = [number for number, texts in enumerate(vocabulary.words) if texts[0] == self.drawn]
        truth = np.where(rows[:, None] % 2, labels[0] if labels else UNLABELLED, UNLABELLED).astype(np.int16)
        image = np.zeros((*truth.shape, 3), dtype=np.uint8)
        return Example(key, image, cast("ImageEmbedding", None), vocabulary.words, truth)

    def look(self, *, pressed: bool = False) -> Progress:
        """A webhook came, and the pause after it is over."""
        if pressed:
            self.learning.request_now(PROJECT)
        else:
            self.learning.request_after_pause(PROJECT, quiet_s=0)
        self.learner.learn(LearnProject(project=PROJECT))
        told = self.learning.progress(PROJECT)
        assert told is not None
        return told

    def judge(
        self, recipe: Any, learn: Any, hold_out: Any, served: Any, words: Any, segmenter: Any, *, seen: Any,
        candidate: Fitted | None = None, offered: bool = False,
    ) -> Verdict:
        """Stands in for the gate."""
        self.judged.append((served, tuple(seen)))
        self.words = words
        self.held_out = {example.key for example in hold_out}
        self.while_judging()
        if not self.promotes:
            return Verdict(False, served, 0.0, "kept what is served: no better.", {})
        if self.back_to_zeroshot:
            return Verdict(True, None, 0.0, "went back to the zero-shot model: better.", {})
        self.next_number += 1
        figures: Mapping[str, Any] = {"mean_iou": {"served": 0.1, "candidate": 0.9}}
        made = candidate.plain if candidate else cast("Adapter", OneNumber(self.next_number))
        return Verdict(True, made, 1.0, "promoted at strength 1: better.", figures, () if offered else self.learns_from)


def _unread(task: int, key: str) -> UnreadTask:
    return UnreadTask(task, f"image of task {task}: was answered with HTTP 503. Look at its server.", key)


@pytest.fixture(name="learning_house")
def learning_house_fixture(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearningHouse]:
    settings = Settings(model="builtin", label_studio_url="http://ls", versions=str(tmp_path), finetune_every=3)
    house = LearningHouse(redis, settings)

    def recipe_named(name: str) -> NumberRecipe:
        if name not in ("number", "quick"):
            raise LearningError(f"recipe {name!r}", "is not known", "Choose another.")
        return NumberRecipe()

    for module in (training_round, offer_round):
        monkeypatch.setattr(module, "annotation_mark", lambda *_, **__: house.mark)
        monkeypatch.setattr(module, "recipe_named", recipe_named)
        monkeypatch.setattr(module, "judge", house.judge)
    monkeypatch.setattr(training_round, "corrections_digest", lambda *_: house.digest)
    monkeypatch.setattr(reading, "read_corrections", house.read)
    monkeypatch.setattr(adapter_files, "recipe_named", recipe_named)
    yield house
