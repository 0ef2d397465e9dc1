"""Label words -> embeddings: exact without the padding, each label for itself, a background that knows its place."""

from __future__ import annotations

import logging
import resource
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.models import TINY, noise, write_config
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.fingerprints import text_fingerprint
from worker.segmentation.encoders.text_tower import encode_tokens
from worker.segmentation.heads import zero_shot_logits
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.text import encoder as text_encoder
from worker.segmentation.text import store as text_store
from worker.segmentation.text.encoder import BACKGROUND, TEMPLATES, TextClasses, TextEncoder
from worker.segmentation.text.negatives import NEGATIVE_WORDS, head_words, unrelated_negatives
from worker.segmentation.text.store import TextStore

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = ["cat", "a photo of the quite unusually long-named three-toed sloth.", "", "sky " * 200]


class CountingEncoder(Encoder):
    """A small random model that chooses by softmax, and how many prompts it was asked for."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        state = open_clip.CLIP(**TINY).state_dict()
        torch.save(state, write_config(folder, TINY) / "open_clip_pytorch_model.bin")
        super().__init__(f"local-dir:{folder}", device="cpu")
        self.asked: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked += texts
        return super().embed_texts(texts)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CountingEncoder:
    return CountingEncoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def builtin() -> Encoder:
    return Encoder("builtin", device="cpu")


def text_model(**changes: object) -> Any:
    torch.manual_seed(1)
    return open_clip.CLIP(**{**TINY, "text_cfg": {**TINY["text_cfg"], **changes}}).eval().requires_grad_(False)


@pytest.mark.parametrize(
    "changes",
    [{}, {"layers": 3}, {"proj_bias": True}, {"no_causal_mask": True}, {"pool_type": "last"}],
    ids=["plain", "deeper", "projection with bias", "reads both ways", "pools the last place"],
)
def test_leaving_the_padding_out_changes_nothing(changes: dict[str, object]) -> None:
    model = text_model(**changes)
    tokens = open_clip.get_tokenizer("ViT-B-16")(PROMPTS)
    torch.testing.assert_close(encode_tokens(model, tokens), model.encode_text(tokens), rtol=1e-5, atol=1e-5)
    short = tokens[:1]
    torch.testing.assert_close(encode_tokens(model, short), model.encode_text(short), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("changes", "places"), [({}, 3), ({"no_causal_mask": True}, 77)], ids=["plain", "both ways"])
def test_only_what_can_change_the_answer_is_read(changes: dict[str, object], places: int) -> None:
    model, seen = text_model(**changes), []
    model.transformer.register_forward_pre_hook(lambda _, read: seen.append(read[0].shape[1]))
    encode_tokens(model, open_clip.get_tokenizer("ViT-B-16")(["cat"]))
    assert seen == [places]


def test_the_fingerprint_is_of_the_text_half() -> None:
    model = text_model()
    before = text_fingerprint(model)
    model.visual.proj += 1
    assert text_fingerprint(model) == before
    model.ln_final.bias[3] += 1e-6
    assert text_fingerprint(model) != before


FOLK = (("red shape",), ("tree trunk", "bark"), ("green shape",), ("zebra, the striped one",))


@pytest.mark.parametrize(
    "words",
    [FOLK[::-1], (*FOLK, ("oak",)), (("oak",), *FOLK), (*FOLK, FOLK[1]), FOLK[1:2],
     tuple((f"thing {i}",) for i in range(299)) + FOLK],
    ids=["other order", "one more behind", "one more before", "one twice", "alone", "among 300"],
)  # fmt: skip
def test_a_labels_logits_depend_on_its_own_texts_only(
    words: tuple[tuple[str, ...], ...], encoder: CountingEncoder
) -> None:
    features = encoder.embed_images([noise(64, 80)])[0].features

    def cosines(of: Sequence[Sequence[str]]) -> torch.Tensor:
        return zero_shot_logits(features, TextEncoder(encoder).with_background(of), scale=1.0, bias=None)

    whole, other = cosines(FOLK), cosines(words)
    for row, texts in enumerate(words):
        if texts in FOLK:
            torch.testing.assert_close(other[row], whole[FOLK.index(texts)], rtol=0, atol=1e-6)


def test_an_embedding_is_the_same_to_the_last_bit_in_any_company(encoder: CountingEncoder) -> None:
    alone = TextEncoder(encoder).classes([("oak",)]).embeddings[0]
    after = TextEncoder(encoder).classes([("a very long label of many words indeed",), ("elm", "oak")]).embeddings[2]
    assert torch.equal(alone, after)


def test_a_vocabulary_without_labels_has_the_background_alone(encoder: CountingEncoder) -> None:
    """As of a project that only asks about the image as a whole."""
    alone = TextEncoder(encoder).with_background(())
    assert int(alone.owner.max()) == 0
    assert alone.count == 1 and len(alone.embeddings) > 10, "the negatives, all of them"


def test_a_label_more_costs_one_encoding_of_its_templates(encoder: CountingEncoder) -> None:
    texts = TextEncoder(encoder)
    texts.with_background(FOLK)
    encoder.asked.clear()
    texts.with_background([("oak",), *FOLK])
    assert encoder.asked == [template.format("oak") for template in TEMPLATES]
    encoder.asked.clear()
    texts.with_background([*FOLK, ("oak",)])
    assert encoder.asked == []


def test_negatives_speak_for_the_background_alone(encoder: CountingEncoder) -> None:
    plain = TextEncoder(encoder, negatives=()).with_background(FOLK)
    found = TextEncoder(encoder).with_background(FOLK)
    assert plain.count == found.count == len(FOLK) + 1
    assert len(plain.embeddings) == sum(map(len, FOLK)) + 1
    assert len(found.embeddings) > len(plain.embeddings) + 20
    assert torch.equal(found.embeddings[: len(plain.embeddings)], plain.embeddings)
    assert set(found.owner[len(plain.embeddings) :].tolist()) == {len(FOLK)}


@pytest.mark.parametrize(
    ("label", "gone"),
    [
        (("tree",), "tree"), (("Trees",), "tree"), (("plant", "oak tree"), "tree"), (("WINDOWS",), "window"),
        (("wave",), "waves"), (("parking lots",), "parking lot"), (("photo, with some glass",), "glass"),
    ],
)  # fmt: skip
def test_a_label_is_never_suppressed_by_its_own_word(
    label: tuple[str, ...], gone: str, encoder: CountingEncoder
) -> None:
    texts = TextEncoder(encoder)
    negatives = texts._negatives([label])
    assert gone not in negatives
    assert set(negatives) < set(NEGATIVE_WORDS)
    assert set(texts._negatives([("cat",), label])) <= set(negatives)
    assert texts._negatives([label, ("cat",)]) == texts._negatives([("cat",), label])


def test_negative_words_of_labels_are_texts_of_the_background(builtin: Encoder) -> None:
    """Also those that are close to a label, and of a model that gets no others; texts of labels are passed over."""
    texts, words = TextEncoder(builtin, negatives=()), (("red shape",), ("blue shape",))
    plain = texts.with_background(words)
    given = texts.with_background(words, ("green shape", "Blue shape", "wug", "green dotted shape"))
    assert (given.owner == 2).sum() == 3
    assert torch.equal(given.embeddings[:3], plain.embeddings), "labels keep their embeddings"
    assert torch.equal(given.vectors, plain.vectors)


def test_a_negative_that_means_what_a_label_means_is_dropped() -> None:
    """In a space where all texts share most of their direction, as those of real models do."""
    common = torch.zeros(6)
    common[0] = 10.0
    meanings = torch.eye(6)[1:]
    negatives = F.normalize(common + meanings, dim=-1)
    assert float((negatives @ negatives.T).min()) > 0.98
    near_the_second = F.normalize(common + meanings[1] + 0.3 * meanings[3], dim=-1)
    assert unrelated_negatives(negatives, near_the_second[None]).tolist() == [True, False, True, True, True]
    assert unrelated_negatives(negatives, negatives[:0]).all()


def test_the_shipped_negatives_are_words_once_each() -> None:
    assert len(set(NEGATIVE_WORDS)) == len(NEGATIVE_WORDS)
    assert 60 <= len(NEGATIVE_WORDS) <= 100
    assert all(word == word.lower().strip() for word in NEGATIVE_WORDS)
    assert head_words("Glass") == {"glass"}
    assert head_words("two oak trees") == {"two oak tree", "tree"}


def test_a_model_with_a_sigmoid_loss_gets_no_negatives(builtin: Encoder) -> None:
    classes = TextEncoder(builtin).with_background([("red shape",), ("grass",)])
    assert len(classes.embeddings) == 3


def test_texts_the_model_cannot_read_are_left_out_where_others_are_there(builtin: Encoder) -> None:
    texts = TextEncoder(builtin)
    mixed = texts.classes([("red star", "scarlet zeppelin", "red star, the pointed one"), (BACKGROUND,)])
    plain = texts.classes([("red star",), (BACKGROUND,)])
    assert torch.equal(mixed.embeddings, plain.embeddings)
    assert len(texts.classes([("zeppelin", "zebra")]).embeddings) == 2


def test_embeddings_outlive_the_process(encoder: CountingEncoder, tmp_path: Path) -> None:
    first = TextEncoder(encoder, store=TextStore(tmp_path)).with_background(FOLK)
    encoder.asked.clear()
    again = TextEncoder(encoder, store=TextStore(tmp_path))
    assert torch.equal(again.with_background(FOLK).embeddings, first.embeddings)
    assert encoder.asked == []
    again.classes([("oak",)])
    assert encoder.asked == [template.format("oak") for template in TEMPLATES]
    assert len(list(tmp_path.iterdir())) == 1


def test_models_and_templates_keep_their_embeddings_apart(tmp_path: Path) -> None:
    for seed, templates in ((0, TEMPLATES), (1, TEMPLATES), (0, ("{}",))):
        other = CountingEncoder(tmp_path / "model", seed=seed)
        found = TextEncoder(other, store=TextStore(tmp_path / "texts"), templates=templates).classes([("oak",)])
        assert other.asked == [template.format("oak") for template in templates]
        assert torch.equal(found.embeddings, TextEncoder(other, templates=templates).classes([("oak",)]).embeddings)
    assert len(list((tmp_path / "texts").iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: file.write_bytes(b""), id="empty"),
        pytest.param(lambda file: file.write_bytes(b"\xff" * 200), id="garbage"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-7]), id="cut short"),
        pytest.param(lambda file: save_file({"x": torch.zeros(2)}, file), id="something else"),
        pytest.param(lambda file: save_file({"embeddings": torch.ones(1, 16)}, file, {"texts": '["oak"]'}),
                     id="not of unit length"),
        pytest.param(lambda file: save_file({"embeddings": F.normalize(torch.ones(2, 16), dim=1)}, file,
                                                       {"texts": '["oak"]'}), id="more rows than texts"),
        pytest.param(lambda file: save_file({"embeddings": torch.full((1, 16), torch.nan)}, file,
                                                       {"texts": '["oak"]'}), id="not numbers"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_logged_and_replaced(
    damage: Any, encoder: CountingEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = TextEncoder(encoder, store=TextStore(tmp_path)).classes([("oak",)])
    (file,) = tmp_path.iterdir()
    damage(file)
    with caplog.at_level(logging.WARNING):
        found = TextEncoder(encoder, store=TextStore(tmp_path)).classes([("oak",)])
    assert torch.equal(found.embeddings, good.embeddings)
    assert f"text embeddings {file}: cannot be read" in caplog.text
    caplog.clear()
    encoder.asked.clear()
    TextEncoder(encoder, store=TextStore(tmp_path)).classes([("oak",)])
    assert (encoder.asked, caplog.text) == ([], "")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 100 bytes: the write itself fails, half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_the_file_and_nothing_else(
    encoder: CountingEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TextEncoder(encoder, store=TextStore(tmp_path)).classes([("oak",)])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    texts = TextEncoder(encoder, store=TextStore(tmp_path))
    with caplog.at_level(logging.WARNING), full_disk():
        assert len(texts.classes([("elm",), ("ash",)]).embeddings) == 2
        assert len(texts.classes([("fir",)]).embeddings) == 1
    assert caplog.text.count("cannot be saved") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_costs_nothing_else(
    encoder: CountingEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(TextEncoder(encoder, store=TextStore(tmp_path / "file" / "texts")).classes([("oak",)]).embeddings)
    assert "cannot be saved" in caplog.text


def test_the_oldest_texts_and_files_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_store, "_MOST_TEXTS", 3)
    monkeypatch.setattr(text_store, "_MOST_FILES", 2)
    store, row = TextStore(tmp_path), F.normalize(torch.ones(4), dim=0)
    store.save("a", {"one": row, "two": row})
    store.save("a", {"three": row, "four": row})
    assert list(store.load("a")) == ["two", "three", "four"]
    for key in "bcd":
        store.save(key, {"one": row})
        (tmp_path / f"{key}.safetensors").touch()
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["c", "d"]


def test_thousands_of_labels_are_read_between_others(encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a few new labels waits for a part of the many, and not for all of them."""
    texts, real = TextEncoder(encoder, negatives=()), encoder.embed_texts
    began, done = threading.Event(), threading.Event()
    read: list[str] = []

    def embed(prompts: Sequence[str]) -> torch.Tensor:
        read.append(prompts[0])
        if prompts[0] == "many 200":
            done.wait(30)
        began.set()
        return real(prompts)

    monkeypatch.setattr(encoder, "embed_texts", embed)
    many = threading.Thread(target=texts.with_background, args=([(f"many {k}",) for k in range(250)],), daemon=True)
    many.start()
    assert began.wait(30)
    texts.with_background([("few",)])
    done.set()
    many.join(timeout=30)
    assert len(read) == len(set(read)) == 252
    assert read.index("few") < read.index("many 249")


