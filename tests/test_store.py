"""What a real recipe learned, written to disk and read back: it predicts the same; other files are refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plugin_config.errors import LearningError
from plugin_config.versions.manifests import VerdictRecord, VersionFolder
from tests.corrections import SQUARES
from tests.house import picture
from tests.learning_house import segmenter_with
from tests.test_versions import OWNER, add
from worker.learning.interfaces import UNLABELLED, Adapter, Example
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import load_adapter, save_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = tuple((label,) for label in SQUARES)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu"))


@pytest.fixture(scope="module")
def example(segmenter: Segmenter) -> Example:
    image = np.array(Image.open(io.BytesIO(picture(top=20))).convert("RGB"))
    truth = np.full(image.shape[:2], UNLABELLED, dtype=np.int16)
    for number, left in enumerate(SQUARES.values()):
        truth[20:67, left : left + 47] = number
    return Example("1", image, segmenter.embed([image])[0], WORDS, truth)


@pytest.fixture(scope="module")
def adapter(segmenter: Segmenter, example: Example) -> Adapter:
    return recipe_named("quick").fit([example], WORDS, segmenter).at_strength(0.5)


def kept(folder: VersionFolder, adapter: Adapter, segmenter: Segmenter) -> str:
    verdict = VerdictRecord(True, "promoted", {})
    return save_adapter(folder, adapter, newest=4, weights=segmenter.encoder.fingerprint, base="zeroshot", digest="d",
                learned_from=("1",), verdict=verdict).name  # fmt: skip


def test_it_says_the_very_same(tmp_path: Path, adapter: Adapter, segmenter: Segmenter, example: Example) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    name = kept(folder, adapter, segmenter)
    assert name.startswith("a5-"), "numbers of versions that are gone are not given again"
    manifest, loaded = load_adapter(folder, name, segmenter)
    assert (manifest.recipe, manifest.learned_from) == ("quick", ("1",))
    scores = segmenter.score(example.embedding, WORDS, example.image)
    expected = adapter.scores(scores).logits
    assert torch.equal(loaded.scores(scores).logits, expected)
    assert not torch.equal(loaded.at_strength(1).scores(scores).logits, expected), "with its strength"


def test_the_same_has_the_same_name_but_for_its_number(
    tmp_path: Path, adapter: Adapter, segmenter: Segmenter
) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    first = kept(folder, adapter, segmenter)
    second = kept(folder, adapter, segmenter)
    assert [name.partition("-")[0] for name in (first, second)] == ["a5", "a6"]
    assert first.partition("-")[2] == second.partition("-")[2]


def test_other_weights_and_strange_bytes_are_refused(tmp_path: Path, adapter: Adapter, segmenter: Segmenter) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    name = kept(folder, adapter, segmenter)
    with pytest.raises(LearningError, match="other weights"):
        load_adapter(folder, name, segmenter_with("0"))
    strange = add(folder, 1)  # whole, and no tensors
    with pytest.raises(LearningError, match="holds no tensors"):
        load_adapter(folder, strange.name, segmenter_with(strange.weights))


def test_weights_are_told_apart(segmenter: Segmenter) -> None:
    other = Encoder("builtin", device="cpu")
    assert other.fingerprint == segmenter.encoder.fingerprint
    changed = Encoder("builtin", device="cpu")
    with torch.no_grad():
        next(iter(changed._model.parameters())).add_(0.001)
    assert changed.fingerprint != other.fingerprint
