"""The generator of the dense recipes: features pasted into crops, the loss of these, and a training that sees them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError
from tests.dense_world import TIMM, builtin, output_of, pixels_of, small, tiny_segmenter, unit_rows
from tests.learning_world import KNOWN, corrected_scenes, relabelled
from worker.learning.interfaces import UNLABELLED, Example, fit_both
from worker.learning.recipes import generated
from worker.learning.recipes.dense import recipe as recipes
from worker.learning.recipes.dense.batches import CropConfig, training_sample
from worker.learning.recipes.dense.lseg import LSegNetwork, lseg_loss
from worker.learning.recipes.dense.networks import DenseNetwork
from worker.learning.recipes.dense.pasting import SparingSoftmax, Supply, draw_blobs, paste
from worker.learning.recipes.dense.presets import small_lseg
from worker.learning.recipes.dense.recipe import DenseRecipe, LSegRecipe, SazsRecipe
from worker.learning.recipes.dense.stages import (
    NO_TIME,
    PSEUDO_LABELLED,
    TOWER_TRAINED,
    StagedTraining,
    SupplyingTrainer,
    second_config,
)
from worker.learning.recipes.dense.training import TrainingConfig
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.learning.recipes.dense.zegclip_loss import SparingSigmoids, ZegclipLoss
from worker.learning.recipes.dense.zegclip_presets import ZegclipPreset
from worker.learning.recipes.dense.zegclip_recipe import ZegclipRecipe
from worker.learning.recipes.generated import EVERY_LABEL_CORRECTED, GENERATOR, LEFT_OUT, NO_MEMORY, UNREADABLE
from worker.segmentation.encoders.towers import TowerConfig
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainingConfig(steps=8, batch=1, crop=CropConfig(32), warmup=2)
FEW = replace(generated.CONFIG, steps=3)
TAUGHT, BACKGROUND = 2, 2  # labels 0 and 1 are taught
STRIDE = 4


def supply(count: int = 3, width: int = 5) -> Supply:
    """Four vectors of each label, all numbers of which are its own number from 100."""
    labels = torch.arange(count).repeat_interleave(4)
    return Supply((100.0 + labels)[:, None].expand(-1, width).clone(), labels, unit_rows(count, width))


def drawn(*shape: int) -> Tensor:
    """Random numbers, the same ones each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def crops() -> Tensor:
    """(2, 24, 32) truth in cells of 4 pixels: labels, a strip of VOID, and background that begins within a cell."""
    truth = torch.full((2, 24, 32), BACKGROUND)
    truth[:, :6, :10] = 0
    truth[1, 10:, 20:] = 1
    truth[:, -5:, :] = VOID
    return truth


