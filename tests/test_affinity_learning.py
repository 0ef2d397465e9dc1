"""The affinity tower as a second photograph tower of the quick recipe, and what is said where it is missing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from plugin_config.errors import LearningError
from plugin_config.versions.manifests import VerdictRecord, VersionFolder
from tests.test_versions import OWNER
from worker.learning.adapter_files import load_adapter_folder, save_adapter_folder
from worker.learning.interfaces import AFFINITY_TOWER, UNLABELLED, AdapterState, Example
from worker.learning.recipes.quick.features import AFFINITY_COMPONENTS, TOWER_COMPONENTS
from worker.learning.recipes.quick.recipe import QuickAdapter, QuickRecipe
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.self_supervised_vit import SelfSupervisedViT
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import load_adapter, save_adapter

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "vit_tiny_patch16_224"
WORDS = (("wug",),)
REAL = "TEST_AFFINITY_TOWER"


def segmenter_with(tower: str) -> Segmenter:
    return Segmenter(Encoder("builtin", device="cpu", affinity_tower=tower, readout="value"))


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two real ViTs of timm with random weights in files."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        path = tmp_path_factory.mktemp("tower") / "weights.pt"
        torch.save(timm.create_model(NAME, num_classes=0).state_dict(), path)
        found.append(f"{NAME}:{path}")
    return found


@pytest.fixture(scope="module")
def segmenter(towers: list[str]) -> Segmenter:
    return segmenter_with(towers[0])


def example(segmenter: Segmenter, key: str, *, left: int) -> Example:
    """A bright square on noise."""
    image = np.random.default_rng(left).integers(0, 120, (96, 128, 3), dtype=np.uint8)
    image[24:72, left : left + 48] += 120
    truth = np.full((96, 128), UNLABELLED, dtype=np.int16)
    truth[24:72, left : left + 48] = 0
    return Example(key, image, segmenter.embed([image])[0], WORDS, truth)


@pytest.fixture(scope="module")
def examples(segmenter: Segmenter) -> list[Example]:
    return [example(segmenter, f"{left}", left=left) for left in (8, 60)]


@pytest.fixture(scope="module")
def adapter(segmenter: Segmenter, examples: list[Example]) -> QuickAdapter:
    return QuickRecipe(views=4).fit(examples, WORDS, segmenter)


def test_both_towers_are_used_and_either_can_be_left_out(
    segmenter: Segmenter, examples: list[Example], adapter: QuickAdapter
) -> None:
    assert adapter.extractor.tower_columns == sum(TOWER_COMPONENTS) + AFFINITY_COMPONENTS
    for part, columns in (("tower", AFFINITY_COMPONENTS), ("affinity", sum(TOWER_COMPONENTS))):
        alone = QuickRecipe(views=4, without=(part,)).fit(examples, WORDS, segmenter)
        assert alone.extractor.tower_columns == columns
        scored = alone.scores(segmenter.score(examples[0].embedding, WORDS, examples[0].image))
        assert bool(scored.logits[:, 0, 0].isfinite().all())


def test_its_forward_is_that_of_the_embedding(
    segmenter: Segmenter, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One forward for readout, outlines and learning: neither a fit nor a prediction runs the tower again."""

    def run_again(*_: object) -> None:
        raise AssertionError("the tower ran again")

    monkeypatch.setattr(SelfSupervisedViT, "features", run_again)
    fitted = QuickRecipe(views=4).fit(examples, WORDS, segmenter)
    shown = segmenter.score(examples[0].embedding, WORDS, examples[0].image)
    assert segmenter.pixel_classes(shown, fitted)[0].shape == (96, 128)


def test_its_features_decide(segmenter: Segmenter, adapter: QuickAdapter, examples: list[Example]) -> None:
    one = examples[0]
    affinity = one.embedding.affinity
    assert affinity is not None
    turned = replace(one.embedding, affinity=affinity.flip(0))
    own, other = (adapter.scores(segmenter.score(embedding, WORDS, one.image)).logits
                  for embedding in (one.embedding, turned))  # fmt: skip
    assert not torch.allclose(own, other, atol=1e-3)


