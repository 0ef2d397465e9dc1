"""Pictures and words -> masks: embedding, text, heads, and what is never computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from plugin_config.errors import LearningError
from plugin_config.vocabulary import Label, Vocabulary
from tests.models import TINY, noise, write_config
from worker.lab.drawn_world.annotation_set import annotation_scene
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import Encoder, ImageEmbedding
from worker.segmentation.heads import ImageScores, zero_shot_logits
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, POSTERIORS, Method, pixel_classes
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text.encoder import TextClasses, TextEncoder


class CountingEncoder(Encoder):
    """The builtin model, and how much it was asked to embed."""

    def __init__(self) -> None:
        super().__init__("builtin", device="cpu")
        self.texts, self.images = 0, 0

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.texts += len(texts)
        return super().embed_texts(texts)

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
        self.images += len(images)
        return super().embed_images(images)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
def segmenter(encoder: CountingEncoder) -> Segmenter:
    return Segmenter(encoder)


SIZES = [(1, 1), (1, 200), (10, 1000), (1000, 10), (64, 64), (333, 77), (97, 640)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_is_embedded_patch_by_patch(size: tuple[int, int], encoder: CountingEncoder) -> None:
    embedding = encoder.embed_images([noise(*size)])[0]
    rows, columns, _ = embedding.features.shape
    assert embedding.size == size
    assert min(rows, columns) == encoder.short_side // encoder.patch
    aspect = min(4.0, max(size) / min(size))
    assert max(rows, columns) == pytest.approx(min(rows, columns) * aspect, abs=0.51)
    assert (rows >= columns) == (size[0] >= size[1])
    torch.testing.assert_close(embedding.features.norm(dim=-1), torch.ones(rows, columns))


@pytest.mark.parametrize("short_side", [1, 7, 16, 100])
def test_any_short_side_is_served(short_side: int) -> None:
    encoder = Encoder("builtin", device="cpu", short_side=short_side)
    found = encoder.embed_images([noise(30, 90)])[0]
    assert min(found.features.shape[:2]) == max(1, round(short_side / encoder.patch))


def test_a_mixed_batch_is_what_its_images_are_one_by_one(encoder: CountingEncoder) -> None:
    images = [noise(60, 80, seed=1), noise(80, 60, seed=2), noise(60, 80, seed=3), noise(10, 100, seed=4)]
    for together, image in zip(encoder.embed_images(images), images, strict=True):
        alone = encoder.embed_images([image])[0]
        assert together.size == alone.size == image.shape[:2]
        torch.testing.assert_close(together.features, alone.features, rtol=0, atol=1e-4)


def test_embedding_again_gives_the_same(encoder: CountingEncoder) -> None:
    image = noise(50, 70)
    assert torch.equal(encoder.embed_images([image])[0].features, encoder.embed_images([image])[0].features)


def test_features_speak_for_their_place(encoder: CountingEncoder) -> None:
    """Rows from the top: what changes at the bottom right changes the features there most."""
    image = np.full((128, 128, 3), 128, dtype=np.uint8)
    changed = image.copy()
    changed[96:, 96:] = (220, 30, 30)
    before, after = (found.features for found in encoder.embed_images([image, changed]))
    moved = (before - after).norm(dim=-1)
    row, column = divmod(int(moved.argmax()), moved.shape[1])
    assert (row / moved.shape[0], column / moved.shape[1]) >= (0.6, 0.6)


def test_a_text_is_encoded_once_in_its_life(encoder: CountingEncoder) -> None:
    texts = TextEncoder(encoder, templates=("{}", "a {}"))
    before = encoder.texts
    texts.classes([("red shape",), ("blue shape", "red shape")])
    assert encoder.texts - before == 4
    texts.classes([("blue shape",), ("red shape",)])
    assert encoder.texts - before == 4


def test_many_texts_are_encoded_in_bounded_parts(encoder: CountingEncoder) -> None:
    words = [f"red shape {number}" for number in range(300)]
    together = encoder.embed_texts(words)
    assert together.shape[0] == 300
    torch.testing.assert_close(together[[0, 299]], encoder.embed_texts([words[0], words[299]]), rtol=0, atol=1e-5)


FOLK = (("red shape",), ("blue striped shape", "azure shape"), ("green shape",))


@pytest.mark.parametrize(
    "classes",
    [FOLK[::-1], (*FOLK, ("yellow shape",)), (*FOLK, FOLK[0]), FOLK[:1], tuple((f"{i}",) for i in range(60)) + FOLK],
    ids=["other order", "one more", "one twice", "alone", "among many"],
)
def test_a_labels_logits_do_not_depend_on_the_other_labels(
    classes: tuple[tuple[str, ...], ...], encoder: CountingEncoder
) -> None:
    features = encoder.embed_images([noise(40, 40)])[0].features

    def logits(of: Sequence[Sequence[str]]) -> torch.Tensor:
        return zero_shot_logits(features, TextEncoder(encoder).classes([*of, ("background",)]), scale=50.0, bias=-5.0)

    whole, other = logits(FOLK), logits(classes)
    for row, texts in enumerate(classes):
        if texts in FOLK:
            torch.testing.assert_close(other[row], whole[FOLK.index(texts)], rtol=0, atol=1e-3)


def test_a_label_scores_as_the_best_of_its_texts() -> None:
    features = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    classes = TextClasses(rows, torch.tensor([0, 0, 1, 2]), torch.ones(3, dtype=torch.bool))
    found = zero_shot_logits(features, classes, scale=10.0, bias=None)
    each = 10 * torch.einsum("hwd,nd->nhw", features, rows)
    torch.testing.assert_close(found, torch.stack([each[:2].amax(0), each[2], each[3]]))


def test_a_bias_lets_the_background_win_where_all_classes_say_no() -> None:
    features = F.normalize(torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    rows = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    classes = TextClasses(rows, torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool))
    plain = zero_shot_logits(features, classes, scale=10.0, bias=None)
    biased = zero_shot_logits(features, classes, scale=10.0, bias=-4.0)
    torch.testing.assert_close(biased[:2], plain[:2] - 4)
    assert not biased[2].any()


def test_words_outside_the_builtins_world_are_named(segmenter: Segmenter) -> None:
    vocabulary = vocabulary_of("red shape", "green zebra", "A-Red, striped zeppelin!")
    assert segmenter.unknown_words(vocabulary) == {"green zebra": ["zebra"], "A-Red, striped zeppelin!": ["zeppelin"]}
    assert segmenter.remarks(vocabulary_of("red shape", "green zebra", "wug dax")) == [
        "label 'wug dax': model builtin does not know 'wug' and 'dax'; no masks until learned from corrections",
        "label 'green zebra': model builtin does not know 'zebra'; only the other words are used",
    ]


def test_many_labels_it_cannot_read_are_two_sentences(segmenter: Segmenter) -> None:
    silent = [f"wug{letter * 2}" for letter in "abcdefgh"]
    assert segmenter.remarks(vocabulary_of(*silent, *(f"red {word}" for word in silent[:2]))) == [
        "labels 'wugaa', 'wugbb', 'wugcc', 'wugdd', 'wugee' and 3 more: model builtin does not know 'wugaa', 'wugbb', "
        "'wugcc', 'wugdd', 'wugee' and 3 more; no masks until learned from corrections",
        "labels 'red wugaa' and 'red wugbb': model builtin does not know 'wugaa' and 'wugbb'; only the other words are "
        "used",
    ]


def test_what_was_taught_needs_no_words(segmenter: Segmenter) -> None:
    vocabulary = vocabulary_of("green zebra", "wug", "dax")
    assert segmenter.remarks(vocabulary, [("green zebra",), ("wug",)]) == [
        "label 'dax': model builtin does not know 'dax'; no masks until learned from corrections"
    ]


def test_a_label_the_model_knows_nothing_of_gets_no_pixel_and_takes_none(segmenter: Segmenter) -> None:
    scene = annotation_scene(np.random.default_rng(3), ["red shape"], number=0, size=(120, 160), unit=80)
    embedding = segmenter.embed([scene.image])[0]
    alone = segmenter.segment(embedding, vocabulary_of("red shape"), scene.image)
    beside = segmenter.segment(embedding, vocabulary_of("wug", "red shape", "photo of the dax"), scene.image)
    assert {found.label.key for found in beside.segments} == {"red shape"}
    scores = [[found.score for found in those.segments] for those in (beside, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    for one, other in zip(alone.segments, beside.segments, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_where_no_label_can_be_read_nothing_is_found_and_somebody_should_look(segmenter: Segmenter) -> None:
    scene = annotation_scene(np.random.default_rng(3), ["red shape"], number=0, size=(120, 160), unit=80)
    found = segmenter.segment(segmenter.embed([scene.image])[0], vocabulary_of("wug"), scene.image)
    assert (found.segments, found.score) == ((), 0.0)


class LearnedOthers:
    """A head that has learned labels the project no longer has."""

    refinement: ClassVar[Method] = ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        return image.zero_shot


def test_what_was_learned_of_other_labels_makes_no_unreadable_label_a_sure_nothing(segmenter: Segmenter) -> None:
    vocabulary = vocabulary_of("zeppelin", "wug")
    image = np.zeros((96, 96, 3), dtype=np.uint8)
    image[20:60, 20:60] = (220, 40, 40)
    embedding = segmenter.embed([image])[0]
    found = segmenter.segment(embedding, vocabulary, image, head=LearnedOthers())
    assert (found.segments, found.score) == ((), 0.0)
    readable = segmenter.segment(embedding, vocabulary_of("zeppelin", "yellow star"), image)
    assert (readable.segments, readable.score > 0.5) == ((), True), "the model can say that there is no star"


def test_what_nobody_would_accept_is_not_drawn_and_somebody_should_look(encoder: CountingEncoder) -> None:
    scene = annotation_scene(np.random.default_rng(3), ["red shape", "grass"], number=0, size=(120, 160), unit=80)
    vocabulary = vocabulary_of("red shape", "blue shape", "green star", "grass", "sand")
    all_drawn = Segmenter(encoder, least_score=0.0)
    embedding = all_drawn.embed([scene.image])[0]
    everything = all_drawn.segment(embedding, vocabulary, scene.image)
    scores = sorted(found.score for found in everything.segments)
    assert len(scores) >= 2
    bound = (scores[0] + scores[1]) / 2
    fewer = Segmenter(encoder, least_score=bound).segment(embedding, vocabulary, scene.image)
    assert sorted(found.score for found in fewer.segments) == scores[1:]
    assert (everything.score, fewer.score) == (scores[0], scores[1])
    nothing = Segmenter(encoder, least_score=1.0).segment(embedding, vocabulary, scene.image)
    assert nothing.segments == ()
    assert nothing.score < 0.5, "something is there"


@dataclass
class Finished:
    """Posteriors of a head that has learned: the right half is class 0, to the cell."""

    grid: tuple[int, int]
    refinement: Method

    def scores(self, image: ImageScores) -> ClassScores:
        right = (torch.arange(self.grid[1]) >= self.grid[1] // 2).float().expand(*self.grid)
        return ClassScores.from_logits(torch.stack([right, 1 - right]).clamp_min(1e-6).log())


@pytest.mark.parametrize("refinement", [FINE, POSTERIORS, ADAPTIVE], ids=["fine", "posteriors", "patches"])
@pytest.mark.parametrize("grid", [(96, 128), (10, 14), (20, 60), None], ids=str)
def test_a_head_says_itself_how_its_scores_are_refined(
    grid: tuple[int, int] | None, refinement: Method, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever grid is the finer: windows and long images make patches smaller than a head's cells."""
    scores = segmenter.score(segmenter.embed([noise(120, 160)])[0], [("red shape",)], noise(120, 160))
    grid = grid or scores.zero_shot.grid
    methods: list[Method] = []

    def spied(*arguments: object, method: Method, without: int | None) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        methods.append(method)
        return pixel_classes(*arguments, method=method, without=without)  # type: ignore[arg-type]

    monkeypatch.setattr("worker.segmentation.segmenter.pixel_classes", spied)
    segmenter.pixel_classes(scores, Finished(grid, refinement))
    segmenter.pixel_classes(scores)
    assert methods == [refinement, ADAPTIVE]


