"""The protocol of learning on photographs: reading a set, its figures, and a run on drawn photographs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from plugin_config.errors import ImageUnavailable
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.evaluate import main
from worker.lab.evaluation.labelled_set import read_labelled_set
from worker.lab.evaluation.loop import LearningLoop, scores_of
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.metrics import VOID
from worker.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = ["red shape", "blue shape"]
NAMES = ("wug", "some_dax")
"""What the labels are called, so that the model knows nothing of them."""


def write_set(folder: Path, *, train: int, test: int, background: bool = True) -> Path:
    """Drawn photographs in the layout that the protocol reads; without background, what is left is a label too."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for number in range(train + test):
        drawn = annotation_scene(np.random.default_rng((9, number)), LABELS, number=number, size=(96, 128), unit=80)
        mask = index_truth(drawn, LABELS)
        mask[:4] = 255
        cv2.imwrite(str(folder / "images" / f"p{number}.png"), drawn.image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"p{number}.png"), mask)
    first = "__Background__" if background else "ground"
    names = {"0": first, "1": NAMES[0], "2": NAMES[1], "255": "void"}
    stems = [f"p{number}" for number in range(train + test)]
    (folder / "classes.json").write_text(json.dumps(names))
    (folder / "split.json").write_text(json.dumps({"train": stems[:train], "test": stems[train:]}))
    return folder


def read_png(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.uint8)


