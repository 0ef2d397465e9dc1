"""Data with unseen labels: drawn alike for the same seed, balanced, and without a trace of the unseen in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugin_config.errors import ImageUnavailable, LearningError, ModelUnavailable, SettingsError, ZeromaskError
from tests.zero_shot_sets import NAMES, write_photos
from worker.lab.dense_data import (
    PAIRS,
    UNSEEN_WORDS,
    WORDS,
    drawn_set,
    photo_set,
    read_text_vectors,
    training_samples,
    zero_shot_set,
)
from worker.lab.drawn_world.world import UNSEEN_COLOUR_TEXTURES, parse_label
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID


@pytest.mark.parametrize("name", [WORDS, PAIRS])
def test_a_scene_is_a_function_of_seed_and_number(name: str) -> None:
    one, same, other = (drawn_set(name, scenes=6, seed=seed) for seed in (3, 3, 4))
    alone = drawn_set(name, scenes=6, seed=3).training[5]  # asked for without the five before it
    assert np.array_equal(list(one.training)[5].image, alone.image)
    assert np.array_equal(one.training[2].truth, same.training[2].truth)
    assert not np.array_equal(one.training[2].image, other.training[2].image)
    assert np.array_equal(one.test[2].image, other.test[2].image)  # everybody is judged on the same
    assert not np.array_equal(one.training[2].image, one.test[2].image)


def test_words_have_no_background_and_pairs_do() -> None:
    words, pairs = drawn_set(WORDS, scenes=2), drawn_set(PAIRS, scenes=2)
    assert (len(words.labels), words.unseen_labels) == (12, list(UNSEEN_WORDS))
    assert (len(pairs.labels), len(pairs.unseen)) == (32, 8)
    named = {(found.colour, found.texture) for found in map(parse_label, pairs.unseen_labels)}
    assert named == set(UNSEEN_COLOUR_TEXTURES)
    assert not words.has_background
    assert (words.test[0].truth >= 0).all()
    assert pairs.has_background
    assert (pairs.test[0].truth == UNLABELLED).any()


@pytest.mark.parametrize(("name", "scenes"), [(WORDS, 60), (PAIRS, 60)])
def test_every_label_occurs_as_often_as_the_others(name: str, scenes: int) -> None:
    data = drawn_set(name, scenes=scenes)
    counts = np.zeros(len(data.labels))
    for one in data.test:
        counts[np.unique(one.truth[one.truth >= 0])] += 1
    kinds = [slice(0, 8), slice(8, 12)] if name == WORDS else [slice(0, 32)]  # shapes; stuff, two of four in a scene
    for kind in kinds:
        unseen = [k for k in data.unseen if k in range(kind.start, kind.stop)]
        seen = [k for k in range(kind.start, kind.stop) if k not in unseen]
        assert counts[unseen].mean() == pytest.approx(counts[seen].mean(), rel=0.2)
        assert counts[kind].min() > 0.5 * counts[kind].mean()


@pytest.mark.parametrize("name", [WORDS, PAIRS])
def test_pixels_of_unseen_labels_are_void_in_training(name: str) -> None:
    data = drawn_set(name, scenes=5)
    samples = training_samples(data)
    unseen_pixels = 0
    for one, sample in zip(data.training, samples, strict=True):
        unseen = np.isin(one.truth, data.unseen)
        unseen_pixels += int(unseen.sum())
        assert (sample.truth[unseen] == VOID).all()
        assert np.array_equal(sample.truth == VOID, unseen)  # and nothing else is
        shown = np.unique(sample.truth[sample.truth >= 0])
        assert shown.max() <= len(data.seen)  # the background's row
        for row in shown[shown < len(data.seen)]:
            assert np.array_equal(sample.truth == row, one.truth == data.seen[row])
        assert np.array_equal(sample.truth == len(data.seen), one.truth == UNLABELLED)
    assert unseen_pixels > 100


def test_photographs_are_read_with_the_labels_that_they_show(tmp_path: Path) -> None:
    data = photo_set(write_photos(tmp_path), ["water", " circle"])
    assert data.labels == ("grass", "circle", "square", "water")
    assert data.unseen_labels == ["circle", "water"]
    assert (len(data.training), len(data.test), data.has_background) == (3, 2, False)
    assert [data.labels[k] for k in np.unique(data.test[0].truth) if k >= 0] == list(data.labels)
    for sample in training_samples(data):
        assert set(np.unique(sample.truth)) == {VOID, 0, 1}


def test_photographs_with_nothing_to_learn_are_left_out(tmp_path: Path) -> None:
    folder = write_photos(tmp_path)
    data = photo_set(folder, ["water", "circle", "square"])
    assert len(training_samples(data)) == 3
    blank = data.training[0]
    blank.truth[:] = VOID
    assert len(training_samples(data)) == 2


@pytest.mark.parametrize(
    ("unseen", "problem"),
    [
        pytest.param("cow", "'cow' is no label .* Choose among grass, circle, square, water", id="no class"),
        pytest.param("stone", "'stone' is no label that the photographs", id="a class that no photograph shows"),
        pytest.param("grass,circle,square,water", "no label is left to learn from", id="nothing left"),
        pytest.param("", "no label is named", id="none"),
    ],
)  # fmt: skip
def test_unseen_labels_that_cannot_be(unseen: str, problem: str, tmp_path: Path) -> None:
    assert "stone" in NAMES.values()
    with pytest.raises(SettingsError, match=problem):
        photo_set(write_photos(tmp_path), unseen.split(","))


def test_two_classes_of_one_name_are_refused_or_one_would_be_seen_and_the_other_not(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match="two classes are named 'water', so that one could be seen"):
        photo_set(write_photos(tmp_path, names={**NAMES, "1": "water"}), ["water"])


@pytest.mark.parametrize(
    ("data", "unseen", "problem"),
    [
        pytest.param("drawn:word", [], "is not known", id="a drawn set that is not there"),
        pytest.param(WORDS, ["cow"], "unseen labels of its own", id="unseen labels of a drawn set"),
        pytest.param("no/such/folder", ["cow"], "cannot be read", id="no folder"),
    ],
)  # fmt: skip
def test_data_that_cannot_be(data: str, unseen: list[str], problem: str) -> None:
    with pytest.raises(ZeromaskError, match=problem):
        zero_shot_set(data, unseen=unseen)


def test_text_vectors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    vectors: dict[str, Any] = {"cow": np.array([3.0, 4.0]), "traffic light": np.array([0.0, 1.0])}
    np.savez(path, **vectors)
    found, known = read_text_vectors(path, ["cow"]).of([("traffic light",), ("cow",), ("dog",)])
    assert known.tolist() == [True, True, False, False]
    assert found[1].tolist() == pytest.approx([0.6, 0.8])
    with pytest.raises(LearningError, match="'dog': has no vector"):
        read_text_vectors(path, ["cow", "dog"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b"PK\x03\x04 is no archive", "cannot be read", id="no archive"),
        pytest.param({}, "not vectors of one length", id="empty"),
        pytest.param({"a": np.zeros(3), "b": np.zeros(4)}, "not vectors of one length", id="two lengths"),
        pytest.param({"a": np.zeros((3, 2))}, "not vectors of one length", id="a matrix"),
        pytest.param({"a": np.array([1.0, np.nan])}, "all of numbers", id="no number"),
        pytest.param({"a": np.array(["x", "y"])}, "cannot be read", id="words"),
        pytest.param({"a": np.array([{}, []], dtype=object)}, "cannot be read", id="objects"),
    ],
)  # fmt: skip
def test_text_vectors_that_are_none(content: object, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    with pytest.raises(ModelUnavailable, match=problem):
        read_text_vectors(path, [])