def test_one_known_word_is_enough_to_look_for(segmenter: Segmenter) -> None:
    scene = annotation_scene(np.random.default_rng(3), ["red shape"], number=0, size=(120, 160), unit=80)
    found = segmenter.segment(segmenter.embed([scene.image])[0], vocabulary_of("red zebra"), scene.image)
    assert found.segments


def test_real_models_know_every_word(tmp_path: Path) -> None:
    model = open_clip.CLIP(**TINY)
    torch.save(model.state_dict(), write_config(tmp_path, TINY) / "open_clip_pytorch_model.bin")
    encoder = Encoder(f"local-dir:{tmp_path}", device="cpu")
    assert encoder.unknown_words("zebra zeppelin \u732b") == []
    assert encoder.logit_bias is None
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


def label(word: str, *, control: str = "brush", output: str = "brush") -> Label:
    return Label(word, (word,), control=control, to_name="image", image_value="$image", output=output)  # type: ignore[arg-type]


def vocabulary_of(*words: str) -> Vocabulary:
    return Vocabulary(tuple(label(word) for word in words))


def red_square() -> NDArray[np.uint8]:
    image = np.full((144, 192, 3), (128, 128, 120), dtype=np.uint8)
    image[40:100, 60:120] = (215, 40, 40)
    return image


