"""Scoring predicted regions against drawn truth, through the command people run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.errors import ImageUnavailable, JobError
from tests.house import PATIENCE_S
from worker.lab.evaluation.score import component_boxes, main, read_truth, score

WIDTH, HEIGHT = 40, 20


def _rectangle(label: str, left: int, top: int, width: int, height: int) -> dict[str, Any]:
    value = {
        "x": 100 * left / WIDTH,
        "y": 100 * top / HEIGHT,
        "width": 100 * width / WIDTH,
        "height": 100 * height / HEIGHT,
        "rotation": 0,
        "rectanglelabels": [label],
    }
    return _region("rectanglelabels", value)


def _polygon(label: str, corners: list[tuple[float, float]]) -> dict[str, Any]:
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners]
    return _region("polygonlabels", {"points": points, "polygonlabels": [label], "closed": True})


def _region(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    names = {"from_name": "label", "to_name": "image", "id": "r1", "original_width": WIDTH, "original_height": HEIGHT}
    return {"type": kind, "value": value, **names}


def _truth() -> NDArray[np.uint8]:
    truth = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    truth[4:12, 4:14] = 1
    truth[4:12, 24:34] = 2
    return truth


def test_rectangles_are_judged_by_the_boxes_of_the_truth() -> None:
    truth = _truth()
    truth[4:8, 4:9] = 0  # an L-shape has the same box
    result = score(["a", "b"], {"s": truth}, {"s": [_rectangle("a", 4, 4, 10, 8)]})
    assert result["per_label"] == {
        "a": {"iou": 1.0, "kind": "rectangle", "pixels": 60},
        "b": {"iou": 0.0, "kind": "mask", "pixels": 80},
    }
    assert result["mean_iou"] == 0.5


def test_masks_are_judged_by_pixels_pooled_over_pictures() -> None:
    half = _polygon("a", [(4, 4), (9, 4), (9, 12), (4, 12)])
    result = score(
        ["a"], {"s": (_truth() == 1).astype(np.uint8), "t": np.zeros((HEIGHT, WIDTH), np.uint8)}, {"s": [half]}
    )
    assert result["mean_iou"] == pytest.approx(0.5, abs=0.15)  # polygons may include their border
    assert result["pictures"] == 2


def test_background_and_absent_labels_stay_out_of_the_mean() -> None:
    result = score(["background", "a", "never"], {"s": (_truth() == 1).astype(np.uint8) * 2}, {})
    assert result["mean_iou"] == 0.0
    assert result["per_label"]["never"]["iou"] is None  # type: ignore[index]


def test_labels_the_truth_does_not_have_are_listed() -> None:
    result = score(["a"], {"s": _truth()}, {"s": [_rectangle("zebra", 0, 0, 4, 4)]})
    assert result["ignored_labels"] == ["zebra"]


def test_predictions_of_an_unknown_picture_are_refused() -> None:
    with pytest.raises(JobError, match="no truth for t"):
        score(["a"], {"s": _truth()}, {"t": []})


def test_boxes_are_drawn_per_component() -> None:
    boxes = component_boxes(_truth() > 0)
    assert boxes.sum() == 160
    assert not boxes[:, 18].any()


def test_a_folder_without_truth_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ImageUnavailable, match=r"worker\.lab\.drawn_world\.draw"):
        read_truth(tmp_path)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    for name, array in (("images", np.full((HEIGHT, WIDTH, 3), 90, np.uint8)), ("truth", _truth())):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "scene_0001.png"), array)
    (tmp_path / "truth" / "labels.json").write_text(json.dumps({"labels": ["a", "b"]}))
    regions = {"scene_0001": [_rectangle("a", 4, 4, 10, 8), _rectangle("b", 24, 4, 10, 4)]}
    (tmp_path / "predictions.json").write_text(json.dumps(regions))
    return tmp_path


def test_the_command_prints_one_json_line_and_paints_the_overlay(drawn: Path) -> None:
    command = [sys.executable, "-m", "worker.lab.evaluation.score", "--truth", str(drawn / "truth"), "--json"]
    command += ["--predictions", str(drawn / "predictions.json"), "--overlay", str(drawn / "overlay.png")]
    command += ["--colours", json.dumps({"a": "#f00"})]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    result = json.loads(done.stdout)
    assert result["per_label"]["a"]["iou"] == 1.0
    assert result["per_label"]["b"]["iou"] == 0.5
    assert result["mean_iou"] == 0.75
    overlay = cv2.imread(str(drawn / "overlay.png"))
    assert overlay is not None
    assert (overlay[:, :WIDTH] == 90).all(axis=(1, 2)).sum() == HEIGHT, "the picture as it is"
    assert (overlay[:, WIDTH:] == (0, 0, 255)).all(axis=2).any(), "the outline in the label's colour, BGR"


@pytest.mark.parametrize("colours", ["[1]", '{"a": "reddish"}', "{"], ids=str)
def test_the_command_names_a_wrong_colour(drawn: Path, capsys: pytest.CaptureFixture[str], colours: str) -> None:
    with pytest.raises(SystemExit):
        main(["--truth", str(drawn / "truth"), "--predictions", str(drawn / "predictions.json"), "--colours", colours])
    assert "--colours: give a JSON object of CSS colours" in capsys.readouterr().err


def test_the_command_names_a_broken_file(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (drawn / "predictions.json").write_text("[1]")
    assert main(["--truth", str(drawn / "truth"), "--predictions", str(drawn / "predictions.json")]) == 1
    assert "not a mapping" in capsys.readouterr().err
