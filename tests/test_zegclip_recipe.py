"""ZegCLIP as a whole: trained and resumed, told names of unseen labels or not, served as one posterior, read from a
checkpoint of the authors' form, and refused where it does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import LearningError, ModelUnavailable
from tests.dense_world import builtin, tiny_segmenter, unit_rows
from tests.learning_world import KNOWN, corrected_scenes
from tests.models import noise
from tests.zero_shot_sets import write_photos
from worker.lab import evaluate, train
from worker.lab.dense_data import LabelledImage, ZeroShotSet, training_set
from worker.lab.evaluation import beside_quick
from worker.lab.evaluation.beside_quick import learn_beside_quick
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.loop import LearningLoop
from worker.lab.training_run import TrainingRun
from worker.learning.adapter_files import MANIFEST, load_adapter_folder, read_adapter_record
from worker.learning.interfaces import UNLABELLED, AdapterState, Example
from worker.learning.recipes import recipe_named
from worker.learning.recipes.dense import zegclip_recipe
from worker.learning.recipes.dense.batches import HIDDEN, CropConfig, Sample, training_sample
from worker.learning.recipes.dense.inference import Inference
from worker.learning.recipes.dense.labels import BACKGROUND_TEXTS, TextVectors
from worker.learning.recipes.dense.training import TrainingConfig
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.learning.recipes.dense.zegclip_adapter import (
    LOWERED,
    ZegclipAdapter,
    posterior_logits,
    probabilities,
    window_scores,
)
from worker.learning.recipes.dense.zegclip_recipe import ZegclipRecipe, ZegclipTrainer
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.heads import ImageScores
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.refinement import POSTERIORS
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = TrainingConfig(steps=4, batch=2, crop=CropConfig(64))
RECIPE = ZegclipRecipe(training=SHORT)
NEW = ("yellow shape",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vit")
    tiny_segmenter(folder)
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return tiny_segmenter(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def corrected(vit: Segmenter) -> list[Example]:
    return corrected_scenes(vit, 2)


@pytest.fixture(scope="module")
def learned(vit: Segmenter, corrected: list[Example]) -> ZegclipAdapter:
    adapter = RECIPE.fit(corrected, KNOWN, vit)
    assert isinstance(adapter, ZegclipAdapter)
    return adapter


def scores_of(vit: Segmenter, example: Example, *more: tuple[str, ...]) -> ImageScores:
    return vit.score(example.embedding, (*KNOWN, *more), example.image)


def test_labels_trained_with_are_seen_and_any_other_has_a_mask_at_once(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example]
) -> None:
    assert learned.seen == (*KNOWN, BACKGROUND_TEXTS)
    assert (learned.lowered, learned.strength, learned.refinement) == (LOWERED, 1.0, POSTERIORS)
    before = learned.scores(scores_of(vit, corrected[0]))
    found = learned.scores(scores_of(vit, corrected[0], NEW))
    assert bool(found.scored.all())
    torch.testing.assert_close(found.logits[[0, 1, 2, 4]], before.logits, rtol=0, atol=1e-4)
    assert bool(found.logits[3].std() > 0)
    posterior = found.posterior()
    torch.testing.assert_close(posterior.sum(dim=0), torch.ones(found.grid))
    classes, confidence = vit.pixel_classes(scores_of(vit, corrected[0], NEW), learned)
    assert classes.shape == corrected[0].image.shape[:2]
    assert bool((confidence > 0).all())


def test_lowering_changes_the_order_neither_among_seen_nor_among_unseen_labels(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example]
) -> None:
    image = scores_of(vit, corrected[0], NEW, ("violet shape",))
    lowered, plain = (replace(learned, lowered=by).scores(image).logits for by in (0.1, 0.0))
    for rows in ([0, 1, 2, 5], [3, 4]):
        assert torch.equal(lowered[rows].argsort(dim=0), plain[rows].argsort(dim=0))
    torch.testing.assert_close(lowered[[3, 4]], plain[[3, 4]])
    assert bool((lowered[[0, 1, 2, 5]] < plain[[0, 1, 2, 5]]).all())


def test_a_seen_label_with_a_synonym_more_is_seen(learned: ZegclipAdapter) -> None:
    assert learned.has_seen(KNOWN[0])
    assert learned.has_seen((*KNOWN[0], "crimson shape"))
    assert learned.has_seen(BACKGROUND_TEXTS)
    assert not learned.has_seen(NEW)
    assert not learned.has_seen(("red",)), "a text, not a part of one"


def test_the_scores_of_a_label_with_a_synonym_more_are_lowered(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example]
) -> None:
    words = ((*KNOWN[0], *NEW), *KNOWN[1:], NEW)
    image = vit.score(corrected[0].embedding, words, corrected[0].image)
    lowered, plain = (replace(learned, lowered=by).scores(image).logits for by in (0.1, 0.0))
    assert bool((lowered[0] < plain[0]).all())
    torch.testing.assert_close(lowered[3], plain[3])


def test_of_very_many_labels_some_at_a_time_are_scored(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = scores_of(vit, corrected[0], NEW)
    before = learned.scores(image).logits
    monkeypatch.setattr("worker.learning.recipes.dense.zegclip_adapter._MOST_SCORES", 1)
    after = learned.scores(image).logits
    # Where sigmoids are near 1, the posterior makes much of their last digit.
    torch.testing.assert_close(after.softmax(dim=0), before.softmax(dim=0), rtol=0, atol=5e-4)


def test_any_number_has_a_logit_and_a_larger_one_a_larger_logit() -> None:
    scores = torch.linspace(-0.1, 1.1, 241)[:, None]
    for exclusive in (False, True):
        logits = posterior_logits(scores, exclusive=exclusive)
        assert bool((logits[1:] > logits[:-1]).all())
        assert bool(logits.isfinite().all())
    logits = torch.tensor([-3.0, 0.5, 2.0])[:, None, None]
    back = posterior_logits(probabilities(logits, exclusive=False), exclusive=False)
    torch.testing.assert_close(back, logits)
    shared = posterior_logits(probabilities(logits, exclusive=True), exclusive=True)
    torch.testing.assert_close(shared.softmax(dim=0), logits.softmax(dim=0))


def exactly_one(chance: Tensor) -> Tensor:
    """The posterior of (T,) labels that are there or not each by itself, given that exactly one is there."""
    odds = chance.double() / (1 - chance.double())
    return (odds / odds.sum()).float()


@pytest.mark.parametrize(
    "chance",
    [
        pytest.param([0.7, 0.2, 0.4], id="likely ones"),
        pytest.param([0.2, *[1e-4] * 200], id="200 labels that are not there"),
        pytest.param([0.009, 0.003, 0.0005], id="below 1 %"),
        pytest.param([0.999, 0.995, 0.5], id="above 99 %"),
    ],
)
def test_the_posterior_is_that_of_exactly_one_label(chance: list[float]) -> None:
    found = posterior_logits(torch.tensor(chance), exclusive=False).softmax(dim=0)
    torch.testing.assert_close(found, exactly_one(torch.tensor(chance)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("exclusive", [False, True], ids=["each by itself", "exclusive"])
def test_seen_labels_are_lowered_together(exclusive: bool) -> None:
    scores = torch.rand(6, 50, 40, generator=torch.Generator().manual_seed(0)) ** 3  # many below 1 %, many below 10 %
    seen = torch.tensor([True, True, False, True, False, False])
    plain = posterior_logits(scores, exclusive=exclusive)
    found = posterior_logits(scores, exclusive=exclusive, seen=seen, lowered=LOWERED)
    taken = scores - LOWERED * seen[:, None, None]
    assert torch.equal(found.argmax(dim=0), taken.argmax(dim=0)), "the likeliest is that of the paper"
    for kind in (seen, ~seen):
        torch.testing.assert_close(found[kind].softmax(dim=0), plain[kind].softmax(dim=0))
    assert bool((found[seen] < plain[seen]).all())
    assert torch.equal(found[~seen], plain[~seen])
    assert bool((found.abs() < 30).all()), "none is beyond all measure"


def test_where_all_labels_are_seen_lowering_changes_no_posterior() -> None:
    chance = torch.tensor([0.09, 0.03, 0.02])
    found = posterior_logits(chance, exclusive=False, seen=torch.ones(3, dtype=torch.bool), lowered=LOWERED)
    torch.testing.assert_close(found.softmax(dim=0), exactly_one(chance))
    assert float(found.softmax(dim=0)[0]) == pytest.approx(0.66, abs=0.005)


def test_windows_are_averaged_and_made_to_agree() -> None:
    inference = Inference(64, window=32, overlap=0.5)
    seen: list[tuple[int, ...]] = []

    def constant(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(tuple(pixels.shape))
        cells = F.avg_pool2d(pixels[None].float() / 255, 8)[0]
        return cells, F.normalize(cells + 0.1, dim=0)

    picture = torch.from_numpy(noise(64, 48).copy()).permute(2, 0, 1)
    whole = constant(picture)[0]
    found = window_scores(picture, inference, 8, constant)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)  # windows that say the same agree already
    assert seen[1:] == [(3, 32, 32)] * 6
    number = iter(range(100))

    def doubtful(pixels: Tensor) -> tuple[Tensor, Tensor]:
        scores, features = constant(pixels)
        turned = F.normalize(features + 0.5 * unit_rows(1, 3, seed=next(number))[0][:, None, None], dim=0)
        return scores, turned

    smoothed = window_scores(picture, inference, 8, doubtful)
    assert smoothed.shape == whole.shape
    assert float(smoothed.std()) < float(whole.std()), "cells that are alike were made to agree"
    assert window_scores(picture[:, :32, :32], inference, 8, constant).shape == (3, 4, 4)


def test_a_label_more_changes_no_score_in_windows_however_hard_it_is_to_agree_on() -> None:
    inference = Inference(64, window=32, overlap=0.5)
    picture = torch.from_numpy(noise(96, 96).copy()).permute(2, 0, 1)

    def seen(more: bool) -> Tensor:
        number = iter(range(100))

        def look(pixels: Tensor) -> tuple[Tensor, Tensor]:
            cells = F.avg_pool2d(pixels[None].float() / 255, 8)[0]
            turned = cells + 0.1 + 0.5 * unit_rows(1, 3, seed=next(number))[0][:, None, None]
            rough = 100 * ((cells[:1] * 1e4).long() % 2)
            easy = 0.5 + 0.01 * cells
            return torch.cat([easy, rough]) if more else easy, F.normalize(turned, dim=0)

        return window_scores(picture, inference, 8, look)

    torch.testing.assert_close(seen(more=True)[:3], seen(more=False), rtol=0, atol=1e-6)


def test_a_picture_in_windows_has_the_grid_of_one_pass(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example]
) -> None:
    image = scores_of(vit, corrected[0], NEW)
    whole = learned.with_inference(Inference(128)).scores(image)
    cut = learned.with_inference(Inference(128, window=64, overlap=0.5)).scores(image)
    assert cut.grid == whole.grid == (8, 11)
    assert bool(cut.logits.isfinite().all())
    assert not torch.equal(cut.logits, whole.logits)


def test_it_is_stored_and_loaded_with_the_same_scores(
    vit: Segmenter, learned: ZegclipAdapter, corrected: list[Example]
) -> None:
    state = learned.state()
    assert not any(name.startswith("network.tower") for name in state.tensors)
    stored = AdapterState(state.recipe, state.tensors, json.loads(json.dumps(dict(state.about))))
    again = recipe_named("zegclip").load(stored, vit)
    assert isinstance(again, ZegclipAdapter)
    assert (again.seen, again.lowered, again.inference) == (learned.seen, learned.lowered, learned.inference)
    image = scores_of(vit, corrected[0], NEW)
    assert torch.equal(again.scores(image).logits, learned.scores(image).logits)
    with pytest.raises(LearningError, match="incomplete"):
        recipe_named("zegclip").load(replace(stored, about={**stored.about, "seen": 3}), vit)


@pytest.mark.parametrize("without", [(), ("prompts", "non_exclusive", "descriptor")], ids=["whole", "fixed"])
def test_training_makes_the_loss_smaller(
    vit: Segmenter, corrected: list[Example], without: tuple[str, ...]
) -> None:
    recipe = ZegclipRecipe(training=replace(SHORT, steps=20, rate=5e-4, warmup=0), without=without)
    network, labels = recipe.build(KNOWN, vit)
    trainer = recipe.trainer(network, labels, [], vit)
    batch = trainer.draw([training_sample(example, KNOWN) for example in corrected])
    losses = [trainer.step(*batch)["total"] for _ in range(10)]
    assert losses[-1] < 0.99 * losses[0]


def test_parts_of_it_are_left_out(vit: Segmenter) -> None:
    network = ZegclipRecipe(without=("prompts", "non_exclusive", "descriptor")).build(KNOWN, vit)[0]
    assert isinstance(network, ZegclipNetwork)
    assert (network.prompts, network.preset.exclusive, network.query.in_features) == (None, True, 16)
    tuned = ZegclipRecipe(without=("prompts",), changes={"trains_tower": True}).build(KNOWN, vit)[0]
    assert any(name.startswith("tower_module.") for name in tuned.state_dict())


def test_words_the_model_cannot_read_have_learned_vectors(vit: Segmenter, corrected: list[Example]) -> None:
    texts = TextVectors(dict(zip(("red shape", "blue shape"), unit_rows(2, 16), strict=True)))
    adapter = replace(RECIPE, texts=texts, training=replace(SHORT, steps=1)).fit(corrected, KNOWN, vit)
    assert set(adapter.learned) == {KNOWN[2], BACKGROUND_TEXTS}
    assert bool(adapter.scores(scores_of(vit, corrected[0])).scored.all())


# Names of unseen labels


def drawn_data(truth: np.ndarray[Any, Any]) -> ZeroShotSet:
    """One picture of four labels, of which c and d are unseen."""
    image = LabelledImage(noise(*truth.shape), truth.astype(np.int16))
    return ZeroShotSet("drawn", ("a", "b", "c", "d"), (2, 3), True, [image], [image])


TRUTH = np.array([[0, 1, 2, 3, VOID, UNLABELLED]]).repeat(24, axis=1).repeat(64, axis=0)


def test_which_pixels_pseudo_labels_are_for() -> None:
    data = drawn_data(TRUTH)
    expected: dict[Any, list[int]] = {
        "ignored": [0, 1, VOID, VOID, VOID, 2], "unlabelled": [0, 1, HIDDEN, HIDDEN, HIDDEN, 4],
        "unseen": [0, 1, HIDDEN, HIDDEN, VOID, 4],
    }  # fmt: skip
    for hidden, rows in expected.items():
        words, samples = training_set(data, hidden)
        assert samples[0].truth[0, ::24].tolist() == rows
        assert [name for name, in words] == (["a", "b"] if hidden == "ignored" else ["a", "b", "c", "d"])


@pytest.mark.parametrize("leaked", [False, True], ids=["all pixels without a class", "leaked"])
def test_the_loss_sees_no_truth_of_unseen_labels(vit: Segmenter, leaked: bool) -> None:
    shuffled = np.where(TRUTH == 2, 3, np.where(TRUTH == 3, 2, TRUTH))
    moved = np.where(TRUTH == 3, VOID, np.where(TRUTH == VOID, 3, TRUTH))
    losses = []
    for truth in (TRUTH, shuffled, moved):
        recipe = ZegclipRecipe(training=replace(SHORT, steps=2), transductive=True, leaked=leaked)
        data = drawn_data(truth)
        recipe = recipe.told(data.unseen_words)
        words, samples = training_set(data, recipe.hidden)
        network, labels = recipe.build(words, vit)
        trainer = recipe.trainer(network, labels, samples, vit)
        losses.append([trainer.step(*trainer.draw(samples))["total"] for _ in range(2)])
    assert losses[0] == losses[1], "which unseen label a pixel has"
    assert (losses[0] == losses[2]) is not leaked, "whether a pixel has one: that is what the leak is"
    assert losses[0][0] == losses[2][0], "the first half knows nothing of unseen labels"


def transductive(vit: Segmenter, steps: int = 6) -> tuple[ZegclipRecipe, ZegclipTrainer, list[Sample]]:
    recipe = ZegclipRecipe(training=replace(SHORT, steps=steps, warmup=2), transductive=True).told((("c",), ("d",)))
    words, samples = training_set(drawn_data(TRUTH), recipe.hidden)
    network, labels = recipe.build(words, vit)
    trainer = recipe.trainer(network, labels, samples, vit)
    assert isinstance(trainer, ZegclipTrainer)
    return recipe, trainer, samples


def test_the_second_half_begins_anew_and_goes_on_the_same_after_a_break(vit: Segmenter) -> None:
    recipe, trainer, samples = transductive(vit)
    states, rates = [], []
    for _ in range(6):
        assert trainer.gives_pseudo_labels == (trainer.steps_done >= 3)
        trainer.step(*trainer.draw(samples))
        rates.append(trainer._optimizer.param_groups[0]["lr"])
        states.append(json.dumps(float(next(iter(trainer._optimizer.state.values()))["step"])))
    assert rates[0] == rates[3]
    assert rates[0] < rates[1]
    assert states == ["1.0", "2.0", "3.0", "1.0", "2.0", "3.0"], "the optimizer is a new one"
    _, first, _ = transductive(vit)
    for _ in range(3):
        first.step(*first.draw(samples))
    _, second, _ = transductive(vit)
    second.restore(first.state())
    while second.steps_done < 6:
        second.step(*second.draw(samples))
    for name, values in trainer.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], values), name
    adapter = recipe.adapter(trainer.network, trainer.labels, vit)
    assert (adapter.lowered, adapter.seen, adapter.leaked) == (0.0, (("a",), ("b",), BACKGROUND_TEXTS), False)


def test_seen_labels_are_lowered_until_pseudo_labels_are_given(vit: Segmenter) -> None:
    recipe, trainer, samples = transductive(vit, steps=2)
    lowered = []
    for _ in range(2):
        lowered.append(recipe.adapter(trainer.network, trainer.labels, vit).lowered)
        trainer.step(*trainer.draw(samples))
    lowered.append(recipe.adapter(trainer.network, trainer.labels, vit).lowered)
    assert lowered == [LOWERED, LOWERED, 0.0]
    recipe, resumed, _ = transductive(vit, steps=2)
    resumed.restore(trainer.state())
    assert recipe.adapter(resumed.network, resumed.labels, vit).lowered == 0.0


def test_the_network_and_the_loss_agree_on_what_is_exclusive(vit: Segmenter) -> None:
    for more in ({"changes": {"exclusive": True}}, {"without": ("non_exclusive",)}, {}):
        recipe = replace(RECIPE, **more)
        network, labels = recipe.build(KNOWN, vit)
        assert isinstance(network, ZegclipNetwork)
        trainer = recipe.trainer(network, labels, [], vit)
        assert isinstance(trainer, ZegclipTrainer)
        assert network.preset.exclusive == trainer._own_loss.exclusive == recipe.loss().exclusive == bool(more)


# The commands


def test_it_learns_beside_quick_on_photographs(
    vit: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round of each, judged on the photographs that neither learned from, as the service does."""
    stems = write_photos(tmp_path / "set", train=6, test=2)
    loop = LearningLoop(vit, read_labelled_set(stems, ["train", "test"], None), learn="train", test="test")
    with pytest.raises(LearningError, match="0 of 6 are held out, 3 are needed"):
        learn_beside_quick(loop, RECIPE, vit)
    monkeypatch.setattr(beside_quick, "hold_out_split", lambda examples: (examples[:3], examples[3:]))
    found = learn_beside_quick(loop, RECIPE, vit)
    assert set(found) == {"recipe", "miou", "quick_miou", "generator_miou", "promoted", "reason", "generator",
                          "seconds"}  # fmt: skip
    assert found["promoted"] is False, "four steps on random weights are no match for quick"
    assert found["quick_miou"] > found["miou"]
    assert "mean IoU would go from" in found["reason"]
    assert beside_quick.beside_quick_table(found).startswith("zegclip: mIoU 0.")


