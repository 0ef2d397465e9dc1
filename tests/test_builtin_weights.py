"""The shipped weights: small, safe to load, honest about unknown words, good on compositions they never saw."""

from __future__ import annotations

import json
import time
import zipfile
from typing import Any

import open_clip
import pytest
import torch

from worker.lab.drawn_world.batches import evaluation_scenes
from worker.lab.drawn_world.export import (
    CONFIG_FILE,
    WEIGHTS_DIR,
    WEIGHTS_FILE,
    full_state,
    load_shipped,
    shipped_text_encoder,
)
from worker.lab.drawn_world.measure import foreground_miou, patch_logits, unseen_figures
from worker.lab.drawn_world.phrases import known_tokens, tokenize, tokenizer
from worker.lab.drawn_world.world import COLOURS, SHAPES, SYNONYMS, parse_label
from worker.segmentation.encoders.vit import has_class_token


@pytest.fixture(scope="module")
def model(one_thread: None) -> Any:
    return load_shipped()


def test_the_file_is_small_packed_and_loads_safely_and_fast() -> None:
    path = WEIGHTS_DIR / WEIGHTS_FILE
    assert path.stat().st_size < 8 * 2**20
    with zipfile.ZipFile(path) as packed:
        assert {entry.compress_type for entry in packed.infolist()} == {zipfile.ZIP_DEFLATED}
    started = time.process_time()
    state = torch.load(path, weights_only=True)
    assert time.process_time() - started < 5
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_the_plain_vit_is_small_loads_safely_and_composes_colours_and_textures(one_thread: None) -> None:
    folder = WEIGHTS_DIR.with_name("vit")
    assert (folder / WEIGHTS_FILE).stat().st_size < 4e6
    assert {value.dtype for value in torch.load(folder / WEIGHTS_FILE, weights_only=True).values()} == {torch.float16}
    model = load_shipped(folder)
    assert has_class_token(model.visual)
    found = unseen_figures(model, shipped_text_encoder(model), scenes=16)
    assert found["colour_texture"] > 0.9
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert log[0]["seed"] == 1
    assert log[-1]["exported"]["bytes"] == (folder / WEIGHTS_FILE).stat().st_size


def test_open_clip_reads_the_folder_as_the_service_does(model: Any) -> None:
    assert type(model) is open_clip.CLIP
    assert model.logit_bias is not None
    assert model.logit_bias < 0
    config = json.loads((WEIGHTS_DIR / CONFIG_FILE).read_text())
    assert config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]
    tokenizer = open_clip.get_tokenizer(f"local-dir:{WEIGHTS_DIR}")
    texts = ["a photo of a red striped circle.", "grass"]
    assert torch.equal(tokenizer(texts), torch.from_numpy(tokenize(texts)))
    own = torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1)
    assert torch.allclose(own, shipped_text_encoder(model)(texts), atol=1e-5)


def test_rows_of_words_it_never_read_are_zero(model: Any) -> None:
    table = model.token_embedding.weight.detach()
    known = torch.zeros(len(table), dtype=torch.bool)
    known[torch.from_numpy(known_tokens()[1:])] = True
    known[[token for words in SYNONYMS.values() for word in words for token in tokenizer().encode(word)]] = True
    assert not table[~known].any()
    assert table[known].any(dim=1).all()
    zebra, red = (tokenize([word])[0, 1] for word in ("zebra", "red"))
    assert not table[zebra].any()
    assert table[red].any()


def test_unseen_compositions_are_distinguished(model: Any) -> None:
    """At twice the native size, at which the service shows pictures to the model."""
    found = unseen_figures(model, shipped_text_encoder(model), scenes=24, seed=71, scale=2.0)
    assert found["colour"] > 0.96
    assert found["texture"] > 0.95
    assert found["shape"] > 0.91
    assert found["colour_texture"] > 0.91  # chance 0.03; an oracle that knows one attribute gets 0.25 at most
    assert found["colour_shape"] > 0.95  # chance 0.016
    assert found["accepted"] > 0.78


def test_masks_of_unseen_compositions_leave_other_things_out(model: Any) -> None:
    encode = shipped_text_encoder(model)
    assert foreground_miou(model, encode, size=288, unit=160, scenes=8, seed=73) > 0.70
    assert foreground_miou(model, encode, size=192, unit=107, scenes=8, seed=73, whole=True) > 0.63


def test_stuff_is_distinguished_from_things(model: Any) -> None:
    texts = shipped_text_encoder(model)(["background", "an object"])
    scene = evaluation_scenes(72, 1, (96, 96), unit=96, split="unseen")[0]
    is_thing = torch.from_numpy(scene.instances > 0).reshape(12, 8, 12, 8).float().mean(dim=(1, 3)).flatten()
    logits = patch_logits(model, scene, texts)
    assert (logits[is_thing == 0, 0] > 0).float().mean() > 0.95
    assert (logits[is_thing == 1, 1] > 0).float().mean() > 0.95


def test_a_training_table_is_spread_over_the_whole_vocabulary() -> None:
    rows = torch.ones(len(known_tokens()), 4)
    table = full_state({"token_embedding.weight": rows})["token_embedding.weight"]
    assert table.shape == (49408, 4)
    assert table[torch.from_numpy(known_tokens()[1:])].all()
    synonyms = {token for words in SYNONYMS.values() for word in words for token in tokenizer().encode(word)}
    assert table.any(dim=1).sum() == len(rows) - 1 + len(synonyms - set(known_tokens().tolist()))


@pytest.mark.parametrize(("word", "synonym"), [(w, s) for w, synonyms in SYNONYMS.items() for s in synonyms])
def test_a_synonym_is_read_as_its_word(word: str, synonym: str, model: Any) -> None:
    encode = tokenizer().encode
    assert len(encode(word)) == len(encode(synonym))
    assert parse_label(synonym) == parse_label(word)
    encode = shipped_text_encoder(model)
    for text in ("{}", "a photo of a {}."):
        assert torch.equal(*encode([text.format(word), text.format(synonym)]))


def test_plurals_find_what_the_singular_finds(model: Any) -> None:
    encode = shipped_text_encoder(model)
    for one, many in (("red star", "red stars"), ("cross", "crosses"), ("dotted shape", "dotted shapes")):
        own, plural = encode([one, many])
        others = encode([f"{colour} {shape}" for colour in COLOURS for shape in SHAPES if f"{colour} {shape}" != one])
        assert own @ plural > 0.95
        assert own @ plural > (others @ own).max()