def test_a_label_of_two_controls_is_drawn_by_each(segmenter: Segmenter) -> None:
    twice = Vocabulary((label("red shape"), label("red shape", control="box", output="rectangle")))
    embedding = segmenter.embed([red_square()])[0]
    found = segmenter.segment(embedding, twice).segments
    assert {segment.label.control for segment in found} == {"brush", "box"}
    by_brush, by_box = ([s for s in found if s.label.control == name] for name in ("brush", "box"))
    assert [s.score for s in by_brush] == [s.score for s in by_box]
    alone = segmenter.segment(embedding, vocabulary_of("red shape")).segments
    assert [int(s.mask.sum()) for s in alone] == [int(s.mask.sum()) for s in by_brush]


def test_a_new_label_costs_its_own_text_and_no_pixels(encoder: CountingEncoder) -> None:
    segmenter = Segmenter(encoder)
    embedding = segmenter.embed([red_square()])[0]
    segmenter.segment(embedding, vocabulary_of("red shape"))
    images, texts = encoder.images, encoder.texts
    segmenter.segment(embedding, vocabulary_of("red shape", "blue shape"))
    assert encoder.images == images
    assert encoder.texts - texts == len(segmenter._texts._templates)


def test_an_image_seen_before_is_not_embedded_again(encoder: CountingEncoder) -> None:
    cache = EmbeddingCache(Segmenter(encoder))
    one, two = noise(32, 48, seed=1), noise(32, 48, seed=2)
    before = encoder.images
    first = cache.embed([one, two, one])
    assert encoder.images - before == 2
    assert first[0] is first[2]
    again = cache.embed([two.copy(), one[:]])
    assert encoder.images - before == 2
    assert again == [first[1], first[0]]