@pytest.mark.parametrize(
    "more", [["--output-dir", "out"], ["--no-gate"], ["--order", "active"], ["--orders", "3"]], ids=lambda more: more[0]
)
def test_one_round_beside_quick_takes_no_option_of_a_learning_curve(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--learn", "train", "--photos", "nowhere", "--test", "test", "--recipe", "zegclip", "--model", "builtin"]
    assert evaluate.main([*asked, *more]) == 2
    assert f"{more[0]}: recipe zegclip learns beside quick in one round" in capsys.readouterr().err


def arguments(photos: Path, folder: Path, model: str, *more: str) -> list[str]:
    return ["--recipe", "zegclip", "--data", str(photos), "--unseen", "square", "--output-dir", str(folder),
            "--model", model, "--steps", "2", "--batch", "1", *more]  # fmt: skip


def test_the_command_trains_and_its_adapter_is_loaded(
    vit: Segmenter, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "out"
    asked = arguments(photos, folder, model, "--transductive", "--leaked", "--json")
    assert train.main(asked) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["recipe"], printed["steps"]) == ("zegclip, transductive, leaked", 2)
    record = read_adapter_record(folder)
    assert record.training["labels"] == ["grass", "circle", "water"]
    assert (record.training["transductive"], record.training["leaked"]) == (True, True)
    loaded = load_adapter_folder(folder, vit)
    assert isinstance(loaded, ZegclipAdapter)
    assert (loaded.leaked, loaded.lowered) == (True, 0.0)
    assert train.main([*arguments(photos, folder, model, "--transductive"), "--resume"]) == 2
    assert "was begun with leaked True, not False" in capsys.readouterr().err


def test_a_training_that_was_broken_off_ends_with_the_same_weights(vit: Segmenter, tmp_path: Path) -> None:
    data, folder = drawn_data(TRUTH), tmp_path / "run"
    whole = TrainingRun(RECIPE, data, vit, tmp_path / "whole")
    whole.train()
    first = TrainingRun(RECIPE, data, vit, folder)
    first.train(minutes=1, clock=iter(map(float, range(0, 6000, 60))).__next__)
    assert first.trainer.steps_done == 1
    again = TrainingRun(RECIPE, data, vit, folder, resume=True)
    again.train()
    for name, values in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], values), name


