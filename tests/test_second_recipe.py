"""A dense recipe that learns beside `quick`: in slices, broken off without harm, and judged by the same gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from plugin_config.errors import LearningError, SettingsError
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.jobs import LearnProject
from plugin_config.versions.manifests import Contender
from plugin_config.versions.rollback import roll_back
from plugin_config.vocabulary import Vocabulary
from tests.dense_world import builtin, tiny_segmenter
from tests.learning_house import LearningHouse, learning_house_fixture
from tests.learning_world import KNOWN, STRANGE, corrected_scenes, relabelled
from tests.stand_ins import PROJECT
from worker.learning import adapter_files
from worker.learning.gate.splits import hold_out_split, is_held_out
from worker.learning.gate.verdicts import Verdict
from worker.learning.interfaces import UNLABELLED, Example, Fitted
from worker.learning.recipes import generated
from worker.learning.recipes.dense import recipe as recipes
from worker.learning.recipes.dense.recipe import LSegRecipe
from worker.learning.recipes.dense.training import DenseTrainer, TrainingConfig
from worker.learning.recipes.dense.zegclip_recipe import ZegclipRecipe
from worker.learning.recipes.generated import EVERY_LABEL_CORRECTED
from worker.segmentation.segmenter import Segmenter
from worker.service.adapters import ProjectAdapters
from worker.service.context import WorkerContext
from worker.service.trainer import reading, second_recipe
from worker.service.trainer.corrections import Correction
from worker.service.trainer.learner import Learner

__all__ = ["learning_house_fixture"]  # pytest finds the fixture by its being here

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 3
CONFIG = """<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">
  <Label value="wug"/><Label value="dax"/><Label value="fep"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """22 corrected pictures of things whose words the model does not know; there are five different ones."""
    drawn = corrected_scenes(builtin(), 5, words=STRANGE)
    return [replace(drawn[number % 5], key=str(number)) for number in range(22)]


