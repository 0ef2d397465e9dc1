"""The drawing command, run as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from plugin_config.errors import LabelingConfigError
from tests.house import PATIENCE_S
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.drawn_world.draw import draw_set, main
from worker.lab.drawn_world.scenes import label_mask
from worker.lab.drawn_world.world import parse_label

LABELS = ["red striped shape", "green dotted shape", "blue dotted shape", "circle"]


def test_the_command_writes_pictures_truth_and_one_json_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worker.lab.drawn_world.draw", "--output-dir", str(tmp_path), "--pictures", "6"]
    command += ["--seed", "4", "--size", "240", "180", "--labels", ",".join(LABELS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    summary = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert summary["pictures"] == 6
    assert all(count >= 2 for count in summary["shown_in"].values())  # at least a third of the pictures
    assert json.loads((tmp_path / "truth" / "labels.json").read_text())["labels"] == LABELS
    for number in range(1, 7):
        image = cv2.imread(str(tmp_path / "images" / f"scene_{number:04d}.png"))
        truth = cv2.imread(str(tmp_path / "truth" / f"scene_{number:04d}.png"), cv2.IMREAD_UNCHANGED)
        assert image is not None
        assert truth is not None
        assert image.shape == (180, 240, 3)
        assert truth.shape == (180, 240)
        assert truth.max() <= len(LABELS)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_set(tmp_path / name, LABELS, pictures=2, seed=9, size=(120, 160), unit=70)
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_scenes_hold_things_of_the_labels_and_distractors_of_none() -> None:
    concepts = [parse_label(label) for label in LABELS]
    for number in range(12):
        scene = annotation_scene(np.random.default_rng((1, number)), LABELS, number=number, size=(360, 480), unit=200)
        described = [sum(concept.describes(thing) for concept in concepts) for thing in scene.objects]
        assert set(described) <= {0, 1}  # no thing of two labels
        assert 1 <= described.count(0) <= 2
        truth = index_truth(scene, LABELS)
        for k, label in enumerate(LABELS):
            assert np.array_equal(truth == k + 1, label_mask(scene, label))


def test_things_are_large_enough_to_annotate() -> None:
    scene = annotation_scene(np.random.default_rng(1), LABELS, number=0, size=(360, 480), unit=200)
    sides = [np.ptp(np.argwhere(scene.instances == k + 1), axis=0).max() for k in range(len(scene.objects))]
    assert 50 <= np.median(sides) <= 140


@pytest.mark.parametrize(
    "labels",
    [["zebra"], ["red shape", "red object"], ["shape"]],
    ids=["unknown word", "the same things twice", "nothing left for distractors"],
)
def test_labels_that_cannot_be_drawn_are_refused(labels: list[str]) -> None:
    with pytest.raises(LabelingConfigError):
        annotation_scene(np.random.default_rng(1), labels, number=0, size=(96, 96), unit=60)


def test_the_command_names_the_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output-dir", str(tmp_path), "--labels", "red zebra"]) == 1
    assert "no word 'zebra'" in capsys.readouterr().err


def test_the_contact_sheet_is_drawn_on_request(tmp_path: Path) -> None:
    assert main(["--contact-sheet", str(tmp_path / "sheet.png")]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert min(sheet.shape[:2]) > 400