def test_a_vocabulary_is_embedded_once_for_all_threads(
    encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, real = TextEncoder(encoder), encoder.embed_texts
    began, go_on = threading.Event(), threading.Event()

    def embed(prompts: Sequence[str]) -> torch.Tensor:
        began.set()
        go_on.wait(30)
        return real(prompts)

    monkeypatch.setattr(encoder, "embed_texts", embed)
    found: list[TextClasses] = []
    threads = [threading.Thread(target=lambda: found.append(texts.with_background(FOLK))) for _ in range(2)]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert found[0] is found[1] is texts.with_background([list(words) for words in FOLK])


def test_a_vocabulary_too_large_for_the_cache_is_embedded_all_the_same(
    encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_encoder, "_VOCABULARY_CACHE_BYTES", 100)
    texts = TextEncoder(encoder)
    assert texts.with_background(FOLK).count == len(FOLK) + 1
    assert texts.with_background(FOLK) is not texts.with_background(FOLK)


def test_the_texts_used_longest_ago_leave_memory(encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "_CACHED_TEXTS", 2)
    texts = TextEncoder(encoder, templates=("{}",))
    for word in ("oak", "elm", "oak", "ash"):
        texts.classes([(word,)])
    encoder.asked.clear()
    texts.classes([("oak",), ("ash",)])
    assert encoder.asked == []
    assert torch.equal(texts.classes([("elm", "fir", "oak")]).embeddings[2], texts.classes([("oak",)]).embeddings[0])
    assert encoder.asked[:2] == ["elm", "fir"]


def test_classes_without_a_known_word_are_marked(builtin: Encoder) -> None:
    words = [("red star",), ("zeppelin", "wug"), ("a photo of the zeppelin",), ("zeppelin", "red wug"), ("!",)]
    assert TextEncoder(builtin).classes(words).has_text.tolist() == [True, False, False, True, True]


def test_a_class_has_one_vector_the_mean_of_its_texts_and_the_background_its_first_text() -> None:
    embeddings = F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    classes = TextClasses(embeddings, torch.tensor([0, 1, 1, 2, 2, 2]), torch.tensor([True, True, True]))
    middle = F.normalize(embeddings[1] + embeddings[2], dim=0)
    torch.testing.assert_close(classes.vectors, torch.stack([embeddings[0], middle, embeddings[3]]))


def test_an_image_comes_with_the_vectors_of_its_classes(builtin: Encoder) -> None:
    segmenter = Segmenter(builtin)
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    words = (("red circle", "scarlet circle"), ("grass",))
    scores = segmenter.score(segmenter.embed([image])[0], words, image)
    assert scores.classes.vectors.shape == (3, 128)
    assert torch.equal(scores.classes.vectors, segmenter.classes(words).vectors)