@pytest.fixture
def house(
    learning_house: LearningHouse, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> Iterator[LearningHouse]:
    house = learning_house
    house.promotes = False  # what quick learns is never better
    house.settings = replace(house.settings, recipe="lseg", finetune_every=1)
    house.label_studio.config = CONFIG
    start_learner(house)
    house.label_studio.data = dict.fromkeys(range(1, 30), "x")
    correct(house, examples, monkeypatch)
    recipe = LSegRecipe(training=TrainingConfig(steps=STEPS, batch=2, warmup=1))
    monkeypatch.setattr(second_recipe, "recipe_named", lambda name: recipe)
    monkeypatch.setattr(adapter_files, "recipe_named", lambda name: recipe)
    yield house


@pytest.fixture
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that promotes whatever the second recipe has learned."""
    def judge(*_: object, candidate: Any, **__: object) -> Verdict:
        return Verdict(True, candidate.plain, 1.0, "promoted at strength 1: better.", {})

    monkeypatch.setattr(second_recipe, "judge", judge)


def start_learner(house: LearningHouse, name: str = "me", segmenter: Segmenter | None = None) -> None:
    """A learner with a model starts: the builtin one unless another is given."""
    context: Any = house.make_resident(name)
    context.segmenter = segmenter or builtin()
    context.adapters = ProjectAdapters(house.settings, house.redis, context.segmenter, learner=True)
    house.resident = cast("WorkerContext", context)
    house.learner = Learner(house.resident)


def correct(house: LearningHouse, examples: Sequence[Example], patch: pytest.MonkeyPatch) -> None:
    """So many images are corrected by now."""
    def read(_: object, __: int, vocabulary: Vocabulary, **___: object) -> Iterator[Correction]:
        house.reads.append(None)
        for example in examples:
            yield Correction(int(example.key), (1,), False, {}, example, vocabulary)

    patch.setattr(reading, "read_corrections", read)
    house.annotate(len(examples), digest=f"{len(examples)} images")


def contender(house: LearningHouse) -> Contender | None:
    return house.folder.pointer().contenders.get("lseg")


def test_it_learns_beside_quick_and_is_served_where_it_is_better(house: LearningHouse, examples: list[Example]) -> None:
    told = house.look()
    assert (told.state, told.detail.startswith("lseg: promoted at strength")) == ("idle", True), told
    train, held_out = hold_out_split(examples)
    manifest, _ = house.resident.adapters.adapter(house.folder, house.served)
    assert (manifest.recipe, set(manifest.learned_from)) == ("lseg", {example.key for example in train})
    assert manifest.verdict.figures["judged_on"] == {"held_out": len(held_out), "cross_validated": 0}
    assert manifest.verdict.figures["generator"] == {"kept": False, "reason": EVERY_LABEL_CORRECTED}
    assert house.attempt.verdict.reason == "kept what is served: no better.", "quick's verdict stays beside it"
    reads, serial = len(house.reads), house.folder.pointer().serial
    house.look()
    assert (len(house.reads), house.folder.pointer().serial) == (reads, serial), "the same corrections teach nothing"


def test_labels_that_only_tasks_bring_along_are_learned_and_judged_too(
    house: LearningHouse, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: object, __: int, vocabulary: Vocabulary, **___: object) -> Iterator[Correction]:
        for example in examples:
            filled = vocabulary.for_sample(["wug", "dax", "fep"])
            yield Correction(int(example.key), (1,), False, {}, example, filled)

    house.label_studio.config = CONFIG.partition("<BrushLabels")[0] + (
        '<BrushLabels name="b" toName="i" value="$labels"/></View>'
    )
    start_learner(house)
    monkeypatch.setattr(reading, "read_corrections", read)
    told = house.look()
    assert told.detail.startswith("lseg: promoted at strength"), told


@pytest.mark.usefixtures("quick_gate")
def test_it_takes_slices_and_quick_goes_first_in_between(
    house: LearningHouse, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_recipe, "SLICE_S", 0.0)
    told = house.look()
    assert (told.state, told.detail) == (
        "learning", f"{told.detail.partition(';')[0]}; kept what is served: no better.",
    )  # fmt: skip
    assert "lseg has taken 1 of 3 steps" in told.detail
    assert house.learning.due() == [PROJECT], "it goes on at once"
    correct(house, [*examples, replace(examples[0], key="40")], monkeypatch)
    house.learner.learn(LearnProject(project=PROJECT))
    assert len(house.judged) == 2, "quick has learned from the new one"
    assert "2 of 3 steps" in getattr(house.learning.progress(PROJECT), "detail", "")
    house.learner.learn(LearnProject(project=PROJECT))
    first = contender(house)
    assert first is not None
    assert first.verdict.promoted
    for _ in range(STEPS):
        house.look()
    second = contender(house)
    assert second is not None
    assert second.content != first.content, "then it learns from the new one too"


def test_it_goes_on_with_generated_examples_and_both_are_judged(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model reads the words of all labels, and the third one has no region."""
    candidates: list[Fitted] = []

    def judge(*_: object, candidate: Fitted, **__: object) -> Verdict:
        candidates.append(candidate)
        return Verdict(False, None, 0.0, "kept what is served: no better.", {})

    monkeypatch.setattr(second_recipe, "judge", judge)
    monkeypatch.setattr(second_recipe, "SLICE_S", 0.0)
    monkeypatch.setattr(recipes, "CONFIG", replace(generated.CONFIG, steps=3))
    for old, (new,) in zip(("wug", "dax", "fep"), KNOWN, strict=True):
        house.label_studio.config = house.label_studio.config.replace(old, new)
    start_learner(house)
    drawn = relabelled(corrected_scenes(builtin(), 2), (0, 1, UNLABELLED))
    correct(house, [replace(drawn[number % 2], key=str(number)) for number in range(22)], monkeypatch)
    told = [house.look().detail for _ in range(STEPS)]
    assert "lseg has taken 2 of 3 steps in" in told[-2]
    assert "lseg has taken 0 of 1 steps with generated examples in " in told[-1]
    house.look()
    (candidate,) = candidates
    assert candidate.supplied is not None


@pytest.mark.usefixtures("quick_gate")
def test_stopped_in_the_middle_it_begins_anew_and_what_is_served_stays(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_recipe, "SLICE_S", 0.0)
    house.look()
    house.resident.stopping.set()
    assert "will start again" in house.look().detail
    assert (house.served, contender(house)) == (ZEROSHOT, None)
    start_learner(house, "another")
    assert "1 of 3 steps" in house.look().detail
    house.look()
    house.look()
    assert house.served.startswith("a1-")


@pytest.mark.usefixtures("quick_gate")
def test_one_that_was_taken_over_in_the_middle_moves_nothing(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = DenseTrainer.step
    taken: list[object] = []

    def slow(trainer: DenseTrainer, *batch: Any) -> dict[str, float]:
        if not taken:
            taken.append(house.redis.set(f"zeromask:{PROJECT}:learner", "another|99999999999999"))
        return step(trainer, *batch)

    monkeypatch.setattr(DenseTrainer, "step", slow)
    monkeypatch.setattr(second_recipe, "_CHECK_EVERY_S", 0.0)
    house.look()
    assert (house.served, contender(house)) == (ZEROSHOT, None)


@pytest.mark.usefixtures("quick_gate")
def test_it_stops_when_its_time_is_over_and_is_judged_as_it_is(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_recipe, "MOST_S", 0.0)
    steps: list[int] = []
    step = DenseTrainer.step

    def counted(trainer: DenseTrainer, *batch: Any) -> dict[str, float]:
        steps.append(trainer.steps_done)
        return step(trainer, *batch)

    monkeypatch.setattr(DenseTrainer, "step", counted)
    house.look()
    assert (steps, contender(house) is not None) == ([0], True)


def nothing_drawn(examples: list[Example]) -> list[Example]:
    return [replace(example, truth=example.truth * 0 - 1) for example in examples]


def few(examples: list[Example]) -> list[Example]:
    return examples[:19]


def none_held_out(examples: list[Example]) -> list[Example]:
    keys = [key for key in map(str, range(100, 200)) if not is_held_out(key)]
    return [replace(examples[0], key=key) for key in keys[:21]]


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        pytest.param(few, "", id="too few"),
        pytest.param(nothing_drawn, "no label of the project is drawn", id="nothing drawn"),
        pytest.param(none_held_out, "0 of 21 corrected images are held out", id="none held out"),
    ],
)
def test_where_nothing_can_be_learned_the_reason_is_told_once(
    of: Callable[[list[Example]], list[Example]], reason: str, house: LearningHouse, examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    correct(house, of(examples), monkeypatch)
    house.look()
    found = contender(house)
    assert (found is None) == (reason == "")
    assert found is None or reason in found.verdict.reason
    reads = len(house.reads)
    house.look()
    assert (len(house.reads), house.served) == (reads, ZEROSHOT)


@pytest.mark.parametrize("error", [
    LearningError("training", "the loss of step 1 is no number", "Lower the learning rate."),
    RuntimeError("DefaultCPUAllocator: not enough memory, no number"),
], ids=["no number", "no memory"])  # fmt: skip
def test_a_training_that_fails_is_told_and_quick_goes_on(
    error: Exception, house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(DenseTrainer, "step", fails)
    told = house.look()
    assert "no number" in told.detail
    assert "kept what is served: no better." in told.detail
    assert house.served == ZEROSHOT


@pytest.mark.usefixtures("quick_gate")
def test_what_a_person_took_back_does_not_come_back(house: LearningHouse) -> None:
    house.look()
    assert house.served != ZEROSHOT
    roll_back(house.redis, PROJECT, "builtin")
    house.look()
    assert house.served == ZEROSHOT


def learns_zegclip(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter) -> None:
    """The learner starts with ZegCLIP as its second recipe."""
    recipe = ZegclipRecipe(training=TrainingConfig(steps=STEPS, batch=2, warmup=1))
    monkeypatch.setattr(second_recipe, "recipe_named", lambda name: recipe)
    monkeypatch.setattr(adapter_files, "recipe_named", lambda name: recipe)
    house.settings = replace(house.settings, recipe="zegclip")
    start_learner(house, segmenter=segmenter)


def test_zegclip_on_a_model_without_a_class_token_says_so_and_what_is_served_stays(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns_zegclip(house, monkeypatch, builtin())
    house.look()
    made = house.folder.pointer().contenders["zegclip"]
    assert "kept what is served: tower encoder: a ModifiedResNet is no plain ViT" in made.verdict.reason
    assert "MODEL=ViT-B-16" in made.verdict.reason
    assert house.served == ZEROSHOT
    reads = len(house.reads)
    house.look()
    assert len(house.reads) == reads, "the same corrections are not tried again"


@pytest.mark.usefixtures("quick_gate")
def test_zegclip_is_learned_and_served_on_a_vit(
    house: LearningHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit = tiny_segmenter(tmp_path)
    drawn = corrected_scenes(vit, 2, words=STRANGE)
    correct(house, [replace(drawn[number % 2], key=str(number)) for number in range(22)], monkeypatch)
    learns_zegclip(house, monkeypatch, vit)
    told = house.look()
    assert told.detail.startswith("zegclip: promoted at strength 1")
    manifest, adapter = house.resident.adapters.adapter(house.folder, house.served)
    assert manifest.recipe == "zegclip"
    scores = adapter.scores(vit.score(drawn[0].embedding, (*STRANGE, ("a label added later",)), drawn[0].image))
    assert bool(scores.scored.all())


@pytest.mark.usefixtures("quick_gate")
def test_images_are_held_out_for_it_whatever_quick_has_learned_from(
    house: LearningHouse, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    house.promotes, house.learns_from = True, tuple(example.key for example in examples)
    chosen = {key for key in house.learns_from if is_held_out(key)}
    for more in ([], [replace(examples[0], key="22")]):
        correct(house, [*examples, *more], monkeypatch)
        house.look()
        assert house.held_out == chosen


def test_without_the_setting_nothing_of_it_happens(house: LearningHouse) -> None:
    house.settings = replace(house.settings, recipe="quick")
    start_learner(house)
    house.look()
    assert (contender(house), len(house.reads)) == (None, 1)


def test_a_recipe_that_cannot_learn_in_the_background_is_refused_at_the_start() -> None:
    for name in ("quick", "lseg", "sazs", "zegclip"):
        second_recipe.check_recipe(name)
    with pytest.raises(SettingsError, match="ZEROMASK_RECIPE: must be one of quick, lseg, sazs, zegclip, got 'zegclp'"):
        second_recipe.check_recipe("zegclp")
