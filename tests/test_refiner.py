"""The hook for models that redraw masks: what they are prompted with, when a mask is accepted, how one is found."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import ModelUnavailable, SettingsError
from plugin_config.vocabulary import Label, Vocabulary
from tests.grabcut import GrabCut
from worker.lab.evaluation.fit_assembly import wanted_of
from worker.lab.evaluation.panoptic_scenes import PanopticScene, panoptic_scene
from worker.lab.metrics import iou_table
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.assembly import assemble
from worker.segmentation.instances.refiner import Redrawn, accept, build_prompt, load_refiner, refine_things
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]
BACKGROUND = 12


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(np.zeros((80, 120), np.uint8), (x, y), radius, 1, -1) > 0)


def coarse_classes(asked: PanopticScene, *, blocks: int = 24) -> NDArray[np.int16]:
    """The true classes, drawn with a brush as wide as a 24th of the picture's height."""
    height, width = asked.scene.instances.shape
    classes = np.full((height, width), BACKGROUND, dtype=np.int16)
    for segment in asked.truth:
        classes[segment.mask] = segment.index
    side = height // blocks
    rows, columns = (np.minimum(np.arange(length) // side * side + side // 2, length - 1) for length in (height, width))
    return np.asarray(classes[rows][:, columns])


def test_a_real_refiner_repairs_coarse_masks_and_makes_no_overlap() -> None:
    before: list[float] = []
    after: list[float] = []
    refiner = GrabCut()
    for number in range(8):
        asked = panoptic_scene(7, number, touching=False)
        confidence = np.full(asked.scene.instances.shape, 0.9, dtype=np.float32)
        found = assemble(coarse_classes(asked), confidence, wanted_of(asked), asked.scene.image)
        redrawn = refine_things(found, confidence, asked.scene.image, refiner)
        assert np.sum([segment.mask for segment in redrawn], axis=0).max() == 1
        assert [segment.index for segment in redrawn] == [segment.index for segment in found]
        things = [k for k, segment in enumerate(found) if not segment.stuff]
        before += iou_table([found[k] for k in things], asked.truth).max(axis=1).tolist()
        after += iou_table([redrawn[k] for k in things], asked.truth).max(axis=1).tolist()
    gains = np.array(after) - before
    assert refiner.looked == 8
    assert gains.mean() > 0.03, (np.mean(before), np.mean(after))
    assert (gains < -0.02).mean() < 0.1


MINE = disc(50, 40, 20)


@pytest.mark.parametrize(
    ("redrawn", "others", "taken"),
    [
        pytest.param(Redrawn(disc(51, 40, 21), 0.9), [], True, id="nearly the same, and sure"),
        pytest.param(Redrawn(disc(51, 40, 21), 0.79), [], False, id="unsure of itself"),
        pytest.param(Redrawn(disc(90, 40, 20), 0.99), [], False, id="another thing"),
        pytest.param(Redrawn(disc(50, 40, 40), 0.99), [], False, id="the whole"),
        pytest.param(Redrawn(disc(50, 40, 10), 0.99), [], False, id="a part"),
        pytest.param(Redrawn(np.zeros_like(MINE), 0.99), [], False, id="nothing"),
        pytest.param(Redrawn(np.ones((3, 3), dtype=np.bool_), 0.99), [], False, id="another size"),
        pytest.param(Redrawn(disc(51, 40, 22), 0.9), [disc(76, 40, 6)], True, id="touches another thing"),
        pytest.param(Redrawn(disc(52, 40, 22), 0.9), [disc(62, 40, 9)], False, id="lies on another thing"),
    ],
)
def test_when_a_redrawn_mask_is_accepted(redrawn: Redrawn, others: list[Mask], taken: bool) -> None:
    found = accept(MINE, redrawn, others)
    overlaps = [] if found is None else [bool((found & other).any()) for other in others]
    assert (found is not None, any(overlaps)) == (taken, False)


def test_a_prompt_tells_where_the_thing_is() -> None:
    mask = disc(50, 40, 20) | disc(100, 40, 8)
    prompt = build_prompt(mask, np.full(mask.shape, 0.9, np.float32))
    assert list(prompt.box) == [30.0, 20.0, 109.0, 61.0]
    assert np.array_equal(prompt.logits > 0, mask)
    assert float(prompt.logits[40, 50]) == pytest.approx(np.log(9), abs=1e-3)
    assert 1 <= len(prompt.points) <= 3
    assert all(mask[int(y), int(x)] for x, y in prompt.points)
    assert np.abs(prompt.points[0] - (50.5, 40.5)).max() <= 1.5


def test_the_segmenter_asks_its_refiner_and_only_with_a_picture() -> None:
    image = np.full((144, 192, 3), (128, 128, 120), dtype=np.uint8)
    image[40:100, 60:120] = (215, 40, 40)
    refiner = GrabCut()
    segmenter = Segmenter(Encoder("builtin", device="cpu"), refiner=refiner)
    vocabulary = Vocabulary((Label("red", ("red shape",), "b", "i", "image", "brush"),))
    embedding = segmenter.embed([image])[0]
    looked = []
    for picture in (None, image):
        assert len(segmenter.segment(embedding, vocabulary, picture).segments) == 1
        looked.append(refiner.looked)
    assert looked == [0, 1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers two refiners, one of which does not load."""
    info = tmp_path / "redrawers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redrawers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[zeromask.refiners]\ngrabcut = tests.grabcut:GrabCut\nbroken = tests.nowhere:Nothing\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])


@pytest.mark.usefixtures("installed")
def test_a_refiner_is_found_by_its_name_among_installed_packages() -> None:
    found = load_refiner("grabcut", device="cuda:1")
    assert isinstance(found, GrabCut)
    assert found.device == "cuda:1"


@pytest.mark.usefixtures("installed")
def test_one_that_does_not_load_is_an_error_that_names_it() -> None:
    with pytest.raises(ModelUnavailable, match="'broken': does not load"):
        load_refiner("broken")


def test_none_is_the_default_and_an_unknown_one_an_error_with_a_remedy() -> None:
    assert load_refiner("") is None
    with pytest.raises(SettingsError) as caught:
        load_refiner("sam9")
    assert "ZEROMASK_REFINER" in str(caught.value)
    assert "zeromask.refiners" in caught.value.remedy
