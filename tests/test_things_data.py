"""Drawn things with their own pixels: alike for the same seed, balanced, and without an unseen thing in training."""

from __future__ import annotations

import numpy as np

from worker.lab.drawn_world.world import STUFF, parse_label
from worker.lab.things_data import PanopticImage, segmented_image, segmented_images, things_set
from worker.segmentation.metrics import VOID


def test_a_scene_is_a_function_of_seed_and_number() -> None:
    one, same, other = (things_set(scenes=6, seed=seed) for seed in (3, 3, 4))
    alone = things_set(scenes=6, seed=3).training[5]  # asked for without the five before it
    assert np.array_equal(list(one.training)[5].image, alone.image)
    assert np.array_equal(one.training[2].instances, same.training[2].instances)
    assert not np.array_equal(one.training[2].image, other.training[2].image)
    assert np.array_equal(one.test[2].image, other.test[2].image)  # everybody is judged on the same
    assert not np.array_equal(one.training[2].image, one.test[2].image)


def test_a_sixth_of_the_things_is_unseen() -> None:
    data = things_set(scenes=1)
    assert (len(data.labels), len(data.things), len(data.unseen), len(data.seen)) == (40, 36, 6, 34)
    assert all(parse_label(label).is_unseen for label in data.unseen_labels)
    assert not any(parse_label(data.labels[k]).is_unseen for k in data.seen)
    assert data.labels[36:] == STUFF
    assert (*data.seen_words, *data.unseen_words) != data.words
    assert {*data.seen_words, *data.unseen_words} == {*data.words}


def test_training_shows_no_unseen_thing_and_every_test_label_occurs() -> None:
    data = things_set(scenes=30)
    shown = {int(k) for one in data.training for k in np.unique(one.truth)} - {VOID}
    assert shown == set(data.seen)
    counts = np.zeros(len(data.labels))
    for one in data.test:
        for segment in one.segments:
            counts[segment.index] += 1
    things = counts[: len(data.things)]
    assert things.min() > 0.5 * things.mean()
    assert counts.min() > 0


def test_each_thing_has_one_label_and_stuff_is_whole() -> None:
    data = things_set(scenes=4)
    for one in data.test:
        segments = one.segments
        assert np.array_equal(sum(segment.mask.astype(int) for segment in segments), (one.truth != VOID).astype(int))
        things = [segment for segment in segments if segment.index in data.things]
        assert len(things) == len(np.unique(one.instances)) - 1
        assert all((one.truth[segment.mask] == segment.index).all() for segment in segments)
        stuff = [segment.index for segment in segments if segment.index not in data.things]
        assert len(stuff) == len(set(stuff))


def test_segments_are_learned_as_rows_of_the_seen_labels() -> None:
    data = things_set(scenes=2)
    sample, one = segmented_images(data)[1], data.training[1]
    assert [data.seen[row] for row in sample.classes] == [segment.index for segment in one.segments]
    for number, segment in enumerate(one.segments):
        assert np.array_equal(sample.segments == number, segment.mask)


def test_pixels_of_other_labels_are_void() -> None:
    truth = np.array([[0, 0, 1, 1, 2]], dtype=np.int16)
    instances = np.array([[1, 1, 2, 3, 0]], dtype=np.int16)
    one = PanopticImage(np.zeros((1, 5, 3), dtype=np.uint8), truth, instances)
    assert segmented_image(one, [2, 1]).segments.tolist() == [[VOID, VOID, 0, 1, 2]]
    assert segmented_image(one, [2, 1]).classes == (1, 1, 0)
    nothing = segmented_image(one, [3])
    assert (nothing.classes, nothing.segments.tolist()) == ((), [[VOID] * 5])
