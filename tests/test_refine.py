"""The protocol of outlines: its evidence, its figures of merit, and a run on three drawn photographs."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

from plugin_config.errors import ImageUnavailable
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.evaluate import main
from worker.lab.evaluation.baselines import FULL_DILATIONS, bilinear, guided_filter, oracle_fusion, pamr
from worker.lab.evaluation.photographs import Photograph, emulate_evidence, read_set
from worker.lab.evaluation.refine import OURS, PLAIN, calibrate
from worker.lab.metrics import boundary_f
from worker.segmentation.metrics import VOID, confusion, mean_iou

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ["red plain shape", "blue striped shape"]


def write_set(folder: Path, *, seed: int, pictures: int = 3) -> Path:
    """A set of drawn photographs in the layout that the protocol reads."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(pictures):
        drawn = annotation_scene(
            np.random.default_rng((seed, number)), LABELS, number=number, size=(180, 240), unit=110
        )
        cv2.imwrite(str(folder / "images" / f"p{number}.png"), drawn.image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"p{number}.png"), index_truth(drawn, LABELS))
    names = {str(index): name for index, name in enumerate(["background", *LABELS])}
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "split.json").write_text(json.dumps({"test": [f"p{number}" for number in range(pictures)]}))
    return folder


def test_on_three_drawn_photographs_outlines_beat_upsampling_and_strangers_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write_set(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "other"))]
    written = tmp_path / "out"
    arguments = ["--protocol", "refine", "--photos", *folders, "--levels", "L1", "--json", "--output-dir", str(written)]
    assert main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    by_name = {(row["set"], row["refiner"]): row for row in rows}
    for name in ("one", "other"):
        plain, ours = by_name[name, PLAIN], by_name[name, OURS]
        assert (plain["gain"], plain["miou"]) == (0, pytest.approx(0.8, abs=0.03))
        assert ours["gain"] > 0.1
        assert ours["worst"] > 0
        assert ours["miou"] > plain["miou"]
        assert ours["stranger"] < 0.25 * ours["gain"]
    assert json.loads((written / "refine.json").read_text())["rows"] == rows
    assert ET.parse(written / "refine.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_without_matplotlib_the_figures_are_written_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder, written = write_set(tmp_path / "one", seed=3, pictures=2), tmp_path / "out"
    arguments = ["--protocol", "refine", "--photos", str(folder), "--levels", "L1", "--json", "--output-dir"]
    assert main([*arguments, str(written)]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == json.loads((written / "refine.json").read_text())
    assert "pip install" in shown.err
    assert not (written / "refine.svg").exists()


def test_the_table_names_every_refiner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "one", seed=3, pictures=1)
    weights = tmp_path / "tower.pt"
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), weights)
    arguments = ["--protocol", "refine", "--photos", str(folder), "--levels", "L1", "--ablations"]
    assert main([*arguments, "--tower", f"vit_tiny_patch16_224:{weights}"]) == 0
    shown = capsys.readouterr().out
    with_tower = (f"{OURS}, with the tower", "eigenvectors of tokens", "eigenvectors of keys")
    for name in (PLAIN, OURS, "PAMR", "guided filter", "no eigenvectors", "oracle (sees the truth)", *with_tower):
        assert name in shown


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--protocol", "refine", "--photos", str(tmp_path)]) == 2
    assert "classes.json" in capsys.readouterr().err
    with pytest.raises(ImageUnavailable, match="holds no photograph"):
        read_set(write_set(tmp_path / "empty", seed=1, pictures=0), "test", 20)


def test_evidence_is_shares_of_patches_and_noise_of_unit_variance() -> None:
    truth = np.zeros((300, 400), dtype=np.int64)
    truth[:, 200:] = 1
    truth[:20] = VOID
    evidence = emulate_evidence(Photograph("half", np.zeros((300, 400, 3), np.uint8), truth, (0, 1)), seed=1)
    assert evidence.shares.shape == (2, 28, 37)
    assert evidence.shares[0, 10, 3] == pytest.approx(1, abs=0.01) == evidence.shares[1, 10, 33]
    assert 0.3 < evidence.noise.std() < 1.7
    torch.testing.assert_close(evidence.logits(0.0), torch.from_numpy(10 * evidence.shares))


def test_noise_is_chosen_so_that_upsampling_has_the_miou_aimed_at(tmp_path: Path) -> None:
    photos = read_set(write_set(tmp_path / "one", seed=2), "test", 20)
    seen = [emulate_evidence(photo, seed=seed) for seed, photo in enumerate(photos)]
    sigma = calibrate(photos, seen, 0.7, 0.02)
    total = np.zeros((3, 3), dtype=np.int64)
    for photo, evidence in zip(photos, seen, strict=True):
        total += confusion(photo.truth, bilinear(evidence.logits(sigma), photo.image).argmax(0).numpy(), 3)
    assert mean_iou(total) == pytest.approx(0.7, abs=0.02)


def square(left: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    found = np.zeros((60, 60), dtype=np.int64)
    found[20:40, left : left + 20] = 1
    return found


@pytest.mark.parametrize(("shift", "lowest", "highest"), [(0, 1, 1), (2, 1, 1), (4, 0.3, 0.7), (30, 0, 0.3)])
def test_boundary_f_forgives_two_pixels(shift: int, lowest: float, highest: float) -> None:
    assert lowest <= boundary_f(square(10 + shift), square(10), 2, radius=2) <= highest


def test_void_pixels_are_not_judged() -> None:
    truth = square(10)
    truth[:, 30:] = VOID
    guess = square(10)
    guess[:, 35:] = 1
    assert boundary_f(guess, truth, 2, radius=2) == pytest.approx(1, abs=0.05)
    assert mean_iou(confusion(truth, guess, 2)) == 1


PAMR_AS_PUBLISHED = partial(pamr, step=1, dilations=FULL_DILATIONS)


@pytest.mark.parametrize("baseline", [guided_filter, pamr, PAMR_AS_PUBLISHED], ids=["guided", "pamr", "pamr, full"])
def test_baselines_follow_a_clear_edge(baseline: object) -> None:
    truth = square(17)
    image = np.where(truth[..., None] == 1, (200, 40, 40), (40, 160, 60)).astype(np.uint8)
    whole = torch.nn.functional.one_hot(torch.from_numpy(truth), 2).permute(2, 0, 1).float()
    coarse = 10 * torch.nn.functional.avg_pool2d(whole[None], 10)[0]
    plain = bilinear(coarse, image).argmax(0).numpy()
    found = baseline(coarse, image).argmax(0).numpy()  # type: ignore[operator]
    assert (found != truth).sum() < 0.5 * (plain != truth).sum()


def test_the_oracle_takes_the_mask_that_the_truth_likes_best() -> None:
    truth, shifted = square(10), square(14)
    logits = 5 * torch.nn.functional.one_hot(torch.from_numpy(shifted), 2).permute(2, 0, 1).float()
    masks = np.stack([square(30) == 1, truth == 1])
    assert (oracle_fusion(logits, masks, truth) == truth).all()
    assert (oracle_fusion(logits, masks[:1], truth) == shifted).all()
