"""Examples generated from the words of labels that nobody has corrected, and what is done where there can be none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from plugin_config.errors import LearningError
from tests.learning_world import KNOWN, corrected_scenes, relabelled
from worker.learning.generator.training import GeneratorConfig
from worker.learning.interfaces import UNLABELLED, Example, Words
from worker.learning.recipes import generated
from worker.learning.recipes.generated import (
    CORRECTED_TOO_SMALL,
    CORRECTED_UNREADABLE,
    EQUAL_VECTORS,
    EVERY_LABEL_CORRECTED,
    NO_MEMORY,
    NOT_TOWARDS_WORDS,
    UNREADABLE,
    VECTORS_PER_LABEL,
    generate_examples,
    labelled_cells,
)
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = replace(generated.CONFIG, steps=20)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture(scope="module")
def two_of_three(segmenter: Segmenter) -> list[Example]:
    """Pictures in which the third label has no region."""
    return relabelled(corrected_scenes(segmenter, 3), (0, 1, UNLABELLED))


def named(examples: Sequence[Example], words: Words) -> list[Example]:
    return [replace(example, words=words) for example in examples]


def test_what_is_generated_is_what_the_words_say(two_of_three: list[Example], segmenter: Segmenter) -> None:
    words: Words = (*KNOWN, ("star",), ("wug",))
    made = generate_examples(named(two_of_three, words), words, segmenter, config=FEW)
    assert made.reason == ""
    assert made.labels.bincount(minlength=5).tolist() == [0, 0, VECTORS_PER_LABEL, VECTORS_PER_LABEL, 0]
    torch.testing.assert_close(made.vectors.norm(dim=1), torch.ones(len(made)))
    found = segmenter.score_vectors(made.vectors, words).logits[:, 0].argmax(dim=0)
    for label in (2, 3):
        assert (found == label)[made.labels == label].float().mean() > 0.5
    assert made.vectors[made.labels == 2].std(dim=0).mean() > 0.01, "they differ"


def test_the_same_corrections_give_the_same(two_of_three: list[Example], segmenter: Segmenter) -> None:
    one, same = (generate_examples(two_of_three, KNOWN, segmenter, config=FEW) for _ in range(2))
    assert torch.equal(one.vectors, same.vectors)


def test_where_nothing_can_be_generated_the_reason_says_why(two_of_three: list[Example], segmenter: Segmenter) -> None:
    red, blue, green = KNOWN
    cases: list[tuple[Words, str]] = [
        ((red, blue), EVERY_LABEL_CORRECTED),
        ((red, blue, ("wug",)), UNREADABLE),
        ((red, blue, ("green wug",)), UNREADABLE),
        ((("wug",), ("dax",), green), CORRECTED_UNREADABLE),
        ((red, blue, ("scarlet shape",)), EQUAL_VECTORS),
    ]
    for words, reason in cases:
        shown = [replace(e, words=words) for e in two_of_three]
        made = generate_examples(shown, words, segmenter, config=FEW)
        assert (len(made), made.reason) == (0, reason)


def test_where_features_lie_away_from_their_words_nothing_is_generated(
    two_of_three: list[Example], segmenter: Segmenter
) -> None:
    away = [replace(e, embedding=replace(e.embedding, features=-e.embedding.features)) for e in two_of_three]
    assert generate_examples(away, KNOWN, segmenter, config=FEW).reason == NOT_TOWARDS_WORDS


def test_one_corrected_label_is_enough(two_of_three: list[Example], segmenter: Segmenter) -> None:
    one = relabelled(two_of_three, (0, UNLABELLED, UNLABELLED))
    made = generate_examples(one, KNOWN, segmenter, config=FEW)
    assert set(made.labels.tolist()) == {1, 2}


def test_a_generator_that_cannot_learn_stands_aside(
    two_of_three: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise LearningError("generator", "the mmd loss of step 1 is no number", "Lower the learning rates.")

    monkeypatch.setattr(generated, "train_generator", fails)
    made = generate_examples(two_of_three, KNOWN, segmenter, config=GeneratorConfig())
    assert len(made) == 0
    assert "no number" in made.reason


def test_a_corrected_label_without_a_cell_is_not_taken_for_one_nobody_corrected(
    two_of_three: list[Example], segmenter: Segmenter
) -> None:
    """The grid has a cell for one row of pixels of two, at most."""
    words: Words = (*KNOWN, ("star",))
    red = relabelled(two_of_three, (0, UNLABELLED, UNLABELLED))
    for row in (60, 61):
        thin = [e.truth.copy() for e in red]
        thin[0][row, 80] = 1
        shown = named([replace(e, truth=truth) for e, truth in zip(red, thin, strict=True)], words)
        if 1 not in labelled_cells(shown, words)[1]:
            break
    else:
        pytest.fail("a dot has a cell wherever it lies")
    assert set(generate_examples(shown, words, segmenter, config=FEW).labels.tolist()) == {2, 3}
    same: Words = (*KNOWN, ("azure shape",), ("star",))  # the fourth means the same as the dot's
    shown = named(shown, same)
    assert set(generate_examples(shown, same, segmenter, config=FEW).labels.tolist()) == {2, 4}
    alone = [replace(e, truth=np.where(e.truth == 0, UNLABELLED, e.truth)) for e in shown]
    assert generate_examples(alone, same, segmenter, config=FEW).reason == CORRECTED_TOO_SMALL


def test_of_very_many_labels_some_are_drawn(
    two_of_three: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "MOST_LABELS", 4)
    monkeypatch.setattr(generated, "MOST_VECTORS", 403)
    colours = ("red", "blue", "green", "yellow", "orange", "purple", "brown")
    words: Words = (*KNOWN[:2], *((f"{colour} star",) for colour in colours))
    shown = named(two_of_three, words)
    made, same = (generate_examples(shown, words, segmenter, config=FEW) for _ in range(2))
    counts = made.labels.bincount()
    assert counts[counts > 0].tolist() == [100] * 4
    assert torch.equal(made.labels, same.labels)


def test_too_little_memory_for_the_generator_is_a_reason(
    two_of_three: list[Example], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def train(*arguments: object) -> None:
            raise error

        return train

    texts = "can't allocate memory", "cannot allocate 8 GB", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"
    for error in (MemoryError(), *map(RuntimeError, texts)):
        monkeypatch.setattr(generated, "train_generator", fails(error))
        assert generate_examples(two_of_three, KNOWN, segmenter, config=FEW).reason == NO_MEMORY
    monkeypatch.setattr(generated, "train_generator", fails(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate_examples(two_of_three, KNOWN, segmenter, config=FEW)


def test_cells_are_read_without_what_is_void(two_of_three: list[Example], monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = labelled_cells(two_of_three[:1], KNOWN)
    assert set(labels.tolist()) == {UNLABELLED, 0, 1}
    assert len(vectors) == len(labels) == two_of_three[0].embedding.features[..., 0].numel()
    void = [replace(e, truth=e.truth * 0 + VOID) for e in two_of_three]
    assert not len(labelled_cells(void, KNOWN)[0])
    monkeypatch.setattr(generated, "_MOST_CELLS", 300)
    assert len(labelled_cells(two_of_three, KNOWN)[0]) == 300