def test_the_loop_pays_and_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", train=2, test=3)
    asked = ["--photos", str(folder), "--learn", "train", "--test", "test", "--model", "builtin", "--counts", "1", "99"]
    pictures = tmp_path / "pictures"
    assert main([*asked, "--orders", "1", "--json", "--output-dir", str(pictures)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((pictures / "learning.json").read_text())
    assert (pictures / "learning.svg").read_text().count("<path") > 3
    sheet = read_png(pictures / "learning.png")
    assert sheet.shape[1] == 3 * 128
    assert sheet.shape[0] > 3 * 96
    before, after, drawn = np.split(sheet[: 3 * 96].astype(int), 3, axis=1)
    assert np.abs(after - drawn).mean() < np.abs(before - drawn).mean()
    assert set(printed) == {"zero_shot", "learning_curve"}
    assert set(printed["learning_curve"]) == {"1", "2"}  # there are no 99
    for point in printed["learning_curve"].values():
        assert len(point["orders"]) == len(point["promoted"]) == 1
        assert point["miou"] == pytest.approx(np.mean(point["orders"]), abs=1e-4)
        assert point["refit_seconds"] > 0
        assert set(point["per_label"]) == {"wug", "some dax", "background"}
    assert printed["learning_curve"]["2"]["miou"] > printed["zero_shot"]["miou"] + 0.2
    assert any(printed["learning_curve"][count]["promoted"] for count in "12")


def test_least_certain_first_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", train=3, test=1, background=False)
    asked = ["--photos", str(folder), "--learn", "train", "--test", "test", "--model", "builtin", "--counts", "1", "2"]
    asked += ["--order", "active", "--no-gate", "--size", "64", "48", "--without", "shape", "retrieval"]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["photographs", "none", "1", "2"]


def test_things_are_found_one_by_one_after_learning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", train=2, test=2)
    asked = ["--photos", str(folder), "--learn", "train", "--test", "test", "--model", "builtin", "--instances"]
    assert main([*asked, "--shots", "2"]) == 2
    assert "instances" in capsys.readouterr().err, "there are none yet"
    (folder / "instances").mkdir()
    for number in range(4):
        drawn = annotation_scene(np.random.default_rng((9, number)), LABELS, number=number, size=(96, 128), unit=80)
        cv2.imwrite(str(folder / "instances" / f"p{number}.png"), drawn.instances.astype(np.uint8))
    assert main([*asked, "--shots", "2", "--orders", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == found["shots"] == 2
    assert set(found["per_label"]) <= {"wug", "some dax"}
    assert found["ap50"] == pytest.approx(np.mean([row["ap50"] for row in found["per_label"].values()]), abs=1e-4)
    assert [row["ap50"] for row in found["orders"]] == [found["ap50"]]
    assert 0.4 < found["ap"] <= found["ap50"] <= 1
    assert 0.4 < found["pq"] <= 1
    assert sorted(found["orders"][0]["learned"]) == ["p0", "p1"]
    assert main([*asked, "--counts", "1", "2"]) == 2
    assert "--shots" in capsys.readouterr().err


def test_models_are_judged_under_the_settings_of_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_set(tmp_path / "set", train=1, test=1)
    monkeypatch.setenv("ZEROMASK_READOUT", "proxy")  # which needs a tower
    monkeypatch.setenv("MODEL", "no-such-model")  # what is given goes ahead
    asked = ["--photos", str(folder), "--learn", "train", "--test", "test", "--model", "builtin"]
    assert main(asked) == 2
    assert "readout proxy" in capsys.readouterr().err


def test_an_affinity_tower_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_set(tmp_path / "set", train=1, test=1)
    asked = ["--photos", str(folder), "--learn", "train", "--test", "test", "--model", "builtin"]
    assert main([*asked, "--tower", "no-such-tower"]) == 2
    assert "tower no-such-tower" in capsys.readouterr().err


def test_the_least_certain_are_those_with_the_lowest_score(tmp_path: Path) -> None:
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    found = read_labelled_set(write_set(tmp_path / "set", train=5, test=1), ["train", "test"], None)
    loop = LearningLoop(segmenter, found, learn="train", test="test")
    order = loop.least_certain([4, 2, 0, 1, 3], None)
    scores = [loop.score(index, None) for index in order]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert scores == sorted(scores)
    assert loop.random_order(3) == np.random.RandomState(3).permutation(5).tolist()


def test_a_set_is_read_as_annotators_would_have_made_it(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "with", train=1, test=1)
    found = read_labelled_set(folder, ["train"], (64, 48))
    photo = found.parts["train"][0]
    assert found.words == (("wug",), ("some dax",))
    assert found.has_background
    assert photo.image.shape == (96, 128, 3), "it is looked at as it is"
    assert photo.truth.shape == (96, 128)
    np.testing.assert_array_equal(photo.judged, photo.truth[1::2, 1::2])
    assert set(np.unique(photo.truth).tolist()) <= {VOID, UNLABELLED, 0, 1}
    assert (photo.truth[0] == VOID).all()
    everywhere = read_labelled_set(write_set(tmp_path / "without", train=1, test=1, background=False), ["test"], None)
    assert everywhere.words == (("ground",), ("wug",), ("some dax",))
    assert not everywhere.has_background
    assert (everywhere.parts["test"][0].truth[4:] >= 0).all()


def test_what_is_no_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--photos", str(tmp_path), "--learn", "train", "--test", "test", "--model", "builtin"]
    assert main(asked) == 2
    assert "classes.json" in capsys.readouterr().err
    folder = write_set(tmp_path / "set", train=1, test=1)
    with pytest.raises(ImageUnavailable, match="no photographs in 'later'"):
        read_labelled_set(folder, ["later"], None)
    (folder / "masks" / "p0.png").unlink()
    with pytest.raises(ImageUnavailable, match="photograph p0"):
        read_labelled_set(folder, ["train"], None)
    assert main([*asked[:1], str(folder), *asked[2:], "--counts", "0"]) == 2
    assert "--counts" in capsys.readouterr().err


def test_iou_counts_classes_that_occur_and_no_void() -> None:
    #                 found: a   b   c  none
    matrix = np.array([[6, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 9]])
    with_background = scores_of(matrix, ["a", "b", "c", "background"])
    assert dict(with_background.per_label) == pytest.approx({"a": 6 / 9, "b": 0.0, "background": 0.9})
    assert with_background.miou == pytest.approx((6 / 9 + 0 + 0.9) / 3)
    assert scores_of(matrix, ["a", "b", "c"]).miou == pytest.approx((6 / 9 + 0) / 2)