def test_the_counts_are_printed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--recipe", "zegclip", "--preset", "voc", "--count"]
    assert train.main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["parameters"], printed["live_parameters"]) == (13_821_184, 8_039_168)
    assert train.main(asked) == 0
    assert "13821184 parameters, 8039168 of them live" in capsys.readouterr().out
    for more in (["--without", "prompts"], ["--exclusive"], ["--steps", "2"]):
        assert train.main([*asked, *more]) == 2
        assert f"{more[0]}: it changes nothing of what --count counts" in capsys.readouterr().err
    assert train.main([*asked, "--preset", "small"]) == 2
    assert "Choose one of voc, coco" in capsys.readouterr().err
    assert train.main(["--recipe", "lseg", "--count"]) == 2
    assert "recipe lseg: is not counted by itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        pytest.param(["--model", "builtin"], "tower encoder: a ModifiedResNet is no plain ViT", id="another family"),
        pytest.param(["--leaked"], "Give --transductive with --leaked", id="a leak of nothing"),
        pytest.param(["--block", "bottleneck"], "--block: recipe zegclip has no use for it", id="a block"),
        pytest.param(["--recipe", "lseg", "--transductive"], "--transductive: recipe lseg has no use", id="of another"),
        pytest.param(["--without", "prompt"], "has no part 'prompt' to leave out", id="part"),
        pytest.param(["--preset", "vit_l16"], "Choose one of small, voc, coco", id="preset"),
        pytest.param(["--released", "none.pth"], "checkpoint none.pth: cannot be read", id="no checkpoint"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_one_sentence(
    more: list[str], problem: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = arguments(write_photos(tmp_path / "photos"), tmp_path / "out", model, *more)
    assert train.main(asked) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mistaken", "problem"),
    [
        pytest.param(lambda vit: RECIPE.build((), vit), "there are none to learn", id="no label"),
        pytest.param(lambda vit: RECIPE.build((*KNOWN, KNOWN[1]), vit), "there twice", id="a label twice"),
        pytest.param(
            lambda vit: replace(RECIPE, transductive=True, unseen=KNOWN[:1]).build((*KNOWN, KNOWN[0]), vit),
            "label 'red shape': is both seen and unseen", id="a label in both",
        ),
        pytest.param(
            lambda vit: replace(RECIPE, transductive=True).build(KNOWN, vit), "no unseen label is named", id="no names"
        ),
        pytest.param(lambda vit: replace(RECIPE, unseen=KNOWN[:1]).build(KNOWN, vit), "has no use for", id="no use"),
    ],
)  # fmt: skip
def test_labels_that_make_no_sense_are_refused(
    mistaken: Callable[[Segmenter], object], problem: str, vit: Segmenter
) -> None:
    with pytest.raises(LearningError, match=problem):
        mistaken(vit)


def test_the_builtin_model_is_refused_before_anything_is_learned() -> None:
    with pytest.raises(ModelUnavailable, match="Choose a model whose image tower is a ViT"):
        RECIPE.build(KNOWN, builtin())


# A checkpoint of the authors' form


def released_state(vit: Segmenter, *, layers: int = 3, side: int = 8) -> dict[str, Tensor]:
    """What the authors' code stores of a segmentor on this tower, with random trained weights."""
    visual = vit.encoder.visual
    width, wide, blocks = 16, 32, len(visual.transformer.resblocks)
    state = {f"backbone.{name}": value.clone() for name, value in visual.state_dict().items()}
    native = round((len(visual.positional_embedding) - 1) ** 0.5)
    patches = visual.positional_embedding[1:].reshape(1, native, native, wide).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(side, side), mode="bilinear").reshape(wide, side * side).T
    state["backbone.positional_embedding"] = torch.cat([visual.positional_embedding[:1], patches])
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.prompt_embeddings": (1, 5, wide), "backbone.deep_prompt_embeddings": (blocks - 1, 5, wide),
        "backbone.prompt_proj.weight": (wide, wide), "backbone.prompt_proj.bias": (wide,),
        "backbone.prompt_norm.weight": (wide,), "backbone.prompt_norm.bias": (wide,),
        "decode_head.q_proj.weight": (width, 2 * width), "decode_head.q_proj.bias": (width,),
        "text_encoder.token_embedding.weight": (7, width),
    }  # fmt: skip
    for layer in range(layers):
        start = f"decode_head.decoder_1.layers.{layer}"
        linear = {"multihead_attn.q": (width, width), "multihead_attn.k": (width, width),
                  "multihead_attn.v": (width, width), "multihead_attn.proj": (width, width),
                  "linear1": (4 * width, width), "linear2": (width, 4 * width),
                  "self_attn.out_proj": (width, width)}  # fmt: skip
        for name, shape in linear.items():
            shapes |= {f"{start}.{name}.weight": shape, f"{start}.{name}.bias": shape[:1]}
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= {f"{start}.{norm}.weight": (width,), f"{start}.{norm}.bias": (width,)}
        shapes |= {f"{start}.self_attn.in_proj_weight": (3 * width, width),
                   f"{start}.self_attn.in_proj_bias": (3 * width,)}  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    return state | {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def written(folder: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"meta": {"iter": 20000}, "state_dict": state}, folder / "iter_20000.pth")
    return folder / "iter_20000.pth"


