"""Training of a generator: unseen labels are won, nothing else is lost, and bad input is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plugin_config.errors import LearningError
from tests.generator_world import CONFIG, TEXT_WIDTH, WIDTH, World, make_world
from worker.learning.generator.baselines import train_projection, without_unseen
from worker.learning.generator.presets import PRESETS
from worker.learning.generator.storing import from_state, to_state
from worker.learning.generator.trained import TrainedGenerator
from worker.learning.generator.training import GeneratorConfig, train_generator
from worker.learning.generator.vectors import NO_OBJECT, RealVectors, linear

pytestmark = pytest.mark.usefixtures("one_thread")
SEEN, UNSEEN = 6, 3


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def trained(world: World) -> TrainedGenerator:
    return train_generator(world.real, world.seen, world.unseen, CONFIG)


def found(classifier: nn.Linear, vectors: Tensor) -> Tensor:
    return torch.as_tensor(classifier(vectors).argmax(dim=1))


def of_unseen(classifier: nn.Linear, world: World) -> float:
    """Share of the vectors of unseen labels that their labels win."""
    vectors, labels = world.tests
    return float((found(classifier, vectors) == labels + SEEN).float().mean())


def of_seen(classifier: nn.Linear, world: World) -> float:
    shown = world.real.labels >= 0
    return float((found(classifier, world.real.vectors[shown]) == world.real.labels[shown]).float().mean())


def nearest_mean(world: World) -> nn.Linear:
    """A classifier of the seen labels by the means of their vectors; no object has the mean of its own."""
    labels = torch.where(world.real.labels == NO_OBJECT, SEEN, world.real.labels)
    means = torch.stack([world.real.vectors[labels == row].mean(dim=0) for row in range(SEEN + 1)])
    return linear(means, -means.square().sum(dim=1) / 2)


def test_a_classifier_of_seen_labels_gets_rows_that_nothing_wins(world: World) -> None:
    given = nearest_mean(world)
    before = given.weight.detach().clone()
    logits = without_unseen(given, UNSEEN)(world.real.vectors)
    torch.testing.assert_close(torch.cat([logits[:, :SEEN], logits[:, -1:]], dim=1), given(world.real.vectors))
    alone = without_unseen(given, 0)
    torch.testing.assert_close(alone.weight, given.weight)
    torch.nn.init.zeros_(alone.weight)
    assert torch.equal(given.weight, before)  # a copy was made


def test_unseen_labels_are_won_and_seen_ones_are_kept(trained: TrainedGenerator, world: World) -> None:
    without = without_unseen(nearest_mean(world), UNSEEN)
    assert trained.classifier.weight.shape == without.weight.shape == (SEEN + UNSEEN + 1, WIDTH)
    assert of_unseen(without, world) == 0
    assert of_unseen(trained.classifier, world) > 0.6
    assert of_seen(trained.classifier, world) > of_seen(without, world) - 0.1 > 0.8
    assert (trained.seen, trained.unseen) == (SEEN, UNSEEN)


def test_samples_are_on_the_scale_of_the_real_vectors(trained: TrainedGenerator, world: World) -> None:
    drawn = trained.sample(world.seen, 64, seed=1)
    assert drawn.shape == (SEEN, 64, WIDTH)
    shown = world.real.labels >= 0
    assert float(drawn.mean(dim=(0, 1)).dist(world.real.vectors[shown].mean(dim=0))) < 0.25
    assert float(drawn.norm(dim=2).mean()) == pytest.approx(1, abs=0.25)
    torch.testing.assert_close(drawn, trained.sample(world.seen, 64, seed=1))
    assert not torch.allclose(drawn, trained.sample(world.seen, 64, seed=2))


def test_a_seed_decides_and_the_random_numbers_of_others_stay(world: World) -> None:
    config = replace(CONFIG, steps=3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (train_generator(world.real, world.seen, world.unseen, config) for _ in range(2))
    torch.testing.assert_close(torch.rand(3), expected)
    torch.testing.assert_close(first.classifier.weight, second.classifier.weight)
    other = train_generator(world.real, world.seen, world.unseen, replace(config, seed=1))
    assert not torch.allclose(first.classifier.weight, other.classifier.weight)


def test_every_step_is_reported_and_the_log_is_kept(world: World) -> None:
    steps: list[int] = []
    config = replace(CONFIG, steps=3, alignment=False, disentangling=False)
    trained = train_generator(
        world.real, world.seen, world.unseen, config, report=lambda step, terms: steps.append(step)
    )
    assert steps == [1, 2, 3] == [entry["step"] for entry in trained.log]
    assert trained.log[0].keys() == {"step", "mmd", "classification", "generator", "classifier"}


def test_training_works_where_gradients_are_off(world: World) -> None:
    with torch.inference_mode():
        real = RealVectors(world.real.vectors.clone(), world.real.labels.clone())
        texts = world.seen.clone(), world.unseen.clone()
        trained = train_generator(real, *texts, replace(CONFIG, steps=2))
        assert trained.with_label(world.seen[0] - world.unseen[0]).unseen == UNSEEN + 1


@pytest.mark.parametrize("rows", [SEEN + 1, SEEN + UNSEEN + 1])
def test_the_classifier_starts_where_it_is_told_to(world: World, rows: int) -> None:
    initial = nn.Linear(WIDTH, rows)
    config = replace(CONFIG, steps=1, classifier_rate=0.0)
    classifier = train_generator(world.real, world.seen, world.unseen, config, initial=initial).classifier
    given, logits = (one(world.real.vectors).detach() for one in (initial, classifier))
    torch.testing.assert_close(logits[:, :SEEN], given[:, :SEEN], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[:, -1], given[:, -1], rtol=1e-3, atol=1e-4)  # no object stays last
    if rows == SEEN + 1:
        torch.testing.assert_close(logits[:, SEEN:-1], torch.zeros(len(logits), UNSEEN), rtol=0, atol=1e-4)


def test_a_later_name_gets_a_row_and_nothing_else_changes(world: World) -> None:
    trained = train_generator(world.real, world.seen, world.unseen[:2], CONFIG)
    before = {name: value.clone() for name, value in trained.generator.state_dict().items()}
    more = trained.with_label(world.unseen[2])
    assert more.classifier.out_features == SEEN + UNSEEN + 1
    kept = [*range(SEEN + 2), SEEN + UNSEEN]
    assert torch.equal(more.classifier.weight[kept], trained.classifier.weight)
    assert torch.equal(more.classifier.bias[kept], trained.classifier.bias)
    for name, value in more.generator.state_dict().items():
        assert torch.equal(value, before[name])
    vectors, labels = world.tests
    of_new = vectors[labels == 2]
    assert float((found(more.classifier, of_new) == SEEN + 2).float().mean()) > 0.6
    assert of_seen(more.classifier, world) > of_seen(trained.classifier, world) - 0.1
    assert (trained.unseen, more.unseen) == (2, 3)
    with pytest.raises(LearningError, match="the new label has the same vector as one that is known"):
        more.with_label(2 * world.unseen[2])
    for text in (torch.zeros(TEXT_WIDTH), torch.full((TEXT_WIDTH,), torch.nan)):
        with pytest.raises(LearningError, match="new label 0 has no vector"):
            more.with_label(text)
    with pytest.raises(LearningError, match=f"must have {TEXT_WIDTH} numbers, got 5"):
        more.with_label(torch.ones(5))


@pytest.mark.parametrize("primitives", [True, False])
def test_what_is_stored_is_read_again(world: World, primitives: bool) -> None:
    config = replace(CONFIG, steps=2, primitives=primitives)
    trained = train_generator(world.real, world.seen, world.unseen, config)
    tensors, meta = to_state(trained)
    again = from_state(tensors, json.loads(json.dumps(meta)))
    torch.testing.assert_close(again.sample(world.unseen, 2), trained.sample(world.unseen, 2))
    later = world.seen[0] - world.unseen[0]
    torch.testing.assert_close(again.with_label(later).classifier.weight, trained.with_label(later).classifier.weight)
    assert again.log == trained.log
    for broken in ({**meta, "size": {"layers": 7}}, {**meta, "seen": 9}, {}):
        with pytest.raises(LearningError, match="what is stored is none"):
            from_state(tensors, broken)


def test_words_alone_make_rows(world: World) -> None:
    made = train_projection(world.real, world.seen, world.unseen, replace(CONFIG, steps=200))
    assert made.classifier.out_features == SEEN + UNSEEN + 1
    assert of_seen(made.classifier, world) > 0.8
    more = made.with_label(world.unseen[0])
    torch.testing.assert_close(more.classifier.weight[SEEN + UNSEEN], made.classifier.weight[SEEN])
    torch.testing.assert_close(more.classifier.weight[-1], made.classifier.weight[-1])


def test_a_seen_label_that_no_picture_shows_is_supplied(world: World) -> None:
    labels = world.real.labels
    shown = RealVectors(world.real.vectors[labels != 0], labels[labels != 0])
    trained = train_generator(shown, world.seen, world.unseen, CONFIG)
    generated = trained.sample(world.seen[:1], 64)[0]
    assert float((found(trained.classifier, generated) == 0).float().mean()) > 0.5


def test_seen_labels_of_equal_words_are_told_apart_by_their_vectors(world: World) -> None:
    texts = world.seen.clone()
    texts[1] = texts[0]
    trained = train_generator(world.real, texts, world.unseen, replace(CONFIG, per_label=True))
    assert of_seen(trained.classifier, world) > 0.8


NOTHING = torch.zeros(0, TEXT_WIDTH)
_BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no unseen label": ({"unseen": NOTHING}, "there is no unseen label. There is nothing to generate"),
    "no seen label": ({"seen": NOTHING, "labels": -1}, "no vector is of a seen label"),
    "no vector of a seen label": ({"labels": NO_OBJECT}, "no vector is of a seen label"),
    "a label beyond the seen": ({"labels": SEEN}, "labels of vectors must be -1 to 5, got 6 to 6"),
    "a broken vector": ({"vectors": torch.nan}, "vector 0 is no number"),
    "unreadable words": ({"unseen_row": 0.0}, "unseen label 1 has no vector"),
    "a broken label vector": ({"unseen_row": torch.nan}, "unseen label 1 has no vector"),
    "another text tower": ({"unseen": torch.ones(2, 5)}, "have 12 and 5 numbers"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_is_refused(world: World, name: str) -> None:
    changes, message = _BAD[name]
    vectors, labels, unseen = world.real.vectors.clone(), world.real.labels.clone(), world.unseen.clone()
    if "labels" in changes:
        labels[:] = changes["labels"]
    if "vectors" in changes:
        vectors[0, 3] = changes["vectors"]
    if "unseen_row" in changes:
        unseen[1] = changes["unseen_row"]
    with pytest.raises(LearningError, match=message):
        train_generator(
            RealVectors(vectors, labels), changes.get("seen", world.seen), changes.get("unseen", unseen), CONFIG
        )


@pytest.mark.parametrize("of", ["seen", "unseen"])
def test_an_unseen_label_of_equal_words_is_refused(world: World, of: str) -> None:
    unseen = world.unseen.clone()
    unseen[2] = world.seen[4] if of == "seen" else 3 * unseen[1]
    expected = "seen label 4" if of == "seen" else "unseen label 1"
    with pytest.raises(LearningError, match=f"unseen label 2 has the same vector as {expected}"):
        train_generator(world.real, world.seen, unseen, CONFIG)


@pytest.mark.parametrize("rate", ["generator_rate", "classifier_rate"])
def test_a_loss_that_is_no_number_ends_the_training(world: World, rate: str) -> None:
    changes: dict[str, Any] = {rate: 1e38}
    with pytest.raises(LearningError, match=r"loss of step \d is no number\. Lower the learning rates"):
        train_generator(world.real, world.seen, world.unseen, replace(CONFIG, **changes))


def test_a_classifier_that_does_not_fit_is_refused(world: World) -> None:
    for initial in (nn.Linear(WIDTH, SEEN), nn.Linear(WIDTH + 1, SEEN + 1), nn.Linear(WIDTH, SEEN + 1, bias=False)):
        with pytest.raises(LearningError, match="must have 7 or 10 rows of 16 numbers and a bias"):
            train_generator(world.real, world.seen, world.unseen, CONFIG, initial=initial)


def test_settings_of_no_use_are_refused() -> None:
    with pytest.raises(LearningError, match="steps must be 1 or more, got 0"):
        GeneratorConfig(steps=0)
    assert PRESETS["panoptic"].unseen_weight == 5
    assert PRESETS["instances"].unseen_weight == 2
