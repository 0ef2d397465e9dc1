"""Embeddings on disk: shared by processes, bounded, and never an error."""

from __future__ import annotations

import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.embedding_store import EmbeddingStore
from worker.segmentation.encoders.encoder import ImageEmbedding

MB = 1_000_000
IMAGES = [np.full((8, 9, 3), value, dtype=np.uint8) for value in (1, 2, 3)]


def embedding(value: float, *, affinity: bool = False) -> ImageEmbedding:
    features = F.normalize(torch.full((2, 3, 4), value) + torch.arange(4.0), dim=-1)
    return ImageEmbedding(features, (8, 9), F.normalize(features[..., :2], dim=-1) if affinity else None)


class CountingSegmenter:
    """Embeds an image as what its first pixel says, and counts."""

    def __init__(self, fingerprint: str = "abc") -> None:
        self.encoder = SimpleNamespace(device=torch.device("cpu"), fingerprint=fingerprint, precision=torch.float32)
        self.embedded = 0

    def embed(self, images: Any) -> list[ImageEmbedding]:
        self.embedded += len(images)
        return [embedding(float(image[0, 0, 0])) for image in images]


def cache_of(folder: Path, segmenter: CountingSegmenter, most: int = MB) -> tuple[EmbeddingCache, EmbeddingStore]:
    store = EmbeddingStore(folder, most)
    return EmbeddingCache(cast("Any", segmenter), store=store), store


def test_what_is_kept_comes_back_exactly_and_private(tmp_path: Path) -> None:
    store, made = EmbeddingStore(tmp_path / "e", MB), embedding(1.0, affinity=True)
    store.save("a", made)
    store.flush()
    found = store.load("a")
    assert found is not None and found.affinity is not None and made.affinity is not None
    assert torch.equal(found.features, made.features) and torch.equal(found.affinity, made.affinity)
    assert (found.size, store.load("b")) == ((8, 9), None)
    [file] = (tmp_path / "e").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def _embed_elsewhere(folder: Path, answer: Any) -> None:
    segmenter = CountingSegmenter()
    cache, _ = cache_of(folder, segmenter)
    found = cache.embed(IMAGES[:2])
    answer.put((segmenter.embedded, [row.features.tolist() for row in found]))


def test_two_processes_share_it(tmp_path: Path) -> None:
    cache, store = cache_of(tmp_path, CountingSegmenter())
    made = cache.embed(IMAGES[:2])
    store.flush()
    processes = multiprocessing.get_context("fork")
    answer = processes.Queue()
    other = processes.Process(target=_embed_elsewhere, args=(tmp_path, answer))
    other.start()
    embedded, features = answer.get(timeout=60)
    other.join()
    assert embedded == 0, "the other process has embedded them"
    assert features == [row.features.tolist() for row in made]


def test_only_what_is_missing_is_embedded_and_another_model_shares_nothing(tmp_path: Path) -> None:
    first, store = cache_of(tmp_path, CountingSegmenter())
    first.embed(IMAGES[:1])
    store.flush()
    segmenter = CountingSegmenter()
    second, _ = cache_of(tmp_path, segmenter)
    second.embed([IMAGES[0], IMAGES[1], IMAGES[1]])
    assert segmenter.embedded == 1
    other = CountingSegmenter("another")
    cache_of(tmp_path, other)[0].embed(IMAGES[:1])
    assert other.embedded == 1


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"\x08\0\0\0\0\0\0\0{}      "], ids=["none", "noise", "bare"])
def test_a_damaged_file_is_embedded_again(tmp_path: Path, content: bytes) -> None:
    segmenter = CountingSegmenter()
    cache, store = cache_of(tmp_path, segmenter)
    cache.embed(IMAGES[:1])
    store.flush()
    [file] = tmp_path.iterdir()
    file.write_bytes(content)
    again, store = cache_of(tmp_path, segmenter)
    again.embed(IMAGES[:1])
    assert segmenter.embedded == 2
    store.flush()
    assert store.load(file.stem) is not None


def test_the_folder_is_bounded_and_what_was_used_last_stays(tmp_path: Path) -> None:
    size = embedding(1.0).features.numel() * 4
    store = EmbeddingStore(tmp_path, 10 * size)
    for number in range(12):
        store.save(f"k{number}", embedding(float(number)))
        store.flush()
        for age, file in enumerate(sorted(tmp_path.iterdir(), key=lambda file: int(file.stem[1:]))):
            os.utime(file, (1_000_000 + age, 1_000_000 + age))
        store.load("k0")
    kept = {file.stem for file in tmp_path.iterdir()}
    assert "k0" in kept and "k1" not in kept
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 12 * size + 12 * 300


def test_a_full_disk_means_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    cache, store = cache_of(tmp_path, CountingSegmenter())
    for image in IMAGES:
        assert cache.embed([image])
        store.flush()
    assert list(tmp_path.iterdir()) == []
    assert caplog.text.count("not kept") == 1


def test_a_folder_that_is_away_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "share").write_text("no folder")
    segmenter = CountingSegmenter()
    cache, store = cache_of(tmp_path / "share", segmenter)
    for image in IMAGES:
        assert cache.embed([image])
        store.flush()
    assert segmenter.embedded == len(IMAGES)
    assert caplog.text.count("\n") == caplog.text.count("not kept") == 1


def test_the_folder_is_a_setting_and_no_url(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path))
    assert settings.embeddings_path == tmp_path.resolve() / "embeddings"
    assert replace(settings, embeddings=f"{tmp_path}/share").embeddings_path == tmp_path.resolve() / "share"
    with pytest.raises(SettingsError, match=r"ZEROMASK_EMBEDDINGS: is a URL and no folder"):
        replace(settings, embeddings="s3://bucket/embeddings")


def test_nothing_is_kept_where_it_is_turned_off(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "off", 0)
    store.save("a", embedding(1.0))
    store.flush()
    assert store.load("a") is None
    assert not (tmp_path / "off").exists()