def as_the_authors_compute(state: dict[str, Tensor], vit: Segmenter, pixels: Tensor, text: Tensor) -> Tensor:
    """The authors' forward pass written out: (3, H, W) uint8 pixels and (T, D) text to (T, h, w) logits."""
    visual, part = vit.encoder.visual, state.__getitem__
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = visual.conv1((pixels[None].float() / 255 - mean) / std)
    h, w = x.shape[2:]
    x = torch.cat([visual.class_embedding.expand(1, 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    positions = part("backbone.positional_embedding")
    spatial = positions[1:].reshape(1, 8, 8, -1).permute(0, 3, 1, 2)
    spatial = F.interpolate(spatial, size=(h, w), mode="bilinear").flatten(2)[0].T
    x = visual.ln_pre(x + torch.cat([positions[:1] + visual.class_embedding, spatial]))
    prompts = torch.cat([part("backbone.prompt_embeddings"), part("backbone.deep_prompt_embeddings")])
    for number, block in enumerate(visual.transformer.resblocks):
        deep = F.linear(prompts[number], part("backbone.prompt_proj.weight"), part("backbone.prompt_proj.bias"))
        x = block(torch.cat([x[:, :1], deep[None], x[:, -h * w :]], dim=1))
    x = F.layer_norm(x, (32,), part("backbone.prompt_norm.weight"), part("backbone.prompt_norm.bias"), 1e-6)
    x = F.normalize(visual.ln_post(x) @ visual.proj, dim=-1)
    image, patches = x[0, 0], x[0, -h * w :]
    query = torch.cat([text * image, text], dim=1)
    query = F.linear(query, part("decode_head.q_proj.weight"), part("decode_head.q_proj.bias"))
    scores = torch.zeros(0)
    for layer in range(3):

        def linear(name: str, values: Tensor, layer: int = layer) -> Tensor:
            start = f"decode_head.decoder_1.layers.{layer}.{name}"
            return F.linear(values, part(f"{start}.weight"), part(f"{start}.bias"))

        def norm(name: str, values: Tensor, layer: int = layer) -> Tensor:
            start = f"decode_head.decoder_1.layers.{layer}.{name}"
            return F.layer_norm(values, (16,), part(f"{start}.weight"), part(f"{start}.bias"))

        q, k, v = (linear(f"multihead_attn.{name}", values).reshape(len(values), 8, 2).transpose(0, 1)
                   for name, values in (("q", query), ("k", patches), ("v", patches)))  # fmt: skip
        scores = q @ k.transpose(1, 2) / 2**0.5  # (heads, T, N)
        mixed = (scores.softmax(dim=-1) @ v).transpose(0, 1).reshape(len(query), 16)
        query = norm("norm2", query + linear("multihead_attn.proj", mixed))
        query = norm("norm3", query + linear("linear2", linear("linear1", query).relu()))
    return scores.mean(dim=0).reshape(len(text), h, w)


@torch.no_grad()
def test_a_checkpoint_of_the_authors_gives_their_masks(vit: Segmenter, tmp_path: Path) -> None:
    state = released_state(vit)
    adapter = ZegclipRecipe().released(written(tmp_path, state), KNOWN, vit)
    assert (adapter.seen, adapter.inference.window, adapter.inference.short_side) == (KNOWN, 128, 128)
    network, text = adapter.network, unit_rows(4, 16)
    for size in ((128, 128), (96, 144)):
        pixels = torch.from_numpy(noise(*size).copy()).permute(2, 0, 1)
        found = network(network.tower.normalise(pixels[None]), text).logits[0]
        torch.testing.assert_close(found, as_the_authors_compute(state, vit, pixels, text), rtol=0, atol=1e-4)
    again = recipe_named("zegclip").load(adapter.state(), vit)
    assert isinstance(again, ZegclipAdapter)
    assert again.network.preset == network.preset
    pixels = torch.from_numpy(noise(96, 144).copy()).permute(2, 0, 1)
    entering = again.network.tower.normalise(pixels[None])
    assert torch.equal(again.network(entering, text).logits, network(entering, text).logits)


def test_the_command_makes_an_adapter_of_it(
    vit: Segmenter, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, path = write_photos(tmp_path / "photos"), written(tmp_path, released_state(vit))
    assert train.main([*arguments(photos, tmp_path / "out", model), "--released", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 0
    loaded = load_adapter_folder(tmp_path / "out", vit)
    assert isinstance(loaded, ZegclipAdapter)
    assert loaded.seen == (("grass",), ("circle",), ("water",))
    assert (loaded.lowered, loaded.leaked) == (LOWERED, False)


def test_a_checkpoint_of_a_leaked_training_is_called_so_wherever_it_is_judged(
    vit: Segmenter, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, path, folder = write_photos(tmp_path / "photos"), written(tmp_path, released_state(vit)), tmp_path / "out"
    asked = [*arguments(photos, folder, model), "--released", str(path), "--transductive", "--leaked"]
    assert train.main(asked) == 0
    assert capsys.readouterr().out.startswith("zegclip, transductive, leaked: ")
    training = read_adapter_record(folder).training
    assert (training["transductive"], training["leaked"], training["as_released"]) == (True, True, False)
    loaded = load_adapter_folder(folder, vit)
    assert isinstance(loaded, ZegclipAdapter)
    assert (loaded.lowered, loaded.leaked) == (0.0, True)
    judged = ["--protocol", "zeroshot", "--photos", str(photos), "--unseen", "square", "--model", model]
    judged += ["--adapter", str(folder), "--inference", "network"]
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["training"].pop("leaked")  # what the adapter itself says counts
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert evaluate.main([*judged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == f"{folder} (leaked)"
    assert evaluate.main(judged) == 0
    assert "leaked: training knew where these are" in capsys.readouterr().out


def test_a_checkpoint_takes_the_place_of_no_training(
    vit: Segmenter, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, path, folder = write_photos(tmp_path / "photos"), written(tmp_path, released_state(vit)), tmp_path / "out"
    assert train.main(arguments(photos, folder, model)) == 0
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    assert train.main([*arguments(photos, folder, model), "--released", str(path)]) == 2
    assert "holds a training already" in capsys.readouterr().err
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda state: state.pop("decode_head.q_proj.weight"), "is none of ZegCLIP", id="another paper"),
        pytest.param(lambda state: state.update({"decode_head.q_proj.bias": torch.full((16,), torch.nan)}),
                     "weights that are no numbers", id="no numbers"),
        pytest.param(lambda state: [state.pop(name) for name in [*state] if ".layers." in name],
                     "it has 0 layers and 5 prompts", id="no layer"),
        pytest.param(lambda state: state.update({"backbone.deep_prompt_embeddings": torch.ones(3)}),
                     "is none of ZegCLIP", id="prompts of another form"),
        pytest.param(lambda state: state.pop("backbone.prompt_norm.bias"), "does not fit the network", id="a gap"),
        pytest.param(lambda state: state.update({"backbone.ln_pre.bias": torch.ones(32)}),
                     "on another image tower than the one loaded: ln_pre.bias", id="another tower"),
        pytest.param(lambda state: state.update({"decode_head.q_proj.weight": torch.ones(24, 48)}),
                     "is of width 24, and the label vectors are of width 16", id="another width"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], object], problem: str, vit: Segmenter, tmp_path: Path
) -> None:
    state = released_state(vit)
    change(state)
    with pytest.raises(LearningError, match=problem):
        ZegclipRecipe().released(written(tmp_path, state), KNOWN, vit)
    with pytest.raises(LearningError, match="there are none that the checkpoint"):
        ZegclipRecipe().released(tmp_path, (), vit)


def test_a_file_that_is_no_checkpoint_is_refused(vit: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "list.pth", "gone.pth"):
        with pytest.raises(LearningError, match=f"checkpoint .*{name}: "):
            ZegclipRecipe().released(tmp_path / name, KNOWN, vit)


@pytest.mark.parametrize(
    ("scale", "bias", "start"), [(16.0, -3.0, (16.0, -3.0)), (60.0, -9.0, (30.0, -4.5)), (100.0, None, (30.0, -6.0))]
)
def test_the_start_tells_labels_that_are_there_from_others(
    scale: float, bias: float | None, start: tuple[float, float]
) -> None:
    """Where the scale is bounded, the cosine at which a label is as likely as not stays."""
    found = zegclip_recipe._sigmoid_of(cast(Encoder, SimpleNamespace(logit_scale=scale, logit_bias=bias)))
    assert found == pytest.approx(start)