def test_the_cache_tells_shapes_of_the_same_bytes_apart(encoder: CountingEncoder) -> None:
    cache = EmbeddingCache(Segmenter(encoder))
    flat = np.zeros((16, 64, 3), dtype=np.uint8)
    found = cache.embed([flat, flat.reshape(64, 16, 3)])
    assert [embedding.size for embedding in found] == [(16, 64), (64, 16)]


@pytest.mark.parametrize(("room", "kept"), [(0.5, 0), (1.0, 1), (2.5, 2)])
def test_the_least_used_embeddings_leave_at_the_limit(room: float, kept: int, encoder: CountingEncoder) -> None:
    images = [noise(64, 64, seed=seed) for seed in range(3)]
    each = encoder.embed_images(images[:1])[0].features.numel() * 4
    cache = EmbeddingCache(Segmenter(encoder), most_bytes=int(room * each))
    assert [found.size for found in cache.embed(images)] == [(64, 64)] * 3
    before = encoder.images
    cache.embed(images[3 - kept :])
    assert encoder.images == before
    cache.embed([images[2 - kept]])
    assert encoder.images == before + 1


def test_what_was_used_last_stays_longest(encoder: CountingEncoder) -> None:
    first, second, third = (noise(64, 64, seed=seed) for seed in range(3))
    room = encoder.embed_images([first])[0].features.numel() * 4 * 2
    cache = EmbeddingCache(Segmenter(encoder), most_bytes=room)
    for image in (first, second, first, third):
        cache.embed([image])
    before = encoder.images
    cache.embed([first])
    assert encoder.images == before
    cache.embed([second])
    assert encoder.images == before + 1


def test_a_segmentation_says_how_sure_it_is(segmenter: Segmenter) -> None:
    embedding = segmenter.embed([red_square()])[0]
    for vocabulary in (vocabulary_of("red shape"), vocabulary_of("blue dotted shape")):
        found = segmenter.segment(embedding, vocabulary)
        assert 0 <= found.score <= 1
        assert all(0 <= segment.score <= 1 for segment in found.segments)
        assert all(segment.mask.shape == (144, 192) for segment in found.segments)


@dataclass
class Odd:
    """A head that gives these logits, or raises this error."""

    given: torch.Tensor | Exception
    refinement: ClassVar[Method] = FINE

    def scores(self, image: ImageScores) -> ClassScores:
        if isinstance(self.given, Exception):
            raise self.given
        return ClassScores.from_logits(self.given)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(torch.full((2, 4, 4), torch.nan), id="NaN"),
        pytest.param(torch.full((2, 4, 4), torch.inf), id="infinite"),
        pytest.param(torch.zeros(3, 4, 4), id="another number of classes"),
        pytest.param(torch.zeros(2, 4), id="no map"),
        pytest.param(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), id="shapes"),
        pytest.param(IndexError("out of range"), id="index"),
    ],
)
def test_a_head_without_usable_scores_is_a_learning_error(
    segmenter: Segmenter, given: torch.Tensor | Exception
) -> None:
    scores = segmenter.score(segmenter.embed([noise(64, 64)])[0], [("red shape",)], noise(64, 64))
    with pytest.raises(LearningError, match="what was learned"):
        segmenter.pixel_classes(scores, Odd(given))


def test_a_head_that_memory_is_short_for_is_no_odd_one(segmenter: Segmenter) -> None:
    scores = segmenter.score(segmenter.embed([noise(64, 64)])[0], [("red shape",)], noise(64, 64))
    with pytest.raises(RuntimeError, match="memory"):
        segmenter.pixel_classes(scores, Odd(RuntimeError("DefaultCPUAllocator: not enough memory")))