def test_pasting_changes_no_cell_but_those_it_pastes_into() -> None:
    entry, truth = drawn(2, 5, 6, 8), crops()
    covered = torch.zeros(2, 6, 8, dtype=torch.bool)
    for number in range(20):
        changed, rows = paste(entry, truth, supply(), BACKGROUND, np.random.default_rng(number))
        pasted = (rows >= TAUGHT) & (rows < TAUGHT + 3)
        cells = (changed != entry).all(dim=1)
        assert torch.equal((changed != entry).any(dim=1), cells)
        assert torch.equal(cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2), pasted)
        at_cells = rows[:, ::STRIDE, ::STRIDE]
        assert torch.equal(changed[:, 0][cells], 98.0 + at_cells[cells]), "the vectors are of their labels"
        assert bool((truth[pasted] == BACKGROUND).all())
        assert torch.equal(rows[~pasted], torch.where(truth == BACKGROUND, BACKGROUND + 3, truth)[~pasted])
        free = (F.max_pool2d((truth != BACKGROUND).float()[:, None], STRIDE) == 0)[:, 0]
        assert bool((cells.sum(dim=(1, 2)) <= free.sum(dim=(1, 2)) // 2).all())
        assert bool(cells.flatten(1).any(dim=1).all())
        covered |= cells
    assert torch.equal(covered & ~free, torch.zeros_like(free))
    assert float(covered.sum() / free.sum()) > 0.8, "any free cell may be pasted into"


def test_where_every_pixel_has_a_label_any_known_cell_is_pasted_into() -> None:
    truth = torch.zeros(2, 24, 32, dtype=torch.int64)
    truth[0, :, 14:] = VOID
    truth[1] = VOID
    entry = drawn(2, 5, 6, 8)
    changed, rows = paste(entry, truth, supply(), BACKGROUND, np.random.default_rng(0))
    assert bool((rows[0] >= TAUGHT).any())
    assert torch.equal(rows[truth == VOID], truth[truth == VOID]), "nothing is told of void pixels"
    assert torch.equal(changed[0, :, :, 3:], entry[0, :, :, 3:])
    assert torch.equal(changed[1], entry[1])


def test_blobs_are_rectangles_and_the_same_for_the_same_seed() -> None:
    places = np.ones((16, 16), dtype=bool)
    one, same, other = (draw_blobs(places, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    sizes = [np.count_nonzero(draw_blobs(places, 3, np.random.default_rng(seed)) >= 0) for seed in range(50)]
    assert min(sizes) >= 4
    assert max(sizes) <= 128
    assert not (draw_blobs(places & False, 3, np.random.default_rng(0)) >= 0).any()


def test_the_softmax_spares_supplied_labels_where_no_region_lies_and_nowhere_else() -> None:
    loss = SparingSoftmax(lseg_loss, TAUGHT)  # rows: 0 and 1 taught, 2 to 4 supplied, 5 the background
    logits = drawn(1, 6, 1, 4)
    truth = torch.tensor([[[0, 3, 5, VOID]]])
    posterior = logits.softmax(dim=1)[0, :, 0]
    wanted = -torch.stack([posterior[0, 0], posterior[3, 1], posterior[2:, 2].sum()]).log()
    terms = loss(output_of(logits), truth)
    torch.testing.assert_close(terms["total"], wanted.mean())
    torch.testing.assert_close(terms["supplied"], wanted[1])
    swapped = logits.clone()
    swapped[:, 2:, :, 2] = logits[:, 2:, :, 2].flip(1)
    torch.testing.assert_close(loss(output_of(swapped), truth)["total"], terms["total"])
    none = loss(output_of(logits), torch.tensor([[[0, 1, 5, VOID]]]))
    torch.testing.assert_close(none["total"], none["align"])


def test_sigmoids_of_supplied_labels_have_no_loss_where_no_region_lies() -> None:
    loss = SparingSigmoids(ZegclipLoss(), TAUGHT)
    logits = drawn(1, 6, 1, 4).requires_grad_()
    loss(output_of(logits), torch.tensor([[[0, 3, 5, VOID]]]))["total"].backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    grad = logits.grad[0, :, 0]
    assert bool((grad[2:5, 2] == 0).all())
    assert bool((grad[[0, 1, 5], 2] != 0).all())
    assert bool((grad[:, :2] != 0).all())
    assert float(grad[3, 1]) < 0 < float(grad[2, 1]), "a pasted cell asks for its own label"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("vit"))


def lseg_of_the_model(_: Segmenter) -> DenseNetwork:
    return LSegNetwork(*small(builtin()), 128)


def lseg_of_another_tower(_: Segmenter) -> DenseNetwork:
    preset, tower = small(builtin(), lambda encoder: replace(small_lseg(encoder, "another"), tower=TIMM))
    return LSegNetwork(preset, tower, 128)


def zegclip_of_the_model(vit: Segmenter) -> DenseNetwork:
    tower = vit.towers.get(TowerConfig())
    return ZegclipNetwork(ZegclipPreset(TowerConfig(), aligned=True), tower, vit.classes(KNOWN).vectors.shape[1])


@pytest.mark.parametrize(("build", "in_words_space"), [
    (lseg_of_the_model, True), (lseg_of_another_tower, False), (zegclip_of_the_model, True),
])  # fmt: skip
def test_the_decoder_reads_what_is_pasted(
    build: Callable[[Segmenter], DenseNetwork], in_words_space: bool, vit: Segmenter
) -> None:
    network = build(vit).eval()
    for one in network.parameters():  # some decoders start at nothing
        if one.requires_grad and one.dim() > 1:
            torch.nn.init.normal_(one, std=0.1)
    pixels, labels = pixels_of(network.tower), unit_rows(3, network.width)
    entry, seen = network.entry(pixels), []

    def same(given: Tensor) -> Tensor:
        seen.append(given)
        return given

    with torch.no_grad():
        torch.testing.assert_close(network(pixels, labels, same).logits, network(pixels, labels).logits)
    torch.testing.assert_close(seen[0], entry)
    assert network.entry_in_words_space == in_words_space
    if in_words_space:
        torch.testing.assert_close(entry.norm(dim=1), torch.ones_like(entry[:, 0]))
    other = entry.clone()
    other[0, :, 1:3, 1:3] = -other[0, :, 1:3, 1:3]
    changed, before = network(pixels, labels, lambda _: other), network(pixels, labels)
    assert not torch.allclose(changed.logits[0], before.logits[0])
    torch.testing.assert_close(changed.logits[1], before.logits[1])
    changed.logits.sum().backward()
    assert all(one.grad is None for one in network.tower.module.parameters()), "the tower is frozen"


@pytest.fixture(scope="module")
def scenes() -> list[Example]:
    return relabelled(corrected_scenes(builtin(), 2), (0, 1, UNLABELLED))


@pytest.fixture
def two_of_three(scenes: list[Example], monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    """Pictures in which the third label has no region, and a generator of few steps."""
    monkeypatch.setattr(recipes, "CONFIG", FEW)
    return scenes


RECIPES: dict[str, DenseRecipe] = {"lseg": LSegRecipe(training=SHORT), "sazs": SazsRecipe(training=SHORT)}


@pytest.mark.parametrize("name", [*RECIPES])
def test_the_first_training_ends_as_it_would_alone_and_the_second_is_a_copy(
    name: str, two_of_three: list[Example]
) -> None:
    recipe = RECIPES[name]
    alone = recipe.fit(two_of_three, KNOWN, builtin()).state().tensors
    both, again = (fit_both(recipe, two_of_three, KNOWN, builtin()) for _ in range(2))
    assert both.reason == ""
    assert both.supplied is not None
    assert again.supplied is not None
    plain, supplied = both.plain.state(), both.supplied.state()
    assert all(torch.equal(plain.tensors[key], values) for key, values in alone.items())
    assert any(not torch.equal(plain.tensors[key], values) for key, values in supplied.tensors.items())
    assert plain.about == supplied.about, "a supplied label is no learned one"
    image = builtin().score(two_of_three[0].embedding, KNOWN, two_of_three[0].image)
    loaded = recipe.load(supplied, builtin()).scores(image)
    assert torch.equal(loaded.logits, both.supplied.scores(image).logits)
    same = again.supplied.state().tensors
    assert all(torch.equal(same[key], values) for key, values in supplied.tensors.items())
    assert all(one.grad is None and not one.requires_grad for one in builtin().encoder.visual.parameters())


def begun(recipe: DenseRecipe, examples: list[Example]) -> StagedTraining:
    """A training whose first stage is over and whose second one is ready."""
    training = recipe.staged(examples, KNOWN, builtin())
    while training.second is None:
        training.step()
    return training


def test_a_second_training_that_is_resumed_ends_with_the_same_weights(two_of_three: list[Example]) -> None:
    training = begun(RECIPES["lseg"], two_of_three)
    second = training.second
    assert second is not None
    assert training.told == "0 of 2 steps with generated examples"
    assert (second.config.rate, second.config.steps) == (SHORT.rate / 2, 2)
    samples = [training_sample(example, KNOWN[:2]) for example in two_of_three]
    second.step(*second.draw(samples))
    broken_off, ends = deepcopy(second.state()), []
    for _ in range(2):
        second.restore(deepcopy(broken_off))
        assert second.steps_done == 1
        second.step(*second.draw(samples))
        ends.append(deepcopy(second.network.state_dict()))
        torch.rand(3)  # whatever else happens meanwhile
    assert all(torch.equal(ends[1][name], values) for name, values in ends[0].items())
    assert any(not torch.equal(broken_off["network"][name], values) for name, values in ends[0].items())
    assert not torch.equal(second.draw(samples)[0], training.first.draw(samples)[0]), "crops of its own"


@pytest.mark.parametrize(("error", "reason"), [
    (LearningError("training", "the loss of step 1 is no number", "Lower the learning rate."), "no number"),
    (RuntimeError("DefaultCPUAllocator: not enough memory"), NO_MEMORY),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "broke off (RuntimeError: cuDNN error"),
])  # fmt: skip
def test_a_second_training_that_fails_leaves_the_first(
    error: Exception, reason: str, two_of_three: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    training = begun(RECIPES["lseg"], two_of_three)
    assert training.fitted().reason == NO_TIME, "no step of it is taken yet"
    monkeypatch.setattr(SupplyingTrainer, "step", fails)
    training.step()
    fitted = training.fitted()
    assert training.over
    assert fitted.supplied is None
    assert reason in fitted.reason


def reason_for(recipe: DenseRecipe, examples: list[Example], words: object = KNOWN) -> str:
    training = recipe.staged(examples, words, builtin())  # type: ignore[arg-type]
    training.first.steps_done = training.first.config.steps
    training.step()
    assert training.over
    return training.fitted().reason


def test_why_nothing_is_generated(two_of_three: list[Example]) -> None:
    recipe = RECIPES["lseg"]
    assert reason_for(recipe, two_of_three, KNOWN[:2]) == EVERY_LABEL_CORRECTED
    assert reason_for(recipe, two_of_three, (*KNOWN[:2], ("wug",))) == UNREADABLE
    for made in (LSegRecipe, SazsRecipe):
        assert reason_for(made(without=(GENERATOR,), training=SHORT), two_of_three) == LEFT_OUT
    trained = replace(recipe, changes={"trains_tower": True})
    assert reason_for(trained, two_of_three) == TOWER_TRAINED


def test_zegclip_is_supplied_too(vit: Segmenter, two_of_three: list[Example]) -> None:
    """Of a model without any knowledge, features are generated whole."""
    examples = relabelled(corrected_scenes(vit, 2), (0, 1, UNLABELLED))
    recipe = ZegclipRecipe(training=SHORT, changes={"aligned": False})
    fitted = fit_both(recipe, examples, KNOWN, vit)
    assert fitted.reason == ""
    assert fitted.supplied is not None
    assert KNOWN[2] not in fitted.supplied.seen, "no mask of it was shown"  # type: ignore[attr-defined]
    told = replace(recipe, transductive=True, unseen=KNOWN[1:2]).staged_of([], KNOWN[:2], (), vit)
    told.first.steps_done = told.first.config.steps
    told.step()
    assert told.reason == PSEUDO_LABELLED
    assert fit_both(replace(recipe, without=(GENERATOR,)), examples, KNOWN, vit).reason == LEFT_OUT


def test_the_second_training_is_a_quarter_of_the_first() -> None:
    found = second_config(TrainingConfig(steps=300, rate=1e-3, warmup=10))
    assert (found.steps, found.rate, found.warmup) == (75, 5e-4, 10)
    assert second_config(TrainingConfig(steps=1)).steps == 1
    assert second_config(TrainingConfig(steps=40, warmup=10)).warmup == 2