def test_a_stored_adapter_names_its_tower_and_says_the_same(
    segmenter: Segmenter, adapter: QuickAdapter, examples: list[Example]
) -> None:
    state = adapter.state()
    tower = segmenter.encoder.affinity_tower
    assert tower is not None
    assert state.about[AFFINITY_TOWER] == [NAME, tower.fingerprint]
    again = QuickRecipe().load(state, segmenter)
    shown = segmenter.score(examples[0].embedding, WORDS, examples[0].image)
    assert torch.equal(again.scores(shown).logits, adapter.scores(shown).logits)
    unnamed = {key: value for key, value in state.about.items() if key != AFFINITY_TOWER}
    with pytest.raises(LearningError, match="its state is incomplete"):
        QuickRecipe().load(AdapterState(state.recipe, state.tensors, unnamed), segmenter)


def test_without_a_tower_none_is_named() -> None:
    segmenter = segmenter_with("")
    fitted = QuickRecipe(views=4).fit([example(segmenter, "1", left=8)], WORDS, segmenter)
    assert AFFINITY_TOWER not in fitted.state().about
    assert fitted.extractor.affinity is None


def test_an_adapter_whose_tower_is_missing_says_what_to_set(
    tmp_path: Path, towers: list[str], segmenter: Segmenter, adapter: QuickAdapter
) -> None:
    save_adapter_folder(tmp_path / "folder", adapter, segmenter, {})
    versions = VersionFolder(str(tmp_path / "versions"), OWNER)
    verdict = VerdictRecord(True, "promoted", {})
    name = save_adapter(versions, adapter, newest=0, weights=segmenter.encoder.fingerprint, base="zeroshot",
                        digest="d", learned_from=("8",), verdict=verdict).name  # fmt: skip
    assert load_adapter(versions, name, segmenter)[0].name == name
    missing = rf"needs the affinity tower {NAME}, and none is set\. Set ZEROMASK_AFFINITY_TOWER={NAME} "
    for other, message in (("", missing), (towers[1], f"needs the affinity tower {NAME} with other weights than the")):
        with pytest.raises(LearningError, match=message):
            load_adapter(versions, name, segmenter_with(other))
        with pytest.raises(LearningError, match=message):
            load_adapter_folder(tmp_path / "folder", segmenter_with(other))


def test_an_image_embedded_without_the_tower_is_refused(segmenter: Segmenter, adapter: QuickAdapter) -> None:
    one = example(segmenter_with(""), "1", left=8)
    with pytest.raises(LearningError, match="Set ZEROMASK_AFFINITY_TOWER"):
        adapter.scores(segmenter.score(one.embedding, WORDS, one.image))


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no vit_small_patch14_dinov2:FILE")
def test_real_weights_tell_textures_of_one_colour_apart() -> None:
    """Left upright stripes, right lying ones: real features are more alike within a side than across."""
    image = np.zeros((196, 280, 3), dtype=np.uint8)
    image[:, 0:140:8] = image[:, 1:140:8] = image[:, 2:140:8] = image[:, 3:140:8] = 200
    for row in range(4):
        image[row::8, 140:] = 200
    encoder = Encoder("builtin", device="cpu", affinity_tower=os.environ[REAL])
    found = encoder.embed_images([image])[0].affinity
    assert found is not None
    assert found.shape == (26, 37, 384)
    left, right = (side.reshape(-1, 384).mean(dim=0) for side in (found[4:-4, 4:14], found[4:-4, -14:-4]))
    within = float(torch.stack([left.norm(), right.norm()]).min()) ** 2  # mean cosine of two patches of a side
    assert within > float(left @ right) + 0.1
