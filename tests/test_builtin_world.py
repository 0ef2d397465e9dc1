"""The drawn world: the same seed draws the same scene, labels mean what they phrase, held-out pairs stay out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from plugin_config.errors import LabelingConfigError
from worker.lab.drawn_world.batches import draw_batch, patch_shares
from worker.lab.drawn_world.phrases import SINGLES, batch_concepts, known_tokens, phrase, tokenize
from worker.lab.drawn_world.scenes import draw_scene, label_mask, random_scene
from worker.lab.drawn_world.world import (
    COLOURS,
    SHAPES,
    TEXTURES,
    UNSEEN_COLOUR_SHAPES,
    UNSEEN_COLOUR_TEXTURES,
    Concept,
    Thing,
    parse_label,
    random_thing,
)


def test_the_same_seed_draws_the_same_bytes() -> None:
    first, again, other = (random_scene(np.random.default_rng(seed), (72, 104), unit=80) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert first.objects == again.objects
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [(33, 95), (96, 96), (360, 480)], ids=["odd", "native", "photo-like"])
def test_any_size_keeps_pixels_and_truth_together(size: tuple[int, int]) -> None:
    scene = random_scene(np.random.default_rng(1), size, unit=min(size))
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.instances.shape == scene.stuff.shape == size
    assert set(np.unique(scene.instances)) <= set(range(len(scene.objects) + 1))


def test_a_named_colour_is_seen_in_the_pixels_its_label_describes() -> None:
    scene = draw_scene(np.random.default_rng(3), (128, 128), [Thing("red", "plain", "square")], unit=160)
    red, green, blue = scene.image[label_mask(scene, "red square")].mean(axis=0)
    assert red > 120
    assert max(green, blue) < 60


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("red striped shape", [1]),
        ("striped red", [1]),  # free word order
        ("striped shapes", [1, 2]),  # plural
        ("a photo of a green circle.", [2]),
        ("object", [1, 2, 3]),
        ("checkered thing", []),
    ],
)
def test_labels_describe_what_they_say(label: str, expected: list[int]) -> None:
    things = [Thing("red", "striped", "star"), Thing("green", "striped", "circle"), Thing("red", "dotted", "heart")]
    scene = draw_scene(np.random.default_rng(12), (200, 200), things, unit=110)
    assert scene.objects == tuple(things)
    assert np.array_equal(label_mask(scene, label), np.isin(scene.instances, expected))


def test_stuff_and_background_share_the_pixels_without_things() -> None:
    scene = random_scene(np.random.default_rng(8), (96, 96), unit=96)
    stuff = [label_mask(scene, name) for name in ("grass", "water", "sand", "stone")]
    assert np.array_equal(np.sum(stuff, axis=0) == 1, label_mask(scene, "background"))
    assert np.array_equal(label_mask(scene, "background"), scene.instances == 0)


@pytest.mark.parametrize(
    "label",
    ["zebra", "red cat", "red blue circle", "striped grass", "", "a photo of a"],
    ids=["unknown", "half known", "two colours", "stuff with texture", "empty", "fillers only"],
)
def test_labels_that_mean_nothing_here_are_refused(label: str) -> None:
    with pytest.raises(LabelingConfigError, match="label"):
        parse_label(label)


def test_every_word_is_held_out_somewhere_and_seen_often() -> None:
    for pairs, words in ((UNSEEN_COLOUR_TEXTURES, TEXTURES), (UNSEEN_COLOUR_SHAPES, SHAPES)):
        assert Counter(colour for colour, _ in pairs) == dict.fromkeys(COLOURS, 1)
        assert Counter(word for _, word in pairs) == dict.fromkeys(words, len(COLOURS) // len(words))


def test_training_pixels_never_show_a_held_out_pair() -> None:
    seen = set()
    for step in range(30):
        batch = draw_batch(1, step, progress=step / 30, patches=1152, compositions=4)
        seen |= {tuple(row) for row in batch.attributes[batch.present].tolist()}
    assert not {(COLOURS.index(c), TEXTURES.index(t)) for c, t in UNSEEN_COLOUR_TEXTURES} & {row[:2] for row in seen}
    assert not {(COLOURS.index(c), SHAPES.index(s)) for c, s in UNSEEN_COLOUR_SHAPES} & {row[::2] for row in seen}
    assert {row[0] for row in seen} == {-2, *range(len(COLOURS))}


def test_training_texts_never_name_a_held_out_pair_and_mean_their_concept() -> None:
    rng = np.random.default_rng(2)
    things = [random_thing(rng, "seen", unnamed=0.2) for _ in range(40)]
    for concept in batch_concepts(rng, things, 600):
        text = phrase(rng, concept)
        assert parse_label(text) == concept, text
        assert not concept.is_unseen, text
        assert np.isin(tokenize([text]), known_tokens()).all(), text


def test_held_out_splits_hold_what_they_promise() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        assert random_thing(rng, "unseen_texture").is_unseen_texture
        assert random_thing(rng, "unseen_shape").is_unseen_shape
        seen = random_thing(rng, "seen")
        assert not (seen.is_unseen_texture or seen.is_unseen_shape)


def test_patch_shares_sum_to_one_and_count_pixels() -> None:
    scene = random_scene(np.random.default_rng(9), (64, 96), unit=90)
    shares = patch_shares(scene)
    assert shares.shape == (8 * 12, 12)
    assert np.allclose(shares.sum(axis=1), 1)
    assert np.isclose(shares[:, 0].sum() * 64, (scene.instances == 1).sum())


def test_every_single_word_is_asked_in_every_batch() -> None:
    words = {word for concept in SINGLES for word in concept.words}
    assert {*COLOURS, *TEXTURES, *SHAPES, "grass", "background"} <= words
    assert Concept() in SINGLES


def test_the_caption_names_every_thing() -> None:
    scene = draw_scene(np.random.default_rng(3), (128, 128), [Thing("red", "plain", "ring")], unit=100)
    assert scene.caption.startswith("a red plain ring on ")


def test_the_overview_in_the_docs_is_there() -> None:
    picture = Path(__file__).parents[1] / "docs" / "images" / "drawn_world.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
