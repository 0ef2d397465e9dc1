"""Dense recipes as a whole: trained on crops, resumed with the same weights, stored without frozen weights, served."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from plugin_config.errors import LearningError
from plugin_config.versions.manifests import VerdictRecord, VersionFolder
from tests.dense_world import TIMM, builtin, unit_rows
from tests.learning_world import KNOWN, STRANGE, corrected_scenes
from tests.models import noise
from tests.test_versions import OWNER
from worker.learning.interfaces import UNLABELLED, AdapterState, Example, Words
from worker.learning.recipes import recipe_named
from worker.learning.recipes.dense.adapter import DenseAdapter
from worker.learning.recipes.dense.batches import (
    CropConfig,
    Sample,
    batch_rng,
    draw_batch,
    entered,
    taught_words,
    training_sample,
)
from worker.learning.recipes.dense.inference import Inference, average_views
from worker.learning.recipes.dense.labels import LabelVectors, TextVectors
from worker.learning.recipes.dense.recipe import DenseRecipe, LSegRecipe, SazsRecipe
from worker.learning.recipes.dense.training import DenseTrainer, TrainingConfig, count_trained, rate_factor
from worker.segmentation.encoders.towers import Tower
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, POSTERIORS
from worker.service.adapter_store import load_adapter, save_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainingConfig(steps=6, batch=2, crop=CropConfig(64))
RECIPES = {"lseg": LSegRecipe(training=SHORT), "sazs": SazsRecipe(training=SHORT)}


@pytest.fixture(scope="module")
def corrected() -> list[Example]:
    return corrected_scenes(builtin(), 3)


@pytest.fixture(scope="module")
def learned(corrected: list[Example]) -> DenseAdapter:
    return RECIPES["lseg"].fit(corrected, KNOWN, builtin())


def scores_of(example: Example, words: Words = KNOWN) -> ImageScores:
    return builtin().score(example.embedding, words, example.image)


def pointwise(pixels: Tensor) -> Tensor:
    """A network that sees cells of 4 pixels, each by itself."""
    return F.avg_pool2d(pixels[None].float(), 4)[0]


VIEWS = {
    "scales": Inference(32, scales=(0.5, 1.0, 1.75)),
    "flip": Inference(32, flip=True),
    "windows": Inference(32, window=16),
    "all": Inference(32, scales=(0.75, 1.0), flip=True, window=16),
}


@pytest.mark.parametrize("views", [*VIEWS])
def test_all_views_of_a_constant_image_say_what_one_pass_says(views: str) -> None:
    image = np.full((40, 70, 3), (200, 30, 90), dtype=np.uint8)
    found = average_views(image, VIEWS[views], 8, pointwise)
    assert found.shape[0] == 3
    torch.testing.assert_close(found, average_views(image, Inference(32), 8, pointwise)[:, :1, :1].expand_as(found))


@pytest.mark.parametrize("views", ["flip", "windows"])
def test_views_are_put_back_where_they_were_seen(views: str) -> None:
    image = noise(40, 70)
    torch.testing.assert_close(
        average_views(image, VIEWS[views], 8, pointwise), average_views(image, Inference(32), 8, pointwise)
    )


@pytest.mark.parametrize("size", [(8, 8), (1, 300), (300, 40)], ids=str)
def test_images_of_any_size_enter(size: tuple[int, int]) -> None:
    for views in VIEWS.values():
        assert average_views(noise(*size), views, 8, pointwise).isfinite().all()


def test_crops_are_the_same_for_the_same_seed_and_step() -> None:
    samples = [Sample(noise(40, 50, seed=k), np.full((40, 50), k, dtype=np.int16)) for k in range(3)]
    one, same, other = (draw_batch(samples, 5, CropConfig(32), batch_rng(0, step)) for step in (4, 4, 5))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert set(one[1].flatten().tolist()) - {VOID} == {0, 1, 2}, "each sample before any comes again"


def test_a_crop_keeps_each_pixel_with_its_class_and_voids_what_is_beyond_the_image() -> None:
    truth = np.zeros((20, 24), dtype=np.int16)
    truth[:, 12:] = 1
    image = np.repeat((truth * 200).astype(np.uint8)[..., None], 3, axis=2)
    for step in range(8):
        pixels, classes = draw_batch([Sample(image, truth)], 1, CropConfig(32, (1.0, 1.0)), batch_rng(0, step))
        known = classes[0] != VOID
        assert int(known.sum()) == 20 * 24
        assert torch.equal(pixels[0, 0][known] > 100, classes[0][known] == 1)


def test_images_enter_at_their_short_side() -> None:
    sample = entered(Sample(noise(40, 60), np.zeros((40, 60), dtype=np.int16)), 20)
    assert sample.image.shape == (20, 30, 3)
    assert sample.truth.shape == (20, 30)


def test_what_the_truth_of_an_example_becomes(corrected: list[Example]) -> None:
    example = replace(corrected[0], words=(("a",), ("b",), ("c",)), truth=np.array([[0, 1, 2, UNLABELLED, VOID]]))
    sample = training_sample(example, (("c",), ("a",)))
    assert sample.truth.tolist() == [[1, VOID, 0, 2, VOID]], "rows of the taught; the background last; others unseen"
    assert taught_words([example], (("z",), ("c",))) == (("c",),)
    with pytest.raises(LearningError, match="no label"):
        taught_words([example], (("z",),))


def trainer_of(recipe: DenseRecipe, words: Words = KNOWN) -> DenseTrainer:
    network, labels = recipe.build(words, builtin())
    return recipe.trainer(network, labels, [], builtin())


def weights_of(trainer: DenseTrainer) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in trainer.network.state_dict().items()}


def test_a_resumed_training_ends_with_the_same_weights(corrected: list[Example]) -> None:
    dropout = replace(RECIPES["lseg"], training=replace(SHORT, optimizer="sgd", rate=0.01, warmup=2))
    samples = [training_sample(example, KNOWN) for example in corrected]
    unbroken, broken, resumed = (trainer_of(dropout) for _ in range(3))
    for trainer in (unbroken, broken, resumed):
        for module in trainer.network.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.5
    for _ in range(3):
        unbroken.step(*unbroken.draw(samples))
    broken.step(*broken.draw(samples))
    torch.rand(7)  # whatever else happens meanwhile
    resumed.restore(broken.state())
    while resumed.steps_done < 3:
        resumed.step(*resumed.draw(samples))
    found, wanted = weights_of(resumed), weights_of(unbroken)
    assert all(torch.equal(found[name], values) for name, values in wanted.items())
    with pytest.raises(LearningError, match="seed"):
        DenseTrainer(resumed.network, resumed.labels, resumed._loss, SHORT, seed=9).restore(broken.state())
    with pytest.raises(LearningError, match="another network"):
        trainer_of(replace(dropout, changes={"block": "bottleneck", "block_depth": 1})).restore(broken.state())


def test_a_loss_that_is_no_number_stops_before_the_weights_change(corrected: list[Example]) -> None:
    trainer = trainer_of(RECIPES["lseg"])
    before = weights_of(trainer)
    trainer._loss = lambda output, truth: {"total": output.logits.sum() * float("nan")}
    with pytest.raises(LearningError, match="no number"):
        trainer.step(*trainer.draw([training_sample(corrected[0], KNOWN)]))
    assert all(torch.equal(before[name], values) for name, values in weights_of(trainer).items())


def test_the_learning_rate_rises_and_falls() -> None:
    config = TrainingConfig(steps=10, warmup=4)
    factors = [rate_factor(config, step) for step in range(10)]
    assert factors[0] < factors[1] < factors[3]
    assert factors[3:] == sorted(factors[3:], reverse=True)
    assert rate_factor(config, 10) == 0


@pytest.mark.parametrize("name", [*RECIPES])
def test_training_makes_the_loss_smaller(name: str, corrected: list[Example]) -> None:
    slowly = replace(RECIPES[name], training=replace(SHORT, rate=2e-4, warmup=0))
    trainer = trainer_of(slowly)
    batch = trainer.draw([training_sample(example, KNOWN) for example in corrected])
    losses = [trainer.step(*batch)["total"] for _ in range(6)]
    assert losses[-1] < losses[0]
    assert count_trained(trainer.network, trainer.labels) > 0


def test_no_frozen_weight_is_stored_and_it_loads_to_the_same_logits(
    learned: DenseAdapter, corrected: list[Example]
) -> None:
    state = learned.at_strength(0.75).state()
    stored = AdapterState(state.recipe, state.tensors, json.loads(json.dumps(dict(state.about))))
    assert all(name.startswith("network.decoder.") or name == "learned" for name in state.tensors)
    frozen = {values.data_ptr() for values in builtin().encoder.visual.parameters()}
    assert not frozen & {values.data_ptr() for values in state.tensors.values()}
    again, image = recipe_named(state.recipe).load(stored, builtin()), scores_of(corrected[0])
    assert torch.equal(again.scores(image).logits, learned.at_strength(0.75).scores(image).logits)


def test_a_state_that_does_not_fit_is_refused(learned: DenseAdapter) -> None:
    state, recipe = learned.state(), RECIPES["lseg"]
    name = next(iter(state.tensors))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"recipe": "sazs"}, "made by recipe"),
        ({"tensors": {key: one for key, one in state.tensors.items() if key != name}}, "incomplete"),
        ({"tensors": {**state.tensors, name: state.tensors[name][..., :-1]}}, "incomplete"),
        ({"about": {**state.about, "tower": "0"}}, "other weights"),
        ({"about": {**state.about, "form": 0}}, "another release"),
        ({"about": {**state.about, "strength": 3}}, "incomplete"),
        ({"about": {**state.about, "preset": {}}}, "incomplete"),
    ]
    for change, message in changes:
        with pytest.raises(LearningError, match=message):
            recipe.load(replace(state, **change), builtin())


def test_it_is_a_version_like_any_other(tmp_path: Path, learned: DenseAdapter, corrected: list[Example]) -> None:
    folder, verdict = VersionFolder(str(tmp_path), OWNER), VerdictRecord(True, "promoted", {})
    name = save_adapter(
        folder, learned, newest=0, weights=builtin().encoder.fingerprint, base="zeroshot", digest="d",
        learned_from=("1",), verdict=verdict,
    ).name  # fmt: skip
    loaded, image = load_adapter(folder, name, builtin())[1], scores_of(corrected[0])
    assert torch.equal(loaded.scores(image).logits, learned.scores(image).logits)


def test_a_label_that_was_never_trained_is_scored_by_its_vector(
    learned: DenseAdapter, corrected: list[Example]
) -> None:
    more = (*KNOWN, ("yellow shape",))
    learned = learned.at_strength(1)
    found, before = learned.scores(scores_of(corrected[0], more)), learned.scores(scores_of(corrected[0]))
    assert bool(found.scored.all())
    torch.testing.assert_close(found.logits[[0, 1, 2, 4]], before.logits)
    assert bool(found.logits[3].std() > 0)


def test_strength_0_is_the_zero_shot_model_and_between_is_between(
    learned: DenseAdapter, corrected: list[Example]
) -> None:
    image = scores_of(corrected[0])
    assert torch.equal(learned.at_strength(0).scores(image).logits, image.zero_shot.logits)
    assert learned.at_strength(0).refinement == ADAPTIVE
    assert learned.refinement == POSTERIORS
    assert learned.with_outlines(followed=True).refinement == FINE
    assert learned.strength == 0.8  # a fifth of the untrained model keeps what training forgets
    whole, half = learned.at_strength(1).scores(image), learned.at_strength(0.5).scores(image)
    zero = image.zero_shot.resized(whole.grid)
    wanted = ((whole.logits + zero.logits) / 2).softmax(dim=0)
    torch.testing.assert_close(half.posterior(), wanted, rtol=0, atol=1e-4)
    assert torch.equal(learned.scores(replace(image, image=None)).logits, image.zero_shot.logits)


def test_an_unreadable_label_learns_a_vector_and_is_silent_without_examples(corrected: list[Example]) -> None:
    words = (*STRANGE[:2], ("green shape",))
    renamed = [replace(example, words=words) for example in corrected]
    adapter = RECIPES["lseg"].fit(renamed, words, builtin())
    assert set(adapter.learned) == {*STRANGE[:2], ("background",)}, "that word is true of everything"
    assert adapter.taught((*words, ("red shape",))) == STRANGE[:2]
    found = adapter.scores(scores_of(corrected[0], (*words, STRANGE[2])))
    assert found.scored.tolist() == [True, True, True, False, True]
    assert bool(found.logits[3].isneginf().all())
    again = RECIPES["lseg"].load(adapter.state(), builtin())
    assert torch.equal(again.scores(scores_of(corrected[0], words)).logits,
                       adapter.scores(scores_of(corrected[0], words)).logits)  # fmt: skip
    weak = adapter.at_strength(0.25).scores(scores_of(corrected[0], (*words, STRANGE[2])))
    assert weak.scored.tolist() == [True, True, True, False, True]


def test_a_learned_vector_starts_at_the_mean_feature_of_its_cells(corrected: list[Example]) -> None:
    recipe = RECIPES["lseg"]
    network, labels = recipe.build(STRANGE[:1], builtin())
    example = replace(corrected[0], words=(*STRANGE[:1], ("a",), ("b",)))
    recipe.trainer(network, labels, [training_sample(example, STRANGE[:1])], builtin())
    vector = labels.vectors_learned()[STRANGE[0]]
    features = recipe.adapter(network, labels, builtin()).features(example.image)  # (h, w, D)
    cells = torch.from_numpy(example.truth[1::3, 1::3].astype(np.int64))  # 120 x 160 pixels seen at 192 x 256
    near = F.interpolate((cells == 0)[None, None].float(), size=features.shape[:2])[0, 0] > 0
    assert float(vector @ F.normalize(features[near].mean(dim=0), dim=0)) > 0.9


def test_rows_of_the_labels() -> None:
    texts, readable = unit_rows(3, 8), torch.tensor([True, False, True])
    labels = LabelVectors((("a",), ("wug",)), texts, readable)
    assert labels().shape == (3, 8)
    torch.testing.assert_close(labels()[[0, 2]], texts[[0, 2]])
    torch.testing.assert_close(labels().norm(dim=1), torch.ones(3))
    assert [name for name, _ in labels.named_parameters()] == ["learned"]
    assert set(labels.state_dict()) == {"learned"}
    labels.start(torch.eye(3, 8) * torch.tensor([[0.0], [1.0], [0.0]]))
    torch.testing.assert_close(labels()[1], torch.eye(3, 8)[1])


def test_beside_texts_a_mean_feature_does_not_win_everywhere() -> None:
    """Features of images are near each other, and far from all texts."""
    directions = unit_rows(4, 64)
    texts = F.normalize(0.5 * directions + torch.eye(64)[0], dim=1)
    features = F.normalize(0.3 * directions + torch.eye(64)[1], dim=1)  # one for each class
    labels = LabelVectors((("a",), ("b",), ("wug",)), texts, torch.tensor([True, True, False, True]))
    labels.start(features)
    assert (features @ labels().T).argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert (features @ F.normalize(features, dim=1)[2] > (features @ texts.T).amax(dim=1)).all(), "it would have won"


def test_vectors_of_another_text_tower(corrected: list[Example]) -> None:
    rows = unit_rows(5, 12)
    names = ("red shape", "blue shape", "green shape", "yellow shape", "violet shape")
    texts = TextVectors(dict(zip(names, rows, strict=True)))
    recipe = replace(RECIPES["lseg"], texts=texts, training=replace(SHORT, steps=2))
    adapter = recipe.fit(corrected, KNOWN, builtin())
    assert set(adapter.learned) == {("background",)}, "no vector was given for it"
    words = (*KNOWN, ("yellow shape",), ("grass",))
    found = adapter.scores(scores_of(corrected[0], words))
    assert found.scored.tolist() == [True] * 4 + [False, True], "grass is in the model's words, and not in these"
    assert bool(found.logits[:4].isfinite().all())
    again = LSegRecipe().load(adapter.state(), builtin())
    assert torch.equal(again.scores(scores_of(corrected[0], words)).logits, found.logits)
    weak = adapter.at_strength(0.5).scores(scores_of(corrected[0], words))
    assert weak.scored.tolist() == found.scored.tolist()
    assert not bool(weak.logits.isnan().any())


@pytest.mark.parametrize("size", [(96, 96), (50, 131)], ids=str)
def test_features_of_any_image_without_labels(size: tuple[int, int], learned: DenseAdapter) -> None:
    image = noise(*size)
    found = learned.features(image)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(found.shape[:2]))
    assert learned.features(image, at_pixels=True).shape == (*size, 128)
    mirrored = learned.with_inference(replace(learned.inference, flip=True))
    both = mirrored.features(image)
    torch.testing.assert_close(mirrored.features(image[:, ::-1].copy()).flip(1), both, rtol=0, atol=1e-3)


def test_a_new_label_costs_no_further_look_at_the_image(
    learned: DenseAdapter, corrected: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned.scores(scores_of(corrected[1]))

    def looked(self: Tower, pixels: Tensor) -> None:
        raise AssertionError("it looks again")

    monkeypatch.setattr(Tower, "__call__", looked)
    learned.scores(scores_of(corrected[1], (*KNOWN, ("yellow shape",))))


@pytest.mark.parametrize("followed", [True, False], ids=["guided alone", "whole outline stage"])
def test_the_outline_stage_is_chosen(
    followed: bool, learned: DenseAdapter, corrected: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = []

    def spied(
        coarse: Tensor, size: tuple[int, int], *_: object, method: object, **__: object
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        methods.append(method)
        return np.zeros(size, dtype=np.int16), np.ones(size, dtype=np.float32)

    monkeypatch.setattr("worker.segmentation.segmenter.pixel_classes", spied)
    builtin().pixel_classes(scores_of(corrected[0]), learned.with_outlines(followed=followed))
    assert methods == [FINE if followed else POSTERIORS]


@pytest.mark.parametrize(
    "mistaken",
    [
        pytest.param(lambda: LSegRecipe(preset="huge").build(KNOWN, builtin()), id="preset"),
        pytest.param(lambda: recipe_named("lseg", without=("encoder",)), id="part"),
        pytest.param(lambda: recipe_named("sazs", without=("edge",)), id="part of another name"),
    ],
)
def test_what_is_not_there_is_said(mistaken: Callable[[], object]) -> None:
    with pytest.raises(LearningError, match=r"preset|part"):
        mistaken()


def test_parts_of_sazs_are_left_out() -> None:
    loss = recipe_named("sazs", without=("bce", "shape")).loss()  # type: ignore[attr-defined]
    assert (loss.bce, loss.attention, loss.shape) == (0, 0.1, 0)


def test_a_trained_tower_is_stored_and_needs_no_other(corrected: list[Example], tmp_path: Path) -> None:
    recipe = LSegRecipe(tower=TIMM.name, training=replace(SHORT, steps=1),
                        changes={"tower": TIMM, "trains_tower": True, "short_side": 64})  # fmt: skip
    adapter = recipe.fit(corrected[:1], KNOWN, builtin())
    state = adapter.state()
    assert any(name.startswith("network.tower_module.") for name in state.tensors)
    again, image = LSegRecipe().load(state, builtin()), scores_of(corrected[0])
    assert torch.equal(again.scores(image).logits, adapter.scores(image).logits)
